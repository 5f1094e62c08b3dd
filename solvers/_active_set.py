"""Exact answers on a known support, and how an approximate answer gives one."""

import numpy as np

from ._convert import Array
from ._problem import Problem, exact_residual

# Singular values below this fraction of the largest count as zero when a support is judged to be
# linearly dependent: above rounding, below what solving with refinement can deal with.
DEPENDENT = 1e-14


def solve_on_support(problem: Problem, sign: Array, *, refinements: int = 2) -> tuple[Array, Array]:
    """Minimise 1/2 ||A_S z - b||^2 + penalty_S'(sign z)_S over z supported on S = {sign != 0}.

    Solves [[I, A_S], [A_S', 0]] [r; z] = [b; (penalty sign)_S], whose solution has r = b - A_S z
    and A_S'r = (penalty sign)_S. The normal equations would square the condition number
    (Bjorck, "Numerical methods for least squares problems", 1996, section 2.5). Refinement with an
    exact residual makes z right to the last digits as long as the condition number is below 1e15
    or so (section 2.9.2 there).

    Parameters
    ----------
    problem : Problem
        A batch of p problems.
    sign : array of shape (p, n)
        -1, 0 or 1. Where the support is linearly dependent the least-norm answer is given.
    refinements : int

    Returns
    -------
    z : array of shape (p, n)
    r : array of shape (p, m)
        The residual, to its own last digits, where that of the rounded z has but some. It lies
        where the dual point has to lie if the support is right.
    """
    A, b = problem.A, problem.b
    p, m, n = A.shape
    active = sign != 0
    size = int(active.sum(1).max())
    columns = np.argsort(~active, axis=1, kind="stable")[:, :size]
    used = np.take_along_axis(active, columns, 1)
    sub = np.take_along_axis(A, columns[:, None, :], 2) * used[:, None, :]
    target = np.take_along_axis(
        np.multiply(problem.penalty, sign, out=np.zeros((p, n)), where=active), columns, 1
    )
    system = np.zeros((p, m + size, m + size))
    system[:, range(m), range(m)] = 1
    system[:, range(m, m + size), range(m, m + size)] = ~used  # unused slots give z = 0
    system[:, :m, m:] = sub
    system[:, m:, :m] = sub.transpose(0, 2, 1)
    right = np.concatenate([b, target], 1)
    solution = np.zeros_like(right)
    for k in range(1 + refinements):
        if k:
            r, z = solution[:, :m], solution[:, m:]
            right[:, :m] = exact_residual(sub, b, z)[0] - r
            right[:, m:] = exact_residual(sub.transpose(0, 2, 1), target, r)[0]
        solution += solve_each(system, right[:, :, None])[:, :, 0]
    r, z = solution[:, :m], solution[:, m:]
    answer = np.zeros((p, n))
    np.put_along_axis(answer, columns, z, 1)
    return answer, r


def solve_each(systems: Array, right: Array) -> Array:
    """Return the solutions of `numpy.linalg.solve` for a stack; the least-norm answer for singular members."""
    try:
        return np.linalg.solve(systems, right)
    except np.linalg.LinAlgError:  # raised for the whole stack, so find out which
        return np.stack([_solve(s, x) for s, x in zip(systems, right, strict=True)])


def finish(problem: Problem, z: Array, *, refinements: int = 2) -> tuple[Array, Array]:
    """Move z to the exact solution on its support and signs, or until a coefficient vanishes.

    The end point has no larger objective than z: the way leads to the minimiser of a convex
    function that agrees with the objective as long as the signs hold. It is the LASSO's solution
    if z has the right support and signs, which only the certificate can tell. A z with dependent
    columns is reduced to a basic one first. A z >= 0 stays so.

    Returns
    -------
    z : array of shape (p, n)
    theta : array of shape (p, m)
        The residual of the exact solution on the support: a dual point to try.
    """
    basic = np.stack([_basic(*each) for each in zip(problem.A, problem.weight, z, strict=True)])
    sign = np.sign(basic)
    exact, theta = solve_on_support(problem, sign, refinements=refinements)
    crossing = exact * sign < 0
    length = np.abs(basic) + np.abs(exact)
    share = np.divide(np.abs(basic), length, out=np.ones_like(basic), where=crossing)
    first = share.min(1, keepdims=True)
    moved = basic + first * (exact - basic)
    moved[crossing & (share <= first)] = 0
    return np.where(first < 1, moved, exact), theta


def _basic(A: Array, weight: Array, z: Array) -> Array:
    """Return a vector with the same A z, no larger penalty, and independent columns on its support.

    Along a null vector of A_S nothing changes but the penalty, so z can walk downhill until a
    coefficient vanishes, once for every null vector (Caratheodory's theorem for the l1 ball).
    """
    support = np.flatnonzero(z)
    if len(support) < 2:
        return z
    _, values, right = np.linalg.svd(A[:, support])
    null = right[(values > DEPENDENT * values[0]).sum() :].T
    if null.shape[1] == 0:
        return z
    kept = z[support]
    sign = np.sign(kept)
    slope = sign * weight[support]
    for i in range(null.shape[1]):
        step = null[:, i] * (1 if slope @ null[:, i] <= 0 else -1)
        falling = np.flatnonzero(sign * step < 0)
        if len(falling) == 0:  # only through rounding; then this direction changes nothing
            continue
        ratio = np.abs(kept[falling] / step[falling])
        first = falling[ratio.argmin()]
        kept = kept + ratio.min() * step
        kept[first] = 0
        # The other null vectors must leave the vanished coefficient alone.
        rest = null[:, i + 1 :]
        rest -= np.outer(step, rest[first] / step[first])
        rest[first] = 0  # exactly: rounding there would pick it again
        rest /= np.maximum(np.abs(rest).max(0), 1e-300)
    result = np.zeros_like(z)
    result[support] = np.where(kept * sign > 0, kept, 0)
    return result


def _solve(system: Array, right: Array) -> Array:
    try:
        return np.linalg.solve(system, right)
    except np.linalg.LinAlgError:
        return np.linalg.lstsq(system, right, rcond=None)[0]
