"""CIFAR-10 in one stage: how good are the networks of a single run, and what is the single run worth?

A run searches inside the target network, freezes what has settled, trains on and is folded: architecture and weights at
once. To see what its weights are worth, the same genotype is trained from scratch twice: by the schedule that follows
the search, and by one as long as the whole run. To see what the search is worth, a random architecture is trained as
long as the whole run, too. Varied: the seed.

    python -m experiments.cifar10_one_stage --scale smoke
    python -m experiments.cifar10_one_stage --scale small --data FOLDER --jobs 2
    python -m experiments.cifar10_one_stage --scale ranks --data FOLDER --networks random
    python -m experiments.cifar10_one_stage --scale short --data FOLDER --networks random
    python -m experiments.cifar10_one_stage --scale paper --data cifar10

``smoke`` takes seconds on digits. ``small`` takes 4,096 images of CIFAR-10, whose folder is FOLDER (or ``cifar10`` in
``--data-root``), and networks of 8 channels and 4 cells, about an hour and a half of a core for each of 5 seeds.
``ranks`` is for the preset `smoothed`: 20,000 images of 16 x 16 pixels and networks of the same size; with ``--networks
random``, which trains no other beside the single run's, 20 to 30 minutes of a core for each of 5 seeds. ``short`` is as
long, with four epochs of search instead of ten and with scores from the weights' own steps. ``paper`` has the published
setting, more than a week of a GPU for each seed. Started again, it goes on, also within a run.

The network that is trained from scratch is that of `isnas evaluate`: without the batch norms after pooling and skips
that folding needs (0.2 per cent of the published network's parameters).

Written to DIR (``--out``): rows.jsonl (a row for every seed), table.md, about.json (settings, commands, versions,
machine), runs/SEED-one-stage, -retrained, -retrained-longer and -random (run directories) and, at the smaller scales,
images/.
``python -m figures.experiments one_stage DIR`` draws the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isnas import DARTS_SPACE
from isnas.codes.choices import Choices
from isnas.commands.evaluate import evaluation_job
from isnas.commands.search import ONE_STAGE, search_job
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.trials import run_or_resume
from isnas.runs.records import RunRecord
from isnas.runtime.options import Composition
from isnas.runtime.randomness import generator
from isnas.searches.registry import search_options

from ._command import Launch, Parser, Scale, among, origin, run_command, run_module
from ._images import Subset
from ._runs import error, evaluation_of, images, seconds
from ._statistics import interval_text, mean_interval

RANKS = Scale(
    Subset("cifar10", 20_000, 5_000, 16),
    5,
    search_options(
        ONE_STAGE,
        DARTS_SPACE,
        "smoothed",
        channels=8,
        cells=4,
        batch_size=96,
        search_epochs=10,
        epochs=10,
        threads=1,
    ),
)

SCALES = {
    "smoke": Scale(
        Subset("digits", 128, 64),
        2,
        search_options(
            ONE_STAGE,
            DARTS_SPACE,
            channels=2,
            cells=3,
            batch_size=32,
            search_epochs=1,
            epochs=1,
            threads=1,
        ),
    ),
    "small": Scale(
        Subset("cifar10", 4_096, 5_000),
        5,
        search_options(ONE_STAGE, DARTS_SPACE, search_epochs=10, epochs=20, threads=1),
    ),
    "ranks": RANKS,
    # as long in all; steps that the codes learn by are the weights', and learn three times as fast in fewer of them
    "short": replace(
        RANKS,
        options=RANKS.options.replace(
            search_epochs=4,
            epochs=16,
            score_losses="steps",
            warm_up_share=0.25,
            code_learning_rate=0.06,
        ),
    ),
    "paper": Scale(Subset("cifar10"), 4, search_options(ONE_STAGE, DARTS_SPACE, "paper")),
}

NETWORKS = {
    "one_stage": "the single run",
    "retrained": "its genotype from scratch, as long as the run trained after the search",
    "retrained_longer": "its genotype from scratch, as long as the whole run",
    "random": "a random architecture from scratch, as long as the whole run",
}
"""The networks that are tested for each seed, in words."""

BESIDE = tuple(name for name in NETWORKS if name != "one_stage")
"""Those that are trained beside the single run."""

PUBLISHED = (
    ("ISTA-NAS, one-stage; cost of all", "2.36 ± 0.06", "3.37 M", "2.3 GPU-days"),
    ("ISTA-NAS, two-stage", "2.54 ± 0.05", "3.32 M", ""),
    ("DARTS, both levels at once on all data", "3.56 ± 0.10", "", ""),
)
"""Test errors on CIFAR-10 in per cent, of the published setting, as quoted by their authors or by third parties."""


def run_trial(
    seed: int, options: Composition, directory: Path, networks: Sequence[str]
) -> dict[str, Any]:
    """Search and train in one run with one seed, and train networks from scratch, in whatever process."""
    directories = {
        name: directory / f"{seed}-{name.replace('_', '-')}" for name in ("one_stage", *networks)
    }
    whole = run_or_resume(search_job(ONE_STAGE, DARTS_SPACE, options), directories["one_stage"])
    searched = whole.results["search"]["search_epochs"]
    results = {"one_stage": whole.results["search"]}
    drawn = Choices(DARTS_SPACE).random(generator(seed, "random", 0))
    recipes = {
        "retrained": (whole.genotype, 0),
        "retrained_longer": (whole.genotype, searched),
        "random": (drawn, searched),
    }
    for name in networks:
        genotype, epochs = recipes[name]
        recipe = evaluation_of(options, epochs=options.optimizer.epochs + epochs)
        done = run_or_resume(evaluation_job(genotype, recipe), directories[name])
        results[name] = done.results["evaluate"]
    records = {name: RunRecord(path) for name, path in directories.items()}
    spent = {name: seconds(record, record.parts[0]) for name, record in records.items()}
    first = records["one_stage"]
    return {
        "seed": seed,
        "genotype": str(whole.genotype),
        "search_epochs": searched,
        "folding_error": whole.results["search"]["folding_error"],
        "search_seconds": seconds(first, "search", "search"),
        "search_images": images(
            first, "search", available=first.config["data"]["train"], phase="search"
        ),
        "errors": {name: error(result) for name, result in results.items()},
        "parameters": {name: result["parameters"] for name, result in results.items()},
        "multiply_adds": {name: result["multiply_adds"] for name, result in results.items()},
        "seconds": spent,
    }


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    rows = sorted(rows, key=lambda row: row["seed"])
    settings = about["settings"]
    header = (
        "network",
        "runs",
        "test error (%)",
        "minus the single run's",
        "parameters",
        "cost of all",
    )
    lines = []
    for name, text in NETWORKS.items():
        of_name = [row for row in rows if name in row["errors"]]
        if not of_name:
            continue
        errors = [row["errors"][name] for row in of_name]
        differences = [row["errors"][name] - row["errors"]["one_stage"] for row in of_name]
        sizes = [row["parameters"][name] / 1e6 for row in of_name]
        lines.append(
            (
                text,
                str(len(of_name)),
                mean_and_deviation(errors),
                "" if name == "one_stage" else interval_text(mean_interval(differences), sign=True),
                f"{mean_and_deviation(sizes, 3)} M",
                f"{mean_and_deviation([row['seconds'][name] for row in of_name], 0)} s",
            )
        )
    for name, value, size, cost in PUBLISHED:
        lines.append((f"*published: {name}*", "", value, "", size, cost))
    share = 100 * sum(row["search_seconds"] for row in rows)
    share /= sum(row["seconds"]["one_stage"] for row in rows)
    text = (
        f"# CIFAR-10, one stage, scale {settings['scale']}\n\n{markdown_table(header, lines)}\n"
        f"Mean and standard deviation over runs with different seeds; differences are in pairs of the same seed, "
        f"with 95 % intervals by Student's t. The search phase takes {share:.0f} % of a run's time. What is trained "
        f"from scratch costs the run that found it besides. The folded network and the super-net's scores differ by "
        f"at most {max(row['folding_error'] for row in rows):.0e} of the largest.\n\n"
    )
    header = (
        "seed",
        *NETWORKS,
        "parameters",
        "multiply-adds",
        "epochs of search",
        "images in search",
    )
    each = [
        (
            str(row["seed"]),
            *(f"{row['errors'][name]:.2f}" if name in row["errors"] else "" for name in NETWORKS),
            f"{row['parameters']['one_stage']:,}",
            f"{row['multiply_adds']['one_stage']:,}",
            str(row["search_epochs"]),
            f"{row['search_images']:,}",
        )
        for row in rows
    ]
    text += f"{markdown_table([name.replace('_', ' ') for name in header], each)}\n"
    if settings["scale"] != "paper":
        text += "The published results are of the published setting, and no measure for networks of this size.\n\n"
    return text + origin(about)


def run(launch: Launch, *, networks: Sequence[str] = BESIDE) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says.

    Raises
    ------
    UserError
        When `networks` has a name that is not in `BESIDE`.
    """
    size = SCALES[launch.scale]
    wanted = among(networks, BESIDE, "networks")
    with launch.opened(__name__, ("seed",), size) as experiment:
        trials = [
            (seed, experiment.options(size.options, seed), experiment.runs, wanted)
            for seed in experiment.seeds
        ]
        experiment.run(
            run_trial,
            trials,
            table=table_text,
            describe=lambda row: (
                f"seed {row['seed']}: test error {row['errors']['one_stage']:.2f} %"
            ),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "One-stage search and training on CIFAR-10.", SCALES)
    parser.add_argument(
        "--networks",
        metavar="NAME",
        nargs="*",
        default=BESIDE,
        help=f"of {', '.join(BESIDE)}, or no name: nothing beside the single run",
    )
    return run_command(parser, run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
