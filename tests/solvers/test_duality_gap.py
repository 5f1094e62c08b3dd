"""Behaviour of `solvers.duality_gap`."""

from fractions import Fraction

import pytest
import torch

from solvers import duality_gap, lasso


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gap_by_definition(A, b, z, lam) -> float:
    """(P - D) / P in rational arithmetic, so that nothing cancels."""
    rows = [[Fraction(x) for x in row] for row in A.tolist()]
    b_, z_ = [Fraction(x) for x in b.tolist()], [Fraction(x) for x in z.tolist()]
    lam_ = Fraction(lam)

    def inner(x, y):
        return sum(p * q for p, q in zip(x, y, strict=True))

    r = [y - inner(row, z_) for row, y in zip(rows, b_, strict=True)]
    scale = min(
        Fraction(1), lam_ / max(abs(inner(column, r)) for column in zip(*rows, strict=True))
    )
    primal = inner(r, r) / 2 + lam_ * sum(abs(x) for x in z_)
    missing = [y - scale * x for y, x in zip(b_, r, strict=True)]
    dual = inner(b_, b_) / 2 - inner(missing, missing) / 2
    return min(float((primal - dual) / primal), 1.0)  # with 0 as the dual point it is 1


@pytest.mark.parametrize("lam", [10.0, 0.1, 1e-5])
@pytest.mark.parametrize("z", [torch.zeros(12), 0.1 * draw(12, seed=2), draw(12, seed=3)])
def test_equals_its_definition(lam, z):
    A, b, z = draw(5, 12), draw(5, seed=1), z.double()
    expected = gap_by_definition(A, b, z, lam)
    assert duality_gap(A, b, z, lam).item() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_keeps_its_digits_near_the_solution():
    # The objective minus the dual value, taken as such, would be rounding here.
    A, b, lam = draw(5, 12), 1e-3 * draw(5, seed=1), 1e-5
    z = lasso(A, b, lam).z * (1 + 1e-9)
    expected = gap_by_definition(A, b, z, lam)
    assert 0 < expected < 1e-5
    assert duality_gap(A, b, z, lam).item() == pytest.approx(expected, rel=1e-3)


def test_bounds_the_distance_from_the_best_objective():
    A, b, lam = draw(5, 12), draw(5, seed=1), 0.1

    def objective(z):
        return 0.5 * ((A @ z - b) ** 2).sum() + lam * z.abs().sum()

    best = lasso(A, b, lam).z
    for seed in range(20):
        z = best + 0.1 * draw(12, seed=seed)
        assert objective(z) - objective(best) <= duality_gap(A, b, z, lam) * objective(z)


def test_zero_where_the_objective_is_zero():
    zero = torch.zeros(5, dtype=torch.float64)
    assert duality_gap(draw(5, 12), zero, torch.zeros(12), 0.1) == 0


def test_without_penalty_it_is_zero_at_least_squares_solutions_only():
    A, b = draw(12, 5), draw(12, seed=1)
    z = torch.linalg.lstsq(A, b[:, None]).solution[:, 0]
    assert duality_gap(A, b, z, 0.0) <= 1e-20
    assert duality_gap(A, b, z + 0.1, 0.0) > 1e-3
    wide = draw(5, 12)
    exact = torch.linalg.pinv(wide) @ b[:5]
    assert duality_gap(wide, b[:5], exact, 0.0) == 0
    assert duality_gap(wide, b[:5], exact + 1e-6, 0.0) > 0.5


def test_batches_and_sequences():
    A, b, z = draw(3, 5, 12), draw(3, 5, seed=1), draw(3, 12, seed=2)
    expected = [duality_gap(A[i], b[i], z[i], 0.1).item() for i in range(3)]
    assert duality_gap(A, b, z, 0.1).tolist() == pytest.approx(expected)
    assert duality_gap(list(A), list(b), list(z), 0.1).tolist() == pytest.approx(expected)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"z must have shape \(12,\) to fit A, got \(5,\)"):
        duality_gap(draw(5, 12), draw(5), draw(5), 0.1)
    with pytest.raises(ValueError, match="lam must be finite and at least 0, got -1"):
        duality_gap(draw(5, 12), draw(5), draw(12), -1)
