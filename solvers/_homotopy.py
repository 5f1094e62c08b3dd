"""The exact regularisation path of the LASSO, for a batch of problems in lock-step.

Osborne, Presnell and Turlach, "A new approach to variable selection in least squares problems"
(2000); Efron, Hastie, Johnstone and Tibshirani, "Least angle regression" (2004).

With active columns S and signs s, the solution z and the residual r are linear in lam:

    z = B b - lam B B's,    r = P b + lam B's,

where B is the pseudo-inverse of A_S and P = I - A_S B projects onto what S does not span. Going
down from lam = infinity, the active set changes where a column's correlation |a_j'r| reaches lam
(it joins) or an active coefficient reaches zero (it leaves). P then loses or gains one direction,
and every row of B moves along it. So no system is solved on the way: H (m, n) has, in column j,
P a_j while j is inactive and its row of B while it is active, and changes by one outer product.
With d the column of H that joins or leaves, x = a_j if it joins and x = d if it leaves, and
g = d / d'd, the other columns of H lose

    (a_i'd) g if i is inactive and j joins,   -(a_i'd) g if j leaves,   (h_i'x) g if i is active,

and column j becomes g itself. A'A, which would square the condition number, never appears, and
what joins is projected twice ("twice is enough", Kahan and Parlett), so rounding only adds up over
the events. One step of refinement at the end removes it from the answer.

Where the coefficients have penalties lam w_j with weights of their own, s stands for the signs times
the weights, and a column joins where |a_j'r| = lam w_j.

With z >= 0 the same holds but for one thing: only where a_j'r itself reaches lam w_j, from below,
does a column join (the "positive Lasso" of Efron et al., section 3.4), so every sign is 1.

Events that fall together (repeated columns, integer matrices) are taken one by one, lowest index
first where rounding leaves them equal, with no progress in lam between them. That this ends is not
proved for every tie; 20,000 random integer problems did, and what does not is seen by the limit on
steps and by the certificate.
"""

from dataclasses import dataclass, field

import numpy as np

from ._convert import Array
from ._problem import EPS, Problem, correlations, exact_residual

# A correlation below this fraction of ||a_j|| ||b|| is rounding: the column lies in the span of
# the active ones, or the residual is zero. Such a column stays within its bound and never joins.
ROUNDING = 1e-13
LARGEST_WEIGHT = 2.0**500  # beyond, products of weights could overflow


@dataclass
class Path:
    """Result of `follow` for a batch of p problems.

    Attributes
    ----------
    z : array of shape (p, n)
        The solution at lam, or at the lowest point that was reached.
    steps : array of shape (p,)
        Events met on the way.
    finished : array of shape (p,)
        Whether lam (or `size`) was reached within the steps allowed.
    largest : array of shape (p, n)
        With `size`: signs of the first active set that has the most columns, or groups.
    began : array of shape (p,)
        With `size`: the lam at which `largest` became active; infinite while that is empty.
    knots : list of (lam, z)
        Knots of the first problem, if recorded.
    """

    z: Array
    steps: Array
    finished: Array
    largest: Array
    began: Array
    knots: list[tuple[float, Array]] = field(default_factory=list)


def follow(
    problem: Problem,
    *,
    max_steps: int,
    size: Array | None = None,
    groups: Array | None = None,
    record: bool = False,
) -> Path:
    """Follow the path from its start down to lam.

    Parameters
    ----------
    problem : Problem
    max_steps : int
        Events per problem after which to give up; `z` is then the solution at a larger lam.
    size : array of shape (p,), optional
        Stop as soon as the active set has this many columns, or touches this many groups.
    groups : array of shape (p, n), optional
        With `size`: the group of each column, numbered from 0 up; -1 for none.
    record : bool
        Keep the knots of the first problem.
    """
    A, b, lam = problem.A, problem.b, problem.lam
    p, m, n = A.shape
    path = Path(
        z=np.zeros((p, n)),
        steps=np.zeros(p, dtype=np.int64),
        finished=np.ones(p, dtype=bool),
        largest=np.zeros((p, n)),
        began=np.full(p, np.inf),
    )
    if groups is not None:  # (p, g, n): which columns belong to which group
        member = groups[:, None] == np.arange(groups.max() + 1)[:, None]
    norm_b = np.sqrt((b * b).sum(1, keepdims=True))
    if m > n:  # b's part outside the range of A plays no role on the path
        q, A = np.linalg.qr(A)
        b = correlations(q, b)
        m = n
    # The identity's columns follow those of A. They never join, and in H they are P.
    columns = np.zeros((p, m, n + m))
    columns[:, :, :n] = A
    columns[:, :, n:] = np.eye(m)
    H = columns.copy()
    rounding = np.full((p, n + m), np.inf)
    weight = np.ones((p, n + m))
    weight[:, :n] = np.minimum(problem.weight, LARGEST_WEIGHT)
    norm = np.sqrt((A * A).sum(1))
    rounding[:, :n] = ROUNDING * norm_b * norm
    # Events of every column are rounding below this lam: the path is at its end.
    floor = np.where(norm > 0, rounding[:, :n] / weight[:, :n], np.inf).min(1)
    threshold = rounding.copy()  # zero for the active columns
    sign = np.zeros((p, n + m))  # times the weight; zero for the inactive columns
    active = np.zeros((p, n + m), dtype=bool)
    bound = weight.copy()  # on |a_j'r| / lam; zero for the active columns, which have none
    count = np.zeros(p)
    most = np.zeros(p)
    level = np.full(p, np.inf)
    target, end = lam, np.maximum(lam, floor)
    b = b[:, None]
    # Where each problem ended, for the refinement.
    end_columns, end_b, end_H, end_sign, end_lam = columns, b, H.copy(), sign.copy(), lam.copy()
    which = line = np.arange(p)  # the problem that each line of the arrays belongs to
    first = line * (n + m)  # place of each line in the flat arrays

    # A batch of eight problems is all overhead, about a microsecond for each call of NumPy. So
    # the calls are few, and the cheaper ones of their kind (`take` and `put` of flat places).
    for step in range(max_steps + 1):
        # Constant part and slope in lam: of z_j for active columns, of a_j'r for the others.
        r1 = (H @ sign[:, :, None]).transpose(0, 2, 1)
        constant = (b @ H)[:, 0]
        slope = (r1 @ columns)[:, 0]
        np.copyto(slope, (-r1 @ H)[:, 0], where=active)
        # a_j'r can only meet the bound on the side of its constant part: elsewhere its distance
        # from the bound does not fall to zero with lam. It does so where
        # lam (1 - side slope) = side constant. An active z_j shrinks on the way down where its
        # slope has its sign, and is zero where lam (sign slope) = -sign constant.
        side = np.sign(constant)
        np.copyto(side, -np.sign(sign), where=active)
        height = side * constant
        speed = bound - side * slope
        never = height <= threshold
        if problem.non_negative:
            never |= (constant < 0) & ~active
        never |= speed <= 0
        np.copyto(speed, np.inf, where=never)
        events = height / speed
        column = events.argmax(1)
        place = first + column
        level = np.minimum(events.take(place), level)

        if record and which[0] == 0:
            at = target[0] if level[0] <= end[0] else level[0]
            z = _with_signs(constant[0] + at * slope[0], sign[0])
            path.knots.append((float(at), z[:n]))

        done = level <= end
        if step == max_steps:
            path.finished[which[~done]] = False
            end_lam[which] = np.where(done, target, level)
            done[:] = True
        if np.count_nonzero(done):
            ended = which[done]
            path.steps[ended] = step
            end_H[ended] = H[done]
            end_sign[ended] = sign[done]
            keep = np.flatnonzero(~done)
            if len(keep) == 0:
                break
            columns, H, b = columns.take(keep, 0), H.take(keep, 0), b.take(keep, 0)
            sign, active, bound = sign.take(keep, 0), active.take(keep, 0), bound.take(keep, 0)
            weight = weight.take(keep, 0)
            rounding, threshold = rounding.take(keep, 0), threshold.take(keep, 0)
            count, level, target, end = count[keep], level[keep], target[keep], end[keep]
            which, side, column = which[keep], side.take(keep, 0), column[keep]
            line, first = line[: len(keep)], first[: len(keep)]
            place = first + column

        leaves = active.take(place)
        joins = ~leaves
        turn = np.where(joins, 1.0, -1.0)
        d = H[line, :, column][:, None]
        x = columns[line, :, column][:, None]
        np.copyto(x, d, where=leaves[:, None, None])
        np.copyto(d, d @ H[:, :, n:], where=joins[:, None, None])
        g = d / (d @ d.transpose(0, 2, 1))
        share = (turn[:, None, None] * d) @ columns
        np.copyto(share, x @ H, where=active[:, None])
        H -= g.transpose(0, 2, 1) * share
        H[line, :, column] = g[:, 0]
        sign.put(place, joins * side.take(place) * weight.take(place))
        active.put(place, joins)
        bound.put(place, leaves * weight.take(place))
        threshold.put(place, leaves * rounding.take(place))
        count += turn
        full = count == m
        if np.count_nonzero(full):  # P = 0, and exactly: nothing can join
            H *= ~(full[:, None] & ~active)[:, None]
        if size is not None:
            reached = count
            if groups is not None:
                reached = (member[which] & active[:, None, :n]).any(2).sum(1)
            more = reached > most[which]
            most[which] = np.maximum(most[which], reached)
            path.largest[which[more]] = np.sign(sign[more, :n])
            path.began[which[more]] = level[more]
            end[reached >= size[which]] = np.inf
    if size is None:
        path.z = _refined(end_columns, end_b, end_H, end_sign, end_lam)[:, :n]
    return path


def _refined(columns: Array, b: Array, H: Array, sign: Array, lam: Array) -> Array:
    """Return the solution at lam (p,) on the active columns, with A_S'(b - A z) made equal to lam sign.

    Corrects z = B (b - lam B's) by B B' times what is missing, computed from A itself: one step of
    iterative refinement. In the columns of H, z = (b - lam s H') H.
    """
    active = (sign != 0)[:, None]
    sign, lam = sign[:, None], lam[:, None, None]
    H = H * active
    z = (b - lam * (sign @ H.transpose(0, 2, 1))) @ H
    r, _ = exact_residual(columns, b[:, 0], z[:, 0])
    c = r[:, None] @ columns
    missing = (c - lam * sign) * active
    z += missing @ H.transpose(0, 2, 1) @ H
    # What rounding of B b alone could have left counts as zero.
    z[np.abs(z) <= 4 * EPS * (np.abs(b) @ np.abs(H))] = 0
    return _with_signs(z, sign)[:, 0]


def _with_signs(z: Array, sign: Array) -> Array:
    """Return z with zero where rounding gave a coefficient the wrong sign, or it has none."""
    return np.where(z * sign > 0, z, 0)
