"""The exact regularisation path of the LASSO, for a batch of problems in lock-step.

Osborne, Presnell and Turlach, "A new approach to variable selection in least squares problems"
(2000); Efron, Hastie, Johnstone and Tibshirani, "Least angle regression" (2004).

With active columns S and signs s, the solution z and the residual r are linear in lam:

    [[I, A_S], [A_S', 0]] [r; z] = [b; lam s].

Going down from lam = infinity, the active set changes where a column's correlation |a_j'r|
reaches lam (it joins) or an active coefficient reaches zero (it leaves).
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ._active_set import solve_each
from ._convert import Array
from ._problem import correlations

# Each column's penalty is lam times a weight within this of 1, while events are looked for; z is
# computed without. So no two events fall together (repeated columns, integer matrices), where
# the path could run in circles. Weights rise with the index: the first of equal columns wins.
TIE = 1e-10
# A correlation below this fraction of ||a_j|| ||b|| is rounding: the column lies in the span of
# the active ones, or the residual is zero. Such a column stays within its bound and never joins.
ROUNDING = 1e-13


@dataclass
class Path:
    """What `follow` found, for a batch of p problems.

    Attributes
    ----------
    z : array of shape (p, n)
        The solution at lam, or at the lowest point that was reached.
    steps : array of shape (p,)
        Events met on the way.
    finished : array of shape (p,)
        Whether lam (or `size`) was reached within the steps allowed.
    largest : array of shape (p, n)
        With `size`: signs of the first active set that has the most columns.
    knots : list of (lam, z)
        Of the first problem, if recorded.
    """

    z: Array
    steps: Array
    finished: Array
    largest: Array
    knots: list[tuple[float, Array]] = field(default_factory=list)


def follow(
    A: Array,
    b: Array,
    lam: Array,
    *,
    max_steps: int,
    size: int | None = None,
    record: bool = False,
) -> Path:
    """Follow the path from its start down to lam.

    Parameters
    ----------
    A, b, lam : arrays of shape (p, m, n), (p, m), (p,)
        At unit scale.
    max_steps : int
        Events per problem after which to give up; `z` is then the solution at a larger lam.
    size : int, optional
        Stop as soon as the active set has this many columns.
    record : bool
        Keep the knots of the first problem.
    """
    p, m, n = A.shape
    norm_b = np.sqrt((b * b).sum(1, keepdims=True))
    if m > n:  # b's part outside the range of A plays no role on the path
        q, A = np.linalg.qr(A)
        b = correlations(q, b)
        m = n
    slots = min(m, n)
    weight = _weights(n)
    rounding = ROUNDING * norm_b * np.sqrt((A * A).sum(1))
    floor = rounding.max(1)  # events below are rounding too: the path is at its end
    path = Path(
        z=np.zeros((p, n)),
        steps=np.zeros(p, dtype=np.int64),
        finished=np.ones(p, dtype=bool),
        largest=np.zeros((p, n)),
    )
    most = np.zeros(p, dtype=np.int64)

    # Every problem has `slots` places for active columns. A free place holds column n (none)
    # and a one on the diagonal, so that all systems have the same size.
    system = np.zeros((p, m + slots, m + slots))
    diagonal = np.arange(m + slots)
    system[:, diagonal, diagonal] = 1
    right = np.zeros((p, m + slots, 3))  # b; weighted signs; signs
    right[:, :m, 0] = b
    column = np.full((p, slots), n)
    outside = np.ones((p, n), dtype=bool)
    level = np.full(p, np.inf)
    target = lam.copy()
    rows = A.transpose(0, 2, 1).copy()
    problem = np.arange(p)  # the problem that each line of the arrays belongs to

    for step in range(max_steps + 1):
        here = np.arange(len(problem))
        solution = solve_each(system, right)
        c = rows @ solution[:, :m]
        c0, side = c[:, :, 0], np.sign(c[:, :, 0])
        # a_j'r = c0 + lam c1 can only meet the bound on c0's side: elsewhere its distance from
        # the bound, lam (w -+ c1) + |c0|, does not fall to zero with lam.
        distance = weight - side * c[:, :, 1]
        joins = outside & (np.abs(c0) > rounding) & (distance > 0)
        joins[(column < n).all(1)] = False  # the active columns span everything
        events = np.zeros((len(problem), n + slots))
        np.divide(np.abs(c0), distance, out=events[:, :n], where=joins)
        # z = z0 + lam z1 reaches zero only where z0 has the wrong sign.
        z0, z1 = solution[:, m:, 0], solution[:, m:, 1]
        leaves = (z0 * right[:, m:, 1] < 0) & (z1 != 0)
        np.divide(np.abs(z0), np.abs(z1), out=events[:, n:], where=leaves)
        events[events < floor[:, None]] = 0
        event = events.argmax(1)
        level = np.minimum(events[here, event], level)

        if record and problem[0] == 0:
            if event[0] < n:
                true = np.abs(c0[0, event[0]]), 1 - (side * c[:, :, 2])[0, event[0]]
            else:
                true = np.abs(solution[0, m + event[0] - n, ::2])
            previous = path.knots[-1][0] if path.knots else np.inf
            at = target[0] if level[0] <= target[0] else min(true[0] / true[1], previous)
            z = _signed(solution[:1], right[:1], m, np.array([at]))
            path.knots.append((float(at), _scattered(z, column[:1], n)[0]))

        done = level <= target
        if step == max_steps:
            path.finished[problem[~done]] = False
            target = np.where(done, target, level)
            done[:] = True
        if done.any():
            path.steps[problem[done]] = step
            if size is None:
                z = _signed(solution[done], right[done], m, target[done])
                path.z[problem[done]] = _scattered(z, column[done], n)
            keep = ~done
            if not keep.any():
                break
            system, right, column, outside = system[keep], right[keep], column[keep], outside[keep]
            level, target, problem, rows = level[keep], target[keep], problem[keep], rows[keep]
            rounding, floor, event, side = rounding[keep], floor[keep], event[keep], side[keep]
            here = np.arange(len(problem))

        joining = event < n
        i, j = here[joining], event[joining]
        if len(i):
            place = (column[i] == n).argmax(1)
            new = rows[i, j]
            system[i, :m, m + place] = new
            system[i, m + place, :m] = new
            system[i, m + place, m + place] = 0
            right[i, m + place, 1] = side[i, j] * weight[j]
            right[i, m + place, 2] = side[i, j]
            column[i, place] = j
            outside[i, j] = False
        i, place = here[~joining], event[~joining] - n
        if len(i):
            system[i, :m, m + place] = 0
            system[i, m + place, :m] = 0
            system[i, m + place, m + place] = 1
            right[i, m + place, 1:] = 0
            outside[i, column[i, place]] = True
            column[i, place] = n
        if size is not None:
            count = (column < n).sum(1)
            more = count > most[problem]
            most[problem] = np.maximum(most[problem], count)
            path.largest[problem[more]] = _scattered(right[more, m:, 2], column[more], n)
            target[count >= size] = np.inf
    return path


def _signed(solution: Array, right: Array, m: int, lam: Array) -> Array:
    """The active coefficients at lam; zero where rounding gave them the wrong sign."""
    z = solution[:, m:, 0] + lam[:, None] * solution[:, m:, 2]
    return np.where(z * right[:, m:, 2] > 0, z, 0)


def _scattered(values: Array, column: Array, n: int) -> Array:
    """Values of the active columns (p, slots) as full vectors (p, n)."""
    full = np.zeros((len(values), n + 1))
    np.put_along_axis(full, column, values, 1)
    return full[:, :n]


@lru_cache
def _weights(n: int) -> Array:
    """Penalty weights that no simple relation holds between: 1 + TIE * (rising random steps)."""
    steps = 0.5 + np.random.default_rng(0).random(n)
    return 1 + TIE * np.cumsum(steps) / steps.sum()
