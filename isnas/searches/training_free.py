"""Searches without training: random architectures, or mutated ones, ranked by a score of the untrained network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..networks.core import CellNetwork
from ..networks.counting import PlaceCosts
from ..networks.images import ImageNetwork
from ..networks.registry import family
from ..runtime.options import BaseOptions, Composition
from ..runtime.randomness import generator
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.base import Task
from .base import Search, Setting, check_s
from .limits import choices_within
from .rankers import az_nas, log_ranks, naswot

ROUND = 10
"""Architectures of an epoch: a checkpoint is written after so many."""


@dataclass(frozen=True)
class TrainingFreeOptions(BaseOptions):
    """Options of searches without training.

    The preset `paper` has the 1,000 random architectures of NASWOT (Mellor et al., ICML 2021) and its batches of 128.

    Parameters
    ----------
    architectures : int
        Architectures to rank; one drawn twice is scored once.
    proposals : {"random", "mutated"}
        Where they come from: all at random, or, after a first population, from the best of a sample of the latest
        ones, with one place changed (ageing evolution, Real et al., AAAI 2019).
    population : int
        The latest architectures that can have a mutated child.
    sample : int
        How many of them are drawn, with replacement; the best one has a child.
    s : int or tuple of int or None
        Operations of a node, one number for all nodes or one for each; by default the space's. Not used where the space
        leaves no choice.
    ranker : {"parameters", "multiply-adds", "naswot", "az-nas"}
        The score, see `isnas.searches.rankers`; the larger network is the better one by the first two.
    """

    least: ClassVar[dict[str, float]] = {"architectures": 1, "population": 1, "sample": 1}

    architectures: int = 100
    proposals: Literal["random", "mutated"] = "random"
    population: int = 20
    sample: int = 5
    s: int | tuple[int, ...] | None = None
    ranker: Literal["parameters", "multiply-adds", "naswot", "az-nas"] = "naswot"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_s(self.s)


class TrainingFreeSearch(Search):
    """Search of the architecture whose untrained network has the best score.

    A step scores an architecture; an epoch has `ROUND` of them, the last one what is left. An architecture can have
    several scores (AZ-NAS); then its value is the sum of their log-ranks among all that were scored until now.

    Attributes
    ----------
    choices : Choices
    asked : list of Genotype
        The architectures in the order in which they came.
    marks : dict of Genotype to dict
        The scores of each by name.
    """

    title = "search without training"
    method_options = TrainingFreeOptions
    presets: ClassVar = {"paper": {"": {"architectures": 1000, "batch_size": 128}}}
    budgeted = ()
    probe_epochs = 1
    anytime = True
    extensible = False

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.choices = choices_within(self.limits, self.options.method.s)
        self.choices.random(generator(self.seed, "limits"))  # limits that nothing can keep show now
        self.asked: list[Genotype] = []
        self.marks: dict[Genotype, dict[str, float]] = {}

    @classmethod
    def why_not(cls, space: Space, task: Task) -> str | None:
        fits = issubclass(family(space).network, ImageNetwork)
        return None if fits else "its scores are those of networks of images"

    @classmethod
    def create(cls, setting: Setting) -> TrainingFreeSearch:
        return cls(setting)

    @classmethod
    def scheduled(cls, options: Composition, epochs: int) -> dict[str, Any]:
        """Return the options of a search of so many rounds at most; a budget asks for no more than the user."""
        return {"architectures": min(options.method.architectures, epochs * ROUND)}

    @property
    def epochs(self) -> int:
        return -(-self.options.method.architectures // ROUND)

    @property
    def steps(self) -> int:
        return min(ROUND, self.options.method.architectures - self.epoch * ROUND)

    def batches(self, epoch: int, start: int) -> Iterator[int]:
        """Yield the number of each architecture."""
        yield from range(epoch * ROUND + start, epoch * ROUND + self.steps)

    def train_step(self, batch: int) -> dict[str, Tensor]:
        genotype = self._proposed(batch)
        if genotype not in self.marks:
            self.marks[genotype] = self._marks_of(genotype)
        self.asked.append(genotype)
        return {name: torch.tensor(mark) for name, mark in self.marks[genotype].items()}

    def _proposed(self, number: int) -> Genotype:
        options, random = self.options.method, generator(self.seed, "architecture", number)
        if options.proposals == "random" or number < options.population:
            return self.choices.random(random)
        living = self.asked[-options.population :]
        drawn = torch.randint(len(living), (options.sample,), generator=random).tolist()
        values = self._values()
        return self.choices.mutate(max((living[i] for i in drawn), key=values.__getitem__), random)

    def _values(self) -> dict[Genotype, float]:
        """Return the value of all architectures that were scored; higher is better."""
        marks = list(self.marks.values())
        found = log_ranks(marks) if len(marks[0]) > 1 else [next(iter(m.values())) for m in marks]
        return dict(zip(self.marks, found, strict=True))

    def _marks_of(self, genotype: Genotype) -> dict[str, float]:
        ranker = self.options.method.ranker
        places = genotype.places(self.space)
        if ranker == "parameters":
            return {"parameters": float(self.costs.parameters(places))}
        if ranker == "multiply-adds":
            return {"multiply_adds": float(self.costs.multiply_adds(places))}
        network = self._network(genotype).to(self.device).train()
        if ranker == "naswot":
            return {"naswot": naswot(network, self.images)}
        random = generator(self.seed, "random images")
        images = torch.randn(self.images.shape, generator=random).to(self.device)
        costs = {"multiply_adds": float(self.costs.multiply_adds(places))}
        return {**az_nas(network, images, seed=self.seed), **costs}

    def _network(self, genotype: Genotype) -> CellNetwork:
        shape = self.setting.network_shape()
        return family(genotype.space).build_network(genotype, shape, seed=self.seed)

    @cached_property
    def costs(self) -> PlaceCosts:
        """Sizes of the networks."""
        supernet = family(self.space).build_supernet
        with torch.device("meta"):
            found = supernet(self.space, self.setting.network_shape())
        return PlaceCosts(found, self.task.example(self.data))

    @cached_property
    def images(self) -> Tensor:
        """A batch of the data to choose by, always the same."""
        feed = self.task.scoring_feed(
            self.data, self.options.optimizer, seed=self.seed, device=self.device
        )
        return next(iter(feed.epoch(0)))[0]

    def genotype(self) -> Genotype:
        """Return the best of those scored, of equal ones the first; before that the first that will be."""
        if not self.marks:
            return self._proposed(0)
        values = self._values()
        return max(values, key=values.__getitem__)

    def score(self, genotype: Genotype) -> float:
        """Return the value of an architecture: its score, or its log-ranks among those scored and itself."""
        marks = self.marks.get(genotype) or self._marks_of(genotype)
        if len(marks) == 1:
            return next(iter(marks.values()))
        return log_ranks([*(m for g, m in self.marks.items() if g != genotype), marks])[-1]

    def end_epoch(self, run: Any) -> dict[str, Any]:
        return {**super().end_epoch(run), "value": self._values()[self.genotype()]}

    def describe(self, metrics: dict[str, Any]) -> str:
        number = self.options.method.architectures
        done = min((metrics["epoch"] + 1) * ROUND, number)
        return f"architecture {done}/{number}  best {self.options.method.ranker} {metrics['value']:,.4g}"

    def stateful(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        marks = [(genotype.to_json(), marks) for genotype, marks in self.marks.items()]
        numbers = {genotype: i for i, genotype in enumerate(self.marks)}
        return {
            **super().state_dict(),
            "marks": marks,
            "asked": [numbers[genotype] for genotype in self.asked],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        genotypes = [Genotype.from_json(genotype) for genotype, _ in state["marks"]]
        found = [dict(marks) for _, marks in state["marks"]]
        self.marks = dict(zip(genotypes, found, strict=True))
        self.asked = [genotypes[i] for i in state["asked"]]
