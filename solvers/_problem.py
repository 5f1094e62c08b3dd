"""The LASSO, P(z) = 1/2 ||A z - b||^2 + lam ||z||_1, by itself: its scale and its certificate.

Everything works on batches: A (p, m, n), b (p, m), lam (p,), z (p, n), float64.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import nnls

from ._convert import Array

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
# At lam = 0: a residual below both of these fractions, of |A| |z| + |b| and of b, counts as zero.
# A backward stable solver leaves about EPS |A| |z|.
ROUNDING, NOTHING = 1e-12, 1e-8
FAR = 1e100  # a scaled coefficient as large is no use, nor is its square far from infinity
ALIKE = 8  # columns within this power of two of the largest are scaled like it
# Weights are cut at this power of two, so that they are numbers. It takes a lam' below 1e-270 for
# a column so small to enter a solution.
LARGEST_WEIGHT = 1000
LOST = 1e-12  # of b, in what a coefficient contributes: above that it is said


@dataclass(frozen=True)
class Problem:
    """A batch of LASSO problems brought to unit scale, column by column.

    With a_j = 2^e_j a'_j, b = 2^f b' and z_j = 2^(f - e_j) z'_j the residual is 2^f times the
    scaled one, and P(z) is 4^f times

        1/2 ||A' z' - b'||^2 + sum_j penalty_j |z'_j|,      penalty_j = lam 2^(-e_j - f),

    which has the same relative gap. So everything here is about a LASSO whose coefficients have
    their own penalties, penalty = lam' weight, with the weight 1 for the largest column. Powers of
    two round nothing, and columns can be judged side by side, as well as b and rounding. Columns
    of about one size share their e_j, so that the usual problem keeps one penalty.

    Attributes
    ----------
    A : array of shape (p, m, n)
        The largest entry of all lies in [1, 2), that of each column in [1/256, 2), unless zero.
    b : array of shape (p, m)
        The largest entry lies in [1, 2), unless all are zero.
    lam : array of shape (p,)
    weight : array of shape (p, n)
    non_negative : bool
        Whether the problem is over z >= 0.
    exponent : array of int of shape (p, n)
        The caller's z is 2^exponent times the scaled one.
    b_exponent, lam_exponent : arrays of int of shape (p,)
        Likewise for b and lam.
    certifiable : array of bool of shape (p,)
        False where lam' is too small for a number.
    """

    A: Array
    b: Array
    lam: Array
    weight: Array
    non_negative: bool
    exponent: Array
    b_exponent: Array
    lam_exponent: Array
    certifiable: Array

    @classmethod
    def scaled(cls, A: Array, b: Array, lam: Array, *, non_negative: bool = False) -> "Problem":
        """Return the problem of the caller's A (p, m, n), b (p, m) and lam (p,)."""
        peak = np.abs(A).max(1)
        columns = exponent(peak)
        largest = np.where(peak > 0, columns, -9999).max(1, keepdims=True)
        largest[~peak.any(1)] = 0
        columns = np.where((peak > 0) & (largest - columns > ALIKE), columns, largest)
        f = exponent(np.abs(b).max(1))
        ratio = largest - columns
        small = times_power(lam, -largest[:, 0] - f)
        enough = np.where(ratio.max(1) > LARGEST_WEIGHT, 1e-270, TINY)
        return cls(
            A=times_power(A, -columns[:, None]),
            b=times_power(b, -f[:, None]),
            lam=np.where(lam > 0, np.maximum(small, TINY), 0),
            weight=times_power(1.0, np.minimum(ratio, LARGEST_WEIGHT)),
            non_negative=non_negative,
            exponent=f[:, None] - columns,
            b_exponent=f,
            lam_exponent=largest[:, 0] + f,
            certifiable=(lam == 0) | (small >= enough),
        )

    @property
    @np.errstate(over="ignore")
    def penalty(self) -> Array:
        """The penalty of each coefficient, (p, n); infinite where lam' is too large for a number."""
        return self.lam[:, None] * self.weight

    def __len__(self) -> int:
        return len(self.A)

    def __getitem__(self, index: Array) -> "Problem":
        """Some of the problems: by a mask or by places."""
        return replace(
            self,
            **{
                name: value[index]
                for name, value in vars(self).items()
                if isinstance(value, np.ndarray)
            },
        )

    def at(self, lam: Array) -> "Problem":
        """Return the same problems for another lam, at this scale."""
        return replace(self, lam=lam)

    def to_caller(self, z: Array) -> Array:
        """Return the caller's z; infinite where it is too large for a number."""
        return times_power(z, self.exponent)

    def from_caller(self, z: Array) -> Array:
        """Return the scaled z of the caller's."""
        return times_power(z, -self.exponent)

    def within_reach(self, z: Array) -> Array:
        """Return where a scaled z is not so large that nothing can be computed with it, (p,)."""
        return (np.abs(z) < FAR).all(1)


def correlations(A: Array, r: Array) -> Array:
    """Return A'r, (p, n)."""
    return (r[:, None, :] @ A)[:, 0]


def residual(A: Array, b: Array | int, z: Array) -> Array:
    """Return b - A z, (p, m)."""
    return b - (A @ z[:, :, None])[:, :, 0]


def exact_residual(A: Array, b: Array, z: Array) -> tuple[Array, Array]:
    """Return b - A z as if computed with twice the digits and then rounded, and a bound on its error.

    Near a solution b and A z agree to many digits, and what is left of plain arithmetic is
    rounding. So A and z are cut into pieces of so few digits that the products of the pieces, and
    their sums over n, are exact (Ozaki, Ogita, Oishi and Rump, "Error-free transformations of
    matrix multiplication by using fast routines of matrix multiplication and its applications",
    2012). The leading ones are subtracted from b with their rounding errors kept (Knuth's two-sum).

    Parameters
    ----------
    A : array of shape (p, m, n)
    b, z : arrays of shape (p, m), (p, n); or (p, m, k), (p, n, k)

    Returns
    -------
    r, error : arrays of the shape of b
    """
    if b.ndim == 2:
        r, error = exact_residual(A, b[:, :, None], z[:, :, None])
        return r[:, :, 0], error[:, :, 0]
    n = A.shape[2]
    digits = (53 - (n - 1).bit_length()) // 2
    scale_A = exponent(np.abs(A).max(2, keepdims=True, initial=0))  # of each row
    scale_z = exponent(np.abs(z).max(1, keepdims=True, initial=0))
    A1, A2, A3 = _pieces(A, scale_A, digits)
    z1, z2, z3 = _pieces(z, scale_z, digits)
    r, rounding = b, 0
    for product in (A1 @ z1, A1 @ z2, A2 @ z1):
        difference = r - product
        rest = difference - r
        rounding = rounding + ((r - (difference - rest)) - (product + rest))
        r = difference
    r = r + (rounding - (A1 @ z3 + A2 @ (z2 + z3) + A3 @ z))
    # The last pieces are below 2^-2digits of the largest products.
    last = times_power(1.0, scale_A + scale_z + 4 - 2 * digits)
    return r, EPS * (np.abs(r) + n * (n + 4) * last)


def _pieces(x: Array, scale: Array, digits: int) -> tuple[Array, Array, Array]:
    """Return two pieces of so many binary digits, beginning at 2^scale, and the rest; their sum is x."""
    # Adding 1.5 2^52 u and taking it off again rounds to a multiple of u.
    shift = times_power(1.5, scale + 53 - digits)
    first = (x + shift) - shift
    x = x - first
    shift = times_power(1.5, scale + 53 - 2 * digits)
    second = (x + shift) - shift
    return first, second, x - second


def objective(problem: Problem, z: Array) -> Array:
    """Return the objective P(z), (p,)."""
    r = residual(problem.A, problem.b, z)
    return 0.5 * (r * r).sum(1) + _paid(problem, z).sum(1)


def _paid(problem: Problem, z: Array) -> Array:
    """Return the penalty paid for each coefficient, (p, n)."""
    return np.multiply(problem.penalty, np.abs(z), out=np.zeros_like(z), where=z != 0)


def largest_correlation(problem: Problem, r: Array) -> Array:
    """Return the largest |a_j'r| over its weight, or a_j'r for z >= 0 and at least 0, (p,).

    With r = b it is the lam from which on z = 0 is optimal.
    """
    c = correlations(problem.A, r)
    c = np.maximum(c, 0) if problem.non_negative else np.abs(c)
    return (c / problem.weight).max(1)


def zero_is_optimal(problem: Problem) -> Array:
    """Return where lam is at least the largest correlation, (p,); up to the rounding of that product."""
    return problem.lam >= largest_correlation(problem, problem.b) * (1 - problem.A.shape[1] * EPS)


@np.errstate(over="ignore", invalid="ignore")
def relative_gap(
    problem: Problem, z: Array, theta: Array | None = None, *, exact: bool = True
) -> Array:
    """Duality gap over objective, (P(z) - D(theta)) / P(z), (p,); 0 where P(z) = 0.

    The dual is to maximise D(theta) = 1/2 ||b||^2 - 1/2 ||b - theta||^2 subject to
    |a_j'theta| <= penalty_j; theta is the residual r = b - A z, or what is given, scaled down
    until feasible (Kim, Koh, Lustig, Boyd and Gorinevsky, "An interior-point method for
    large-scale l1-regularized least squares", 2007, eq. 9-10), or 0 if that is better, where
    D = 0. P and D agree to many digits, so
    their difference is taken as a sum of non-negative terms instead, for any theta:

        P - D = 1/2 ||r - theta||^2 + sum_j (penalty_j |z_j| - z_j a_j'theta).

    r is computed with twice the digits, or plainly if it need not be exact, and bounds on the
    rounding that is left are added: the gap is not understated, by more than the last digits.

    At lam = 0 feasible means A'theta = 0, and theta is r projected onto that space: the gap is
    1/2 ||r - theta||^2. A residual of rounding size, and below 1e-8 of b, counts as zero there.

    Over z >= 0 feasible is a_j'theta <= penalty_j, from one side only (the conjugate of the penalty
    with that constraint is the indicator of it), and the rest stays as it is. At lam = 0 theta is
    r projected onto the cone of A'theta <= 0 with a_j'theta = 0 where z_j > 0.
    """
    A, m = problem.A, problem.A.shape[1]
    size = np.abs(A)
    if exact:
        r, error_r = exact_residual(A, problem.b, z)
    else:
        r = residual(A, problem.b, z)
        error_r = (A.shape[2] + 2) * EPS * (np.abs(problem.b) - residual(size, 0, np.abs(z)))
    theta = r if theta is None else theta
    c = correlations(A, theta)
    error_c = (m + 2) * EPS * correlations(size, np.abs(theta))
    bound = error_c + (np.maximum(c, 0) if problem.non_negative else np.abs(c))
    penalty = problem.penalty
    shrink = np.divide(penalty, bound, out=np.ones_like(c), where=bound > penalty).min(1)
    paid = _paid(problem, z)
    distance = _norm(r - shrink[:, None] * theta) + _norm(error_r)
    slack = np.maximum(paid - shrink[:, None] * z * c, 0) + np.abs(z) * error_c
    value = 0.5 * (r * r).sum(1) + paid.sum(1)
    gap = 0.5 * distance**2 + slack.sum(1)
    for i in np.flatnonzero(problem.lam == 0):
        b = np.abs(problem.b[i])
        limit = min(ROUNDING * (size[i] @ np.abs(z[i]) + b).max(), NOTHING * b.max())
        if (np.abs(r[i]) <= limit).all():
            value[i] = gap[i] = 0
        else:
            free = (z[i] > 0) | (not problem.non_negative)
            left, values, _ = np.linalg.svd(A[i][:, free], full_matrices=False)
            left = left[:, values > values.max(initial=0) * max(A.shape[1:]) * EPS]
            away = (left.T @ r[i]) ** 2
            cone, rest = (x - left @ (left.T @ x) for x in (A[i][:, ~free], r[i]))
            pushed = cone @ nnls(cone, rest)[0] if cone.size else np.zeros(1)
            gap[i] = 0.5 * (away.sum() + (pushed**2).sum())
    relative = np.divide(gap, value, out=np.zeros_like(gap), where=value > 0)
    shown = np.isfinite(relative) & problem.certifiable
    return np.where(shown | (value == 0), np.minimum(relative, 1), 1)


def _norm(x: Array) -> Array:
    """Return the Euclidean norm of each row, (p,)."""
    return np.sqrt((x * x).sum(1))


def in_callers_units(z: Array, exponent: Array, dtype: torch.dtype) -> Array:
    """Return the coefficients z 2^exponent of columns and b of unit scale.

    Raises
    ------
    ValueError
        If one is too large for the dtype, or too small for a float64 to hold what it contributes.
    """
    answer = times_power(z, exponent)
    limits = torch.finfo(dtype)
    if (np.abs(answer) > limits.max).any():
        raise ValueError(
            f"the coefficients are too large for {dtype}, which ends at {limits.max:.1e}: bring A "
            "and b to another scale"
        )
    if (np.abs(times_power(answer, -exponent) - z) > LOST).any():
        raise ValueError(
            "the coefficients are too small for numbers, which end at 4.9e-324: bring A and b to "
            "another scale"
        )
    return answer


def exponent(x: Array) -> Array:
    """Return the e with 2^e <= x < 2^(e + 1), as int; 0 for 0."""
    return np.where(x > 0, np.frexp(x)[1] - 1, 0)


def times_power(x: Array | float, e: Array) -> Array:
    """Return x 2^e, rounded only where it leaves the normal numbers; infinite where it is too large."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(x, e)
