"""The methods that a comparison knows, by name: how each is given a budget, run, and asked what it thinks of others.

A method is a stage that searches with shared weights for as many epochs as the budget pays for, or a search that asks
for the accuracy of one architecture after the other until the budget is spent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..codes.choices import Choices
from ..commands import from_scratch
from ..networks.core import CellNetwork
from ..networks.darts import NetworkOptions, build_supernet
from ..runs.loop import Diverged, Stage, drive
from ..runs.options import EvaluateOptions, SearchOptions, TrainOptions
from ..runs.training import Training, network_options, score
from ..runtime.errors import UserError
from ..runtime.randomness import generator
from ..searches.base import scoring_batches, shared_accuracy
from ..searches.black_box import (
    Ask,
    EvolutionOptions,
    GenerationalOptions,
    GridOptions,
    OutOfBudget,
    RandomSearchOptions,
    ReinforceOptions,
    ageing_evolution,
    generational_evolution,
    grid_search,
    random_search,
    reinforce,
)
from ..searches.darts import DartsOptions, DartsSearch
from ..searches.enas import EnasOptions, EnasSearch
from ..searches.hm_nas import HmNasOptions, HmNasSearch
from ..searches.one_stage import OneStageTraining
from ..searches.random_sharing import RandomSharingOptions, RandomSharingSearch
from ..searches.two_stage import TwoStageSearch
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.images import Batches, Dataset, split_indices
from .referee import Budget, Meter, epoch_cost

S = 2
"""Operations of a node, in all methods that have a say in it."""

Signal = Callable[[Genotype], float]
"""What a method thinks of an architecture: an accuracy, 0 to 1."""


@dataclass(frozen=True)
class Setting:
    """What all methods of a comparison share.

    Parameters
    ----------
    dataset : Dataset
        Without its test images: no search sees them.
    device : torch.device
    space : Space
    budget : Budget
    preset : str
        Preset of the methods' constants.
    shared : mapping of str to values
        Options that all methods with shared weights have alike, beside the seed and the epochs.
    child : EvaluateOptions
        How a search that trains each architecture by itself trains it.
    """

    dataset: Dataset
    device: torch.device
    space: Space
    budget: Budget
    preset: str
    shared: Mapping[str, Any]
    child: EvaluateOptions

    @property
    def images(self) -> int:
        """Number of training images."""
        return len(self.dataset.train_labels)


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Parameters
    ----------
    genotype : Genotype
    epochs, asked : int or None
        Epochs of its schedule; architectures that it trained by themselves.
    network : CellNetwork or None
        The architecture's network, where the search has trained it.
    signal : callable or None
        Its shared weights' accuracy of an architecture on the second half of the training data; None where it trains
        every architecture by itself: `child_accuracy`.
    """

    genotype: Genotype
    epochs: int | None = None
    asked: int | None = None
    network: CellNetwork | None = None
    signal: Signal | None = None


@dataclass(frozen=True)
class Method(ABC):
    """A way to find an architecture.

    Parameters
    ----------
    options : type
        Of its constants: a dataclass with presets.
    fixed : mapping of str to values
        Options that are the method.
    prefix : str
        Stands before the names of its presets.
    """

    options: type
    fixed: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    prefix: str = field(default="", kw_only=True)

    @abstractmethod
    def configured(self, setting: Setting, seed: int, changes: Mapping[str, Any]) -> Any:
        """Return its options in a setting; see `run` for errors."""

    @abstractmethod
    def run(self, setting: Setting, seed: int, changes: Mapping[str, Any], meter: Meter) -> Found:
        """Search, and count what it costs with the meter.

        Raises
        ------
        UserError
            When a change is not possible.
        isnas.runs.loop.Diverged
        """

    def check(self, setting: Setting, changes: Mapping[str, Any]) -> None:
        """Raise a `UserError` that says what is not possible, if anything, before a search begins."""
        self.configured(setting, 0, changes)

    def preset(self, setting: Setting, **changes: Any) -> Any:
        """Return the options of the setting's preset with these changes."""
        return self.options.preset(self.prefix + setting.preset, **{**changes, **self.fixed})


def _plain(options: Any, epochs: int) -> dict[str, Any]:
    return {"epochs": epochs}


def _warm_up(options: DartsOptions, epochs: int) -> dict[str, Any]:
    """Keep the warm-up's share of the schedule."""
    return {"epochs": epochs, "warm_up": round(epochs * options.warm_up / options.epochs)}


def _halves(options: TrainOptions, epochs: int) -> dict[str, Any]:
    """Search for one half of the epochs, train for the other."""
    return {"search_epochs": epochs // 2, "epochs": epochs - epochs // 2}


@dataclass(frozen=True)
class Staged(Method):
    """A method whose search is a stage with shared weights.

    Parameters
    ----------
    stage : type of Stage
        A `SupernetSearch`, or a stage with its methods that say what a super-net is needed and what was found.
    schedule : callable
        Returns the options that depend on the number of epochs, given the preset's.
    least : int
        Epochs of the shortest schedule.
    probe : int
        Epochs of the throwaway that measures an epoch's cost: all phases stand in their proportion there.
    """

    stage: type[Stage]
    schedule: Callable[[Any, int], dict[str, Any]] = field(default=_plain, kw_only=True)
    least: int = field(default=1, kw_only=True)
    probe: int = field(default=2, kw_only=True)

    def configured(
        self, setting: Setting, seed: int, changes: Mapping[str, Any], epochs: int | None = None
    ) -> Any:
        options = self.preset(setting)
        scheduled = self.schedule(options, self.probe if epochs is None else epochs)
        return self.preset(setting, **{**setting.shared, **scheduled, **changes}, seed=seed)

    def check(self, setting: Setting, changes: Mapping[str, Any]) -> None:
        self.shape(setting, self.configured(setting, 0, changes))

    def shape(self, setting: Setting, options: Any) -> NetworkOptions:
        """Return the shape of the super-net."""
        shape = network_options(options, setting.dataset)
        return replace(shape, **self.stage.network_changes(options))

    def build(self, setting: Setting, options: Any) -> Stage:
        """Return the stage with a new super-net."""
        supernet = build_supernet(
            self.shape(setting, options),
            self.stage.supernet_space(setting.space, options),
            seed=options.seed,
        )
        return self.stage(supernet, options, setting.dataset, setting.device)

    def run(self, setting: Setting, seed: int, changes: Mapping[str, Any], meter: Meter) -> Found:
        throwaway = self.build(setting, self.configured(setting, seed, changes))
        cost = epoch_cost(throwaway, setting.budget.unit, setting.images, setting.device)
        del throwaway
        epochs = cost.epochs(setting.budget, self.least)
        options = self.configured(setting, seed, changes, epochs)
        with meter.counting():
            stage = self.build(setting, options)
            for _ in drive(stage):
                pass
            genotype = stage.genotype()
        return Found(
            genotype,
            epochs=stage.epochs,
            network=stage.trained_network(),
            signal=lambda other: shared_signal(stage, other, setting, options),
        )


@dataclass(frozen=True)
class Asking(Method):
    """A method that trains every architecture by itself.

    Parameters
    ----------
    search : callable
        One of `isnas.searches.black_box`.
    points : str or None
        Name of the option that says how many architectures there are to ask for, of a search that must know.
    """

    search: Callable[[Ask, Choices, torch.Generator, Any], Genotype]
    points: str | None = field(default=None, kw_only=True)

    def configured(self, setting: Setting, seed: int, changes: Mapping[str, Any]) -> Any:
        return self.preset(setting, **changes)

    def run(self, setting: Setting, seed: int, changes: Mapping[str, Any], meter: Meter) -> Found:
        budget, choices = setting.budget, Choices(setting.space, S)
        options = self.configured(setting, seed, changes)
        drawn = choices.random(generator(seed, "throwaway"))
        # what a process does for the first time takes seconds and memory that are not the search's
        first = _child(drawn, setting, seed)
        first.train_step(next(iter(first.batches(0, 0))))
        del first
        if self.points is not None and getattr(options, self.points) is None:
            throwaway = Meter(setting.device)
            with throwaway.counting():
                child_accuracy(drawn, setting, seed)
            cost = throwaway.spent().amount(budget.unit, setting.images)
            options = replace(options, **{self.points: max(1, int(budget.amount / cost))})
        asked = 0
        dearest = 0.0

        def amount() -> float:
            return meter.spent().amount(budget.unit, setting.images)

        def ask(genotype: Genotype) -> float:
            nonlocal asked, dearest
            before = amount()
            # the margin is for sums of floating-point numbers
            if asked and before + dearest > budget.amount * (1 + 1e-9):
                raise OutOfBudget
            asked += 1
            signal = child_accuracy(genotype, setting, seed)
            dearest = max(dearest, amount() - before)
            return signal

        with meter.counting():
            random = generator(seed, "search", self.search.__name__)
            genotype = self.search(ask, choices, random, options)
        return Found(genotype, asked=asked)


def _child(genotype: Genotype, setting: Setting, seed: int) -> Training:
    recipe = replace(setting.child, seed=seed)
    network = from_scratch(genotype, recipe, setting.dataset)
    half = split_indices(setting.images, 0.5, seed)[0]
    return Training(network, recipe, setting.dataset, setting.device, indices=half)


def child_accuracy(genotype: Genotype, setting: Setting, seed: int) -> float:
    """Return the accuracy, 0 to 1, of an architecture after a short training by itself; 0 if that diverges.

    It is trained on the first half of the training data and tested on the second.
    """
    training = _child(genotype, setting, seed)
    try:
        for _ in drive(training):
            pass
    except Diverged:
        return 0.0
    second = split_indices(setting.images, 0.5, seed)[1]
    batches = Batches(
        setting.dataset,
        batch_size=4 * setting.child.batch_size,
        indices=second,
        augment=False,
        shuffle=False,
        drop_last=False,
        device=setting.device,
    )
    return score(training.network, batches)["test_accuracy"]


def shared_signal(stage: Stage, genotype: Genotype, setting: Setting, options: Any) -> float:
    """Return the accuracy, 0 to 1, of an architecture with a search's shared weights on the second half of the data."""
    batches = scoring_batches(
        setting.dataset, seed=options.seed, batch_size=options.batch_size, device=setting.device
    )
    network = getattr(stage, "supernet", stage.network)
    return shared_accuracy(network, stage.alone(genotype), batches.epoch(0))


METHODS: dict[str, Method] = {
    "ista-two-stage": Staged(SearchOptions, TwoStageSearch),
    "ista-one-stage": Staged(TrainOptions, OneStageTraining, schedule=_halves, least=2),
    "darts-1": Staged(DartsOptions, DartsSearch, fixed={"order": 1}),
    "darts-2": Staged(DartsOptions, DartsSearch, fixed={"order": 2}),
    "pc-darts": Staged(
        DartsOptions,
        DartsSearch,
        fixed={"order": 1},
        prefix="pc-",
        schedule=_warm_up,
        least=2,
        probe=3,
    ),
    "enas": Staged(EnasOptions, EnasSearch),
    "hm-nas": Staged(HmNasOptions, HmNasSearch, least=3, probe=5),
    "random-sharing": Staged(RandomSharingOptions, RandomSharingSearch),
    "random": Asking(RandomSearchOptions, random_search),
    "grid": Asking(GridOptions, grid_search, points="points"),
    "evolution": Asking(EvolutionOptions, ageing_evolution),
    "generational": Asking(GenerationalOptions, generational_evolution),
    "reinforce": Asking(ReinforceOptions, reinforce),
}
"""All methods by name, in the order of tables."""


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """Return the methods that these names mean: a method's own, ``all``, or what some begin with.

    Raises
    ------
    UserError
        When a name means none.
    """
    found: set[str] = set()
    for name in names:
        # a whole name means that method alone, though others go on from it
        meant = {name} if name in METHODS else {m for m in METHODS if m.startswith(f"{name}-")}
        if name == "all":
            meant = set(METHODS)
        if not meant:
            raise UserError(f"no method is called {name!r}; there are {', '.join(METHODS)}")
        found |= meant
    return tuple(method for method in METHODS if method in found)
