"""Searches that know of an architecture only how good it is: each that they ask for is trained by itself.

A *proposer* is a generator: it yields an architecture, is sent its signal (higher is better), and yields the next one.
Nothing is remembered: an architecture that it comes to again is asked for again. `BlackBoxSearch` trains what is asked
for, a child, on one part of the training data and judges it by the other; the best child is the result, of ties the
first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..codes.choices import WIRINGS, Choices
from ..codes.controller import Policy, Reinforce, SoftmaxPolicy, controller
from ..runs.evaluation import EVALUATION_PRESETS, from_scratch
from ..runs.training import Training
from ..runtime.errors import UserError
from ..runtime.options import BaseOptions, Composition
from ..runtime.randomness import generator
from ..spaces.genotype import Genotype
from ..tasks.base import Task
from .base import RECURRENT, Search, Setting, check_s
from .limits import choices_within

CHILDREN = {
    **EVALUATION_PRESETS["paper"]["darts"],
    "channels": 16,
    "cells": 8,
    "epochs": 5,
    "drop_path": 0.0,
    "auxiliary_weight": 0.0,
}
"""Training of the children of the presets `paper`: plain and short, in the size of the searches."""

CHILDREN_201 = {**EVALUATION_PRESETS["paper"]["nasbench201"], "epochs": 12, "architectures": 100}
"""Training of children in NAS-Bench-201: as the benchmark's for 12 epochs, which is what its searches without shared
weights see. They have a limit of 12,000 seconds of such trainings by the table; a hundred is ours."""

Proposer = Generator[Genotype, float, None]
"""Yields architectures and is sent their signals."""


class OutOfBudget(Exception):
    """No more architectures may be asked for."""


@dataclass(frozen=True)
class BlackBoxOptions(BaseOptions):
    """Options of all searches that train every architecture by itself.

    Parameters
    ----------
    architectures : int
        Architectures to ask for.
    s : int or tuple of int or None
        Operations of a node, one number for all nodes or one for each; by default the space's. Not used where the space
        leaves no choice.
    """

    least: ClassVar[dict[str, float]] = {"architectures": 1}

    architectures: int = 10
    s: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_s(self.s)


@dataclass(frozen=True)
class GridOptions(BlackBoxOptions):
    """Options of grid search, see `isnas.codes.choices.Choices.grid`.

    Parameters
    ----------
    primitives : tuple of str
        Operations of the grid; empty: all of the space.
    wirings : tuple of str
        The states that nodes read: inputs (the cell's first states), latest (those just before the node), or both.
    """

    primitives: tuple[str, ...] = ()
    wirings: tuple[str, ...] = WIRINGS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.wirings or not set(self.wirings) <= set(WIRINGS):
            raise UserError(
                f"wirings must be some of {', '.join(WIRINGS)}, got {', '.join(self.wirings) or 'none'}"
            )


@dataclass(frozen=True)
class EvolutionOptions(BlackBoxOptions):
    """Options of ageing evolution.

    The defaults are those of NAS-Bench-201's scripts (Dong & Yang, ICLR 2020), for a hundred architectures or so.

    Parameters
    ----------
    population : int
        Architectures that live at a time.
    sample : int
        How many of them are drawn, with replacement; the best one has a child.
    """

    least: ClassVar[dict[str, float]] = {"population": 1, "sample": 1}

    population: int = 10
    sample: int = 3


@dataclass(frozen=True)
class GenerationalOptions(BlackBoxOptions):
    """Options of generational evolution, which is no paper's.

    Parameters
    ----------
    population : int
        Architectures that live at a time.
    parents : int
        The best of them, which have children.
    children : int
        Architectures that are made in a generation, and that are removed after it.
    crossover : float
        Probability that a child has two parents, and each node from either.
    mutation : float
        Probability that a child of two is mutated; a child of one always is.
    removal : {"worst", "oldest"}
        Which are removed of old and new ones together.
    """

    least: ClassVar[dict[str, float]] = {
        "population": 2,
        "parents": 2,
        "children": 1,
        "crossover": 0,
        "mutation": 0,
    }
    most: ClassVar[dict[str, float]] = {"crossover": 1, "mutation": 1}

    population: int = 10
    parents: int = 3
    children: int = 5
    crossover: float = 0.5
    mutation: float = 0.5
    removal: Literal["worst", "oldest"] = "worst"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parents > self.population:
            raise UserError(
                f"parents must be at most the population, {self.population}, got {self.parents}"
            )


@dataclass(frozen=True)
class ReinforceOptions(BlackBoxOptions):
    """Options of reinforcement learning.

    The preset `paper` follows Zoph & Le (ICLR 2017), from memory: units, learning rate, children of a step, accuracy
    cubed as the reward. Their LSTM has two layers and initial weights within 0.08; they do not give the baseline's
    decay, which is 0.9 here. The quick learning rate is ten times the paper's, as few steps fit in.

    In NAS-Bench-201 the preset `paper` is the benchmark's own (Dong & Yang, ICLR 2020, at the rate of its script), and
    `nats-bench` that of its successor (Dong et al., TPAMI 2021), whose rate is 0.01. Difference: logits begin at 0, in
    the code within about 1e-3 of it.

    Parameters
    ----------
    policy : {"lstm", "softmax"}
        The source of architectures: a recurrent controller, or independent logits of all decisions.
    policy_learning_rate : float
        Learning rate of the policy (Adam).
    policy_batch : int
        Architectures of a step of the policy.
    reward_power : int
        The reward is the signal to this power.
    entropy_weight : float
        Weight of the policy's entropy in the reward.
    baseline_decay : float
        Decay of the moving average that rewards are compared with.
    baseline_start : {"zero", "first", "corrected"}
        Where that average begins: at 0, or at the first reward; corrected: it is that of all rewards so far, with the
        present one, see `isnas.codes.controller.Reinforce`.
    hidden : int
        Units of the LSTM.
    temperature : float
        The LSTM's logits are divided by it.
    tanh_constant : float or None
        The LSTM's logits become this times their tanh; by default they stay as they are.
    op_tanh_reduce : float
        That constant is so many times smaller for operations.
    """

    least: ClassVar[dict[str, float]] = {
        "policy_learning_rate": 0,
        "policy_batch": 1,
        "reward_power": 1,
        "entropy_weight": 0,
        "baseline_decay": 0,
        "hidden": 1,
    }
    most: ClassVar[dict[str, float]] = {"baseline_decay": 1}
    above_zero: ClassVar[tuple[str, ...]] = ("temperature", "tanh_constant", "op_tanh_reduce")

    policy: Literal["lstm", "softmax"] = "lstm"
    policy_learning_rate: float = 6e-3
    policy_batch: int = 1
    reward_power: int = 1
    entropy_weight: float = 0.0
    baseline_decay: float = 0.9
    baseline_start: Literal["zero", "first", "corrected"] = "first"
    hidden: int = 64
    temperature: float = 1.0
    tanh_constant: float | None = None
    op_tanh_reduce: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline_start == "corrected" and self.baseline_decay == 1:
            raise UserError("baseline_decay must be below 1 for the corrected baseline, got 1")


BENCHMARK_POLICY = {
    **CHILDREN_201,
    "policy": "softmax",
    "policy_learning_rate": 0.5,
    "baseline_start": "corrected",
}
"""The reinforcement learning of NAS-Bench-201."""


class Best:
    """The best of the architectures that were asked for, by its signal; of ties the first."""

    def __init__(self) -> None:
        self.found: Genotype | None = None
        self.signal = -math.inf

    def take(self, genotype: Genotype, signal: float) -> None:
        """Consider one more architecture.

        Raises
        ------
        UserError
            When its signal is no finite number.
        """
        if not math.isfinite(signal):
            raise UserError(
                f"the signal of an architecture is {signal}, no finite number: {genotype}"
            )
        if self.found is None or signal > self.signal:
            self.found, self.signal = genotype, signal


def best_of(proposer: Proposer, ask: Callable[[Genotype], float]) -> Genotype:
    """Return the best of what a proposer asks for until it ends, or `ask` raises `OutOfBudget`.

    Raises
    ------
    UserError
        When there was no budget for a single architecture, or a signal is no finite number.
    """
    best = Best()
    with suppress(StopIteration, OutOfBudget):
        genotype = next(proposer)
        while True:
            signal = float(ask(genotype))
            best.take(genotype, signal)
            genotype = proposer.send(signal)
    if best.found is None:
        raise UserError("the budget ended before the first architecture had been trained")
    return best.found


def random_search(choices: Choices, random: torch.Generator, options: BlackBoxOptions) -> Proposer:
    """Propose random architectures."""
    for _ in range(options.architectures):
        yield choices.random(random)


def grid_search(choices: Choices, random: torch.Generator, options: GridOptions) -> Proposer:
    """Propose architectures spread evenly over a grid; nothing is random."""
    yield from choices.grid(options.primitives, options.wirings, options.architectures)


def ageing_evolution(
    choices: Choices, random: torch.Generator, options: EvolutionOptions
) -> Proposer:
    """Propose what regularised evolution asks for (Real et al., AAAI 2019, algorithm 1).

    The first population is random. Then the best of a random sample has a child, mutated once, and the oldest dies.
    """
    living: list[tuple[float, Genotype]] = []  # the oldest first
    for _ in range(options.architectures):
        if len(living) < options.population:
            child = choices.random(random)
        else:
            drawn = torch.randint(options.population, (options.sample,), generator=random)
            child = choices.mutate(_fittest(living[i] for i in drawn.tolist()), random)
        living.append(((yield child), child))
        del living[: -options.population]


def generational_evolution(
    choices: Choices, random: torch.Generator, options: GenerationalOptions
) -> Proposer:
    """Propose what plain evolution asks for.

    The first population is random. In each generation the best are parents, drawn evenly; their children are born by
    crossover, mutation or both. Then as many are removed, the worst (of ties the oldest) or the oldest.
    """
    living: list[tuple[float, Genotype]] = []  # the oldest first
    left = options.architectures
    for _ in range(min(options.population, left)):
        genotype = choices.random(random)
        living.append(((yield genotype), genotype))
    left -= len(living)
    while left > 0:
        # stable: of ties the oldest are parents
        parents = [g for _, g in sorted(living, key=_signal, reverse=True)][: options.parents]
        for _ in range(min(options.children, left)):
            one, other = torch.randperm(options.parents, generator=random)[:2].tolist()
            crossed, mutated = torch.rand(2, generator=random).tolist()
            child = parents[one]
            if crossed < options.crossover:
                child = choices.crossover(child, parents[other], random)
            if crossed >= options.crossover or mutated < options.mutation:
                child = choices.mutate(child, random)
            living.append(((yield child), child))
            left -= 1
        if options.removal == "oldest":
            del living[: options.children]
        else:
            for entry in sorted(living, key=_signal)[: options.children]:
                living.remove(entry)


def reinforce(choices: Choices, random: torch.Generator, options: ReinforceOptions) -> Proposer:
    """Propose what a policy draws while REINFORCE trains it by the signals (Zoph & Le, ICLR 2017)."""
    learner = Reinforce(
        _policy(choices, random, options),
        learning_rate=options.policy_learning_rate,
        entropy_weight=options.entropy_weight,
        decay=options.baseline_decay,
        start=options.baseline_start,
    )
    left = iter(range(options.architectures))
    while batch := list(itertools.islice(left, options.policy_batch)):
        samples = [learner.policy.sample(random) for _ in batch]
        rewards = []
        for sample in samples:
            signal = yield choices.genotype(sample.chosen)
            rewards.append(signal**options.reward_power)
        learner.step(samples, rewards)


def _policy(choices: Choices, random: torch.Generator, options: ReinforceOptions) -> Policy:
    if options.policy == "softmax":
        return SoftmaxPolicy(choices)
    return controller(
        choices,
        hidden=options.hidden,
        temperature=options.temperature,
        tanh_constant=options.tanh_constant,
        op_tanh_reduce=options.op_tanh_reduce,
        seed=int(torch.randint(2**62, (), generator=random)),
    )


def _signal(entry: tuple[float, Genotype]) -> float:
    return entry[0]


def _fittest(entries: Iterable[tuple[float, Genotype]]) -> Genotype:
    return max(entries, key=_signal)[1]


# As a search


class ChildrenSearch(Search):
    """Search that trains architectures by themselves, children, on one part of the data; the other part judges them.

    Attributes
    ----------
    choices : Choices
    asking : Genotype
        The architecture that is trained now.
    child : Training
        Its training.
    """

    defaults: ClassVar[dict[str, Any]] = {"epochs": 3}
    defaults_in: ClassVar = {
        "recurrent": {**RECURRENT, "epochs": 1, "architectures": 8, "learning_rate": 20.0},
    }
    budgeted = ("epochs", "architectures")
    anytime = True
    trains_children = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.choices = choices_within(self.limits, self.options.method.s)

    @classmethod
    def option_parts(cls, task: Task) -> dict[str, type[BaseOptions]]:
        return {"regularization": task.regularization_options}

    @classmethod
    def create(cls, setting: Setting) -> ChildrenSearch:
        return cls(setting)

    def _ask(self, genotype: Genotype) -> None:
        self.asking = genotype
        network = from_scratch(genotype, self.options, self.task, self.data)
        self.child = Training(
            network, self.options, self.task, self.data, self.device, part="weights"
        )
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)

    def score(self, genotype: Genotype) -> float:
        """Return the value of an architecture after a whole training of a child; the worst if that diverges."""
        asking, child, finite = self.asking, self.child, self._finite
        self._ask(genotype)
        for batch in self._child_batches():
            self.train_step(batch)
        value = self._value()
        self.asking, self.child, self._finite = asking, child, finite
        return value

    def _child_batches(self) -> Iterator[Any]:
        child = self.child
        while child.epoch < child.epochs:
            for batch in child.batches(child.epoch, child.step):
                yield batch
                child.step += 1
            child.epoch, child.step = child.epoch + 1, 0

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        metrics = self.child.train_step(batch)
        # a child that diverges is a bad one; the search goes on
        self._finite &= metrics["train_loss"].isfinite()
        return {name: value.nan_to_num() for name, value in metrics.items()}

    def _value(self) -> float:
        if not self._finite:
            return self.task.measure.worst
        feed = self.task.scoring_feed(
            self.data, self.options.optimizer, seed=self.seed, device=self.device, whole=True
        )
        return self.task.test(self.child.network, feed)[f"test_{self.task.measure.name}"]

    def stateful(self) -> dict[str, Any]:
        return {}


class BlackBoxSearch(ChildrenSearch):
    """Search that trains every architecture that a proposer asks for.

    An epoch of the search is one architecture: as many steps as the training of a child takes, and its judgement. It
    goes on exactly where it was interrupted: the proposer is run again with the signals that it was sent. Random
    architectures and mutants are within the limits; any other proposal beyond them, as of a policy or a grid, gets the
    worst signal and is not trained.

    Attributes
    ----------
    asked : list of (Genotype, float)
        The architectures that were judged, and their values of the measure.
    best : Best
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._begin()
        try:
            self._ask(self._within(next(self._proposer)))
        except StopIteration:
            raise UserError(
                f"limit {self.limits.in_words()}: no architecture that {self.title} asks for is that small"
            ) from None

    def _within(self, genotype: Genotype) -> Genotype:
        """Return the first proposal within the limits, from this one on; the others get the worst signal."""
        while not self.limits.allow(genotype):
            genotype = self._proposer.send(self.task.reward(self.task.measure.worst))
        return genotype

    def _begin(self) -> None:
        self.asked: list[tuple[Genotype, float]] = []
        self.best = Best()
        random = generator(self.seed, "search", self.propose.__name__)
        self._proposer = type(self).propose(self.choices, random, self.options.method)
        self._ended = False

    @staticmethod
    def propose(choices: Choices, random: torch.Generator, options: Any) -> Proposer:
        """Return the proposer: a class of searches sets it."""
        raise TypeError("a search by children needs a proposer")

    @classmethod
    def scheduled(cls, options: Composition, epochs: int) -> dict[str, Any]:
        """Return the options of a search that asks for so many architectures."""
        return {"architectures": epochs}

    @property
    def epochs(self) -> int:
        return len(self.asked) if self._ended else self.options.method.architectures

    @property
    def steps(self) -> int:
        return self.child.epochs * self.child.steps

    def genotype(self) -> Genotype:
        return self.asking if self.best.found is None else self.best.found

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield the batches of the child's training."""
        self.child.epoch, self.child.step = divmod(start, self.child.steps)
        return self._child_batches()

    def end_epoch(self, run: Any) -> dict[str, Any]:
        asked, value = self.asking, self._value()
        self._take(asked, value)
        return {**super().end_epoch(run), "asked": str(asked), "value": value}

    def _take(self, genotype: Genotype, value: float, go_on: bool = True) -> None:
        """Send the proposer the value of what it has asked for, and begin with what it asks for next."""
        self.asked.append((genotype, value))
        signal = self.task.reward(value)
        self.best.take(genotype, signal)
        try:
            following = self._within(self._proposer.send(signal))
        except StopIteration:
            self._ended = True
            return
        if go_on:
            self._ask(following)
        else:
            self.asking = following

    def describe(self, metrics: dict[str, Any]) -> str:
        measure = self.task.measure
        value, best = (measure.show(v, 1) for v in (metrics["value"], self._best_value()))
        number = f"architecture {metrics['epoch'] + 1}/{self.epochs}"
        return f"{number}  {measure.name} {value}  best {best}"

    def _best_value(self) -> float:
        measure = self.task.measure
        return max((value for _, value in self.asked), key=measure.score)

    def state_dict(self) -> dict[str, Any]:
        asked = [(genotype.to_json(), value) for genotype, value in self.asked]
        return {
            **super().state_dict(),
            "asked": asked,
            "finite": bool(self._finite),
            "child": self.child.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned: the proposer is sent all signals again, and comes to the same point."""
        super().load_state_dict(state)
        self._begin()
        self.asking = self._within(next(self._proposer))
        for genotype, value in state["asked"]:
            self._take(Genotype.from_json(genotype), value, go_on=False)
        if not self._ended:
            self._ask(self.asking)
            self.child.load_state_dict(state["child"])
        self._finite &= state["finite"]


class RandomSearch(BlackBoxSearch):
    """The best of random architectures."""

    title = "random search"
    method_options = BlackBoxOptions
    propose = staticmethod(random_search)
    presets: ClassVar = {
        "paper": {
            "darts": CHILDREN,
            "nasbench201": CHILDREN_201,
            # the random search that DARTS is compared with: the best of eight, by validation after 300 epochs
            "recurrent": {
                **EVALUATION_PRESETS["paper"]["recurrent"],
                "epochs": 300,
                "architectures": 8,
                "evaluation_preset": "paper",
                "evaluation_epochs": 8000,
                "random_architectures": 0,
            },
        }
    }


class GridSearch(BlackBoxSearch):
    """The best of a grid, or of some points spread evenly over it."""

    title = "grid search"
    method_options = GridOptions
    propose = staticmethod(grid_search)
    presets: ClassVar = {"paper": {"darts": CHILDREN}}


class AgeingEvolution(BlackBoxSearch):
    """Regularised evolution (Real et al., AAAI 2019); the preset `paper` has its constants, in NAS-Bench-201 the
    benchmark's."""

    title = "ageing evolution"
    method_options = EvolutionOptions
    propose = staticmethod(ageing_evolution)
    presets: ClassVar = {
        "paper": {
            "darts": {**CHILDREN, "architectures": 20_000, "population": 100, "sample": 25},
            "nasbench201": CHILDREN_201,
        }
    }


class GenerationalEvolution(BlackBoxSearch):
    """Plain evolution, no paper's; the preset `paper` has the sizes of ageing evolution."""

    title = "generational evolution"
    method_options = GenerationalOptions
    propose = staticmethod(generational_evolution)
    presets: ClassVar = {
        "paper": {"darts": {**CHILDREN, "population": 100, "parents": 25, "children": 50}}
    }


class ReinforceSearch(BlackBoxSearch):
    """Reinforcement learning, each architecture trained by itself (Zoph & Le, ICLR 2017)."""

    title = "REINFORCE"
    method_options = ReinforceOptions
    propose = staticmethod(reinforce)
    presets: ClassVar = {
        "paper": {
            "darts": {
                **CHILDREN,
                "policy_learning_rate": 6e-4,
                "policy_batch": 8,
                "reward_power": 3,
                "hidden": 35,
            },
            "nasbench201": BENCHMARK_POLICY,
        },
        "nats-bench": {"nasbench201": {**BENCHMARK_POLICY, "policy_learning_rate": 0.01}},
    }
