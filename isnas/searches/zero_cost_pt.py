"""Zero-Cost-PT: operations are fixed one edge after the other by what an untrained super-net loses without them.

Xiang, Dudziak, Abdelfattah, Chau, Lane & Wen, "Zero-Cost Operation Scoring in Differentiable Architecture Search", AAAI
2023, with NASWOT as the score, and the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..codes.choices import places_of_choices
from ..networks.core import CellNetwork, Coefficients
from ..networks.images import ImageNetwork
from ..networks.registry import family
from ..runtime.options import BaseOptions, Composition
from ..runtime.randomness import generator
from ..spaces.base import Place, Space, rows_of
from ..spaces.genotype import Genotype
from ..tasks.base import Task
from .base import Search, Setting, SupernetSearch, check_s
from .rankers import naswot

Edges = list[list[list[Place]]]
"""The places that are left, edge by edge, for each choice of the space."""


@dataclass(frozen=True)
class ZeroCostPTOptions(BaseOptions):
    """Options of Zero-Cost-PT.

    The preset `paper` has the constants of the authors' scripts: ten proposals, 100 batches to choose among proposals
    by, batches of 256, in DARTS's space of 64. Differences: the authors' `none` is no candidate, as every edge of our
    codes keeps an operation; the batch norms of the super-net take the statistics of the batch, theirs those that they
    begin with; one batch serves a whole proposal.

    Parameters
    ----------
    proposals : int
        Architectures that are made, each with the edges in another random order; the network with the best score is
        the result.
    validation_batches : int
        Batches whose scores are added up for that.
    s : int or tuple of int or None
        Operations of a node, one number for all nodes or one for each; by default the space's. Not used where the space
        leaves no choice.
    """

    least: ClassVar[dict[str, float]] = {"proposals": 1, "validation_batches": 1}

    proposals: int = 2
    validation_batches: int = 1
    s: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_s(self.s)


class ZeroCostPTSearch(Search):
    """Search by the removal of operations from an untrained super-net.

    The super-net runs what is left of every edge, each operation multiplied by 1 / (candidates of the edge), one by 1
    where its edge is decided. For an edge, S(o) is NASWOT's score of the super-net without the operation o; the edge
    keeps the operation with the lowest S(o), without which the super-net is worst; a single one stays. The edges come
    in random order. Where a node may read any s of its edges, nodes lose edges in the end: again and again the one
    without which the score is highest, until s are left.

    A step decides one edge, or one node's edges; an epoch makes a proposal.

    Attributes
    ----------
    proposed : list of (Genotype, float)
        The proposals and the scores of their networks.
    """

    title = "Zero-Cost-PT"
    method_options = ZeroCostPTOptions
    presets: ClassVar = {
        "paper": {
            "": {"proposals": 10, "validation_batches": 100, "batch_size": 256},
            "darts": {"batch_size": 64},
        }
    }
    budgeted = ()
    probe_epochs = 1
    anytime = True
    extensible = False

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(setting)
        self.network = supernet.to(self.device).train()
        self.s = places_of_choices(self.space, self.options.method.s)
        self.proposed: list[tuple[Genotype, float]] = []
        self.left: Edges = []
        self.genotype()  # limits that nothing can keep show now
        self.left = []

    @classmethod
    def why_not(cls, space: Space, task: Task) -> str | None:
        fits = issubclass(family(space).network, ImageNetwork)
        return None if fits else "its score is one of networks of images"

    @classmethod
    def create(cls, setting: Setting) -> ZeroCostPTSearch:
        seed = setting.options.runtime.seed
        shape = SupernetSearch.shape(setting)
        return cls(family(setting.space).build_supernet(setting.space, shape, seed=seed), setting)

    @classmethod
    def scheduled(cls, options: Composition, epochs: int) -> dict[str, Any]:
        """Return the options of a search of so many proposals at most; a budget asks for no more than the user."""
        return {"proposals": min(options.method.proposals, epochs)}

    @property
    def epochs(self) -> int:
        return self.options.method.proposals

    @property
    def steps(self) -> int:
        return len(self._decisions(0))

    def _decisions(self, epoch: int) -> list[tuple[int, int | None]]:
        """Return (choice, edge) for every edge in random order, then (choice, None) for choices that lose edges."""
        choices = self.space.choices
        edges = [(i, j) for i, choice in enumerate(choices) for j in range(len(rows_of(choice)))]
        losing = [
            (i, None)
            for i, choice in enumerate(choices)
            if choice.groups is None and len(rows_of(choice)) > self.s[i]
        ]
        found: list[tuple[int, int | None]] = []
        random = generator(self.seed, "order of edges", epoch)
        for part in (edges, losing):
            found += [part[i] for i in torch.randperm(len(part), generator=random).tolist()]
        return found

    def batches(self, epoch: int, start: int) -> Iterator[tuple[int, int | None]]:
        """Yield what is to be decided in each step."""
        if start == 0:
            self.left = [rows_of(choice) for choice in self.space.choices]
        yield from self._decisions(epoch)[start:]

    def train_step(self, batch: tuple[int, int | None]) -> dict[str, Tensor]:
        choice, edge = batch
        images = self._images(self.epoch)
        edges = self.left[choice]
        if edge is not None:
            scores = [self._score_without(choice, edge, [place], images) for place in edges[edge]]
            edges[edge] = [edges[edge][scores.index(min(scores))]]
        else:
            while sum(map(bool, edges)) > self.s[choice]:
                there = [i for i, places in enumerate(edges) if places]
                scores = [self._score_without(choice, i, edges[i], images) for i in there]
                edges[there[scores.index(max(scores))]] = []
        return {"naswot": torch.tensor(min(scores))}

    def _score_without(
        self, choice: int, edge: int, places: Sequence[Place], images: Tensor
    ) -> float:
        return naswot(self.network, images, self._coefficients((choice, edge), places))

    def _coefficients(
        self, at: tuple[int, int], without: Sequence[Place]
    ) -> dict[str, Coefficients]:
        """Return the coefficients of what is left without some places of an edge."""
        places: dict[str, list[Place]] = {kind: [] for kind in self.space.kinds}
        values: dict[str, list[float]] = {kind: [] for kind in self.space.kinds}
        for i, choice in enumerate(self.space.choices):
            for j, row in enumerate(self.left[i]):
                kept = [p for p in row if (i, j) != at or p not in without]
                places[choice.kind] += kept
                values[choice.kind] += [1 / len(row) for _ in kept]
        return {
            kind: Coefficients(torch.tensor(values[kind], device=self.device), tuple(places[kind]))
            for kind in self.space.kinds
        }

    def _feed(self) -> Any:
        return self.task.scoring_feed(
            self.data, self.options.optimizer, seed=self.seed, device=self.device
        )

    def _images(self, epoch: int) -> Tensor:
        """Return the batch of a proposal: each has another one, as long as there are any."""
        feed = self._feed()
        return next(iter(feed.epoch(0, epoch % len(feed))))[0]

    def _held(self) -> Genotype:
        """Return the architecture of what is left: of each edge the first operation, of each choice s edges."""
        places: dict[str, list[Place]] = {kind: [] for kind in self.space.kinds}
        for i, choice in enumerate(self.space.choices):
            rows = [row for row in self.left[i] if row]
            if choice.groups is None:
                rows = rows[: self.s[i]]
            places[choice.kind] += [row[0] for row in rows]
        found = Genotype.from_places(places, self.space)
        # its scores are of what is left out, not of places: these are all alike
        return self.limits.nearest(found)

    def genotype(self) -> Genotype:
        """Return the best proposal, of equal ones the first."""
        if not self.proposed:
            self.left = self.left or [rows_of(choice) for choice in self.space.choices]
            return self._held()
        return max(self.proposed, key=lambda entry: entry[1])[0]

    def score(self, genotype: Genotype) -> float:
        """Return NASWOT's score of the architecture's own untrained network, summed over the validation batches."""
        shape = self.setting.network_shape()
        network = family(self.space).build_network(genotype, shape, seed=self.seed)
        network = network.to(self.device).train()
        batches = self._feed().epoch(0)
        number = self.options.method.validation_batches
        return sum(
            naswot(network, images) for _, (images, *_) in zip(range(number), batches, strict=False)
        )

    def end_epoch(self, run: Any) -> dict[str, Any]:
        proposal = self._held()
        self.proposed.append((proposal, self.score(proposal)))
        return {**super().end_epoch(run), "proposal": str(proposal), "value": self.proposed[-1][1]}

    def describe(self, metrics: dict[str, Any]) -> str:
        return f"proposal {metrics['epoch'] + 1}/{self.epochs}  naswot {metrics['value']:,.4g}"

    def stateful(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "proposed": [(genotype.to_json(), score) for genotype, score in self.proposed],
            "left": [[[list(place) for place in row] for row in rows] for rows in self.left],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.proposed = [(Genotype.from_json(g), float(score)) for g, score in state["proposed"]]
        self.left = [[[Place(*place) for place in row] for row in rows] for rows in state["left"]]
