"""Behaviour of `solvers.lasso`."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from sklearn.linear_model import Lasso, LassoLars

import solvers
from solvers import ConvergenceWarning, lasso, measurement_matrix

METHODS = ("homotopy", "fista", "ista", "coordinate_descent")
ITERATIVE = METHODS[1:]
LAM = 1e-5


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def relative_difference(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).abs().max() / y.abs().max())


# --- Right answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e-1, 1.0])
@pytest.mark.parametrize("kind", ["gaussian", "uniform", "orthogonal"])
def test_homotopy_meets_the_optimality_conditions(recovery, violation, kind, scale):
    for seed in range(5):
        A, b = recovery(kind, scale, seed)
        result = lasso(A, b, LAM)
        assert result.converged.all()
        assert result.gap.max() <= 1e-9
        assert (
            max(violation(*each, LAM, z) for *each, z in zip(A, b, result.z, strict=True)) <= 1e-7
        )


@pytest.mark.parametrize("scale", [1e-3, 1e-1, 1.0])
@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_homotopy_agrees_with_lasso_lars(recovery, kind, scale):
    A, b = recovery(kind, scale, 11)
    ours = lasso(A, b, LAM).z
    for matrix, vector, z in zip(A, b, ours, strict=True):
        # At unit scale: it stops within 1e-7 of the wanted alpha, which is 8% of LAM / 7.
        model = LassoLars(alpha=LAM / scale / 7, fit_intercept=False)
        expected = torch.from_numpy(model.fit(matrix.numpy(), vector.numpy() / scale).coef_)
        assert relative_difference(z / scale, expected) <= 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_coordinate_descent_of_scikit_learn_at_tight_tolerance(method):
    A, b, lam = draw(7, 21), draw(7, seed=1), 0.1
    model = Lasso(alpha=lam / 7, fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    expected = torch.from_numpy(model.fit(A.numpy(), b.numpy()).coef_)
    assert relative_difference(lasso(A, b, lam, method=method).z, expected) <= 1e-6


@pytest.mark.parametrize("scale", [1e-3, 1e-1, 1.0])
@pytest.mark.parametrize("method", ITERATIVE)
def test_iterative_methods_reach_the_exact_answer_for_gaussian_matrices(recovery, method, scale):
    A, b = recovery("gaussian", scale, 3)
    exact = lasso(A, b, LAM)
    result = lasso(A, b, LAM, method=method)
    assert result.method == method
    assert result.converged.all()
    assert max(map(relative_difference, result.z, exact.z)) <= 1e-8


@pytest.mark.parametrize("scale", [1e-3, 1e-1, 1.0])
@pytest.mark.parametrize("method", ITERATIVE)
def test_iterative_methods_reach_the_exact_answer_for_uniform_matrices(recovery, method, scale):
    A, b = recovery("uniform", scale, 4)
    exact = lasso(A, b, LAM)
    result = lasso(A, b, LAM, method=method)
    assert result.converged.all()
    assert max(map(relative_difference, result.z, exact.z)) <= 1e-8


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("method", ["homotopy", "fista"])
def test_ill_conditioned_columns_are_certified(violation, method, spread):
    # Nearly parallel columns: the condition number is about 3 / spread.
    A = 1 + spread * draw(5, 12)
    b, lam = draw(5, seed=1), 0.1
    result = lasso(A, b, lam, method=method)
    assert result.converged
    assert violation(A, b, lam, result.z) <= 1e-3


def test_more_rows_than_columns_and_wide_problems(violation):
    for m, n in ((40, 6), (6, 6), (30, 80), (1, 5), (5, 1), (1, 1)):
        A, b = draw(m, n), draw(m, seed=1)
        lam = 0.05 * (A.T @ b).abs().max().item()
        result = lasso(A, b, lam)
        assert result.converged
        assert violation(A, b, lam, result.z) <= 1e-9, (m, n)


@pytest.mark.parametrize("method", METHODS)
def test_zero_exactly_from_the_largest_useful_lam_on(method):
    A, b = draw(7, 21), draw(7, seed=1)
    largest = (A.T @ b).abs().max().item()
    for factor in (1.0, 1.5, 1e9):
        result = lasso(A, b, largest * factor, method=method)
        assert not result.z.any()
        assert result.converged
        assert result.iterations == 0
    assert lasso(A, b, largest * 0.999, method=method).z.any()


@pytest.mark.parametrize("method", METHODS)
def test_zero_vector_gives_zero(method):
    result = lasso(draw(7, 14), torch.zeros(7, dtype=torch.float64), LAM, method=method)
    assert not result.z.any()
    assert result.gap == 0


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_columns(violation, method):
    A = draw(5, 8)
    A[:, 1] = 0
    A[:, 3] = A[:, 2]
    A[:, 5] = -2 * A[:, 4]
    A[4] = A[3]  # and rank 4
    b, lam = draw(5, seed=2), 0.05
    result = lasso(A, b, lam, method=method)
    assert result.converged
    assert violation(A, b, lam, result.z) <= 1e-3
    assert result.z[1] == 0


def test_of_equal_columns_the_first_is_taken():
    A = draw(5, 6)
    result = lasso(torch.cat([A, A], 1), draw(5, seed=1), 0.05)
    assert not result.z[6:].any()
    assert result.z[:6].any()


def test_all_zero_matrix():
    result = lasso(torch.zeros(3, 4), torch.ones(3), 0.1)
    assert not result.z.any()
    assert result.converged


@pytest.mark.parametrize("method", METHODS)
def test_without_penalty_a_least_squares_solution(method):
    A, b = draw(20, 6), draw(20, seed=1)
    expected = torch.linalg.lstsq(A, b[:, None]).solution[:, 0]
    result = lasso(A, b, 0.0, method=method)
    assert result.converged
    assert relative_difference(result.z, expected) <= 1e-8


def test_without_penalty_homotopy_gives_the_least_l1_norm():
    A, b = draw(7, 21), draw(7, seed=1)
    z = lasso(A, b, 0.0).z
    # min 1'(u + v) subject to A (u - v) = b, u, v >= 0.
    program = linprog(np.ones(42), A_eq=np.hstack([A.numpy(), -A.numpy()]), b_eq=b.numpy())
    assert (A @ z - b).abs().max() <= 1e-12
    assert z.abs().sum().item() == pytest.approx(program.fun, rel=1e-9)


def test_exactly_sparse_code_is_recovered():
    A = measurement_matrix(20, 50, generator=torch.Generator().manual_seed(0))
    z = torch.zeros(50, dtype=torch.float64)
    z[[3, 30]] = torch.tensor([0.3, -0.2], dtype=torch.float64)
    recovered = lasso(A, A @ z, 0.0).z
    assert (recovered - z).abs().max() <= 1e-14
    assert recovered.nonzero().flatten().tolist() == [3, 30]


@pytest.mark.parametrize("factor_A, factor_b", [(1e-6, 1e-9), (1e8, 1e-3), (3.7, 1e12)])
def test_scale_of_the_problem_does_not_matter(factor_A, factor_b):
    A, b, lam = draw(7, 21), draw(7, seed=1), 0.01
    plain = lasso(A, b, lam)
    scaled = lasso(factor_A * A, factor_b * b, factor_A * factor_b * lam)
    assert scaled.converged
    assert relative_difference(scaled.z * (factor_A / factor_b), plain.z) <= 1e-10


integers = st.integers(-2, 2)


@st.composite
def small_problems(draw_from):
    m, n = draw_from(st.integers(1, 6)), draw_from(st.integers(1, 10))
    entry = draw_from(st.sampled_from([integers, st.floats(-1, 1, width=16)]))
    A = draw_from(st.lists(entry, min_size=m * n, max_size=m * n))
    b = draw_from(st.lists(entry, min_size=m, max_size=m))
    lam = draw_from(st.sampled_from([1e-3, 0.1, 0.5, 1.0, 2.0]))
    return (
        torch.tensor(A, dtype=torch.float64).reshape(m, n),
        torch.tensor(b, dtype=torch.float64),
        lam,
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(small_problems())
def test_any_small_problem_is_certified_by_homotopy(problem):
    A, b, lam = problem
    result = lasso(A, b, lam)
    assert result.converged
    best = result.z
    objective = 0.5 * ((A @ best - b) ** 2).sum() + lam * best.abs().sum()
    # No single coordinate can be moved to advantage.
    for step in (1e-3, -1e-3):
        moved = best + step * torch.eye(len(best), dtype=torch.float64)
        others = 0.5 * ((moved @ A.T - b) ** 2).sum(1) + lam * moved.abs().sum(1)
        assert (others >= objective - 1e-9).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(small_problems())
def test_any_small_problem_has_one_objective_for_all_methods(problem):
    A, b, lam = problem
    objectives = []
    for method in METHODS:
        z = lasso(A, b, lam, method=method).z
        objectives.append((0.5 * ((A @ z - b) ** 2).sum() + lam * z.abs().sum()).item())
    assert max(objectives) - min(objectives) <= 1e-7 * max(objectives)


# --- Batches, types, devices -----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_problems_of_different_sizes_in_one_call(method):
    shapes = [(7, 14), (3, 20), (9, 4), (1, 1)]
    A = [draw(*shape, seed=i) for i, shape in enumerate(shapes)]
    b = [draw(m, seed=10 + i) for i, (m, _) in enumerate(shapes)]
    lam = [0.1, 0.2, 0.3, 0.01]
    together = lasso(A, b, lam, method=method)
    assert isinstance(together.z, tuple)
    assert together.gap.shape == together.iterations.shape == together.converged.shape == (4,)
    for i, z in enumerate(together.z):
        alone = lasso(A[i], b[i], lam[i], method=method)
        assert z.shape == alone.z.shape == (shapes[i][1],)
        assert torch.allclose(z, alone.z, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_batch_dimensions(method):
    A, b = draw(2, 3, 5, 9), draw(2, 3, 5, seed=1)
    lam = torch.tensor([0.1, 0.2, 0.4])
    result = lasso(A, b, lam, method=method)
    assert result.z.shape == (2, 3, 9)
    assert result.gap.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = lasso(A[i, j], b[i, j], lam[j].item(), method=method)
            assert torch.allclose(result.z[i, j], alone.z, rtol=1e-9, atol=1e-12)


def test_one_matrix_serves_a_batch_of_vectors():
    A, b = draw(5, 9), draw(4, 5, seed=1)
    result = lasso(A, b, 0.1)
    assert result.z.shape == (4, 9)
    assert torch.equal(result.z[2], lasso(A, b[2], 0.1).z)


def test_single_problem_gives_scalars():
    result = lasso(draw(5, 9), draw(5, seed=1), 0.1)
    assert result.z.shape == (9,)
    assert result.gap.shape == result.iterations.shape == result.converged.shape == ()
    assert result.iterations.dtype == torch.int64
    assert result.converged.dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_in_float64_inside(dtype):
    A, b = draw(7, 35).to(dtype), draw(7, seed=1).to(dtype)
    result = lasso(A, b, LAM)
    exact = lasso(A.double(), b.double(), LAM)
    assert result.z.dtype == result.gap.dtype == dtype
    assert result.converged
    assert torch.equal(result.z, exact.z.to(dtype))


def test_inputs_are_left_alone_and_outputs_detached():
    A, b = draw(7, 14).requires_grad_(), draw(7, seed=1).requires_grad_()
    before = A.detach().clone(), b.detach().clone()
    result = lasso(A, b, 0.1, z0=torch.ones(14, dtype=torch.float64))
    assert not result.z.requires_grad
    assert torch.equal(A, before[0])
    assert torch.equal(b, before[1])


def test_same_input_same_answer_bit_for_bit(recovery):
    A, b = recovery("uniform", 1e-2, 0)
    first, second = lasso(A, b, LAM), lasso(A, b, LAM)
    assert all(map(torch.equal, first.z, second.z))


# --- Starts, limits, certificates --------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_start_with_the_right_support_is_finished_without_iterating(method):
    A, b = draw(7, 21), draw(7, seed=1)
    exact = lasso(A, b, LAM)
    again = lasso(A, b, LAM, method=method, z0=1.3 * exact.z)
    assert again.iterations == 0
    assert relative_difference(again.z, exact.z) <= 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_start_does_not_matter(method):
    A, b = draw(7, 21), draw(7, seed=1)
    exact = lasso(A, b, LAM)
    result = lasso(A, b, LAM, method=method, z0=draw(21, seed=5))
    assert result.converged
    assert relative_difference(result.z, exact.z) <= 1e-8


@pytest.mark.parametrize("method", ITERATIVE)
def test_a_start_near_the_answer_saves_iterations(method):
    A, b = draw(7, 35), draw(7, seed=1)
    cold = lasso(A, b, LAM, method=method)
    warm = lasso(A, b, LAM, method=method, z0=cold.z + 1e-9)
    assert warm.converged
    assert warm.iterations < cold.iterations


@pytest.mark.parametrize("method", METHODS)
def test_not_converged_is_said_and_warned_of(method, recovery):
    A, b = recovery("uniform", 1e-1, 0)
    with pytest.warns(ConvergenceWarning, match=r"[78] of 8 .* max_iter = 2 .* gap is .* tol = 1"):
        result = lasso(A, b, LAM, method=method, max_iter=2)
    assert result.converged.tolist() == (result.gap <= 1e-8).tolist()
    expected = [
        solvers.duality_gap(*each, z, LAM).item() for *each, z in zip(A, b, result.z, strict=True)
    ]
    assert result.gap.tolist() == pytest.approx(expected, rel=1e-6)


def test_converged_problems_of_a_batch_are_told_from_the_others():
    A, b = draw(2, 7, 21), draw(2, 7, seed=1)
    with pytest.warns(ConvergenceWarning, match="1 of 2 problems"):
        result = lasso(A, b, [1e3, LAM], method="ista", max_iter=5)
    assert result.converged.tolist() == [True, False]


def test_a_tolerance_beyond_float64_is_not_claimed():
    with pytest.warns(ConvergenceWarning, match="wanted tol = 1.0e-20"):
        result = lasso(draw(7, 35), draw(7, seed=1), LAM, tol=1e-20, max_iter=200)
    assert not result.converged
    assert result.gap < 1e-8


def test_path_cut_short_is_taken_over_by_fista():
    A, b = draw(7, 21), draw(7, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        short = lasso(A, b, 1e-3, max_iter=3)
    assert short.iterations > 3


# --- Bad input -------------------------------------------------------------------------------

A_OK, B_OK = draw(3, 5), draw(3, seed=1)
NAN = torch.tensor([0.0, float("nan"), 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "A, b, lam, options, message",
    [
        (A_OK, NAN, 0.1, {}, r"b must be finite, got 1 NaN or infinite of 3"),
        (A_OK / 0, B_OK, 0.1, {}, r"A must be finite, got 15 NaN"),
        (A_OK, B_OK[:2], 0.1, {}, r"b must have shape \(\.\.\., 3\) .* A .*\(3, 5\), got \(2,\)"),
        (A_OK[0], B_OK, 0.1, {}, r"A must have shape \(\.\.\., m, n\), got \(5,\)"),
        (A_OK[:, :0], B_OK, 0.1, {}, r"A must not be empty, got shape \(3, 0\)"),
        (A_OK, B_OK.expand(0, 3), 0.1, {}, r"b must not be empty, got shape \(0, 3\)"),
        (A_OK.expand(2, 3, 5), B_OK.expand(4, 3), 0.1, {}, r"batch .* of b .*\(2,\), got \(4,\)"),
        (A_OK.int(), B_OK, 0.1, {}, r"A must be real floating-point, got dtype torch.int32"),
        ([A_OK, A_OK], [B_OK], 0.1, {}, r"b must hold 2 tensors to fit A, got 1"),
        ([A_OK, A_OK], [B_OK, NAN], 0.1, {}, r"b\[1\] must be finite"),
        ([A_OK], [B_OK[:2]], 0.1, {}, r"b\[0\] must have shape \(3,\) .* got \(2,\)"),
        ([A_OK[None]], [B_OK], 0.1, {}, r"A\[0\] must have shape \(m, n\), got \(1, 3, 5\)"),
        ([], [], 0.1, {}, r"A must not be empty, got a sequence of length 0"),
        (A_OK, B_OK, -0.5, {}, r"lam must be finite and at least 0, got -0.5"),
        (A_OK, B_OK, float("nan"), {}, r"lam must be finite and at least 0, got nan"),
        (A_OK, B_OK, [0.1, 0.2], {}, r"lam .* batch shape \(\), got shape \(2,\)"),
        (A_OK, B_OK, 0.1, {"method": "newton"}, r"method must be one of homotopy, .*'newton'"),
        (A_OK, B_OK, 0.1, {"tol": 0}, r"tol must be a positive number, got 0"),
        (A_OK, B_OK, 0.1, {"tol": float("nan")}, r"tol must be a positive number, got nan"),
        (A_OK, B_OK, 0.1, {"max_iter": 0}, r"max_iter must be a positive integer, got 0"),
        (A_OK, B_OK, 0.1, {"max_iter": 1.5}, r"max_iter must be a positive integer, got 1.5"),
        (A_OK, B_OK, 0.1, {"z0": B_OK}, r"z0 must have shape \(5,\) to fit A, got \(3,\)"),
        ([A_OK], [B_OK], 0.1, {"z0": [B_OK]}, r"z0\[0\] must have shape \(5,\) .* got \(3,\)"),
        (A_OK, B_OK, 0.1, {"z0": A_OK[0] / 0}, r"z0 must be finite"),
    ],
)
def test_bad_values_are_named(A, b, lam, options, message):
    with pytest.raises(ValueError, match=message):
        lasso(A, b, lam, **options)


@pytest.mark.parametrize(
    "A, b, lam, message",
    [
        ("A", B_OK, 0.1, r"A must be a tensor, an array, or a sequence of .* arrays, got str"),
        (A_OK.tolist(), B_OK, 0.1, r"A\[0\] must be a torch.Tensor or a NumPy array, got list"),
        (A_OK, B_OK.tolist(), 0.1, r"b must be a torch.Tensor or a NumPy array, got list"),
        ([A_OK], B_OK, 0.1, r"b must be a sequence of tensors or of arrays, got Tensor"),
        ([A_OK, 3], [B_OK, B_OK], 0.1, r"A\[1\] must be a torch.Tensor or a NumPy array, got int"),
        (A_OK, B_OK, "small", r"lam must be a number or a tensor, got str"),
        (A_OK, B_OK, None, r"lam must be a number or a tensor, got NoneType"),
    ],
)
def test_wrong_types_are_named(A, b, lam, message):
    with pytest.raises(TypeError, match=message):
        lasso(A, b, lam)


def test_tensors_on_two_devices_are_refused():
    with pytest.raises(ValueError, match="b must be on A's device, cpu, got meta"):
        lasso(A_OK, B_OK.to("meta"), 0.1)
