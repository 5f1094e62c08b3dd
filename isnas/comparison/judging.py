"""One trial of a comparison: a search within a budget, and what is found judged by the common recipe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

import torch

from .. import spaces
from ..codes.choices import Choices
from ..networks.counting import count_parameters
from ..networks.hand_made import HAND_MADE, HandMadeOptions, width_for
from ..runs.content import MEASURES, NAME, TEXT
from ..runs.evaluation import from_scratch, tested
from ..runs.loop import Diverged, EpochDone, drive, loop
from ..runs.training import Training
from ..runtime.devices import cpu_threads, resolve_device
from ..runtime.forms import (
    ANYTHING,
    Both,
    Chosen,
    Form,
    List,
    Number,
    Optional,
    Record,
    Whole,
)
from ..runtime.options import Composition
from ..runtime.randomness import generator, seeded
from ..searches.base import Search, Setting
from ..searches.registry import METHODS, method_named
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.base import Measure, Task
from ..tasks.registry import task_of
from .referee import Budget, Meter, epoch_cost

SAMPLED = "random architectures"
"""The trials that train a random architecture by the common recipe; their seed is its number."""

AT_LEAST = 8
"""Random architectures whose sizes hand-made networks are made alike to, if no more are trained."""

CHILDREN = "short training"
"""The trials that train all of these as searches that train every architecture by itself do."""


def row_form(measure: Measure) -> Form:
    """Return what a row of a comparison may be, see `run_trial`."""
    value = measure.form
    judged: dict[str, Form] = {f"test_{measure.name}": value, "parameters": Whole()}
    spent: dict[str, Form] = {"seconds": Number(0), "epochs": Number(0)}
    scores = List(Optional(Number(loose=True)))
    others: dict[str, Form] = {
        "threads": Whole(),
        "genotype": TEXT,
        "skips": Whole(),
        "multiply_adds": Whole(),
        "evaluation_seconds": Number(0),
        **{name: Number(0) for name in ("trained", "evaluated", "passes", "over")},
        "latency": Number(0),
        "peak_memory": Optional(Whole()),
        "schedule": Optional(Whole()),
        "own_value": Optional(value),
        "scores": Optional(scores),
    }
    forms = {
        "failed": Record({"error": TEXT}, {**judged, **spent, **others}, MEASURES, ANYTHING),
        CHILDREN: Record({"scores": scores}, others, MEASURES, ANYTHING),
        SAMPLED: Record(judged, others, MEASURES, ANYTHING),
        **{
            name: Record({**judged, "width": Whole()}, others, MEASURES, ANYTHING)
            for name in HAND_MADE
        },
        "search": Record({**judged, **spent}, others, MEASURES, ANYTHING),
    }

    def of(row: dict[str, Any]) -> Form:
        method = row.get("method")
        return forms["failed" if "error" in row else method if method in forms else "search"]

    return Both((Record({"method": NAME, "seed": Whole()}, others=ANYTHING), Chosen(of)))


@dataclass(frozen=True)
class Entry:
    """The common settings of all trials of a comparison.

    Parameters
    ----------
    space : Space
    options : Composition
        See `isnas.comparison.compare.comparison_schema`.
    """

    space: Space
    options: Composition

    def recipe(self, seed: int) -> Composition:
        """Return the common recipe, with a seed."""
        return self.options.evaluation.replace(seed=seed)


def search_options_of(
    method: str,
    seed: int,
    entry: Entry,
    changes: Mapping[str, Any],
    epochs: int | None = None,
) -> Composition:
    """Return the options of a method's search in a comparison, for so many epochs; by default for a throwaway."""
    options = entry.options
    schema = method_named(method, entry.space).schema(entry.space)
    shared = {
        name: getattr(options.parts[field.part], name)
        for name, field in schema.fields.items()
        if field.part in ("data", "network", "runtime") and name in options.schema.fields
    }
    own = {
        name: value
        for name in ("batch_size", "learning_rate", "limit")
        if (value := getattr(options.comparison, name)) is not None and name in schema.fields
    }
    search = METHODS[method].search
    if search.trains_children:
        own["epochs"] = options.comparison.child_epochs
    plain = {"evaluation_epochs": 0, "random_architectures": 0, "seed": seed}
    values = {**shared, **own, **plain, **changes}
    preset = options.comparison.method_preset
    composed = schema.compose(preset, **values)
    scheduled = search.scheduled(composed, search.probe_epochs if epochs is None else epochs)
    return schema.compose(preset, **{**values, **scheduled})


def run_trial(
    method: str,
    seed: int,
    space: dict[str, Any],
    options: dict[str, Any],
    changes: dict[str, Any],
    threads: int = 1,
) -> dict[str, Any]:
    """Run one trial, in whatever process.

    Returns
    -------
    dict
        ``method``, ``seed``; ``genotype`` and how it was judged: ``test_<measure>``, ``test_loss``, ``parameters``,
        ``multiply_adds``, ``skips``; of a search also ``trained`` and ``evaluated`` units, ``passes``, ``epochs``
        (passes in epochs), ``seconds``, ``peak_memory`` (bytes), its ``schedule`` in epochs, ``over`` (spent divided by
        the budget), ``own_value`` of its own network, ``latency`` in seconds where it is limited, and ``scores`` of the
        sampled architectures; of a hand-made network its ``width`` instead of a genotype. What is not known is None. A
        search that diverged has an ``error`` instead.
    """
    from .compare import comparison_schema

    where = spaces.from_json(space)
    entry = Entry(where, comparison_schema(where).from_json(options))
    with cpu_threads(threads):
        row: dict[str, Any] = {"method": method, "seed": seed, "threads": threads}
        try:
            for part in _parts(method, seed, entry, changes):
                row |= part
        except Diverged as error:
            row["error"] = str(error)
        return row


@lru_cache(maxsize=1)
def _data(task: str, options: Any) -> Any:
    """Return the data; a process that runs several trials loads them once."""
    from ..tasks.registry import TASKS

    return TASKS[task].load(options)


def _parts(
    method: str, seed: int, entry: Entry, changes: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield what is known of a trial, part by part."""
    options, task = entry.options, task_of(entry.space)
    device = resolve_device(options.runtime.device)
    data = task.to(_data(task.name, options.data), device)
    number = options.comparison.sampled
    if method in HAND_MADE:
        yield hand_made(method, seed, entry, data, device)
        return
    if method == SAMPLED:
        yield judged(sampled(seed, entry.space), seed, entry, data, device)
        return

    def setting(method: str, epochs: int | None = None) -> Setting:
        found = search_options_of(method, seed, entry, changes, epochs)
        target = options.evaluation.network
        return Setting(entry.space, task, task.without_test(data), device, found, target)

    if method == CHILDREN:
        search = METHODS["random"].create(setting("random"))
        yield {"scores": [search.score(sampled(i, entry.space)) for i in range(number)]}
        return
    budget, amount = Budget.parse(options.comparison.budget), task.amount(data)
    meter = Meter(device, memory=True)
    try:
        stage = _searched(method, setting, budget, amount, device, meter)
    finally:
        yield _spent(meter, amount, budget)
    own = None
    network = stage.trained_network()
    if network is not None:  # before anything else passes it
        feed = task.test_feed(data, entry.recipe(seed).optimizer, device)
        own = task.test(network, feed)[f"test_{task.measure.name}"]
    yield {"schedule": stage.epochs, "own_value": own, "scores": None}
    if not stage.trains_children:
        yield {"scores": [stage.score(sampled(i, entry.space)) for i in range(number)]}
    genotype = stage.genotype()
    if "latency" in stage.limits.bounds:
        yield {"latency": stage.limits.sizes(genotype)["latency"]}
    yield judged(genotype, seed, entry, data, device)


def _searched(
    method: str, setting: Any, budget: Budget, amount: int, device: torch.device, meter: Meter
) -> Search:
    """Search for as many epochs as the budget pays for, counted by the meter, and return the search at its end."""
    how = METHODS[method]
    throwaway = how.create(setting(method))
    cost = epoch_cost(throwaway, budget.unit, amount, device)
    del throwaway
    epochs = cost.epochs(budget, how.search.least_epochs, below=how.search.anytime)
    with meter.counting():
        stage = how.create(setting(method, epochs))
        dearest = before = 0.0
        for event in loop(stage):
            if how.search.anytime and isinstance(event, EpochDone):
                spent = meter.spent().amount(budget.unit, amount)
                dearest, before = max(dearest, spent - before), spent
                # the margin is for sums of floating-point numbers
                if spent + dearest > budget.amount * (1 + 1e-9):
                    break
        stage.genotype()
    return stage


def sampled(i: int, space: Space) -> Genotype:
    """Return the random architecture of number `i` of a space: the same in all comparisons."""
    return Choices(space).random(generator(0, "sampled", i))


def _spent(meter: Meter, amount: int, budget: Budget) -> dict[str, Any]:
    spent = meter.spent()
    return {
        "trained": spent.trained,
        "evaluated": spent.evaluated,
        "passes": spent.passes,
        "epochs": spent.amount("epochs", amount),
        "seconds": round(spent.seconds, 3),
        "over": spent.amount(budget.unit, amount) / budget.amount,
        "peak_memory": meter.peak,
    }


def judged(
    genotype: Genotype, seed: int, entry: Entry, data: Any, device: torch.device
) -> dict[str, Any]:
    """Train an architecture from scratch by the common recipe, and return how good it is."""
    recipe, task = entry.recipe(seed), task_of(entry.space)
    network = from_scratch(genotype, recipe, task, data)
    found = {"genotype": str(genotype), "skips": genotype.skips}
    return {**found, **_trained(network, recipe, task, data, device)}


def _trained(
    network: Any, recipe: Composition, task: Task, data: Any, device: torch.device
) -> dict[str, Any]:
    begun = time.perf_counter()
    training = Training(network, recipe, task, data, device)
    for _ in drive(training):
        pass
    return {
        **tested(training.network, task, data, recipe, device),
        "evaluation_seconds": round(time.perf_counter() - begun, 3),
    }


def usual_size(entry: Entry, data: Any) -> int:
    """Return the mean number of parameters of the random architectures of a comparison, as they are judged."""
    task = task_of(entry.space)
    recipe = entry.recipe(0)
    number = max(entry.options.comparison.sampled, AT_LEAST)
    sizes = []
    for i in range(number):
        genotype = sampled(i, entry.space)
        with torch.device("meta"):
            network = from_scratch(genotype, recipe, task, data)
        sizes.append(count_parameters(network))
    return round(fmean(sizes))


def hand_made(
    name: str, seed: int, entry: Entry, data: Any, device: torch.device
) -> dict[str, Any]:
    """Train a hand-made network of the usual size by the common recipe, and return how good it is.

    It has no paths to drop and no auxiliary head: these parts of the recipe are left out.
    """
    task = task_of(entry.space)
    recipe = entry.recipe(seed).replace(drop_path=0.0, auxiliary_weight=0.0)
    shape = {"options": HandMadeOptions(**task.shape(data)), "side": max(task.example(data))}
    width = width_for(name, usual_size(entry, data), **shape)
    with seeded(seed, "weights"):
        network = HAND_MADE[name](width, **shape)
    return {"width": width, **_trained(network, recipe, task, data, device)}
