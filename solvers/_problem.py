"""The LASSO, P(z) = 1/2 ||A z - b||^2 + lam ||z||_1, by itself: its scale and its certificate.

Everything works on batches: A (p, m, n), b (p, m), lam (p,), z (p, n), float64. `non_negative`
means the problem over z >= 0.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from ._convert import Array

EPS = float(np.finfo(np.float64).eps)
# At lam = 0: a residual below this fraction of |A| |z| + |b| is rounding. A backward stable
# solver leaves about EPS times the condition number.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Problem:
    """A batch of LASSO problems brought to unit scale.

    With A = alpha A' and b = beta b', z solves the problem for lam exactly when
    z' = z alpha / beta solves the scaled one for lam' = lam / (alpha beta). The relative gap is
    the same for both. Here the objective of an unscaled problem can be 1e-8, where absolute
    tolerances mean nothing. Scales are powers of two, so scaling rounds nothing.

    Attributes
    ----------
    A, b, lam
        The scaled batch; the largest entry of each A and b lies in [1, 2), unless all are zero.
    unit, b_unit, lam_unit : arrays of shape (p,)
        `beta / alpha`, `beta` and `alpha * beta`: the caller's z is `unit` times the scaled one,
        the caller's b `b_unit` times, and the caller's lam `lam_unit` times.
    """

    A: Array
    b: Array
    lam: Array
    unit: Array
    b_unit: Array
    lam_unit: Array

    @classmethod
    def scaled(cls, A: Array, b: Array, lam: Array) -> "Problem":
        alpha = _power_of_two(np.abs(A).max((1, 2)))
        beta = _power_of_two(np.abs(b).max(1))
        return cls(
            A=A / alpha[:, None, None],
            b=b / beta[:, None],
            lam=lam / alpha / beta,
            unit=beta / alpha,
            b_unit=beta,
            lam_unit=alpha * beta,
        )


def correlations(A: Array, r: Array) -> Array:
    """A'r, (p, n)."""
    return (r[:, None, :] @ A)[:, 0]


def residual(A: Array, b: Array, z: Array) -> Array:
    """b - A z, (p, m)."""
    return b - (A @ z[:, :, None])[:, :, 0]


def objective(A: Array, b: Array, lam: Array, z: Array) -> Array:
    """P(z), (p,)."""
    return 0.5 * (residual(A, b, z) ** 2).sum(1) + lam * np.abs(z).sum(1)


def largest_correlation(A: Array, r: Array, non_negative: bool) -> Array:
    """||A'r||_inf, or max_j a_j'r and at least 0: the lam from which on z = 0 is optimal, (p,)."""
    c = correlations(A, r)
    return np.maximum(c.max(1), 0) if non_negative else np.abs(c).max(1)


def zero_is_optimal(A: Array, b: Array, lam: Array, non_negative: bool) -> Array:
    """Where lam is at least the largest correlation, (p,); up to the rounding of that product."""
    return lam >= largest_correlation(A, b, non_negative) * (1 - A.shape[1] * EPS)


def relative_gap(A: Array, b: Array, lam: Array, z: Array, non_negative: bool) -> Array:
    """Duality gap over objective, (P(z) - D(theta)) / P(z), (p,); 0 where P(z) = 0.

    The dual is to maximise D(theta) = 1/2 ||b||^2 - 1/2 ||b - theta||^2 subject to
    ||A'theta||_inf <= lam; theta is the residual r = b - A z, scaled down until feasible
    (Kim, Koh, Lustig, Boyd and Gorinevsky, "An interior-point method for large-scale
    l1-regularized least squares", 2007, eq. 9-10). P and D agree to many digits, so their
    difference is taken as a sum of non-negative terms instead:

        P - D = 1/2 ||r - theta||^2 + sum_j (lam |z_j| - z_j a_j'theta).

    At lam = 0 feasible means A'theta = 0, and theta is r projected onto that space: the gap is
    1/2 ||r - theta||^2. A residual of rounding size counts as zero there.

    Over z >= 0 feasible is A'theta <= lam, from one side only (the conjugate of lam 1'z with that
    constraint is the indicator of it), and the rest stays as it is. At lam = 0 theta is r
    projected onto the cone A'theta <= 0.
    """
    r = residual(A, b, z)
    c = correlations(A, r)
    largest = largest_correlation(A, r, non_negative)
    excess = largest > lam
    shrink = np.divide(lam, largest, out=np.ones_like(lam), where=excess)
    missing = np.divide(largest - lam, largest, out=np.zeros_like(lam), where=excess)
    square = (r * r).sum(1)
    penalty = lam[:, None] * np.abs(z)
    objective = 0.5 * square + penalty.sum(1)
    slack = np.maximum(penalty - shrink[:, None] * z * c, 0).sum(1)
    gap = 0.5 * missing**2 * square + slack
    for i in np.flatnonzero(lam == 0):
        terms = np.abs(A[i]) @ np.abs(z[i]) + np.abs(b[i])
        if (np.abs(r[i]) <= ROUNDING * terms.max()).all():
            objective[i] = gap[i] = 0
        elif non_negative:
            theta = r[i] - A[i] @ nnls(A[i], r[i])[0]
            slack_i = np.maximum(-z[i] * (theta @ A[i]), 0).sum()
            gap[i] = 0.5 * ((r[i] - theta) ** 2).sum() + slack_i
        else:
            left, values, _ = np.linalg.svd(A[i], full_matrices=False)
            left = left[:, values > values[0] * max(A.shape[1:]) * EPS]
            gap[i] = 0.5 * ((left.T @ r[i]) ** 2).sum()
    return np.divide(gap, objective, out=np.zeros_like(gap), where=objective > 0)


def exponent(x: Array) -> Array:
    """The e with 2^e <= x < 2^(e + 1), as int; 0 for 0."""
    return np.where(x > 0, np.frexp(x)[1] - 1, 0)


def times_power(x: Array, e: Array) -> Array:
    """x 2^e, rounded only where it leaves the normal numbers; infinite where it is too large."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(x, e)


def _power_of_two(x: Array) -> Array:
    """The largest power of two up to x; 1 for 0."""
    return np.where(x > 0, np.ldexp(1.0, np.frexp(x)[1] - 1), 1.0)
