"""The contract of a search, and what searches with a super-net have in common.

A search is a stage that holds an architecture at every moment. A method of the registry (`isnas.searches.registry`) is
a class of searches: it says which options it has, which spaces and tasks it can serve, and how it is made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..networks.core import CellNetwork, Coefficients, train_affine
from ..networks.registry import family, reshaped
from ..runs.loop import Stage
from ..runs.training import WeightTrainer, carried, named, to_device
from ..runtime.errors import UserError
from ..runtime.options import BaseOptions, Composition
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.base import Feed, Task
from .limits import Limits

RECURRENT = {
    "epochs": 3,
    "learning_rate": 5.0,
    "evaluation_epochs": 3,
    "random_architectures": 2,
}
"""Defaults of searches of recurrent cells: on the embedded text all of it takes some minutes of two cores.

The norms make a super-net's states larger than those of the network that is found; at its rate, 20, many searches begin
by diverging.
"""


RECURRENT_PAPER = {
    "width": 300,
    "dropout": 0.75,
    "dropout_words": 0.0,
    "dropout_embedding": 0.2,
    "dropout_input": 0.75,
    "dropout_hidden": 0.25,
    "batch_size": 256,
    "epochs": 50,
    "learning_rate": 20.0,
    "min_learning_rate": 20.0,
    "evaluation_preset": "paper",
    "evaluation_epochs": 8000,
    "random_architectures": 0,
}
"""DARTS's search of recurrent cells on Penn Treebank (ICLR 2019, appendix A.1.2)."""


@dataclass(frozen=True)
class Setting:
    """The material of a search: space, task, data, device and options.

    Parameters
    ----------
    space : Space
    task : Task
    data
        The task's data set. A search does not touch what is held out for the test.
    device : torch.device
    options : Composition
        Options with the parts `data`, `network`, `optimizer`, `runtime`, `method` and those that the search declares.
    target : optional
        The shape of the network that is made of what is found, which limits are about; by default the search's.
    latencies : mapping, optional
        The table of latencies that the run has recorded (`LatencyTable.to_json`); by default measured when needed.
    """

    space: Space
    task: Task
    data: Any
    device: torch.device
    options: Composition
    target: Any = None
    latencies: Mapping[str, Any] | None = None

    def network_shape(self, **changes: Any) -> Any:
        """Return the shape of a network for these options and data, with changes of what is not the user's."""
        return reshaped(self.options.network, **self.task.shape(self.data), **changes)


class Search(Stage):
    """A search of an architecture.

    Class attributes declare the method:

    Attributes
    ----------
    method_options : type of BaseOptions
        The class of the method's own constants.
    defaults : dict
        Defaults of options, by flat name, where they are not the classes'.
    defaults_in : dict of str to dict
        The same, by the name of the space that they are for.
    presets : dict of str to dict of str to dict
        Constants by preset and by the name of the space that they are for.
    budgeted : tuple of str
        Options that follow from a budget: those that `scheduled` returns.
    least_epochs : int
        Epochs of the shortest search.
    probe_epochs : int
        Epochs of a search in which all its phases stand in their proportion: enough to measure what an epoch costs.
    anytime : bool
        Whether it may be stopped after any epoch, and holds its result then.
    trains_children : bool
        Whether it trains every architecture by itself: then `epochs` is of one such training.
    extensible : bool
        Whether a search that was begun may be given more epochs.
    """

    method_options: ClassVar[type[BaseOptions]]
    defaults: ClassVar[dict[str, Any]] = {}
    defaults_in: ClassVar[dict[str, dict[str, Any]]] = {}
    presets: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {}
    budgeted: ClassVar[tuple[str, ...]] = ("epochs",)
    least_epochs: ClassVar[int] = 1
    probe_epochs: ClassVar[int] = 2
    anytime: ClassVar[bool] = False
    trains_children: ClassVar[bool] = False
    extensible: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting.task)
        self.setting = setting
        self.options = setting.options
        self.space = setting.space
        self.data = setting.data
        self.device = setting.device
        self.limits = self.limits_of(setting)

    @classmethod
    def option_parts(cls, task: Task) -> dict[str, type[BaseOptions]]:
        """Return further parts of its options, such as those of its code."""
        return {}

    @classmethod
    def limits_of(cls, setting: Setting) -> Limits:
        """Return the limits of what a search may find."""
        return Limits(setting)

    @classmethod
    def why_not(cls, space: Space, task: Task) -> str | None:
        """Return why the method cannot serve this space and task, in a few words; None when it can."""
        return None

    @classmethod
    def check(cls, setting: Setting) -> None:
        """Raise a `UserError` when options and data do not go together, before anything is made."""

    @classmethod
    @abstractmethod
    def create(cls, setting: Setting) -> Search:
        """Return the search with all that it needs, such as a new super-net."""

    @classmethod
    def scheduled(cls, options: Composition, epochs: int) -> dict[str, Any]:
        """Return the options that make a search of so many epochs, by flat name."""
        return {"epochs": epochs}

    @abstractmethod
    def genotype(self) -> Genotype:
        """Return the architecture that the search holds now."""

    @abstractmethod
    def score(self, genotype: Genotype) -> float:
        """Return what the search thinks of an architecture: the measure's value on data that its weights do not see."""

    def trained_network(self) -> CellNetwork | None:
        """Return the found network with the weights of the search, where a search trains it."""
        return None

    def network_results(self) -> dict[str, Any]:
        """Return what there is to say of `trained_network`: plain data."""
        return {}

    @property
    def seed(self) -> int:
        """The seed of everything random."""
        return self.options.runtime.seed

    def end_epoch(self, run: Any) -> dict[str, Any]:
        return {"genotype": str(self.genotype())}


class SupernetSearch(Search):
    """Search of an architecture by a super-net's weights, which all architectures share.

    The weights learn from one part of the training data, what chooses the architecture from the other.

    Parameters
    ----------
    supernet : CellNetwork
        All places of the space that `supernet_space` returns.
    setting : Setting

    Attributes
    ----------
    network : CellNetwork
        The super-net.
    weights : WeightTrainer
    train_feed, valid_feed : Feed
        Batches of the two parts of the data.
    """

    defaults: ClassVar[dict[str, Any]] = {"min_learning_rate": 0.001}
    defaults_in: ClassVar[dict[str, dict[str, Any]]] = {"recurrent": RECURRENT}
    role: ClassVar[str] = "search"
    """The role of the super-net, one that its family of networks knows."""

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(setting)
        self.space = supernet.space
        self.network = to_device(supernet, self.device, self.options.runtime.layout)
        # an affine part would let weights take over what the coefficients are there for (DARTS)
        train_affine(self.network.cells, False)
        self.weights = self.weight_trainer()
        self.train_feed, self.valid_feed = self.feeds()
        for feed in filter(None, (self.train_feed, self.valid_feed)):
            self.task.check_feed(self.network, feed, self.data)

    def feeds(self) -> tuple[Feed, Feed | None]:
        """Return the data to train weights on and those to choose by, if these are others."""
        common = {"seed": self.seed, "device": self.device}
        optimizer = self.options.optimizer
        of_code = replace(optimizer, batch_size=self.code_batch_size)
        return (
            self.task.training_feed(
                self.data, optimizer, stream="search weights", part="weights", **common
            ),
            self.task.code_feed(self.data, of_code, stream="search code", **common),
        )

    @property
    def code_batch_size(self) -> int:
        """Examples in a batch that an architecture is chosen by."""
        return self.options.optimizer.batch_size

    def weight_trainer(self) -> WeightTrainer:
        """Return what trains the present network's weights."""
        options = self.options
        return WeightTrainer(self.network, self.task, options.optimizer, options.runtime)

    @classmethod
    def network_changes(cls, setting: Setting) -> dict[str, Any]:
        """Return what the search asks of the super-net's shape, beside its role."""
        return {}

    @classmethod
    def supernet_space(cls, space: Space, options: Composition) -> Space:
        """Return the super-net's space, which may have more primitives than the space of what is found."""
        return space

    @classmethod
    def create(cls, setting: Setting) -> SupernetSearch:
        space = cls.supernet_space(setting.space, setting.options)
        seed = setting.options.runtime.seed
        return cls(family(space).build_supernet(space, cls.shape(setting), seed=seed), setting)

    @classmethod
    def shape(cls, setting: Setting) -> Any:
        """Return the shape of the super-net."""
        changes = {**family(setting.space).roles[cls.role], **cls.network_changes(setting)}
        return setting.network_shape(**changes)

    @classmethod
    def check(cls, setting: Setting) -> None:
        cls.shape(setting)

    def alone(self, genotype: Genotype) -> dict[str, Coefficients]:
        """Return the coefficients that run a genotype alone in the super-net, to score it by the shared weights."""
        return ones(genotype, self.network, self.device)

    def score(self, genotype: Genotype, batches: Any = None) -> float:
        """Return the value of an architecture with the shared weights; by default on all the data to choose by."""
        if batches is None:
            batches = self.scoring_feed().epoch(0)
        network = getattr(self, "supernet", self.network)
        return self.task.shared_score(network, self.alone(genotype), batches)

    def scoring_feed(self, amount: int | None = None, name: str = "scoring images") -> Any:
        """Return always the same batches of the code's data, see `Task.scoring_feed`."""
        return self.task.scoring_feed(
            self.data,
            self.options.optimizer,
            seed=self.seed,
            device=self.device,
            amount=amount,
            name=name,
        )

    @property
    def epochs(self) -> int:
        return self.options.optimizer.epochs

    @property
    def steps(self) -> int:
        return min(len(feed) for feed in (self.train_feed, self.valid_feed) if feed is not None)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Any, Any]]:
        """Yield for every step a batch to train weights on, and one to choose by: None without such data."""
        train, valid = (
            repeat(None) if feed is None else feed.epoch(epoch, start)
            for feed in (self.train_feed, self.valid_feed)
        )
        return zip(train, valid, strict=False)  # the parts may differ by a batch

    def train_weights(
        self, batch: Any, coefficients: Mapping[str, Coefficients]
    ) -> dict[str, Tensor]:
        """Take a step of the weights with these coefficients and return its metrics."""
        self.weights.set_learning_rate(self.epoch / self.epochs, self.epoch, batch)
        loss, metrics = self.weights.loss(batch, coefficients)
        loss.backward()
        self.weights.update()
        return named("train", metrics)

    def stateful(self) -> dict[str, Any]:
        feeds = carried(train_feed=self.train_feed, valid_feed=self.valid_feed)
        return {**self.weights.stateful(), **feeds}


def ones(genotype: Genotype, network: CellNetwork, device: torch.device) -> dict[str, Coefficients]:
    """Return the coefficients that run a genotype alone, all of them 1."""
    return {
        kind: Coefficients(torch.ones(len(places), device=device), places)
        for kind, places in genotype.places(network.space).items()
    }


def check_s(s: int | tuple[int, ...] | None) -> None:
    """Raise a `UserError` unless `s` is None, a whole number of at least 1, or several of them."""
    values = s if isinstance(s, tuple) else (s,)
    if s is not None and (
        not values or any(type(value) is not int or value < 1 for value in values)
    ):
        raise UserError(f"s must be whole numbers of at least 1, got {s!r}")
