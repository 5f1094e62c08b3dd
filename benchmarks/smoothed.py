"""Cost of a step of the smoothed search beside one of training the discrete networks of the same architectures.

    python -m benchmarks.smoothed | tee benchmarks/results/smoothed.txt          # a minute on one core

In NAS-Bench-201, where a turn of four fair paths has every operation once on every edge. Timed is such a turn: of the
search's steps on fair paths, of its steps with a pair of scores beside, whose architectures are as random at b = 0, of
steps whose own losses are the scores, and of whole training steps of the four discrete networks. All take turns in one
process, and ratios are medians of ratios within a round. The average is over the epochs of the preset: those on fair
paths, and those with scores.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from statistics import median
from typing import Any

from experiments._command import positive
from experiments.efficiency import random_images
from isnas import NASBENCH201_SPACE
from isnas.codes.fair import fair_path
from isnas.networks.folding import extract
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.training import Training
from isnas.runtime.devices import cpu_threads, resolve_device
from isnas.searches.registry import create_search
from isnas.searches.two_stage import TwoStageSearch
from isnas.tasks.registry import task_of

from ._measure import in_turn, origin, ratio, run, size_parser

TURN = len(NASBENCH201_SPACE.primitives) - 1
"""Steps in which fair paths have every operation once: all but none."""


def main() -> None:
    """Print the table."""
    parser = size_parser(__doc__, 8, 1, 96, 15)
    parser.set_defaults(side=16)
    parser.add_argument("--scored", type=positive, nargs="+", default=[96, 24], help="images")
    given = parser.parse_args()
    device = resolve_device(given.device)
    shape = {name: getattr(given, name) for name in ("channels", "cells", "batch_size")}
    dataset = random_images(2 * given.batch_size * TURN, given.side).to(device)
    print(origin("smoothed"))
    with cpu_threads(given.threads):

        def search_of(**changes: Any) -> TwoStageSearch:
            changes |= {"preset": "smoothed", "epochs": 18, **shape}
            return create_search("ista-two-stage", NASBENCH201_SPACE, dataset, device, **changes)

        plain = search_of()
        s = plain.options.code.places(NASBENCH201_SPACE)
        recipe = evaluation_schema(NASBENCH201_SPACE).compose(**shape)
        task = task_of(NASBENCH201_SPACE)
        paths = [fair_path(NASBENCH201_SPACE, s, plain.seed, step) for step in range(TURN)]
        alone = [
            Training(extract(plain.network, path), recipe, task, dataset, device) for path in paths
        ]
        batches = [next(training.batches(0, 0)) for training in alone]

        def train_alone() -> None:
            for training, batch in zip(alone, batches, strict=True):
                training.train_step(batch)

        steps: dict[str, Callable[[], object]] = {"discrete networks": train_alone}
        steps["fair paths"] = turn_of(plain, 0)
        scored = {
            f"with a pair of scores of {images} images": {"code_batch_size": images}
            for images in given.scored
        }
        for name, changes in {
            **scored,
            "by the losses of steps": {"score_losses": "steps"},
        }.items():
            search = search_of(**changes)
            steps[name] = turn_of(search, search.warm_up_epochs)
        spent = in_turn(steps, given.rounds, device)
    base = spent["discrete networks"]
    print("x time        ms  step")
    for name, seconds in spent.items():
        times = "" if seconds is base else f"{ratio(seconds, base):.3f}"
        print(f"{times:>6}  {1e3 * median(seconds) / TURN:8.1f}  {name}")
    share = plain.warm_up_epochs / plain.epochs
    fair = ratio(spent["fair paths"], base)
    print(f"\non average, with {plain.warm_up_epochs} of {plain.epochs} epochs on fair paths:")
    for name in list(steps)[2:]:
        print(f"{share * fair + (1 - share) * ratio(spent[name], base):6.3f}  {name}")


def turn_of(search: TwoStageSearch, epoch: int) -> Callable[[], None]:
    """Return what does a turn of steps of a search as in this epoch."""
    batches = list(islice(search.batches(0, 0), TURN))

    def turn() -> None:
        search.epoch = epoch
        for search.step, batch in enumerate(batches):
            search.train_step(batch)

    return turn


if __name__ == "__main__":
    run(main)
