"""The sparse code: what the search optimises, and how it becomes coefficients (ISTA-NAS, sections 3.1 to 3.3).

For every node with n candidate places, whose outputs are o = (o_1, ..., o_n), the network needs x = z'o for a sparse z.
Instead of z a short code b = A z is kept, with a fixed random measurement matrix A (m x n, m < n), and z is recovered
from it by the LASSO,

    z = argmin 1/2 ||A z - b||^2 + lam ||z||_1,

and cut to its s largest entries (in a space with one operation per edge, of different edges), whose places form the
support S. With E = A'A - I, z'o = (A'b)'o - (E z)'o, and only the places of S are run. So their coefficients are, with
z held until the next recovery,

    c(b) = (A_S)' b - [E z]_S,      dc/db = (A_S)'.

When b = A z_S, c = z_S. A cut LASSO solution has b != A z_S, and the network starts from other coefficients than the
recovered ones. The rules with exactly s non-zeros (`path`, `best_subset`: refitted, so that A_S'(b - A z_S) = 0) and
re-encoding (b <- A z_S after a recovery) restore the equality.

Where the number of active places is open, lam can choose it instead of s (``sparsity = "lam"``): S is the set of all
non-zeros of z. By the LASSO's optimality conditions, with the residual r = b - A z,

    a_i' r = lam sign(z_i) on S,      |a_i' r| <= lam elsewhere:

a place is active if what the others leave of b has more than lam along its column. S is empty where max_i |a_i' b| <=
lam, and has m places at most. With b, S grows and shrinks: z(t b; t lam) = t z(b; lam), so lam is in units of b. An
empty S has no coefficient and gives b no gradient; only the two-stage search by the score leaves it again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

import solvers

from ..networks.core import Coefficients
from ..runtime.errors import UserError, short
from ..runtime.options import BaseOptions
from ..runtime.processes import broadcast, processes
from ..runtime.randomness import generator
from ..spaces.base import Choice, Place, Space, rows_of
from ..spaces.genotype import Genotype

Rule = Literal["truncate", "signed", "path", "best_subset", "non_negative"]
Matrix = Literal["gaussian", "normalised", "uniform", "orthogonal", "balanced"]
Solver = Literal["homotopy", "fista", "ista", "coordinate_descent"]
Sparsity = Literal["s", "lam"]


PREPARED = ("best_subset", "non_negative")
"""The rules whose subsets are prepared once for all recoveries."""

SOLVED = ("truncate", "signed")
"""The rules that cut a solution of the LASSO."""

LONGEST = 7
"""Length of a code by default (ISTA-NAS), where that is shorter than the vector it stands for."""


@dataclass(frozen=True)
class SparseCodeOptions(BaseOptions):
    """Constants of the sparse code; the defaults are the paper's but for the matrix (the paper's code: uniform).

    Parameters
    ----------
    m : int or tuple of int or None
        Length of a code; one for all choices or one for each choice of a cell, shorter than the vector it stands for;
        by default 7, or one less than that vector has entries where these are 7 or fewer. In a space with skips one
        number for all is shortened likewise.
    s : int or tuple of int or None
        Active places of a choice, likewise; by default the space's. Where a space has choices with a given number and
        others, one number is for the others, of skips as many as there are at most.
    sparsity : {"s", "lam"}
        What the number of active places comes from: s, or, where the space leaves it open, lam: all non-zeros of the
        LASSO's solution (of a group the strongest), with the rules truncate and signed.
    lam : float
        Weight of the l1 norm in the LASSO.
    matrix : {"gaussian", "normalised", "uniform", "orthogonal", "balanced"}
        Kind of measurement matrix, see `solvers.measurement_matrix`. In a balanced one the operations of an edge
        compete: their columns sum to zero, so that b does not see what they have in common.
    rule : {"truncate", "signed", "path", "best_subset", "non_negative"}
        Recovery: the LASSO's s entries of largest magnitude (the paper's) or of largest value (signed), the
        regularisation path's first point with s non-zeros, the exact best subset of s, or the best one with no negative
        entry.
    reencode : bool
        Whether to set b <- A z_S after a recovery.
    solver : {"homotopy", "fista", "ista", "coordinate_descent"}
        The LASSO's method for the rule `truncate`; all are certified to the same gap.
    init_scale : float
        Standard deviation of the initial b; 0: b begins at zero.

    Raises
    ------
    UserError
        When a value is out of its range.
    """

    least: ClassVar[dict[str, float]] = {"lam": 0, "init_scale": 0}

    m: int | tuple[int, ...] | None = None
    s: int | tuple[int, ...] | None = None
    sparsity: Sparsity = "s"
    lam: float = 1e-5
    matrix: Matrix = "gaussian"
    rule: Rule = "truncate"
    reencode: bool = False
    solver: Solver = "homotopy"
    init_scale: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("m", "s"):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if value is not None and (not values or any(v < 1 for v in values)):
                raise UserError(f"{name} must be whole numbers of at least 1, got {value!r}")
        if self.sparsity == "lam" and self.rule not in SOLVED:
            raise UserError(
                f"sparsity lam needs the LASSO's solution: rule must be {' or '.join(SOLVED)}, got {self.rule!r}"
            )

    def matrix_of(self, choice: Choice) -> Matrix:
        """Return the kind of a choice's measurement matrix: a balanced one only where candidates compete."""
        alone = choice.yes_or_no and (len(choice.candidates) == 1 or self.sparsity == "lam")
        return "gaussian" if self.matrix == "balanced" and alone else self.matrix

    def lengths(self, space: Space) -> tuple[int, ...]:
        """Return the length of the code of every choice of a space.

        Raises
        ------
        UserError
            When there are not as many lengths as choices, or a code is not shorter than its vector.
        """
        given = space.numbers("m", self.m)
        shortened = isinstance(self.m, int) and any(c.yes_or_no for c in space.choices)
        found = []
        for i, choice in enumerate(space.choices):
            n = len(choice.candidates)
            # what a balanced matrix cannot see is no place for a code
            balanced = self.matrix_of(choice) == "balanced"
            most = n - len(set(edges_of(choice))) if balanced else n - 1
            if given is None:
                found.append(min(LONGEST, max(most, 1)))
                continue
            m = given[i % len(given)]
            if shortened:
                m = min(m, max(most, 1))
            if balanced and m > most:
                raise UserError(
                    f"m must be at most {most} for a balanced matrix of {choice.label}, the candidates less its "
                    f"edges; got {m}"
                )
            if m >= n > 1:
                raise UserError(
                    f"m must be below the {n} candidates of {choice.label}: a code is shorter than its vector; "
                    f"got {m}"
                )
            found.append(m)
        return tuple(found)

    def places(self, space: Space) -> tuple[int, ...]:
        """Return the number of active places of every choice of a space.

        Raises
        ------
        UserError
            When a number does not fit, or there are too many subsets for the rule.
        """
        given = space.numbers("s", self.s)
        some_open = any(choice.least < choice.most for choice in space.choices)
        found = []
        for i, choice in enumerate(space.choices):
            n, s = len(choice.candidates), choice.s if given is None else given[i % len(given)]
            if isinstance(self.s, int) and some_open:
                if choice.least == choice.most:
                    s = choice.s
                elif choice.yes_or_no:
                    s = min(s, choice.most)
            if not choice.least <= s <= choice.most:
                kind = "edges" if choice.groups is not None else "candidates"
                raise UserError(
                    f"s must be at most the {choice.most} {kind} of node {choice.node}, got {s}"
                    if s > choice.most
                    else f"s must be at least {choice.least} at node {choice.node}, got {s}"
                )
            if self.rule in PREPARED and math.comb(n, s) > solvers.MOST_SUPPORTS:
                raise UserError(
                    f"s = {s} of {n} candidates has too many subsets for the rule {self.rule} "
                    f"(at most {solvers.MOST_SUPPORTS:,}); choose a smaller s or another rule"
                )
            found.append(s)
        return tuple(found)

    def fewest(self, space: Space) -> tuple[int, ...]:
        """Return the least number of active places that every choice of a space can have; see `places` for errors."""
        found = self.places(space)
        if self.sparsity == "s":
            return found
        return tuple(
            s if choice.least == choice.most else choice.least
            for choice, s in zip(space.choices, found, strict=True)
        )


@dataclass(frozen=True)
class NodeRecovery:
    """Result of one recovery at one node (all tensors float64, on the CPU).

    Parameters
    ----------
    kind, node, name : str, int, str
        Which choice of which node.
    b : Tensor, shape (m,)
        The code that z was recovered from (before re-encoding).
    z : Tensor, shape (n,)
        The recovered vector before the cut.
    support : tuple of int, length s
        Indices of the active candidates, ascending.
    coefficients : Tensor, shape (s,)
        c(b) right after the recovery: what the network really runs.
    residual, residual_cut : float
        ||A z - b|| and ||A z_S - b||.
    gap : float
        Relative duality gap of z; nan for rules that do not solve the LASSO.
    iterations : int
        Iterations of the LASSO's method; 0 for the other rules.
    moved : float
        ||z - (z of the recovery before)||, both before the cut; inf at the first recovery.
    changed : bool
        Whether the support is another than before.

    A node that is frozen is not recovered: its entries repeat those it was frozen with, and it has not moved.
    """

    kind: str
    node: int
    b: Tensor
    z: Tensor
    support: tuple[int, ...]
    coefficients: Tensor
    residual: float
    residual_cut: float
    gap: float
    iterations: int
    moved: float
    changed: bool
    name: str = ""

    @property
    def key(self) -> str:
        """The name of its choice in files, see `isnas.spaces.base.Choice`."""
        return ".".join(filter(None, (self.kind, str(self.node), self.name)))

    @property
    def nonzeros(self) -> int:
        """Number of non-zeros of z."""
        return int((self.z != 0).sum())

    @property
    def norm(self) -> float:
        """||z_S||."""
        return float(self.z[list(self.support)].norm())


def edges_of(choice: Choice) -> list[int]:
    """Return for each candidate the edge or group that it belongs to: those of one compete with each other.

    Where each candidate is decided on by itself, all compete for the number of active ones.
    """
    if choice.yes_or_no:
        return [0] * len(choice.candidates)
    found = {place: i for i, row in enumerate(rows_of(choice)) for place in row}
    return [found[place] for place in choice.candidates]


def labels(choice: Choice) -> tuple[int, ...]:
    """Return the group of each candidate for a solver: each its own where all may be active."""
    return tuple(range(len(choice.candidates))) if choice.groups is None else choice.groups


def widened(choice: Choice, support: Sequence[int], effects: Tensor, width: int) -> tuple[int, ...]:
    """Return a support with the further candidates of its groups that have the largest effects, `width` of a group."""
    groups, values = choice.groups, effects.tolist()
    wide = []
    for kept in support:
        others = [k for k in range(len(groups)) if groups[k] == groups[kept] and k != kept]
        wide += [kept, *sorted(others, key=values.__getitem__, reverse=True)[: width - 1]]
    return tuple(sorted(wide))


class SparseCode(nn.Module):
    """Codes of all nodes of all kinds of cell; its parameters are the b.

    Parameters
    ----------
    space : Space
    options : SparseCodeOptions
    seed, draw : int
        A and the first b are drawn from these.

    Attributes
    ----------
    choices : tuple of Choice
        All that is decided.
    A : list of Tensor, shapes (m, n), float64
    b : nn.ParameterList, shapes (m,)
    z : list of Tensor, shapes (n,), float64
        The last recovery, cut to its support.
    support : list of tuple of int
    frozen : list of bool
    """

    def __init__(
        self, space: Space, options: SparseCodeOptions, *, seed: int = 0, draw: int = 0
    ) -> None:
        super().__init__()
        if not isinstance(options, SparseCodeOptions):
            raise UserError(f"options must be SparseCodeOptions, got {short(options)}")
        self.space = space
        self.options = options
        random = generator(seed, "code", draw)
        self.choices = space.choices
        lengths, self._s = options.lengths(space), options.places(space)
        self.A = [
            solvers.measurement_matrix(
                m,
                len(choice.candidates),
                kind=options.matrix_of(choice),
                groups=edges_of(choice),
                generator=random,
            )
            for m, choice in zip(lengths, self.choices, strict=True)
        ]
        self._subsets: dict[tuple[int, ...], solvers.BestSubset] = {}
        self.b = nn.ParameterList(
            nn.Parameter(options.init_scale * torch.randn(m, generator=random)) for m in lengths
        )
        self.z = [torch.zeros(A.shape[1], dtype=torch.float64) for A in self.A]
        self.support: list[tuple[int, ...]] = [() for _ in self.choices]
        self.frozen = [False] * len(self.choices)
        self._fixed: list[Tensor | None] = [None] * len(self.choices)
        self.last_recovery: list[NodeRecovery] = []
        self.recover()

    def recover(self) -> list[NodeRecovery]:
        """Recover z from b at every node that is not frozen; the supports stay until the next call.

        Where several processes work together the first one does it, and all go on with its codes.

        Raises
        ------
        UserError
            When a b is no longer finite: the search has diverged.
        """
        if processes() == 1:
            return self._recover_all()
        self.load_state_dict(broadcast(self._state_after_recovery))
        return self.last_recovery

    def _state_after_recovery(self) -> dict[str, Any]:
        self._recover_all()
        return {
            name: part.cpu() if isinstance(part, Tensor) else part
            for name, part in self.state_dict().items()
        }

    def _recover_all(self) -> list[NodeRecovery]:
        b = self._host_b()
        searching = [i for i, frozen in enumerate(self.frozen) if not frozen]
        for i in searching:
            if not b[i].isfinite().all():
                raise UserError(
                    f"the code b of {self.choices[i].label} is not finite: the search has diverged; "
                    f"lower the learning rates"
                )
        found = dict(zip(searching, self._recover(searching, b), strict=True))
        before, last = list(self.support), self.last_recovery
        for i, (z, _, _) in found.items():
            self.z[i], self.support[i] = self._cut(i, z, b[i])
            if self.options.reencode:
                with torch.no_grad():
                    self.b[i].copy_(self.A[i] @ self.z[i])
        self._assemble()
        coefficients = self._host_coefficients()
        recovered = []
        for i, choice in enumerate(self.choices):
            if i not in found:
                again = dataclasses.replace(self.last_recovery[i], moved=0.0, changed=False)
                recovered.append(again)
                continue
            z, gap, iterations = found[i]
            recovered.append(
                NodeRecovery(
                    kind=choice.kind,
                    node=choice.node,
                    name=choice.name,
                    b=b[i],
                    z=z,
                    support=self.support[i],
                    coefficients=coefficients[i],
                    residual=float((self.A[i] @ z - b[i]).norm()),
                    residual_cut=float((self.A[i] @ self.z[i] - b[i]).norm()),
                    gap=gap,
                    iterations=iterations,
                    moved=float((z - last[i].z).norm()) if last else float("inf"),
                    changed=self.support[i] != before[i],
                )
            )
        self.last_recovery = recovered
        return recovered

    def _recover(
        self, indices: Sequence[int], b: Sequence[Tensor] | Mapping[int, Tensor]
    ) -> list[tuple[Tensor, float, int]]:
        """Return (z, gap, iterations) for each of the nodes."""
        if not indices:
            return []
        A, b = [self.A[i] for i in indices], [b[i] for i in indices]
        if self.options.rule in SOLVED:
            result = solvers.lasso(A, b, self.options.lam, method=self.options.solver)
            return list(zip(result.z, result.gap.tolist(), result.iterations.tolist(), strict=True))
        if self.options.rule in PREPARED:
            z = self._prepared(indices)(b).z
        else:
            z = [
                solvers.sparsest(A_i, b_i, self._s[i], groups=self.choices[i].groups).z
                for i, A_i, b_i in zip(indices, A, b, strict=True)
            ]
        return [(z_i, float("nan"), 0) for z_i in z]

    def _prepared(self, indices: Sequence[int]) -> solvers.BestSubset:
        """Return the best subsets of these choices, prepared once."""
        key = tuple(indices)
        if key not in self._subsets:
            self._subsets[key] = solvers.BestSubset(
                [self.A[i] for i in key],
                [self._s[i] for i in key],
                groups=[labels(self.choices[i]) for i in key],
                non_negative=self.options.rule == "non_negative",
            )
        return self._subsets[key]

    def _cut(self, i: int, z: Tensor, b: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return z cut to its support, and the support."""
        choice = self.choices[i]
        s = self._number(i, z)
        if s == 0:
            return torch.zeros_like(z), ()
        if self.options.rule == "truncate":
            cut = solvers.truncate(z, s, choice.groups)
        else:  # where z has too few entries above zero, those come first that would be next
            ties = self.A[i].T @ (b - self.A[i] @ z)
            cut = solvers.truncate(z, s, choice.groups, signed=self._signed, ties=ties)
        return cut.z, cut.support

    def _number(self, i: int, z: Tensor) -> int:
        """Return how many places of a choice are active when z is recovered."""
        choice = self.choices[i]
        if self.options.sparsity == "s" or choice.least == choice.most:
            return self._s[i]
        there = (z > 0 if self._signed else z != 0).tolist()
        groups = {group for group, on in zip(labels(choice), there, strict=True) if on}
        return max(choice.least, len(groups))

    @property
    def _signed(self) -> bool:
        return self.options.rule in ("signed", "non_negative")

    def places_at(self, shifts: Tensor, width: int = 1) -> list[dict[str, tuple[Place, ...]]]:
        """Return the active places that would be recovered from b plus each of some shifts; nothing is changed.

        Parameters
        ----------
        shifts : Tensor, shape (K, sum of m), float64, on the CPU
        width : int
            Operations of an active edge: beside the recovered one those with the largest entries of A'(b + shift), in
            choices in which the operations of an edge exclude each other.

        Returns
        -------
        list of length K of dict of kind to places
        """
        found = [[support for _, support in each] for each in self.recovered_at(shifts)]
        if width > 1:
            b = self._shifted(shifts)
            for i, (choice, A) in enumerate(zip(self.choices, self.A, strict=True)):
                if choice.groups is not None and not self.frozen[i]:
                    for supports, effects in zip(found, b[i] @ A, strict=True):
                        supports[i] = widened(choice, supports[i], effects, width)
        return [self._by_kind(supports) for supports in found]

    def recovered_at(self, shifts: Tensor) -> list[list[tuple[Tensor, tuple[int, ...]]]]:
        """Return z, cut, and its support for every choice, recovered from b plus each of some shifts.

        Nothing is changed, and a frozen choice stays as it is. See `places_at` for the parameters.

        Returns
        -------
        list of length K of lists of (Tensor of shape (n,), tuple of int)
        """
        searching = [i for i, frozen in enumerate(self.frozen) if not frozen]
        parts = self._shifted(shifts)
        n = len(shifts)
        found = [list(zip(self.z, self.support, strict=True)) for _ in range(n)]
        if self.options.rule in PREPARED and searching:
            best = self._prepared(searching)([parts[i] for i in searching])
            for number, i in enumerate(searching):
                for k in range(n):
                    # supports are of problem after problem, each with all shifts
                    found[k][i] = best.z[number][k], best.support[number * n + k]
            return found
        for i in searching:
            for k, part in enumerate(parts[i]):
                found[k][i] = self._cut(i, self._recover([i], {i: part})[0][0], part)
        return found

    def exchanges(self) -> list[dict[str, tuple[Place, ...]]]:
        """Return the active places with one of them exchanged for another of its choice, see `Space.exchanges`.

        In the order of what the exchange of place k for j costs in correlation with the code, a_k'b - a_j'b; the number
        of active places stays.
        """
        worth = {
            (choice.kind, place): effect
            for choice, A, b in zip(self.choices, self.A, self._host_b(), strict=True)
            for place, effect in zip(choice.candidates, (b @ A).tolist(), strict=True)
        }
        found = []
        for kind, gone, come in self.space.exchanges(self.places):
            if come is not None:
                changed = tuple(come if place == gone else place for place in self.places[kind])
                cost = worth[kind, gone] - worth[kind, come]
                found.append((cost, {**self.places, kind: changed}))
        return [places for _, places in sorted(found, key=lambda each: each[0])]

    def coefficients_of(
        self, found: Sequence[tuple[Tensor, tuple[int, ...]]]
    ) -> dict[str, Coefficients]:
        """Return what `recovered_at` found as coefficients z_S: leaves, whose gradients `gradients_of` reads."""
        like = self.b[0]
        places = self._by_kind([support for _, support in found])
        values: dict[str, list[Tensor]] = {kind: [] for kind in places}
        for choice, (z, support) in zip(self.choices, found, strict=True):
            values[choice.kind].append(z[list(support)])
        return {
            kind: Coefficients(torch.cat(parts).to(like).requires_grad_(), places[kind])
            for kind, parts in values.items()
        }

    def gradients_of(
        self,
        found: Sequence[tuple[Tensor, tuple[int, ...]]],
        coefficients: Mapping[str, Coefficients],
    ) -> list[Tensor]:
        """Return dL/dz of every choice, (n,) float64 and zero off the support, after a backward pass."""
        parts = {
            kind: iter(active.values.grad.cpu().double()) for kind, active in coefficients.items()
        }
        gradients = []
        for choice, (z, support) in zip(self.choices, found, strict=True):
            g = torch.zeros_like(z)
            for k in support:
                g[k] = next(parts[choice.kind])
            gradients.append(g)
        return gradients

    def _by_kind(self, supports: Sequence[tuple[int, ...]]) -> dict[str, tuple[Place, ...]]:
        """Return the places of a support for each choice."""
        places: dict[str, tuple[Place, ...]] = dict.fromkeys(self.space.kinds, ())
        for choice, support in zip(self.choices, supports, strict=True):
            places[choice.kind] += tuple(choice.candidates[k] for k in support)
        return places

    def _host_b(self) -> list[Tensor]:
        """Return all b on the CPU in float64, by one transfer."""
        flat = torch.cat([b.detach() for b in self.b]).cpu().double()
        return list(flat.split([len(b) for b in self.b]))

    def _shifted(self, shifts: Tensor) -> tuple[Tensor, ...]:
        """Return b plus each of some shifts, (K, m) for every choice, on the CPU."""
        return (torch.cat(self._host_b()) + shifts).split([len(b) for b in self.b], dim=1)

    def _assemble(self) -> None:
        """Write c(b) for all nodes at once, as rows @ (b_1, b_2, ...) - offset."""
        lengths = [len(b) for b in self.b]
        rows, offsets = [], []
        for i, (A, z, support) in enumerate(zip(self.A, self.z, self.support, strict=True)):
            row = torch.zeros(len(support), sum(lengths), dtype=torch.float64)
            fixed = self._fixed[i]
            if fixed is None:
                start = sum(lengths[:i])
                A_S = A[:, list(support)]
                row[:, start : start + lengths[i]] = A_S.T
                offsets.append(A_S.T @ (A @ z) - z[list(support)])  # [E z]_S
            else:
                offsets.append(-fixed)
            rows.append(row)
        like = self.b[0]
        self._rows = torch.cat(rows).to(like)
        self._offset = torch.cat(offsets).to(like)
        self.places = self._by_kind(self.support)

    def coefficients(self) -> dict[str, Coefficients]:
        """Return c(b) of the active places, differentiable in b, for `Network.forward`."""
        split = self._values().split([len(places) for places in self.places.values()])
        return {
            kind: Coefficients(part, places)
            for (kind, places), part in zip(self.places.items(), split, strict=True)
        }

    def _values(self) -> Tensor:
        return self._rows @ torch.cat(list(self.b)) - self._offset

    @torch.no_grad()
    def _host_coefficients(self) -> list[Tensor]:
        """Return the coefficients of every node on the CPU in float64, by one transfer."""
        values = self._values().cpu().double()
        return list(values.split([len(support) for support in self.support]))

    def freeze(self, index: int, value: float | None = None) -> None:
        """Fix the coefficients of `choices[index]` for good: at their present values, or all at a given one."""
        if not self.frozen[index]:
            present = self._host_coefficients()[index]
            self._fixed[index] = present if value is None else torch.full_like(present, value)
            self.frozen[index] = True
            self.b[index].requires_grad_(False)
            self.b[index].grad = None
            self._assemble()

    def genotype(self) -> Genotype:
        """Return the architecture of the present supports."""
        return Genotype.from_places(self.places, self.space)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what is not a parameter, as plain data and tensors."""
        return {
            "A": self.A,
            "z": self.z,
            "support": [list(support) for support in self.support],
            "frozen": list(self.frozen),
            "fixed": list(self._fixed),
            "last_recovery": [vars(node).copy() for node in self.last_recovery],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.A, self.z = list(state["A"]), list(state["z"])
        self._subsets = {}
        self.support = [tuple(support) for support in state["support"]]
        self.frozen, self._fixed = list(state["frozen"]), list(state["fixed"])
        self.last_recovery = [NodeRecovery(**node) for node in state["last_recovery"]]
        for b, frozen in zip(self.b, self.frozen, strict=True):
            b.requires_grad_(not frozen)
        self._assemble()

    def _apply(self, fn: Any, recurse: bool = True) -> SparseCode:
        """Move the assembled rows along with the parameters."""
        super()._apply(fn, recurse)
        self._assemble()
        return self
