"""DARTS (Liu, Simonyan and Yang, ICLR 2019), first and second order, and PC-DARTS (Xu et al., ICLR 2020).

With the training loss L_t on one half of the training data and the validation loss L_v on the other, the architecture
alpha follows

    L_v(w', alpha),      w' = w - eta (momentum * buffer + grad_w L_t(w, alpha) + weight_decay * w).

First order: w' is taken to be w, the present weights. Second order: w' is a step of SGD that depends on alpha, and the
gradient is

    grad_alpha L_v(w', alpha) - eta * grad^2_{alpha, w} L_t(w, alpha) v,      v = grad_w' L_v(w', alpha),

whose last product is approximated by central differences of grad_alpha L_t (DARTS, equations 7 and 8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from ..codes.softmax import SoftmaxCode
from ..networks.core import CellNetwork, Coefficients
from ..networks.operations import BYPASS, bypassing, kept_statistics
from ..networks.registry import family
from ..runs.training import named
from ..runtime.errors import UserError
from ..runtime.options import BaseOptions, Composition
from ..spaces.base import Place, Space
from ..spaces.genotype import Genotype
from ..tasks.base import Task
from .base import RECURRENT_PAPER, Setting, SupernetSearch, check_s

NamedWeights = Mapping[str, Tensor]

ADAM_BETAS = (0.5, 0.999)
"""Betas of Adam for the architecture (DARTS)."""

RADIUS = 0.01
"""Length of the step of the central differences (DARTS)."""


@dataclass(frozen=True)
class DartsOptions(BaseOptions):
    """Options of DARTS.

    Parameters
    ----------
    s : int or tuple of int or None
        Edges that a node keeps; one number for all nodes or one for each node of a cell; by default the space's.
    order : int
        Order of the approximation of the architecture's gradient: 1 or 2.
    partial : int
        The operations of the search work on one of so many parts of the channels; 1: on all of them (PC-DARTS: 4).
    edge_weights : bool
        Whether edges have weights of their own, too (PC-DARTS).
    warm_up : int
        Epochs at the beginning in which the architecture is not touched.
    architecture_learning_rate : float
        Learning rate of the architecture's weights (Adam).
    architecture_weight_decay : float
        Weight decay of the architecture's weights.
    """

    least: ClassVar[dict[str, float]] = {
        "order": 1,
        "partial": 1,
        "warm_up": 0,
        "architecture_learning_rate": 0,
        "architecture_weight_decay": 0,
    }
    most: ClassVar[dict[str, float]] = {"order": 2}

    s: int | tuple[int, ...] | None = None
    order: int = 1
    partial: int = 1
    edge_weights: bool = False
    warm_up: int = 0
    architecture_learning_rate: float = 3e-3
    architecture_weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_s(self.s)


class DartsSearch(SupernetSearch):
    """Search by gradients of softmax weights.

    In every step first the architecture follows the loss on a batch of the data to choose by, then the weights follow
    the loss on a batch of theirs. The architecture's passes leave the gathered statistics of the batch norms as they
    were. The quick learning rate of the architecture is ten times the published one, for a hundredth of the steps.

    Parameters
    ----------
    supernet : CellNetwork
        A super-net of the space that `supernet_space` returns.
    setting : Setting

    Raises
    ------
    UserError
        When the super-net's partial channels are not those of the options, or nothing would be searched.
    """

    title = "DARTS"
    method_options = DartsOptions
    radius = RADIUS
    presets: ClassVar = {
        "paper": {
            "darts": {
                "data": "cifar10",
                "channels": 16,
                "cells": 8,
                "batch_size": 64,
                "epochs": 50,
                "learning_rate": 0.025,
                "architecture_learning_rate": 3e-4,
            },
            # the searches of the benchmark (Dong & Yang, ICLR 2020)
            "nasbench201": {
                "data": "cifar10",
                "channels": 16,
                "cells": 5,
                "batch_size": 64,
                "epochs": 50,
                "learning_rate": 0.025,
                "nesterov": True,
                "weight_decay": 5e-4,
                "architecture_learning_rate": 3e-4,
            },
            # the first beta of its Adam is 0.9 there
            "recurrent": RECURRENT_PAPER,
        }
    }

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        options = self.options.method
        partial = getattr(supernet.options, "partial", 1)
        if partial != options.partial:
            raise UserError(
                f"the super-net has partial = {partial}, the options have {options.partial}"
            )
        if options.warm_up >= self.epochs:
            raise UserError(
                f"warm_up must be below epochs, {self.epochs}, or nothing is searched; "
                f"got {options.warm_up}"
            )
        code = SoftmaxCode(
            supernet.space, options.s, edge_weights=options.edge_weights, seed=self.seed
        )
        self.code = code.to(self.device)
        self.genotype()  # limits that nothing can keep show now
        self.code_optimizer = torch.optim.Adam(
            self.code.parameters(),
            lr=options.architecture_learning_rate,
            betas=ADAM_BETAS,
            weight_decay=options.architecture_weight_decay,
        )

    @classmethod
    def network_changes(cls, setting: Setting) -> dict[str, Any]:
        partial = setting.options.method.partial
        return {"partial": partial} if partial > 1 else {}

    @classmethod
    def supernet_space(cls, space: Space, options: Composition) -> Space:
        return bypassing(space) if options.method.partial > 1 else space

    def genotype(self) -> Genotype:
        return self.limits.nearest(self.code.genotype(), self.code.coefficients())

    def alone(self, genotype: Genotype) -> dict[str, Coefficients]:
        """Return the coefficients that run a genotype alone, with partial channels the bypasses of its edges, too."""
        coefficients = super().alone(genotype)
        if self.options.method.partial == 1:
            return coefficients
        bypass = self.space.primitives.index(BYPASS)
        for kind, part in coefficients.items():
            edges = dict.fromkeys((place.node, place.source) for place in part.places)
            places = (*part.places, *(Place(*edge, bypass) for edge in edges))
            coefficients[kind] = Coefficients(part.values.new_ones(len(places)), places)
        return coefficients

    def train_step(self, batch: tuple[Any, Any]) -> dict[str, Tensor]:
        train, valid = batch
        # of the step that is unrolled, too
        self.weights.set_learning_rate(self.epoch / self.epochs, self.epoch, train)
        metrics = {}
        if self.epoch >= self.options.method.warm_up:
            with kept_statistics(self.network):
                gradients, metrics = self.architecture_gradients(train, valid)
            for parameter, gradient in zip(self.code.parameters(), gradients, strict=True):
                parameter.grad = gradient
            self.code_optimizer.step()
            self.code_optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            coefficients = self.code.coefficients()
        return {**self.train_weights(train, coefficients), **metrics}

    def architecture_gradients(
        self, train: Any, valid: Any
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the gradient of every parameter of the code, and the metrics of the validation batch.

        With second order these are those of the unrolled weights.
        """
        code = list(self.code.parameters())
        if self.options.method.order == 1:
            with self.weights.fixed():
                loss, metrics = self._loss({}, valid)
            gradients = list(torch.autograd.grad(loss, code))
        else:
            rate = self.weights.optimizer.param_groups[0]["lr"]
            weights, unrolled = self._unroll(train)
            loss, metrics = self._loss(unrolled, valid)
            both = torch.autograd.grad(loss, [*code, *unrolled.values()])
            vector = dict(zip(unrolled, both[len(code) :], strict=True))
            del unrolled  # as large as the network
            second = mixed_product(
                lambda moved: torch.autograd.grad(self._loss(moved, train)[0], code),
                weights,
                vector,
                self.radius,
            )
            gradients = [
                first - rate * other for first, other in zip(both[: len(code)], second, strict=True)
            ]
        return gradients, named("valid", metrics)

    def _loss(self, weights: NamedWeights, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the metrics with these weights, and the present ones where there are none."""

        def run(*inputs: Any, **named: Any) -> Any:
            return functional_call(self.network, dict(weights), inputs, named)

        return self.weights.loss(batch, self.code.coefficients(), run=run)

    def _unroll(self, batch: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the weights that a step moves, and these after a step of SGD on a batch (not clipped, as in DARTS).

        The step has the momentum, weight decay and learning rate that the next one of the weights will have. The
        weights after it need their gradients.
        """
        named = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        loss, _ = self._loss({}, batch)
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        optimizer = self.weights.optimizer
        (group,) = optimizer.param_groups
        before, after = {}, {}
        with torch.no_grad():
            for (name, weight), gradient in zip(named.items(), gradients, strict=True):
                if gradient is None:  # of a node that no output has: it is not moved
                    continue
                step = gradient + group["weight_decay"] * weight
                buffer = optimizer.state.get(weight, {}).get("momentum_buffer")
                if buffer is not None:
                    step += group["momentum"] * buffer
                before[name] = weight.detach()
                after[name] = weight - group["lr"] * step
        for weight in after.values():
            weight.requires_grad_()
        return before, after

    def stateful(self) -> dict[str, Any]:
        parts = {"code": self.code, "code_optimizer": self.code_optimizer}
        return {**super().stateful(), **parts}


class PcDartsSearch(DartsSearch):
    """PC-DARTS: DARTS with partial channels, edge weights and a warm-up of the weights."""

    title = "PC-DARTS"
    budgeted = ("epochs", "warm_up")
    least_epochs = 2
    probe_epochs = 3
    defaults: ClassVar = {
        **DartsSearch.defaults,
        "partial": 4,
        "edge_weights": True,
        "warm_up": 5,
        "architecture_learning_rate": 6e-3,
    }
    presets: ClassVar = {
        "paper": {
            "darts": {
                "data": "cifar10",
                "channels": 16,
                "cells": 8,
                "batch_size": 256,
                "epochs": 50,
                "learning_rate": 0.1,
                "min_learning_rate": 0.0,
                "warm_up": 15,
                "architecture_learning_rate": 6e-4,
            }
        }
    }

    @classmethod
    def why_not(cls, space: Space, task: Task) -> str | None:
        if "partial" not in family(space).options.given:
            return "its networks have no channels of which operations could work on a part"
        return None

    @classmethod
    def scheduled(cls, options: Composition, epochs: int) -> dict[str, Any]:
        """Return the options that keep the warm-up's share of the schedule."""
        share = options.method.warm_up / options.optimizer.epochs
        return {"epochs": epochs, "warm_up": min(round(epochs * share), epochs - 1)}


def mixed_product(
    gradient: Callable[[NamedWeights], tuple[Tensor, ...]],
    weights: NamedWeights,
    vector: NamedWeights,
    radius: float = RADIUS,
) -> list[Tensor]:
    """Return the product of the mixed second derivatives and a vector, grad^2_{alpha, w} L(w, alpha) v, approximately.

    By central differences, ``(g(w + epsilon v) - g(w - epsilon v)) / (2 epsilon)`` with g = grad_alpha L and epsilon =
    radius / ||v|| (DARTS, equation 8). The error falls with the square of the radius, until rounding outweighs it.
    Where L has kinks (ReLU, max pooling) the differences have the jumps of g across those that lie between the two
    points, too, which the second derivative at w does not see.

    Parameters
    ----------
    gradient : callable
        Returns the tensors of grad_alpha L(w, alpha) for weights w.
    weights, vector : mapping of name to Tensor
        w and v.
    radius : float

    Returns
    -------
    list of Tensor
        Tensors of the shapes that `gradient` returns.
    """
    norm = torch.stack([part.norm() for part in vector.values()]).norm()
    epsilon = radius / norm.clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)  # zero for v = 0
    plus, minus = (
        gradient({name: weight + sign * epsilon * vector[name] for name, weight in weights.items()})
        for sign in (1, -1)
    )
    return [(up - down) / (2 * epsilon) for up, down in zip(plus, minus, strict=True)]
