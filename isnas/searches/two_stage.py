"""Two-stage search (ISTA-NAS, algorithm 1): weights and codes in turn on two parts of the training data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..codes.sparse import NodeRecovery, SparseCode, SparseCodeOptions
from ..networks.core import CellNetwork
from ..runs.training import named
from ..runtime.options import BaseOptions
from ..runtime.processes import averaging
from ..spaces.genotype import Genotype
from ..tasks.base import Task
from .base import Setting, SupernetSearch


@dataclass(frozen=True)
class TwoStageOptions(BaseOptions):
    """Options of the two-stage search.

    Parameters
    ----------
    code_learning_rate : float
        Learning rate of the codes b (Adam).
    code_weight_decay : float
        Weight decay of the codes b.
    """

    least: ClassVar[dict[str, float]] = {"code_learning_rate": 0, "code_weight_decay": 0}

    code_learning_rate: float = 6e-3
    code_weight_decay: float = 1e-3


class TwoStageSearch(SupernetSearch):
    """Search of an architecture in a small super-net.

    In every step first b follows the loss on a batch of one part of the data, then the weights follow the loss on a
    batch of the other; after every epoch z is recovered from b.
    """

    title = "two-stage search"
    method_options = TwoStageOptions
    presets: ClassVar = {
        "paper": {
            "darts": {
                "data": "cifar10",
                "channels": 16,
                "cells": 8,
                "batch_size": 256,
                "epochs": 50,
                "learning_rate": 0.1,
                "matrix": "uniform",
                "code_learning_rate": 6e-4,
                "evaluation_preset": "paper",
                "evaluation_epochs": 600,
                "random_architectures": 0,
            }
        }
    }

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        self.code = SparseCode(supernet.space, self.options.code, seed=self.seed).to(self.device)
        self.code_optimizer = code_optimizer(self.code.parameters(), self.options.method)

    @classmethod
    def option_parts(cls, task: Task) -> dict[str, type[BaseOptions]]:
        return {"code": SparseCodeOptions}

    def genotype(self) -> Genotype:
        return self.code.genotype()

    def begin(self, run: Any) -> None:
        run.write_matrices(self.code)
        run.write_recovery(self.code.last_recovery, self.code.frozen)

    def train_step(self, batch: tuple[Any, Any]) -> dict[str, Tensor]:
        train, valid = batch
        metrics = self.train_code(valid)
        with torch.no_grad():
            coefficients = self.code.coefficients()
        return {**self.train_weights(train, coefficients), **metrics}

    def train_code(self, batch: Any) -> dict[str, Tensor]:
        """Take a step of the codes and return its metrics."""
        with self.weights.fixed():
            loss, metrics = self.weights.loss(batch, self.code.coefficients())
        loss.backward()
        self.code_optimizer.step()
        self.code_optimizer.zero_grad(set_to_none=True)
        return named("valid", metrics)

    def end_epoch(self, run: Any) -> dict[str, Any]:
        recovery = self.code.recover()
        run.write_recovery(recovery, self.code.frozen)
        return {**super().end_epoch(run), "supports_changed": changed_nodes(recovery)}

    def describe(self, metrics: dict[str, Any]) -> str:
        return f"{super().describe(metrics)}  supports changed: {metrics['supports_changed']}"

    def stateful(self) -> dict[str, Any]:
        parts = {"code": self.code, "code_optimizer": self.code_optimizer}
        return {**super().stateful(), **parts}


def code_optimizer(
    parameters: Iterable[Tensor], options: Any, *, betas: tuple[float, float] = (0.5, 0.999)
) -> torch.optim.Adam:
    """Return the Adam of an architecture's parameters; it takes the means of all processes' gradients.

    Parameters
    ----------
    parameters : iterable of Tensor
    options
        With ``code_learning_rate`` and ``code_weight_decay``.
    betas : tuple of float
        By default those of DARTS (arXiv 1806.09055).
    """
    optimizer = torch.optim.Adam(
        parameters,
        lr=options.code_learning_rate,
        betas=betas,
        weight_decay=options.code_weight_decay,
    )
    averaging(optimizer)
    return optimizer


def changed_nodes(recovery: list[NodeRecovery]) -> str:
    """Return the nodes whose supports a recovery changed, in words."""
    kinds = dict.fromkeys(node.kind for node in recovery)
    parts = []
    for kind in kinds:
        changed = [node for node in recovery if node.kind == kind and node.changed]
        nodes = [f"{node.node} {node.name}".strip() for node in changed]
        if nodes:
            parts.append(f"{kind} {','.join(nodes)}")
    return "; ".join(parts) or "none"
