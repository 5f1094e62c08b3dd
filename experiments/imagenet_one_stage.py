"""ImageNet in one stage: architecture and weights for the mobile setting, searched on ImageNet itself.

One run searches inside the target network of 14 cells and 48 channels at 224 x 224 pixels, then trains for 250 epochs
(batch 1,024, learning rate 0.5 falling linearly after 5 epochs of warm-up, weight decay 3e-5, label smoothing 0.1) and
is folded. Varied: the seed.

    python -m experiments.imagenet_one_stage --scale smoke
    python -m experiments.imagenet_one_stage --scale small --data FOLDER
    python -m experiments.imagenet_one_stage --scale paper --data IMAGENET

IMAGENET is a folder in torchvision's layout: train/CLASS/* and val/CLASS/*. The other scales run the same program on
small enlarged images, whose results say nothing of ImageNet: ``smoke`` takes seconds on digits, ``small`` half an hour
of a core for a seed on 4,096 images of CIFAR-10, whose folder is FOLDER (or ``cifar10`` in ``--data-root``). Started
again, it goes on, also within a run.

``paper`` takes about a month of a GPU. Several devices share it with ``torchrun --nproc-per-node 8 -m isnas train
--preset imagenet --data IMAGENET --out DIR/runs/0``: the experiment takes a finished run that it finds there.

Written to DIR (``--out``): rows.jsonl (a row for every seed), table.md, about.json (settings, commands, versions,
machine), runs/SEED (run directories) and, at the smaller scales, images/.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isnas import DARTS_SPACE
from isnas.commands.search import ONE_STAGE, search_job
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.trials import run_or_resume
from isnas.runs.records import RunRecord
from isnas.runtime.options import Composition
from isnas.searches.registry import search_options

from ._command import Launch, Parser, Scale, origin, run_command, run_module
from ._imagenet import COMMON, IMAGES, PUBLISHED, SMALL, SMOKE, errors
from ._runs import seconds

SCALES = {
    "smoke": Scale(
        IMAGES["smoke"],
        1,
        search_options(ONE_STAGE, DARTS_SPACE, **COMMON, **SMOKE, search_epochs=1),
    ),
    "small": Scale(
        IMAGES["small"],
        2,
        search_options(ONE_STAGE, DARTS_SPACE, **COMMON, **SMALL, search_epochs=10),
    ),
    "paper": Scale(IMAGES["paper"], 1, search_options(ONE_STAGE, DARTS_SPACE, "imagenet")),
}


def run_trial(seed: int, options: Composition, directory: Path) -> dict[str, Any]:
    """Search and train in one run with one seed, in whatever process."""
    done = run_or_resume(search_job(ONE_STAGE, DARTS_SPACE, options), directory)
    record, result = RunRecord(directory), done.results["search"]
    return {
        "seed": seed,
        "genotype": str(done.genotype),
        **errors(done, options),
        "parameters": result["parameters"],
        "multiply_adds": result["multiply_adds"],
        "search_epochs": result["search_epochs"],
        "search_seconds": seconds(record, "search", "search"),
        "seconds": seconds(record, "search"),
    }


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    header = (
        "network",
        "runs",
        "top-1 error (%)",
        "top-5 error (%)",
        "parameters",
        "multiply-adds",
        "cost",
    )
    line = (
        "one run",
        str(len(rows)),
        mean_and_deviation([row["top1"] for row in rows]),
        mean_and_deviation([row["top5"] for row in rows]),
        f"{mean_and_deviation([row['parameters'] / 1e6 for row in rows], 3)} M",
        f"{mean_and_deviation([row['multiply_adds'] / 1e6 for row in rows], 1)} M",
        f"{mean_and_deviation([row['seconds'] for row in rows], 0)} s, all",
    )
    published = [(f"*published: {name}*", "", *values) for name, *values in PUBLISHED]
    share = 100 * sum(row["search_seconds"] for row in rows) / sum(row["seconds"] for row in rows)
    settings = about["settings"]
    note = ""
    if settings["scale"] != "paper":
        note = f"These images are those of {settings['data']}, enlarged: not to be compared with ImageNet's.\n\n"
    return (
        f"# ImageNet, one stage, scale {settings['scale']}\n\n{markdown_table(header, [line, *published])}\n"
        f"Mean and standard deviation over runs with different seeds; the search phase takes {share:.0f} % of a run's "
        f"time. Multiply-adds count convolutions and the classifier; the published counts have other rules.\n\n"
        f"{note}{origin(about)}"
    )


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
            describe=lambda row: f"seed {row['seed']}: top-1 error {row['top1']:.2f} %",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "One-stage search and training on ImageNet.", SCALES)
    return run_command(parser, run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
