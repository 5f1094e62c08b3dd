"""Two-stage search (ISTA-NAS, algorithm 1): weights and codes in turn on two halves of the training data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .data import Batches, Dataset, split_indices
from .engine import Stage
from .options import SearchOptions
from .run import Run
from .sparse_code import NodeRecovery, SparseCode
from .supernet import CellNetwork, train_affine
from .training import Weights, code_optimizer, hits, send

Batch = tuple[Tensor, Tensor]


def changed_nodes(recovery: list[NodeRecovery]) -> str:
    """Return the nodes whose supports a recovery changed, in words."""
    kinds = dict.fromkeys(node.kind for node in recovery)
    parts = []
    for kind in kinds:
        nodes = [str(node.node) for node in recovery if node.kind == kind and node.changed]
        if nodes:
            parts.append(f"{kind} {','.join(nodes)}")
    return "; ".join(parts) or "none"


class TwoStageSearch(Stage):
    """Search of a genotype in a small super-net.

    In every step first b follows the loss on a batch of the second half of the training data, then the weights follow
    the loss on a batch of the first; after every epoch z is recovered from b.
    """

    title = "two-stage search"

    def __init__(
        self,
        supernet: CellNetwork,
        options: SearchOptions,
        dataset: Dataset,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.options = options
        self.network = send(supernet, device)
        # an affine part would let weights take over what the coefficients are there for (DARTS)
        train_affine(self.network.cells, False)
        self.code = SparseCode(supernet.space, options, seed=options.seed).to(device)
        self.weights = Weights(self.network, options)
        self.code_optimizer = code_optimizer(self.code.parameters(), options)
        n = len(dataset.train_labels)
        halves = split_indices(n, 0.5, options.seed)
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

    @property
    def epochs(self) -> int:
        return self.options.epochs

    @property
    def steps(self) -> int:
        return min(len(self.train_batches), len(self.valid_batches))

    def begin(self, run: Run) -> None:
        run.write_matrices(self.code)
        run.write_recovery(self.code.last_recovery, self.code.frozen)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Batch, Batch]]:
        train, valid = (b.epoch(epoch, start) for b in (self.train_batches, self.valid_batches))
        return zip(train, valid, strict=False)  # halves of an odd number differ by an image

    def train_step(self, batch: tuple[Batch, Batch]) -> dict[str, Tensor]:
        (x, y), (x_valid, y_valid) = batch
        self.weights.set_learning_rate(self.epoch / self.epochs)
        valid_loss, valid_logits = self.weights.loss(x_valid, y_valid, self.code.coefficients())
        codes = list(self.code.b)
        # the gradient of b alone: no weight's gradient is computed
        for b, gradient in zip(codes, torch.autograd.grad(valid_loss, codes), strict=True):
            b.grad = gradient
        self.code_optimizer.step()
        with torch.no_grad():
            coefficients = self.code.coefficients()
        loss, logits = self.weights.loss(x, y, coefficients)
        loss.backward()
        self.weights.update()
        return {
            "train_loss": loss.detach(),
            "train_accuracy": hits(logits, y),
            "valid_loss": valid_loss.detach(),
            "valid_accuracy": hits(valid_logits, y_valid),
        }

    def end_epoch(self, run: Run) -> dict[str, Any]:
        recovery = self.code.recover()
        run.write_recovery(recovery, self.code.frozen)
        return {
            "genotype": str(self.code.genotype()),
            "supports_changed": changed_nodes(recovery),
        }

    def describe(self, metrics: dict[str, Any]) -> str:
        return f"{super().describe(metrics)}  supports changed: {metrics['supports_changed']}"

    def stateful(self) -> dict[str, Any]:
        parts = {"code": self.code, "code_optimizer": self.code_optimizer}
        return {**self.weights.stateful(), **parts}
