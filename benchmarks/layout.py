"""Is a training step on the CPU faster with channels-last weights? Prints the ratio for some sizes.

    python benchmarks/layout.py

Both networks are the same but for the layout of their weights; their steps (forward, backward, update) alternate in one
process, timed by the process's CPU time, and the median of the pairwise ratios is printed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

import isnas

SIZES = ((8, 4, 64, 8, 1), (8, 5, 128, 32, 3), (16, 5, 64, 32, 3))


def stepper(layout: torch.memory_format, size: tuple[int, ...]) -> Callable[[], None]:
    """Return a training step of a discrete network."""
    channels, cells, batch, side, colours = size
    genotype = isnas.GENOTYPES["ISTA_twostage"]
    network = isnas.build_network(genotype, channels, cells, 10, in_channels=colours)
    network = network.to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(batch, colours, side, side)
    y = torch.arange(batch) % 10

    def step() -> None:
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, CPU")
    print("ratio  channels last  contiguous  (ms)  channels cells batch side")
    for size in SIZES:
        steps = [stepper(layout, size) for layout in (torch.channels_last, torch.contiguous_format)]
        times: list[list[float]] = [[], []]
        for repeat in range(given.repeats + 1):
            for step, spent in zip(steps, times, strict=True):
                begun = time.process_time()
                step()
                if repeat:
                    spent.append(1e3 * (time.process_time() - begun))
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        last, contiguous = map(statistics.median, times)
        print(f"{ratio:5.2f}  {last:13.1f}  {contiguous:10.1f}        {size[:4]}")


if __name__ == "__main__":
    main()
