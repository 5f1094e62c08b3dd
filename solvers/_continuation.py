"""What makes the iterative methods usable here: continuation, finishing and a certificate.

The iterations needed grow with ||b|| / lam, to millions at the method's lam. So lam is lowered
in stages, each starting from the last one's answer (Hale, Yin and Zhang, "Fixed-point
continuation for l1-minimization", 2008). Once the signs of an iterate have settled, the problem
is solved exactly on its support; the answer counts only if the duality gap certifies it.
"""

from typing import Protocol

import numpy as np

from ._active_set import finish
from ._convert import Array
from ._problem import correlations, relative_gap, residual

# Measured on the method's problems (Gaussian and uniform, ||b|| of 1e-3 and 1): a ratio of 0.25
# takes a third fewer FISTA iterations than 0.5; stages left at a gap of 1e-2 leave one problem in
# 200 stuck on a wrong support, tighter ones than 1e-3 gain nothing.
RATIO = 0.25  # of one stage's lam to the last one's
STAGE_GAP = 1e-3  # relative gap that ends a stage before the last
CHECK = 20  # iterations between two looks at the gap, which costs about as much as ten of them
FLOOR = 1e-10  # below this fraction of the first lam, the next stage is lam itself


class Iteration(Protocol):
    """An iterative method on a batch of problems; it owns its iterate and its momentum."""

    z: Array

    def advance(self, lam: Array, steps: int) -> None:
        """Take some steps towards the minimiser for lam (p,)."""

    def restart(self, where: Array, z: Array) -> None:
        """Go on from z (p, n) in the problems marked by `where` (p,)."""

    def keep(self, where: Array) -> None:
        """Forget all other problems."""


def continuation(
    iteration: Iteration, A: Array, b: Array, lam: Array, tol: float, max_iter: int
) -> tuple[Array, Array]:
    """Run an iterative method, from the iterate it holds, to a relative gap of tol.

    Returns
    -------
    z : array of shape (p, n)
    iterations : array of shape (p,)
        Over all stages.
    """
    answer = np.zeros_like(iteration.z)
    iterations = np.full(len(A), max_iter)
    problem = np.arange(len(A))
    # The lam that the start is about right for: lam_max when it is zero.
    first = np.abs(correlations(A, residual(A, b, iteration.z))).max(1)
    level = np.maximum(lam, RATIO * first)
    signs = np.zeros_like(answer)
    tried = np.full_like(answer, np.nan)
    spent = 0
    while spent < max_iter:
        steps = min(CHECK, max_iter - spent)
        iteration.advance(level, steps)
        spent += steps
        last = level <= lam
        z = iteration.z
        good = relative_gap(A, b, level, z) <= np.where(last, tol, STAGE_GAP)
        old, signs = signs, np.sign(z)
        settled = (signs == old).all(1) & (signs != tried).any(1) & ~(good & last)
        if settled.any():
            tried[settled] = signs[settled]
            exact = z.copy()
            some = A[settled], b[settled], level[settled]
            exact[settled] = finish(*some, z[settled])
            solved = np.zeros_like(settled)
            solved[settled] = relative_gap(*some, exact[settled]) <= tol
            if solved.any():
                iteration.restart(solved, exact)
                good |= solved
        done = good & last
        if done.any():
            answer[problem[done]] = iteration.z[done]
            iterations[problem[done]] = spent
            keep = ~done
            iteration.keep(keep)
            A, b, lam, level, first = A[keep], b[keep], lam[keep], level[keep], first[keep]
            problem, signs, tried, good = problem[keep], signs[keep], tried[keep], good[keep]
            if len(problem) == 0:
                return answer, iterations
        lower = np.where(level <= FLOOR * first, lam, np.maximum(lam, RATIO * level))
        level = np.where(good, lower, level)
        tried[good] = np.nan
    answer[problem] = iteration.z
    return answer, iterations
