"""Behaviour of `solvers.lasso_path`."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import lars_path

from solvers import ConvergenceWarning, duality_gap, lasso, lasso_path


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(7, 14), (7, 35), (20, 10), (6, 6)])
def test_agrees_with_lars_path(shape):
    A, b = draw(*shape), draw(shape[0], seed=1)
    alphas, _, coefficients = lars_path(A.numpy(), b.numpy(), method="lasso")
    knots = lasso_path(A, b)
    expected = (alphas * shape[0]).tolist()  # its alpha is lam / m
    assert [knot.lam for knot in knots] == pytest.approx(expected, rel=1e-8, abs=1e-12)
    ours = np.stack([knot.z.numpy() for knot in knots], axis=1)
    assert np.abs(ours - coefficients).max() <= 1e-8


def test_knots_are_solutions_and_so_is_everything_between_two():
    A, b = draw(7, 35), draw(7, seed=1)
    knots = lasso_path(A, b, lam_min=1e-5)
    assert len(knots) > 7
    for upper, lower in pairwise(knots):
        assert upper.lam >= lower.lam
        middle = (upper.lam + lower.lam) / 2
        assert duality_gap(A, b, (upper.z + lower.z) / 2, middle) <= 1e-9
        assert duality_gap(A, b, lower.z, lower.lam) <= 1e-9


def test_rounding_does_not_pile_up_over_a_long_path():
    A, b = draw(60, 240), draw(60, seed=1)
    knots = lasso_path(A, b)
    assert len(knots) > 90
    for knot in knots[:-1]:
        c = A.T @ (b - A @ knot.z)
        assert c.abs().max().item() == pytest.approx(knot.lam, rel=1e-9, abs=1e-12)
    assert (A @ knots[-1].z - b).abs().max() <= 1e-12


def test_begins_at_zero_and_ends_at_lam_min():
    A, b = draw(7, 35), draw(7, seed=1)
    knots = lasso_path(A, b, lam_min=0.01)
    assert knots[0].lam == pytest.approx((A.T @ b).abs().max().item())
    assert knots[0].support == ()
    assert knots[-1].lam == pytest.approx(0.01, rel=1e-15)
    assert torch.allclose(knots[-1].z, lasso(A, b, 0.01).z, rtol=1e-10)
    assert lasso_path(A, b)[-1].lam == 0


def test_support_is_where_z_is_not_zero():
    for knot in lasso_path(draw(7, 35), draw(7, seed=1)):
        assert knot.support == tuple(knot.z.nonzero().flatten().tolist())


def test_path_of_nothing():
    for b, lam_min in ((torch.zeros(3), 0.0), (torch.ones(3), 100.0)):
        (knot,) = lasso_path(torch.eye(3), b, lam_min=lam_min)
        assert knot.lam == lam_min
        assert not knot.z.any()
        assert knot.z.dtype == torch.float32


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 10_000))
def test_ties_do_not_break_it(m, n, seed):
    # Small integers: equal, opposite and dependent columns, events that fall together.
    rng = np.random.default_rng(seed)
    A = torch.from_numpy(rng.integers(-1, 2, (m, n)).astype(float))
    b = torch.from_numpy(rng.integers(-2, 3, m).astype(float))
    knots = lasso_path(A, b)
    lams = [knot.lam for knot in knots]
    assert lams == sorted(lams, reverse=True)
    for lam in (0.7, 0.11, 0.01):
        z = torch.from_numpy(interpolated(knots, lam))
        assert duality_gap(A, b, z, lam) <= 1e-8


def interpolated(knots, lam):
    rising = knots[::-1]
    levels = np.array([knot.lam for knot in rising])
    z = np.stack([knot.z.numpy() for knot in rising])
    after = np.searchsorted(levels, lam, side="right")
    if after == len(levels):
        return z[-1]
    share = (lam - levels[after - 1]) / (levels[after] - levels[after - 1])
    return (1 - share) * z[after - 1] + share * z[after]


def test_a_path_that_cannot_be_followed_is_warned_of(monkeypatch):
    monkeypatch.setitem(lasso_path.__globals__["MAX_ITER"], "homotopy", 2)
    with pytest.warns(ConvergenceWarning, match="down to lam = .* of the wanted 0.0e"):
        knots = lasso_path(draw(7, 35), draw(7, seed=1))
    assert knots[-1].lam > 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"takes one problem, got a batch of shape \(2,\)"):
        lasso_path(draw(2, 3, 4), draw(2, 3))
    with pytest.raises(ValueError, match="lam_min must be finite and at least 0, got -1"):
        lasso_path(draw(3, 4), draw(3), lam_min=-1.0)
    with pytest.raises(ValueError, match="A must not be empty"):
        lasso_path(draw(3, 0), draw(3))
