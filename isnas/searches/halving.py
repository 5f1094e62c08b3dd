"""Searches that give many architectures a short training and the better ones a longer one.

The resource is epochs of a child's training. A child that is promoted goes on from its state: weights, optimizer and
learning rate, which follows the schedule of the longest training from the beginning.

A *plan* is a generator of jobs: it yields which child is to be trained until which epoch, is sent the signal of the
child then (higher is better), and yields the next job. Children have numbers 0, 1, ..., and number i is always the same
random architecture.

References
----------
Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.
Li, Jamieson, DeSalvo, Rostamizadeh & Talwalkar, "Hyperband", JMLR 18 (2018), algorithm 1.
Li, Jamieson, Rostamizadeh, Gonina, Ben-tzur, Hardt, Recht & Talwalkar, "A System for Massively Parallel Hyperparameter
Tuning", MLSys 2020, algorithm 2 (ASHA).
"""

from __future__ import annotations

import bisect
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch

from ..runtime.errors import UserError
from ..runtime.options import Composition
from ..runtime.randomness import generator
from ..spaces.genotype import Genotype
from .base import Setting
from .black_box import CHILDREN, BlackBoxOptions, ChildrenSearch


class Job(NamedTuple):
    """The next piece of work."""

    child: int
    until: int
    """The epoch of the child's training that it goes on to."""
    over: tuple[int, ...] = ()
    """Children that no later job is of."""


Plan = Generator[Job, float, None]
"""Yields jobs and is sent their signals."""


@dataclass(frozen=True)
class HalvingOptions(BlackBoxOptions):
    """Options of successive halving, Hyperband and ASHA.

    The preset `paper` has 81 epochs at the top and an eta of 3, the example of Hyperband's paper (table 1); its
    children are trained as those of our other searches: constants for this space we could not verify.

    Parameters
    ----------
    architectures : int
        Children, random architectures. Hyperband begins its brackets again until it has had so many.
    eta : int
        One child out of so many is promoted, to so many times the epochs (3 and 4 in the papers).
    min_epochs : int
        Epochs before a child is judged for the first time, at least; --epochs are those of a child at the top.
    allocation : {"successive-halving", "hyperband", "asha"}
        Who is trained for how long: `isnas.searches.halving` has a function for each.
    """

    least: ClassVar[dict[str, float]] = {"eta": 2, "min_epochs": 1}

    eta: int = 3
    min_epochs: int = 1
    allocation: Literal["successive-halving", "hyperband", "asha"] = "successive-halving"


def rungs(least: int, most: int, eta: int) -> list[int]:
    """Return the epochs after which children are judged: `most`, an eta-th of it, and so on down to at least `least`.

    Whole numbers, rounded down.

    Examples
    --------
    >>> rungs(1, 9, 3), rungs(2, 9, 3), rungs(1, 10, 2)
    ([1, 3, 9], [3, 9], [1, 2, 5, 10])
    """
    found = [most]
    while most // eta ** len(found) >= least:
        found.append(most // eta ** len(found))
    return found[::-1]


def successive_halving(number: int, levels: Sequence[int], eta: int, first: int = 0) -> Plan:
    """Plan successive halving: of n children the best n / eta**i, rounded down, at least one, go on to level i.

    Parameters
    ----------
    number : int
        Children.
    levels : sequence of int
        Epochs after which they are judged, ascending.
    eta : int
    first : int
        The number of the first child.
    """
    living = list(range(first, first + number))
    over: tuple[int, ...] = ()
    for level, until in enumerate(levels, 1):
        signals = {}
        for child in living:
            signals[child] = yield Job(child, until, over)
            over = ()
        ranked = sorted(living, key=signals.__getitem__, reverse=True)  # stable: of ties the first
        kept = max(1, number // eta**level)
        living, over = sorted(ranked[:kept]), tuple(ranked[kept:])


def hyperband(number: int, least: int, most: int, eta: int) -> Plan:
    """Plan Hyperband: brackets of successive halving that differ in how many begin, and how short they are trained.

    With s_max the number of `rungs` above the lowest, bracket s = s_max, ..., 0 begins with
    ``ceil((s_max + 1) eta**s / (s + 1))`` children and has the upper s + 1 of the rungs. After the last bracket the
    first comes again, with new children, until there have been `number`.
    """
    levels, started = rungs(least, most, eta), 0
    while started < number:
        for s in reversed(range(len(levels))):
            wanted = -(-len(levels) * eta**s // (s + 1))
            begun = min(wanted, number - started)
            if begun:
                yield from successive_halving(begun, levels[-s - 1 :], eta, started)
            started += begun


def asha(number: int, levels: Sequence[int], eta: int) -> Plan:
    """Plan ASHA as one worker does it: whenever a child can be promoted it is, else a new one begins.

    A child can be promoted from a level where it is among the best 1 / eta of those judged until now, rounded down, if
    it has not been yet; the highest level comes first. It ends when all `number` children have begun and none can be.
    """
    judged: list[dict[int, float]] = [{} for _ in levels]
    started = 0
    while True:
        child, level = _promotable(judged, eta)
        if level == 0:
            if started == number:
                return
            child, started = started, started + 1
        judged[level][child] = yield Job(child, levels[level])


def _promotable(judged: Sequence[dict[int, float]], eta: int) -> tuple[int, int]:
    """Return the child to promote and the level that it comes to; level 0 where there is none."""
    for level in reversed(range(len(judged) - 1)):
        here = judged[level]
        best = sorted(here, key=here.__getitem__, reverse=True)[: len(here) // eta]
        for child in best:
            if child not in judged[level + 1]:
                return child, level + 1
    return -1, 0


def plan_of(options: HalvingOptions, most: int, number: int | None = None) -> Plan:
    """Return the plan that options mean, for children of `most` epochs at the top; by default for all architectures."""
    number = options.architectures if number is None else number
    levels = rungs(options.min_epochs, most, options.eta)
    if options.allocation == "hyperband":
        return hyperband(number, options.min_epochs, most, options.eta)
    if options.allocation == "asha":
        return asha(number, levels, options.eta)
    return successive_halving(number, levels, options.eta)


def length(plan: Plan) -> int:
    """Return how many epochs of training a plan takes in all; where that depends on signals, if all are the same."""
    reached: dict[int, int] = {}
    try:
        job = next(plan)
        while True:
            reached[job.child] = job.until
            job = plan.send(0.0)
    except StopIteration:
        return sum(reached.values())


class HalvingSearch(ChildrenSearch):
    """Search by successive halving, Hyperband or ASHA.

    An epoch of the search is one of a child. The result is the best of the children that were trained longest. It goes
    on exactly where it was interrupted: the plan is made again with the signals that it was sent; the states of
    children that may be promoted are in the checkpoint.

    Attributes
    ----------
    job : Job
        The work that is done now.
    judged : list of (Job, float)
        The jobs that are done, and the children's values of the measure then.
    """

    title = "search by halving"
    word = "child"
    extensible = False
    method_options = HalvingOptions
    defaults: ClassVar[dict[str, Any]] = {"epochs": 9, "architectures": 27}
    presets: ClassVar = {"paper": {"darts": {**CHILDREN, "epochs": 81, "architectures": 81}}}

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.check(setting)
        self._planned = length(plan_of(self.options.method, self._most))
        self._begin()
        self._ask(self.child_genotype(self.job.child))

    @property
    def _most(self) -> int:
        return self.options.optimizer.epochs

    @classmethod
    def check(cls, setting: Setting) -> None:
        least, most = setting.options.method.min_epochs, setting.options.optimizer.epochs
        if least > most:
            raise UserError(f"min_epochs must be at most epochs, {most}, got {least}")

    def _begin(self) -> None:
        self.judged: list[tuple[Job, float]] = []
        self._plan = plan_of(self.options.method, self._most)
        self.job = next(self._plan)
        self._ended = False
        self._reached: dict[int, int] = {}
        self._paused: dict[int, dict[str, Any]] = {}

    @classmethod
    def scheduled(cls, options: Composition, epochs: int) -> dict[str, Any]:
        """Return the options of the search with most children that takes at most so many epochs; one at least."""

        def epochs_of(number: int) -> int:
            return length(plan_of(options.method, options.optimizer.epochs, number))

        # n children take n epochs at least
        return {
            "architectures": max(
                1, bisect.bisect_right(range(epochs + 1), epochs, key=epochs_of) - 1
            )
        }

    @property
    def epochs(self) -> int:
        if self._ended:
            return sum(self._reached.values())
        return max(self._planned, self.epoch + 1)

    @property
    def steps(self) -> int:
        return self.child.steps

    def child_genotype(self, number: int) -> Genotype:
        """Return the architecture of a child."""
        return self.choices.random(generator(self.seed, "child", number))

    def genotype(self) -> Genotype:
        if not self.judged:
            return self.asking
        reward = self.task.reward
        # of equal ones the first
        best = max(self.judged, key=lambda entry: (entry[0].until, reward(entry[1])))
        return self.child_genotype(best[0].child)

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield the batches of an epoch of the child's."""
        child = self.child
        child.step = start
        for batch in child.batches(child.epoch, start):
            yield batch
            child.step += 1

    def end_epoch(self, run: Any) -> dict[str, Any]:
        child, number = self.child, self.job.child
        child.epoch, child.step = child.epoch + 1, 0
        metrics = {"child": number, "child_epoch": child.epoch, "asked": str(self.asking)}
        if child.epoch == self.job.until:
            metrics["value"] = self._value()
            state = {"training": child.state_dict(), "finite": bool(self._finite)}
            self._take(metrics["value"], state)
            if not self._ended:
                self._go_on()
        return {**super().end_epoch(run), **metrics}

    def _take(self, value: float, state: dict[str, Any]) -> None:
        """Send the plan the value of its job, and stand before the next one; keep what may be gone on with."""
        job = self.job
        self.judged.append((job, value))
        self._reached[job.child] = job.until
        if job.until < self._most:
            self._paused[job.child] = state
        try:
            self.job = self._plan.send(self.task.reward(value))
        except StopIteration:
            self._ended = True
            self._paused.clear()
            return
        for child in self.job.over:
            self._paused.pop(child, None)

    def _go_on(self) -> None:
        """Begin with the child of the job, or go on with it where it was left."""
        self._ask(self.child_genotype(self.job.child))
        state = self._paused.pop(self.job.child, None)
        if state is not None:
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.child.load_state_dict(state["training"])
        self._finite = torch.tensor(state["finite"], device=self.device)

    def describe(self, metrics: dict[str, Any]) -> str:
        text = f"{self.word} {metrics['child'] + 1}  epoch {metrics['child_epoch']}/{self._most}"
        if "value" in metrics:
            text += f"  {self.task.measure.name} {self.task.measure.show(metrics['value'], 1)}"
        return text

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "values": [value for _, value in self.judged],
            "paused": self._paused,
            "child": {"training": self.child.state_dict(), "finite": bool(self._finite)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._begin()
        for value in state["values"]:
            self._take(value, {})
        if not self._ended:
            self._ask(self.child_genotype(self.job.child))
            self._restore(state["child"])
        self._paused = dict(state["paused"])
