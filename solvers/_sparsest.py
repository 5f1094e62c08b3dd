"""Exactly s non-zeros: the point on the LASSO's path that has them, refitted."""

import numpy as np

from ._active_set import solve_on_support
from ._convert import Batch, Tensors, check_size, read_problems
from ._homotopy import follow
from ._lasso import MAX_ITER
from ._problem import Problem, residual
from ._result import SparseResult


def sparsest(A: Tensors, b: Tensors, s: int) -> SparseResult:
    """Least squares on the support of the regularisation path's first point with s non-zeros.

    Going down from lam_max the path gains or loses one column at a time, so it has such a point
    if it ever has s non-zeros or more. If it never has (b lies in the span of fewer columns, or s exceeds the rank of A), the first
    of its largest supports is taken; for b = 0 that is the empty one, and z = 0.

    Parameters
    ----------
    A : Tensor of shape (..., m, n), or sequence of Tensors of shape (m_i, n_i)
    b : Tensor of shape (..., m), or sequence of Tensors of shape (m_i,)
    s : int
        Wanted non-zeros, 1 <= s <= n.

    Returns
    -------
    SparseResult

    Raises
    ------
    TypeError
        If A or b hold something else than tensors.
    ValueError
        If shapes do not fit, something is empty, NaN or infinite, or s is out of range.
    """
    batch = read_problems(A, b)
    check_size(batch, s)
    problem = Problem.scaled(batch.A, batch.b, np.zeros(len(batch.A)))
    path = follow(problem.A, problem.b, problem.lam, max_steps=MAX_ITER["homotopy"], size=s)
    z = solve_on_support(problem.A, problem.b, problem.lam, path.largest)
    supports = [tuple(np.flatnonzero(sign).tolist()) for sign in path.largest]
    return sparse_result(batch, z * problem.unit[:, None], supports)


def sparse_result(batch: Batch, z: np.ndarray, supports: list[tuple[int, ...]]) -> SparseResult:
    """The answer in the caller's form."""
    return SparseResult(
        z=batch.vectors(z),
        support=batch.per_problem(supports),
        residual=batch.scalars(np.linalg.norm(residual(batch.A, batch.b, z), axis=1)),
    )
