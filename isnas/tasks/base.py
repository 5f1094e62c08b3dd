"""The contract of a task: what is learnt, from which data, with which loss, and how good a network is at it.

Everything above (codes' searches, runs, comparison, figures) asks the task and never says "image" or "accuracy" itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from ..networks.core import CellNetwork, Coefficients
from ..runtime.errors import UserError
from ..runtime.forms import Form, Number
from ..runtime.options import BaseOptions, Composition
from .exhibits import Exhibit


@dataclass(frozen=True)
class Measure:
    """The measure of how good a network is.

    Parameters
    ----------
    name : str
        As in records and results: ``test_<name>``.
    unit : str
        The unit that stands behind a value that is shown.
    scale : float
        Values are multiplied by it when they are shown.
    higher_is_better : bool
    digits : int
        Decimal places that are shown.
    largest : float or None
        The largest value that there is; without it even infinity is one. The smallest is 0.
    """

    name: str
    unit: str = ""
    scale: float = 1.0
    higher_is_better: bool = True
    digits: int = 2
    largest: float | None = None

    @property
    def form(self) -> Form:
        """The form of a value in a file."""
        return Number(0, loose=True) if self.largest is None else Number(0, self.largest)

    def show(self, value: float, digits: int | None = None) -> str:
        """Return a value as people read it, such as ``97.50 %``."""
        digits = self.digits if digits is None else digits
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.scale * value:.{digits}f}{unit}"

    def score(self, value: float) -> float:
        """Return a number that is higher the better the value is."""
        return value if self.higher_is_better else -value

    @property
    def worst(self) -> float:
        """The value of a network whose training failed."""
        return 0.0 if self.higher_is_better else float("inf")


@dataclass(frozen=True)
class OptimizerOptions(BaseOptions):
    """Options of training weights: stochastic gradient descent with momentum, weight decay, clipping and a schedule.

    Parameters
    ----------
    epochs : int
        Epochs of the search (`search`), of what comes after the search phase (`train`), of training (`evaluate`).
    batch_size : int
        Samples in a step, of all processes together.
    learning_rate : float
        Learning rate of the weights at the beginning; it falls as the schedule says.
    min_learning_rate : float
        Learning rate at the end of the schedule.
    schedule : {"cosine", "linear", "linear-tail"}
        How the learning rate falls from epoch to epoch: along a half cosine, along a line, or along a line that would
        come to its end five epochs early, and whose last step is divided among these.
    warm_up_epochs : int
        Epochs at the beginning in which the learning rate rises in equal steps to its largest; then it is where its
        schedule has come to meanwhile. 0: none.
    label_smoothing : float
        Share of each label that is spread over all classes in the training loss.
    momentum : float
        Momentum of the weights' updates.
    nesterov : bool
        Whether the momentum is Nesterov's: the gradient counts as after the step of the momentum.
    weight_decay : float
        Weight decay of the weights.
    clip : float
        Largest norm of the weights' gradient; 0: any.
    """

    least: ClassVar[dict[str, float]] = {
        "epochs": 1,
        "batch_size": 2,
        "learning_rate": 0,
        "min_learning_rate": 0,
        "warm_up_epochs": 0,
        "label_smoothing": 0,
        "momentum": 0,
        "weight_decay": 0,
        "clip": 0,
    }
    below_one: ClassVar[tuple[str, ...]] = ("label_smoothing", "momentum")

    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 0.05
    min_learning_rate: float = 0.0
    schedule: Literal["cosine", "linear", "linear-tail"] = "cosine"
    warm_up_epochs: int = 0
    label_smoothing: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 3e-4
    clip: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_learning_rate > self.learning_rate:
            raise UserError(
                f"min_learning_rate must be at most learning_rate, {self.learning_rate}, got "
                f"{self.min_learning_rate}"
            )
        if self.nesterov and self.momentum == 0:
            raise UserError("nesterov needs a momentum above 0, got momentum 0")


class Feed(Protocol):
    """A source of batches: a function of seed, epoch and step, and of what it carries between steps, if anything."""

    batch_size: int

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Return the batches of an epoch, from step `start` on."""


class Watch(Protocol):
    """A judge of a network after every epoch of its training; part of the training's state."""

    def after_epoch(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, last: bool
    ) -> dict[str, float]:
        """Return metrics of the network; it may change the weights, and does so after the last epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain data and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


Run = Callable[..., Any]
"""A network, or what was compiled from it."""


class Inspection(Protocol):
    """Findings about data, and about what a training would make of them."""

    amount: int
    """Number of the task's units to train on."""
    problems: list[str]
    """The problems that would stop a training; empty where there are none."""

    def lines(self) -> list[str]:
        """Return all of it as lines for people."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""


class Validation:
    """A watch that tests a network after every epoch on what is held out of the training, and leaves it as it is."""

    def __init__(self, task: Task, feed: Feed) -> None:
        self.task = task
        self.feed = feed

    def after_epoch(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, last: bool
    ) -> dict[str, float]:
        """Return the metrics of the test, see `Task.validated`."""
        return self.task.validated(network, self.feed)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""


class Task(ABC):
    """A task: what is learnt, and from which data.

    A *data set* is the task's own object; the others pass it on. A *batch* is what the task's feeds yield and its
    `loss` takes.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    """The unit of cost, in the plural: images, tokens."""
    measure: ClassVar[Measure]
    description: ClassVar[Mapping[str, Form]] = {}
    """The forms of the values that `describe` returns for this task alone, by name."""
    hand_made: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {}
    """Builders of networks that nobody searched, by name, see `isnas.networks.hand_made`."""
    compilable: ClassVar[bool] = True
    """Whether its networks can be compiled."""
    data_options: ClassVar[type[BaseOptions]]
    optimizer_options: ClassVar[type[OptimizerOptions]] = OptimizerOptions
    places: ClassVar[tuple[str, ...]] = ("source", "root")
    """The names in `describe` that say where the data are, not what they are."""
    regularization_options: ClassVar[type[BaseOptions]]
    """Options of training a network to be used, beside the optimizer's: what keeps it from learning by heart."""

    @abstractmethod
    def load(self, options: Any, *, test_only: bool = False, download: bool | None = None) -> Any:
        """Return the data set that the options (of the class `data_options`) name.

        Raises
        ------
        UserError
            When it cannot be had.
        """

    def inspect(self, options: Any, step: Callable[[int, int], None] | None = None) -> Inspection:
        """Read the user's own data that the options name, and say what a training would find.

        Parameters
        ----------
        options
            Options of the class `data_options`.
        step : callable, optional
            Called now and then with how much is read, and of how much.

        Raises
        ------
        UserError
            When there are no such data, or the task cannot say.
        """
        raise UserError(f"there is no check of data for the task {self.name}")

    @abstractmethod
    def describe(self, data: Any, options: Any) -> dict[str, Any]:
        """Return what a network needs to know of its data, and what a resumed run must find again: plain data.

        What is in `places` is where they are; it may change.
        """

    @abstractmethod
    def to(self, data: Any, device: torch.device) -> Any:
        """Return the data set where the device finds it fastest."""

    @abstractmethod
    def test_amount(self, data: Any) -> int:
        """Return how many units there are to test on."""

    @abstractmethod
    def options_of_saved(self, saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Return the options of the data that a saved network was trained on, where they are not given.

        `saved` is what `describe` returned, or {} where it is not known.
        """

    def located(self, options: Composition, saved: dict[str, Any]) -> Composition:
        """Return a run's options with the place where its data are now: they may name it from another directory.

        `saved` is what `describe` returned when the run began.
        """
        return options

    @abstractmethod
    def prepared_as(self, data: Any, saved: dict[str, Any], path: Any) -> Any:
        """Return the data prepared as those of a saved network were.

        Raises
        ------
        UserError
            When what is saved beside the network in `path` is damaged, or does not fit the data.
        """

    @abstractmethod
    def in_words(self, data: Any) -> str:
        """Return a line for people that says what there is."""

    @abstractmethod
    def shape(self, data: Any) -> dict[str, Any]:
        """Return the options of a network that follow from the data."""

    @abstractmethod
    def network_needs(self, regularization: Any) -> dict[str, Any]:
        """Return the options of a network that follow from how it is to be trained, such as an auxiliary head."""

    @abstractmethod
    def example(self, data: Any) -> tuple[int, ...]:
        """Return the size of a sample as `CellNetwork.example` takes it: multiply-adds are counted for it."""

    @abstractmethod
    def amount(self, data: Any) -> int:
        """Return how many units there are to train on."""

    @abstractmethod
    def tiny(self, data: Any) -> bool:
        """Return whether samples are so small that several CPU threads wait for each other more than they work."""

    @abstractmethod
    def without_test(self, data: Any) -> Any:
        """Return the data set without what is held out for the test."""

    @abstractmethod
    def check_fits(self, network: CellNetwork, data: Any) -> None:
        """Raise a `UserError` unless the network is one for these data."""

    def check_feed(self, network: CellNetwork, feed: Feed, data: Any) -> None:
        """Raise a `UserError` when a network cannot be trained on batches as small as these."""

    @abstractmethod
    def training_feed(
        self,
        data: Any,
        optimizer: OptimizerOptions,
        *,
        seed: int,
        stream: str,
        device: torch.device,
        part: Literal["all", "weights"] = "all",
        regularization: Any = None,
    ) -> Feed:
        """Return the training data, varied at random, in batches.

        Parameters
        ----------
        data
        optimizer : OptimizerOptions
        seed : int
        stream : str
            Name of this stream of random numbers.
        device : torch.device
        part : {"all", "weights"}
            All training data, or the part that a search trains its weights on.
        regularization : optional
            Options of the class `regularization_options`; without them samples are varied as in a search.
        """

    @abstractmethod
    def code_feed(
        self,
        data: Any,
        optimizer: OptimizerOptions,
        *,
        seed: int,
        stream: str,
        device: torch.device,
        vary: bool = True,
    ) -> Feed:
        """Return the data that a search chooses an architecture by, none of which its weights see, in random order."""

    @abstractmethod
    def scoring_feed(
        self,
        data: Any,
        optimizer: OptimizerOptions,
        *,
        seed: int,
        device: torch.device,
        amount: int | None = None,
        name: str = "scoring",
        whole: bool = False,
    ) -> Feed:
        """Return the data of `code_feed` as they are: always the same batches, to score architectures by.

        Parameters
        ----------
        amount : int, optional
            How many units at most; by default all.
        name : str
            Name of this draw of random numbers.
        whole : bool
            Whether to have all of them in large batches, as in a test.
        """

    @abstractmethod
    def test_feed(self, data: Any, optimizer: OptimizerOptions, device: torch.device) -> Feed:
        """Return what is held out for the test, as it is, in batches."""

    def validation_feed(
        self, data: Any, optimizer: OptimizerOptions, device: torch.device
    ) -> Feed | None:
        """Return what is held out of the training to be tested after every epoch, in batches; None where nothing is."""
        return None

    def validated(self, network: nn.Module, feed: Feed) -> dict[str, float]:
        """Return what `test` returns, as metrics of an epoch: ``valid_<measure>`` and ``valid_loss``."""
        found = self.test(network, feed)
        return {f"valid_{name.removeprefix('test_')}": value for name, value in found.items()}

    @abstractmethod
    def regularize(
        self,
        network: CellNetwork,
        batch: Any,
        options: Any,
        done: float | None,
        coefficients: Mapping[str, Coefficients] | None,
        random: torch.Generator,
    ) -> dict[str, Any]:
        """Return what `loss` is given for a step of training a network to be used.

        Parameters
        ----------
        network : CellNetwork
        batch
        options
            Options of the class `regularization_options`.
        done : float or None
            Share of the training that is done, 0 to 1; None while an architecture is searched at the same time.
        coefficients : mapping of kind to Coefficients or None
            The coefficients with which the network will be run.
        random : torch.Generator
            On the network's device, for this step alone.
        """

    def prepare(self, network: CellNetwork, regularization: Any) -> None:
        """Make a network ready for a training to be used, before its first step; by default there is nothing to do.

        `regularization` is of the class `regularization_options`.
        """

    def optimizer(
        self, parameters: list[nn.Parameter], options: OptimizerOptions
    ) -> torch.optim.Optimizer:
        """Return what moves the weights."""
        return torch.optim.SGD(
            parameters,
            lr=options.learning_rate,
            momentum=options.momentum,
            nesterov=options.nesterov,
            weight_decay=options.weight_decay,
        )

    def rate_factor(self, batch: Any, options: OptimizerOptions) -> float:
        """Return what the learning rate of a step on this batch is multiplied by."""
        return 1.0

    def watch(self, data: Any, options: OptimizerOptions, device: torch.device) -> Watch | None:
        """Return what judges a network after every epoch of its training, by data that it does not learn from."""
        feed = self.validation_feed(data, options, device)
        return None if feed is None else Validation(self, feed)

    @abstractmethod
    def loss(
        self,
        run: Run,
        batch: Any,
        coefficients: Mapping[str, Coefficients] | None = None,
        *,
        optimizer: OptimizerOptions,
        **options: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss of a batch, and metrics by name: 0-d tensors, left on the device.

        Parameters
        ----------
        run : callable
            The network, or what was compiled from it.
        batch
        coefficients : mapping of kind to Coefficients, optional
        optimizer : OptimizerOptions
        **options
            Options of the task's networks, such as drop path's mask and the auxiliary head's weight.
        """

    @abstractmethod
    def outputs(
        self,
        network: nn.Module,
        batch: Any,
        coefficients: Mapping[str, Coefficients] | None = None,
    ) -> Tensor:
        """Return what a network makes of a batch."""

    @abstractmethod
    def test(self, network: nn.Module, feed: Feed) -> dict[str, float]:
        """Return ``test_<measure>`` and ``test_loss`` of a discrete network, in evaluation mode.

        Several processes share the work.
        """

    def examine(
        self, network: nn.Module, data: Any, feed: Feed
    ) -> tuple[dict[str, float], tuple[Exhibit, ...]]:
        """Return what `test` returns, and what else the test shows to people; by default nothing.

        Parameters
        ----------
        network : nn.Module
            A discrete network.
        data
            The data set that the feed is of.
        feed : Feed
            That of `test_feed`.
        """
        return self.test(network, feed), ()

    @abstractmethod
    def shared_score(
        self, network: CellNetwork, coefficients: Mapping[str, Coefficients], batches: Any
    ) -> float:
        """Return the measure's value of one architecture with a super-net's weights on some batches."""

    def reward(self, value: float) -> float:
        """Return the reward of a controller whose architecture has this value of the measure; higher is better."""
        return self.measure.score(value)

    def epoch_metrics(self, means: dict[str, float]) -> dict[str, float]:
        """Return the means of the metrics of an epoch's steps, and what follows from them."""
        return means

    def describe_test(self, found: Mapping[str, Any]) -> str:
        """Return the measure's value in a test as people read it."""
        return self.measure.show(found[f"test_{self.measure.name}"])

    def sample(
        self,
        network: CellNetwork,
        saved: dict[str, Any],
        *,
        length: int,
        start: str = "",
        temperature: float = 1.0,
        seed: int = 0,
    ) -> str:
        """Return a text that a network has written, see `isnas.commands.sample`; `saved` is what `describe` returned.

        Raises
        ------
        UserError
            When networks of this task write none.
        """
        raise UserError(f"networks of the task {self.name} write no text")

    def describe_metrics(self, metrics: Mapping[str, Any]) -> str:
        """Return an epoch's means of the training's and the validation's metrics as a line for people."""
        parts = []
        for part in ("train", "valid"):
            if f"{part}_loss" in metrics:
                text = f"{part} loss {metrics[f'{part}_loss']:.3f}"
                value = metrics.get(f"{part}_{self.measure.name}")
                if value is not None:
                    text += f" {self.measure.name} {self.measure.show(value, 1)}"
                parts.append(text)
        return "  ".join(parts)
