"""Transfer from CIFAR-10 to ImageNet: how good are architectures on ImageNet that were found on CIFAR-10?

The network of a genotype is trained from scratch in the mobile setting: 14 cells, 48 channels, 224 x 224 pixels, 250
epochs, batch 1,024, learning rate 0.5 falling linearly after 5 epochs of warm-up, weight decay 3e-5, label smoothing
0.1. Varied: the genotype and the seed.

    python -m experiments.imagenet_transfer --scale smoke
    python -m experiments.imagenet_transfer --scale small --data FOLDER --genotype ISTA_twostage runs/mine/genotype.json
    python -m experiments.imagenet_transfer --scale paper --data IMAGENET --genotype ISTA_twostage

A genotype is a published one by name, or a file such as a run's genotype.json; without the argument all that ISTA-NAS
and DARTS have found on CIFAR-10 are trained. IMAGENET is a folder in torchvision's layout: train/CLASS/* and
val/CLASS/*. The other scales run the same program on small enlarged images, whose results say nothing of ImageNet:
``smoke`` takes seconds on digits, ``small`` a quarter of an hour of a core for a genotype with a seed on 4,096 images
of CIFAR-10, whose folder is FOLDER (or ``cifar10`` in ``--data-root``). Started again, it goes on, also within a run
and with more genotypes.

Written to DIR (``--out``): rows.jsonl (a row for every genotype and seed), table.md, about.json (settings, commands,
versions, machine), runs/ (run directories) and, at the smaller scales, images/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isnas import DARTS_SPACE, GENOTYPES, Genotype
from isnas.commands.evaluate import evaluation_job
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.trials import run_or_resume
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.records import RunRecord
from isnas.runtime.options import Composition

from ._command import Launch, Parser, Scale, origin, run_command, run_module
from ._imagenet import COMMON, IMAGES, PUBLISHED, SMALL, SMOKE, errors
from ._runs import seconds

GIVEN = ("ISTA_twostage", "ISTA_onestage", "DARTS_V2")
"""The genotypes that are trained when none is given."""

RECIPE = evaluation_schema(DARTS_SPACE)

SCALES = {
    "smoke": Scale(IMAGES["smoke"], 1, RECIPE.compose(**COMMON, **SMOKE)),
    "small": Scale(IMAGES["small"], 2, RECIPE.compose(**COMMON, **SMALL)),
    "paper": Scale(IMAGES["paper"], 1, RECIPE.compose("imagenet")),
}


def run_trial(text: str, seed: int, options: Composition, directory: Path) -> dict[str, Any]:
    """Train the network of a genotype (in text form) with one seed, in whatever process."""
    done = run_or_resume(evaluation_job(Genotype.parse(text), options), directory)
    result = done.results["evaluate"]
    return {
        "genotype": text,
        "seed": seed,
        **errors(done, options),
        "parameters": result["parameters"],
        "multiply_adds": result["multiply_adds"],
        "seconds": seconds(RunRecord(directory), "evaluate"),
    }


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    header = (
        "genotype",
        "runs",
        "top-1 error (%)",
        "top-5 error (%)",
        "parameters",
        "multiply-adds",
        "cost",
    )
    known = {str(genotype): name for name, genotype in GENOTYPES.items()}
    lines, unknown = [], []
    for text in dict.fromkeys(row["genotype"] for row in rows):
        of_genotype = [row for row in rows if row["genotype"] == text]
        if text not in known:
            unknown.append(text)
        lines.append(
            (
                known.get(text, f"given {len(unknown)}"),
                str(len(of_genotype)),
                mean_and_deviation([row["top1"] for row in of_genotype]),
                mean_and_deviation([row["top5"] for row in of_genotype]),
                f"{of_genotype[0]['parameters'] / 1e6:.3f} M",
                f"{of_genotype[0]['multiply_adds'] / 1e6:.1f} M",
                f"{mean_and_deviation([row['seconds'] for row in of_genotype], 0)} s",
            )
        )
    lines += [(f"*published: {name}*", "", *values) for name, *values in PUBLISHED]
    settings = about["settings"]
    note = "".join(f"Given {i}: `{text}`\n\n" for i, text in enumerate(unknown, 1))
    if settings["scale"] != "paper":
        note += f"These images are those of {settings['data']}, enlarged: not to be compared with ImageNet's.\n\n"
    return (
        f"# From CIFAR-10 to ImageNet, scale {settings['scale']}\n\n{markdown_table(header, lines)}\n"
        "Mean and standard deviation over seeds. Multiply-adds count convolutions and the classifier; the published "
        f"counts have other rules.\n\n{note}{origin(about)}"
    )


def run(launch: Launch, *, genotype: Sequence[str] = GIVEN) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says."""
    size = SCALES[launch.scale]
    texts = dict.fromkeys(str(Genotype.load(name)) for name in genotype)
    with launch.opened(__name__, ("genotype", "seed"), size) as experiment:
        trials = []
        for seed in experiment.seeds:
            options = experiment.options(size.options, seed)
            for text in texts:
                name = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
                trials.append((text, seed, options, experiment.runs / f"{name}-{seed}"))
        experiment.run(
            run_trial,
            trials,
            table=table_text,
            describe=lambda row: f"seed {row['seed']}: top-1 error {row['top1']:.2f} %",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "Genotypes found on CIFAR-10, on ImageNet.", SCALES)
    parser.add_argument(
        "--genotype",
        metavar="NAME|FILE",
        nargs="+",
        default=GIVEN,
        help=f"a file, or {', '.join(GENOTYPES)} (default {' '.join(GIVEN)})",
    )
    return run_command(parser, run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
