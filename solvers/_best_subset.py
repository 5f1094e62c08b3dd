"""The exact l0 answer: the best s columns of all, by trying every choice.

What depends on A alone is done once. Of every support S an orthonormal basis Q of the span of its
columns is kept, and the triangle T = R^-1 of A_S = Q R. For a b then

    ||b - A_S z|| = ||b - Q Q'b||    and    z = T Q'b,

a few products for all supports of all problems together.

With z >= 0, the best fit within s columns has positive coefficients on some T of at most s columns
and is the least-squares fit on them (Lawson and Hanson, "Solving least squares problems", 1974,
chapter 23); T can be taken independent (Caratheodory's theorem for cones). So all independent T of
0 to s columns are tried, and those whose least-squares coefficients are all positive count.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import combinations, islice

import numpy as np

from ._convert import (
    Array,
    Batch,
    Groups,
    Sizes,
    Tensors,
    read_groups,
    read_matrices,
    read_problems,
    read_right_sides,
    read_sizes,
)
from ._groups import admissible_supports, count_supports
from ._problem import EPS, exponent, times_power
from ._result import SparseResult
from ._sparsest import sparse_result

MOST_SUPPORTS = 5_000_000  # a minute or so for s = 2..4
CHUNK = 1 << 20  # floats in one work array, 8 MiB: bounds the memory
KEPT = 1 << 23  # floats that a `BestSubset` keeps, 64 MiB; beyond, each call works them out again
# Distance from the span of earlier columns, as a fraction of the column's norm, below which the
# column adds nothing; and residuals closer than this fraction of ||b|| are tied.
DEPENDENT = 1e-10
TIED = 1e-13
# A correlation below this fraction of ||a_j|| ||b|| is rounding.
ROUNDING = 1e-13


def best_subset(
    A: Tensors,
    b: Tensors,
    s: Sizes,
    *,
    groups: Groups | None = None,
    non_negative: bool = False,
) -> SparseResult:
    """Minimise ||A z - b|| over all z with at most s non-zeros, exactly.

    Tries all n-choose-s supports (595 for n = 35, s = 2); with `groups` only those with at most
    one column of each group (490 for five groups of seven). Equally good supports are decided by
    the lowest indices (lexicographic order). On linearly dependent columns z is the least-norm
    solution, measured with the columns brought to one length.

    With `non_negative`, over all z >= 0. The best fit may then have fewer than s positive
    coefficients, and every support that contains their columns T is equally good. T is completed
    to s columns by those that a step away from zero would cost least: of the groups that T leaves
    out, one by one, the column of largest a_j'(b - A z). Their coefficients are zero, and with s
    as large as the number of groups every group has its one column. Of equally good T the one of
    fewest columns is taken, then that of the lowest indices.

    To solve with the same A again and again, prepare it once with `BestSubset`.

    Parameters
    ----------
    A : Tensor of shape (..., m, n), or sequence of Tensors of shape (m_i, n_i)
    b : Tensor of shape (..., m), or sequence of Tensors of shape (..., m_i)
        In a sequence all have the same batch dimensions: many b for each A.
    s : int, or sequence of int for a sequence of problems
        Columns to choose, 1 <= s <= n, or at most the number of groups.
    groups : sequence of int of length n, or sequence of such of lengths n_i, optional
        The group of each column, any numbers; a batch given as a tensor shares one sequence.
        No two columns of a group are chosen together.
    non_negative : bool
        Whether to minimise over z >= 0 only.

    Returns
    -------
    SparseResult
        `support` always has s columns, even where a coefficient happens to be zero.

    Raises
    ------
    TypeError
        If A or b hold something else than tensors, or groups something else than ints.
    ValueError
        If shapes do not fit, something is empty, NaN or infinite, s is out of range, or there
        are more than 5 million supports to try.
    """
    batch = read_problems(A, b)
    labels = read_groups(batch, groups)
    sizes = read_sizes(batch, s, labels)
    each = len(batch.b) // len(batch.matrices)
    order = np.argsort(batch.matrix, kind="stable")[::each]  # one problem of each matrix
    columns = [batch.columns[i] for i in order]
    labels = None if labels is None else labels[order]
    return _Search(batch.matrices, columns, sizes[order], labels, non_negative).answer(batch)


class BestSubset:
    """The best subsets of given columns, prepared once for many right-hand sides.

    `BestSubset(A, s, ...)(b)` is `best_subset(A, b, s, ...)`. The supports to try and their
    factorisations are worked out when the object is made and kept, up to 64 MiB; beyond, they
    are worked out again in each call.

    Parameters
    ----------
    A, s, groups, non_negative
        As for `best_subset`.

    Raises
    ------
    TypeError, ValueError
        As for `best_subset`.
    """

    def __init__(
        self,
        A: Tensors,
        s: Sizes,
        *,
        groups: Groups | None = None,
        non_negative: bool = False,
    ) -> None:
        self._matrices = read_matrices(A)
        labels = read_groups(self._matrices, groups)
        sizes = read_sizes(self._matrices, s, labels)
        self._search = _Search(
            self._matrices.A, self._matrices.columns, sizes, labels, non_negative
        )
        self._search.prepare()

    def __call__(self, b: Tensors) -> SparseResult:
        """The best subset for each b.

        Parameters
        ----------
        b : Tensor of shape (..., m), or sequence of Tensors of shape (..., m_i)
            As for `best_subset`; on any device.

        Returns
        -------
        SparseResult
            On the device of b.

        Raises
        ------
        TypeError, ValueError
            As for `best_subset`.
        """
        return self._search.answer(read_right_sides(self._matrices, b))


@dataclass(frozen=True)
class _Supports:
    """Some of the supports to try, factorised; those of a problem side by side.

    Attributes
    ----------
    problem : array of shape (c,)
        The problem of each support, ascending.
    columns : array of shape (c, s)
        Ascending; n where a support has fewer than s columns.
    basis : array of shape (c, s, m)
        Q', the rows orthonormal, or zero where there is no column or it adds nothing.
    triangle : array of shape (c, s, s)
        T, so that the coefficients are T Q'b.
    """

    problem: Array
    columns: Array
    basis: Array
    triangle: Array


@dataclass(frozen=True)
class _Best:
    """The best fits found so far, in which a search writes.

    Attributes
    ----------
    distance : array of shape (p, k)
        ||b - A z||.
    columns : array of shape (p, k, s)
        Ascending; n where there are fewer than s columns.
    z : array of shape (p, k, s)
        The coefficients of these columns.
    """

    distance: Array
    columns: Array
    z: Array


class _Search:
    """All supports of some problems, for as many b as wanted.

    Parameters
    ----------
    A : array of shape (p, m, n)
    widths : sequence of int
        Each problem's own n.
    sizes : array of shape (p,)
        Each problem's s.
    groups : array of shape (p, n), optional
        As `read_groups` gives them.
    non_negative : bool
    """

    def __init__(
        self,
        A: Array,
        widths: Sequence[int],
        sizes: Array,
        groups: Array | None,
        non_negative: bool,
    ) -> None:
        p, m, n = A.shape
        self._sizes = sizes
        self._groups = groups
        self._non_negative = non_negative
        # Problems with the same supports to try share the list of them.
        self._alike: dict[tuple[int, int, tuple[int, ...] | None], list[int]] = {}
        for i, (width, s) in enumerate(zip(widths, sizes.tolist(), strict=True)):
            own = None if groups is None else tuple(groups[i, :width].tolist())
            self._alike.setdefault((width, s, own), []).append(i)
        counts = {each: self._count(*each) for each in self._alike}
        most = max(counts, key=lambda each: counts[each])
        if counts[most] > MOST_SUPPORTS:
            width, s, own = most
            within = "" if own is None else f" in {max(own) + 1} groups"
            raise ValueError(
                f"s = {s} of n = {width} columns{within} gives {counts[most]:,} supports; "
                f"best_subset tries at most {MOST_SUPPORTS:,}"
            )
        # A's columns are rows here, at unit scale; the last one, zero, stands for "no column".
        self._columns = np.zeros((p, n + 1, m))
        self._columns[:, :n] = A.transpose(0, 2, 1)
        self._exponent = exponent(np.abs(self._columns).max(2))
        self._columns = times_power(self._columns, -self._exponent[:, :, None])
        self._exists = np.arange(n) < np.asarray(widths)[:, None]
        self._most = int(sizes.max())
        supports = sum(counts[each] * len(same) for each, same in self._alike.items())
        self._keeps = supports * self._most * (m + self._most) <= KEPT
        self._kept: _Supports | None = None

    def prepare(self) -> None:
        """Keep all factorisations, if they are not too large."""
        if self._keeps:
            parts = list(self._factorised())
            together = (
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(_Supports)
            )
            self._kept = _Supports(*together)

    def answer(self, batch: Batch) -> SparseResult:
        """The best subsets for the right-hand sides of a batch of these problems."""
        p, n = self._exists.shape
        order = np.argsort(batch.matrix, kind="stable")
        unit = exponent(np.abs(batch.b).max(1))[order].reshape(p, -1)
        b = times_power(batch.b[order].reshape(*unit.shape, -1), -unit[:, :, None])
        best = self._search(b)
        z = np.zeros((*unit.shape, n + 1))
        np.put_along_axis(z, best.columns, best.z, 2)
        z[:, :, n] = 0
        rest = b - z @ self._columns
        if self._non_negative:
            self._complete(best.columns, rest, b)
        z = times_power(z, unit[:, :, None] - self._exponent[:, None])[:, :, :n]
        residual = times_power(np.sqrt((rest**2).sum(2)), unit)
        back = np.argsort(order)
        supports = np.sort(best.columns, 2).reshape(len(back), -1)[back].tolist()
        return sparse_result(
            batch,
            z.reshape(len(back), n)[back],
            [tuple(j for j in support if j < n) for support in supports],
            residual.ravel()[back],
        )

    def _search(self, b: Array) -> _Best:
        """The best fits to b (p, k, m)."""
        p, k, m = b.shape
        best = _Best(
            distance=np.full((p, k), np.inf),
            columns=np.full((p, k, self._most), self._exists.shape[1]),
            z=np.zeros((p, k, self._most)),
        )
        margin = TIED * np.sqrt((b**2).sum(2))
        for supports in self._factorised() if self._kept is None else (self._kept,):
            step = max(1, CHUNK // (len(supports.problem) * m))
            for low in range(0, k, step):
                self._try(supports, b, margin, slice(low, min(low + step, k)), best)
        return best

    def _try(self, supports: _Supports, b: Array, margin: Array, some: slice, best: _Best) -> None:
        """Write to best what some supports do better, for some of the b."""
        problem, columns = supports.problem, supports.columns
        basis, triangle = supports.basis, supports.triangle
        start = np.flatnonzero(np.diff(problem, prepend=-1))
        length = np.diff(start, append=len(problem))
        right = b[:, some][problem]
        inner = np.einsum("csm,ckm->cks", basis, right)
        rest = right - np.einsum("cks,csm->ckm", inner, basis)
        distance = np.sqrt(np.einsum("ckm,ckm->ck", rest, rest))
        if self._non_negative:
            fit = np.einsum("cst,ckt->cks", triangle, inner)
            fit += (columns == self._exists.shape[1])[:, None]  # no column is as good as positive
            distance[(fit <= 0).any(2)] = np.inf
        # The first support within the margin of the best one.
        margin = margin[problem[start], some]
        nearest = np.minimum.reduceat(distance, start)
        near = distance <= (nearest + margin).repeat(length, 0)
        first = np.minimum.reduceat(np.where(near, np.arange(len(near))[:, None], len(near)), start)
        better = nearest < best.distance[problem[start], some] - margin
        segment, j = better.nonzero()
        first = first[segment, j]
        at = problem[first], j + some.start
        fit = np.einsum("cst,ct->cs", triangle[first], inner[first, j])
        # One step of refinement: the inverse of a triangle is less exact than solving with it.
        rest = b[at] - np.einsum("cs,csm->cm", fit, self._columns[at[0][:, None], columns[first]])
        inner = np.einsum("csm,cm->cs", basis[first], rest)
        fit += np.einsum("cst,ct->cs", triangle[first], inner)
        best.distance[at] = nearest[segment, j]
        best.columns[at] = columns[first]
        best.z[at] = np.maximum(fit, 0) if self._non_negative else fit

    def _complete(self, chosen: Array, rest: Array, b: Array) -> None:
        """Fill up chosen (p, k, s) to each problem's s; rest (p, k, m) is b - A z."""
        p, n = self._exists.shape
        c = (rest @ self._columns.transpose(0, 2, 1))[:, :, :n]
        length = np.sqrt((self._columns[:, :n] ** 2).sum(2))[:, None]
        c[np.abs(c) <= ROUNDING * length * np.sqrt((b**2).sum(2, keepdims=True))] = 0
        # In the caller's units, but for one factor.
        relative = self._exponent[:, :n] - self._exponent[:, :n].max(1, keepdims=True)
        c = times_power(c, relative[:, None])
        groups = np.arange(n) if self._groups is None else self._groups
        groups = np.where(self._exists, groups, n)
        groups = np.concatenate([groups, np.full((p, 1), n)], 1)[:, None]  # and of "no column"
        taken = np.zeros((*chosen.shape[:2], n + 1), dtype=bool)
        np.put_along_axis(taken, np.take_along_axis(groups, chosen, 2), True, 2)
        taken[:, :, n] = True
        while True:
            count = (chosen < n).sum(2)
            i, j = (count < self._sizes[:, None]).nonzero()
            if len(i) == 0:
                return
            free = ~np.take_along_axis(taken[i, j], groups[i, 0, :n], 1)
            column = np.where(free, c[i, j], -np.inf).argmax(1)
            chosen[i, j, count[i, j]] = column
            taken[i, j, groups[i, 0, column]] = True

    def _factorised(self) -> Iterator[_Supports]:
        """All supports, of problems that share them together; a problem once if all is kept."""
        m = self._columns.shape[2]
        for (width, s, own), same in self._alike.items():
            size = KEPT if self._keeps else max(1, CHUNK // (len(same) * self._most * m))
            for columns in _gathered(self._every(width, s, own, size), size):
                yield self._factorise(
                    np.repeat(same, len(columns)), np.tile(columns, (len(same), 1))
                )

    def _factorise(self, problem: Array, columns: Array) -> _Supports:
        """By modified Gram-Schmidt, with each direction orthogonalised twice.

        "Twice is enough" (Kahan and Parlett). For all supports at once.
        """
        n = self._exists.shape[1]
        a = self._columns[problem[:, None], columns]
        count, s, _ = a.shape
        basis = np.zeros_like(a)
        for k in range(s):
            direction = a[:, k]
            before = np.sqrt((direction**2).sum(1, keepdims=True))
            for i in (*range(k), *range(k)):
                q = basis[:, i]
                direction = direction - (q * direction).sum(1, keepdims=True) * q
            after = np.sqrt((direction**2).sum(1, keepdims=True))
            independent = after > DEPENDENT * before
            np.divide(direction, after, out=basis[:, k], where=independent)
        R = basis @ a.transpose(0, 2, 1)
        missing = ~basis.any(2)
        triangle = np.zeros((count, s, s))
        for j in range(s):
            triangle[:, j, j] = 1 / np.where(missing[:, j], 1, R[:, j, j])
            for i in reversed(range(j)):
                known = (R[:, i, i + 1 : j + 1] * triangle[:, i + 1 : j + 1, j]).sum(1)
                triangle[:, i, j] = -known * triangle[:, i, i]
        dependent = (missing & (columns < n)).any(1)
        if self._non_negative:
            keep = ~dependent
            return _Supports(problem[keep], columns[keep], basis[keep], triangle[keep])
        if dependent.any():
            # Least norm of the coefficients of columns of one length.
            length = np.sqrt((a[dependent] ** 2).sum(2))
            length[length == 0] = 1
            unit = R[dependent] / length[:, None]
            triangle[dependent] = np.linalg.pinv(unit, rcond=EPS * s) / length[:, :, None]
        return _Supports(problem, columns, basis, triangle)

    def _every(self, width: int, s: int, own: tuple[int, ...] | None, size: int) -> Iterator[Array]:
        """The supports to try in the order in which they are preferred, filled up with n."""
        n = self._exists.shape[1]
        for k in range(s + 1) if self._non_negative else (s,):
            every = _combinations(width, k, size)  # not yet worked out
            for chunk in every if own is None else admissible_supports(own, k, size):
                filler = np.full((len(chunk), self._most - k), n)
                yield np.concatenate([chunk, filler], 1)

    def _count(self, width: int, s: int, own: tuple[int, ...] | None) -> int:
        return sum(
            math.comb(width, k) if own is None else count_supports(own, k)
            for k in (range(s + 1) if self._non_negative else (s,))
        )


def _combinations(n: int, s: int, size: int) -> Iterator[Array]:
    """All supports in lexicographic order, (at most size, s) at a time."""
    every = combinations(range(n), s)
    while chunk := list(islice(every, size)):
        yield np.array(chunk, dtype=np.int64).reshape(len(chunk), s)


def _gathered(chunks: Iterator[Array], size: int) -> Iterator[Array]:
    """The same rows in fewer chunks, of at most size rows where the given ones are."""
    waiting: list[Array] = []
    for chunk in chunks:
        if waiting and sum(map(len, waiting)) + len(chunk) > size:
            yield np.concatenate(waiting)
            waiting = []
        waiting.append(chunk)
    yield np.concatenate(waiting)
