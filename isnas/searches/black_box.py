"""Searches that know of an architecture only how good it is: each that they ask for is trained by itself.

They ask until the budget ends and return the best that they asked for, by its signal; of ties the first. Nothing is
remembered: an architecture that a search comes to again is asked for again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ..codes.choices import WIRINGS, Choices
from ..codes.controller import Controller, Policy, Reinforce, SoftmaxPolicy
from ..runs.options import BaseOptions
from ..runtime.errors import UserError
from ..spaces.genotype import Genotype

Ask = Callable[[Genotype], float]
"""Returns the signal of an architecture, higher is better; raises `OutOfBudget` when no more may be asked for."""


class OutOfBudget(Exception):
    """No more architectures may be asked for."""


class BlackBoxOptions(BaseOptions):
    """What the options of all these searches have in common."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {"quick": {}, "paper": {}}


@dataclass(frozen=True)
class RandomSearchOptions(BlackBoxOptions):
    """Options of random search.

    Parameters
    ----------
    architectures : int or None
        Architectures to ask for; by default until the budget ends.
    """

    least: ClassVar[dict[str, float]] = {"architectures": 1}

    architectures: int | None = None


@dataclass(frozen=True)
class GridOptions(BlackBoxOptions):
    """Options of grid search, see `isnas.codes.choices.Choices.grid`.

    Parameters
    ----------
    primitives : tuple of str
        Operations of the grid; empty: all of the space.
    wirings : tuple of str
        What nodes read: inputs (the cell's first states), latest (the states just before the node), or both.
    points : int or None
        Architectures to ask for, spread evenly over the grid; by default all, in order, until the budget ends.
    """

    least: ClassVar[dict[str, float]] = {"points": 1}

    primitives: tuple[str, ...] = ()
    wirings: tuple[str, ...] = WIRINGS
    points: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.wirings or not set(self.wirings) <= set(WIRINGS):
            raise UserError(
                f"wirings must be some of {', '.join(WIRINGS)}, got {', '.join(self.wirings) or 'none'}"
            )


@dataclass(frozen=True)
class EvolutionOptions(BlackBoxOptions):
    """Options of ageing evolution; the preset paper has the constants of Real et al. (AAAI 2019).

    The quick ones are those of NAS-Bench-201's scripts (Dong & Yang, ICLR 2020), for a hundred architectures or so.

    Parameters
    ----------
    population : int
        Architectures that live at a time.
    sample : int
        How many of them are drawn, with replacement; the best one has a child.
    cycles : int or None
        Architectures to ask for in all, the first population among them; by default until the budget ends.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {
            "population": 100,
            "sample": 25,
        },  # and 20,000 cycles, which are a matter of the budget
    }
    least: ClassVar[dict[str, float]] = {"population": 1, "sample": 1, "cycles": 1}

    population: int = 10
    sample: int = 3
    cycles: int | None = None


@dataclass(frozen=True)
class GenerationalOptions(BlackBoxOptions):
    """Options of generational evolution; no paper's: the preset paper has the sizes of ageing evolution.

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
    generations : int or None
        Generations after the first population; by default until the budget ends.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {"population": 100, "parents": 25, "children": 50},
    }
    least: ClassVar[dict[str, float]] = {
        "population": 2,
        "parents": 2,
        "children": 1,
        "crossover": 0,
        "mutation": 0,
        "generations": 0,
    }
    most: ClassVar[dict[str, float]] = {"crossover": 1, "mutation": 1}

    population: int = 10
    parents: int = 3
    children: int = 5
    crossover: float = 0.5
    mutation: float = 0.5
    removal: Literal["worst", "oldest"] = "worst"
    generations: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parents > self.population:
            raise UserError(
                f"parents must be at most the population, {self.population}, got {self.parents}"
            )


@dataclass(frozen=True)
class ReinforceOptions(BlackBoxOptions):
    """Options of reinforcement learning, each architecture trained by itself.

    The preset paper follows Zoph & Le (ICLR 2017), from memory: units, learning rate, children of a step, accuracy
    cubed as the reward. Their LSTM has two layers and initial weights within 0.08; they do not give the baseline's
    decay: 0.9 and the start are those of the baseline of NAS-Bench-201 (Dong & Yang, ICLR 2020), which is
    ``ReinforceOptions(policy="softmax", learning_rate=1e-3)``. The quick learning rate is ten times the paper's, as few
    steps fit in.

    Parameters
    ----------
    policy : {"lstm", "softmax"}
        What draws architectures: a recurrent controller, or independent logits of all decisions.
    learning_rate : float
        Of the policy (Adam).
    batch : int
        Architectures of a step of the policy.
    reward_power : int
        The reward is the signal to this power.
    entropy_weight : float
        Weight of the policy's entropy in the reward.
    baseline_decay : float
        Of the moving average that rewards are compared with.
    baseline_start : {"zero", "first"}
        Where that average begins: at 0, or at the first reward.
    hidden : int
        Units of the LSTM.
    temperature : float
        The LSTM's logits are divided by it.
    tanh_constant : float or None
        The LSTM's logits become this times their tanh; by default they stay as they are.
    op_tanh_reduce : float
        That constant is so many times smaller for operations.
    architectures : int or None
        Architectures to ask for; by default until the budget ends.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {"learning_rate": 6e-4, "batch": 8, "reward_power": 3, "hidden": 35},
    }
    least: ClassVar[dict[str, float]] = {
        "learning_rate": 0,
        "batch": 1,
        "reward_power": 1,
        "entropy_weight": 0,
        "baseline_decay": 0,
        "hidden": 1,
        "architectures": 1,
    }
    most: ClassVar[dict[str, float]] = {"baseline_decay": 1}
    above_zero: ClassVar[tuple[str, ...]] = ("temperature", "tanh_constant", "op_tanh_reduce")

    policy: Literal["lstm", "softmax"] = "lstm"
    learning_rate: float = 6e-3
    batch: int = 1
    reward_power: int = 1
    entropy_weight: float = 0.0
    baseline_decay: float = 0.9
    baseline_start: Literal["zero", "first"] = "first"
    hidden: int = 64
    temperature: float = 1.0
    tanh_constant: float | None = None
    op_tanh_reduce: float = 1.0
    architectures: int | None = None


class _Asked:
    """Asks, and keeps the best."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._best: Genotype | None = None
        self._signal = -math.inf

    def __call__(self, genotype: Genotype) -> float:
        signal = float(self._ask(genotype))
        if not math.isfinite(signal):
            raise UserError(
                f"the signal of an architecture is {signal}, no finite number: {genotype}"
            )
        if self._best is None or signal > self._signal:
            self._best, self._signal = genotype, signal
        return signal

    @property
    def best(self) -> Genotype:
        if self._best is None:
            raise UserError("the budget ended before the first architecture had been trained")
        return self._best


def random_search(
    ask: Ask,
    choices: Choices,
    random: torch.Generator,
    options: RandomSearchOptions | None = None,
) -> Genotype:
    """Return the best of random architectures."""
    options = options or RandomSearchOptions()
    asked = _Asked(ask)
    with suppress(OutOfBudget):
        for _ in _times(options.architectures):
            asked(choices.random(random))
    return asked.best


def grid_search(
    ask: Ask,
    choices: Choices,
    random: torch.Generator,
    options: GridOptions | None = None,
) -> Genotype:
    """Return the best of a grid, or of some points spread evenly over it; nothing is random.

    A budget smaller than the grid ends in its first part, if `points` is not as small.
    """
    options = options or GridOptions()
    asked = _Asked(ask)
    with suppress(OutOfBudget):
        for genotype in choices.grid(options.primitives, options.wirings, options.points):
            asked(genotype)
    return asked.best


def ageing_evolution(
    ask: Ask,
    choices: Choices,
    random: torch.Generator,
    options: EvolutionOptions | None = None,
) -> Genotype:
    """Return the best that regularised evolution (Real et al., AAAI 2019, algorithm 1) asks for.

    The first population is random. Then the best of a random sample has a child, mutated once, and the oldest dies.
    """
    options = options or EvolutionOptions()
    asked = _Asked(ask)
    living: list[tuple[float, Genotype]] = []  # the oldest first
    with suppress(OutOfBudget):
        for _ in _times(options.cycles):
            if len(living) < options.population:
                child = choices.random(random)
            else:
                drawn = torch.randint(options.population, (options.sample,), generator=random)
                child = choices.mutate(_fittest(living[i] for i in drawn.tolist()), random)
            living.append((asked(child), child))
            del living[: -options.population]
    return asked.best


def generational_evolution(
    ask: Ask,
    choices: Choices,
    random: torch.Generator,
    options: GenerationalOptions | None = None,
) -> Genotype:
    """Return the best that plain evolution asks for.

    The first population is random. In each generation the best are parents, drawn evenly; their children are born by
    crossover, mutation or both. Then as many are removed, the worst (of ties the oldest) or the oldest.
    """
    options = options or GenerationalOptions()
    asked = _Asked(ask)
    living: list[tuple[float, Genotype]] = []  # the oldest first
    with suppress(OutOfBudget):
        for _ in range(options.population):
            genotype = choices.random(random)
            living.append((asked(genotype), genotype))
        for _ in _times(options.generations):
            # stable: of ties the oldest are parents
            parents = [g for _, g in sorted(living, key=_signal, reverse=True)][: options.parents]
            for _ in range(options.children):
                one, other = torch.randperm(options.parents, generator=random)[:2].tolist()
                crossed, mutated = torch.rand(2, generator=random).tolist()
                child = parents[one]
                if crossed < options.crossover:
                    child = choices.crossover(child, parents[other], random)
                if crossed >= options.crossover or mutated < options.mutation:
                    child = choices.mutate(child, random)
                living.append((asked(child), child))
            if options.removal == "oldest":
                del living[: options.children]
            else:
                for entry in sorted(living, key=_signal)[: options.children]:
                    living.remove(entry)
    return asked.best


def reinforce(
    ask: Ask,
    choices: Choices,
    random: torch.Generator,
    options: ReinforceOptions | None = None,
) -> Genotype:
    """Return the best that a policy asks for while REINFORCE trains it by the signals (Zoph & Le, ICLR 2017)."""
    options = options or ReinforceOptions()
    asked = _Asked(ask)
    learner = Reinforce(
        _policy(choices, random, options),
        learning_rate=options.learning_rate,
        entropy_weight=options.entropy_weight,
        decay=options.baseline_decay,
        start=options.baseline_start,
    )
    left = _times(options.architectures)
    with suppress(OutOfBudget):
        while batch := list(itertools.islice(left, options.batch)):
            samples = [learner.policy.sample(random) for _ in batch]
            rewards = [
                asked(choices.genotype(sample.chosen)) ** options.reward_power for sample in samples
            ]
            learner.step(samples, rewards)
    return asked.best


def _policy(choices: Choices, random: torch.Generator, options: ReinforceOptions) -> Policy:
    if options.policy == "softmax":
        return SoftmaxPolicy(choices)
    return Controller(
        choices,
        hidden=options.hidden,
        temperature=options.temperature,
        tanh_constant=options.tanh_constant,
        op_tanh_reduce=options.op_tanh_reduce,
        seed=int(torch.randint(2**62, (), generator=random)),
    )


def _times(n: int | None) -> Iterator[int]:
    """Return an iterator that ends after `n` turns, or never."""
    return itertools.count() if n is None else iter(range(n))


def _signal(entry: tuple[float, Genotype]) -> float:
    return entry[0]


def _fittest(entries: Iterable[tuple[float, Genotype]]) -> Genotype:
    return max(entries, key=_signal)[1]
