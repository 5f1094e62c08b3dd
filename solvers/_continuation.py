"""Parts that make the iterative methods usable here: continuation, finishing and a certificate.

The iterations needed grow with ||b|| / lam, to millions at the method's lam. So lam is lowered
in stages, each starting from the last one's answer (Hale, Yin and Zhang, "Fixed-point
continuation for l1-minimization", 2008). Whenever the signs of an iterate have settled, it moves
towards the exact solution on its support as far as the signs hold, if that lowers the objective
(Wen, Yin, Goldfarb and Zhang, "A fast algorithm for sparse reconstruction based on shrinkage,
subspace optimization, and continuation", 2010). The iteration then only has to find out which
columns belong to the support. An answer counts only if the duality gap certifies it.
"""

from typing import Protocol

import numpy as np

from ._active_set import finish
from ._convert import Array
from ._problem import Problem, largest_correlation, objective, relative_gap, residual

# Measured on the method's problems: with 0.1 FISTA takes half the iterations of 0.5, and with
# 0.03 the slowest problem takes longer again. Stages solved better than to 10% gain nothing.
RATIO = 0.1  # of one stage's lam to the last one's
STAGE_GAP = 0.1  # relative gap that ends a stage before the last
CHECK = 20  # iterations between two looks at the gap, which costs about as much as ten of them
FLOOR = 1e-10  # below this fraction of the first lam, the next stage is lam itself


class Iteration(Protocol):
    """An iterative method on a batch of problems; it owns its iterate and its momentum."""

    z: Array

    def advance(self, penalty: Array, steps: int) -> None:
        """Take some steps towards the minimiser for penalties (p, n)."""

    def restart(self, where: Array, z: Array) -> None:
        """Go on from z (p, n) in the problems marked by `where` (p,)."""

    def keep(self, where: Array) -> None:
        """Forget all other problems."""


def continuation(
    iteration: Iteration, problem: Problem, tol: float, max_iter: int
) -> tuple[Array, Array]:
    """Run an iterative method, from the iterate it holds, to a relative gap of tol.

    Returns
    -------
    z : array of shape (p, n)
    iterations : array of shape (p,)
        Over all stages.
    """
    answer = np.zeros_like(iteration.z)
    iterations = np.full(len(problem), max_iter)
    place = np.arange(len(problem))
    # The lam that the start is about right for: lam_max when it is zero.
    first = largest_correlation(problem, residual(problem.A, problem.b, iteration.z))
    level = np.maximum(problem.lam, RATIO * first)
    signs = np.zeros_like(answer)
    spent = 0
    while spent < max_iter:
        stage = problem.at(level)
        steps = min(CHECK, max_iter - spent)
        iteration.advance(stage.penalty, steps)
        spent += steps
        last = level <= problem.lam
        z = iteration.z
        good = relative_gap(stage, z, exact=False) <= np.where(last, tol, STAGE_GAP)
        old, signs = signs, np.sign(z)
        settled = (signs == old).all(1) & ~(good & last)
        if settled.any():
            some = stage[settled]
            moved, theta = finish(some, z[settled], refinements=0)
            better = objective(some, moved) < objective(some, z[settled])
            moved = np.where(better[:, None], moved, z[settled])
            good[settled] |= relative_gap(some, moved, theta) <= tol
            where = settled.copy()
            where[settled] = better
            start = z.copy()
            start[settled] = moved
            iteration.restart(where, start)
            signs = np.sign(start)
        done = good & last
        if done.any():
            answer[place[done]] = iteration.z[done]
            iterations[place[done]] = spent
            keep = ~done
            iteration.keep(keep)
            problem, level, first = problem[keep], level[keep], first[keep]
            place, signs, good = place[keep], signs[keep], good[keep]
            if len(place) == 0:
                return answer, iterations
        lower = np.where(
            level <= FLOOR * first, problem.lam, np.maximum(problem.lam, RATIO * level)
        )
        level = np.where(good, lower, level)
    answer[place] = iteration.z
    return answer, iterations
