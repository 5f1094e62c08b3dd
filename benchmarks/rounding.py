"""What do channels-last weights cost in accuracy on the CPU? Batch norm, gradients, training, freezing.

    python benchmarks/rounding.py | tee benchmarks/results/rounding.txt      # a quarter of an hour on one core

Channels last is faster on the CPU (``layout.py``), but PyTorch's batch norm then adds up its statistics in float32, one
image row after the other, where it adds in float64 otherwise. Three questions, each for both layouts:

1. How large are the errors of a batch norm in training, against float64?
2. How large are those of the gradients of a one-stage super-net, of its weights and of its codes? Largest of three
   batches. Beside them stands, in float64, what changing all weights by 1e-5 of themselves does, about as much as the
   errors of batch norm (a gradient jumps where a ReLU or a maximum changes sides), and what another batch does: the
   noise in which a search finds its way anyhow.
3. What becomes of one-stage training? All runs of a seed begin with the same weights, codes and batches. A third one
   has the contiguous layout, but initial weights changed by 1e-6 of themselves: what any rounding does to a training,
   which is sensitive to its beginning. Only what is larger than that is the layout's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from _measure import origin, run
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import isnas
from experiments._command import positive
from experiments.efficiency import random_images
from isnas.data import Batches, Dataset, load_dataset
from isnas.engine import drive
from isnas.network import build_supernet
from isnas.one_stage import OneStageTraining
from isnas.options import TrainOptions
from isnas.rows import markdown_table, mean_and_deviation
from isnas.training import network_options, score

LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
NORMS = ((64, 8), (64, 32), (256, 32))  # batch, side
NETWORKS = ((8, 4, 64, 8), (8, 5, 64, 32), (16, 8, 64, 32))  # channels, cells, batch, side
BATCHES = 3
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


def build_stage(
    options: TrainOptions, dataset: Dataset, layout: torch.memory_format
) -> OneStageTraining:
    """Return one-stage training with weights in a layout."""
    shape = network_options(options, dataset, **OneStageTraining.network_changes(options))
    stage = OneStageTraining(build_supernet(shape, seed=options.seed), options, dataset, CPU)
    stage.network.to(memory_format=layout)
    return stage


def change_weights(network: nn.Module, by: float) -> None:
    """Multiply each weight by 1 + `by` times a number drawn from the standard normal distribution."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weight.mul_(1 + by * noise)


def gradients(
    size: tuple[int, ...],
    batch: int,
    layout: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float64,
    change: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a super-net's weights and of the codes, for one of some batches."""
    channels, cells, images, side = size
    options = TrainOptions(channels=channels, cells=cells, batch_size=images, device="cpu")
    stage = build_stage(options, random_images(BATCHES * images, side), layout)
    stage.network.to(dtype)
    stage.code.to(dtype)
    change_weights(stage.network, change)
    x, y = list(stage.batches(0, 0))[batch]
    loss, _ = stage.weights.loss(x.to(dtype), y, stage.code.coefficients())
    loss.backward()
    weights, codes = (
        torch.cat([p.grad.double().flatten() for p in part.parameters() if p.grad is not None])
        for part in (stage.network, stage.code)
    )
    return weights, codes


def distance(mine: Iterable[Tensor], right: Iterable[Tensor]) -> list[float]:
    """Return the norms of the differences, relative to those of the right ones."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(mine, right, strict=True)]


@dataclass(frozen=True)
class Trained:
    """Result of a one-stage training."""

    accuracy: float
    """On the test images, in percent."""
    frozen: tuple[int, ...]
    """The epoch at whose end each node was frozen, counted from 1."""
    genotype: isnas.Genotype


def train(
    options: TrainOptions, dataset: Dataset, layout: torch.memory_format, change: float
) -> Trained:
    """Train with initial weights changed, see `change_weights`."""
    stage = build_stage(options, dataset, layout)
    change_weights(stage.network, change)
    frozen = [1] * len(stage.code.nodes)
    for _ in drive(stage):
        frozen = [
            at if done else at + 1 for at, done in zip(frozen, stage.code.frozen, strict=True)
        ]
    test = Batches(dataset, "test", batch_size=256, device=CPU)
    accuracy = 100 * score(stage.trained_network(), test)["test_accuracy"]
    return Trained(accuracy, tuple(frozen), stage.genotype())


def shared(first: isnas.Genotype, second: isnas.Genotype) -> float:
    """Return the percentage of the first one's operations that the second has at the same places."""
    places = [
        {(kind, place) for kind, kept in each.places(isnas.DARTS_SPACE).items() for place in kept}
        for each in (first, second)
    ]
    return 100 * len(places[0] & places[1]) / len(places[0])


def training_table(options: TrainOptions, seeds: int) -> str:
    """Return the table of trainings."""
    dataset = load_dataset(options.data)
    arms = {
        "contiguous": (torch.contiguous_format, 0.0),
        "channels last": (torch.channels_last, 0.0),
        "contiguous, weights changed by 1e-6": (torch.contiguous_format, 1e-6),
    }
    results: dict[str, list[Trained]] = {name: [] for name in arms}
    for seed in tqdm(range(seeds), disable=None):
        for name, (layout, change) in arms.items():
            results[name].append(train(replace(options, seed=seed), dataset, layout, change))
    base = results["contiguous"]
    lines = []
    for name, trained in results.items():
        pairs = list(zip(trained, base, strict=True))
        settled = [sum(at < options.search_epochs for at in one.frozen) for one in trained]
        line = [
            name,
            mean_and_deviation([one.accuracy for one in trained]),
            mean_and_deviation([one.accuracy - other.accuracy for one, other in pairs]),
            mean_and_deviation([fmean(one.frozen) for one in trained]),
            mean_and_deviation([fmean(one.frozen) - fmean(other.frozen) for one, other in pairs]),
            mean_and_deviation(settled, 1),
            f"{fmean(shared(one.genotype, other.genotype) for one, other in pairs):.0f} %",
        ]
        lines.append(line)
    header = (
        "one-stage training",
        "test accuracy (%)",
        "minus contiguous",
        "epoch of freezing, mean of nodes",
        "minus contiguous",
        f"nodes frozen before the limit, of {len(base[0].frozen)}",
        "operations shared with contiguous",
    )
    return markdown_table(header, lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=positive, default=4)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--channels", type=positive, default=8)
    parser.add_argument("--cells", type=positive, default=4)
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--search-epochs", type=positive, default=15)
    parser.add_argument("--epochs", type=positive, default=5, help="after the search")
    parser.add_argument(
        "--networks", type=int, default=len(NETWORKS), help="how many of question 2"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = ("data", "channels", "cells", "batch_size", "search_epochs", "epochs")
    options = TrainOptions(**{name: getattr(given, name) for name in names}, device="cpu")
    print(origin("rounding.py"))

    lines = [
        (
            name,
            f"{batch} x {side} x {side}",
            *(f"{e:.0e}" for e in norm_errors(batch, side, layout)),
        )
        for batch, side in NORMS
        for name, layout in LAYOUTS.items()
    ]
    header = ("batch norm", "size", "value", "gradient of x", "of gamma", "of beta")
    print(markdown_table(header, lines))

    lines = []
    for size in NETWORKS[: given.networks]:
        exact = [gradients(size, batch) for batch in range(BATCHES)]
        compared = {
            f"float32, {name}": [
                gradients(size, batch, layout, torch.float32) for batch in range(BATCHES)
            ]
            for name, layout in LAYOUTS.items()
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
    print(markdown_table(header, lines), flush=True)

    print(training_table(options, given.seeds))


if __name__ == "__main__":
    run(main)
