"""GDAS (Dong & Yang, CVPR 2019, arXiv 1910.04465): one sampled operation for each edge, differentiable by
Gumbel-softmax.

With logits log softmax(alpha) of an edge's operations, Gumbel noise g and a temperature tau, p = softmax((logits + g) /
tau). The operation of largest p alone runs, with the coefficient 1 - stopped(p_k) + p_k: its value is 1, and its
gradient reaches the alphas of all operations of the edge through the softmax. tau falls from 10 to 0.1 in a line over
the search. Not taken over from the authors' code: the constant that it adds for operations that do not run, whose value
is 0 and whose gradient says nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..codes.softmax import SoftmaxCode
from ..networks.core import CellNetwork, Coefficients
from ..runs.training import named
from ..runtime.options import BaseOptions
from ..runtime.randomness import generator
from ..spaces.base import Place
from ..spaces.genotype import Genotype
from .base import Setting, SupernetSearch, check_s
from .sparse_search import code_optimizer


@dataclass(frozen=True)
class GdasOptions(BaseOptions):
    """Options of GDAS; the learning rate of the architecture is ten times the published one, for fewer steps.

    Parameters
    ----------
    s : int or tuple of int or None
        Edges that a node keeps; one number for all nodes or one for each node of a cell; by default the space's.
    code_learning_rate : float
        Learning rate of the architecture's weights alpha (Adam).
    code_weight_decay : float
        Weight decay of the architecture's weights alpha.
    first_temperature, last_temperature : float
        Temperature of the softmax in the first and in the last epoch; between them it falls in a line.
    """

    least: ClassVar[dict[str, float]] = {"code_learning_rate": 0, "code_weight_decay": 0}
    above_zero: ClassVar[tuple[str, ...]] = ("first_temperature", "last_temperature")

    s: int | tuple[int, ...] | None = None
    code_learning_rate: float = 3e-3
    code_weight_decay: float = 1e-3
    first_temperature: float = 10.0
    last_temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_s(self.s)


class GdasSearch(SupernetSearch):
    """Search by gradients of sampled architectures.

    In every step first the weights follow the loss with one sample on a batch of their data, then alpha follows it with
    another on a batch of the data to choose by.
    """

    title = "GDAS"
    method_options = GdasOptions
    presets: ClassVar = {
        "paper": {
            "darts": {
                "data": "cifar10",
                "channels": 16,
                "cells": 8,
                "batch_size": 256,
                "epochs": 250,
                "learning_rate": 0.025,
                "nesterov": True,
                "weight_decay": 5e-4,
                "code_learning_rate": 3e-4,
            },
            "nasbench201": {
                "data": "cifar10",
                "channels": 16,
                "cells": 5,
                "batch_size": 64,
                "epochs": 250,
                "learning_rate": 0.025,
                "nesterov": True,
                "weight_decay": 5e-4,
                "code_learning_rate": 3e-4,
            },
        }
    }

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        options = self.options.method
        # on the CPU, so that no step waits for the device to know what was sampled
        self.code = SoftmaxCode(self.space, options.s, seed=self.seed)
        self.genotype()  # limits that nothing can keep show now
        self.code_optimizer = code_optimizer(self.code.parameters(), options)

    @property
    def temperature(self) -> float:
        """The temperature of the present epoch."""
        options = self.options.method
        done = self.epoch / max(self.epochs - 1, 1)
        return options.first_temperature + done * (
            options.last_temperature - options.first_temperature
        )

    def sample(self, *names: str | int) -> dict[str, Coefficients]:
        """Sample an architecture and return its coefficients, differentiable in alpha; `names` say which sample."""
        random = generator(self.seed, "gumbel", *names)
        found = {}
        there = self.code.present
        for kind, alpha in zip(self.space.kinds, self.code.alpha, strict=True):
            uniform = torch.rand(alpha.shape, generator=random).clamp_min(1e-20)
            logits = alpha.masked_fill(~there, -torch.inf).log_softmax(1)
            p = ((logits - (-uniform.log()).log()) / self.temperature).softmax(1)
            chosen = p.detach().argmax(1).tolist()
            values: list[Tensor] = []
            places: list[Place] = []
            for row, k, weights in zip(self.code.rows, chosen, p.unbind(), strict=True):
                if k < len(row):  # else none
                    values.append(1 - weights[k].detach() + weights[k])
                    places.append(row[k])
            stacked = torch.stack(values) if values else alpha.new_zeros(0)
            found[kind] = Coefficients(stacked.to(self.device), tuple(places))
        return found

    def genotype(self) -> Genotype:
        return self.limits.nearest(self.code.genotype(), self.code.coefficients())

    def train_step(self, batch: tuple[Any, Any]) -> dict[str, Tensor]:
        train, valid = batch
        with torch.no_grad():
            coefficients = self.sample("weights", self.epoch, self.step)
        metrics = self.train_weights(train, coefficients)
        with self.weights.fixed():
            loss, found = self.weights.loss(valid, self.sample("code", self.epoch, self.step))
        if loss.requires_grad:  # else nothing was sampled that it depends on
            loss.backward()
        self.code_optimizer.step()
        self.code_optimizer.zero_grad(set_to_none=True)
        return {**metrics, **named("valid", found)}

    def stateful(self) -> dict[str, Any]:
        parts = {"code": self.code, "code_optimizer": self.code_optimizer}
        return {**super().stateful(), **parts}
