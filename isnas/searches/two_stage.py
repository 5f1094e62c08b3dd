"""Two-stage search (ISTA-NAS, algorithm 1): weights and codes in turn on two parts of the training data.

How b learns is an option. *Through the coefficients*, as published: the active places run with c(b), and b follows the
loss by its gradient, dc/db = (A_S)'. *By a probe* (after EnTranNAS, Yang et al., CVPR 2021): in each step one node,
drawn at random, runs its other candidates as well, with coefficients of 0, which leaves all values as they are. Their
gradients g_k = <dL/dx, o_k> say what each of them would bring, and with those of the active ones, less the mean of all,
b of this node gets the whole A g; the other nodes get theirs as before. A probe costs the passes of these candidates in
all cells of the kind. *By solving* (perturb and solve, after Vlastelica et al., ICLR 2020): the places recovered from
b~ = b + sigma e run with what was recovered there, z; with g = dL/dz, which is zero elsewhere, b gets

    A [z(b~) - z(b~ - t A g)] / t,      t = `solve_step` / ||A g||,

the change of what is recovered when b~ takes a step against the straight-through gradient A g: where that step changes
no support, and z is a fit on its support (the rules path, best_subset, non_negative), it is A g itself.
*By the score* of pairs: see `isnas.searches.sparse_search`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..codes.sparse import SparseCode
from ..networks.core import Coefficients
from ..runs.training import named
from ..runtime.errors import UserError
from ..runtime.processes import all_reduce_sum, processes
from ..runtime.randomness import generator
from ..tasks.base import Feed
from .base import RECURRENT, RECURRENT_PAPER
from .sparse_search import (
    RECURRENT_CODE,
    SMOOTHED,
    SMOOTHED_201,
    SMOOTHED_DARTS,
    SparseSearch,
    SparseSearchOptions,
    changed_nodes,
)

TINY = 1e-30
"""Length of a gradient below which there is none."""


@dataclass(frozen=True)
class TwoStageOptions(SparseSearchOptions):
    """Options of the two-stage search.

    Parameters
    ----------
    gradient : {"coefficients", "probe", "solve", "score"}
        How b learns: through the coefficients of the active operations (the paper's), and those of all candidates of
        one node in each step; by how a step along that gradient changes what is recovered; or by the losses of pairs
        of architectures recovered from codes near to b.
    solve_step : float
        Length of the step of b, of all nodes together, that the gradient solve compares recoveries over.
    code_batch_size : int or None
        Examples that a step of the codes learns from; by default as many as a step of the weights. What makes a score
        uncertain is more the direction that was drawn than the few examples, and it costs less with fewer.
    """

    least: ClassVar[dict[str, float]] = {**SparseSearchOptions.least, "code_batch_size": 1}
    above_zero: ClassVar[tuple[str, ...]] = ("solve_step",)

    gradient: Literal["coefficients", "probe", "solve", "score"] = "coefficients"
    solve_step: float = 1.0
    code_batch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score_losses == "steps" and self.code_batch_size is not None:
            raise UserError(
                f"code_batch_size is of passes beside the weights' steps, which score_losses steps has none of; got "
                f"{self.code_batch_size}"
            )


class TwoStageSearch(SparseSearch):
    """Search of an architecture in a small super-net.

    In every step first b learns from a batch of one part of the data, then the weights follow the loss on a batch of
    the other; after every epoch z is recovered from b. By the losses of the weights' own steps b needs no batch of its
    own; that part of the data only judges architectures then.
    """

    title = "two-stage search"
    method_options = TwoStageOptions
    defaults_in: ClassVar = {"recurrent": {**RECURRENT, **RECURRENT_CODE}}
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
            },
            # nobody's: DARTS's search with our code
            "recurrent": {**RECURRENT_PAPER, "code_learning_rate": 3e-3},
        },
        "smoothed": {
            "": SMOOTHED,
            "darts": SMOOTHED_DARTS,
            "nasbench201": SMOOTHED_201,
            "chain": {"batch_size": 96, "weight_decay": 5e-4},
        },
    }

    @property
    def code_batch_size(self) -> int:
        return self.options.method.code_batch_size or super().code_batch_size

    def feeds(self) -> tuple[Feed, Feed | None]:
        train, valid = super().feeds()
        return train, None if self.by_steps else valid

    def train_step(self, batch: tuple[Any, Any]) -> dict[str, Tensor]:
        train, valid = batch
        metrics = {}
        if not (self.warming_up or self.by_steps):
            step = {"score": self.score_code, "solve": self.solve_code}
            found = step.get(self.options.method.gradient, self.train_code)(valid)
            metrics = named("valid", found)
        metrics |= self.train_weights(train, self.path())
        if self.by_steps:
            self.score_step(metrics["train_loss"])
        return metrics

    def train_code(self, batch: Any) -> dict[str, Tensor]:
        """Take a step of the codes through the coefficients, with a probe or without, and return its metrics."""
        coefficients = self.code.coefficients()
        probe = None
        if self.options.method.gradient == "probe":
            probe = Probe(self.code, coefficients, self._drawn_node())
            coefficients = probe.coefficients
        with self.weights.fixed():
            loss, metrics = self.weights.loss(batch, coefficients)
        (loss + self.penalty(coefficients)).backward()
        if probe is not None:
            probe.put_gradient()
        self._update_code()
        return metrics

    def _drawn_node(self) -> int:
        """Return which choice is probed in this step."""
        random = generator(self.seed, "probe", self.epoch, self.step)
        return int(torch.randint(len(self.code.choices), (), generator=random))

    def solve_code(self, batch: Any) -> dict[str, Tensor]:
        """Take a step of the codes by how the recovery answers to a step along the gradient, and return its metrics."""
        options, code = self.options.method, self.code
        e = options.perturbation * self._noise("solve", 1)
        (found,) = code.recovered_at(e)
        coefficients = code.coefficients_of(found)
        with self.weights.fixed():
            loss, metrics = self.weights.loss(batch, coefficients)
        (loss + self.penalty(coefficients)).backward()
        gradient = torch.cat(
            [A @ g for A, g in zip(code.A, code.gradients_of(found, coefficients), strict=True)]
        )
        # the same on all processes, as the recovery is
        gradient = all_reduce_sum(gradient) / processes()
        t = options.solve_step / float(gradient.norm().clamp_min(TINY))
        (there,) = code.recovered_at(e - t * gradient)
        for b, A, (z, _), (z_there, _) in zip(code.b, code.A, found, there, strict=True):
            b.grad = (A @ (z - z_there) / t).to(b)
        self._update_code()
        return metrics

    def _update_code(self) -> None:
        self.code_optimizer.step()
        self.code_optimizer.zero_grad(set_to_none=True)

    def end_epoch(self, run: Any) -> dict[str, Any]:
        recovery, refused = self.recover()
        run.write_recovery(recovery, self.code.frozen, refused)
        return {**super().end_epoch(run), "supports_changed": changed_nodes(recovery, refused)}

    def describe(self, metrics: dict[str, Any]) -> str:
        return f"{super().describe(metrics)}  supports changed: {metrics['supports_changed']}"


class Probe:
    """One node of a code with all its candidates, those that are not active with a coefficient of 0.

    Parameters
    ----------
    code : SparseCode
    active : dict of kind to Coefficients
        Coefficients of the active places, differentiable in b.
    index : int
        Number of the choice that is probed.

    Attributes
    ----------
    coefficients : dict of kind to Coefficients
        The active ones, and then the others of the node.
    """

    def __init__(self, code: SparseCode, active: dict[str, Coefficients], index: int) -> None:
        self._code, self._index = code, index
        choice, support = code.choices[index], code.support[index]
        self._others = [k for k in range(len(choice.candidates)) if k not in support]
        values, places = active[choice.kind].values, active[choice.kind].places
        if values.requires_grad:
            values.retain_grad()
        self._values = values
        self._zeros = values.new_zeros(len(self._others)).requires_grad_()
        more = tuple(choice.candidates[k] for k in self._others)
        self._where = [places.index(choice.candidates[k]) for k in support]
        both = Coefficients(torch.cat([values, self._zeros]), places + more)
        self.coefficients = {**active, choice.kind: both}

    @torch.no_grad()
    def put_gradient(self) -> None:
        """Give the node's b the gradient A g of all candidates, after the backward pass."""
        A = self._code.A[self._index]
        g = A.new_zeros(A.shape[1])
        if self._where:
            g[list(self._code.support[self._index])] = self._values.grad[self._where].to(g)
        g[self._others] = self._zeros.grad.to(g)
        b = self._code.b[self._index]
        b.grad = (A @ (g - g.mean())).to(b)
