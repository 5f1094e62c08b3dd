"""What searches with a super-net have in common: shared weights that learn from one half of the training data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..networks.core import CellNetwork, Coefficients, train_affine
from ..networks.operations import BatchNorm
from ..runs.loop import Stage
from ..runs.options import RunOptions
from ..runs.training import Weights, hits, send
from ..runtime.processes import summed
from ..runtime.randomness import generator
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.images import Batches, Dataset, split_indices

Batch = tuple[Tensor, Tensor]


class SupernetSearch(Stage):
    """Search of a genotype by a super-net's weights, which all architectures share.

    The weights learn from the first half of the training data, what chooses the architecture from the second half.

    Parameters
    ----------
    supernet : CellNetwork
        All places of its space.
    options : RunOptions
    dataset : Dataset
        Its test images are not used.
    device : torch.device

    Attributes
    ----------
    network : CellNetwork
        The super-net.
    weights : Weights
        Its weights' SGD.
    train_batches, valid_batches : Batches
        Of the two halves.
    """

    def __init__(
        self, supernet: CellNetwork, options: RunOptions, dataset: Dataset, device: torch.device
    ) -> None:
        super().__init__()
        self.options = options
        self.device = device
        self.space = supernet.space
        self.network = send(supernet, device)
        # an affine part would let weights take over what the coefficients are there for (DARTS)
        train_affine(self.network.cells, False)
        self.weights = Weights(self.network, options)
        halves = split_indices(len(dataset.train_labels), 0.5, options.seed)
        self.train_batches, self.valid_batches = (
            Batches(
                dataset,
                batch_size=options.batch_size,
                indices=half,
                seed=options.seed,
                stream=stream,
                augment=dataset.augmentation(cutout=0),
                device=device,
            )
            for half, stream in zip(halves, ("search weights", "search code"), strict=True)
        )

    @staticmethod
    def network_changes(options: RunOptions) -> dict[str, Any]:
        """Return how the super-net's options differ from those of a network that is trained."""
        return {"closing_norm": "pooling"}

    @staticmethod
    def supernet_space(space: Space, options: RunOptions) -> Space:
        """Return the super-net's space, which may have more primitives than the space of what is found."""
        return space

    @abstractmethod
    def genotype(self) -> Genotype:
        """Return the architecture that the search holds now."""

    def alone(self, genotype: Genotype) -> dict[str, Coefficients]:
        """Return the coefficients that run a genotype alone in the super-net, to score it by the shared weights."""
        return ones(genotype, self.network, self.device)

    def trained_network(self) -> CellNetwork | None:
        """Return the found network with the weights of the search, where a search trains it."""
        return None

    @property
    def epochs(self) -> int:
        return self.options.epochs

    @property
    def steps(self) -> int:
        return min(len(self.train_batches), len(self.valid_batches))

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, Batch]]:
        """Yield a batch of each half for every step: (images, labels) to train on, (images, labels) to choose by."""
        train, valid = (b.epoch(epoch, start) for b in (self.train_batches, self.valid_batches))
        return zip(train, valid, strict=False)  # halves of an odd number differ by an image

    def train_weights(
        self, batch: Batch, coefficients: Mapping[str, Coefficients]
    ) -> dict[str, Tensor]:
        """Take a step of the weights with these coefficients and return its metrics."""
        x, y = batch
        self.weights.set_learning_rate(self.epoch / self.epochs, self.epoch)
        loss, logits = self.weights.loss(x, y, coefficients)
        loss.backward()
        self.weights.update()
        return {"train_loss": loss.detach(), "train_accuracy": hits(logits, y)}


def ones(genotype: Genotype, network: CellNetwork, device: torch.device) -> dict[str, Coefficients]:
    """Return the coefficients that run a genotype alone, all of them 1."""
    return {
        kind: Coefficients(torch.ones(len(places), device=device), places)
        for kind, places in genotype.places(network.space).items()
    }


def scoring_batches(
    dataset: Dataset,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    images: int | None = None,
    name: str = "scoring images",
) -> Batches:
    """Return batches of the second half of the training data to score architectures by: the same ones always, unvaried.

    They are mixed first: folders are read class by class, and batches of one class would have its statistics. An
    incomplete batch is left out unless it is the only one: few images make poor statistics.

    Parameters
    ----------
    dataset : Dataset
    seed : int
        Of the search, which has divided the data.
    batch_size : int
    device : torch.device
    images : int, optional
        How many at most; by default all.
    name : str
        Of this draw of random numbers.
    """
    half = split_indices(len(dataset.train_labels), 0.5, seed)[1]
    order = torch.randperm(len(half), generator=generator(seed, name))
    return Batches(
        dataset,
        batch_size=batch_size,
        indices=half[order[:images]],
        augment=False,
        shuffle=False,
        drop_last=True,
        device=device,
    )


@torch.no_grad()
def shared_accuracy(
    network: CellNetwork, coefficients: Mapping[str, Coefficients], batches: Iterable[Batch]
) -> float:
    """Return the accuracy, 0 to 1, of one architecture with a super-net's weights on some batches.

    Batch norm takes the statistics of the batch, as usual for shared weights: those gathered in training are a mixture
    over architectures. The network is left in training mode, its gathered statistics as they were.

    Raises
    ------
    ValueError
        When there is no batch.
    """
    network.train()
    norms = [(each, each.momentum) for each in network.modules() if isinstance(each, BatchNorm)]
    right = torch.zeros((), device=next(network.parameters()).device)
    images = 0
    try:
        for norm, _ in norms:
            norm.momentum = 0.0
        for x, y in batches:
            right += (network(x, coefficients).argmax(1) == y).sum()
            images += len(y)
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
    if images == 0:
        raise ValueError("accuracy needs at least one batch, got none")
    right, number = summed(torch.stack([right, right.new_tensor(images)])).tolist()
    return right / number
