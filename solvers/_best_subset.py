"""The exact l0 answer: the best s columns of all, by trying every choice."""

import math
from collections.abc import Iterator
from itertools import combinations, islice

import numpy as np

from ._convert import Array, Groups, Tensors, check_size, read_groups, read_problems
from ._groups import admissible_supports, count_supports
from ._problem import Problem
from ._result import SparseResult
from ._sparsest import sparse_result

MOST_SUPPORTS = 5_000_000  # a minute or so for s = 2..4
CHUNK = 1 << 20  # floats in one work array, 8 MiB: bounds the memory
# Distance from the span of earlier columns, as a fraction of the column's norm, below which the
# column adds nothing; and residuals closer than this fraction of ||b|| are tied.
DEPENDENT = 1e-10
TIED = 1e-13


def best_subset(A: Tensors, b: Tensors, s: int, *, groups: Groups | None = None) -> SparseResult:
    """Minimise ||A z - b|| over all z with at most s non-zeros, exactly.

    Tries all n-choose-s supports (595 for n = 35, s = 2); with `groups` only those with at most
    one column of each group (490 for five groups of seven). Equally good supports are decided by
    the lowest indices (lexicographic order). On linearly dependent columns z is the least-norm
    solution.

    Parameters
    ----------
    A : Tensor of shape (..., m, n), or sequence of Tensors of shape (m_i, n_i)
    b : Tensor of shape (..., m), or sequence of Tensors of shape (m_i,)
    s : int
        Columns to choose, 1 <= s <= n, or at most the number of groups.
    groups : sequence of int of length n, or sequence of such of lengths n_i, optional
        The group of each column, any numbers; a batch given as a tensor shares one sequence.
        No two columns of a group are chosen together.

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
    check_size(batch, s, labels)
    # Problems with the same supports to try are searched together.
    alike: dict[tuple[int, tuple[int, ...] | None], list[int]] = {}
    for i, n in enumerate(batch.columns):
        grouped = None if labels is None else tuple(labels[i, :n].tolist())
        alike.setdefault((n, grouped), []).append(i)
    supports, n, grouped = max(
        ((_count(n, grouped, s), n, grouped) for n, grouped in alike), key=lambda each: each[0]
    )
    if supports > MOST_SUPPORTS:
        within = "" if grouped is None else f" in {max(grouped) + 1} groups"
        raise ValueError(
            f"s = {s} of n = {n} columns{within} gives {supports:,} supports; "
            f"best_subset tries at most {MOST_SUPPORTS:,}"
        )
    problem = Problem.scaled(batch.A, batch.b, np.zeros(len(batch.A)))
    z = np.zeros((len(batch.A), batch.A.shape[2]))
    chosen: list[tuple[int, ...]] = [()] * len(z)
    for (n, grouped), same in alike.items():
        best = _search(problem.A[same, :, :n], problem.b[same], s, grouped)
        for i, support in zip(same, best, strict=True):
            fit = np.linalg.lstsq(problem.A[i][:, support], problem.b[i], rcond=DEPENDENT)[0]
            z[i, support] = fit * problem.unit[i]
            chosen[i] = tuple(support.tolist())
    return sparse_result(batch, z, chosen)


def _count(n: int, groups: tuple[int, ...] | None, s: int) -> int:
    return math.comb(n, s) if groups is None else count_supports(groups, s)


def _search(A: Array, b: Array, s: int, groups: tuple[int, ...] | None) -> Array:
    """The best support of each problem, (p, s)."""
    p, m, n = A.shape
    columns = A.transpose(0, 2, 1).copy()
    margin = TIED * np.linalg.norm(b, axis=1)
    best = np.zeros((p, s), dtype=np.int64)
    least = np.full(p, np.inf)
    size = max(1, CHUNK // (p * m))
    every = _chunks(n, s, size) if groups is None else admissible_supports(groups, s, size)
    for supports in every:
        distance = _distance(columns, b, supports)
        # The first support within the margin of the best one.
        nearest = distance.min(1, keepdims=True)
        first = (distance <= nearest + margin[:, None]).argmax(1)
        better = nearest[:, 0] < least - margin
        best[better] = supports[first[better]]
        least[better] = nearest[better, 0]
    return best


def _distance(columns: Array, b: Array, supports: Array) -> Array:
    """||b - A_S z_S|| at the best z_S for each problem and support, (p, c).

    By modified Gram-Schmidt, with each direction orthogonalised twice ("twice is enough", Kahan
    and Parlett), for all supports at once.
    """
    rest = np.repeat(b[:, None, :], len(supports), axis=1)
    basis: list[Array] = []
    for k in range(supports.shape[1]):
        direction = columns[:, supports[:, k]]
        before = np.sqrt((direction**2).sum(2, keepdims=True))
        for _ in range(2):
            for q in basis:
                direction = direction - (q * direction).sum(2, keepdims=True) * q
        after = np.sqrt((direction**2).sum(2, keepdims=True))
        independent = after > DEPENDENT * before
        q = np.divide(direction, after, out=np.zeros_like(direction), where=independent)
        rest -= (q * rest).sum(2, keepdims=True) * q
        basis.append(q)
    return np.sqrt((rest**2).sum(2))


def _chunks(n: int, s: int, size: int) -> Iterator[Array]:
    """All supports in lexicographic order, (at most size, s) at a time."""
    every = combinations(range(n), s)
    while chunk := list(islice(every, size)):
        yield np.array(chunk)
