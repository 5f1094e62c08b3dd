"""Random numbers that depend on names, not on history.

Every random draw of a run (initial weights, data order, augmentation, dropped paths, measurement matrices) comes from a
generator made for it from the run's seed and the names of what is drawn: the epoch and the step among them. So a step
draws the same numbers whether or not the process was interrupted before it, and nothing random needs to be saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed, a hash of `seed` and `names` (BLAKE2b): independent for different names."""
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a new generator on `device` for what `names` say, of the run with this `seed`.

    Examples
    --------
    >>> torch.randperm(4, generator=generator(0, "order", 3)).shape
    torch.Size([4])
    """
    made = torch.Generator(device=device)
    made.manual_seed(seed_of(seed, *names))
    return made


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Seed the global CPU generator inside the block only, for library code that cannot be handed a generator.

    PyTorch's layers draw their initial weights from the global generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, *names))
        yield
