"""Behaviour of `solvers.best_subset`."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import best_subset


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def brute_force(A, b, s):
    """Least residual over all supports, and the first support that has it up to rounding."""
    A, b = A.numpy(), b.numpy()
    residuals = {}
    for support in combinations(range(A.shape[1]), s):
        columns = A[:, list(support)]
        fit = np.linalg.lstsq(columns, b, rcond=None)[0]
        residuals[support] = np.linalg.norm(columns @ fit - b)
    least = min(residuals.values())
    return least, next(k for k, v in residuals.items() if v <= least + 1e-12)


@pytest.mark.parametrize("m, n, s", [(7, 14, 2), (7, 35, 2), (7, 12, 3), (7, 9, 1), (4, 6, 6)])
def test_agrees_with_brute_force(m, n, s):
    for seed in range(3):
        A, b = draw(m, n, seed=seed), draw(m, seed=50 + seed)
        result = best_subset(A, b, s)
        least, support = brute_force(A, b, s)
        assert result.support == support
        assert result.residual.item() == pytest.approx(least, rel=1e-10, abs=1e-13)
        assert (A @ result.z - b).norm().item() == pytest.approx(least, rel=1e-10, abs=1e-13)
        assert set(result.z.nonzero().flatten().tolist()) <= set(support)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 2), st.integers(0, 10_000))
def test_ties_and_dependent_columns(m, n, s, seed):
    rng = np.random.default_rng(seed)
    A = torch.from_numpy(rng.integers(-1, 2, (m, n)).astype(float))
    b = torch.from_numpy(rng.integers(-2, 3, m).astype(float))
    result = best_subset(A, b, s)
    least, support = brute_force(A, b, s)
    assert result.support == support
    assert result.residual.item() == pytest.approx(least, abs=1e-10)


def test_nearly_parallel_columns_are_told_apart():
    A = torch.rand(7, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = 1 + 1e-5 * A
    b = A[:, 3] - A[:, 12] + 0.5
    assert best_subset(A, b, 2).support == brute_force(A, b, 2)[1]


def test_scale_does_not_matter():
    A, b = draw(7, 14), draw(7, seed=1)
    assert best_subset(1e-150 * A, 1e-120 * b, 2).support == best_subset(A, b, 2).support


def test_zero_vector_takes_the_first_columns():
    result = best_subset(draw(5, 6), torch.zeros(5, dtype=torch.float64), 2)
    assert result.support == (0, 1)
    assert not result.z.any()


def test_repeated_columns_share_the_least_norm():
    A = torch.ones(3, 2, dtype=torch.float64)
    result = best_subset(A, torch.ones(3, dtype=torch.float64), 2)
    assert torch.allclose(result.z, torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_batches_and_sequences_and_chunks(monkeypatch):
    sizes = [14, 35, 14, 5]
    A = [draw(7, n, seed=i) for i, n in enumerate(sizes)]
    b = [draw(7, seed=50 + i) for i in range(4)]
    alone = [best_subset(*each, 2) for each in zip(A, b, strict=True)]
    together = best_subset(A, b, 2)
    assert together.support == tuple(one.support for one in alone)
    assert all(torch.allclose(z, one.z) for z, one in zip(together.z, alone, strict=True))
    monkeypatch.setitem(best_subset.__globals__, "CHUNK", 100)  # a few supports at a time
    assert best_subset(A, b, 2).support == together.support
    batch = best_subset(torch.stack([A[0], A[2]]), torch.stack([b[0], b[2]]), 2)
    assert batch.support == (alone[0].support, alone[2].support)
    assert batch.z.shape == (2, 14)


def test_float32():
    result = best_subset(draw(7, 14).float(), draw(7, seed=1).float(), 2)
    assert result.z.dtype == result.residual.dtype == torch.float32


def test_an_absurd_search_is_refused():
    with pytest.raises(ValueError, match=r"s = 10 of n = 50 .* 10,272,278,170 supports"):
        best_subset(draw(3, 50), draw(3), 10)


@pytest.mark.parametrize("s, message", [(0, "got 0"), (5, "1 and n = 4, got 5"), (True, "integer")])
def test_bad_s_is_named(s, message):
    with pytest.raises(ValueError, match=f"s must .*{message}"):
        best_subset(draw(3, 4), draw(3), s)
