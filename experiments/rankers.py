"""Rankers: how well do scores that need no training rank architectures in the space of DARTS?

A table has the accuracy on CIFAR-10 of random genotypes, each trained alone. Some of them are scored as they are
initialised, by what the searches without training score by (`isnas.searches.rankers`); Kendall's tau compares ranks.
The number of convolutions, which needs no network at all, stands beside them.

    python -m experiments.rankers --scale smoke --table TABLE
    python -m experiments.rankers --scale small --table TABLE --data FOLDER
    python -m experiments.rankers --scale paper --table TABLE --data cifar10

TABLE is a CSV, plain or compressed, with the columns ``genotype``, as DARTS writes it, and another one, the accuracy in
per cent. DARTS's ``none`` stands for no operation: such a node reads fewer states. ``smoke`` takes seconds on digits;
``small`` scores 120 genotypes in networks of 8 channels and 5 cells, on images of CIFAR-10 shrunk to 16 x 16 pixels, in
minutes of a core; ``paper`` scores all of them in networks of the published size. Started again, it goes on.

Written to DIR (``--out``): rows.jsonl (a row for every genotype and seed), table.md, about.json (settings, commands,
versions, machine) and images/.
"""

from __future__ import annotations

import csv
import gzip
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isnas import DARTS_SPACE, Genotype, UserError
from isnas.comparison.rows import markdown_table
from isnas.networks.counting import count_multiply_adds, count_parameters
from isnas.networks.registry import build_network
from isnas.runtime.devices import resolve_device
from isnas.runtime.randomness import generator
from isnas.searches.rankers import az_nas, log_ranks, naswot
from isnas.spaces.genotype import CellGenotype, Edge
from isnas.tasks.base import OptimizerOptions
from isnas.tasks.images import Dataset, load_dataset
from isnas.tasks.registry import TASKS

from ._command import Launch, Parser, origin, run_command, run_module
from ._images import Subset
from ._statistics import interval_text, mean_tau

CONVOLUTIONS = "number of convolutions"

MARKS = ("expressivity", "progressivity", "trainability", "multiply_adds")
"""The scores that AZ-NAS puts together."""


@dataclass(frozen=True)
class Scale:
    """The size of the experiment.

    Parameters
    ----------
    images : Subset
    seeds : int
        The default of ``--seeds``: draws of initial weights and images.
    channels, cells : int
        Size of the networks.
    batch_size : int
    genotypes : int or None
        How many are scored, drawn at random; None: all.
    """

    images: Subset
    seeds: int
    channels: int
    cells: int
    batch_size: int
    genotypes: int | None


SCALES = {
    "smoke": Scale(Subset("digits", 96, 20), 2, 2, 3, 16, 6),
    "small": Scale(Subset("cifar10", 1_024, 10, 16), 1, 8, 5, 32, 120),
    "paper": Scale(Subset("cifar10"), 3, 36, 20, 64, None),
}


def read_table(path: str | Path) -> list[tuple[Genotype, float]]:
    """Read genotypes and accuracies, in per cent; a genotype with an operation twice in a node counts it once.

    Raises
    ------
    UserError
        When the file cannot be read or is no such table: it names the line.
    """
    path = Path(path)
    found = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            reader = csv.reader(file)
            next(reader, None)
            for text, accuracy in reader:
                found.append((_genotype(text), float(accuracy)))
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}; expected a genotype and an accuracy"
        ) from None
    if not found:
        raise UserError(f"{path} has no lines")
    return found


def _genotype(text: str) -> Genotype:
    pairs = re.findall(r"\('(\w+)', (\d+)\)", text)
    size = 2 * DARTS_SPACE.nodes
    if len(pairs) != len(DARTS_SPACE.kinds) * size:
        raise ValueError(f"no genotype of DARTS: {text:.60}")
    cells = []
    for i, kind in enumerate(DARTS_SPACE.kinds):
        edges = [Edge(operation, int(source)) for operation, source in pairs[i * size :][:size]]
        nodes = [
            tuple(dict.fromkeys(edge for edge in edges[j : j + 2] if edge.operation != "none"))
            for j in range(0, size, 2)
        ]
        cells.append((kind, CellGenotype(tuple(nodes), DARTS_SPACE.concat)))
    found = Genotype(DARTS_SPACE, tuple(cells))
    DARTS_SPACE.check(found)
    return found


@lru_cache(maxsize=1)
def _dataset(data: str, root: str) -> Dataset:
    return load_dataset(data, root=root)


@lru_cache(maxsize=1)
def _table(path: str) -> list[tuple[Genotype, float]]:
    return read_table(path)


def run_trial(
    number: int, seed: int, table: str, scale: Scale, data: str, root: str, device: str
) -> dict[str, Any]:
    """Score a genotype of the table, in whatever process.

    Returns
    -------
    dict
        ``number``, ``seed``, ``accuracy`` in per cent, the scores by name, and processor seconds of two of them.
    """
    torch.set_num_threads(1)
    genotype, accuracy = _table(table)[number]
    where, dataset = resolve_device(device), _dataset(data, root)
    feed = TASKS["images"].scoring_feed(
        dataset, OptimizerOptions(batch_size=scale.batch_size), seed=seed, device=where
    )
    images = next(iter(feed.epoch(0)))[0]
    shape = {"classes": len(dataset.classes), "in_channels": dataset.channels}
    network = build_network(
        genotype, seed=seed, channels=scale.channels, cells=scale.cells, **shape
    )
    row: dict[str, Any] = {
        "number": number,
        "seed": seed,
        "accuracy": accuracy,
        CONVOLUTIONS: sum(
            "conv" in edge.operation
            for _, cell in genotype.cells
            for edges in cell.nodes
            for edge in edges
        ),
        "parameters": count_parameters(network),
        "multiply_adds": count_multiply_adds(network, dataset.size),
    }
    network = network.to(where).train()
    used = time.process_time()
    row["naswot"] = naswot(network, images)
    row["naswot_seconds"] = round(time.process_time() - used, 3)
    noise = torch.randn(images.shape, generator=generator(seed, "random images")).to(where)
    used = time.process_time()
    row |= az_nas(network, noise, seed=seed)
    row["az_nas_seconds"] = round(time.process_time() - used, 3)
    return row


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    settings = about["settings"]
    seeds = sorted({row["seed"] for row in rows})
    whole = set.intersection(*({r["number"] for r in rows if r["seed"] == s} for s in seeds))
    title = f"# Scores without training in the space of DARTS, scale {settings['scale']}\n\n"
    if len(whole) < 2:
        return f"{title}Fewer than two genotypes are scored yet.\n\n{origin(about)}"
    of_seed = [
        sorted((r for r in rows if r["seed"] == s and r["number"] in whole), key=_number)
        for s in seeds
    ]
    accuracies = np.array([[row["accuracy"] for row in of_seed[0]]])
    scores = {
        name: [[row[name] for row in some] for some in of_seed]
        for name in (CONVOLUTIONS, "parameters", "multiply_adds", "naswot", *MARKS[:3])
    }
    marks = [[{name: row[name] for name in MARKS} for row in some] for some in of_seed]
    scores["az-nas: their log-ranks and multiply-adds"] = [log_ranks(some) for some in marks]
    seconds = {
        "naswot": np.mean([row["naswot_seconds"] for row in rows]),
        "az-nas: their log-ranks and multiply-adds": np.mean(
            [row["az_nas_seconds"] for row in rows]
        ),
    }
    lines = [
        (
            name.replace("_", "-"),
            interval_text(mean_tau(np.array(values), accuracies)),
            f"{seconds[name]:.2f}" if name in seconds else "",
        )
        for name, values in scores.items()
    ]
    header = ("score", "Kendall's tau", "processor seconds each")
    return (
        f"{title}{markdown_table(header, lines)}\n"
        f"Kendall's tau-b of {len(whole)} random genotypes between the score and the accuracy that the table "
        f"`{settings['table']}` has, the mean over {len(seeds)} draws of weights and images; in brackets the 95 % "
        f"interval by the bootstrap over genotypes. Networks of {settings['channels']} channels and "
        f"{settings['cells']} cells, batches of {settings['batch_size']}. AZ-NAS's scores stand by "
        f"themselves, too.\n\n{origin(about)}"
    )


def _number(row: dict[str, Any]) -> int:
    return row["number"]


def _said(row: dict[str, Any]) -> str:
    return (
        f"genotype {row['number']}, seed {row['seed']}: {row['accuracy']:.2f} %, "
        f"naswot {row['naswot']:.1f}, trainability {row['trainability']:.2f}"
    )


@dataclass(frozen=True)
class _Size(Scale):
    """A scale and the table that it is for: both are settings of the rows."""

    table: str = ""


def run(launch: Launch, *, table: str) -> None:
    """Score what is not in `launch.out` yet, and write what this module's docstring says."""
    size = SCALES[launch.scale]
    number = len(_table(table))
    if size.genotypes is not None and size.genotypes > number:
        raise UserError(f"{table} has {number} genotypes; this scale needs {size.genotypes}")
    order = torch.randperm(number, generator=generator(0, "genotypes"))[: size.genotypes].tolist()
    named = _Size(**vars(size), table=Path(table).name)
    with launch.opened(__name__, ("number", "seed"), named) as experiment:
        trials = [
            (i, seed, table, size, experiment.images, launch.data_root, launch.device)
            for seed in experiment.seeds
            for i in order
        ]
        experiment.run(run_trial, trials, table=table_text, describe=_said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "Scores without training: do they rank architectures?", SCALES)
    parser.add_argument("--table", metavar="PATH", required=True, help="genotypes and accuracies")
    return run_command(parser, run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
