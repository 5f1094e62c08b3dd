"""Searches that train one sampled architecture in each step: what random sharing and ENAS have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..codes.choices import Choices
from ..networks.core import CellNetwork
from ..runtime.options import BaseOptions
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.base import Measure
from .base import Setting, SupernetSearch, check_s


@dataclass(frozen=True)
class PathOptions(BaseOptions):
    """Options of searches that train one sampled architecture in each step.

    Parameters
    ----------
    s : int or tuple of int or None
        Operations of a node, one number for all nodes or one for each; by default the space's. Not used where the space
        leaves no choice.
    validation_amount : int
        How much of the data to choose by an architecture is scored on, at most, in units of the task; whole batches.
    """

    least: ClassVar[dict[str, float]] = {"validation_amount": 1}

    s: int | tuple[int, ...] | None = None
    validation_amount: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_s(self.s)


class Scores(dict[Genotype, float]):
    """Architectures with their scores, in the order in which they were drawn."""

    def __init__(self, space: Space, measure: Measure) -> None:
        super().__init__()
        self.space = space
        self.measure = measure

    def best(self) -> Genotype:
        """Return the architecture with the best score; of ties the first."""
        return max(self, key=lambda genotype: self.measure.score(self[genotype]))

    def state_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"scores": [(genotype.to_json(), score) for genotype, score in self.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.clear()
        for genotype, score in state["scores"]:
            self[Genotype.from_json(genotype, self.space)] = score


class PathSearch(SupernetSearch):
    """Search in whose steps the weights learn with one sampled architecture each: a path through the super-net.

    An epoch's batches are those of the weights' part of the training data. At the end of the last epoch some
    architectures are scored by the shared weights on data of the other part; the best is the result.

    Attributes
    ----------
    choices : Choices
        The choices that architectures are sampled from.
    scores : Scores
        The last architectures and their scores; empty before the end.
    """

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        self.choices = Choices(self.space, self.options.method.s)
        self.scores = Scores(self.space, self.task.measure)

    @abstractmethod
    def path(self) -> Genotype:
        """Return the architecture that this step trains."""

    @abstractmethod
    def score_candidates(self) -> None:
        """Fill `scores`, from which the result is chosen; at the end of the last epoch."""

    def genotype(self) -> Genotype:
        """Return the best of the scored architectures.

        Raises
        ------
        RuntimeError
            When the search has not ended: it holds no architecture before.
        """
        if not self.scores:
            raise RuntimeError(
                f"{self.title} chooses an architecture at the end of its last epoch; it is in "
                f"epoch {self.epoch + 1} of {self.epochs}"
            )
        return self.scores.best()

    @property
    def steps(self) -> int:
        return len(self.train_feed)

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield a batch to train weights on for every step."""
        return self.train_feed.epoch(epoch, start)

    def train_step(self, batch: Any) -> dict[str, torch.Tensor]:
        return self.train_weights(batch, self.alone(self.path()))

    def end_epoch(self, run: Any) -> dict[str, Any]:
        if self.epoch + 1 < self.epochs:
            return {}
        self.score_candidates()
        best = self.genotype()
        return {"genotype": str(best), "genotype_score": self.scores[best]}

    def describe(self, metrics: dict[str, Any]) -> str:
        text = super().describe(metrics)
        if "genotype_score" in metrics:
            measure = self.task.measure
            text += (
                f"  shared {measure.name} of the best {measure.show(metrics['genotype_score'], 1)}"
            )
        return text

    def stateful(self) -> dict[str, Any]:
        return {**super().stateful(), "scores": self.scores}

    def validation(self, amount: int | None = None) -> Any:
        """Return always the same batches to score architectures by, see `Task.scoring_feed`."""
        return self.scoring_feed(amount, "validation images")
