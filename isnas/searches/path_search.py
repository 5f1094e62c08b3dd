"""What searches that train one sampled architecture in each step have in common: random sharing and ENAS."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..codes.choices import Choices
from ..networks.core import CellNetwork
from ..runs.directory import Run
from ..runs.options import RunOptions
from ..runtime.errors import UserError
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.images import Batches, Dataset
from .base import Batch, SupernetSearch, scoring_batches, shared_accuracy


@dataclass(frozen=True)
class PathOptions(RunOptions):
    """What these searches need besides.

    Parameters
    ----------
    s : int or tuple of int
        Operations of a node, one number for all nodes or one for each; not used where an edge has one choice.
    validation_images : int
        Images of the second half that an architecture is scored on, at most; whole batches of them.
    """

    least: ClassVar[dict[str, float]] = {"validation_images": 1}

    s: int | tuple[int, ...] = 2
    validation_images: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        values = self.s if isinstance(self.s, tuple) else (self.s,)
        if not values or any(value < 1 for value in values):
            raise UserError(f"s must be whole numbers of at least 1, got {self.s!r}")


class Scores(dict[Genotype, float]):
    """Architectures with their scores, in the order in which they were drawn."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def best(self) -> Genotype:
        """Return the architecture with the highest score; of ties the first."""
        return max(self, key=self.__getitem__)

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

    An epoch's batches are those of the first half of the training data. At the end of the last epoch some architectures
    are scored by the shared weights on images of the second half; the best is the result.

    Parameters
    ----------
    supernet, options, dataset, device
        See `SupernetSearch`.

    Attributes
    ----------
    choices : Choices
        What is sampled from.
    scores : Scores
        The last architectures and their accuracies, 0 to 1; empty before the end.
    """

    options: PathOptions

    def __init__(
        self, supernet: CellNetwork, options: PathOptions, dataset: Dataset, device: torch.device
    ) -> None:
        super().__init__(supernet, options, dataset, device)
        self.dataset = dataset
        self.choices = Choices(self.space, options.s)
        self.scores = Scores(self.space)

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
        return len(self.train_batches)

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield (images, labels) of the first half for every step."""
        return self.train_batches.epoch(epoch, start)

    def train_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self.train_weights(batch, self.alone(self.path()))

    def end_epoch(self, run: Run) -> dict[str, Any]:
        if self.epoch + 1 < self.epochs:
            return {}
        self.score_candidates()
        best = self.genotype()
        return {"genotype": str(best), "genotype_accuracy": self.scores[best]}

    def describe(self, metrics: dict[str, Any]) -> str:
        text = super().describe(metrics)
        if "genotype_accuracy" in metrics:
            text += f"  shared accuracy of the best {100 * metrics['genotype_accuracy']:.1f} %"
        return text

    def stateful(self) -> dict[str, Any]:
        return {**self.weights.stateful(), "scores": self.scores}

    def validation(self, images: int | None = None) -> Batches:
        """Return batches of the second half to score architectures by, see `scoring_batches`."""
        return scoring_batches(
            self.dataset,
            seed=self.options.seed,
            batch_size=self.options.batch_size,
            device=self.device,
            images=images,
            name="validation images",
        )

    def score(self, genotype: Genotype, batches: Iterable[Batch]) -> float:
        """Return the accuracy, 0 to 1, of an architecture with the shared weights."""
        return shared_accuracy(self.network, self.alone(genotype), batches)
