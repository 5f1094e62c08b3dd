"""How well do sums of measured operations predict the latency of whole networks?

    python -m benchmarks.latency | tee benchmarks/results/latency.txt          # some minutes on one core

For every space of images a table is measured (`isnas.networks.latency`), and then random networks, one sample each, by
the same protocol, on a CPU in seconds of the processor. Given are the relative errors and Kendall's tau of the sums.
"""

from __future__ import annotations

import argparse
from statistics import median

import torch

from experiments._command import positive
from isnas import spaces
from isnas.codes.choices import Choices
from isnas.comparison.statistics import rank_correlation
from isnas.networks.folding import extract
from isnas.networks.latency import LatencyTable, network_seconds
from isnas.networks.registry import family
from isnas.runtime.devices import cpu_threads, resolve_device
from isnas.searches.limits import WHOLE

from ._measure import clock, origin, run

SPACES = {"darts": {"cells": 8}, "nasbench201": {"cells": 2}, "chain": {}, "macro": {}}
"""The spaces and the depths of their networks."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--channels", type=positive, default=16)
    parser.add_argument("--side", type=positive, default=32, help="of the images, in pixels")
    parser.add_argument("--networks", type=positive, default=20, help="of each space")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = resolve_device(given.device)
    size = (given.side, given.side)

    def now() -> float:
        return clock(device)

    print(origin("latency"))
    with cpu_threads(given.threads):
        for name, shape in SPACES.items():
            space = spaces.get(name)
            options = family(space).options
            if "channels" in options.__dataclass_fields__:
                shape = {**shape, "channels": given.channels}
            supernet = family(space).build_supernet(space, options(**shape)).to(device)
            random, choices = torch.Generator().manual_seed(0), Choices(space)
            drawn = [choices.random(random).places(space) for _ in range(WHOLE)]
            table = LatencyTable.measure(supernet, size, drawn, now)
            rows = []
            for _ in range(given.networks):
                places = choices.random(random).places(space)
                whole = network_seconds(extract(supernet, places), size, now)
                rows.append((table.seconds(places), whole))
            errors = [abs(predicted - whole) / whole for predicted, whole in rows]
            print(
                f"{name:12} {1e3 * median(whole for _, whole in rows):7.2f} ms   error: median "
                f"{100 * median(errors):5.1f} %, largest {100 * max(errors):5.1f} %   Kendall's tau "
                f"{rank_correlation(*zip(*rows, strict=True)):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    run(main)
