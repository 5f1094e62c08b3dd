"""CIFAR-10 in two stages: how good are the networks that the search finds, and what does finding them cost?

A run is a search, training of what it found from scratch, and training of random architectures by the same recipe: what
the search is worth is the difference. Varied: the seed, that is everything random. The paper's table quotes the mean of
several searches, not the best; so does ours.

    python -m experiments.cifar10_two_stage --scale smoke
    python -m experiments.cifar10_two_stage --scale small --data FOLDER --jobs 2
    python -m experiments.cifar10_two_stage --scale ranks --data FOLDER
    python -m experiments.cifar10_two_stage --scale finalists --data FOLDER --jobs 2
    python -m experiments.cifar10_two_stage --scale paper --data cifar10

``smoke`` takes seconds on digits. ``small`` takes 4,096 images of CIFAR-10, whose folder is FOLDER (or ``cifar10`` in
``--data-root``), and networks of 8 channels and 4 cells, a quarter of an hour of a core for each of 6 seeds.
``ranks`` is for the preset `smoothed`, whose super-net must learn to rank: 20,000 images of 16 x 16 pixels, networks
of the same size, and three random architectures beside each found one; half an hour of a core for each of 5 seeds.
``finalists`` has a shorter such search, after which twelve architectures around the code are trained for two epochs of
the searches' part of the images, and four of them for eight, by `ista-finalists`; what it finds has the training of
``ranks``, whose random architectures it is to be compared with; half an hour of a core for each of 5 seeds. ``paper``
has the published setting, days of a GPU for each seed. Started again, it goes on, also within a run.

Written to DIR (``--out``): rows.jsonl (a row for every seed), table.md, about.json (settings, commands, versions,
machine), runs/SEED (run directories, for `isnas report` and the figures) and, at the smaller scales, images/.
``python -m figures.experiments two_stage DIR`` draws the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isnas import DARTS_SPACE
from isnas.commands.search import TWO_STAGE, search_job
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.trials import run_or_resume
from isnas.runs.records import RunRecord
from isnas.runtime.options import Composition
from isnas.searches.registry import search_options

from ._command import Launch, Parser, Scale, origin, run_command, run_module
from ._images import Subset
from ._runs import error, images, last, seconds
from ._statistics import interval_text, mean_interval, mean_tau

FINALISTS = "ista-finalists"

SCALES = {
    "smoke": Scale(
        Subset("digits", 128, 64),
        2,
        search_options(
            TWO_STAGE,
            DARTS_SPACE,
            channels=2,
            cells=3,
            batch_size=32,
            epochs=2,
            evaluation_epochs=1,
            random_architectures=1,
            threads=1,
        ),
    ),
    "small": Scale(
        Subset("cifar10", 4_096, 5_000),
        6,
        search_options(
            TWO_STAGE,
            DARTS_SPACE,
            epochs=20,
            evaluation_epochs=20,
            random_architectures=1,
            threads=1,
        ),
    ),
    "ranks": Scale(
        Subset("cifar10", 20_000, 5_000, 16),
        5,
        search_options(
            TWO_STAGE,
            DARTS_SPACE,
            "smoothed",
            channels=8,
            cells=4,
            batch_size=96,
            epochs=20,
            code_batch_size=48,
            evaluation_channels=8,
            evaluation_cells=4,
            evaluation_batch_size=96,
            evaluation_epochs=8,
            random_architectures=3,
            threads=1,
        ),
    ),
    # half the search, and what it ends with is chosen by short trainings
    "finalists": Scale(
        Subset("cifar10", 20_000, 5_000, 16),
        5,
        search_options(
            FINALISTS,
            DARTS_SPACE,
            "smoothed",
            channels=8,
            cells=4,
            batch_size=96,
            epochs=12,
            code_batch_size=48,
            finalists=12,
            finalist_epochs=8,
            finalist_spread=1.0,
            evaluation_channels=8,
            evaluation_cells=4,
            evaluation_batch_size=96,
            evaluation_epochs=8,
            random_architectures=0,
            threads=1,
        ),
    ),
    "paper": Scale(
        Subset("cifar10"),
        4,
        search_options(TWO_STAGE, DARTS_SPACE, "paper", random_architectures=1),
    ),
}

PUBLISHED = (
    ("ISTA-NAS, two-stage; cost of the search", "2.54 ± 0.05", "3.32 M", "0.05 GPU-days"),
    ("the same, an independent re-run of 4 searches", "2.71 ± 0.10", "3.3 M", ""),
    ("DARTS, first order", "3.00 ± 0.14", "3.3 M", "1.5 GPU-days"),
    ("DARTS, second order", "2.76 ± 0.09", "3.3 M", "4 GPU-days"),
    ("random search with shared weights", "2.85 ± 0.08", "", ""),
    ("random architectures (DARTS)", "3.29 ± 0.15", "", ""),
)
"""Test errors on CIFAR-10 in per cent, of the published setting, as quoted by their authors or by third parties."""


def run_trial(seed: int, options: Composition, directory: Path) -> dict[str, Any]:
    """Search with one seed, train what was found, and random architectures beside it, in whatever process."""
    method = FINALISTS if "finalists" in options.schema.fields else TWO_STAGE
    result = run_or_resume(search_job(method, DARTS_SPACE, options), directory)
    record = RunRecord(directory)
    drawn = [part for name, part in result.results.items() if name.startswith("random-")]
    found = result.results["found"]
    half = record.config["data"]["train"] // 2
    return {
        "seed": seed,
        "genotype": str(result.genotype),
        "error": error(found),
        "parameters": found["parameters"],
        "multiply_adds": found["multiply_adds"],
        "search_accuracy": last(record, "search", "valid_accuracy"),
        "search_seconds": seconds(record, "search"),
        "search_images": searched_images(record, half),
        "training_seconds": seconds(record, "found"),
        "random_errors": [error(part) for part in drawn],
        "random_parameters": [part["parameters"] for part in drawn],
    }


def searched_images(record: RunRecord, half: int) -> int:
    """Return how many images a search passed forwards and backwards: of two parts of the data, finalists' of one."""
    if record.method != FINALISTS:
        return images(record, "search", available=half, streams=2)
    return sum(
        images(record, "search", available=half, streams=streams, phase=phase)
        for phase, streams in (("search", 2), ("finalists", 1))
    )


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    rows = sorted(rows, key=lambda row: row["seed"])
    settings = about["settings"]
    header = ("network", "searches", "test error (%)", "parameters", "cost of the search")
    spent = mean_and_deviation([row["search_seconds"] for row in rows], 0)
    lines = [
        (
            "found",
            str(len(rows)),
            mean_and_deviation([row["error"] for row in rows]),
            mean_and_deviation([row["parameters"] / 1e6 for row in rows], 3) + " M",
            f"{spent} s",
        )
    ]
    drawn = [value for row in rows for value in row["random_errors"]]
    if drawn:
        sizes = [value / 1e6 for row in rows for value in row["random_parameters"]]
        lines.append(
            (
                f"random, trained likewise ({len(drawn)})",
                "",
                mean_and_deviation(drawn),
                mean_and_deviation(sizes, 3) + " M",
                "0 s",
            )
        )
    lines += [
        (f"*published: {name}*", "", *(value for value in values)) for name, *values in PUBLISHED
    ]
    share = 100 * np.mean(
        [row["search_seconds"] / (row["search_seconds"] + row["training_seconds"]) for row in rows]
    )
    text = (
        f"# CIFAR-10, two stages, scale {settings['scale']}\n\n{markdown_table(header, lines)}\n"
        f"Mean and standard deviation over searches with different seeds. The search passes "
        f"{rows[0]['search_images']:,} images forwards and backwards; it takes {share:.0f} % of the time of search and "
        f"training together.\n\n"
    )
    if drawn:
        differences = [
            row["error"] - float(np.mean(row["random_errors"]))
            for row in rows
            if row["random_errors"]
        ]
        mean = interval_text(mean_interval(differences), sign=True)
        text += (
            f"Found minus random, in pairs of the same seed: {mean} points of test error (mean, 95 % "
            f"interval by Student's t).\n\n"
        )
    accuracies = [row["search_accuracy"] for row in rows]
    if len(rows) > 3 and None not in accuracies:
        tau = mean_tau(np.array([accuracies]), np.array([[-row["error"] for row in rows]]))
        text += (
            f"Kendall's tau between the validation accuracy at the end of a search and the accuracy of what it found, "
            f"over the {len(rows)} searches: {interval_text(tau)} (95 % interval, bootstrap).\n\n"
        )
    header = (
        "seed",
        "error",
        "random",
        "parameters",
        "multiply-adds",
        "accuracy in search",
        "search s",
        "training s",
    )
    each = [
        (
            str(row["seed"]),
            f"{row['error']:.2f}",
            ", ".join(f"{value:.2f}" for value in row["random_errors"]),
            f"{row['parameters']:,}",
            f"{row['multiply_adds']:,}",
            "" if row["search_accuracy"] is None else f"{100 * row['search_accuracy']:.1f}",
            f"{row['search_seconds']:.0f}",
            f"{row['training_seconds']:.0f}",
        )
        for row in rows
    ]
    text += f"{markdown_table(header, each)}\n"
    if settings["scale"] != "paper":
        text += "The published results are of the published setting, and no measure for networks of this size.\n\n"
    return text + origin(about)


def run(launch: Launch) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says."""
    size = SCALES[launch.scale]
    with launch.opened(__name__, ("seed",), size) as experiment:
        trials = [
            (seed, experiment.options(size.options, seed), experiment.runs / str(seed))
            for seed in experiment.seeds
        ]
        experiment.run(
            run_trial,
            trials,
            table=table_text,
            describe=lambda row: f"seed {row['seed']}: test error {row['error']:.2f} %",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "Two-stage search on CIFAR-10, several times.", SCALES)
    return run_command(parser, run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
