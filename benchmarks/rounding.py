"""Cost of channels-last weights in accuracy on the CPU: batch norm, gradients, training.

    python -m benchmarks.rounding | tee benchmarks/results/rounding.txt
    python -m benchmarks.rounding --data cifar10 --side 16 --images 2000 --networks 0     # photographs, shrunk

Channels last is faster on the CPU (``layout.py``), but PyTorch's batch norm then adds up its statistics in float32, one
image row after the other, where it adds in float64 otherwise. Three questions, each for both layouts:

1. How large are the errors of a batch norm in training, against float64?
2. How large are those of the gradients of a one-stage super-net, of its weights and of its codes? Largest of three
   batches. Beside them stands, in float64, what changing all weights by 1e-5 of themselves does, about as much as the
   errors of batch norm (a gradient jumps where a ReLU or a maximum changes sides), and what another batch does: the
   noise in which a search finds its way anyhow.
3. What becomes of one-stage training, and of training a fixed network? All runs of a seed begin with the same weights,
   codes and batches. A third one has the contiguous layout, but initial weights changed by 1e-6 of themselves: what any
   rounding does to a training, which is sensitive to its beginning. Only what is larger than that is the layout's.
   Nodes freeze when their solution has moved by `--freeze-threshold` at most, or at the end of the search: a threshold
   that some of them pass before it shows what the layout does to freezing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from experiments._command import positive
from experiments._statistics import interval_text, mean_interval
from experiments.efficiency import random_images
from isnas import DARTS_SPACE, GENOTYPES
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.runs.evaluation import evaluation_schema, from_scratch
from isnas.runs.loop import Stage, drive
from isnas.runs.training import Training
from isnas.runtime.devices import cpu_threads
from isnas.searches.one_stage import OneStageTraining
from isnas.searches.registry import create_search
from isnas.tasks.images import Dataset, load_dataset
from isnas.tasks.registry import task_of

from ._measure import origin, run

FORMATS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
NORMS = ((64, 8), (64, 32), (256, 32))
"""Batch and side of the batch norms."""
NETWORKS = ((8, 4, 64, 8), (8, 5, 64, 32), (16, 8, 64, 32))
"""Channels, cells, batch and side of the super-nets."""
BATCHES = 3
ARMS = {
    "contiguous": ("contiguous", 0.0),
    "channels last": ("channels-last", 0.0),
    "contiguous, weights changed by 1e-6": ("contiguous", 1e-6),
}
"""Layout and change of the weights of each run of a seed."""
TASK = task_of(DARTS_SPACE)
CPU = torch.device("cpu")


def norm_errors(batch: int, side: int, layout: torch.memory_format) -> list[float]:
    """Return the largest errors of a batch norm's value and of its gradients, relative to their largest entries."""
    generator = torch.Generator().manual_seed(0)
    x, upstream = torch.randn(2, batch, 16, side, side, generator=generator)
    weight, bias = torch.rand(2, 16, generator=generator)

    def results(dtype: torch.dtype) -> tuple[Tensor, ...]:
        images = [each.to(dtype).contiguous(memory_format=layout) for each in (x, upstream)]
        inputs = [each.to(dtype).detach().requires_grad_() for each in (images[0], weight, bias)]
        value = F.batch_norm(inputs[0], None, None, *inputs[1:], training=True)
        return value.detach(), *torch.autograd.grad(value, inputs, images[1])

    return [
        float((mine.double() - right).abs().max() / right.abs().max())
        for mine, right in zip(results(torch.float32), results(torch.float64), strict=True)
    ]


def change_weights(network: nn.Module, by: float) -> None:
    """Multiply each weight by 1 + `by` times a number drawn from the standard normal distribution."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weight.mul_(1 + by * noise)


def one_stage(dataset: Dataset, layout: str, change: float, **options: Any) -> OneStageTraining:
    """Return one-stage training with weights in a layout, and changed."""
    stage = create_search("ista-one-stage", DARTS_SPACE, dataset, CPU, layout=layout, **options)
    change_weights(stage.network, change)
    return stage


def gradients(
    size: tuple[int, ...],
    batch: int,
    layout: str = "contiguous",
    dtype: torch.dtype = torch.float64,
    change: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a super-net's weights and of the codes, for one of some batches."""
    channels, cells, images, side = size
    dataset = random_images(BATCHES * images, side)
    shape = {"channels": channels, "cells": cells, "batch_size": images}
    stage = one_stage(dataset, layout, change, **shape)
    stage.network.to(dtype)
    stage.code.to(dtype)
    x, y = list(stage.batches(0, 0))[batch]
    loss, _ = stage.weights.loss((x.to(dtype), y), stage.code.coefficients())
    loss.backward()
    weights, codes = (
        torch.cat([p.grad.double().flatten() for p in part.parameters() if p.grad is not None])
        for part in (stage.network, stage.code)
    )
    return weights, codes


def distance(mine: Iterable[Tensor], right: Iterable[Tensor]) -> list[float]:
    """Return the norms of the differences, relative to those of the right ones."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(mine, right, strict=True)]


def subset(dataset: Dataset, images: int | None, side: int | None) -> Dataset:
    """Return the data set with so many of its training and test images, at random, shrunk to so many pixels a side."""
    random = torch.Generator().manual_seed(0)
    parts: dict[str, Tensor] = {}
    for split in ("train", "test"):
        labels = getattr(dataset, f"{split}_labels")
        kept = torch.randperm(len(labels), generator=random)[:images]
        pictures = getattr(dataset, f"{split}_images")[kept]
        if side is not None:
            pictures = F.interpolate(pictures.float(), side, mode="area").round().to(torch.uint8)
        parts[f"{split}_labels"] = labels[kept]
        parts[f"{split}_images"] = pictures
    return replace(dataset, **parts)


def trained(stage: Stage) -> Stage:
    """Return a stage after its last epoch."""
    for _ in drive(stage):
        pass
    return stage


def freezing_epoch(stage: OneStageTraining) -> float:
    """Carry out one-stage training, and return the mean number of epochs after which its nodes froze."""
    searching = []
    for _ in drive(stage):
        searching.append(stage.code.frozen.count(False))
    return 1 + sum(searching) / len(stage.code.frozen)


def accuracy(network: nn.Module, dataset: Dataset, recipe: Any) -> float:
    """Return the test accuracy of a network in percent."""
    feed = TASK.test_feed(dataset, recipe.optimizer, CPU)
    return 100 * TASK.test(network, feed)["test_accuracy"]


def training_tables(given: argparse.Namespace) -> str:
    """Return the tables of trainings."""
    dataset = subset(load_dataset(given.data, root=given.data_root), given.images, given.side)
    shape = {"channels": given.channels, "cells": given.cells, "batch_size": given.batch_size}
    searched: dict[str, list[OneStageTraining]] = {name: [] for name in ARMS}
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    frozen: dict[str, list[float]] = {name: [] for name in ARMS}
    alone: dict[str, list[float]] = {name: [] for name in ARMS}
    for seed in tqdm(range(given.seeds), disable=None):
        for name, (layout, change) in ARMS.items():
            epochs = {"epochs": given.epochs, "search_epochs": given.search_epochs, "seed": seed}
            freezing = {"freeze_threshold": given.freeze_threshold}
            stage = one_stage(dataset, layout, change, **shape, **epochs, **freezing)
            frozen[name].append(freezing_epoch(stage))
            found[name].append(accuracy(stage.trained_network(), dataset, stage.options))
            searched[name].append(stage)
            epochs = {"epochs": given.search_epochs + given.epochs, "seed": seed}
            recipe = evaluation_schema(DARTS_SPACE).compose(layout=layout, **shape, **epochs)
            network = from_scratch(GENOTYPES["ISTA_twostage"], recipe, TASK, dataset)
            change_weights(network, change)
            stage = trained(Training(network, recipe, TASK, dataset, CPU))
            alone[name].append(accuracy(stage.network, dataset, recipe))
    lines = []
    for name in ARMS:
        line = [name]
        for of in (found, frozen, alone):
            differences = [a - b for a, b in zip(of[name], of["contiguous"], strict=True)]
            line += [
                mean_and_deviation(of[name]),
                "" if name == "contiguous" else paired(differences),
            ]
        shared = [
            operations_shared(one, other)
            for one, other in zip(searched[name], searched["contiguous"], strict=True)
        ]
        lines.append([*line, f"{mean_and_deviation(shared, 0)} %"])
    header = (
        "training",
        "one-stage, test accuracy (%)",
        "minus contiguous [95 % interval]",
        "epochs until a node froze",
        "minus contiguous [95 % interval]",
        "fixed network, test accuracy (%)",
        "minus contiguous [95 % interval]",
        "operations shared with contiguous",
    )
    return markdown_table(header, lines)


def paired(differences: list[float]) -> str:
    """Return the mean of differences with its interval, where there is more than one."""
    if len(differences) < 2:
        return f"{differences[0]:+.2f}"
    return interval_text(mean_interval(differences), sign=True)


def operations_shared(one: OneStageTraining, other: OneStageTraining) -> float:
    """Return the percentage of a search's places that another one has, too."""
    both = [
        {(kind, place) for kind, kept in each.genotype().places().items() for place in kept}
        for each in (one, other)
    ]
    return 100 * len(both[0] & both[1]) / len(both[0])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=positive, default=4, help="of the trainings")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--side", type=positive, help="that images are shrunk to, in pixels")
    parser.add_argument("--images", type=positive, help="of training, and of the test; or all")
    parser.add_argument("--channels", type=positive, default=8)
    parser.add_argument("--cells", type=positive, default=4)
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--search-epochs", type=positive, default=6)
    parser.add_argument("--epochs", type=positive, default=4, help="after the search")
    parser.add_argument("--freeze-threshold", type=float, default=1e-3)
    parser.add_argument("--networks", type=int, default=len(NETWORKS), help="of question 2")
    given = parser.parse_args()
    print(origin("rounding"))
    with cpu_threads(1):
        lines = [
            (
                name,
                f"{batch} x {side} x {side}",
                *(f"{error:.0e}" for error in norm_errors(batch, side, layout)),
            )
            for batch, side in NORMS
            for name, layout in FORMATS.items()
        ]
        header = ("batch norm", "size", "value", "gradient of x", "of gamma", "of beta")
        print(markdown_table(header, lines))

        lines = []
        for size in NETWORKS[: given.networks]:
            exact = [gradients(size, batch) for batch in range(BATCHES)]
            compared = {
                f"float32, {layout}": [
                    gradients(size, batch, layout, torch.float32) for batch in range(BATCHES)
                ]
                for layout in FORMATS
            }
            compared["float64, weights changed by 1e-5"] = [
                gradients(size, batch, change=1e-5) for batch in range(BATCHES)
            ]
            compared["float64, another batch"] = exact[1:] + exact[:1]
            for name, found in compared.items():
                each = [distance(mine, right) for mine, right in zip(found, exact, strict=True)]
                of_weights, of_codes = (max(errors) for errors in zip(*each, strict=True))
                lines.append((name, str(size), f"{of_weights:.0e}", f"{of_codes:.0e}"))
        header = ("super-net", "channels, cells, batch, side", "gradient of weights", "of codes")
        if lines:
            print(markdown_table(header, lines), flush=True)
        print(training_tables(given))


if __name__ == "__main__":
    run(main)
