"""The front door to the LASSO: checks, scales, solves, certifies, answers."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ._active_set import finish
from ._continuation import continuation
from ._convert import Array, Tensors, read_lam, read_problems, read_vectors
from ._coordinate_descent import CoordinateDescent
from ._homotopy import follow
from ._problem import Problem, in_callers_units, relative_gap, times_power, zero_is_optimal
from ._proximal_gradient import ProximalGradient
from ._result import Knot, LassoResult

# Default `max_iter`. 960 of the method's problems, with b of every size up to 1 and Gaussian and
# uniform A, took at most 19 events, 980 ISTA or FISTA steps, 820 sweeps.
MAX_ITER = {
    "homotopy": 10_000,
    "ista": 20_000,
    "fista": 20_000,
    "coordinate_descent": 10_000,
}


def lasso(
    A: Tensors,
    b: Tensors,
    lam: float | Tensor | Sequence[float],
    *,
    method: str = "homotopy",
    tol: float = 1e-8,
    max_iter: int | None = None,
    z0: Tensors | None = None,
    non_negative: bool = False,
) -> LassoResult:
    """Minimise `1/2 ||A z - b||^2 + lam ||z||_1` over z, for one problem or a batch.

    Solved in float64 on the host, with columns and b at unit scale, and certified by the duality
    gap, computed so that rounding does not make it smaller: whatever the scale, either the answer
    is right to `tol`, or `converged` is False.

    Where `lam >= ||A'b||_inf` the answer is exactly zero. At `lam = 0` it is a least-squares
    solution, from "homotopy" the one of least l1 norm (the path's limit).

    With `non_negative` the minimum is over z >= 0, where ||z||_1 is the sum of z. The answer is
    then exactly zero where `lam >= max_j a_j'b`, and at `lam = 0` it is a non-negative
    least-squares solution.

    Parameters
    ----------
    A : Tensor of shape (..., m, n), or sequence of Tensors of shape (m_i, n_i)
        A sequence holds problems of different sizes, solved together.
    b : Tensor of shape (..., m), or sequence of Tensors of shape (..., m_i)
        The batch dimensions of A and b broadcast; in a sequence all b have the same ones.
    lam : float, or Tensor or sequence that broadcasts to the batch
    method : {"homotopy", "ista", "fista", "coordinate_descent"}
        "homotopy" follows the exact path; where that alone is not certified (very
        ill-conditioned columns), FISTA goes on from where it ended. The others iterate with lam
        lowered in stages, and solve exactly on the support whenever the signs have settled.
    tol : float
        Wanted duality gap relative to the objective, see `LassoResult.gap`. The residual of a
        float64 z shows 1e-14 (||b|| of 100 lam) to 1e-10 (||b|| of 1e5 lam) in the method's
        problems.
    max_iter : int, optional
        Limit for each problem on events along the path (10,000 by default), proximal steps
        (20,000) or sweeps (10,000).
    z0 : like z, optional
        A start, e.g. the last answer. Its support is tried first, exactly. With `non_negative`
        its negative entries count as zero.
    non_negative : bool
        Whether to minimise over z >= 0 only.

    Returns
    -------
    LassoResult
        In the dtype and on the device of the inputs. The certificate is of the float64 answer,
        before rounding to that dtype.

    Warns
    -----
    ConvergenceWarning
        If a gap is larger than `tol`; `converged` is False there.

    Raises
    ------
    TypeError
        If A, b or z0 hold something else than tensors or arrays, or lam is no number.
    ValueError
        If shapes do not fit, something is empty, NaN or infinite, `lam < 0`, `tol <= 0`,
        `max_iter < 1`, or the method is unknown.
    """
    if method not in MAX_ITER:
        raise ValueError(f"method must be one of {', '.join(MAX_ITER)}, got {method!r}")
    if not isinstance(tol, float | int) or not (0 < tol < math.inf):
        raise ValueError(f"tol must be a positive number, got {tol!r}")
    if max_iter is None:
        max_iter = MAX_ITER[method]
    elif isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter must be a positive integer, got {max_iter!r}")
    batch = read_problems(A, b)
    problem = Problem.scaled(batch.A, batch.b, read_lam(batch, lam), non_negative=non_negative)
    z = np.zeros((len(problem), problem.A.shape[2]))
    iterations = np.zeros(len(problem), dtype=np.int64)
    todo = ~zero_is_optimal(problem)
    if z0 is not None:
        start = problem.from_caller(read_vectors(batch, z0, "z0"))
        z = np.where((todo & problem.within_reach(start))[:, None], start, 0)
        if non_negative:
            z = np.maximum(z, 0)
        warm, theta = finish(problem, z)
        found = todo & (relative_gap(problem, warm, theta) <= tol)
        z[found] = warm[found]
        todo &= ~found
    if todo.any():
        z[todo], iterations[todo] = _solve(method, problem[todo], z[todo], tol, max_iter)
    z, gap = _polished(problem, z, tol, all_of_them=method != "homotopy")
    if method == "homotopy" and not (gap <= tol).all():
        rest = gap > tol
        limit = min(max_iter, MAX_ITER["fista"])
        better, more = _solve("fista", problem[rest], z[rest], tol, limit)
        better, better_gap = _polished(problem[rest], better, tol)
        z[rest] = np.where((better_gap < gap[rest])[:, None], better, z[rest])
        gap[rest] = np.minimum(better_gap, gap[rest])
        iterations[rest] += more
    # What a number cannot hold, in float64 or in the caller's dtype, is no answer.
    answer = problem.to_caller(z)
    rounded = problem.from_caller(answer)
    lost = (rounded != z).any(1) & problem.within_reach(rounded)
    if lost.any():
        gap[lost] = np.maximum(relative_gap(problem[lost], rounded[lost]), gap[lost])
    gap[~(np.abs(answer) <= torch.finfo(batch.dtype).max).all(1)] = np.inf
    converged = gap <= tol
    if not converged.all():
        from sklearn.exceptions import ConvergenceWarning  # a second, and hardly ever needed

        warnings.warn(
            f"{(~converged).sum()} of {len(gap)} problems did not converge in "
            f"max_iter = {max_iter} iterations of {method}: the worst relative duality gap is "
            f"{gap.max():.1e}, wanted tol = {tol:.1e}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return LassoResult(
        z=batch.vectors(answer),
        gap=batch.scalars(gap),
        iterations=batch.scalars(iterations),
        converged=batch.scalars(converged),
        method=method,
    )


def duality_gap(
    A: Tensors,
    b: Tensors,
    z: Tensors,
    lam: float | Tensor | Sequence[float],
    *,
    non_negative: bool = False,
) -> Tensor:
    """Duality gap of z divided by the objective P(z): an upper bound on (P(z) - P(best)) / P(z).

    The dual point is the scaled residual (at `lam = 0` the projected one), or 0 if that is better. The gap is 0 where
    the objective is 0. It is not divided by 1/2 ||b||^2: where lam is tiny so is P, and such a
    gap would certify anything.

    Parameters
    ----------
    A, b, lam
        As for `lasso`.
    z : Tensor of shape (..., n), or sequence of Tensors of shape (..., n_i)
    non_negative : bool
        Gap of the problem over z >= 0.

    Returns
    -------
    Tensor of shape (...)
        In [0, 1]; computed in float64, returned in the inputs' dtype.

    Raises
    ------
    TypeError, ValueError
        As for `lasso`; also if z has negative entries where it must not.
    """
    batch = read_problems(A, b)
    problem = Problem.scaled(batch.A, batch.b, read_lam(batch, lam), non_negative=non_negative)
    given = read_vectors(batch, z, "z")
    if non_negative and (given < 0).any():
        raise ValueError(f"z must be at least 0 with non_negative=True, got {given.min()}")
    scaled = problem.from_caller(given)
    usable = problem.within_reach(scaled)
    gap = relative_gap(problem, np.where(usable[:, None], scaled, 0))
    return batch.scalars(np.where(usable, gap, 1))


def lasso_path(
    A: Tensor, b: Tensor, *, lam_min: float = 0.0, non_negative: bool = False
) -> tuple[Knot, ...]:
    """Return the exact regularisation path of one problem: every solution for lam >= lam_min.

    Parameters
    ----------
    A : Tensor of shape (m, n)
    b : Tensor of shape (m,)
    lam_min : float
        Where the path ends.
    non_negative : bool
        The path of the problem over z >= 0; it begins at `max_j a_j'b`.

    Returns
    -------
    tuple of Knot
        By falling lam: the first is at `||A'b||_inf` with z = 0, the last at `lam_min`. The
        solution at any lam between two knots is the linear interpolation of their z; above the
        first it is zero. Where several changes fall together, knots of equal lam follow each
        other. If `lam_min` is above the whole path, there is only the knot `lam_min` with z = 0.

    Warns
    -----
    ConvergenceWarning
        If a knot's relative duality gap is above 1e-8 or the path could not be followed to its
        end, which only extremely ill-conditioned columns should bring about.

    Raises
    ------
    TypeError, ValueError
        As for `lasso`; also if A is a batch, or a number of the path is too large or too small
        for its dtype.
    """
    batch = read_problems(A, b)
    if batch.ragged or batch.shape != ():
        raise ValueError(f"lasso_path takes one problem, got a batch of shape {batch.shape}")
    try:
        lam = read_lam(batch, lam_min)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("lam", "lam_min", 1)) from None
    problem = Problem.scaled(batch.A, batch.b, lam, non_negative=non_negative)
    path = follow(problem, max_steps=MAX_ITER["homotopy"], record=True)
    levels = np.array([level for level, _ in path.knots])
    z = np.stack([z for _, z in path.knots])
    every = problem[np.zeros(len(z), dtype=int)].at(levels)
    z, gap = _polished(every, z, 1e-8, all_of_them=True)
    lams = times_power(levels, every.lam_exponent)
    if not (np.isfinite(lams) & ((lams > 0) | (levels == 0))).all():
        raise ValueError("the path's penalties are beyond numbers: bring A and b to another scale")
    answers = in_callers_units(z, every.exponent, batch.dtype)
    inexact = gap > 1e-8
    if not path.finished.all() or inexact.any():
        from sklearn.exceptions import ConvergenceWarning

        warnings.warn(
            f"{inexact.sum()} of {len(levels)} knots, down to lam = {lams[-1]:.1e} of the wanted "
            f"{lam[0]:.1e}, are not exact: the worst relative duality gap is {gap.max():.1e}, "
            "wanted 1.0e-08",
            ConvergenceWarning,
            stacklevel=2,
        )
    return tuple(
        Knot(
            lam=float(level),
            support=tuple(np.flatnonzero(row).tolist()),
            z=batch.vectors(row[None]),
        )
        for level, row in zip(lams, answers, strict=True)
    )


def _solve(
    method: str, problem: Problem, z: Array, tol: float, max_iter: int
) -> tuple[Array, Array]:
    """Solve scaled problems by one method, without judging the answer."""
    if method == "homotopy":
        path = follow(problem, max_steps=max_iter)
        return path.z, path.steps
    if method == "coordinate_descent":
        iteration = CoordinateDescent(problem, z)
    else:
        iteration = ProximalGradient(problem, z, accelerate=method == "fista")
    return continuation(iteration, problem, tol, max_iter)


def _polished(
    problem: Problem, z: Array, tol: float, *, all_of_them: bool = False
) -> tuple[Array, Array]:
    """Finish on its support what is not certified yet, or all, and take the better.

    Returns
    -------
    z : array of shape (p, n)
    gap : array of shape (p,)
    """
    gap = relative_gap(problem, z)
    rest = np.flatnonzero((gap > tol) | all_of_them)
    if len(rest):
        some = problem[rest]
        moved, theta = finish(some, z[rest])
        shown = relative_gap(some, moved)
        better = shown < gap[rest]
        z[rest[better]], gap[rest[better]] = moved[better], shown[better]
        # The residual of a rounded z is not always as good a dual point as theta.
        shown = relative_gap(some, z[rest], theta)
        better = (shown < gap[rest]) & (gap[rest] > tol) & (shown <= tol)
        gap[rest[better]] = shown[better]
    return z, gap
