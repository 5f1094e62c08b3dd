"""Is a training step on the CPU faster with channels-last weights? Prints the ratio for some sizes.

    python -m benchmarks.layout | tee benchmarks/results/layout.txt

Both networks are the same but for the layout of their weights; their steps (forward, backward, update) take turns in
one process, timed by the process's CPU time, and the median of the ratios within a round is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional as F

import isnas
from experiments._command import positive

from ._measure import in_turn, origin, ratio, run

SIZES = ((8, 4, 64, 8, 1), (8, 5, 128, 32, 3), (16, 5, 64, 32, 3))


def stepper(layout: torch.memory_format, size: tuple[int, ...]) -> Callable[[], None]:
    """Return a training step of a discrete network."""
    channels, cells, batch, side, colours = size
    genotype = isnas.GENOTYPES["ISTA_twostage"]
    network = isnas.build_network(genotype, channels=channels, cells=cells, in_channels=colours)
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
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--threads", type=positive, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(origin("layout"))
    print("ratio  channels last  contiguous  (ms)  channels cells batch side")
    for size in SIZES:
        layouts = {"last": torch.channels_last, "contiguous": torch.contiguous_format}
        steps = {name: stepper(layout, size) for name, layout in layouts.items()}
        spent = in_turn(steps, given.rounds, torch.device("cpu"))
        last, contiguous = (1e3 * median(spent[name]) for name in layouts)
        less = ratio(spent["last"], spent["contiguous"])
        print(f"{less:5.2f}  {last:13.1f}  {contiguous:10.1f}        {size[:4]}")


if __name__ == "__main__":
    run(main)
