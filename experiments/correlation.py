"""Does the accuracy seen in search tell which architectures are good, once they are trained alone?

The same random architectures are scored by the shared weights of super-nets that different searches have trained
(sparse codes in two stages and in one, DARTS of first order, random search with shared weights), and trained from
scratch, each with two seeds. Compared are ranks: Kendall's tau. The tau between two trainings of the same architectures
is the noise ceiling: no score can be expected to agree better with one training than another training does.

Which images are whose: the super-nets' weights, those of one-stage training, too, learn from one half of the training
images, and architectures are scored on images of the other half, not augmented, with the statistics of the batch. Codes
in two stages and DARTS choose their architecture there; their weights have not learnt from these images. Alone,
architectures are trained on all the training images and tested on the test images, which no search has seen. Each
super-net runs a scored architecture with all coefficients 1; a sparse code has coefficients for its own only.

    python -m experiments.correlation --scale smoke
    python -m experiments.correlation --scale small --data FOLDER --jobs 2
    python -m experiments.correlation --scale paper --data cifar10

``smoke`` takes seconds on digits. ``small`` takes 2,048 images of CIFAR-10, whose folder is FOLDER (or ``cifar10`` in
``--data-root``), and networks of 8 channels and 4 cells: two hours of a core, most of it for 24 architectures trained
alone twice, and a quarter for DARTS. ``paper`` has the published settings of search and 32 architectures, trained alone
for 600 epochs each: months of a GPU. Started again, it goes on, also within a run.

Written to DIR (``--out``): rows.jsonl (a row for every super-net and every training), table.md, about.json (settings,
commands, versions, machine), runs/ (run directories) and, at the smaller scales, images/.
``python -m figures.experiments correlation DIR`` draws the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isnas import DARTS_SPACE, Genotype
from isnas.codes.choices import Choices
from isnas.commands.evaluate import evaluation_job
from isnas.comparison.rows import markdown_table
from isnas.comparison.trials import run_or_resume
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.records import RunRecord
from isnas.runtime.options import Composition
from isnas.runtime.randomness import generator
from isnas.searches.base import Search

from ._command import Launch, Parser, origin, run_command, run_module
from ._images import Subset
from ._runs import seconds
from ._searches import SEARCHES, SHARING, run_search, search_options
from ._statistics import ceiling, interval_text, mean_tau

RECIPE = evaluation_schema(DARTS_SPACE)

ALONE = "alone"
"""The method of rows of architectures that are trained alone."""


@dataclass(frozen=True)
class Scale:
    """The size of the experiment.

    Parameters
    ----------
    images : Subset
    seeds : int
        The default of ``--seeds``: super-nets of each search.
    architectures : int
        How many random architectures are scored and trained.
    trainings : int
        Trainings of each.
    preset : str
        Preset of the searches' options.
    search : dict
        Options that differ from the preset's, the same for all searches.
    alone : Composition
    scoring_images : int
        Images that an architecture is scored on.
    """

    images: Subset
    seeds: int
    architectures: int
    trainings: int
    preset: str
    alone: Composition
    scoring_images: int
    search: dict[str, Any] = field(default_factory=dict)


SCALES = {
    "smoke": Scale(
        Subset("digits", 96, 64),
        seeds=1,
        architectures=4,
        trainings=2,
        preset="quick",
        search={"channels": 2, "cells": 3, "batch_size": 24, "epochs": 1, "threads": 1},
        alone=RECIPE.compose(channels=2, cells=3, batch_size=32, epochs=1, threads=1),
        scoring_images=48,
    ),
    "small": Scale(
        Subset("cifar10", 2_048, 5_000),
        seeds=2,
        architectures=24,
        trainings=2,
        preset="quick",
        search={"epochs": 10, "threads": 1},
        alone=RECIPE.compose(epochs=12, threads=1),
        scoring_images=512,
    ),
    "paper": Scale(
        Subset("cifar10"),
        seeds=4,
        architectures=32,
        trainings=2,
        preset="paper",
        alone=RECIPE.compose("paper"),
        scoring_images=5_120,
    ),
}


def architectures(number: int) -> list[Genotype]:
    """Return the random architectures that all super-nets score."""
    random = generator(0, "architectures")
    return [Choices(DARTS_SPACE).random(random) for _ in range(number)]


def scores(search: Search, genotypes: Sequence[Genotype], number: int) -> list[float]:
    """Return the accuracies, 0 to 1, of architectures with a super-net's weights on images it has not learnt from."""
    images = list(search.scoring_feed(number).epoch(0))
    return [search.score(genotype, images) for genotype in genotypes]


def run_trial(
    method: str, number: int, seed: int, options: Composition, scale: Scale, directory: Path
) -> dict[str, Any]:
    """Train an architecture alone, or a super-net that scores all of them, in whatever process.

    Parameters
    ----------
    method : str
        `ALONE` or one of `SEARCHES`.
    number : int
        Number of the architecture; -1 for super-nets.
    seed : int
    options : Composition
    scale : Scale
    directory : Path
        Directory of the run.
    """
    genotypes = architectures(scale.architectures)
    row = {"method": method, "number": number, "seed": seed}
    if method == ALONE:
        done = run_or_resume(evaluation_job(genotypes[number], options), directory)
        result = done.results["evaluate"]
        spent = seconds(RunRecord(directory), "evaluate")
        kept = ("genotype", "test_accuracy", "parameters")
        return {**row, **{name: result[name] for name in kept}, "seconds": spent}

    def finish(search: Search) -> dict[str, Any]:
        return {"scores": scores(search, genotypes, scale.scoring_images)}

    result = run_search(method, options, directory, finish)
    spent = seconds(RunRecord(directory), "search")
    return {**row, "scores": result["scores"], "seconds": spent}


def measured(
    rows: Sequence[dict[str, Any]],
) -> tuple[list[int], np.ndarray, dict[str, np.ndarray]]:
    """Return what can be compared: architectures whose trainings are all finished.

    Returns
    -------
    numbers : list of int
        Numbers of these n architectures.
    accuracies : ndarray, shape (trainings, n)
        Alone, 0 to 1.
    scores : dict of ndarray, shapes (super-nets, n)
        By method.
    """
    alone = {
        (row["number"], row["seed"]): row["test_accuracy"] for row in rows if row["method"] == ALONE
    }
    seeds = sorted({seed for _, seed in alone})
    numbers = sorted({number for number, _ in alone})
    numbers = [number for number in numbers if all((number, seed) in alone for seed in seeds)]
    accuracies = np.array([[alone[number, seed] for number in numbers] for seed in seeds])
    found = {}
    for method in SEARCHES:
        of_method = [row["scores"] for row in rows if row["method"] == method]
        if of_method:
            found[method] = np.array(of_method)[:, numbers]
    return numbers, accuracies.reshape(len(seeds), len(numbers)), found


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    settings = about["settings"]
    numbers, accuracies, found = measured(rows)
    title = f"# Accuracy in search and alone, scale {settings['scale']}\n\n"
    if len(numbers) < 2:
        return f"{title}Fewer than two architectures are trained alone yet.\n\n{origin(about)}"
    header = ("score", "super-nets", "Kendall's tau", "accuracy in search (%)", "seconds each")
    lines = []
    for method, values in found.items():
        spent = np.mean([row["seconds"] for row in rows if row["method"] == method])
        lines.append(
            (
                method,
                str(len(values)),
                interval_text(mean_tau(values, accuracies)),
                f"{100 * values.mean():.1f} ({100 * values.min():.1f} to {100 * values.max():.1f})",
                f"{spent:.0f}",
            )
        )
    sizes = {row["number"]: row["parameters"] for row in rows if row["method"] == ALONE}
    by_size = np.array([[sizes[number] for number in numbers]])
    lines.append(
        (
            "*reference: number of parameters*",
            "",
            interval_text(mean_tau(by_size, accuracies)),
            "",
            "",
        )
    )
    spent = np.mean([row["seconds"] for row in rows if row["method"] == ALONE])
    lines.append(
        (
            "*noise ceiling: another training alone*",
            "",
            interval_text(ceiling(accuracies)) if len(accuracies) > 1 else "",
            "",
            f"{spent:.0f}",
        )
    )
    lines.append(
        ("*published ceiling: two trainings of 600 epochs of 32 random cells*", "", "0.48", "", "")
    )
    deviation = accuracies.std(0, ddof=1).mean() if len(accuracies) > 1 else math.nan
    return (
        f"{title}{markdown_table(header, lines)}\n"
        f"Kendall's tau-b of {len(numbers)} random architectures between the score and the test accuracy of one "
        f"training alone, the mean over super-nets and trainings; in brackets the 95 % interval by the bootstrap over "
        f"architectures, which says nothing of other seeds. Alone they reach {100 * accuracies.mean():.1f} % "
        f"({100 * accuracies.min():.1f} to {100 * accuracies.max():.1f}); two trainings of one differ by a standard "
        f"deviation of {100 * deviation:.1f} points on the average.\n\n"
        "Scores are on half of the training images that the super-net's weights have not learnt from, those of "
        "training alone on the test images.\n\n"
        f"{origin(about)}"
    )


def _said(row: dict[str, Any]) -> str:
    if row["method"] == ALONE:
        return (
            f"architecture {row['number']}, seed {row['seed']}: {100 * row['test_accuracy']:.1f} %"
        )
    return (
        f"{row['method']}, seed {row['seed']}: {100 * np.mean(row['scores']):.1f} % on the average"
    )


def run(launch: Launch) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says."""
    size = SCALES[launch.scale]
    with launch.opened(__name__, ("method", "number", "seed"), size) as experiment:
        runs = experiment.runs
        trials: list[tuple[Any, ...]] = []
        for seed in experiment.seeds:
            for method in SEARCHES:
                # what it would find is not asked here
                own = {"candidates": 1, "finalists": 0} if method == SHARING else {}
                base = search_options(method, size.preset, size.search, **own)
                options = experiment.options(base, seed)
                trials.append((method, -1, seed, options, size, runs / f"{method}-{seed}"))
        for number in range(size.architectures):
            for seed in range(size.trainings):
                options = experiment.options(size.alone, seed)
                trials.append((ALONE, number, seed, options, size, runs / f"alone-{number}-{seed}"))
        experiment.run(run_trial, trials, table=table_text, describe=_said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "Accuracy in search and alone: do they agree?", SCALES)
    return run_command(parser, run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
