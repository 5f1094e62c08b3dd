"""Search by a sparse code, and then a choice among the architectures around its code by short trainings.

A super-net is small, and what it tells of an architecture is what shared weights tell. So after the two-stage search
(`isnas.searches.two_stage`) some *finalists*, the architecture that was found and others near it, are trained by
themselves, by the recipe and in the depth of the training that follows, by successive halving
(`isnas.searches.halving`): all for a short time, the better ones longer. What counts in a deep network and not in a
shallow one, such as a skip past a cell, shows here. The others are *recovered* from b + sigma e, e ~ N(0, I), or
*exchanged*: one active place k of what was found is exchanged for another one j, those exchanges first in which the
correlation with the code falls least, a_k'b - a_j'b.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..codes.sparse import SparseCode
from ..runtime.errors import UserError
from ..runtime.options import BaseOptions, Composition
from ..runtime.randomness import generator
from ..spaces.base import Place, Space
from ..spaces.genotype import Genotype
from ..tasks.base import Task
from .base import Search, Setting
from .halving import HalvingOptions, HalvingSearch, length, rungs, successive_halving
from .limits import LimitOptions
from .two_stage import TwoStageOptions, TwoStageSearch

Places = Mapping[str, tuple[Place, ...]]

TRIES = 100
"""Draws for each finalist, at most."""


@dataclass(frozen=True)
class FinalistsOptions(TwoStageOptions):
    """Options of the two-stage search with finalists.

    Parameters
    ----------
    finalists : int
        Architectures that are trained by themselves after the search, the found one and others around its code; fewer
        where there are not so many; 1: none.
    finalist_epochs : int
        Epochs of the longest of these trainings.
    finalist_eta : int
        One finalist out of so many goes on, to so many times the epochs.
    finalist_others : {"recovered", "exchanged"}
        The others: recovered from b with noise, or the found one with one of its places exchanged.
    finalist_spread : float or None
        Standard deviation sigma of what is added to b to find others; by default the root mean square of b.
    """

    least: ClassVar[dict[str, float]] = {
        **TwoStageOptions.least,
        "finalists": 1,
        "finalist_epochs": 1,
        "finalist_eta": 2,
    }
    above_zero: ClassVar[tuple[str, ...]] = (*TwoStageOptions.above_zero, "finalist_spread")

    finalists: int = 6
    finalist_epochs: int = 3
    finalist_eta: int = 3
    finalist_others: Literal["recovered", "exchanged"] = "recovered"
    finalist_spread: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finalist_others == "exchanged" and self.finalist_spread is not None:
            raise UserError("finalist_spread is for finalist_others recovered; got exchanged")

    def planned(self, number: int) -> int:
        """Return how many epochs of training so many finalists take in all."""
        if number == 1:
            return 0
        levels = rungs(1, self.finalist_epochs, self.finalist_eta)
        return length(successive_halving(number, levels, self.finalist_eta))


class Finals(HalvingSearch):
    """Successive halving among given architectures.

    Parameters
    ----------
    setting : Setting
        Of the children's training.
    finalists : tuple of Genotype
    """

    word = "finalist"

    def __init__(self, setting: Setting, finalists: tuple[Genotype, ...]) -> None:
        self.finalists = finalists
        super().__init__(setting)

    def child_genotype(self, number: int) -> Genotype:
        return self.finalists[number]


class FinalistsSearch(Search):
    """Two-stage search, and successive halving among the architectures around its code.

    The epochs of the search come first, then those of the finalists' trainings. What is found is the best of the
    finalists that were trained longest. Finalists learn from the part of the data that the super-net's weights learn
    from, and the other part judges them.

    Attributes
    ----------
    first : TwoStageSearch
    finals : Finals or None
        None before the first search has ended.
    """

    title = "two-stage search with finalists"
    extensible = False
    method_options = FinalistsOptions
    defaults = TwoStageSearch.defaults
    defaults_in = TwoStageSearch.defaults_in
    presets = TwoStageSearch.presets
    budgeted = ("epochs", "finalists")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.first = TwoStageSearch.create(setting)
        self.finals: Finals | None = None

    @classmethod
    def option_parts(cls, task: Task) -> dict[str, type[BaseOptions]]:
        return TwoStageSearch.option_parts(task)

    @classmethod
    def why_not(cls, space: Space, task: Task) -> str | None:
        return TwoStageSearch.why_not(space, task)

    @classmethod
    def check(cls, setting: Setting) -> None:
        TwoStageSearch.check(setting)

    @classmethod
    def create(cls, setting: Setting) -> FinalistsSearch:
        return cls(setting)

    @classmethod
    def scheduled(cls, options: Composition, epochs: int) -> dict[str, Any]:
        """Return the options of a search of so many epochs, at most half of which are of finalists."""
        method = options.method
        number = next(n for n in range(method.finalists, 0, -1) if method.planned(n) <= epochs / 2)
        return {"epochs": epochs - method.planned(number), "finalists": number}

    @property
    def code(self) -> SparseCode:
        """The code of the two-stage search."""
        return self.first.code

    def _current(self) -> Search:
        """Return what is going on now, at the same step."""
        stage = self.first if self.finals is None else self.finals
        stage.epoch, stage.step = self.epoch, self.step
        if self.finals is not None:
            stage.epoch -= self.first.epochs
        return stage

    @property
    def epochs(self) -> int:
        if self.finals is not None:
            return self.first.epochs + self.finals.epochs
        method = self.options.method
        return self.first.epochs + method.planned(method.finalists)

    @property
    def steps(self) -> int:
        return self._current().steps

    def genotype(self) -> Genotype:
        return self._current().genotype()

    def score(self, genotype: Genotype) -> float:
        """Return the value of an architecture with the super-net's weights, on the data to choose by."""
        return self.first.score(genotype)

    def begin(self, run: Any) -> None:
        self.first.begin(run)

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield the batches of an epoch of the search, or of a finalist's."""
        stage = self._current()
        return stage.batches(stage.epoch, start)

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        return self._current().train_step(batch)

    def end_epoch(self, run: Any) -> dict[str, Any]:
        stage = self._current()
        metrics = stage.end_epoch(run)
        if self.finals is None and self.epoch + 1 == self.first.epochs:
            finalists = self._chosen()
            if len(finalists) > 1:
                self.finals = self._finals_of(finalists)
        return {"phase": "search" if stage is self.first else "finalists", **metrics}

    def _chosen(self) -> tuple[Genotype, ...]:
        """Return the architecture that was found and other ones near it, within the limits."""
        options, code = self.options.method, self.first.code
        exchanged = options.finalist_others == "exchanged"
        found = {code.genotype(): None}
        for places in code.exchanges() if exchanged else self._recovered():
            if len(found) == options.finalists:
                break
            genotype = Genotype.from_places(places, self.space)
            if self.limits.allow(genotype):
                found[genotype] = None
        return tuple(found)

    def _recovered(self) -> Iterator[Places]:
        """Yield what is recovered from b with noise."""
        options, code = self.options.method, self.first.code
        b = torch.cat(list(code.b)).detach()
        # a b of zeros has no scale: any will do
        spread = options.finalist_spread or float(b.square().mean().sqrt()) or 1.0
        for draw in range(TRIES * options.finalists):
            random = generator(self.seed, "finalist", draw)
            e = torch.randn(1, len(b), generator=random, dtype=torch.float64)
            yield from code.places_at(spread * e)

    def _finals_of(self, finalists: tuple[Genotype, ...]) -> Finals:
        """Return the halving among these: by the recipe of the training that follows, or else by the search's own."""
        options, method = self.options, self.options.method
        recipe = options.evaluation
        parts = options.parts | {"regularization": self.task.regularization_options()}
        if recipe is not None:
            parts |= recipe.parts
        parts["optimizer"] = replace(parts["optimizer"], epochs=method.finalist_epochs)
        parts["method"] = HalvingOptions(architectures=len(finalists), eta=method.finalist_eta)
        parts["limits"] = LimitOptions()  # they have been kept
        return Finals(
            replace(self.setting, options=Composition(options.schema, parts, {}), target=None),
            finalists,
        )

    def describe(self, metrics: dict[str, Any]) -> str:
        stage = self.first if metrics["phase"] == "search" else self.finals
        return stage.describe(metrics)

    def stateful(self) -> dict[str, Any]:
        return {"first": self.first}

    def state_dict(self) -> dict[str, Any]:
        state = {**super().state_dict(), "finals": None}
        if self.finals is not None:
            finalists = [genotype.to_json() for genotype in self.finals.finalists]
            state["finals"] = {"finalists": finalists, "search": self.finals.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.finals = None
        if state["finals"] is not None:
            finalists = (Genotype.from_json(g, self.space) for g in state["finals"]["finalists"])
            self.finals = self._finals_of(tuple(finalists))
            self.finals.load_state_dict(state["finals"]["search"])
