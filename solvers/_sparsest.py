"""Exactly s non-zeros: the point on the LASSO's path that has them, refitted."""

from dataclasses import replace

import numpy as np

from ._active_set import solve_on_support
from ._convert import (
    Array,
    Batch,
    Groups,
    Sizes,
    Tensors,
    read_groups,
    read_problems,
    read_sizes,
)
from ._factors import factorise, fit
from ._groups import first_largest
from ._homotopy import follow
from ._lasso import MAX_ITER
from ._problem import Problem, exact_residual, in_callers_units, times_power
from ._result import SparseResult

# At unit scale: coefficients closer than this fraction of the largest, or of 1, are tied. What
# falls together on the path is zero there, up to rounding.
TIED = 1e-12


def sparsest(
    A: Tensors,
    b: Tensors,
    s: Sizes,
    *,
    groups: Groups | None = None,
    non_negative: bool = False,
) -> SparseResult:
    """Least squares on the support of the regularisation path's first point with s non-zeros.

    Going down from lam_max the path gains or loses one column at a time, so it has such a point
    if it ever has s non-zeros or more. If it never has (b lies in the span of fewer columns, or
    s exceeds the rank of A), the first of its largest supports is taken; for b = 0 that is the
    empty one, and z = 0.

    With `groups`, the first point whose non-zeros touch s groups: where a column of the s-th
    group joins. Of each group's non-zeros the one of largest magnitude there is kept (of equal
    ones the lowest index), and the kept ones are refitted. The path can end without touching s
    groups, even if s columns join: where fewer groups explain b, or s exceeds the rank of A. Then
    the first of the points that touch most groups is taken, and the support has fewer than s
    columns.

    With `non_negative` the path is that of the problem over z >= 0, which ends sooner: at the
    non-negative least-squares solution. The refit is non-negative too, so coefficients on the
    support can be zero.

    Parameters
    ----------
    A : Tensor of shape (..., m, n), or sequence of Tensors of shape (m_i, n_i)
    b : Tensor of shape (..., m), or sequence of Tensors of shape (..., m_i)
    s : int, or sequence of int for a sequence of problems
        Wanted non-zeros, 1 <= s <= n, or at most the number of groups.
    groups : sequence of int of length n, or sequence of such of lengths n_i, optional
        The group of each column, any numbers; a batch given as a tensor shares one sequence.
        At most one column of a group is kept.
    non_negative : bool
        Whether to allow z >= 0 only.

    Returns
    -------
    SparseResult

    Raises
    ------
    TypeError
        If A or b hold something else than tensors or arrays, or groups something else than ints.
    ValueError
        If shapes do not fit, something is empty, NaN or infinite, s is out of range, or a
        coefficient is too large for the dtype or too small for a float64.
    """
    batch = read_problems(A, b)
    labels = read_groups(batch, groups)
    size = read_sizes(batch, s, labels)
    problem = Problem.scaled(batch.A, batch.b, np.zeros(len(batch.A)), non_negative=non_negative)
    path = follow(problem, max_steps=MAX_ITER["homotopy"], size=size, groups=labels)
    sign = path.largest
    if labels is not None:
        sign = sign * _kept(problem, path.began, sign, labels)
    z = _fit(problem, sign)
    if non_negative and (z < 0).any():
        chosen = replace(
            problem, A=problem.A * (sign != 0)[:, None], weight=np.ones_like(problem.weight)
        )
        positive = follow(chosen, max_steps=MAX_ITER["homotopy"]).z
        z = np.maximum(_fit(problem, np.where((z < 0).any(1, keepdims=True), positive, sign)), 0)
    supports = [tuple(np.flatnonzero(row).tolist()) for row in sign]
    answer = in_callers_units(z, problem.exponent, batch.dtype)
    rest, _ = exact_residual(problem.A, problem.b, problem.from_caller(answer))
    distance = times_power(np.sqrt((rest**2).sum(1)), problem.b_exponent)
    return sparse_result(batch, answer, supports, distance)


def _fit(problem: Problem, sign: Array) -> Array:
    """Return the least-squares coefficients on the columns where sign (p, n) is not zero, (p, n)."""
    active = sign != 0
    columns = np.argsort(~active, axis=1, kind="stable")[:, : int(active.sum(1).max())]
    a = np.take_along_axis(problem.A, columns[:, None], 2).transpose(0, 2, 1)
    a = a * np.take_along_axis(active, columns, 1)[:, :, None]
    z = np.zeros(active.shape)
    np.put_along_axis(z, columns, fit(a, problem.b, *factorise(a, least_norm=True)), 1)
    return z


def _kept(problem: Problem, lam: Array, sign: Array, groups: Array) -> Array:
    """Return which of the path's non-zeros at lam stand for their groups, (p, n)."""
    lam = np.where(np.isfinite(lam), lam, 0)  # infinite where nothing ever joined
    z, _ = solve_on_support(problem.at(lam), sign)
    size = np.abs(z) * problem.weight  # in the caller's units, but for one factor
    margin = TIED * np.maximum(size.max(1, keepdims=True), 1)
    return first_largest(np.where(sign != 0, size, -1), groups, margin)


def sparse_result(
    batch: Batch, z: Array, supports: list[tuple[int, ...]], distance: Array
) -> SparseResult:
    """Return the answer in the caller's form."""
    return SparseResult(
        z=batch.vectors(z),
        support=batch.per_problem(supports),
        residual=batch.scalars(distance),
    )
