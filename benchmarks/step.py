"""Cost of a search step beside the same step of the network that it would find.

    python -m benchmarks.step | tee benchmarks/results/step.txt          # a quarter of an hour on one core
    python -m benchmarks.step --batch-size 256 --rounds 30              # on a GPU

Steps are whole: learning rate, forward pass, backward pass, clipping, update, metrics. Each is compared with the step
of the discrete network that has the same operations, batch norms and trainable parameters, trained by itself. All take
turns in one process, and ratios are medians of ratios within a round. Memory is what autograd saves for the backward
pass, exactly, without weights and images; on CUDA also the peak that PyTorch allocated above what was there before.

Then what else an epoch takes: the recovery of all nodes, certified, and making the batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from experiments._command import positive
from experiments._searches import ONE_STAGE, TWO_STAGE, build_search
from experiments.efficiency import random_images
from isnas import DARTS_SPACE
from isnas.networks.core import CellNetwork, train_affine
from isnas.networks.folding import extract, fold
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.loop import NoRun, Stage
from isnas.runs.training import Training
from isnas.runtime.devices import cpu_threads, resolve_device
from isnas.runtime.memory import peak_memory, saved_bytes
from isnas.searches.registry import search_options
from isnas.searches.two_stage import TwoStageSearch
from isnas.tasks.images import Dataset
from isnas.tasks.registry import task_of

from ._measure import in_turn, origin, ratio, run, size_parser

RIVALS = {"DARTS, first order": "darts-1", "DARTS, second order": "darts-2"}


@dataclass
class Measured:
    """A step, and what it is compared with.

    Parameters
    ----------
    run : callable
        Does the step.
    loss : callable
        Does its forward pass and returns the loss; of steps with several passes, the largest.
    network : nn.Module
    base : str
        Name of what it is compared with.
    batches : int
        That it works on.
    """

    run: Callable[[], object]
    loss: Callable[[], Tensor]
    network: nn.Module
    base: str
    batches: int = 1

    def saved(self, images: Tensor) -> int:
        """Return the bytes saved for the backward pass."""
        return saved_bytes(self.loss, [*self.network.parameters(), *self.network.buffers(), images])


def weights_loss(stage: Stage, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of a search's step of the weights, with which no code learns."""
    with torch.no_grad():
        coefficients = stage.code.coefficients()
    return stage.weights.loss(batch, coefficients)[0]


def steps_of(
    shape: dict[str, Any], dataset: Dataset, device: torch.device
) -> tuple[dict[str, Measured], TwoStageSearch]:
    """Return the steps by name, and the two-stage search among them."""
    found: dict[str, Measured] = {}

    def add_alone(name: str, network: CellNetwork) -> None:
        recipe = evaluation_schema(DARTS_SPACE).compose(**shape)
        training = Training(network, recipe, task_of(DARTS_SPACE), dataset, device)
        batch = next(training.batches(0, 0))
        found[name] = Measured(
            lambda: training.train_step(batch),
            lambda: training.weights.loss(batch)[0],
            network,
            name,
        )

    search = build_search(
        TWO_STAGE, search_options(TWO_STAGE, DARTS_SPACE, **shape), dataset, device
    )
    assert isinstance(search, TwoStageSearch)
    train, valid = next(search.batches(0, 0))
    name = "discrete network, norms as in the two-stage search"
    network = extract(search.network, search.code.places)
    train_affine(network.cells, False)
    add_alone(name, network)

    def weights() -> None:
        with torch.no_grad():
            coefficients = search.code.coefficients()
        search.train_weights(train, coefficients)

    def architecture_loss() -> Tensor:
        with search.weights.fixed():
            return search.weights.loss(valid, search.code.coefficients())[0]

    found["two-stage search, weights"] = Measured(
        weights, lambda: weights_loss(search, train), search.network, name
    )
    found["two-stage search, architecture"] = Measured(
        lambda: search.train_code(valid),
        architecture_loss,
        search.network,
        name,
    )

    for frozen in (False, True):
        options = search_options(ONE_STAGE, DARTS_SPACE, **shape, search_epochs=1)
        stage = build_search(ONE_STAGE, options, dataset, device)
        if frozen:
            stage.end_epoch(NoRun())
            stage.epoch = 1
            name = "folded network"
            network = fold(stage.network, stage.code.coefficients())
        else:
            name = "discrete network, norms as in one-stage training"
            network = extract(stage.network, stage.code.places)
            for cell in network.cells:
                train_affine(cell.nodes, False)
        add_alone(name, network)
        batch = next(stage.batches(0, 0))

        def loss(stage: Stage = stage, batch: tuple[Tensor, Tensor] = batch) -> Tensor:
            return stage.weights.loss(batch, stage.code.coefficients())[0]

        found["one-stage, all frozen" if frozen else "one-stage, searching"] = Measured(
            lambda stage=stage, batch=batch: stage.train_step(batch), loss, stage.network, name
        )
    return found, search


def rivals_of(
    shape: dict[str, Any], dataset: Dataset, device: torch.device, base: str
) -> dict[str, Measured]:
    """Return the steps of searches that run all candidates."""
    found = {}
    for name, method in RIVALS.items():
        options = search_options(method, DARTS_SPACE, **shape)
        stage: Stage = build_search(method, options, dataset, device)
        batch = next(stage.batches(0, 0))
        found[name] = Measured(
            lambda stage=stage, batch=batch: stage.train_step(batch),
            lambda stage=stage, batch=batch: weights_loss(stage, batch[0]),
            stage.network,
            base,
            batches=2,
        )
    return found


def report(
    steps: dict[str, Measured], rounds: int, device: torch.device, images: Tensor
) -> dict[str, list[float]]:
    """Time the steps, print their table, and return the seconds of each."""
    spent = in_turn({name: step.run for name, step in steps.items()}, rounds, device, warm_up=1)
    saved = {name: step.saved(images) for name, step in steps.items()}
    peaks: dict[str, int | None] = dict.fromkeys(steps)
    if device.type == "cuda":
        for name, step in steps.items():
            with peak_memory(device) as peak:
                step.run()
            peaks[name] = peak.bytes
    print("x time  x saved  x peak        ms   saved MiB  step (of one batch)")
    for name, step in steps.items():
        seconds = [each / step.batches for each in spent[name]]
        base = [each / steps[step.base].batches for each in spent[step.base]]
        of_peak = ""
        if peaks[name] and peaks[step.base]:
            of_peak = f"{peaks[name] / peaks[step.base]:.3f}"
        is_base = name == step.base
        first, second = (
            ("", "")
            if is_base
            else (f"{ratio(seconds, base):.3f}", f"{saved[name] / saved[step.base]:.3f}")
        )
        print(
            f"{first:>6}  {second:>7}  {'' if is_base else of_peak:>6}  {1e3 * median(seconds):8.1f}"
            f"  {saved[name] / 2**20:10.1f}  {name}{':' if is_base else ''}",
            flush=True,
        )
    return spent


def main() -> None:
    """Print the tables."""
    parser = size_parser(__doc__, 16, 8, 64, 9)
    parser.add_argument("--images", type=positive, default=25_000, help="of an epoch")
    parser.add_argument("--rival-rounds", type=int, default=1, help="of DARTS; 0: leave it out")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    device = resolve_device(given.device)
    names = ("channels", "cells", "batch_size", "precision", "seed")
    shape = {name: getattr(given, name) for name in names}
    dataset = random_images(2 * given.batch_size, given.side).to(device)
    print(origin("step"))
    with cpu_threads(given.threads):
        images = dataset.train_images
        steps, search = steps_of(shape, dataset, device)
        spent = report(steps, given.rounds, device, images)
        name, *_ = steps
        if given.rival_rounds:
            print()
            rivals = {name: steps[name], **rivals_of(shape, dataset, device, name)}
            report(rivals, given.rival_rounds, device, images)

        number = given.images // given.batch_size
        each = median(spent["two-stage search, weights"]) + median(
            spent["two-stage search, architecture"]
        )
        # of b as large as late in a search: recoveries take longest there
        with torch.no_grad():
            for b in search.code.b:
                b.copy_(0.1 * torch.randn_like(b))
        others = {
            "recovery of all nodes, certified": (search.code.recover, 1),
            "a step's two batches": (lambda: next(iter(search.batches(0, 0))), number),
        }
        parts = in_turn({name: work for name, (work, _) in others.items()}, 20, device)
        print(f"\nof an epoch of {number} steps of the two-stage search, {number * each:.1f} s:")
        for name, (_, times) in others.items():
            taken = median(parts[name])
            share = 100 * times * taken / (number * each + times * taken)
            print(f"{share:8.3f} %  {1e3 * taken:8.2f} ms  {name}")


if __name__ == "__main__":
    run(main)
