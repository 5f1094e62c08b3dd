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

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..codes.softmax import SoftmaxCode
from ..networks.core import CellNetwork, Coefficients
from ..networks.operations import BYPASS, BatchNorm, bypassing
from ..runs.directory import Run
from ..runs.options import RunOptions
from ..runs.training import hits
from ..runtime.errors import UserError
from ..spaces.base import Place, Space
from ..spaces.genotype import Genotype
from ..tasks.images import Dataset
from .base import Batch, SupernetSearch

NamedWeights = Mapping[str, Tensor]

ADAM_BETAS = (0.5, 0.999)
"""Of the architecture's Adam (DARTS)."""

RADIUS = 0.01
"""Length of the step of the central differences (DARTS)."""


@dataclass(frozen=True)
class DartsOptions(RunOptions):
    """Options of DARTS and PC-DARTS; `epochs`, `channels`, ... are the search network's.

    The presets are DARTS's, `quick` and `paper`, and PC-DARTS's, `pc-quick` and `pc-paper`. The quick ones have ten
    times the published learning rates of the architecture, for a hundredth of the steps.

    Parameters
    ----------
    s : int or tuple of int
        Edges that a node keeps; one number for all nodes or one for each node of a cell.
    order : int
        Of the approximation of the architecture's gradient: 1 or 2.
    partial : int
        The operations of the search work on one of so many parts of the channels; 1: on all of them (PC-DARTS: 4).
    edge_weights : bool
        Whether edges have weights of their own, too (PC-DARTS).
    warm_up : int
        Epochs at the beginning in which the architecture is not touched.
    architecture_learning_rate : float
        Of the architecture's weights (Adam).
    architecture_weight_decay : float
        Of the architecture's weights.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        "paper": {
            "data": "cifar10",
            "channels": 16,
            "cells": 8,
            "batch_size": 64,
            "epochs": 50,
            "learning_rate": 0.025,
            "architecture_learning_rate": 3e-4,
        },
        "pc-quick": {
            "partial": 4,
            "edge_weights": True,
            "warm_up": 5,
            "architecture_learning_rate": 6e-3,
        },
        "pc-paper": {
            "data": "cifar10",
            "channels": 16,
            "cells": 8,
            "batch_size": 256,
            "epochs": 50,
            "learning_rate": 0.1,
            "partial": 4,
            "edge_weights": True,
            "warm_up": 15,
            "architecture_learning_rate": 6e-4,
        },
    }
    least: ClassVar[dict[str, float]] = {
        "order": 1,
        "partial": 1,
        "warm_up": 0,
        "architecture_learning_rate": 0,
        "architecture_weight_decay": 0,
    }
    most: ClassVar[dict[str, float]] = {"order": 2}

    min_learning_rate: float = 0.001
    s: int | tuple[int, ...] = 2
    order: int = 1
    partial: int = 1
    edge_weights: bool = False
    warm_up: int = 0
    architecture_learning_rate: float = 3e-3
    architecture_weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.s if isinstance(self.s, tuple) else (self.s,), default=0) < 1:
            raise UserError(f"s must be whole numbers of at least 1, got {self.s!r}")
        if self.warm_up >= self.epochs:
            raise UserError(
                f"warm_up must be below epochs, {self.epochs}, or nothing is searched; "
                f"got {self.warm_up}"
            )


class DartsSearch(SupernetSearch):
    """Search by gradients of softmax weights.

    In every step first the architecture follows the loss on a batch of the second half of the training data, then the
    weights follow the loss on a batch of the first. The architecture's passes leave the gathered statistics of the
    batch norms as they were.

    Parameters
    ----------
    supernet : CellNetwork
        Of the space and with the options that `supernet_space` and `network_changes` return.
    options : DartsOptions
    dataset : Dataset
    device : torch.device

    Raises
    ------
    UserError
        When the super-net's partial channels are not those of the options.
    """

    title = "DARTS"
    options: DartsOptions
    radius = RADIUS

    def __init__(
        self,
        supernet: CellNetwork,
        options: DartsOptions,
        dataset: Dataset,
        device: torch.device,
    ) -> None:
        super().__init__(supernet, options, dataset, device)
        if supernet.options.partial != options.partial:
            raise UserError(
                f"the super-net has partial = {supernet.options.partial}, the options have "
                f"{options.partial}"
            )
        code = SoftmaxCode(
            supernet.space, options.s, edge_weights=options.edge_weights, seed=options.seed
        )
        self.code = code.to(device)
        self.code_optimizer = torch.optim.Adam(
            self.code.parameters(),
            lr=options.architecture_learning_rate,
            betas=ADAM_BETAS,
            weight_decay=options.architecture_weight_decay,
        )

    @staticmethod
    def network_changes(options: DartsOptions) -> dict[str, Any]:
        changes = SupernetSearch.network_changes(options)
        return {**changes, "partial": options.partial} if options.partial > 1 else changes

    @staticmethod
    def supernet_space(space: Space, options: DartsOptions) -> Space:
        return bypassing(space) if options.partial > 1 else space

    def genotype(self) -> Genotype:
        return self.code.genotype()

    def alone(self, genotype: Genotype) -> dict[str, Coefficients]:
        """Return the coefficients that run a genotype alone, with partial channels the bypasses of its edges, too."""
        coefficients = super().alone(genotype)
        if self.options.partial == 1:
            return coefficients
        bypass = self.space.primitives.index(BYPASS)
        for kind, part in coefficients.items():
            edges = dict.fromkeys((place.node, place.source) for place in part.places)
            places = (*part.places, *(Place(*edge, bypass) for edge in edges))
            coefficients[kind] = Coefficients(part.values.new_ones(len(places)), places)
        return coefficients

    def train_step(self, batch: tuple[Batch, Batch]) -> dict[str, Tensor]:
        train, valid = batch
        # of the step that is unrolled, too
        self.weights.set_learning_rate(self.epoch / self.epochs, self.epoch)
        metrics = {}
        if self.epoch >= self.options.warm_up:
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
        self, train: Batch, valid: Batch
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the gradient of every parameter of the code, and the metrics of the validation batch.

        With second order these are those of the unrolled weights.
        """
        code = list(self.code.parameters())
        if self.options.order == 1:
            with self.weights.fixed():
                loss, logits = self._loss({}, valid)
            gradients = list(torch.autograd.grad(loss, code))
        else:
            rate = self.weights.optimizer.param_groups[0]["lr"]
            weights, unrolled = self._unroll(train)
            loss, logits = self._loss(unrolled, valid)
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
        return gradients, {"valid_loss": loss.detach(), "valid_accuracy": hits(logits, valid[1])}

    def _loss(self, weights: NamedWeights, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss and the scores with these weights, and the present ones where there are none."""
        x, y = batch
        with self.weights.precision(x.device):
            logits = functional_call(self.network, dict(weights), (x, self.code.coefficients()))
        return self.weights.cross_entropy(logits, y), logits

    def _unroll(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
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

    def end_epoch(self, run: Run) -> dict[str, Any]:
        return {"genotype": str(self.genotype())}

    def stateful(self) -> dict[str, Any]:
        parts = {"code": self.code, "code_optimizer": self.code_optimizer}
        return {**self.weights.stateful(), **parts}


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
        Of the shapes that `gradient` returns.
    """
    norm = torch.stack([part.norm() for part in vector.values()]).norm()
    epsilon = radius / norm.clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)  # zero for v = 0
    plus, minus = (
        gradient({name: weight + sign * epsilon * vector[name] for name, weight in weights.items()})
        for sign in (1, -1)
    )
    return [(up - down) / (2 * epsilon) for up, down in zip(plus, minus, strict=True)]


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the batch norms' gathered statistics as they are inside the block, in training mode, too."""
    norms = [(each, each.momentum) for each in network.modules() if isinstance(each, BatchNorm)]
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
