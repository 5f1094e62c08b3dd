"""Contract and common parts of the searches by a sparse code, and learning by the score, which all of them can.

*Through the coefficients*, as published, the active places run with c(b), and b follows the loss by its gradient,
dc/db = (A_S)'. *By the score* the loss is smoothed over codes near b,

    J(b) = E L(places recovered from b + sigma e),      e ~ N(0, I),

which has a gradient where the recovery has none, grad J = E L(b + sigma e) e / sigma. Its estimate from antithetic
pairs, (L(b + sigma e) - L(b - sigma e)) e / (2 sigma), needs losses only (evolution strategies, Salimans et al., arXiv
1703.03864). All coefficients are 1: a place counts by being there. b takes the step

    b <- b - lr * mean over pairs of (d / rms) e,       d = L(b + sigma e) - L(b - sigma e),

with rms the root mean square of the d so far (over some 300), so that the rate does not depend on the scale of the
loss. The weights train with the places recovered from b + sigma e, too: near to b all candidates are tried and trained,
and as |b| grows paths concentrate on what is good. Before, for a share of the search, they train on fair paths alone.

The losses are those of forward passes beside the weights' step, of both architectures on one batch. Or they are those
that the weights' own steps have anyway: one step trains with b + sigma e, the next one, on the same batch, with b -
sigma e. Such a pair costs nothing, but weights see half as many examples in as many steps.

A path can be *wider* than what is found: with a width w an active edge runs w operations, the recovered one and those
with the next largest entries of A'(b + sigma e), whose outputs are added. Weights learn in the sum, as in a super-net
that runs all, at the price of w paths.

*Limits* (`isnas.searches.limits`) are kept by refusing: a recovery beyond them is taken back, with b and its optimizer,
to where the last one within them was (the published rule for parameters). Beside that the codes' loss can be penalised:
by the score by w times the excess of each architecture that is tried, and through the coefficients, where the one that
is run is always within the limits, by

    w sum over S of share_k |c_k|,

an l1 norm in which each operation counts by the share of the limits that it takes.

*Warm start* (`isnas.searches.warm_start`): codes can begin at b0 = A z0, with z0 from a score of untrained networks.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..codes.fair import fair_path
from ..codes.sparse import NodeRecovery, SparseCode, SparseCodeOptions
from ..networks.core import CellNetwork, Coefficients
from ..networks.counting import PlaceCosts
from ..networks.images import ImageNetwork
from ..networks.operations import kept_statistics
from ..networks.registry import family
from ..runtime.errors import UserError
from ..runtime.options import BaseOptions
from ..runtime.processes import all_reduce_sum, averaging, processes
from ..runtime.randomness import generator
from ..spaces.base import Place
from ..spaces.genotype import Genotype
from ..tasks.base import Task
from .base import Setting, SupernetSearch
from .limits import DRAWS
from .rankers import naswot
from .warm_start import WarmStart, begin_at, effects

RECURRENT_CODE = {"matrix": "normalised", "init_scale": 0.3, "learning_rate": 20.0}
"""Defaults of sparse codes of recurrent cells.

A node keeps one place. With columns of unit norm the l1 solution can find every one; and as no norm stands behind a
node, its output is as large as the coefficient, which must not begin at a thousandth, nor so large that the steps of
the published rate are too long.
"""

SMOOTHED = {
    "matrix": "balanced",
    "rule": "non_negative",
    "init_scale": 0.0,
    "gradient": "score",
    "perturbation": 1.0,
    "warm_up_share": 0.43,
    "code_learning_rate": 4e-3,
    "code_weight_decay": 0.0,
    "learning_rate": 0.1,
}
"""The preset `smoothed`, which is ours; see docs/method.md."""

SMOOTHED_201 = {"m": (3, 6, 9), "batch_size": 96, "weight_decay": 5e-4}
"""The same in NAS-Bench-201: as many as an edge's operations have differences, so that nothing of these is lost."""

SMOOTHED_DARTS = {"learning_rate": 0.03, "code_learning_rate": 0.02}
"""The same in DARTS's space.

At the rate of 0.1 a super-net on fair paths does not begin to learn: on images of 16 x 16 pixels its loss stays above
that of guessing for four epochs. At 0.03 and 0.01 it learns. Codes of 8 nodes share the score of a pair; their drift
in a step is smaller against its noise, by the root of the ratio of their lengths in all. Their rate is five times as
high, for that and since searches have fewer steps.
"""

MEMORY = 300
"""Scores over which their root mean square is taken."""


@dataclass(frozen=True)
class SparseSearchOptions(BaseOptions):
    """Options of all searches by a sparse code.

    Parameters
    ----------
    code_learning_rate : float
        Learning rate of the codes b (Adam; with `--gradient score` plain steps).
    code_weight_decay : float
        Weight decay of the codes b.
    gradient : {"coefficients", "score"}
        How b learns: through the coefficients of the active operations (the paper's), or by the losses of pairs of
        architectures recovered from codes near to b.
    perturbation : float
        Standard deviation sigma of what is added to b: in every step for the weights' architecture, and for the codes'
        with the gradients solve and score; 0: nothing, the places of the last recovery are held (the paper's).
    score_losses : {"passes", "steps"}
        Losses that the gradient score compares a pair by: of forward passes beside the weights' step, on one batch; or
        of two of the weights' own steps in a row, on one batch, which cost nothing more.
    pairs : int
        Pairs of architectures in a step of the score; 1 with the losses of steps.
    path_width : int
        Operations that an active edge runs at a time, with the gradient score; what is found has one.
    limit_penalty : float
        Weight w of what is added to the codes' loss for operations that take much of the limits; 0: nothing, an
        architecture beyond them is only refused.
    warm_up_share : float
        Share of the epochs of the search, at the beginning, in which only the weights learn, on fair paths; rounded to
        epochs, of which at least one is left to the codes.
    fair_share : float
        Share of the weights' steps that are on fair paths right after that; it falls to 0 in a line.
    warm_start : {"none", "parameters", "multiply-adds", "naswot"}
        Score of untrained networks that the codes begin with, b0 = A z0; none: they begin at random or at zero.
    warm_start_length : float
        Norm of each b0.
    """

    least: ClassVar[dict[str, float]] = {
        "code_learning_rate": 0,
        "code_weight_decay": 0,
        "perturbation": 0,
        "pairs": 1,
        "path_width": 1,
        "limit_penalty": 0,
        "warm_up_share": 0,
        "fair_share": 0,
        "warm_start_length": 0,
    }
    most: ClassVar[dict[str, float]] = {"fair_share": 1}
    below_one: ClassVar[tuple[str, ...]] = ("warm_up_share",)

    code_learning_rate: float = 6e-3
    code_weight_decay: float = 1e-3
    gradient: Literal["coefficients", "score"] = "coefficients"
    perturbation: float = 0.0
    score_losses: Literal["passes", "steps"] = "passes"
    pairs: int = 1
    path_width: int = 1
    limit_penalty: float = 0.0
    warm_up_share: float = 0.0
    fair_share: float = 0.0
    warm_start: WarmStart = "none"
    warm_start_length: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient == "score" and self.perturbation == 0:
            raise UserError("perturbation must be above 0 for the gradient score, got 0.0")
        if self.gradient != "score" and self.path_width > 1:
            raise UserError(
                f"path_width is of paths that learn by the score: gradient must be score, got {self.gradient!r}"
            )
        if self.score_losses == "steps":
            if self.gradient != "score":
                raise UserError(
                    f"score_losses steps is for the gradient score, got gradient {self.gradient!r}"
                )
            if self.pairs != 1:
                raise UserError(f"pairs must be 1 where score_losses is steps, got {self.pairs}")


class SparseSearch(SupernetSearch):
    """Search of an architecture by a sparse code.

    Attributes
    ----------
    code : SparseCode
        On the CPU where it learns by the score: there it is recovered from in every step.
    scored : bool
        Whether it learns by the score.
    """

    def __init__(self, supernet: CellNetwork, setting: Setting) -> None:
        super().__init__(supernet, setting)
        self.scored = self.options.method.gradient == "score"
        self.code = self.first_code()
        if not self.scored:
            self.code.to(self.device)
        self.code_optimizer = code_optimizer(self.code.parameters(), self.options.method)
        self.spread, self.scores = 0.0, 0  # mean square of the pairs' differences, and their number
        self.shift: Tensor | None = None  # what this step's weights add to b; None on a fair path
        self.first: Tensor | None = None  # loss of the first step of a pair, until its second
        if self.by_steps and self.steps < 2:
            raise UserError(
                f"score_losses steps compares two steps of an epoch; these data make one, of batch_size "
                f"{self.options.optimizer.batch_size}"
            )
        self._accept()
        if self.options.method.warm_start != "none":
            self._warm_start()

    @classmethod
    def check(cls, setting: Setting) -> None:
        super().check(setting)
        network = family(setting.space).network
        if setting.options.method.warm_start == "naswot" and not issubclass(network, ImageNetwork):
            raise UserError("warm_start naswot is a score of networks of images; here: parameters")
        code, space = setting.options.code, setting.space
        rivals = any(c.groups is not None and not c.yes_or_no for c in space.choices)
        if setting.options.method.path_width > 1 and not rivals:
            raise UserError(
                f"path_width is for spaces in which the operations of an edge exclude each other; {space.name} is none"
            )
        for choice, m, s in zip(
            space.choices, code.lengths(space), code.places(space), strict=True
        ):
            if code.m is not None and code.sparsity == "s" and m < s and not choice.yes_or_no:
                warnings.warn(
                    f"m = {m} is below the {s} active places of {choice.label}: its code does not tell them apart",
                    stacklevel=2,
                )
                break

    @classmethod
    def option_parts(cls, task: Task) -> dict[str, type[BaseOptions]]:
        return {"code": SparseCodeOptions}

    def first_code(self) -> SparseCode:
        """Return the code that the search begins with: the first that is drawn within the limits.

        Raises
        ------
        UserError
            When none is found.
        """
        self.limits.check_parameters(self.options.code.fewest(self.space))
        for draw in range(DRAWS):
            code = SparseCode(self.space, self.options.code, seed=self.seed, draw=draw)
            if self.limits.allow(code.genotype()):
                return code
        raise UserError(
            f"limit {self.limits.in_words()}: none of {DRAWS:,} random architectures of this depth and width is that "
            f"small"
        )

    def _warm_start(self) -> None:
        """Let the codes begin with a score of the super-net as it is; a start beyond the limits is taken back."""
        options = self.options.method
        if options.warm_start == "naswot":
            images = next(iter(self.scoring_feed().epoch(0)))[0]

            def score(places: Mapping[str, tuple[Place, ...]]) -> float:
                return naswot(self.network, images, self.ones_at(places))
        else:
            costs = PlaceCosts(self.network, self.task.example(self.data))
            counted = {"parameters": costs.parameters, "multiply-adds": costs.multiply_adds}
            score = counted[options.warm_start]
        s = self.options.code.places(self.space)
        found = effects(self.space, s, score, seed=self.seed)
        begin_at(self.code, found, options.warm_start_length)
        self.recover()

    def _accept(self) -> None:
        """Remember the codes as they are, to come back to when a later architecture is beyond the limits."""
        self._accepted = None
        if self.limits.bounds:
            state = {"code": self.code.state_dict(), "adam": self.code_optimizer.state_dict()}
            self._accepted = copy.deepcopy(state)

    def recover(self) -> tuple[list[NodeRecovery], bool]:
        """Recover z from b, and go back to the codes that were accepted last when what comes out is beyond the limits.

        Returns
        -------
        recovery : list of NodeRecovery
        refused : bool
            Whether it was beyond the limits.
        """
        recovery = self.code.recover()
        if self.limits.allow(self.genotype()):
            self._accept()
            return recovery, False
        # copies: an optimizer goes on with the very tensors that it is given
        accepted = copy.deepcopy(self._accepted)
        self.code.load_state_dict(accepted["code"])
        self.code_optimizer.load_state_dict(accepted["adam"])
        return recovery, True

    def penalty(self, coefficients: Mapping[str, Coefficients]) -> Tensor | float:
        """Return what is added to the loss that codes follow through the coefficients."""
        weight = self.options.method.limit_penalty
        if weight == 0 or not self.limits.bounds:
            return 0.0
        return weight * sum(
            (
                part.values.new_tensor([self.limits.share(kind, p) for p in part.places])
                * part.values.abs()
            ).sum()
            for kind, part in coefficients.items()
        )

    @property
    def by_steps(self) -> bool:
        """Whether the code learns by the losses of the weights' own steps."""
        return self.options.method.score_losses == "steps"

    @property
    def searching(self) -> bool:
        """Whether the architecture is still searched for."""
        return True

    @property
    def search_epochs(self) -> int:
        """Epochs of the search itself, at most."""
        return self.epochs

    @property
    def warm_up_epochs(self) -> int:
        """Epochs at the beginning in which only the weights learn; at least one epoch is left to the codes."""
        epochs = self.search_epochs
        return min(round(self.options.method.warm_up_share * epochs), epochs - 1)

    @property
    def warming_up(self) -> bool:
        """Whether only the weights learn now."""
        return self.epoch < self.warm_up_epochs

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Any, Any]]:
        """Yield the batches of every step, see the base; by the losses of steps each of them twice, for a pair."""
        if not (self.by_steps and self.searching and epoch >= self.warm_up_epochs):
            return super().batches(epoch, start)
        twice = (batch for batch in super().batches(epoch, start // 2) for _ in range(2))
        return islice(twice, start % 2, start % 2 + self.steps - start)

    def genotype(self) -> Genotype:
        return self.code.genotype()

    def begin(self, run: Any) -> None:
        run.write_matrices(self.code)
        run.write_recovery(self.code.last_recovery, self.code.frozen)

    @torch.no_grad()
    def score_code(self, batch: Any) -> dict[str, Tensor]:
        """Take a step of the codes by the losses of pairs of architectures.

        Returns
        -------
        dict of str to Tensor
            The means of the pairs' metrics.
        """
        options = self.options.method
        e = options.perturbation * self._noise("score", options.pairs)
        tried = self.code.places_at(torch.cat([e, -e]), options.path_width)
        with kept_statistics(self.network):
            found = [self.weights.loss(batch, self.ones_at(places)) for places in tried]
        losses = torch.stack([loss.detach().double() for loss, _ in found])
        self._step_code(all_reduce_sum(losses) / processes(), e)
        metrics = [each for _, each in found]
        return {name: torch.stack([m[name] for m in metrics]).mean() for name in metrics[0]}

    @torch.no_grad()
    def score_step(self, loss: Tensor) -> None:
        """Take a step of the codes when the weights' step, which had this loss, was the second of a pair."""
        if self.shift is None:
            return
        loss = all_reduce_sum(loss.detach().double()) / processes()
        if not self._second:
            self.first = loss
        else:
            self._step_code(torch.stack([self.first.to(loss), loss]), -self.shift)
            self.first = None

    def _step_code(self, losses: Tensor, e: Tensor) -> None:
        """Take a step of the codes by the losses at b + e, and then those at b - e, of which there are as many."""
        options = self.options.method
        losses = losses.cpu()  # the one time that the device is waited for
        if self.limits.bounds and options.limit_penalty:
            # a wide path is not what would be found
            single = self.code.places_at(torch.cat([e, -e]))
            excess = [self.limits.excess(Genotype.from_places(p, self.space)) for p in single]
            losses = losses + options.limit_penalty * torch.tensor(excess, dtype=losses.dtype)
        plus, minus = losses.split(len(e))
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

    @torch.no_grad()
    def path(self) -> dict[str, Coefficients]:
        """Return the coefficients of this step's weights: of a fair path, or of b with or without noise."""
        options = self.options.method
        self.shift = None
        begun = self.step - self._second  # what is drawn is drawn for a pair
        done = self.epoch + begun / self.steps - self.warm_up_epochs
        share = options.fair_share * (1 - done / (self.search_epochs - self.warm_up_epochs))
        random = generator(self.seed, "fair step", self.epoch, begun)
        by_share = share > 0 and not any(self.code.frozen)
        if self.warming_up or (by_share and float(torch.rand((), generator=random)) < share):
            s = self.options.code.places(self.space)
            step = self.epoch * self.steps + self.step
            return self.ones_at(fair_path(self.space, s, self.seed, step, options.path_width))
        if options.perturbation > 0:
            sign = -1 if self._second else 1
            self.shift = sign * options.perturbation * self._noise("weights", 1, begun)
            (places,) = self.code.places_at(self.shift, options.path_width)
            return self.ones_at(places)
        return self.code.coefficients()

    @property
    def _second(self) -> int:
        """1 in the second step of a pair, 0 in others."""
        return self.step % 2 if self.by_steps else 0

    def _noise(self, name: str, number: int, step: int | None = None) -> Tensor:
        """Draw so many times what is added to all codes in a step, by default this one, (number, sum of m)."""
        step = self.step if step is None else step
        random = generator(self.seed, "perturbation", name, self.epoch, step)
        size = (number, sum(len(b) for b in self.code.b))
        return torch.randn(size, generator=random, dtype=torch.float64)

    def ones_at(self, places: Mapping[str, tuple[Place, ...]]) -> dict[str, Coefficients]:
        """Return coefficients of 1 at these places."""
        return {
            kind: Coefficients(torch.ones(len(of_kind), device=self.device), of_kind)
            for kind, of_kind in places.items()
        }

    def stateful(self) -> dict[str, Any]:
        parts = {"code": self.code, "code_optimizer": self.code_optimizer}
        return {**super().stateful(), **parts}

    def state_dict(self) -> dict[str, Any]:
        own = {
            "spread": self.spread,
            "scores": self.scores,
            "first": self.first,
            "accepted": self._accepted,
        }
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.spread, self.scores, self.first = state["spread"], state["scores"], state["first"]
        self._accepted = copy.deepcopy(state["accepted"])


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


def changed_nodes(recovery: list[NodeRecovery], refused: bool = False) -> str:
    """Return the nodes whose supports a recovery changed, in words."""
    if refused:
        return "refused: too large"
    kinds = dict.fromkeys(node.kind for node in recovery)
    parts = []
    for kind in kinds:
        changed = [node for node in recovery if node.kind == kind and node.changed]
        nodes = [f"{node.node} {node.name}".strip() for node in changed]
        if nodes:
            parts.append(f"{kind} {','.join(nodes)}")
    return "; ".join(parts) or "none"
