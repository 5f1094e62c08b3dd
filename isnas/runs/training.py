"""Training of weights: optimizer, schedule and clipping, and the stage that trains a network from scratch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..networks.core import CellNetwork, Coefficients
from ..networks.operations import synchronise
from ..runtime.options import Composition
from ..runtime.processes import average_gradients, processes, share_state
from ..runtime.randomness import generator
from ..tasks.base import OptimizerOptions, Task
from .loop import Stage
from .options import RuntimeOptions


def to_device(network: CellNetwork, device: torch.device, layout: str = "fastest") -> CellNetwork:
    """Return the network on the device, its weights in a layout (`RuntimeOptions.layout`), by default the fastest.

    On the CPU that is channels last, and the feature maps follow: a training step takes half to three quarters of the
    time (``benchmarks/layout.py``). What it rounds more: ``benchmarks/rounding.py``.
    """
    formats = {
        "fastest": torch.channels_last if device.type == "cpu" else torch.preserve_format,
        "channels-last": torch.channels_last,
        "contiguous": torch.contiguous_format,
    }
    return network.to(device, memory_format=formats[layout])


def cosine(start: float, end: float, done: float) -> float:
    """Return the half cosine from `start` to `end` at the share `done` (0 to 1) of the way (SGDR, arXiv 1608.03983)."""
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def linear(start: float, end: float, done: float) -> float:
    """Return the point of the line from `start` to `end` at the share `done` (0 to 1) of the way."""
    return end + (start - end) * (1 - done)


TAIL = 5
"""Epochs at the end of the schedule `linear-tail` among which the last step of its line is divided."""


def linear_tail(start: float, end: float, done: float, epochs: int) -> float:
    """Return the rate at the share `done` of a line that comes to its end `TAIL` epochs early.

    In these the rest that it has one step before, 1 / (epochs - TAIL) of the whole, is divided: 5/5, 4/5, ... 1/5 of
    it (`adjust_lr` in the ImageNet scripts of PC-DARTS and ISTA-NAS). With no more than `TAIL` epochs it is a line.
    """
    left = round((1 - done) * epochs, 6)  # a whole number, but for rounding
    if epochs <= TAIL:
        return linear(start, end, done)
    share = (left - TAIL) if left > TAIL else left / TAIL
    return end + (start - end) * share / (epochs - TAIL)


class WeightTrainer:
    """A network and the optimizer that trains it.

    Parameters with no gradient are left alone: neither weight decay nor momentum moves an inactive candidate.

    Parameters
    ----------
    network : CellNetwork
    task : Task
    options : OptimizerOptions
    runtime : RuntimeOptions

    Attributes
    ----------
    parameters : list of nn.Parameter
    optimizer : torch.optim.Optimizer
    """

    def __init__(
        self, network: CellNetwork, task: Task, options: OptimizerOptions, runtime: RuntimeOptions
    ) -> None:
        share_state(network)
        if runtime.sync_batch_norm and processes() > 1:
            synchronise(network)
        self.network = network
        self.task = task
        self.run: Callable[..., Any] = network
        self.options = options
        self.runtime = runtime
        # once: to collect those of a super-net takes as long as a few layers' work
        self.parameters = list(network.parameters())
        self.optimizer = task.optimizer(self.parameters, options)

    def compile(self) -> None:
        """Compile the network as it is called from now on, if the options say so: its architecture is to stay."""
        if self.runtime.compile:
            torch.compiler.reset()  # networks before this one: only so many are kept compiled
            self.run = torch.compile(self.network)

    def set_learning_rate(self, done: float, epoch: int | None = None, batch: Any = None) -> None:
        """Set the learning rate for the share `done` of the schedule.

        `epoch` is that of the run, for the warm-up; by default it is the one that `done` says. `batch` is that of the
        step, by which the task may change it.
        """
        options = self.options
        schedule = {
            "cosine": cosine,
            "linear": linear,
            "linear-tail": partial(linear_tail, epochs=options.epochs),
        }[options.schedule]
        rate = schedule(options.learning_rate, options.min_learning_rate, done)
        epoch = round(done * options.epochs) if epoch is None else epoch
        if epoch < options.warm_up_epochs:
            rate = options.learning_rate * (epoch + 1) / options.warm_up_epochs
        if batch is not None:
            rate *= self.task.rate_factor(batch, options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def loss(
        self,
        batch: Any,
        coefficients: Mapping[str, Coefficients] | None = None,
        run: Callable[..., Any] | None = None,
        **options: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss and metrics of a batch, see `Task.loss`.

        `run` is what to call instead of the network, such as the network with other weights.
        """
        with self.precision(self.parameters[0].device):
            return self.task.loss(
                run or self.run, batch, coefficients, optimizer=self.options, **options
            )

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Let no weight need a gradient inside the block: nothing is kept for them when only a code is to learn."""
        trainable = [parameter for parameter in self.parameters if parameter.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)

    def precision(self, device: torch.device) -> torch.autocast:
        """Return the context in which the network runs on `device` while training, as the options say."""
        low = self.runtime.precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16, enabled=low)

    def update(self) -> None:
        """Clip the gradients that are there, the means of all processes', and take a step; then drop them."""
        trained = [parameter for parameter in self.parameters if parameter.grad is not None]
        average_gradients(trained)
        if self.options.clip > 0:
            nn.utils.clip_grad_norm_(trained, self.options.clip)
        self.optimizer.step()
        for parameter in trained:
            parameter.grad = None

    def stateful(self) -> dict[str, Any]:
        """Return what has a state, see `isnas.runs.loop.Stage.stateful`."""
        return {"network": self.network, "optimizer": self.optimizer}


def named(part: str, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return metrics by their names in the record, such as ``train_loss``."""
    return {f"{part}_{name}": value for name, value in metrics.items()}


class Training(Stage):
    """Training of a discrete network.

    Parameters
    ----------
    network : CellNetwork
    recipe : Composition
        Options with the parts `optimizer`, `regularization` and `runtime`.
    task : Task
    data
        The task's data set.
    device : torch.device
    part : {"all", "weights"}
        The training data to use: all, or those that a search trains its weights on.
    """

    title = "training"

    def __init__(
        self,
        network: CellNetwork,
        recipe: Composition,
        task: Task,
        data: Any,
        device: torch.device,
        part: Literal["all", "weights"] = "all",
    ) -> None:
        super().__init__(task)
        self.recipe = recipe
        self.device = device
        optimizer = recipe.optimizer
        if optimizer.warm_up_epochs > optimizer.epochs:
            warnings.warn(
                f"warm_up_epochs {optimizer.warm_up_epochs} is more than the {optimizer.epochs} epochs: the learning "
                f"rate never reaches {optimizer.learning_rate:g}",
                stacklevel=2,
            )
        self.network = to_device(network, device, recipe.runtime.layout).train()
        task.prepare(self.network, recipe.regularization)
        self.weights = WeightTrainer(self.network, task, recipe.optimizer, recipe.runtime)
        self.weights.compile()
        self.feed = task.training_feed(
            data,
            recipe.optimizer,
            seed=recipe.runtime.seed,
            stream="evaluation",
            device=device,
            part=part,
            regularization=recipe.regularization,
        )
        task.check_feed(self.network, self.feed, data)
        self.watch = task.watch(data, recipe.optimizer, device)

    @property
    def epochs(self) -> int:
        return self.recipe.optimizer.epochs

    @property
    def steps(self) -> int:
        return len(self.feed)

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        return self.feed.epoch(epoch, start)

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        done = self.epoch / self.epochs
        self.weights.set_learning_rate(done, self.epoch, batch)
        random = generator(
            self.recipe.runtime.seed,
            "drop path",
            "evaluation",
            self.epoch,
            self.step,
            device=self.device,
        )
        extra = self.task.regularize(
            self.network, batch, self.recipe.regularization, done, None, random
        )
        loss, metrics = self.weights.loss(batch, **extra)
        loss.backward()
        self.weights.update()
        return named("train", metrics)

    def end_epoch(self, run: Any) -> dict[str, Any]:
        if self.watch is None:
            return {}
        last = self.epoch + 1 == self.epochs
        found = self.watch.after_epoch(self.network, self.weights.optimizer, last)
        return self.task.epoch_metrics(found)

    def stateful(self) -> dict[str, Any]:
        watched = {} if self.watch is None else {"watch": self.watch}
        return {**self.weights.stateful(), **carried(feed=self.feed), **watched}


def carried(**feeds: Any) -> dict[str, Any]:
    """Return the feeds that carry something from step to step, by name: they are part of a stage's state."""
    return {name: feed for name, feed in feeds.items() if hasattr(feed, "state_dict")}
