"""Comparison of methods: the same data, space, sizes and budget for all, and one referee.

A trial is one search with one seed, judged at once: what it found is trained from scratch by a recipe that all have in
common, and tested. Three more kinds of trial serve all methods: random architectures trained by the same recipe, which
say what a search is worth, what is known of these before their training by the short training of searches that train
every architecture by itself, and hand-made networks of about their size. A row is written for each trial; started
again, a comparison does what is missing.

    rows.jsonl   a row for each trial
    about.json   settings, and for every launch its command, versions and machine
    table.md     what the rows come to
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch

from .. import spaces
from ..commands.run import load_in_turn
from ..networks.registry import family
from ..runs.directory import default_directory
from ..runs.evaluation import evaluation_schema
from ..runs.options import RuntimeOptions
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, short, suggestion
from ..runtime.files import as_path
from ..runtime.options import BaseOptions, Composition, Nested, OptionField, Schema
from ..runtime.progress import Progress
from ..searches.base import Setting
from ..searches.limits import bounds_of
from ..searches.registry import METHODS, chosen, method_named
from ..spaces.base import Space
from ..tasks.base import Task
from ..tasks.registry import task_of
from .clusters import Backend, workers
from .judging import CHILDREN, SAMPLED, Entry, row_form, run_trial, search_options_of
from .referee import Budget
from .rows import Rows, launch_record
from .seeds import MOST
from .table import in_a_line, table_text
from .trials import run_trials, table_of


@dataclass(frozen=True)
class ComparisonOptions(BaseOptions):
    """The methods of a comparison, and the effort for each.

    Parameters
    ----------
    methods : tuple of str
        Methods by name or by its beginning; all: every one that can serve the space.
    seeds : int
        Searches of each method, with the seeds 0, 1, ...
    budget : str
        Budget of one search: an amount and a unit, such as 20epochs, 90seconds, or 60000 of the task's units. Units are
        counted as they pass networks; an epoch is as many of them as there are to train on.
    method_preset : {"quick", "paper"}
        Constants of the methods: quick ones, or each paper's.
    set : tuple of str
        Other constants of single methods: METHOD.OPTION=VALUE, such as evolution.population=20.
    batch_size : int or None
        Samples in a step of all searches; by default each method's own.
    learning_rate : float or None
        Learning rate of the weights in all searches; by default each method's own.
    child_epochs : int
        Epochs of training one architecture in the searches that train each by itself.
    sampled : int
        Random architectures that are trained by the same recipe, and scored by every search for Kendall's tau.
    limit : tuple of str
        The largest network that may be found, as it is judged: parameters=3.7M, multiply-adds=600M, latency=5ms (on the
        device at hand), or several of them.
    hand_made : bool
        Whether networks that nobody searched, as large as random architectures on the average, are trained by the same
        recipe, with as many seeds.
    """

    least: ClassVar[dict[str, float]] = {
        "seeds": 1,
        "batch_size": 2,
        "learning_rate": 0,
        "child_epochs": 1,
        "sampled": 0,
    }
    most: ClassVar[dict[str, float]] = {"seeds": MOST, "sampled": MOST}
    incidental: ClassVar[tuple[str, ...]] = ("methods", "seeds", "hand_made")

    methods: tuple[str, ...] = ("all",)
    seeds: int = 3
    budget: str = "20epochs"
    method_preset: Literal["quick", "paper"] = "quick"
    set: tuple[str, ...] = ()
    batch_size: int | None = None
    learning_rate: float | None = None
    child_epochs: int = 3
    sampled: int = 8
    limit: tuple[str, ...] = ()
    hand_made: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        Budget.parse(self.budget)
        bounds_of(self.limit)


PRESETS: dict[str, dict[str, Any]] = {
    # the searches' and the evaluation's constants are those of DARTS (ICLR 2019); its first order takes 50 epochs
    "darts": {
        "seeds": 4,
        "budget": "50epochs",
        "method_preset": "paper",
        "data": "cifar10",
        "channels": 16,
        "cells": 8,
        "child_epochs": 5,
        "evaluation_preset": "paper",
        "evaluation_epochs": 600,
    },
}
"""The preset `paper` of a comparison, by space."""


@cache
def comparison_schema(space: Space) -> Schema:
    """Return the options of a comparison in a space."""
    task = task_of(space)
    return Schema(
        {
            "comparison": ComparisonOptions,
            "data": task.data_options,
            "network": family(space).options,
            "runtime": RuntimeOptions,
            "evaluation": Nested(
                evaluation_schema(space),
                prefix="evaluation_",
                shared=("data", "runtime"),
                follows=("network",),
            ),
        },
        defaults={**family(space).quick, "evaluation_epochs": 10},
        presets={"paper": PRESETS[space.name]} if space.name in PRESETS else {},
        # of trials: they are not resumed in the middle, and each runs alone
        fixed={"seed": 0, "sync_batch_norm": False, "checkpoint_steps": 0, "tensorboard": False},
    )


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    Parameters
    ----------
    directory : Path
    rows : list of dict
        One for each trial.
    table : str
        In Markdown.
    """

    directory: Path
    rows: list[dict[str, Any]]
    table: str


def changes_of(texts: Sequence[str], space: Space) -> dict[str, dict[str, Any]]:
    """Return the changes of each method's options that texts like ``evolution.population=20`` say.

    Options of a method are those of its search and of its optimizer; the others are the same for all methods, or follow
    from the budget.

    Raises
    ------
    UserError
        When a text is not of that form, there is no such method or option, or the value is not one of it.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, option = name.partition(".")
        if not (equals and dot and option):
            raise UserError(f"set must be METHOD.OPTION=VALUE, got {text!r}")
        try:
            schema = method_named(method, space).schema(space)
        except UserError as error:
            raise UserError(f"set {text}: {error}") from None
        decided = {*METHODS[method].search.budgeted, "s", "limit"}
        common = ("data", "network", "runtime", "follow_up", "evaluation")
        own = {
            each: field
            for each, field in schema.fields.items()
            if field.part not in common and each not in decided
        }
        if option not in own:
            if option in schema.fields or option in METHODS[method].fixed:
                raise UserError(f"set {text}: the comparison decides on {option} of {method}")
            raise UserError(
                f"set {text}: {method} has no option {option!r}{suggestion(option, own)}; "
                f"it has {', '.join(sorted(own))}"
            )
        try:
            found.setdefault(method, {})[option] = _value(own[option], value)
        except ValueError:
            kind = "true or false" if own[option].type is bool else own[option].type.__name__
            raise UserError(f"set {text}: {value!r} is not of the type {kind}") from None
    return found


def _value(field: OptionField, text: str) -> Any:
    if field.optional and text.lower() == "none":
        return None
    if field.several:
        return tuple(field.type(part) for part in text.split(",") if part)
    if field.type is tuple:
        numbers = tuple(int(part) for part in text.split(","))
        return numbers[0] if len(numbers) == 1 else numbers
    if field.type is bool:
        if text not in ("true", "false"):
            raise ValueError
        return text == "true"
    return field.type(text)


def compare(
    space: str | Space = "darts",
    *,
    preset: str = "quick",
    out: str | Path | None = None,
    jobs: int = 1,
    backend: Backend = "loky",
    scheduler: str | None = None,
    progress: Progress | None = None,
    words: Sequence[str] = (),
    module: str = "isnas",
    options: Composition | None = None,
    **values: Any,
) -> Comparison:
    """Compare methods: run the trials that have no row yet, and write the table.

    Parameters
    ----------
    space : str or Space
        The search space, or its name.
    preset : str
        Values of all options that are not given.
    out : path, optional
        The directory; by default ``runs/<date>-compare``. With one that has rows of the same settings it goes on.
    jobs : int
        Trials at a time, each with one CPU thread where there are several. On a cluster that is there already:
        its workers.
    backend : {"loky", "dask", "ray"}
        joblib's: processes of this machine, or the workers of a Dask or Ray cluster, which is started on this machine
        for the time of the comparison when no `scheduler` is named. Workers load the data themselves.
    scheduler : str, optional
        Address of a cluster that is there already.
    progress : Progress, optional
        By default nothing is shown.
    words : sequence of str
        The command line, for the record.
    module : str
        The thing that it is the command line of.
    options : Composition, optional
        All options, instead of `preset` and `values`.
    **values
        Options by the names that the command has.

    Raises
    ------
    UserError
        When the options, the data or the directory are not usable, or a backend is not installed.
    """
    if type(jobs) is not int:
        raise UserError(f"jobs must be a whole number, got {short(jobs)}")
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, got {jobs}")
    if backend not in get_args(Backend):
        raise UserError(
            f"backend must be one of {', '.join(get_args(Backend))}, got {short(backend)}"
            f"{suggestion(backend, get_args(Backend))}"
        )
    space = spaces.get(space)
    if options is None:
        options = comparison_schema(space).compose(preset, **values)
    progress = progress or Progress(quiet=True)
    task = task_of(space)
    resolve_device(options.runtime.device)
    data = load_in_turn(task, options.data)
    methods = chosen(options.comparison.methods, space)
    changes = changes_of(options.comparison.set, space)
    if idle := sorted(set(changes) - set(methods)):
        raise UserError(f"set: {', '.join(idle)} is not among the methods that are compared")
    for method in methods:  # a mistake shows now, not after hours
        own = search_options_of(method, 0, Entry(space, options), changes.get(method, {}))
        target = options.evaluation.network
        setting = Setting(space, task, data, torch.device("cpu"), own, target)
        METHODS[method].search.check(setting)
    directory = default_directory("compare") if out is None else as_path(out)
    threads = options.runtime.threads
    if not threads:
        alone = not task.tiny(data) and jobs == 1 and backend == "loky"
        threads = torch.get_num_threads() if alone else 1
    # workers find what was downloaded here
    remote = options.replace(download=False) if options.data.download else options
    with (
        workers(jobs, backend, scheduler),
        Rows(
            directory,
            ("method", "seed"),
            _settings(space, options, data),
            launch_record(module, words),
            _settings(space, comparison_schema(space).compose(), data),
            row_form(task.measure),
        ) as rows,
    ):
        progress.say(f"writing to {directory}")
        run_trials(
            rows,
            run_trial,
            [
                (*key, space.to_json(), remote.to_json(), changes.get(key[0], {}), threads)
                for key in _trials(methods, options, task)
            ],
            table=table_text,
            describe=lambda row: in_a_line(row, task),
            jobs=jobs,
            progress=progress,
        )
        return Comparison(directory, rows.rows, table_of(rows, table_text))


def _settings(space: Space, options: Composition, data: Any) -> dict[str, Any]:
    """Return what all rows of a directory have in common. Where the data are says something of the machine only."""
    left_out = options.incidental() - {"device"}
    kept = {name: value for name, value in options.to_json().items() if name not in left_out}
    task = task_of(space)
    described = task.describe(data, options.data)
    described.pop("root", None)
    described["source"] = Path(os.path.abspath(described["source"])).name
    recipe = options.evaluation
    fields = recipe.schema.fields
    return {
        **kept,
        "data": Path(os.path.abspath(options.data.data)).name,
        "budget": str(Budget.parse(options.comparison.budget)),
        "set": sorted(options.comparison.set),
        "limit": sorted(options.comparison.limit),
        "space": space.to_json(),
        "task": task.name,
        "described": described,
        "amount": task.amount(data),
        "evaluation": {
            name: value
            for name, value in recipe.to_json().items()
            if fields[name].part not in ("data", "runtime")
        },
    }


def _trials(methods: Sequence[str], options: Composition, task: Task) -> Iterator[tuple[str, int]]:
    """Yield all trials, one seed of all methods after the other: whenever it stops, all have had the same."""
    seeds, sampled = options.comparison.seeds, options.comparison.sampled
    hand_made = tuple(task.hand_made) if options.comparison.hand_made else ()
    for seed in range(seeds):
        for method in (*methods, *hand_made):
            yield method, seed
        if sampled and any(METHODS[method].search.trains_children for method in methods):
            yield CHILDREN, seed
        for i in range(sampled):
            if i * seeds // sampled == seed:
                yield SAMPLED, i
