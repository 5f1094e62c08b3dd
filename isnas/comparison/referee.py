"""The referee of a comparison: what a search may spend, what it has spent, and what an epoch of it costs.

Cost is counted here and nowhere else: by hooks that see every sample that passes a network, whoever sends it. A method
reports nothing.
"""

from __future__ import annotations

import math
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ..networks.core import CellNetwork
from ..runs.loop import NoRun, Stage
from ..runtime.errors import UserError
from ..runtime.memory import Peak, peak_memory
from ..tasks.registry import TASKS

UNITS = ("epochs", "seconds", *(task.unit for task in TASKS.values()))
"""Units of a budget. Epochs are as many sample passes as there are samples to train on; the units of tasks, such as
images, are sample passes. A sample is what the task counts, in text a token."""

FORWARD_SHARE = 1 / 3
"""Share of the forward pass in the cost of both passes: the backward pass is two products for each one of it."""

PROBE_STEPS = 3
"""Steps of each epoch in which the cost of an epoch is measured, after a first one that is slower than the others."""


class Spent(NamedTuple):
    """The cost of a search so far."""

    trained: int = 0
    """Samples that passed a network forwards with gradients recorded: forwards and backwards."""
    evaluated: int = 0
    """Samples that passed a network forwards only."""
    seconds: float = 0.0

    @property
    def passes(self) -> float:
        """Sample passes: the samples forwarded and backwarded, and a third of those forwarded only."""
        return self.trained + FORWARD_SHARE * self.evaluated

    def minus(self, other: Spent) -> Spent:
        """Return what was spent since `other`."""
        return Spent(*(a - b for a, b in zip(self, other, strict=True)))

    def amount(self, unit: str, samples: int) -> float:
        """Return it as one number; an epoch is as many sample passes as there are training `samples`."""
        if unit == "seconds":
            return self.seconds
        return self.passes / samples if unit == "epochs" else self.passes


@dataclass(frozen=True)
class Budget:
    """The cost that a search is allowed.

    Parameters
    ----------
    amount : float
        Above 0.
    unit : str
        One of `UNITS`.
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget such as ``20epochs``, ``90seconds`` or ``60000images``.

        Raises
        ------
        UserError
            When the text is not of that form or the amount is 0.
        """
        names = "|".join(unit.removesuffix("s") for unit in UNITS)
        match = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*({names})s?\s*", text)
        if match is None or not 0 < float(match[1]) < math.inf:
            raise UserError(
                f"budget must be an amount above 0 and a unit, {', '.join(UNITS)}, such as "
                f"20epochs; got {text!r}"
            )
        return cls(float(match[1]), f"{match[2]}s")

    def __str__(self) -> str:
        """Return the text form."""
        return f"{np.format_float_positional(self.amount, trim='-')}{self.unit}"


class Meter:
    """Counts the samples that pass networks of cells, and the seconds, inside its blocks.

    Only what the thread does that made the meter: other trials may go on in others.

    Parameters
    ----------
    device : torch.device
        The device that works; it is waited for when the time is taken.
    memory : bool
        Whether to measure the peak memory of the last block, too.

    Attributes
    ----------
    peak : int or None
        Bytes, see `isnas.runtime.memory`.
    """

    def __init__(self, device: torch.device, memory: bool = False) -> None:
        self.peak: int | None = None
        self._device = device
        self._memory = memory
        self._thread = threading.get_ident()
        self._trained = self._evaluated = 0
        self._seconds = 0.0
        self._since: float | None = None

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def spent(self) -> Spent:
        """Return what has been spent until now."""
        running = 0.0 if self._since is None else self._now() - self._since
        return Spent(self._trained, self._evaluated, self._seconds + running)

    @contextmanager
    def counting(self) -> Iterator[Meter]:
        """Count inside the block."""
        with peak_memory(self._device) if self._memory else nullcontext(Peak()) as peak:
            handle = register_module_forward_pre_hook(self._count)
            self._since = self._now()
            try:
                yield self
            finally:
                handle.remove()
                self._seconds += self._now() - self._since
                self._since = None
        self.peak = peak.bytes

    def _count(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not isinstance(module, CellNetwork) or threading.get_ident() != self._thread:
            return
        if not inputs:
            raise RuntimeError("a network was called without positional inputs: cannot count them")
        x = inputs[0]
        if x.device.type == "meta":  # a look at shapes
            return
        units = module.units(x)
        if torch.is_grad_enabled():
            self._trained += units
        else:
            self._evaluated += units


@dataclass(frozen=True)
class EpochCost:
    """The cost of a search by epochs, in a budget's unit.

    Parameters
    ----------
    epoch : float
        Cost of an epoch.
    end : float
        Cost of the end of the last epoch and of the choice of the architecture besides.
    """

    epoch: float
    end: float

    def epochs(self, budget: Budget, least: int = 1, *, below: bool = False) -> int:
        """Return how many epochs come nearest to the budget, or are paid for by it (`below`).

        As many as anybody could want, where an epoch costs nothing.
        """
        if self.epoch == 0:
            return max(least, sys.maxsize)
        paid = (budget.amount - self.end) / self.epoch
        # the margin is for sums of floating-point numbers
        return max(least, int(paid + 1e-9) if below else round(paid))


def epoch_cost(stage: Stage, unit: str, samples: int, device: torch.device) -> EpochCost:
    """Measure what an epoch of a stage costs, by a few steps of every epoch of this one, a throwaway.

    Parameters
    ----------
    stage : Stage
        With a method `genotype`; of a few epochs, in which all its phases stand in their proportion.
    unit : str
        One of `UNITS`.
    samples : int
        Training samples.
    device : torch.device
    """
    run = NoRun()
    meter = Meter(device)
    steps, ends = [], []
    stage.begin(run)
    while stage.epoch < stage.epochs:
        _some_steps(stage, 1)  # what only the first step of a phase takes, such as loading kernels
        with meter.counting():
            before = meter.spent()
            taken = _some_steps(stage, PROBE_STEPS)
            between = meter.spent()
            stage.end_epoch(run)
            stage.epoch, stage.step = stage.epoch + 1, 0
            if stage.epoch >= stage.epochs:
                stage.genotype()
            after = meter.spent()
        steps.append(between.minus(before).amount(unit, samples) * stage.steps / taken)
        ends.append(after.minus(between).amount(unit, samples))
    *ordinary, last = ends
    end = sum(ordinary) / len(ordinary) if ordinary else last
    return EpochCost(sum(steps) / len(steps) + end, last - end)


def _some_steps(stage: Stage, most: int) -> int:
    stage.step = 0
    for batch in islice(stage.batches(stage.epoch, 0), most):
        stage.train_step(batch)
        stage.step += 1
    return stage.step
