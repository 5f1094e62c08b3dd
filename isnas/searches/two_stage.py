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
no support, and z is a fit on its support (the rules path, best_subset, non_negative), it is A g itself. *By the score*:
the loss is smoothed over codes near b,

    J(b) = E L(places recovered from b + sigma e),      e ~ N(0, I),

which has a gradient where the recovery has none, grad J = E L(b + sigma e) e / sigma. Its estimate from antithetic
pairs, (L(b + sigma e) - L(b - sigma e)) e / (2 sigma), needs forward passes only (evolution strategies, Salimans et
al., arXiv 1703.03864). All coefficients are 1: a place counts by being there. b takes the step

    b <- b - lr * mean over pairs of (d / rms) e,       d = L(b + sigma e) - L(b - sigma e),

with rms the root mean square of the d so far (over some 300), so that the rate does not depend on the scale of the
loss. The weights train with the places recovered from b + sigma e, too: near to b all candidates are tried and trained,
and as |b| grows paths concentrate on what is good. Before, for a share of the search, they train on fair paths alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..codes.fair import fair_path
from ..codes.sparse import NodeRecovery, SparseCode, SparseCodeOptions
from ..networks.core import CellNetwork, Coefficients
from ..networks.operations import kept_statistics
from ..runs.training import named
from ..runtime.errors import UserError
from ..runtime.options import BaseOptions
from ..runtime.processes import all_reduce_sum, averaging, processes
from ..runtime.randomness import generator
from ..spaces.base import Place
from ..spaces.genotype import Genotype
from ..tasks.base import Task
from .base import RECURRENT, RECURRENT_PAPER, Setting, SupernetSearch

RECURRENT_CODE = {"matrix": "normalised", "init_scale": 0.3, "learning_rate": 20.0}
"""Defaults of sparse codes of recurrent cells.

A node keeps one place. With columns of unit norm the l1 solution can find every one; and as no norm stands behind a
node, its output is as large as the coefficient, which must not begin at a thousandth, nor so large that the steps of
the published rate are too long.
"""

MEMORY = 300
"""Scores over which their root mean square is taken."""

TINY = 1e-30
"""Length of a gradient below which there is none."""


@dataclass(frozen=True)
class TwoStageOptions(BaseOptions):
    """Options of the two-stage search.

    Parameters
    ----------
    code_learning_rate : float
        Learning rate of the codes b (Adam; with `--gradient score` plain steps).
    code_weight_decay : float
        Weight decay of the codes b.
    gradient : {"coefficients", "probe", "solve", "score"}
        How b learns: through the coefficients of the active operations (the paper's), and those of all candidates of
        one node in each step; by how a step along that gradient changes what is recovered; or by the losses of pairs
        of architectures recovered from codes near to b.
    solve_step : float
        Length of the step of b, of all nodes together, that the gradient solve compares recoveries over.
    perturbation : float
        Standard deviation sigma of what is added to b: in every step for the weights' architecture, and for the codes'
        with the gradients solve and score; 0: nothing, the places of the last recovery are held (the paper's).
    pairs : int
        Pairs of architectures in a step of the score.
    code_batch_size : int or None
        Examples that a step of the codes learns from; by default as many as a step of the weights. What makes a score
        uncertain is more the direction that was drawn than the few examples, and it costs less with fewer.
    warm_up_share : float
        Share of the epochs, at the beginning, in which only the weights learn, on fair paths.
    fair_share : float
        Share of the weights' steps that are on fair paths right after that; it falls to 0 in a line.
    """

    least: ClassVar[dict[str, float]] = {
        "code_learning_rate": 0,
        "code_weight_decay": 0,
        "solve_step": 0,
        "perturbation": 0,
        "pairs": 1,
        "code_batch_size": 1,
        "warm_up_share": 0,
        "fair_share": 0,
    }
    most: ClassVar[dict[str, float]] = {"fair_share": 1}
    below_one: ClassVar[tuple[str, ...]] = ("warm_up_share",)

    code_learning_rate: float = 6e-3
    code_weight_decay: float = 1e-3
    gradient: Literal["coefficients", "probe", "solve", "score"] = "coefficients"
    solve_step: float = 1.0
    perturbation: float = 0.0
    pairs: int = 1
    code_batch_size: int | None = None
    warm_up_share: float = 0.0
    fair_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient == "score" and self.perturbation == 0:
            raise UserError("perturbation must be above 0 for the gradient score, got 0.0")
        if self.solve_step == 0:
            raise UserError("solve_step must be above 0, got 0.0")


class TwoStageSearch(SupernetSearch):
    """Search of an architecture in a small super-net.

    In every step first b learns from a batch of one part of the data, then the weights follow the loss on a batch of
    the other; after every epoch z is recovered from b.

    Attributes
    ----------
    code : SparseCode
        On the CPU where it learns by the score: there it is recovered from in every step.
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
            "": {
                "matrix": "balanced",
                "rule": "non_negative",
                "init_scale": 0.0,
                "gradient": "score",
                "perturbation": 1.0,
                "warm_up_share": 0.43,
                "code_learning_rate": 4e-3,
                "code_weight_decay": 0.0,
                "learning_rate": 0.1,
            },
            # as many as an edge's operations have differences: nothing of these is lost
            "nasbench201": {"m": (3, 6, 9), "batch_size": 96, "weight_decay": 5e-4},
            "chain": {"batch_size": 96, "weight_decay": 5e-4},
        },
    }

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        options = self.options.method
        self.scored = options.gradient == "score"
        self.code = SparseCode(supernet.space, self.options.code, seed=self.seed)
        if not self.scored:
            self.code.to(self.device)
        self.code_optimizer = code_optimizer(self.code.parameters(), options)
        self.spread, self.scores = 0.0, 0  # mean square of the pairs' differences, and their number

    @classmethod
    def check(cls, setting: Setting) -> None:
        super().check(setting)
        setting.options.code.lengths(setting.space)
        setting.options.code.places(setting.space)

    @classmethod
    def option_parts(cls, task: Task) -> dict[str, type[BaseOptions]]:
        return {"code": SparseCodeOptions}

    @property
    def code_batch_size(self) -> int:
        return self.options.method.code_batch_size or super().code_batch_size

    @property
    def warm_up_epochs(self) -> int:
        """Epochs at the beginning in which only the weights learn."""
        return round(self.options.method.warm_up_share * self.epochs)

    @property
    def warming_up(self) -> bool:
        """Whether only the weights learn now."""
        return self.epoch < self.warm_up_epochs

    def genotype(self) -> Genotype:
        return self.code.genotype()

    def begin(self, run: Any) -> None:
        run.write_matrices(self.code)
        run.write_recovery(self.code.last_recovery, self.code.frozen)

    def train_step(self, batch: tuple[Any, Any]) -> dict[str, Tensor]:
        train, valid = batch
        metrics = {}
        if not self.warming_up:
            step = {"score": self.score_code, "solve": self.solve_code}
            metrics = step.get(self.options.method.gradient, self.train_code)(valid)
        return {**self.train_weights(train, self.path()), **metrics}

    def train_code(self, batch: Any) -> dict[str, Tensor]:
        """Take a step of the codes through the coefficients, with a probe or without, and return its metrics."""
        coefficients = self.code.coefficients()
        probe = None
        if self.options.method.gradient == "probe":
            probe = Probe(self.code, coefficients, self._drawn_node())
            coefficients = probe.coefficients
        with self.weights.fixed():
            loss, metrics = self.weights.loss(batch, coefficients)
        loss.backward()
        if probe is not None:
            probe.put_gradient()
        self._update_code()
        return named("valid", metrics)

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
        loss.backward()
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
        return named("valid", metrics)

    def _update_code(self) -> None:
        self.code_optimizer.step()
        self.code_optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def score_code(self, batch: Any) -> dict[str, Tensor]:
        """Take a step of the codes by the losses of pairs of architectures, and return the mean of their metrics."""
        options = self.options.method
        e = options.perturbation * self._noise("score", options.pairs)
        found = []
        with kept_statistics(self.network):
            for places in self.code.places_at(torch.cat([e, -e])):
                found.append(self.weights.loss(batch, self.ones_at(places)))
        # the one time that the device is waited for
        losses = (
            all_reduce_sum(torch.stack([loss.detach().double() for loss, _ in found])) / processes()
        )
        plus, minus = losses.cpu().split(options.pairs)
        difference = plus - minus
        self.scores += 1
        self.spread += (float(difference.square().mean()) - self.spread) / min(self.scores, MEMORY)
        if self.spread > 0:
            step = (difference[:, None] * e).mean(0) / (
                options.perturbation * math.sqrt(self.spread)
            )
            decay = 1 - options.code_learning_rate * options.code_weight_decay
            lengths = [len(b) for b in self.code.b]
            for b, part in zip(self.code.b, step.split(lengths), strict=True):
                b.mul_(decay).sub_(options.code_learning_rate * part.to(b))
        metrics = [each for _, each in found]
        means = {name: torch.stack([m[name] for m in metrics]).mean() for name in metrics[0]}
        return named("valid", means)

    @torch.no_grad()
    def path(self) -> dict[str, Coefficients]:
        """Return the coefficients of this step's weights: of a fair path, or of b with or without noise."""
        options = self.options.method
        done = self.epoch + self.step / self.steps - self.warm_up_epochs
        share = options.fair_share * (1 - done / (self.epochs - self.warm_up_epochs))
        random = generator(self.seed, "fair step", self.epoch, self.step)
        if self.warming_up or (share > 0 and float(torch.rand((), generator=random)) < share):
            s = self.options.code.places(self.space)
            step = self.epoch * self.steps + self.step
            return self.ones_at(fair_path(self.space, s, self.seed, step))
        if options.perturbation > 0:
            (places,) = self.code.places_at(options.perturbation * self._noise("weights", 1))
            return self.ones_at(places)
        return self.code.coefficients()

    def _noise(self, name: str, number: int) -> Tensor:
        """Draw so many times what is added to all codes in this step, (number, sum of m)."""
        random = generator(self.seed, "perturbation", name, self.epoch, self.step)
        size = (number, sum(len(b) for b in self.code.b))
        return torch.randn(size, generator=random, dtype=torch.float64)

    def ones_at(self, places: dict[str, tuple[Place, ...]]) -> dict[str, Coefficients]:
        """Return coefficients of 1 at these places."""
        return {
            kind: Coefficients(torch.ones(len(of_kind), device=self.device), of_kind)
            for kind, of_kind in places.items()
        }

    def end_epoch(self, run: Any) -> dict[str, Any]:
        recovery = self.code.recover()
        run.write_recovery(recovery, self.code.frozen)
        return {**super().end_epoch(run), "supports_changed": changed_nodes(recovery)}

    def describe(self, metrics: dict[str, Any]) -> str:
        return f"{super().describe(metrics)}  supports changed: {metrics['supports_changed']}"

    def stateful(self) -> dict[str, Any]:
        parts = {"code": self.code, "code_optimizer": self.code_optimizer}
        return {**super().stateful(), **parts}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "spread": self.spread, "scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.spread, self.scores = state["spread"], state["scores"]


class Probe:
    """One node of a code with all its candidates, those that are not active with a coefficient of 0.

    Parameters
    ----------
    code : SparseCode
    active : dict of kind to Coefficients
        Of the active places, differentiable in b.
    index : int
        Which choice is probed.

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
