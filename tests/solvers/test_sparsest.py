"""Behaviour of `solvers.sparsest`."""

from itertools import pairwise

import pytest
import torch

from solvers import lasso_path, sparsest


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("s", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [14, 35])
def test_is_the_first_point_of_the_path_with_s_non_zeros_refitted(n, s):
    for seed in range(5):
        A, b = draw(7, n, seed=seed), draw(7, seed=100 + seed)
        # Between two knots everything is active that is not zero at both.
        between = (set(x.support) | set(y.support) for x, y in pairwise(lasso_path(A, b)))
        support = next(tuple(sorted(each)) for each in between if len(each) == s)
        result = sparsest(A, b, s)
        assert result.support == support
        fit = torch.linalg.lstsq(A[:, list(support)], b[:, None]).solution[:, 0]
        assert torch.allclose(result.z[list(support)], fit, rtol=1e-10)
        assert result.z.count_nonzero() == s
        assert result.residual.item() == pytest.approx((A @ result.z - b).norm().item())


def test_recovers_an_exactly_sparse_code():
    A, z = draw(20, 40), torch.zeros(40, dtype=torch.float64)
    z[[4, 17]] = torch.tensor([1.0, -2.0], dtype=torch.float64)
    result = sparsest(A, A @ z, 2)
    assert result.support == (4, 17)
    assert torch.allclose(result.z, z, atol=1e-13)
    assert result.residual <= 1e-13


def test_fewer_when_the_path_never_has_s():
    A, z = draw(20, 40), torch.zeros(40, dtype=torch.float64)
    z[[4, 17]] = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert sparsest(A, A @ z, 5).support == (4, 17)  # b is explained by two columns
    column = draw(5, 1)
    assert sparsest(column.expand(5, 6), draw(5, seed=1), 3).support == (0,)  # rank one


def test_zero_vector_has_the_empty_support():
    result = sparsest(draw(5, 6), torch.zeros(5, dtype=torch.float64), 2)
    assert result.support == ()
    assert not result.z.any()
    assert result.residual == 0


def test_ties_go_to_the_lowest_index():
    assert sparsest(torch.eye(4), torch.ones(4), 2).support == (0, 1)


def test_batches_and_sequences():
    A, b = draw(3, 7, 14), draw(3, 7, seed=1)
    alone = [sparsest(A[i], b[i], 2) for i in range(3)]
    for together in (sparsest(A, b, 2), sparsest(list(A), list(b), 2)):
        assert together.support == tuple(one.support for one in alone)
        assert together.residual.shape == (3,)
        for i in range(3):
            assert torch.allclose(together.z[i], alone[i].z, rtol=1e-12)
    mixed = sparsest([draw(7, 14), draw(4, 30, seed=3)], [draw(7, seed=1), draw(4, seed=2)], 2)
    assert [len(z) for z in mixed.z] == [14, 30]
    assert mixed.support[1] == sparsest(draw(4, 30, seed=3), draw(4, seed=2), 2).support


def test_dtype_is_kept():
    assert sparsest(draw(7, 14).float(), draw(7, seed=1).float(), 2).z.dtype == torch.float32


@pytest.mark.parametrize("s, message", [(0, "got 0"), (5, "1 and n = 4, got 5"), (2.0, "integer")])
def test_bad_s_is_named(s, message):
    with pytest.raises(ValueError, match=f"s must .*{message}"):
        sparsest(draw(3, 4), draw(3), s)
