"""Ground truth: what do searches find, where the accuracy of every cell is known?

NAS-Bench-201 has the test accuracy of each of its 15,625 cells after 200 epochs of training, so a search can be judged
the moment it ends.

Varied: the method. Of sparse coding as published the recovery rule (``truncate``, ``path``, ``best_subset``), the
measurement matrix (Gaussian, uniform) and re-encoding, and ``sparse smoothed``: the preset `smoothed` of
`ista-two-stage`, see `isnas.searches.two_stage`. ``crossed`` stands for 24 variants that cross what is in it but the
score: the cut by |z|, by value or over z >= 0, a Gaussian matrix or one in which the operations of an edge compete,
the architecture of b alone or of b perturbed, weights that learn on it from the beginning or on fair paths first; all
learn through the coefficients. They run when they are asked for. Against them stand

- ``darts``, first and second order, ``gdas``, ``enas``, ``hm-nas`` and ``random sharing``, with their own constants,
  but for what the scale says;
- ``random search``, ``evolution``, ``reinforce`` at the two rates of the benchmark's codes: these train each cell that
  they ask for by itself. Their signal is the table's validation accuracy on CIFAR-10 after 12 epochs; what that
  training would have cost is counted: 12 epochs of 25,000 images for each cell asked, whether or not it was asked
  before;
- ``sparse smoothed by steps``, the smoothed search by the losses of the weights' own steps (`--score-losses steps`),
  which runs when it is asked for;
- ``sparse finalists``, the smoothed search and then finalists (`isnas.searches.finalists`), and ``successive halving``
  of random cells: these train cells by themselves on the images. They run when they are asked for, and are meant for
  the scale ``finalists``;
- searches without training: ``most parameters``, ``most multiply-adds``, ``naswot`` and ``az-nas`` rank random cells by
  the scores of `isnas.searches.rankers`, ``zero-cost-pt`` removes operations from an untrained super-net;
- rows that search nothing: random cells, the best of some by the table's short training, the cells with most
  convolutions, parameters or multiply-adds, all edges with a 3x3 convolution, the optimum.

The three nodes of a cell have 1, 2 and 3 edges with four operations each, n = 4, 8, 12 candidate places. The code keeps
s = 1, 2, 3 of them, one for each edge, so every edge has an operation; ``none`` would only be found with a smaller s.
Codes of m = 3, 5, 7 are shorter than n, as the method wants, and long enough for such a z: of random ones with Gaussian
non-zeros, one for each edge, the best subset recovered all, the cut LASSO 70 to 95 per cent (150 draws for each node).

    python -m experiments.nasbench201 --scale smoke --table TABLE
    python -m experiments.nasbench201 --scale small --table TABLE --data FOLDER --jobs 2
    python -m experiments.nasbench201 --scale ranks --table TABLE --data FOLDER --methods "sparse smoothed" darts gdas
    python -m experiments.nasbench201 --scale finalists --table TABLE --data FOLDER --methods "sparse finalists"
    python -m experiments.nasbench201 --scale cheap --table TABLE --data FOLDER --methods crossed
    python -m experiments.nasbench201 --scale paper --table TABLE --data cifar10

TABLE is a CSV as `Table.read` reads it. ``smoke`` takes seconds on digits; ``small`` takes 20 seconds of a core for a
search by sparse coding on 2,048 images (DARTS a minute, of second order three), an hour and a half in all; ``ranks``
takes four to eight minutes of a core for every search with shared weights, on images of 16 x 16 pixels: there a
super-net that was trained on fair paths ranks cells (Kendall's tau about 0.4 to 0.6 with the truth), which it does not
at ``small``; ``deep`` has two cells a stage and takes ten minutes for a smoothed search; ``finalists`` trains
networks of three cells a stage besides and takes half an hour for a search; ``cheap`` takes half a minute for a search
on such images, with a quarter of them and half the channels, for many variants with many seeds; ``paper`` has the
benchmark's setting of search and wants a GPU. Started again, it goes on. Trials go through joblib; inside
`joblib.parallel_config` another backend takes them to a cluster.

Written to DIR: rows.jsonl (a row for every trial), table.md, about.json (settings, command, versions, machine), and
images.pt, the images that the trials share. ``python -m figures.nasbench201`` draws the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from isnas import METHODS as REGISTRY
from isnas import NASBENCH201_SPACE, Genotype
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.statistics import rank_correlation
from isnas.networks.counting import count_multiply_adds, count_parameters
from isnas.networks.registry import build_network
from isnas.searches.base import Search
from isnas.searches.registry import create_search
from isnas.spaces.nasbench201 import NONE, all_cells, random_cell, to_string
from isnas.tabular.nasbench201 import DATASETS, Table
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

SPARSE: dict[str, dict[str, Any]] = {
    f"sparse {rule} {matrix}{' reencoded' if reencode else ''}": {
        "rule": rule,
        "matrix": matrix,
        "reencode": reencode,
    }
    for rule in ("truncate", "path", "best_subset")
    for matrix in ("gaussian", "uniform")
    for reencode in (False, True)
}
"""The variants of sparse coding as published, by name."""

CROSSED: dict[str, dict[str, Any]] = {
    f"crossed {rule} {matrix} {'perturbed' if sigma else 'held'} {'fair' if share else 'greedy'}": {
        "rule": rule,
        "matrix": matrix,
        "perturbation": sigma,
        "warm_up_share": share,
    }
    for rule in ("truncate", "signed", "non_negative")
    for matrix in ("gaussian", "balanced")
    for sigma in (0.0, 1.0)
    for share in (0.0, 0.43)
}
"""The variants that cross the parts of the smoothed search but the score, by name."""

SMOOTHED = "sparse smoothed"
OWN_LOSSES = "sparse smoothed by steps"
"""The smoothed search that scores no architectures beside the weights' steps."""

SHARING = "random sharing"
FINALISTS = "sparse finalists"
HALVING = "successive halving"
RANKED = "sparse truncate gaussian"
"""The variant whose super-net scores random cells, too: how well does it rank them?"""

S, M = (1, 2, 3), (3, 5, 7)
"""Active places and length of the code, for each node."""

FULL_EPOCHS, FULL_IMAGES = 12, 25_000
"""Epochs and images of a cell's training for the table's ``val_12``; as many images validate it."""


@dataclass(frozen=True)
class Scale:
    """The size of an experiment.

    Parameters
    ----------
    data : str
        The default of ``--data``.
    images : int or None
        Training images, the same random ones in all trials; None: all.
    channels, cells : int
        Size of the super-net: channels of its first stage, cells of each stage.
    epochs, batch_size, learning_rate, code_learning_rate
        Options of the search; `code_learning_rate` is for sparse coding as published.
    seeds : int
        The default of ``--seeds``.
    asked : int
        Cells that a method that trains each by itself may ask for.
    scored, scoring_images : int
        Random cells that a super-net scores, and on how many validation images.
    constants : str
        Preset of the other methods' constants.
    size : int or None
        Side in pixels that the images are shrunk to; None: as they are.
    epochs_of : mapping of str to int
        Epochs of single methods: those with which they take about as much processor time as the others.
    options_of : mapping of str to mapping
        Options of single methods that are not those of their presets.
    """

    data: str
    images: int | None
    channels: int
    cells: int
    epochs: int
    batch_size: int
    learning_rate: float
    code_learning_rate: float
    seeds: int
    asked: int
    scored: int
    scoring_images: int
    constants: str = "quick"
    size: int | None = None
    epochs_of: Mapping[str, int] = field(default_factory=dict)
    options_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


WEIGHT_DECAY = 5e-4  # of the benchmark's searches; momentum, clipping and the cosine's end are our defaults and theirs

CHILDREN = {
    "channels": 8,
    "cells": 3,
    "batch_size": 96,
    "learning_rate": 0.1,
    "weight_decay": WEIGHT_DECAY,
    "cutout": 0,
}
"""Options of short trainings of cells by themselves."""

RANKS = Scale(
    "cifar10",
    None,
    8,
    1,
    18,
    96,
    0.1,
    6e-3,
    10,
    100,
    200,
    512,
    size=16,
    epochs_of={
        "darts first order": 9,
        "darts second order": 4,
        "hm-nas": 9,
        SHARING: 45,
        "enas": 20,
        "gdas": 13,
    },
)

SCALES = {
    "smoke": Scale("digits", 192, 2, 1, 2, 32, 0.05, 6e-3, 2, 20, 20, 32),
    # the code must get as far in 160 steps as in the published 19,550: its rate is raised as in the preset quick
    "small": Scale("cifar10", 2048, 4, 1, 10, 64, 0.05, 6e-3, 10, 100, 200, 256),
    "ranks": RANKS,
    # deep enough to see what a skip from a cell's input to its output is worth
    "deep": replace(
        RANKS,
        cells=2,
        epochs=24,
        # by their times at ``ranks``; none has been run here
        epochs_of={
            "darts first order": 7,
            "darts second order": 3,
            "hm-nas": 7,
            SHARING: 60,
            "enas": 27,
            "gdas": 24,
        },
        options_of={SMOOTHED: {"warm_up_share": 0.6, "code_batch_size": 48}},
    ),
    # cells by themselves have the depth to see it, and wide paths find what is near to it
    "finalists": replace(
        RANKS,
        options_of={
            FINALISTS: {
                "path_width": 2,
                "finalists": 19,
                "finalist_epochs": 1,
                "finalist_others": "exchanged",
                **{f"evaluation_{name}": value for name, value in CHILDREN.items()},
            },
            # about the time of the whole search above, by that of an epoch of a cell; none has been run to its end
            HALVING: {**CHILDREN, "architectures": 24, "epochs": 3},
        },
    ),
    "cheap": Scale("cifar10", 12_500, 4, 1, 8, 96, 0.1, 6e-3, 20, 100, 200, 512, size=16),
    # the other methods have the benchmark's constants, where there is a preset of these
    "paper": Scale(
        "cifar10",
        None,
        16,
        5,
        50,
        64,
        0.025,
        6e-4,
        10,
        100,
        200,
        5_120,
        "paper",
        epochs_of={"gdas": 250, "enas": 250, SHARING: 250},
    ),
}

RANKED_SEEDS = 2
"""Number of seeds with which the ranking of cells by `RANKED` and other searches is measured: no part of a search."""

PUBLISHED = (
    ("DARTS, both orders: all skips", 54.30, None, "a third party's table"),
    ("ENAS", 54.30, None, "a third party's table"),
    ("random search with shared weights (RSPS)", 87.66, 1.69, "a third party's table"),
    ("GDAS", 93.61, 0.09, "a third party's table"),
    ("random search", 93.70, 0.36, "a third party's text"),
    ("REINFORCE", 93.85, 0.37, "a third party's table"),
    ("regularised evolution", 93.92, 0.30, "unverified"),
)
"""Results on CIFAR-10 of Dong & Yang (ICLR 2020; Dong et al., TPAMI 2021), and where we have seen them quoted."""


# Searches that train each cell by itself


@cache
def _positions() -> dict[str, int]:
    return {cell: position for position, cell in enumerate(all_cells())}


def ask_table(method: str, seed: int, asked: int, known: np.ndarray) -> str:
    """Return the cell that a method of `BY_TABLE` finds when it may ask for `asked` cells.

    Parameters
    ----------
    method : str
    seed : int
    asked : int
    known : array, shape (15625,)
        The signal of each cell, in the order of `isnas.spaces.nasbench201.all_cells`.
    """
    found = ask(
        method,
        seed,
        asked,
        NASBENCH201_SPACE,
        lambda g: float(known[_positions()[to_string(g)]]),
    )
    return to_string(found)


# Searches with a super-net

OTHERS: dict[str, str] = {
    "darts first order": "darts-1",
    "darts second order": "darts-2",
    "gdas": "gdas",
    "enas": "enas",
    "hm-nas": "hm-nas",
    SHARING: "random-sharing",
}
"""The other searches with a super-net, by their names in the registry."""

OTHERS = {name: method for name, method in OTHERS.items() if method in REGISTRY}

FREE: dict[str, str] = {
    "most parameters": "training-free-parameters",
    "most multiply-adds": "training-free-multiply-adds",
    "naswot": "training-free-naswot",
    "az-nas": "training-free-az-nas",
    "zero-cost-pt": "zero-cost-pt",
}
"""The searches without training, by their names in the registry."""

TRAINED: dict[str, str] = {
    FINALISTS: "ista-finalists",
    HALVING: "successive-halving",
}
"""The searches that train cells by themselves on the images, by their names in the registry."""

PROPOSALS = 4
"""Proposals of Zero-Cost-PT; its authors make ten."""

METHODS = (SMOOTHED, *SPARSE, *OTHERS, *FREE, *BY_TABLE)
"""What runs when nothing is asked for."""

KNOWN = (*METHODS, OWN_LOSSES, *TRAINED, *CROSSED)


def search_of(
    method: str, seed: int, scale: Scale, dataset: Dataset, device: torch.device
) -> Search:
    """Return a search on the images, before its first step."""
    changes: dict[str, Any] = {
        "channels": scale.channels,
        "cells": scale.cells,
        "batch_size": scale.batch_size,
        "epochs": scale.epochs_of.get(method, scale.epochs),
        "learning_rate": scale.learning_rate,
        "weight_decay": WEIGHT_DECAY,
        "seed": seed,
    }
    name = {**OTHERS, **TRAINED}.get(method, "ista-two-stage")
    if method in FREE:
        # as many cells as the searches that train each
        own = {"architectures": scale.asked}
        if method == "zero-cost-pt":
            own = {"proposals": PROPOSALS, "validation_batches": 2}
        known = REGISTRY[FREE[method]].schema(NASBENCH201_SPACE).fields
        changes = {**own, **{option: v for option, v in changes.items() if option in known}}
        return create_search(FREE[method], NASBENCH201_SPACE, dataset, device, **changes)
    if method in (SMOOTHED, FINALISTS):
        changes["preset"] = "smoothed"
    elif method == OWN_LOSSES:
        changes |= {"preset": "smoothed", "score_losses": "steps"}
    elif method in SPARSE or method in CROSSED:
        own = {"m": M, "s": S, "code_learning_rate": scale.code_learning_rate}
        changes = {**changes, **{**SPARSE, **CROSSED}[method], **own}
    elif method in OTHERS:
        if scale.constants != "quick" and (
            scale.constants in REGISTRY[name].schema(NASBENCH201_SPACE).presets
        ):
            own = {"preset": scale.constants, "seed": seed}
            return create_search(name, NASBENCH201_SPACE, dataset, device, **own)
        if method == SHARING:
            amount = {"candidates": scale.scored, "validation_amount": scale.scoring_images}
            changes |= amount
        changes["epochs"] = max(changes["epochs"], REGISTRY[name].search.least_epochs)
    changes |= scale.options_of.get(method, {})
    return create_search(name, NASBENCH201_SPACE, dataset, device, **changes)


def scores(stage: Search, scale: Scale, dataset: Dataset, seed: int) -> dict[str, float]:
    """Return the accuracy, in per cent, of random cells with a search's shared weights on validation images.

    The coefficients are 1, also in a super-net trained with a sparse code, which has none for other cells. A search
    without training has scores of its own.
    """
    return scores_of(stage, random_cell, scale.scored, scale.scoring_images)


# Trials


def run_trial(
    method: str, seed: int, scale: Scale, images: Path, table: Table | None, device: str
) -> dict[str, Any]:
    """Run one search, in whatever process.

    Returns
    -------
    dict
        ``method``, ``seed``; ``cell``, the one found; ``trajectory``, the cells that the search held at the beginning
        and after each epoch; ``scores`` of random cells; images ``trained`` on (passed forwards and backwards) and
        ``evaluated`` (forwards only); ``seconds`` and ``processor_seconds`` of the search.
    """
    row: dict[str, Any] = {"method": method, "seed": seed, "trajectory": [], "scores": {}}
    if method in BY_TABLE:
        known = table.column("cifar10", "val_12")
        row["cell"] = ask_table(method, seed, scale.asked, known)
        row["trained"] = FULL_EPOCHS * FULL_IMAGES * scale.asked
        row["evaluated"] = FULL_IMAGES * scale.asked
        # a look into a table: its time says nothing of the search
        return {**row, "seconds": None, "processor_seconds": None}

    stage, dataset, found = carry_out(
        lambda data, where: search_of(method, seed, scale, data, where), images, device
    )
    row |= {"cell": found.pop("found"), **found}
    if method == SHARING:
        row["scores"] = {to_string(cell): 100 * score for cell, score in stage.scores.items()}
    elif (method == RANKED or method in OTHERS or method in FREE) and seed < RANKED_SEEDS:
        row["scores"] = scores(stage, scale, dataset, seed)
    return row


def judged(row: dict[str, Any], table: Table) -> dict[str, Any]:
    """Return a trial's row with the truth: accuracies after 200 epochs, ranks, skips, Kendall's tau of the scores."""
    cell = row["cell"]
    truth = [table.accuracy(scored, "cifar10") for scored in row["scores"]]
    tau = rank_correlation(list(row["scores"].values()), truth) if truth else None
    return {
        "method": row["method"],
        "seed": row["seed"],
        "cell": cell,
        "accuracy": {name: table.accuracy(cell, name) for name in DATASETS},
        "rank": {name: table.rank(cell, name) for name in DATASETS},
        "skips": cell.count("skip_connect"),
        "tau": tau,
        "trained": row["trained"],
        "evaluated": row["evaluated"],
        "seconds": row["seconds"],
        "processor_seconds": row["processor_seconds"],
        "trajectory": [[each, table.accuracy(each, "cifar10")] for each in row["trajectory"]],
        "scores": [
            [scored, score, true]
            for (scored, score), true in zip(row["scores"].items(), truth, strict=True)
        ],
    }


# The table


REFERENCES = {
    "optimum": "the optimum of each data set",
    "mean": "the mean of all cells",
    # what a search has for nothing when it can choose no other cells, as our codes
    "full": "the mean of the 4,096 cells without none",
    "short": "the best of 100 random cells by 12 epochs of training, mean of 1,000 draws",
    "convolutions": "the mean of the cells with most convolutions, without none",
    "parameters": "the cell with most parameters, and with most multiply-adds: all edges 3x3 convolutions",
}
"""The cells that the found ones are compared with."""


def references(table: Table) -> dict[str, dict[str, float]]:
    """Return the accuracies of `REFERENCES` for each data set."""
    full = np.array([f"|{NONE}~" not in cell for cell in all_cells()])
    most = np.array([cell.count("conv") == 6 for cell in all_cells()])
    return {
        "optimum": {name: float(table.column(name).max()) for name in DATASETS},
        "mean": {name: table.mean(name) for name in DATASETS},
        "full": {name: float(table.column(name)[full].mean()) for name in DATASETS},
        "short": _best_by_short_training(table),
        "convolutions": {name: float(table.column(name)[most].mean()) for name in DATASETS},
        "parameters": {name: table.accuracy(ALL_CONV, name) for name in DATASETS},
    }


ALL_CONV = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
"""The cell that needs no search."""


def _best_by_short_training(table: Table, number: int = 100, draws: int = 1000) -> dict[str, float]:
    """Return the mean accuracy of the best of some random cells by the table's accuracy after 12 epochs."""
    signal = table.column("cifar10", "val_12")
    drawn = np.random.default_rng(0).integers(len(signal), size=(draws, number))
    best = drawn[np.arange(draws), signal[drawn].argmax(1)]
    return {name: float(table.column(name)[best].mean()) for name in DATASETS}


def rankers(table: Table) -> dict[str, float]:
    """Return Kendall's tau with the truth on CIFAR-10 of what is known of a cell without any training.

    Of the number of convolutions, parameters and multiply-adds, over all cells without none.
    """
    full = [cell for cell in all_cells() if f"|{NONE}~" not in cell]
    truth = [table.accuracy(cell, "cifar10") for cell in full]
    # what an operation costs is the same on all edges
    costs = {}
    for operation in NASBENCH201_SPACE.primitives:
        text = ALL_CONV.replace("nor_conv_3x3", operation)
        network = build_network(Genotype.parse(text), channels=16, cells=1)
        costs[operation] = (count_parameters(network), count_multiply_adds(network, (32, 32)))
    least = [min(each) for each in zip(*costs.values(), strict=True)]
    sums = [
        [
            sum(
                (costs[edge.split("~")[0]][k] - least[k])
                for edge in cell.strip("|").replace("|+|", "|").split("|")
            )
            for cell in full
        ]
        for k in range(2)
    ]
    return {
        "number of convolutions": rank_correlation([cell.count("conv") for cell in full], truth),
        "parameters": rank_correlation(sums[0], truth),
        "multiply-adds": rank_correlation(sums[1], truth),
    }


Factors = dict[str, tuple[str, dict[str, Any], dict[str, Any]]]
"""For each factor in words: between what, and the options that differ, of the one and of the other."""

FACTORS: Factors = {
    "re-encoding": ("with and without", {"reencode": True}, {"reencode": False}),
    "matrix": ("Gaussian and uniform", {"matrix": "gaussian"}, {"matrix": "uniform"}),
    "rule path": ("and truncate", {"rule": "path"}, {"rule": "truncate"}),
    "rule best_subset": ("and truncate", {"rule": "best_subset"}, {"rule": "truncate"}),
}
"""The factors that are compared in the variants of sparse coding as published, all else being equal."""

CROSSED_FACTORS: Factors = {
    "cut": ("by value and by magnitude", {"rule": "signed"}, {"rule": "truncate"}),
    "recovery": (
        "over z >= 0 and cut by magnitude",
        {"rule": "non_negative"},
        {"rule": "truncate"},
    ),
    "competition": ("balanced and Gaussian", {"matrix": "balanced"}, {"matrix": "gaussian"}),
    "perturbation": ("with and without", {"perturbation": 1.0}, {"perturbation": 0.0}),
    "fair paths": ("first and never", {"warm_up_share": 0.43}, {"warm_up_share": 0.0}),
}
"""The factors of the crossed variants."""

FAMILIES: dict[str, tuple[dict[str, dict[str, Any]], Factors]] = {
    "Sparse coding as published": (SPARSE, FACTORS),
    "The parts of the smoothed search crossed": (CROSSED, CROSSED_FACTORS),
}


def factor_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return what each factor of sparse coding does, and whether a search gets anywhere, in Markdown.

    One value for each seed, the mean over all settings of the other factors; the interval is Student's.
    """
    return "".join(
        _factor_text(title, variants, factors, rows)
        for title, (variants, factors) in FAMILIES.items()
    )


def _factor_text(
    title: str,
    variants: Mapping[str, dict[str, Any]],
    factors: Factors,
    rows: Sequence[dict[str, Any]],
) -> str:
    of_family = [row for row in rows if row["method"] in variants]
    found = {(row["method"], row["seed"]): row["accuracy"]["cifar10"] for row in of_family}
    seeds = {seed for _, seed in found}
    whole = [seed for seed in sorted(seeds) if all((name, seed) in found for name in variants)]
    if len(whole) < 2:
        return ""
    lines = []
    for factor, (text, one, other) in factors.items():
        pairs = [
            (a, b)
            for a, variant in variants.items()
            for b, against in variants.items()
            if one.items() <= variant.items() and {**variant, **other} == against
        ]
        differences = [fmean(found[a, seed] - found[b, seed] for a, b in pairs) for seed in whole]
        lines.append((f"{factor}: {text}", interval_text(mean_interval(differences), sign=True)))
    gains = [
        fmean(
            row["accuracy"]["cifar10"] - row["trajectory"][0][1]
            for row in of_family
            if row["seed"] == seed
        )
        for seed in whole
    ]
    lines.append(
        ("end and random start of the search", interval_text(mean_interval(gains), sign=True))
    )
    return (
        f"{title}: mean difference of the accuracy on CIFAR-10 between\n\n"
        f"{markdown_table(('what', 'difference [95 % interval]'), lines)}\n"
        f"paired by seed ({len(whole)}), over all variants alike.\n\n"
    )


def rankers_text(taus: Mapping[str, float]) -> str:
    """Return what ranks cells without training, in words."""
    each = ", ".join(f"{name} {tau:.2f}" for name, tau in taus.items())
    return (
        f"Kendall's tau of what needs no training, over the 4,096 cells without none: {each}.\n\n"
    )


def against_text(rows: Sequence[dict[str, Any]], settings: Mapping[str, Any]) -> str:
    """Return how far each method is above random cells, and sparse coding above the others, in Markdown."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        found.setdefault(row["method"], {})[row["seed"]] = row["accuracy"]["cifar10"]
    random = settings["references"]["full"]["cifar10"]
    table = above_table(found, KNOWN, {"above random cells without none": random}, SMOOTHED)
    if not table:
        return ""
    return f"Points of accuracy on CIFAR-10, means with 95 % intervals by Student's t:\n\n{table}\n"


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    settings = about["settings"]
    header = (
        "method",
        "seeds",
        "CIFAR-10",
        "CIFAR-100",
        "ImageNet-16-120",
        "median rank",
        "skips",
        "images trained on",
        "images evaluated",
        "processor seconds",
        "Kendall's tau",
    )
    lines: list[tuple[str, ...]] = []
    for method in KNOWN:
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        seconds = [row["processor_seconds"] for row in of_method]
        taus = [row["tau"] for row in of_method if row["tau"] is not None]
        lines.append(
            (
                method,
                str(len(of_method)),
                *(
                    mean_and_deviation([row["accuracy"][name] for row in of_method])
                    for name in DATASETS
                ),
                f"{median(row['rank']['cifar10'] for row in of_method):,g}",
                mean_and_deviation([row["skips"] for row in of_method], 1),
                f"{of_method[0]['trained']:,}",
                f"{of_method[0]['evaluated']:,}",
                "" if None in seconds else mean_and_deviation(seconds, 1),
                f"{mean_and_deviation(taus)} ({len(taus)})" if taus else "",
            )
        )
    children = ""
    if any(row["method"] in TRAINED for row in rows):
        children = ", and the networks that these describe where cells are trained by themselves"
    empty = ("",) * 6
    for name, text in REFERENCES.items():
        values = (f"{settings['references'][name][each]:.2f}" for each in DATASETS)
        lines.append((f"*reference: {text}*", "", *values, *empty))
    for name, mean, deviation, seen in PUBLISHED:
        value = f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"
        lines.append((f"*reference, published: {name} ({seen})*", "", value, "", "", *empty))
    return (
        f"# Searches on NAS-Bench-201, scale {settings['scale']}\n\n"
        f"{markdown_table(header, lines)}\n"
        "Test accuracy in per cent after 200 epochs, as the benchmark's table has it: mean and standard deviation over "
        "seeds. The rank is on CIFAR-10, of 15,625. Images are counted as often as they pass the network, forwards and "
        "backwards (trained on) or forwards only (evaluated); those of random search, evolution and reinforce pass the "
        f"benchmark's network of 16 channels and 15 cells, those of the others a super-net of "
        f"{settings['channels']} channels and {3 * settings['cells']} cells with {settings['epochs']} epochs, or "
        f"as many as the settings in about.json say{children}. "
        "Kendall's tau compares the super-net's validation accuracy of random cells, or the score of a search without "
        "training, with the truth on CIFAR-10; in brackets the number of seeds that it was measured for.\n\n"
        f"{rankers_text(settings['rankers'])}"
        "Published results stand as quoted by others; none was compared with the authors' own text, and the one marked "
        "unverified is from memory.\n\n"
        f"{against_text(rows, settings)}"
        f"{factor_text(rows)}"
        f"{origin(about)}"
    )


# The command


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the methods that these names mean: a method's own, or words that some begin with.

    Raises
    ------
    UserError
        When a name means none.
    """
    return chosen_of(names, KNOWN)


def run(launch: Launch, *, table: Table, methods: Sequence[str] = METHODS) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says."""
    size = SCALES[launch.scale]
    data = launch.data or size.data
    settings = {
        "scale": launch.scale,
        **asdict(size),
        "data": Path(data).name,
        "m": M,
        "s": S,
        "references": references(table),
        "rankers": rankers(table),
        "table": hashlib.blake2b(table.values.tobytes(), digest_size=8).hexdigest(),
    }
    for name in ("seeds", "constants"):  # not of the rows; follows from the scale
        del settings[name]
    if not size.options_of:  # rows made before there was such a thing are the same
        del settings["options_of"]
    # one seed of all methods after the other: whenever it stops, all have had the same
    trials = [
        (
            method,
            seed,
            size,
            images_of(launch),
            table if method in BY_TABLE else None,
            launch.device,
        )
        for seed in range(launch.seeds or size.seeds)
        for method in methods
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
    accuracy, rank = row["accuracy"]["cifar10"], row["rank"]["cifar10"]
    return f"{row['method']}, seed {row['seed']}: {accuracy:.2f} %, rank {rank}{spent}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "Searches on NAS-Bench-201, judged by its table.", SCALES)
    parser.add_argument("--table", metavar="PATH", required=True, help="the accuracies, a CSV")
    parser.add_argument(
        "--methods", metavar="NAME", nargs="+", default=METHODS, help="names or their beginnings"
    )

    def launched(launch: Launch, *, table: str, methods: Sequence[str]) -> None:
        run(launch, table=Table.read(table), methods=chosen(methods))

    return run_command(parser, launched, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
