"""The exact l0 answer: the best s columns of all, by trying every choice.

What depends on A alone is done once: the factors of every support, see `_factors`. For a b it then takes
a few products for all supports of all problems together.

With z >= 0, the best fit within s columns has positive coefficients on some T of at most s columns
and is the least-squares fit on them (Lawson and Hanson, "Solving least squares problems", 1974,
chapter 23); T can be taken independent (Caratheodory's theorem for cones). So all independent T of
0 to s columns are tried, and those whose least-squares coefficients are all positive count.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from ._factors import factorise, fit
from ._groups import admissible_supports, count_supports
from ._problem import exact_residual, exponent, in_callers_units, times_power
from ._result import SparseResult
from ._sparsest import sparse_result

MOST_SUPPORTS = 5_000_000  # a minute or so for s = 2..4
CHUNK = 1 << 20  # floats in one work array, 8 MiB: bounds the memory
KEPT = 1 << 23  # floats that a `BestSubset` keeps, 64 MiB; beyond, each call works them out again
TIED = 1e-13  # residuals closer than this fraction of ||b|| are equally good
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
    solution, measured with the columns brought to one length. A column within 1e-13 of its length
    of the span of the others counts as dependent.

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
        If A or b hold something else than tensors or arrays, or groups something else than ints.
    ValueError
        If shapes do not fit, something is empty, NaN or infinite, s is out of range, there are
        more than 5 million supports to try, or a coefficient is too large for the dtype or too
        small for a float64.
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
        """Return the best subset for each b.

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
    """Supports to try for p problems that share them, factorised.

    Attributes
    ----------
    problems : array of shape (p,)
        The places of these problems among all.
    columns : array of shape (c, s)
        Ascending; n where a support has fewer than s columns.
    basis : array of shape (p, c, s, m)
        Q', the rows orthonormal, or zero where there is no column or it adds nothing.
    triangle : array of shape (p, c, s, s)
        T, so that the coefficients are T Q'b.
    """

    problems: Array
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
    basis, triangle : arrays of shape (p, k, s, m), (p, k, s, s)
        Factors of these columns.
    """

    distance: Array
    columns: Array
    basis: Array
    triangle: Array


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
        # The group of each column, n for "no column", and what brings a column's a_j'r to the
        # caller's units, but for one factor.
        own_groups = np.arange(n) if groups is None else groups
        self._groups = np.full((p, 1, n + 1), n)
        self._groups[:, 0, :n] = np.where(self._exists, own_groups, n)
        self._relative = self._exponent[:, :n] - self._exponent[:, :n].max(1, keepdims=True)
        self._length = np.sqrt((self._columns[:, :n] ** 2).sum(2))
        floats = (counts[i] * len(same) * i[1] * (m + i[1]) for i, same in self._alike.items())
        self._keeps = sum(floats) <= KEPT
        self._kept: list[_Supports] | None = None

    def prepare(self) -> None:
        """Keep all factorisations, if they are not too large."""
        if self._keeps:
            self._kept = list(self._factorised())

    def answer(self, batch: Batch) -> SparseResult:
        """Return the best subsets for the right-hand sides of a batch of these problems."""
        p, n = self._exists.shape
        order = np.argsort(batch.matrix, kind="stable")
        unit = exponent(np.abs(batch.b).max(1))[order].reshape(p, -1)
        b = times_power(batch.b[order].reshape(*unit.shape, -1), -unit[:, :, None])
        best = self._search(b)
        z = self._fit(b, best)
        scale = unit[:, :, None] - self._exponent[:, None, :n]
        z = in_callers_units(z[:, :, :n], scale, batch.dtype)
        # Of z as it is returned, to the last digits.
        rest = self._rest(b, times_power(z, -scale))
        if self._non_negative:
            self._complete(best.columns, rest, b)
        distance = times_power(np.sqrt((rest**2).sum(2)), unit)
        back = np.argsort(order)
        supports = np.sort(best.columns, 2).reshape(len(back), -1)[back].tolist()
        return sparse_result(
            batch,
            z.reshape(len(back), n)[back],
            [tuple(j for j in support if j < n) for support in supports],
            distance.ravel()[back],
        )

    def _search(self, b: Array) -> _Best:
        """Return the best fits to b (p, k, m)."""
        p, k, m = b.shape
        s = int(self._sizes.max())
        best = _Best(
            distance=np.full((p, k), np.inf),
            columns=np.full((p, k, s), self._exists.shape[1]),
            basis=np.zeros((p, k, s, m)),
            triangle=np.zeros((p, k, s, s)),
        )
        margin = TIED * np.sqrt((b**2).sum(2))
        for supports in self._factorised() if self._kept is None else self._kept:
            step = max(1, CHUNK // (supports.basis[:, :, 0].size))
            for low in range(0, k, step):
                self._try(supports, b, margin, slice(low, min(low + step, k)), best)
        return best

    def _try(self, supports: _Supports, b: Array, margin: Array, some: slice, best: _Best) -> None:
        """Write to best what some supports do better, for some of the b."""
        problems, columns = supports.problems, supports.columns
        basis, triangle = supports.basis, supports.triangle
        p, c, s, m = basis.shape
        right = b[problems, some].transpose(0, 2, 1)  # (p, m, k)
        inner = (basis.reshape(p, c * s, m) @ right).reshape(p, c, s, -1)
        rest = right[:, None] - basis.transpose(0, 1, 3, 2) @ inner
        distance = np.sqrt(np.einsum("pcmk,pcmk->pck", rest, rest))
        if self._non_negative:
            z = triangle @ inner
            z += (columns == self._exists.shape[1])[:, :, None]  # as good as positive
            distance[(z <= 0).any(2)] = np.inf
        # The first support within the margin of the best one.
        margin = margin[problems, some]
        nearest = distance.min(1)
        first = (distance <= (nearest + margin)[:, None]).argmax(1)
        better = nearest < best.distance[problems, some] - margin
        i, j = better.nonzero()
        first = first[i, j]
        at = problems[i], j + some.start
        best.distance[at] = nearest[i, j]
        at = (*at, slice(s))
        best.columns[at] = columns[first]
        best.basis[at] = basis[i, first]
        best.triangle[(*at, slice(s))] = triangle[i, first]

    def _fit(self, b: Array, best: _Best) -> Array:
        """Return the coefficients (p, k, n + 1) of the best fits."""
        p, k, s = best.columns.shape
        a = np.take_along_axis(self._columns[:, None], best.columns[:, :, :, None], 2)
        flat = (x.reshape(p * k, *x.shape[2:]) for x in (a, b, best.basis, best.triangle))
        coefficients = fit(*flat).reshape(p, k, s)
        if self._non_negative:
            coefficients = np.maximum(coefficients, 0)
        z = np.zeros((p, k, self._columns.shape[1]))
        np.put_along_axis(z, best.columns, coefficients, 2)
        return z

    def _rest(self, b: Array, z: Array) -> Array:
        """Return the residual b - A z (p, k, m) for b (p, k, m) and z (p, k, n)."""
        A = self._columns[:, :-1].transpose(0, 2, 1)
        rest, _ = exact_residual(A, b.transpose(0, 2, 1), z.transpose(0, 2, 1))
        return rest.transpose(0, 2, 1)

    def _complete(self, chosen: Array, rest: Array, b: Array) -> None:
        """Fill up chosen (p, k, s) to each problem's s; rest (p, k, m) is b - A z."""
        n = self._exists.shape[1]
        count = (chosen < n).sum(2)
        short = count < self._sizes[:, None]
        if not short.any():
            return
        c = rest @ self._columns[:, :n].transpose(0, 2, 1)
        rounding = ROUNDING * np.sqrt((b**2).sum(2))[:, :, None] * self._length[:, None]
        c = times_power(np.where(np.abs(c) > rounding, c, 0), self._relative[:, None])
        taken = np.zeros((*chosen.shape[:2], n + 1), dtype=bool)
        np.put_along_axis(taken, np.take_along_axis(self._groups, chosen, 2), True, 2)
        taken[:, :, n] = True
        while short.any():
            i, j = short.nonzero()
            own = self._groups[i, 0]
            free = ~np.take_along_axis(taken[i, j], own[:, :n], 1)
            column = np.where(free, c[i, j], -np.inf).argmax(1)
            chosen[i, j, count[i, j]] = column
            taken[i, j, own[np.arange(len(i)), column]] = True
            count[i, j] += 1
            short = count < self._sizes[:, None]

    def _factorised(self) -> Iterator[_Supports]:
        """Return all supports; those of a problem together, if all are to be kept."""
        m = self._columns.shape[2]
        for (width, s, own), same in self._alike.items():
            size = KEPT if self._keeps else max(1, CHUNK // (len(same) * s * m))
            for columns in _gathered(self._every(width, s, own, size), size):
                yield self._factorise(np.array(same), columns)

    def _factorise(self, problems: Array, columns: Array) -> _Supports:
        a = self._columns[problems][:, columns]
        p, c, s, m = a.shape
        # Over z >= 0 dependent supports are not wanted: their zero coefficient rules them out.
        basis, triangle = factorise(a.reshape(p * c, s, m), least_norm=not self._non_negative)
        shape = (p, c, s)
        return _Supports(problems, columns, basis.reshape(*shape, m), triangle.reshape(*shape, s))

    def _every(self, width: int, s: int, own: tuple[int, ...] | None, size: int) -> Iterator[Array]:
        """Return the supports to try in the order in which they are preferred, filled up with n."""
        n = self._exists.shape[1]
        for k in range(s + 1) if self._non_negative else (s,):
            every = _combinations(width, k, size)  # not yet worked out
            for chunk in every if own is None else admissible_supports(own, k, size):
                yield np.concatenate([chunk, np.full((len(chunk), s - k), n)], 1)

    def _count(self, width: int, s: int, own: tuple[int, ...] | None) -> int:
        return sum(
            math.comb(width, k) if own is None else count_supports(own, k)
            for k in (range(s + 1) if self._non_negative else (s,))
        )


def _combinations(n: int, s: int, size: int) -> Iterator[Array]:
    """Return all supports in lexicographic order, (at most size, s) at a time."""
    every = combinations(range(n), s)
    while chunk := list(islice(every, size)):
        yield np.array(chunk, dtype=np.int64).reshape(len(chunk), s)


def _gathered(chunks: Iterator[Array], size: int) -> Iterator[Array]:
    """Return the same rows in fewer chunks, of at most size rows where the given ones are."""
    waiting: list[Array] = []
    for chunk in chunks:
        if waiting and sum(map(len, waiting)) + len(chunk) > size:
            yield np.concatenate(waiting)
            waiting = []
        waiting.append(chunk)
    yield np.concatenate(waiting)
