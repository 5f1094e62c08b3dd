"""Transfer from one text to another: how good are recurrent cells on WikiText-2 that were found on other text?

The language model of a genotype is trained from scratch. At the scale ``paper`` that is DARTS's setting for cells found
on Penn Treebank: width 700, weight decay 5e-7, dropout 0.15 of hidden states, all else as on Penn Treebank. Varied: the
genotype and the seed; random cells stand beside.

    python -m experiments.wikitext2_transfer --scale smoke
    python -m experiments.wikitext2_transfer --scale small --data WIKITEXT2
    python -m experiments.wikitext2_transfer --scale paper --data WIKITEXT2 --genotype DARTS_V2 runs/mine/genotype.json

A genotype is a published cell by name, or a file such as a run's genotype.json. WIKITEXT2 is a folder with
wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens. ``smoke`` takes seconds on the text that is part of Python;
``small`` takes the first 150,000 words and networks of width 32: half an hour of a core for 3 seeds. Started again, it
goes on, also within a run and with more genotypes.

Written to DIR (``--out``): rows.jsonl (a row for every genotype and seed), table.md, about.json (settings, commands,
versions, machine), runs/ (run directories) and, at the smaller scales, text/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isnas import Genotype, get_space
from isnas.codes.choices import Choices
from isnas.commands.evaluate import evaluation_job
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.trials import run_or_resume
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.records import RunRecord
from isnas.runtime.options import Composition
from isnas.runtime.randomness import generator
from isnas.spaces.recurrent import GENOTYPES

from ._command import Launch, Parser, origin, run_command, run_module
from ._runs import seconds
from ._texts import Excerpt
from .ptb_recurrent import DATA, NO_DROPOUT, SMALL, SMALL_TEXT

GIVEN = ("DARTS_V1", "DARTS_V2", "ENAS_LM")
"""The genotypes that are trained when none is given: those of eight nodes, all with as many parameters."""

RANDOM = "random cell"

RECIPE = evaluation_schema(get_space("recurrent"))


@dataclass(frozen=True)
class Size:
    """The size of the experiment.

    Parameters
    ----------
    text : Excerpt
    seeds : int
    options : Composition
        Options of the training.
    """

    text: Excerpt
    seeds: int
    options: Composition


_OF_SEARCH = ("epochs", "evaluation_epochs")

SCALES = {
    "smoke": Size(
        Excerpt("text", 1_500, 500, 500),
        1,
        RECIPE.compose(width=4, batch_size=8, bptt=20, epochs=1, threads=1, **NO_DROPOUT),
    ),
    "small": Size(
        SMALL_TEXT,
        3,
        RECIPE.compose(
            **{name: value for name, value in SMALL.items() if name not in _OF_SEARCH},
            epochs=SMALL["evaluation_epochs"],
        ),
    ),
    "paper": Size(Excerpt("wikitext-2"), 1, RECIPE.compose("wikitext2")),
}

PUBLISHED = (
    ("DARTS, second order", "71.2", "69.6", "33 M"),
    ("ENAS, trained by DARTS's authors", "72.4", "70.4", "33 M"),
    ("LSTM (Merity et al.)", "69.1", "66.0", "33 M"),
)
"""Validation and test perplexity on WikiText-2 and parameters, as DARTS's paper has them (ICLR 2019, table 4)."""


def run_trial(
    name: str, seed: int, text: str, options: Composition, directory: Path
) -> dict[str, Any]:
    """Train the network of a genotype (in text form) with one seed, in whatever process."""
    done = run_or_resume(evaluation_job(Genotype.parse(text), options), directory)
    result, record = done.results["evaluate"], RunRecord(directory)
    return {
        "name": name,
        "seed": seed,
        "genotype": text,
        "test_perplexity": result["test_perplexity"],
        "valid_perplexity": float(min(record.epochs("evaluate")["valid_perplexity"])),
        "parameters": result["parameters"],
        "seconds": seconds(record, "evaluate"),
    }


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    header = ("cell", "runs", "validation perplexity", "test perplexity", "parameters", "cost")
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        of_name = [row for row in rows if row["name"] == name]
        lines.append(
            (
                name,
                str(len(of_name)),
                mean_and_deviation([row["valid_perplexity"] for row in of_name], 1),
                mean_and_deviation([row["test_perplexity"] for row in of_name], 1),
                f"{of_name[0]['parameters']:,}",
                f"{mean_and_deviation([row['seconds'] for row in of_name], 0)} s",
            )
        )
    lines += [(f"*published: {name}*", "", *values, "") for name, *values in PUBLISHED]
    settings = about["settings"]
    note = ""
    if settings["scale"] != "paper":
        note = (
            f"The text here is an excerpt of {settings['data']}, and networks are small: the published results are no "
            "measure for these.\n\n"
        )
    return (
        f"# Recurrent cells on WikiText-2, scale {settings['scale']}\n\n{markdown_table(header, lines)}\n"
        "Mean and standard deviation over seeds; of random cells each is another one. Perplexity: lower is better.\n\n"
        f"{note}{origin(about)}"
    )


def run(launch: Launch, *, genotype: Sequence[str] = GIVEN) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says."""
    size = SCALES[launch.scale]
    space = get_space("recurrent")
    cells = {name: str(Genotype.load(name, space)) for name in genotype}
    with launch.opened(__name__, ("name", "seed"), size, size.text) as experiment:
        trials = []
        for seed in experiment.seeds:
            options = experiment.options(size.options, seed)
            drawn = str(Choices(space).random(generator(seed, "random cell")))
            for name, text in {**cells, RANDOM: drawn}.items():
                shown = name if name in (*GENOTYPES, RANDOM) else Path(name).name
                key = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
                trials.append((shown, seed, text, options, experiment.runs / f"{key}-{seed}"))
        experiment.run(
            run_trial,
            trials,
            table=table_text,
            describe=lambda row: (
                f"{row['name']}, seed {row['seed']}: test perplexity {row['test_perplexity']:.1f}"
            ),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "Recurrent cells on WikiText-2.", SCALES, DATA, images=False)
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
