"""Devices: which one is used, whether it can compile, and how many CPU threads work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import UserError
from .processes import local_rank, processes


def resolve_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` is CUDA, else MPS, else the CPU.

    Where several processes work together ``cuda`` is for each the one of its number on its machine.

    Raises
    ------
    UserError
        When there is no such device here.
    """
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available() and processes() == 1
            else "cpu"
        )
    if processes() > 1 and name.startswith(("cuda:", "mps")):
        raise UserError(f"device {name!r} is one for all processes; expected auto, cpu or cuda")
    if processes() > 1 and name == "cuda":
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(
            f"device {name!r} cannot be used here; expected auto, cpu, cuda, cuda:N or mps"
        ) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device must be auto, cpu, cuda, cuda:N or mps, got {name!r}")
    return device


def check_compiler(device: torch.device) -> None:
    """Raise a `UserError` unless torch.compile works for this device; what it needs differs from machine to machine."""
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except Exception as error:  # of many kinds
        raise UserError(
            f"compile: torch.compile does not work here: {str(error).strip().splitlines()[0]}"
        ) from None


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Use so many threads inside the block. Sums, and so all results, depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
