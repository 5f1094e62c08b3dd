"""Common parts of the benchmarks of steps: timing things in turn, and a description of the machine."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from experiments._command import positive
from isnas.comparison.rows import launch_record
from isnas.runtime.errors import UserError


def launched(name: str) -> dict[str, Any]:
    """Return the record of this launch of a benchmark, see `isnas.comparison.rows.launch_record`."""
    return launch_record(f"benchmarks.{name}", sys.argv[1:])


def origin(name: str) -> str:
    """Return a line that says what is measured where: command, machine, versions."""
    record = launched(name)
    machine, known = record["machine"], record["versions"]
    return (
        f"`{record['command']}`: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['gpu'] or 'no GPU'}; Python {known['python']}, torch {known['torch']}\n"
    )


def size_parser(
    text: str | None, channels: int, cells: int, batch_size: int, rounds: int
) -> argparse.ArgumentParser:
    """Return a parser of the size of a network, of what it is fed and of how often; these are its defaults."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--channels", type=positive, default=channels)
    parser.add_argument("--cells", type=positive, default=cells)
    parser.add_argument("--batch-size", type=positive, default=batch_size)
    parser.add_argument("--side", type=positive, default=32, help="of the images, in pixels")
    parser.add_argument("--rounds", type=positive, default=rounds)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--device", default="auto")
    return parser


def run(main: Callable[[], None]) -> None:
    """Run a script; a user's mistake is one line and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def clock(device: torch.device) -> float:
    """Return a time in seconds: on the CPU that which the process was given, so that other load counts less."""
    if device.type == "cpu":
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turn(
    steps: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warm_up: int = 2
) -> dict[str, list[float]]:
    """Return the seconds of every step in every round; in a round each is done once, in order.

    Whatever else the machine does so hits all alike, and a ratio is to be taken within a round.
    """
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for number in tqdm(range(warm_up + rounds), leave=False, disable=None):
        for name, step in steps.items():
            begun = clock(device)
            step()
            if number >= warm_up:
                spent[name].append(clock(device) - begun)
    return spent


def ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """Return the median of the ratios within rounds."""
    return median(mine / other for mine, other in zip(seconds, base, strict=True))
