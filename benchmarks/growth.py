"""Growth of a search step's time and memory with the size of the problem.

    python -m benchmarks.growth --out benchmarks/results/growth
    python -m figures.growth benchmarks/results/growth -o benchmarks/results/growth/growth.svg

Varied one at a time: channels, cells, batch size, the number of candidate operations of an edge, and s, the number of
active operations of a node. Three things take turns: training the discrete network; a step of the search by sparse
coding, which runs s operations of a node; and one that runs all candidates, as DARTS does. A step is the mean of one of
the weights and one of the architecture (of the discrete network: of the weights), on one batch.

The active operations are fixed, so that they are the same whatever the candidates are: from the latest earlier states,
each by a separable convolution 3x3 first and by a skip connection next.

Rows survive an interruption; the same command goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from experiments._command import positive
from isnas import DARTS_SPACE
from isnas.comparison.rows import Rows
from isnas.networks.core import CellNetwork, Coefficients, train_affine
from isnas.networks.folding import extract
from isnas.networks.registry import build_supernet
from isnas.runs.options import RuntimeOptions
from isnas.runs.training import WeightTrainer, to_device
from isnas.runtime.devices import cpu_threads, resolve_device
from isnas.runtime.memory import saved_bytes
from isnas.spaces.base import Place
from isnas.tasks.registry import task_of

from ._measure import in_turn, launched, origin, run

PRIMITIVES = (
    "sep_conv_3x3",
    "skip_connect",
    "dil_conv_3x3",
    "max_pool_3x3",
    "avg_pool_3x3",
    "sep_conv_5x5",
    "dil_conv_5x5",
    "nor_conv_1x1",
    "nor_conv_3x3",
)
"""Candidates, in the order in which they are added."""

CENTRE = {"channels": 8, "cells": 5, "batch_size": 32, "candidates": 7, "s": 2}
VARIED: dict[str, tuple[int, ...]] = {
    "channels": (4, 8, 16, 32),
    "cells": (3, 5, 8, 14),
    "batch_size": (8, 16, 32, 64),
    "candidates": (2, 3, 5, 7, 9),
    "s": (1, 2, 3, 4),
}
METHODS = ("discrete", "sparse", "all candidates")
SIDE = 32
"""Side of the images in pixels."""


class Steps:
    """The steps of one size.

    Parameters
    ----------
    size : dict
        Values of what is varied.
    device : torch.device
    """

    def __init__(self, size: dict[str, int], device: torch.device) -> None:
        space = replace(DARTS_SPACE, primitives=PRIMITIVES[: size["candidates"]])
        shape = {"channels": size["channels"], "cells": size["cells"]}
        self.supernet = to_device(build_supernet(space, **shape, closing_norm="pooling"), device)
        train_affine(self.supernet.cells, False)
        active = {kind: self._active(size["s"]) for kind in space.kinds}
        self.discrete = to_device(extract(self.supernet, active), device)
        train_affine(self.discrete.cells, False)
        of_all = {kind: space.places() for kind in space.kinds}
        self.coefficients = {
            "sparse": self._ones(active, device),
            "all candidates": self._ones(of_all, device),
        }
        task = task_of(space)
        recipe = (task, task.optimizer_options(), RuntimeOptions())
        self.weights = {net: WeightTrainer(net, *recipe) for net in (self.supernet, self.discrete)}
        shape = (size["batch_size"], 3, SIDE, SIDE)
        self.x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        self.y = torch.arange(size["batch_size"], device=device) % 10

    @staticmethod
    def _active(s: int) -> tuple[Place, ...]:
        """Return s places of every node."""
        found = []
        for node in range(DARTS_SPACE.nodes):
            places = [Place(node, source, k) for k in range(2) for source in range(node + 2)[::-1]]
            found += places[:s]
        return tuple(sorted(found))

    @staticmethod
    def _ones(
        places: dict[str, tuple[Place, ...]], device: torch.device
    ) -> dict[str, Coefficients]:
        return {
            kind: Coefficients(torch.ones(len(each), device=device, requires_grad=True), each)
            for kind, each in places.items()
        }

    def _loss(self, network: CellNetwork, coefficients: dict[str, Coefficients] | None) -> Tensor:
        return self.weights[network].loss((self.x, self.y), coefficients)[0]

    def _train(self, network: CellNetwork, coefficients: dict[str, Coefficients] | None) -> None:
        self._loss(network, coefficients).backward()
        self.weights[network].update()

    def choose(self, method: str) -> None:
        """Do the passes of a step of the architecture."""
        coefficients = self.coefficients[method]
        with self.weights[self.supernet].fixed():
            loss = self._loss(self.supernet, coefficients)
        torch.autograd.grad(loss, [part.values for part in coefficients.values()])

    def fixed(self, method: str) -> dict[str, Coefficients]:
        """Return the coefficients of a step of the weights."""
        found = self.coefficients[method]
        return {kind: Coefficients(c.values.detach(), c.places) for kind, c in found.items()}

    def steps(self, method: str) -> list[Callable[[], object]]:
        """Return the steps that are averaged."""
        if method == "discrete":
            return [lambda: self._train(self.discrete, None)]
        return [
            lambda: self.choose(method),
            lambda: self._train(self.supernet, self.fixed(method)),
        ]

    def saved(self, method: str) -> int:
        """Return the bytes that autograd saves in a step of the weights: the most."""
        if method == "discrete":
            network, coefficients = self.discrete, None
        else:
            network, coefficients = self.supernet, self.fixed(method)
        kept = [self.x, self.y, *network.parameters(), *network.buffers()]
        return saved_bytes(lambda: self._loss(network, coefficients), kept)


def measured(size: dict[str, int], rounds: int, device: torch.device) -> dict[str, Any]:
    """Return seconds of a step and bytes saved, by method."""
    steps = Steps(size, device)
    each = {(method, i): step for method in METHODS for i, step in enumerate(steps.steps(method))}
    spent = in_turn(each, rounds, device, warm_up=1)
    seconds: dict[str, float] = {}
    for method in METHODS:
        of_method = [times for (name, _), times in spent.items() if name == method]
        seconds[method] = median(sum(times) / len(times) for times in zip(*of_method, strict=True))
    return {"seconds": seconds, "saved": {method: steps.saved(method) for method in METHODS}}


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/growth", help="directory of the rows")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = resolve_device(given.device)
    settings = {"centre": CENTRE, "side": SIDE, "rounds": given.rounds, "threads": given.threads}
    print(origin("growth"))
    with (
        cpu_threads(given.threads),
        Rows(Path(given.out), ("varied", "value"), settings, launched("growth")) as rows,
    ):
        print("varied         value" + "".join(f"  {name:>14} ms     MiB" for name in METHODS))
        for varied, values in VARIED.items():
            for value in values:
                if not rows.has(varied, value):
                    found = measured({**CENTRE, varied: value}, given.rounds, device)
                    rows.append({"varied": varied, "value": value, **found})
                (row,) = (
                    row for row in rows.rows if (row["varied"], row["value"]) == (varied, value)
                )
                cells = "".join(
                    f"  {1e3 * row['seconds'][name]:>17.1f} {row['saved'][name] / 2**20:>7.1f}"
                    for name in METHODS
                )
                print(f"{varied:<12} {value:>7}{cells}", flush=True)


if __name__ == "__main__":
    run(main)
