"""The one registry of methods: what `isnas search`, `isnas compare` and the experiments can search with.

A method is a class of searches with some options fixed. A new one is a file in this package and a line here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import torch

from ..networks.registry import family
from ..runs.evaluation import evaluation_schema, presets_for
from ..runs.options import RuntimeOptions
from ..runtime.errors import UserError, check_one, short, suggestion
from ..runtime.options import BaseOptions, Composition, Nested, Schema
from ..spaces import get as get_space
from ..spaces.base import Space
from ..tasks.base import OptimizerOptions
from ..tasks.registry import task_of
from .base import Search, Setting
from .black_box import (
    AgeingEvolution,
    GenerationalEvolution,
    GridSearch,
    RandomSearch,
    ReinforceSearch,
)
from .darts import DartsSearch, PcDartsSearch
from .enas import EnasSearch
from .finalists import FinalistsSearch
from .gdas import GdasSearch
from .halving import HalvingSearch
from .hm_nas import HmNasSearch
from .limits import LimitOptions
from .one_stage import OneStageTraining
from .random_sharing import RandomSharingSearch
from .training_free import TrainingFreeSearch
from .two_stage import TwoStageSearch
from .zero_cost_pt import ZeroCostPTSearch

UNTRAINED = {
    field.name: field.default
    for field in dataclasses.fields(OptimizerOptions)
    if field.name != "batch_size"
}
"""Options of an optimizer, which are nobody's to choose where a search trains nothing."""


@dataclass(frozen=True)
class FollowUpOptions(BaseOptions):
    """Options of the trainings that follow a search, for comparison.

    Parameters
    ----------
    random_architectures : int
        Random architectures to train as the found one is.
    """

    least: ClassVar[dict[str, float]] = {"random_architectures": 0}

    random_architectures: int = 3


@dataclass(frozen=True)
class Method:
    """A way to find an architecture.

    Parameters
    ----------
    search : type of Search
    fixed : mapping of str to values
        Options that are the method, by name.
    """

    search: type[Search]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def why_not(self, space: Space) -> str | None:
        """Return why the method cannot serve a space and its task; None when it can."""
        return self.search.why_not(space, task_of(space))

    def schema(self, space: Space) -> Schema:
        """Return the options of a search by this method in a space."""
        return _schema(self.search, tuple(sorted(self.fixed.items())), space)

    def create(self, setting: Setting) -> Search:
        """Return a search, before its first step."""
        return self.search.create(setting)


@cache
def _schema(search: type[Search], fixed: tuple[tuple[str, Any], ...], space: Space) -> Schema:
    task = task_of(space)
    evaluation = Nested(
        evaluation_schema(space),
        prefix="evaluation_",
        shared=("data", "runtime"),
        follows=("network",),
        switch="epochs",
    )
    # what the role decides is not the user's in a search
    roles = {name for changes in family(space).roles.values() for name in changes}
    closed = {f.name: f for f in dataclasses.fields(family(space).options) if f.name in roles}
    return Schema(
        {
            "data": task.data_options,
            "network": family(space).options,
            "optimizer": task.optimizer_options,
            "runtime": RuntimeOptions,
            "limits": LimitOptions,
            **search.option_parts(task),
            "method": search.method_options,
            "follow_up": FollowUpOptions,
            "evaluation": evaluation,
        },
        defaults={
            **family(space).quick,
            "evaluation_epochs": 10,
            **search.defaults,
            **search.defaults_in.get(space.name, {}),
        },
        presets=presets_for(search.presets, space),
        fixed={**{name: field.default for name, field in closed.items()}, **dict(fixed)},
    )


METHODS: dict[str, Method] = {
    "ista-two-stage": Method(TwoStageSearch),
    "ista-finalists": Method(FinalistsSearch),
    "ista-one-stage": Method(OneStageTraining),
    "darts-1": Method(DartsSearch, {"order": 1}),
    "darts-2": Method(DartsSearch, {"order": 2}),
    "pc-darts": Method(PcDartsSearch, {"order": 1}),
    "gdas": Method(GdasSearch),
    "enas": Method(EnasSearch),
    "hm-nas": Method(HmNasSearch),
    "random-sharing": Method(RandomSharingSearch),
    "random": Method(RandomSearch),
    "grid": Method(GridSearch),
    "evolution": Method(AgeingEvolution),
    "generational": Method(GenerationalEvolution),
    "reinforce": Method(ReinforceSearch),
    **{
        name: Method(HalvingSearch, {"allocation": name})
        for name in ("successive-halving", "hyperband", "asha")
    },
    **{
        f"training-free-{ranker}": Method(TrainingFreeSearch, {"ranker": ranker, **UNTRAINED})
        for ranker in ("parameters", "multiply-adds", "naswot", "az-nas")
    },
    "zero-cost-pt": Method(ZeroCostPTSearch, UNTRAINED),
}
"""All methods by name, in the order of tables."""


def method_named(name: str, space: Space) -> Method:
    """Return a method that can serve a space.

    Raises
    ------
    UserError
        When there is no such method, or it cannot serve the space.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(
            f"no method is called {short(name)}{suggestion(name, METHODS)}; there are {', '.join(METHODS)}"
        )
    method = METHODS[name]
    if reason := method.why_not(space):
        raise UserError(f"{name} cannot search the space {space.name}: {reason}")
    return method


def chosen(names: Iterable[str], space: Space) -> tuple[str, ...]:
    """Return the methods that these names mean: a method's own, ``all`` that can serve the space, or what some begin
    with.

    Raises
    ------
    UserError
        When a name means none.
    """
    found: set[str] = set()
    for name in names:
        check_one("methods", name)
        # a whole name means that method alone, though others go on from it
        meant = {name} if name in METHODS else {m for m in METHODS if m.startswith(f"{name}-")}
        if name == "all":
            meant = {m for m, method in METHODS.items() if method.why_not(space) is None}
        for method in meant or {name}:
            method_named(method, space)
        found |= meant
    return tuple(method for method in METHODS if method in found)


def create_search(
    method: str, space: str | Space, data: Any, device: torch.device | str = "cpu", **values: Any
) -> Search:
    """Return a search by itself, without a run directory, such as for `isnas.runs.loop.drive`.

    Parameters
    ----------
    method : str
    space : Space
    data
        The data set of the space's task.
    device : torch.device or str
    **values
        Options by flat name, and ``preset``.

    Raises
    ------
    UserError
        When the method cannot serve the space, or a value is not usable.
    """
    space = get_space(space)
    options = search_options(method, space, **values)
    setting = Setting(space, task_of(space), data, torch.device(device), options)
    METHODS[method].search.check(setting)
    return METHODS[method].create(setting)


def search_options(
    method: str, space: str | Space, preset: str = "quick", **values: Any
) -> Composition:
    """Return the options of a search: a preset's, with these values by flat name; see `Schema.compose` for errors."""
    space = get_space(space)
    return method_named(method, space).schema(space).compose(preset, **values)
