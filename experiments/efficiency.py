"""Efficiency: what does a search cost, and what does it find for that?

Two questions, in two kinds of trial:

- ``search``: accuracy against seconds and against images seen. Sparse codes in two stages and in one, DARTS of first
  order and random search with shared weights search with the same super-net for the same epochs; after every epoch the
  validation accuracy is noted, and what was found is trained alone by the same recipe. One-stage training ends with a
  trained network: its search takes as many epochs, then its schedule is as long as that recipe. A random architecture
  costs no search. The validation accuracies are those of the running super-nets, each in its own way (a mixture of all
  operations with DARTS), and fit for comparison within a method; the accuracies alone can be compared.
- ``step``: seconds and memory of a training step against batch size, of a discrete network, of the searches that run
  s operations of a node, and of DARTS. The discrete network is the one that the sparse code has active. Memory is what
  autograd saves for the backward pass, exactly; on a GPU also the peak that PyTorch allocated. A step of the two-stage
  search and of DARTS works on two batches; the table divides by that. Steps are timed one trial at a time, before all
  others: give the machine nothing else to do.

    python -m experiments.efficiency --scale smoke
    python -m experiments.efficiency --scale small --data FOLDER --jobs 2
    python -m experiments.efficiency --scale paper --data cifar10

``smoke`` takes seconds on digits. ``small`` takes 2,048 images of CIFAR-10, whose folder is FOLDER (or ``cifar10`` in
``--data-root``), and networks of 8 channels and 4 cells: an hour and a half of a core, half of it for DARTS.
``paper`` has the published settings of search and training. Started again, it goes on, also within a run.

Written to DIR (``--out``): rows.jsonl (a row for every search and every step), table.md, about.json (settings,
commands, versions, machine), runs/ (run directories) and, at the smaller scales, images/.
``python -m figures.experiments efficiency DIR`` and ``steps DIR`` draw the rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isnas import DARTS_SPACE, Genotype
from isnas.codes.choices import Choices
from isnas.codes.sparse import SparseCode, SparseCodeOptions
from isnas.commands.evaluate import evaluation_job
from isnas.commands.search import search_job
from isnas.comparison.rows import markdown_table, mean_and_deviation
from isnas.comparison.trials import run_or_resume
from isnas.networks.core import Coefficients
from isnas.runs.evaluation import evaluation_schema, from_scratch
from isnas.runs.loop import Stage
from isnas.runs.records import RunRecord
from isnas.runs.training import Training
from isnas.runtime.devices import cpu_threads, resolve_device
from isnas.runtime.memory import saved_bytes
from isnas.runtime.options import Composition
from isnas.runtime.randomness import generator
from isnas.searches.base import Search
from isnas.tasks.images import Dataset
from isnas.tasks.registry import task_of

from ._command import Launch, Parser, origin, run_command, run_module
from ._images import Subset
from ._runs import images, seconds
from ._searches import (
    DARTS,
    ONE_STAGE,
    SEARCHES,
    SHARING,
    TWO_STAGE,
    build_search,
    run_search,
    search_options,
)

RECIPE = evaluation_schema(DARTS_SPACE)

RANDOM, DISCRETE = "random architecture", "discrete network"

STEPS = (DISCRETE, TWO_STAGE, ONE_STAGE, SHARING, DARTS)
"""The methods whose steps are measured."""

WARM_UP = 2
"""Steps before those that are timed."""


@dataclass(frozen=True)
class Scale:
    """The size of the experiment.

    Parameters
    ----------
    images : Subset
    seeds : int
        The default of ``--seeds``: searches of each method.
    preset : str
        Preset of the searches' options.
    alone : Composition
        How what was found is trained.
    batch_sizes : tuple of int
    repeats : int
        Steps that are timed.
    side : int
        Side of the images in these steps, in pixels.
    search : dict
        Options that differ from the preset's, the same for all searches.
    candidates : int or None
        That random search with shared weights scores; None: the preset's.
    """

    images: Subset
    seeds: int
    preset: str
    alone: Composition
    batch_sizes: tuple[int, ...]
    repeats: int
    side: int
    search: dict[str, Any] = field(default_factory=dict)
    candidates: int | None = None


SCALES = {
    "smoke": Scale(
        Subset("digits", 96, 64),
        seeds=1,
        preset="quick",
        alone=RECIPE.compose(channels=2, cells=3, batch_size=32, epochs=1, threads=1),
        batch_sizes=(2, 4),
        repeats=1,
        side=8,
        search={"channels": 2, "cells": 3, "batch_size": 24, "epochs": 2, "threads": 1},
        candidates=3,
    ),
    "small": Scale(
        Subset("cifar10", 2_048, 5_000),
        seeds=3,
        preset="quick",
        alone=RECIPE.compose(epochs=12, threads=1),
        batch_sizes=(8, 16, 32, 64),
        repeats=5,
        side=32,
        search={"epochs": 10, "threads": 1},
    ),
    "paper": Scale(
        Subset("cifar10"),
        seeds=4,
        preset="paper",
        alone=RECIPE.compose("paper"),
        batch_sizes=(16, 32, 64, 128, 256, 512),
        repeats=20,
        side=32,
    ),
}

# Steps


def random_images(number: int, side: int) -> Dataset:
    """Return images of noise in ten classes: a step takes as long with them."""
    random = generator(0, "noise")
    pixels = torch.randint(256, (number, 3, side, side), dtype=torch.uint8, generator=random)
    labels = torch.arange(number) % 10
    classes = tuple(map(str, range(10)))
    return Dataset("noise", pixels, labels, pixels[:1], labels[:1], classes, (0.5,) * 3, (0.3,) * 3)


def build_step(method: str, options: Composition, dataset: Dataset, device: torch.device) -> Stage:
    """Return the stage whose steps are measured."""
    if method != DISCRETE:
        return build_search(method, options, dataset, device)
    # the architecture that the searches by sparse code begin with
    genotype = SparseCode(DARTS_SPACE, SparseCodeOptions(), seed=options.runtime.seed).genotype()
    task = task_of(DARTS_SPACE)
    network = from_scratch(genotype, options, task, dataset)
    return Training(network, options, task, dataset, device)


def coefficients_of(method: str, stage: Stage) -> dict[str, Coefficients] | None:
    """Return the coefficients of a pass with which the weights learn and, in searches that do so, the code."""
    if method == DISCRETE:
        return None
    return stage.alone(stage.path()) if method == SHARING else stage.code.coefficients()


def run_step(
    kind: str, method: str, batch_size: int, options: Composition, scale: Scale
) -> dict[str, Any]:
    """Measure the steps of one method with one batch size.

    Returns
    -------
    dict
        ``seconds`` of a step (the median; processor time on the CPU), ``batches`` it works on, bytes ``saved`` for the
        backward pass of one batch, and the ``peak`` that was allocated on a GPU; None what does not fit its memory or
        is not known.
    """
    device = resolve_device(options.runtime.device)
    row = {"kind": kind, "method": method, "number": batch_size, "batches": 1}
    unknown = {"seconds": None, "saved": None, "peak": None}
    with cpu_threads(options.runtime.threads or torch.get_num_threads()):
        try:
            return {**row, **unknown, **_measured(method, options, scale, device)}
        except torch.OutOfMemoryError:
            return {**row, **unknown}
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _measured(
    method: str, options: Composition, scale: Scale, device: torch.device
) -> dict[str, Any]:
    # a batch in each half
    dataset = random_images(2 * options.optimizer.batch_size, scale.side).to(device)
    stage = build_step(method, options, dataset, device)
    stage.network.train()
    batch = next(iter(stage.batches(0, 0)))
    two = isinstance(batch[0], tuple)
    one = batch[0] if two else batch

    def loss() -> Tensor:
        return stage.weights.loss(one, coefficients_of(method, stage))[0]

    saved = saved_bytes(loss, [*stage.network.parameters(), *stage.network.buffers(), one[0]])
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(WARM_UP + scale.repeats):
        begun = clock()
        stage.train_step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - begun)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "batches": 1 + two,
        "seconds": median(times[WARM_UP:]),
        "saved": saved,
        "peak": peak,
    }


# Searches


def run_trial(
    kind: str, method: str, seed: int, options: Composition, alone: Composition, directory: Path
) -> dict[str, Any]:
    """Search, and train the found architecture, in any process.

    Returns
    -------
    dict
        ``test_accuracy`` (0 to 1) and ``parameters`` of the trained network; ``curve``, for each epoch of the search
        the seconds and images until then and the validation accuracy, None where there is none; ``search_seconds`` and
        ``search_images`` (passed forwards and backwards), ``evaluated`` (images passed forwards only, to score
        architectures); ``training_seconds`` after the search.
    """
    row = {"kind": kind, "method": method, "number": seed}
    searched = directory / f"{method.replace(' ', '-')}-{seed}"
    if method == ONE_STAGE:
        done = run_or_resume(search_job(method, DARTS_SPACE, options), searched)
        record, part = RunRecord(searched), "search"
        result = done.results[part]
        cost = {
            "search_images": images(
                record, part, available=record.config["data"]["train"], phase="search"
            ),
            "search_seconds": seconds(record, part, "search"),
        }
        return {
            **row,
            **cost,
            "genotype": result["genotype"],
            "test_accuracy": result["test_accuracy"],
            "parameters": result["parameters"],
            "curve": [],
            "evaluated": 0,
            "training_seconds": round(seconds(record, part) - cost["search_seconds"], 2),
        }
    cost = {"search_images": 0, "search_seconds": 0.0, "evaluated": 0, "curve": []}
    if method == RANDOM:
        genotype = Choices(DARTS_SPACE).random(generator(seed, "random", 0))
    else:

        def finish(search: Search) -> dict[str, Any]:
            return {"genotype": str(search.genotype()), "half": len(search.valid_feed.indices)}

        found = run_search(method, options, searched, finish)
        genotype = Genotype.parse(found["genotype"])
        cost = _cost(RunRecord(searched), options, method, found["half"])
    trained = directory / f"{searched.name}-alone"
    result = run_or_resume(evaluation_job(genotype, alone), trained).results["evaluate"]
    return {
        **row,
        **cost,
        "genotype": str(genotype),
        "test_accuracy": result["test_accuracy"],
        "parameters": result["parameters"],
        "training_seconds": seconds(RunRecord(trained), "evaluate"),
    }


def _cost(record: RunRecord, options: Composition, method: str, half: int) -> dict[str, Any]:
    columns, spent = record.epochs("search"), record.seconds("search")
    seen = images(record, "search", available=half, streams=1 if method == SHARING else 2)
    epochs = len(columns["epoch"])
    accuracies = columns.get("valid_accuracy", columns.get("genotype_accuracy"))
    curve = [
        [
            round(float(np.nansum(spent[: i + 1])), 2),
            round(seen * (i + 1) / epochs),
            None if accuracies is None or np.isnan(accuracies[i]) else float(accuracies[i]),
        ]
        for i in range(epochs)
    ]
    evaluated = 0
    if method == SHARING:
        evaluated = options.method.candidates * min(options.method.validation_amount, half)
        evaluated += options.method.finalists * half
    return {
        "search_images": seen,
        "search_seconds": seconds(record, "search"),
        "evaluated": evaluated,
        "curve": curve,
    }


# The table


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    settings = about["settings"]
    text = f"# What a search costs, scale {settings['scale']}\n\n"
    header = (
        "search",
        "searches",
        "test error alone (%)",
        "images in search",
        "images scored",
        "search s",
        "training s",
        "search / all (%)",
    )
    lines = []
    for method in (RANDOM, *SEARCHES):
        of_method = [row for row in rows if (row["kind"], row["method"]) == ("search", method)]
        if not of_method:
            continue
        shares = [
            row["search_seconds"] / (row["search_seconds"] + row["training_seconds"])
            for row in of_method
        ]
        lines.append(
            (
                method,
                str(len(of_method)),
                mean_and_deviation([100 * (1 - row["test_accuracy"]) for row in of_method]),
                f"{of_method[0]['search_images']:,}",
                f"{of_method[0]['evaluated']:,}",
                mean_and_deviation([row["search_seconds"] for row in of_method], 0),
                mean_and_deviation([row["training_seconds"] for row in of_method], 0),
                f"{100 * fmean(shares):.0f}",
            )
        )
    if lines:
        text += (
            f"{markdown_table(header, lines)}\n"
            "Mean and standard deviation over seeds. Images are counted as often as they pass the network, forwards "
            "and backwards (in search) or forwards only (scored). What is found is trained alone by the same recipe; "
            "one-stage training goes on in the same run, on all images, for as many epochs, and its error is that of "
            "its folded network.\n\n"
        )
    steps = {
        (row["method"], row["number"]): row
        for row in rows
        if row["kind"] == "step" and row["seconds"] is not None
    }
    lines = []
    for (method, number), row in steps.items():
        base = steps.get((DISCRETE, number))
        peaks = None not in (row["peak"], base and base["peak"])
        lines.append(
            (
                method,
                str(number),
                f"{1e3 * row['seconds'] / row['batches']:.1f}",
                _ratio(row["seconds"] / row["batches"], base and base["seconds"]),
                f"{row['saved'] / 2**20:.1f}",
                _ratio(row["saved"], base and base["saved"]),
                f"{row['peak'] / 2**20:.0f}" if row["peak"] is not None else "",
                _ratio(row["peak"], base["peak"]) if peaks else "",
            )
        )
    if lines:
        header = ("step", "batch size", "ms", "ratio", "saved MiB", "ratio", "peak MiB", "ratio")
        text += (
            f"{markdown_table(header, lines)}\n"
            "A training step on one batch (steps of searches that alternate between two batches are halved): median of "
            f"{settings['repeats']}, processor time on the CPU; bytes that autograd saves for the backward pass; on "
            f"a GPU the peak that was allocated. Ratios are to the {DISCRETE} of the architecture that the sparse code "
            "has active, trained by itself.\n\n"
        )
    return text + origin(about)


def _ratio(value: float, base: float | None) -> str:
    return f"{value / base:.2f}" if base else ""


def _said(row: dict[str, Any]) -> str:
    if row["kind"] == "search":
        return f"{row['method']}, seed {row['number']}: {100 * row['test_accuracy']:.1f} %"
    if row["seconds"] is None:
        return f"{row['method']}, batch size {row['number']}: too large for the memory"
    return f"{row['method']}, batch size {row['number']}: {1e3 * row['seconds']:.0f} ms"


def run(launch: Launch) -> None:
    """Run the trials that are not in `launch.out` yet, and write what this module's docstring says."""
    size = SCALES[launch.scale]
    with launch.opened(__name__, ("kind", "method", "number"), size) as experiment:
        shape = search_options(TWO_STAGE, size.preset, size.search)
        alike = {name: shape.to_json()[name] for name in ("channels", "cells", "threads")}
        alike["device"] = launch.device
        steps: list[tuple[Any, ...]] = []
        for number in size.batch_sizes:
            for method in STEPS:
                if method == DISCRETE:
                    options = RECIPE.compose(**alike, batch_size=number)
                else:
                    changes = {**size.search, **alike, "batch_size": number}
                    own = {"auxiliary_weight": 0.0} if method == ONE_STAGE else {}
                    options = search_options(method, size.preset, changes, **own)
                steps.append(("step", method, number, options, size))
        # one at a time: they are timed
        experiment.run(run_step, steps, table=table_text, describe=_said, jobs=1)

        trials: list[tuple[Any, ...]] = []
        for seed in experiment.seeds:
            alone = experiment.options(size.alone, seed)
            trials.append(("search", RANDOM, seed, alone, alone, experiment.runs))
            for method in SEARCHES:
                few = method == SHARING and size.candidates
                own = {"candidates": size.candidates} if few else {}
                base = search_options(method, size.preset, size.search, **own)
                # the schedule after a one-stage search is as long as training alone
                changes = {"epochs": alone.optimizer.epochs} if method == ONE_STAGE else {}
                options = experiment.options(base, seed, **changes)
                trials.append(("search", method, seed, options, alone, experiment.runs))
        experiment.run(run_trial, trials, table=table_text, describe=_said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    parser = Parser(__name__, "What a search costs, and what it finds for that.", SCALES)
    return run_command(parser, run, arguments)


if __name__ == "__main__":
    run_module(__spec__.name)
