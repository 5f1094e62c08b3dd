"""Behaviour of `solvers.measurement_matrix` and `solvers.mutual_coherence`."""

import math

import pytest
import torch

from solvers import measurement_matrix, mutual_coherence


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gaussian_has_variance_one_over_m():
    A = measurement_matrix(50, 4000, generator=seeded())
    assert A.mean().abs() < 2e-3
    assert A.var().item() == pytest.approx(1 / 50, rel=0.02)
    assert A.square().sum(0).mean().item() == pytest.approx(1, rel=0.02)


def test_uniform_lies_on_the_unit_interval():
    A = measurement_matrix(50, 400, "uniform", generator=seeded())
    assert 0 <= A.min() < 0.01
    assert 0.99 < A.max() < 1
    assert A.mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("m, n", [(7, 35), (7, 7), (9, 4), (1, 5)])
def test_orthogonal_has_orthonormal_rows_or_columns(m, n):
    A = measurement_matrix(m, n, "orthogonal", generator=seeded())
    assert A.shape == (m, n)
    if m <= n:
        assert torch.allclose(A @ A.T, n / m * torch.eye(m, dtype=A.dtype), atol=1e-12)
    else:
        assert torch.allclose(A.T @ A, torch.eye(n, dtype=A.dtype), atol=1e-12)
    assert A.square().sum(0).mean().item() == pytest.approx(1)


def test_orthogonal_has_no_preferred_sign():
    corners = [measurement_matrix(3, 3, "orthogonal", generator=seeded(i))[0, 0] for i in range(99)]
    assert 30 < sum(corner > 0 for corner in corners) < 70


@pytest.mark.parametrize("kind", ["gaussian", "normalised", "uniform", "orthogonal"])
def test_the_generator_decides(kind):
    first = measurement_matrix(7, 14, kind, generator=seeded(1), dtype=torch.float32)
    same = measurement_matrix(7, 14, kind, generator=seeded(1), dtype=torch.float32)
    other = measurement_matrix(7, 14, kind, generator=seeded(2), dtype=torch.float32)
    assert first.dtype == torch.float32
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert measurement_matrix(2, 3, kind).dtype == torch.float64


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 3), "m must be a positive integer, got 0"),
        ((3, 2.5), "n must be a positive integer, got 2.5"),
        (
            (3, 3, "sparse"),
            "kind must be one of gaussian, normalised, uniform, orthogonal, balanced, got 'sparse'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        measurement_matrix(*arguments)


def test_bad_dtype_is_named():
    with pytest.raises(ValueError, match=r"dtype must be a floating-point type, got torch\.int64"):
        measurement_matrix(2, 3, dtype=torch.int64)


def test_coherence_of_known_matrices():
    assert mutual_coherence(torch.eye(3)) == 0
    A = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
    assert mutual_coherence(A).item() == pytest.approx(math.sqrt(0.5))
    assert mutual_coherence(torch.tensor([[1.0, -2.0], [1.0, -2.0]])).item() == pytest.approx(1)


def test_coherence_ignores_zero_columns_and_scale():
    A = torch.randn(4, 6, generator=seeded(), dtype=torch.float64)
    expected = mutual_coherence(A)
    padded = torch.cat([A * torch.logspace(-200, 200, 6, dtype=A.dtype), torch.zeros(4, 2)], 1)
    assert mutual_coherence(padded).item() == pytest.approx(expected.item())
    assert mutual_coherence(torch.tensor([[1.0, 0.0]])) == 0
    assert mutual_coherence(torch.ones(3, 1)) == 0


def test_coherence_of_a_batch():
    A = torch.randn(2, 3, 4, 6, generator=seeded())
    result = mutual_coherence(A)
    assert result.shape == (2, 3)
    assert result.dtype == torch.float32
    assert result[1, 2].item() == pytest.approx(mutual_coherence(A[1, 2]).item())


def test_uniform_matrices_are_more_coherent_than_gaussian_ones():
    uniform = mutual_coherence(measurement_matrix(7, 21, "uniform", generator=seeded()))
    gaussian = mutual_coherence(measurement_matrix(7, 21, generator=seeded()))
    assert uniform > 0.93 > gaussian


def test_coherence_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"A must have shape \(\.\.\., m, n\), got \(3,\)"):
        mutual_coherence(torch.ones(3))
    with pytest.raises(TypeError, match=r"A\[0\] must be a torch\.Tensor or .*, got list"):
        mutual_coherence([[1.0]])


def test_coherence_of_matrices_of_different_sizes():
    matrices = [measurement_matrix(m, n, generator=seeded()) for m, n in ((7, 21), (3, 5), (4, 1))]
    together = mutual_coherence(matrices)
    assert together.tolist() == [mutual_coherence(matrix).item() for matrix in matrices]
