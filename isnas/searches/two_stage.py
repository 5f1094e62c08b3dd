"""Two-stage search (ISTA-NAS, algorithm 1): weights and codes in turn on two halves of the training data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..codes.sparse import NodeRecovery, SparseCode
from ..networks.core import CellNetwork
from ..runs.directory import Run
from ..runs.options import SearchOptions
from ..runs.training import code_optimizer, hits
from ..spaces.genotype import Genotype
from ..tasks.images import Dataset
from .base import Batch, SupernetSearch


def changed_nodes(recovery: list[NodeRecovery]) -> str:
    """Return the nodes whose supports a recovery changed, in words."""
    kinds = dict.fromkeys(node.kind for node in recovery)
    parts = []
    for kind in kinds:
        nodes = [str(node.node) for node in recovery if node.kind == kind and node.changed]
        if nodes:
            parts.append(f"{kind} {','.join(nodes)}")
    return "; ".join(parts) or "none"


class TwoStageSearch(SupernetSearch):
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
        super().__init__(supernet, options, dataset, device)
        self.code = SparseCode(supernet.space, options, seed=options.seed).to(device)
        self.code_optimizer = code_optimizer(self.code.parameters(), options)

    def genotype(self) -> Genotype:
        return self.code.genotype()

    def begin(self, run: Run) -> None:
        run.write_matrices(self.code)
        run.write_recovery(self.code.last_recovery, self.code.frozen)

    def train_step(self, batch: tuple[Batch, Batch]) -> dict[str, Tensor]:
        train, valid = batch
        metrics = self.train_code(valid)
        with torch.no_grad():
            coefficients = self.code.coefficients()
        return {**self.train_weights(train, coefficients), **metrics}

    def train_code(self, batch: Batch) -> dict[str, Tensor]:
        """Take a step of the codes and return its metrics."""
        x, y = batch
        with self.weights.fixed():
            loss, logits = self.weights.loss(x, y, self.code.coefficients())
        loss.backward()
        self.code_optimizer.step()
        self.code_optimizer.zero_grad(set_to_none=True)
        return {"valid_loss": loss.detach(), "valid_accuracy": hits(logits, y)}

    def end_epoch(self, run: Run) -> dict[str, Any]:
        recovery = self.code.recover()
        run.write_recovery(recovery, self.code.frozen)
        return {
            "genotype": str(self.genotype()),
            "supports_changed": changed_nodes(recovery),
        }

    def describe(self, metrics: dict[str, Any]) -> str:
        return f"{super().describe(metrics)}  supports changed: {metrics['supports_changed']}"

    def stateful(self) -> dict[str, Any]:
        parts = {"code": self.code, "code_optimizer": self.code_optimizer}
        return {**self.weights.stateful(), **parts}
