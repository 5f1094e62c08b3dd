"""Does it pay to compile the active network with torch.compile? Compile time is counted.

    python -m benchmarks.compilation | tee benchmarks/results/compilation.txt
    python -m benchmarks.compilation --channels 16 --cells 8 --batch-size 256 --mode reduce-overhead     # on a GPU

The active network is the same between two recoveries, so a search would compile it after every recovery that changed
a support; training of a found network once. Printed are the ratio of the steps (forward, backward, update), what
compiling took, and after how many steps it is made up for.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional as F

from isnas import GENOTYPES, build_network
from isnas.runs.training import to_device
from isnas.runtime.devices import check_compiler, cpu_threads, resolve_device

from ._measure import clock, in_turn, origin, ratio, run, size_parser


def main() -> None:
    """Print the table."""
    parser = size_parser(__doc__, 8, 4, 64, 9)
    parser.add_argument("--mode", help="of torch.compile; by default its own")
    given = parser.parse_args()
    device = resolve_device(given.device)
    check_compiler(device)
    x = torch.randn(given.batch_size, 3, given.side, given.side, device=device)
    y = torch.arange(given.batch_size, device=device) % 10

    def step(compiled: bool) -> Callable[[], None]:
        genotype = GENOTYPES["ISTA_twostage"]
        network = build_network(genotype, channels=given.channels, cells=given.cells)
        network = to_device(network, device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        forward = torch.compile(network, mode=given.mode) if compiled else network

        def once() -> None:
            F.cross_entropy(forward(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        return once

    print(origin("compilation"))
    with cpu_threads(given.threads), tempfile.TemporaryDirectory() as cache:
        # what earlier runs have compiled is not to be found
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        steps = {"as it is": step(False), "compiled": step(True)}
        begun = time.perf_counter()
        steps["compiled"]()
        clock(device)  # on a GPU: wait for it
        compiling = time.perf_counter() - begun
        spent = in_turn(steps, given.rounds, device)
    plain, compiled = (median(spent[name]) for name in steps)
    print(f"{ratio(spent['compiled'], spent['as it is']):8.2f}  x the step as it is")
    print(f"{1e3 * plain:8.1f}  ms as it is")
    print(f"{1e3 * compiled:8.1f}  ms compiled")
    print(f"{compiling:8.1f}  s for compiling")
    saved = plain - compiled
    print(f"{compiling / saved:8.0f}  steps to make up for it" if saved > 0 else "   never  pays")


if __name__ == "__main__":
    run(main)
