"""A second ground truth: what do searches find among whole networks, where the accuracy of every one is known?

NAS-Bench-Macro has the test accuracy on CIFAR-10 of each of the 6,561 networks of the space `chain`, trained three
times. Varied: the method. ``sparse smoothed`` is the preset `smoothed` of `ista-two-stage`, ``sparse published`` the
same search by the coefficients, as published. Against them stand

- ``random sharing``, ``darts``, first and second order, ``gdas``, ``enas``, with their own constants, but for what the
  scale says;
- ``random search``, ``evolution``, ``reinforce``: these train each network that they ask for by itself. Their signal is
  the table's first training. That is more than a search could know: a test accuracy (the table has no other), and a
  third of the mean of three that all methods are judged by;
- rows that search nothing: the optimum, the largest network, networks with a block in every layer, the best of 100
  random networks by the first training, the mean.

Each layer has three candidate operations, of which exactly one is active, s = 1. The balanced matrix of the smoothed
search leaves a code of m = 2 numbers: nothing of the differences of three candidates is lost. Where s = 1 in a chain,
the coefficients of the published search say little: a layer's coefficient multiplies all that the next layer gets, and
the batch norm there takes it back, but for what goes past it through the block's residual connection.

    python -m experiments.nasbench_macro --scale smoke --table TABLE
    python -m experiments.nasbench_macro --scale small --table TABLE --data FOLDER
    python -m experiments.nasbench_macro --scale paper --table TABLE --data cifar10

TABLE is a CSV as `MacroTable.read` reads it. ``smoke`` takes seconds on digits; ``small`` takes one to three minutes of
a core for a search, on images of 16 x 16 pixels in a super-net of an eighth of the benchmark's channels; ``paper`` has
the benchmark's images and channels and wants a GPU. Started again, it goes on. Trials go through joblib; inside
`joblib.parallel_config` another backend takes them to a cluster.

Written to DIR: rows.jsonl (a row for every trial), table.md, about.json (settings, command, versions, machine), and
images.pt, the images that the trials share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from isnas.codes.choices import Choices
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.statistics import rank_correlation
from isnas.searches.base import SupernetSearch
from isnas.searches.registry import create_search
from isnas.spaces.chain import CHAIN_SPACE, LAYERS, all_networks, canonical_string
from isnas.tabular.nasbench_macro import SIZES, TRAININGS, MacroTable
from isnas.tasks.images import Dataset

from ._command import Launch, Parser, origin, run_command, run_module
from ._statistics import interval_text, mean_interval
from ._tabular import (
    BY_TABLE,
    above_table,
    ask,
    carry_out,
    chosen_of,
    images_of,
    run_searches,
    scores_of,
)

SMOOTHED = "sparse smoothed"

SEARCHES: dict[str, str] = {
    SMOOTHED: "ista-two-stage",
    "random sharing": "random-sharing",
    "gdas": "gdas",
    "darts first order": "darts-1",
    "enas": "enas",
    "sparse published": "ista-two-stage",
    "darts second order": "darts-2",
}
"""The searches with a super-net, by their names in the registry."""

METHODS = (*SEARCHES, *BY_TABLE)

SIGNAL = TRAININGS[0]
"""The training that searches by the table learn from."""

FULL_EPOCHS, FULL_IMAGES = 50, 50_000
"""Epochs and images of a training of the table (the benchmark's code, train/train.py)."""


@dataclass(frozen=True)
class Scale:
    """The size of an experiment.

    Parameters
    ----------
    data : str
        The default of ``--data``.
    images : int or None
        Training images, the same random ones in all trials; None: all.
    size : int or None
        Side in pixels that the images are shrunk to; None: as they are.
    channels, features : int
        Size of the super-net, see `isnas.networks.chain.ChainOptions`.
    epochs, batch_size, learning_rate, code_learning_rate
        Options of the search; `code_learning_rate` is for sparse coding.
    seeds : int
        The default of ``--seeds``.
    asked : int
        Networks that a method that trains each by itself may ask for.
    scored, scoring_images : int
        Random networks that a super-net scores, and on how many validation images.
    epochs_of : mapping of str to int
        Epochs of single methods: those with which they take about as much processor time as the others.
    """

    data: str
    images: int | None
    size: int | None
    channels: int
    features: int
    epochs: int
    batch_size: int
    learning_rate: float
    code_learning_rate: float
    seeds: int
    asked: int
    scored: int
    scoring_images: int
    epochs_of: Mapping[str, int] = field(default_factory=dict)


SCALES = {
    "smoke": Scale("digits", 192, None, 2, 16, 2, 32, 0.05, 6e-3, 2, 20, 20, 32),
    # the rate of the code is such that it gets as far in these steps as on NAS-Bench-201 in three times as many
    "small": Scale(
        "cifar10",
        None,
        16,
        4,
        64,
        6,
        96,
        0.1,
        1.2e-2,
        10,
        100,
        100,
        512,
        {"random sharing": 10, "gdas": 5, "darts first order": 3, "darts second order": 1},
    ),
    "paper": Scale("cifar10", None, None, 32, 1280, 50, 96, 0.1, 4e-3, 10, 100, 200, 5_120),
}

RANKED_SEEDS = 2
"""Number of seeds with which the ranking of random networks by searches is measured. It is no part of a search."""

WEIGHT_DECAY = 5e-4


def search_of(
    method: str, seed: int, scale: Scale, dataset: Dataset, device: torch.device
) -> SupernetSearch:
    """Return a search with a super-net."""
    changes: dict[str, Any] = {
        "channels": scale.channels,
        "features": scale.features,
        "batch_size": scale.batch_size,
        "epochs": scale.epochs_of.get(method, scale.epochs),
        "learning_rate": scale.learning_rate,
        "weight_decay": WEIGHT_DECAY,
        "seed": seed,
    }
    if method == SMOOTHED:
        changes["preset"] = "smoothed"
    if method.startswith("sparse"):
        changes["code_learning_rate"] = scale.code_learning_rate
    if method == "random sharing":
        changes["candidates"] = scale.scored
        changes["validation_amount"] = scale.scoring_images
    return create_search(SEARCHES[method], CHAIN_SPACE, dataset, device, **changes)


# Trials


def run_trial(
    method: str, seed: int, scale: Scale, images: Path, signal: np.ndarray | None, device: str
) -> dict[str, Any]:
    """Run one search, in whatever process.

    Returns
    -------
    dict
        ``method``, ``seed``, ``found`` and the rest of what `experiments._tabular.carry_out` says; ``scores`` of random
        networks.
    """
    row: dict[str, Any] = {"method": method, "seed": seed, "trajectory": [], "scores": {}}
    if signal is not None:
        known = dict(zip(all_networks(), signal.tolist(), strict=True))
        row["found"] = str(ask(method, seed, scale.asked, CHAIN_SPACE, lambda g: known[str(g)]))
        row["trained"] = FULL_EPOCHS * FULL_IMAGES * scale.asked
        # a look into a table: its time says nothing of the search
        return {**row, "evaluated": 0, "seconds": None, "processor_seconds": None}
    search, _, found = carry_out(
        lambda data, where: search_of(method, seed, scale, data, where), images, device
    )
    row |= found
    if seed < RANKED_SEEDS:
        draw = Choices(CHAIN_SPACE).random
        row["scores"] = scores_of(search, draw, scale.scored, scale.scoring_images)
    return row


def judged(row: dict[str, Any], table: MacroTable) -> dict[str, Any]:
    """Return a trial's row with the truth: accuracy, rank, size, blocks, Kendall's tau of the scores."""
    known = {network: table.accuracy(network) for network in row["scores"]}
    found = table[row["found"]]
    scored = list(row["scores"].values())
    return {
        "method": row["method"],
        "seed": row["seed"],
        "network": row["found"],
        "accuracy": found.accuracy,
        "rank": table.rank(row["found"]),
        "blocks": LAYERS - row["found"].count("0"),
        "parameters": found.parameters,
        "multiply_adds": found.multiply_adds,
        "tau": rank_correlation(scored, list(known.values())) if known else None,
        **{name: row[name] for name in ("trained", "evaluated", "seconds", "processor_seconds")},
        "trajectory": [[n, table.accuracy(n)] for n in row["trajectory"]],
        "scores": [[n, row["scores"][n], known[n]] for n in known],
    }


# The table

REFERENCES = {
    "optimum": "the optimum",
    "largest": "the largest network, 5x5 blocks in all layers",
    "blocks": "the mean of the 256 networks with a block in every layer",
    "asked": "the best of 100 random networks by the first training, mean of 1,000 draws",
    "mean": "the mean of all networks",
}
"""The networks that the found ones are compared with."""


def references(table: MacroTable) -> dict[str, float]:
    """Return the accuracies of `REFERENCES`."""
    truth, signal = table.accuracies, table.column(SIGNAL)
    drawn = np.random.default_rng(0).integers(len(truth), size=(1000, 100))
    asked = drawn[np.arange(len(drawn)), signal[drawn].argmax(1)]
    full = np.array(["0" not in network for network in all_networks()])
    return {
        "optimum": float(truth.max()),
        "largest": float(truth[table.position("2" * LAYERS)]),
        "blocks": float(truth[full].mean()),
        "asked": float(truth[asked].mean()),
        "mean": float(truth.mean()),
    }


def rankers(table: MacroTable) -> dict[str, float]:
    """Return Kendall's tau with the truth of what is known without a search.

    Over the 3,969 networks that are different: the table has the others as copies, which tie in everything. Last stand
    two trainings against each other, mean of all pairs: the ceiling of what any score of one training can reach.
    """
    kept = np.array([canonical_string(network) == network for network in all_networks()])
    truth = table.accuracies[kept]
    blocks = np.array([LAYERS - network.count("0") for network in all_networks()])
    trainings = table.trainings[:, kept]
    pairs = [(i, j) for i in range(len(trainings)) for j in range(i)]
    taus = [rank_correlation(trainings[i], trainings[j]) for i, j in pairs]
    return {
        **{name: rank_correlation(table.column(name)[kept], truth) for name in SIZES},
        "blocks": rank_correlation(blocks[kept], truth),
        "another training": float(np.mean(taus)),
    }


def rankers_text(taus: Mapping[str, float]) -> str:
    """Return what ranks networks without a search, in words."""
    return (
        "Kendall's tau with the truth, over the 3,969 networks that are different: parameters "
        f"{taus['parameters']:.2f}, multiply-adds {taus['multiply_adds']:.2f}, number of blocks "
        f"{taus['blocks']:.2f}. Two trainings of the table agree by {taus['another training']:.2f}: more no score of "
        "one training can reach.\n\n"
    )


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    settings = about["settings"]
    header = (
        "method",
        "seeds",
        "accuracy",
        "median rank",
        "blocks",
        "parameters (M)",
        "multiply-adds (M)",
        "images trained on",
        "images evaluated",
        "processor seconds",
        "Kendall's tau",
    )
    lines: list[tuple[str, ...]] = []
    for method in METHODS:
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        seconds = [row["processor_seconds"] for row in of_method]
        taus = [row["tau"] for row in of_method if row["tau"] is not None]
        lines.append(
            (
                method,
                str(len(of_method)),
                mean_and_deviation([row["accuracy"] for row in of_method]),
                f"{median(row['rank'] for row in of_method):,g}",
                mean_and_deviation([row["blocks"] for row in of_method], 1),
                mean_and_deviation([row["parameters"] / 1e6 for row in of_method]),
                mean_and_deviation([row["multiply_adds"] / 1e6 for row in of_method], 1),
                f"{of_method[0]['trained']:,}",
                f"{of_method[0]['evaluated']:,}",
                "" if None in seconds else mean_and_deviation(seconds, 1),
                f"{mean_and_deviation(taus)} ({len(taus)})" if taus else "",
            )
        )
    for name, text in REFERENCES.items():
        value = f"{settings['references'][name]:.2f}"
        lines.append((f"*reference: {text}*", "", value, *("",) * 8))
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        found.setdefault(row["method"], {})[row["seed"]] = row["accuracy"]
    levels = {
        f"above {text}": settings["references"][name]
        for name, text in (
            ("mean", "the mean"),
            ("blocks", "all blocks"),
            ("largest", "the largest"),
        )
    }
    above = above_table(found, METHODS, levels, SMOOTHED)
    if above:
        above = f"Points of accuracy, means with 95 % intervals by Student's t:\n\n{above}\n"
    return (
        f"# Searches on NAS-Bench-Macro, scale {settings['scale']}\n\n"
        f"{markdown_table(header, lines)}\n"
        "Test accuracy on CIFAR-10 in per cent, the mean of the benchmark's three trainings: mean and standard "
        "deviation over seeds; the rank is by it, of 6,561. Searches that ask the table see the first training, a "
        "third of what they are judged by. Images are counted as often as they pass a network, forwards and backwards "
        f"(trained on) or forwards only (evaluated); those of {', '.join(BY_TABLE)} pass the benchmark's networks, in "
        f"{FULL_EPOCHS} epochs of {FULL_IMAGES:,}, those of the others a super-net of {settings['channels']} channels "
        f"with {settings['epochs']} epochs, or as many as the settings in about.json say. "
        "Kendall's tau compares the super-net's validation accuracy of random networks with the truth; in brackets the "
        "number of seeds that it was measured for.\n\n"
        f"{rankers_text(settings['rankers'])}"
        f"{above}{tau_text(rows)}"
        f"{origin(about)}"
    )


def tau_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return how far a super-net's scores say more than the number of blocks, in words.

    Among networks with as many blocks: the mean of Kendall's tau over their numbers, each weighted by its pairs.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        sums = np.zeros(2)
        for number in range(LAYERS + 1):
            alike = [(s, t) for n, s, t in row["scores"] if LAYERS - n.count("0") == number]
            tau = rank_correlation(*zip(*alike, strict=True)) if len(alike) > 2 else None
            if tau is not None:
                pairs = len(alike) * (len(alike) - 1) / 2
                sums += pairs * tau, pairs
        if sums[1]:
            found.setdefault(row["method"], []).append(float(sums[0] / sums[1]))
    if not found:
        return ""
    each = "; ".join(
        f"{method} {interval_text(mean_interval(found[method]))}"
        for method in METHODS
        if method in found
    )
    return f"Kendall's tau of the scores among networks with the same number of blocks: {each}.\n\n"


# The command


def run(launch: Launch, *, table: MacroTable, methods: Sequence[str] = METHODS) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says."""
    size = SCALES[launch.scale]
    data = launch.data or size.data
    settings = {
        "scale": launch.scale,
        **asdict(size),
        "data": Path(data).name,
        "references": references(table),
        "rankers": rankers(table),
        "table": hashlib.blake2b(table.values.tobytes(), digest_size=8).hexdigest(),
    }
    del settings["seeds"]  # not of the rows
    signal = table.column(SIGNAL)
    # one method after the other: each has its seeds before the next begins
    trials = [
        (
            method,
            seed,
            size,
            images_of(launch),
            signal if method in BY_TABLE else None,
            launch.device,
        )
        for method in methods
        for seed in range(launch.seeds or size.seeds)
    ]
    run_searches(
        launch,
        size,
        data,
        trials,
        run_trial,
        module=__name__,
        settings=settings,
        judged=lambda row: judged(row, table),
        table_text=table_text,
        describe=_said,
    )


def _said(row: dict[str, Any]) -> str:
    spent = "" if row["seconds"] is None else f", {row['seconds']:.0f} s"
    return (
        f"{row['method']}, seed {row['seed']}: {row['network']}, {row['accuracy']:.2f} %, "
        f"rank {row['rank']}{spent}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "Searches on NAS-Bench-Macro, judged by its table.", SCALES)
    parser.add_argument("--table", metavar="PATH", required=True, help="the accuracies, a CSV")
    parser.add_argument(
        "--methods", metavar="NAME", nargs="+", default=METHODS, help="names or their beginnings"
    )

    def launched(launch: Launch, *, table: str, methods: Sequence[str]) -> None:
        run(launch, table=MacroTable.read(table), methods=chosen_of(methods, METHODS))

    return run_command(parser, launched, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
