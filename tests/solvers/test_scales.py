"""Right answers, or a clear word that there is none, at any scale: judged in rational arithmetic."""

import warnings
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch

from solvers import (
    ConvergenceWarning,
    best_subset,
    duality_gap,
    lasso,
    lasso_path,
    sparsest,
    truncate,
)

METHODS = ("homotopy", "homotopy", "fista", "ista", "coordinate_descent")
FAMILIES = ("plain", "integers", "scaled", "columns", "rows", "collinear", "deficient", "subnormal")
TOL = 1e-8
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def problem(family: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A (m, n) and b (m,) with m and n up to 5 and 6."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 6), rng.integers(1, 7)
    A, b = rng.normal(size=(m, n)), rng.normal(size=m)
    powers = rng.choice([3, 10, 100]) * rng.uniform(-1, 1, max(m, n))
    if family == "integers":
        A, b = rng.integers(-2, 3, (m, n)).astype(float), rng.integers(-2, 3, m).astype(float)
    elif family == "scaled":
        A, b = A * 10.0 ** rng.uniform(-290, 290), b * 10.0 ** rng.uniform(-290, 290)
    elif family == "columns":
        A = A * 10.0 ** powers[:n]
    elif family == "rows":
        A, b = A * 10.0 ** powers[:m, None], b * 10.0 ** powers[:m]
    elif family == "collinear":
        A = rng.normal(size=(m, 1)) * rng.choice([-1, 1], n) + 10 ** rng.uniform(-15, -2) * A
    elif family == "deficient":
        for j in range(n):
            A[:, j] = rng.choice([0.0, 1.0, -2.0, 1e-5]) * A[:, rng.integers(n)]
    elif family == "subnormal":
        A = A * 10.0 ** rng.choice([0, -160, -315])
        b = b * 10.0 ** rng.choice([0, -160, -315])
    return A, b


def penalty(A, b, share):
    """About that share of the lam from which on z = 0."""
    peak_A, peak_b = np.abs(A).max() or 1.0, np.abs(b).max() or 1.0
    with np.errstate(over="ignore"):
        lam = share * np.abs((A / peak_A).T @ (b / peak_b)).max() * peak_A * peak_b
    return float(min(lam, 1e300))


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(each)) for each in arrays]


def fractions(values):
    return [Fraction(float(value)) for value in values]


def inner(x, y):
    return sum((p * q for p, q in zip(x, y, strict=True)), Fraction(0))


def solved(matrix, right):
    """The solution of a square system, or None where it is singular."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = next((k for k in range(i, len(rows)) if rows[k][i] != 0), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for k in range(len(rows)):
            if k != i and rows[k][i] != 0:
                factor = rows[k][i] / rows[i][i]
                rows[k] = [x - factor * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


class Exact:
    """A problem in rational arithmetic."""

    def __init__(self, A, b):
        self.columns = [fractions(column) for column in np.asarray(A, dtype=float).T]
        self.b = fractions(b)

    def residual(self, z):
        rest = list(self.b)
        for value, column in zip(fractions(z), self.columns, strict=True):
            rest = [r - value * a for r, a in zip(rest, column, strict=True)]
        return rest

    def gap(self, z, lam, theta, non_negative):
        """(P(z) - D(theta)) / P(z) with theta scaled down until feasible, and at most 1."""
        r, lam = self.residual(z), Fraction(lam)
        c = [inner(column, theta) for column in self.columns]
        largest = max(c) if non_negative else max(map(abs, c))
        scale = lam / largest if largest > lam else Fraction(1)
        value = inner(r, r) / 2 + lam * sum(map(abs, fractions(z)))
        dual = scale * inner(self.b, theta) - scale**2 * inner(theta, theta) / 2
        return float(min((value - dual) / value, 1)) if value else 0.0

    def stationary(self, z, lam):
        """The residual of the minimiser on the support and signs of z: the best dual point."""
        support = [j for j, value in enumerate(z) if value != 0]
        columns = [self.columns[j] for j in support]
        right = [
            inner(column, self.b) - Fraction(lam) * (1 if z[j] > 0 else -1)
            for j, column in zip(support, columns, strict=True)
        ]
        w = solved([[inner(x, y) for y in columns] for x in columns], right)
        if w is None:
            return None
        full = dict(zip(support, w, strict=True))
        rest = list(self.b)
        for j, value in full.items():
            rest = [r - value * a for r, a in zip(rest, self.columns[j], strict=True)]
        return rest

    def least(self, s, non_negative):
        """The least ||A z - b||^2 / ||b||^2 over supports of columns that are clearly independent."""
        whole = best = inner(self.b, self.b)
        for k in range(1, s + 1):
            for columns in combinations(self.columns, k):
                gram = [[inner(x, y) for y in columns] for x in columns]
                z = solved(gram, [inner(column, self.b) for column in columns])
                if z is None or self.close(columns) or (non_negative and min(z) < 0):
                    continue
                rest = [
                    b - inner(z, row)
                    for b, row in zip(self.b, zip(*columns, strict=True), strict=True)
                ]
                best = min(best, inner(rest, rest))
        return best / whole

    def close(self, columns):
        """Return whether one is within 1e-12 of its length of the span of those before it."""
        basis = []
        for column in columns:
            rest = column
            for q in basis:
                share = inner(q, rest) / inner(q, q)
                rest = [x - share * y for x, y in zip(rest, q, strict=True)]
            if inner(rest, rest) <= Fraction(1, 10**24) * inner(column, column):
                return True
            basis.append(rest)
        return False


def check_lasso(family, seed):
    rng = np.random.default_rng(10_000 + seed)
    A, b = problem(family, seed)
    lam = penalty(A, b, 10 ** rng.uniform(-8, 0.3))
    non_negative = bool(rng.random() < 0.3)
    result = lasso(
        *tensors(A, b),
        lam,
        method=str(rng.choice(METHODS)),
        non_negative=non_negative,
        max_iter=500,
    )
    assert result.converged == (result.gap <= TOL)
    if not result.z.isfinite().all():
        assert not result.converged
        return
    z = result.z.tolist()
    assert not non_negative or min(z) >= 0
    if lam == 0:
        return
    exact = Exact(A, b)
    gap = exact.gap(z, lam, exact.residual(z), non_negative)
    shown = duality_gap(*tensors(A, b, z), lam, non_negative=non_negative).item()
    assert shown >= gap * (1 - 1e-9) - 1e-15
    if result.converged and gap > TOL:  # then the other dual point must show it
        assert exact.gap(z, lam, exact.stationary(z, lam), non_negative) <= TOL


def check_best_subset(family, seed):
    rng = np.random.default_rng(20_000 + seed)
    A, b = problem(family, seed)
    s, non_negative = int(rng.integers(1, min(3, A.shape[1]) + 1)), bool(rng.random() < 0.4)
    try:
        result = best_subset(*tensors(A, b), s, non_negative=non_negative)
    except ValueError as error:  # and only where no numbers can hold the answer
        assert "bring A and b to another scale" in str(error)
        ratio = (fractions([np.abs(b).max()])[0]) / fractions([np.abs(A).max(0).min() or 1.0])[0]
        least = fractions([np.abs(b).max()])[0] / fractions([np.abs(A).max()])[0]
        assert ratio > Fraction(10) ** 290 or least < Fraction(1, 10**290)
        return
    z = result.z.tolist()
    assert not non_negative or min(z) >= 0
    if not b.any():
        return
    exact = Exact(A, b)
    rest, whole = exact.residual(z), inner(exact.b, exact.b)
    distance = float(inner(rest, rest) / whole) ** 0.5
    peak = fractions([np.abs(b).max()])[0]
    parts = [abs(x) * max(map(abs, a)) for x, a in zip(fractions(z), exact.columns, strict=True)]
    rounding = 1e-15 * float(sum(parts) / peak)  # of z itself, to float64
    assert distance <= float(exact.least(s, non_negative)) ** 0.5 + rounding + 1e-9
    shown = fractions([result.residual.item()])[0] / peak
    assert (
        float(shown)
        == pytest.approx(float(inner(rest, rest) / peak**2) ** 0.5, rel=1e-9, abs=1e-300)
        or float(shown * peak) < 1e-300
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_lasso_claims_nothing_that_is_not_so(family):
    for seed in range(40):
        check_lasso(family, seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_best_subset_is_the_best(family):
    for seed in range(30):
        check_best_subset(family, seed)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_many_more(family):
    for seed in range(100, 1000):
        check_lasso(family, seed)
        check_best_subset(family, seed)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_else_is_warned_of(family):
    calls = (
        lambda A, b: sparsest(A, b, 1),
        lambda A, b: sparsest(A, b, A.shape[1], non_negative=True),
        lasso_path,
        lambda A, b: lasso_path(A, b, non_negative=True),
        lambda A, b: truncate(b, 1),
        lambda A, b: duality_gap(A, b, torch.full_like(A[0], 1e200), 1e-3),
        lambda A, b: duality_gap(A, b, torch.full_like(A[0], 1e-300), 1e300),
        lambda A, b: lasso(A, b, 1e-300, z0=torch.full_like(A[0], 1e300), max_iter=50),
        lambda A, b: lasso(A, b, 1e300),
    )
    for seed in range(20):
        for call in calls:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", ConvergenceWarning)
                try:
                    call(*tensors(*problem(family, seed)))
                except ValueError as error:
                    assert "to another scale" in str(error)


# --- Single cases --------------------------------------------------------------------------------


def test_columns_of_very_different_norms():
    A, b = tensors(np.diag([1.0, 1e-11]), np.ones(2))
    for solve in (best_subset, sparsest):
        result = solve(A, b, 2)
        assert result.support == (0, 1)
        assert result.z.tolist() == [1, 1e11]
        assert result.residual <= 1e-16
    for power in (-300, -100, -20, 20, 100, 300):
        A, b = tensors(np.diag([1.0, 10.0**power]), np.ones(2))
        assert best_subset(A, b, 2).z.tolist() == pytest.approx([1, 10.0**-power], rel=1e-14)
        lam = 1e-3 * min(1, 10.0**power)
        z = lasso(A, b, lam).z.tolist()
        assert z == pytest.approx([1 - lam, 10.0**-power * (1 - lam / 10.0**power)], rel=1e-12)


def test_dependence_is_one_thing_for_the_search_and_the_fit():
    # The second column is the first up to a tiny angle, which b needs, or it is the first.
    for angle in (1e-3, 1e-8, 1e-12):
        A, b = tensors(np.array([[1.0, 1.0], [0.0, angle]]), np.array([1.0, 1.0]))
        result = best_subset(A, b, 2)
        assert result.z.tolist() == pytest.approx([1 - 1 / angle, 1 / angle], rel=1e-12)
        assert result.residual <= 1e-15 / angle
    for angle in (1e-15, 0.0):
        A, b = tensors(np.array([[1.0, 1.0], [0.0, angle]]), np.array([1.0, 1.0]))
        result = best_subset(A, b, 2)
        assert result.z.tolist() == pytest.approx([0.5, 0.5])
        assert result.residual == pytest.approx(1.0)


def test_homotopy_solves_nearly_collinear_columns():
    rng = np.random.default_rng(0)
    for _ in range(300):
        m, n = rng.integers(2, 8), rng.integers(2, 20)
        A = rng.normal(size=(m, 1)) + 10 ** rng.uniform(-13, -3) * rng.normal(size=(m, n))
        b = rng.normal(size=m)
        lam = penalty(A, b, 10 ** rng.uniform(-6, 0))
        assert lasso(*tensors(A, b), lam).converged


def test_a_penalty_far_below_rounding():
    A, b = tensors(np.eye(2), np.array([3.0, -1.0]))
    for lam in (1e-20, 1e-200, 5e-324):
        result = lasso(A, b, lam)
        assert result.z.tolist() == [3, -1]  # the nearest numbers to the solution
        if result.converged:
            assert result.gap <= TOL


def test_what_the_dtype_cannot_hold_is_said():
    A, b = torch.tensor([[1e-3]], dtype=torch.float16), torch.tensor([6e4], dtype=torch.float16)
    with pytest.warns(ConvergenceWarning, match="1 of 1 problems"):
        result = lasso(A, b, 1e-3)
    assert not result.converged
    for solve in (best_subset, sparsest):
        with pytest.raises(
            ValueError, match=r"too large for torch.float16, which ends at 6\.6e\+04"
        ):
            solve(A, b, 1)
    A, b = A.double() * 1e-200, b.double() * 1e200
    with pytest.raises(ValueError, match=r"too large for torch.float64, which ends at 1\.8e\+308"):
        best_subset(A, b, 1)
    with pytest.raises(ValueError, match=r"too small for numbers, which end at 4\.9e-324"):
        best_subset(b[None], A[0], 1)
    with pytest.raises(ValueError, match="to another scale"):
        lasso_path(A, b)


def test_a_norm_near_the_end_of_numbers():
    z = torch.tensor([3e307, 4e307, 1e308], dtype=torch.float64)
    assert truncate(z, 1).residual.item() == pytest.approx(5e307)
    assert truncate(1e-310 * (z / 1e307), 1).residual.item() == pytest.approx(5e-310)
    assert best_subset(torch.eye(3, dtype=torch.float64), z, 1).residual.item() == pytest.approx(
        5e307
    )
