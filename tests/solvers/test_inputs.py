"""Inputs of the solvers: NumPy arrays in place of tensors, and mistakes that are refused in one line."""

import numpy as np
import pytest
import torch

import solvers
from solvers import BestSubset, best_subset, duality_gap, lasso, lasso_path, sparsest, truncate

rng = np.random.default_rng(0)
A, b = rng.normal(size=(5, 9)), rng.normal(size=5)
SOLVERS = {
    "lasso": lambda A, b: lasso(A, b, 0.1).z,
    "gap": lambda A, b: lasso(A, b, 0.1).gap,
    "best": lambda A, b: best_subset(A, b, 2).z,
    "prepared": lambda A, b: BestSubset(A, 2)(b).residual,
    "sparsest": lambda A, b: sparsest(A, b, 2).z,
    "path": lambda A, b: lasso_path(A, b)[-1].z,
    "certificate": lambda A, b: duality_gap(A, b, A[0] * 0, 0.1),
}


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
def test_arrays_are_answered_with_arrays(solve):
    answer = solve(A, b)
    expected = solve(torch.from_numpy(A), torch.from_numpy(b))
    assert isinstance(answer, np.ndarray)
    assert isinstance(expected, torch.Tensor)
    assert np.array_equal(answer, expected.numpy())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", "<f8"])
def test_dtypes_of_arrays(dtype):
    result = lasso(A.astype(dtype), b.astype(dtype), 0.1)
    assert result.z.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.allclose(result.z, lasso(A, b, 0.1).z, atol=1e-2)


def test_arrays_of_any_memory_layout():
    expected = lasso(A, b, 0.1).z
    frozen = A.copy()
    frozen.setflags(write=False)
    twice = np.repeat(np.repeat(A, 2, 0), 2, 1)
    for same in (np.asfortranarray(A), frozen, twice[::2, ::2], A[::-1, ::-1][::-1, ::-1]):
        assert np.array_equal(lasso(same, b, 0.1).z, expected)


def test_sequences_of_arrays():
    As, bs = [A, A[:3, :4]], [b, b[:3]]
    result = best_subset(As, bs, [2, np.int64(1)], groups=[np.arange(9), [0, 0, 1, 1]])
    assert all(isinstance(z, np.ndarray) for z in result.z)
    assert [len(z) for z in result.z] == [9, 4]
    assert isinstance(result.residual, np.ndarray)
    cut = truncate(result.z, np.int64(1))
    assert all(isinstance(z, np.ndarray) for z in cut.z)
    assert [float(x) for x in solvers.mutual_coherence(As)] == pytest.approx(
        [float(solvers.mutual_coherence(each)) for each in As]
    )


def test_b_decides_between_arrays_and_tensors():
    assert isinstance(lasso(A, torch.from_numpy(b), 0.1).z, torch.Tensor)
    assert isinstance(lasso(torch.from_numpy(A), b, 0.1).z, np.ndarray)
    prepared = BestSubset(A, 2)
    assert isinstance(prepared(torch.from_numpy(b)).z, torch.Tensor)


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        (A.astype(int), ValueError, "A must be real floating-point, got dtype int64"),
        (A > 0, ValueError, "A must be real floating-point, got dtype bool"),
        (A + 0j, ValueError, "A must be real floating-point, got dtype complex128"),
        (A.astype(object), ValueError, "A must be real floating-point, got dtype object"),
        (A.tolist(), TypeError, r"A\[0\] must be a torch.Tensor or a NumPy array, got list"),
        (None, TypeError, "A must be a tensor, an array, or a sequence .*, got NoneType"),
        (torch.from_numpy(A).to_sparse(), ValueError, "A must be dense, got layout torch.sparse_"),
        (A * np.inf, ValueError, "A must be finite, got 45 NaN or infinite of 45 entries"),
    ],
)
@pytest.mark.parametrize(
    "solve",
    [
        lambda A: lasso(A, b, 0.1),
        lambda A: best_subset(A, b, 2),
        lambda A: BestSubset(A, 2),
        lambda A: sparsest(A, b, 2),
        lambda A: lasso_path(A, b),
        lambda A: duality_gap(A, b, np.zeros(9), 0.1),
        solvers.mutual_coherence,
    ],
)
def test_what_is_no_matrix_is_named(solve, wrong, error, message):
    with pytest.raises(error, match=message):
        solve(wrong)
