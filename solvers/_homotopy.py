"""The exact regularisation path of the LASSO, for a batch of problems in lock-step.

Osborne, Presnell and Turlach, "A new approach to variable selection in least squares problems"
(2000); Efron, Hastie, Johnstone and Tibshirani, "Least angle regression" (2004).

With active columns S and signs s, the solution z and the residual r are linear in lam:

    [[I, A_S], [A_S', 0]] [r; z] = [b; lam s].

Going down from lam = infinity, the active set changes where a column's correlation |a_j'r|
reaches lam (it joins) or an active coefficient reaches zero (it leaves). Events that fall
together (repeated columns, integer matrices) are taken one by one, lowest index first, with no
progress in lam between them. That this ends is not proved for every tie; 8,500 random integer
problems did, and what does not is seen by the limit on steps and by the certificate.
"""

from dataclasses import dataclass, field

import numpy as np

from ._active_set import solve_each
from ._convert import Array
from ._problem import correlations

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
    right = np.zeros((p, m + slots, 2))  # b; signs
    right[:, :m, 0] = b
    column = np.full((p, slots), n)
    free = np.full(p, slots)  # none left: the active columns span everything, and none can join
    threshold = rounding.copy()  # infinite for the active columns
    level = np.full(p, np.inf)
    target = lam.copy()
    rows = A.transpose(0, 2, 1).copy()
    problem = np.arange(p)  # the problem that each line of the arrays belongs to

    for step in range(max_steps + 1):
        solution = solve_each(system, right)
        c = rows @ solution[:, :m]
        c0, c1 = c[:, :, 0], c[:, :, 1]
        # a_j'r = c0 + lam c1 can only meet the bound on c0's side: elsewhere its distance from
        # the bound, lam (1 -+ c1) + |c0|, does not fall to zero with lam.
        side = np.sign(c0)
        size_c0 = np.abs(c0)
        distance = 1 - side * c1
        joins = (size_c0 > threshold) & (distance > 0) & (free > 0)[:, None]
        events = np.zeros((len(problem), n + slots))
        np.divide(size_c0, distance, out=events[:, :n], where=joins)
        # z = z0 + lam z1 shrinks on the way down where z1 has its sign, and is zero at -z0 / z1.
        z0, z1 = solution[:, m:, 0], solution[:, m:, 1]
        np.divide(-z0, z1, out=events[:, n:], where=z1 * right[:, m:, 1] > 0)
        event = events.argmax(1)
        level = np.minimum(events.max(1), level)

        if record and problem[0] == 0:
            at = target[0] if level[0] <= max(target[0], floor[0]) else level[0]
            z = _signed(solution[:1], right[:1], m, np.array([at]))
            path.knots.append((float(at), _scattered(z, column[:1], n)[0]))

        done = level <= np.maximum(target, floor)
        if step == max_steps:
            path.finished[problem[~done]] = False
            target = np.where(done, target, level)
            done[:] = True
        if done.any():
            path.steps[problem[done]] = step
            if size is None:
                z = _signed(solution[done], right[done], m, target[done])
                path.z[problem[done]] = _scattered(z, column[done], n)
            keep = np.flatnonzero(~done)
            if len(keep) == 0:
                break
            system, right, column, free = system[keep], right[keep], column[keep], free[keep]
            level, target, problem, rows = level[keep], target[keep], problem[keep], rows[keep]
            rounding, threshold, floor = rounding[keep], threshold[keep], floor[keep]
            event, side = event[keep], side[keep]

        joining = event < n
        i = np.flatnonzero(joining)
        if len(i):
            j = event[i]
            place = (column[i] == n).argmax(1)
            new = rows[i, j]
            system[i, :m, m + place] = new
            system[i, m + place, :m] = new
            system[i, m + place, m + place] = 0
            right[i, m + place, 1] = side[i, j]
            column[i, place] = j
            threshold[i, j] = np.inf
            free[i] -= 1
        i = np.flatnonzero(~joining)
        if len(i):
            place = event[i] - n
            j = column[i, place]
            system[i, :m, m + place] = 0
            system[i, m + place, :m] = 0
            system[i, m + place, m + place] = 1
            right[i, m + place, 1] = 0
            column[i, place] = n
            threshold[i, j] = rounding[i, j]
            free[i] += 1
        if size is not None:
            count = slots - free
            more = count > most[problem]
            most[problem] = np.maximum(most[problem], count)
            path.largest[problem[more]] = _scattered(right[more, m:, 1], column[more], n)
            target[count >= size] = np.inf
    return path


def _signed(solution: Array, right: Array, m: int, lam: Array) -> Array:
    """The active coefficients at lam; zero where rounding gave them the wrong sign."""
    z = solution[:, m:, 0] + lam[:, None] * solution[:, m:, 1]
    return np.where(z * right[:, m:, 1] > 0, z, 0)


def _scattered(values: Array, column: Array, n: int) -> Array:
    """Values of the active columns (p, slots) as full vectors (p, n)."""
    full = np.zeros((len(values), n + 1))
    np.put_along_axis(full, column, values, 1)
    return full[:, :n]
