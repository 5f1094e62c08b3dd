"""Recurrent cells by sparse coding, DARTS, ENAS and at random: how good are the language models that they make?

A trial is a search by one method with one seed, and training of what it found from scratch by a recipe that all have in
common. Beside them stand random cells, trained likewise: what a search is worth is the difference. DARTS and ENAS did
this on Penn Treebank, with one search and the best of several trainings; sparse coding on recurrent cells is ours.

    python -m experiments.ptb_recurrent --scale smoke
    python -m experiments.ptb_recurrent --scale small --data WIKITEXT2
    python -m experiments.ptb_recurrent --scale paper --data PENN_TREEBANK

``smoke`` takes a minute on the text that is part of Python. ``small`` takes the first 150,000 words of WikiText-2 (any
folder of text will do), cells of four nodes and networks of width 32: about an hour of a core for 3 seeds of all
methods. ``paper`` has DARTS's setting, days of a GPU for each trial; Penn Treebank is licensed, and the folder, with
ptb.train.txt, ptb.valid.txt and ptb.test.txt, is yours to bring. Started again, it goes on, also within a run.

Written to DIR (``--out``): rows.jsonl (a row for every method and seed), table.md, about.json (settings, commands,
versions, machine), runs/ (run directories) and, at the smaller scales, text/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from isnas import Space, get_space
from isnas.codes.choices import Choices
from isnas.commands.evaluate import evaluation_job
from isnas.commands.search import search_job
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.trials import run_or_resume
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.records import RunRecord
from isnas.runtime.options import Composition
from isnas.runtime.randomness import generator
from isnas.searches.registry import search_options

from ._command import Launch, Parser, origin, run_command, run_module
from ._runs import seconds
from ._statistics import interval_text, mean_interval
from ._texts import Excerpt

RANDOM = "random cell"
"""The trials that train a random cell."""

BY_SCORE = "ista-two-stage by score"

METHODS = ("ista-two-stage", BY_SCORE, "darts-1", "enas", "random")
"""The searches; their names in `isnas.METHODS` are the first words."""

SCORE = {
    "matrix": "balanced",
    "rule": "non_negative",
    "init_scale": 0.0,
    "gradient": "score",
    "perturbation": 1.0,
    "warm_up_share": 0.4,
    "code_weight_decay": 0.0,
    "learning_rate": 5.0,
}
"""Sparse codes that learn as in the smoothed search of cells of images (`isnas.searches.two_stage`)."""

DATA = "text, or a folder with ptb.train.txt ..., wiki.train.tokens ... or train.txt ..."

NO_DROPOUT = {
    "dropout": 0.0,
    "dropout_embedding": 0.0,
    "dropout_input": 0.0,
    "dropout_hidden": 0.0,
}


@dataclass(frozen=True)
class Size:
    """The size of the experiment.

    Parameters
    ----------
    text : Excerpt
    seeds : int
    nodes : int
        Nodes of a cell.
    preset : str
        Preset of the searches, and of the training of the found cells.
    common : mapping
        Options of all searches.
    own : mapping of str to mapping
        Options of single methods.
    """

    text: Excerpt
    seeds: int
    nodes: int = 8
    preset: str = "quick"
    common: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """The space that is searched."""
        return get_space("recurrent", nodes=self.nodes)

    def search(self, method: str) -> Composition:
        """Return the options of a search and of the training after it."""
        options = {"random_architectures": 0, **self.common, **self.own.get(method, {})}
        return search_options(method.split()[0], self.space, self.preset, **options)

    def recipe(self) -> Composition:
        """Return the common recipe."""
        recipe = self.search(METHODS[0]).evaluation
        return evaluation_schema(self.space).compose(**recipe.to_json())


SMALL_TEXT = Excerpt("text", 150_000, 20_000, 20_000)

SMALL = {
    "width": 32,
    "batch_size": 32,
    "vocabulary": 1_000,
    "threads": 1,
    "epochs": 5,
    "evaluation_epochs": 10,
}

SCALES = {
    "smoke": Size(
        Excerpt("text", 1_500, 500, 500),
        1,
        common={
            "width": 4,
            "batch_size": 8,
            "bptt": 20,
            "epochs": 1,
            "evaluation_epochs": 1,
            "threads": 1,
            **NO_DROPOUT,
        },
        own={
            BY_SCORE: {**SCORE, "code_learning_rate": 0.05},
            "enas": {"controller_steps": 1, "samples": 1, "final_samples": 2},
            "random": {"architectures": 2},
        },
    ),
    "small": Size(
        SMALL_TEXT,
        3,
        nodes=4,
        common=SMALL,
        own={
            BY_SCORE: {**SCORE, "code_learning_rate": 0.015},
            # as many passes as two for each step of a search
            "random": {"epochs": 3, "architectures": 3},
            "enas": {"controller_steps": 2, "validation_amount": 1_500},
        },
    ),
    "paper": Size(
        Excerpt("ptb"),
        4,
        preset="paper",
        own={BY_SCORE: {**SCORE, "code_learning_rate": 3e-3, "learning_rate": 20.0}},
    ),
}

PUBLISHED = (
    ("DARTS, first order", "60.2", "57.6", "23 M"),
    ("DARTS, second order", "58.1", "55.7", "23 M"),
    ("random search, the best of eight (DARTS)", "61.8", "59.4", "23 M"),
    ("ENAS, trained by DARTS's authors", "60.8", "58.6", "24 M"),
)
"""Validation and test perplexity on Penn Treebank and parameters, as DARTS's paper has them (ICLR 2019, table 2)."""


def run_trial(
    method: str, seed: int, space: Space, options: Composition, directory: Path
) -> dict[str, Any]:
    """Search with one seed and train what was found, or train a random cell, in whatever process."""
    if method == RANDOM:
        genotype = Choices(space).random(generator(seed, "random cell"))
        result = run_or_resume(evaluation_job(genotype, options), directory)
        part = "evaluate"
    else:
        result = run_or_resume(search_job(method.split()[0], space, options), directory)
        part = "found"
    record = RunRecord(directory)
    tested = result.results[part]
    return {
        "method": method,
        "seed": seed,
        "genotype": tested["genotype"],
        "test_perplexity": tested["test_perplexity"],
        "valid_perplexity": float(min(record.epochs(part)["valid_perplexity"])),
        "parameters": tested["parameters"],
        "search_seconds": 0.0 if method == RANDOM else seconds(record, "search"),
        "training_seconds": seconds(record, part),
    }


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    settings = about["settings"]
    header = (
        "method",
        "seeds",
        "validation perplexity",
        "test perplexity",
        "parameters",
        "search, s",
        "training, s",
    )
    lines = []
    for method in (*METHODS, RANDOM):
        if not (of_method := [row for row in rows if row["method"] == method]):
            continue

        def column(name: str, digits: int = 1, rows: Any = of_method) -> str:
            return mean_and_deviation([row[name] for row in rows], digits)

        lines.append(
            (
                method,
                str(len(of_method)),
                column("valid_perplexity"),
                column("test_perplexity"),
                column("parameters", 0),
                column("search_seconds", 0),
                column("training_seconds", 0),
            )
        )
    lines += [
        (f"*published: {name}*", "", valid, test, size, "", "")
        for name, valid, test, size in PUBLISHED
    ]
    text = (
        f"# Recurrent cells, scale {settings['scale']}\n\n{markdown_table(header, lines)}\n"
        "Mean and standard deviation over seeds; perplexity: lower is better. All that was found is trained from "
        "scratch by the same recipe, and tested with the weights of the best validation perplexity. *random* trains "
        "some random cells briefly and keeps the best by validation; *random cell* takes the first one. Seconds depend "
        "on what else the machine did.\n\n"
    )
    text += _differences(rows)
    if settings["scale"] != "paper":
        text += (
            f"The text here is an excerpt of {settings['data']}, and networks are small: the published results, of "
            "Penn Treebank, are no measure for these.\n\n"
        )
    return text + origin(about)


def _differences(rows: Sequence[dict[str, Any]]) -> str:
    """Say what each search is worth beside the random cells."""
    drawn = [row["test_perplexity"] for row in rows if row["method"] == RANDOM]
    if not drawn:
        return ""
    centre = fmean(drawn)
    found = []
    for method in METHODS:
        own = [row["test_perplexity"] - centre for row in rows if row["method"] == method]
        if own:
            found.append(f"{method} {interval_text(mean_interval(own), 1, sign=True)}")
    return (
        f"Test perplexity minus the mean of the {len(drawn)} random cells, {centre:.1f} (95 % interval by Student's "
        f"t, of the searches alone): {'; '.join(found)}.\n\n"
    )


def run(launch: Launch) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says."""
    size = SCALES[launch.scale]
    with launch.opened(__name__, ("method", "seed"), size, size.text) as experiment:
        trials = []
        for seed in experiment.seeds:
            for method in (*METHODS, RANDOM):
                base = size.recipe() if method == RANDOM else size.search(method)
                options = experiment.options(base, seed)
                name = f"{method.replace(' ', '-')}-{seed}"
                trials.append((method, seed, size.space, options, experiment.runs / name))
        experiment.run(
            run_trial,
            trials,
            table=table_text,
            describe=lambda row: (
                f"{row['method']}, seed {row['seed']}: test perplexity {row['test_perplexity']:.1f}"
            ),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "Searches of recurrent cells.", SCALES, DATA, images=False)
    return run_command(parser, run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
