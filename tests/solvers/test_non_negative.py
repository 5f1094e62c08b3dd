"""Behaviour of the recoveries with z >= 0, and of the cut by value."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn.linear_model import Lasso, lars_path

from solvers import (
    BestSubset,
    best_subset,
    duality_gap,
    lasso,
    lasso_path,
    sparsest,
    truncate,
)

METHODS = ("homotopy", "fista", "ista", "coordinate_descent")
EDGES = [(m, n, s, [j // 4 for j in range(n)]) for m, n, s in ((3, 4, 1), (5, 8, 2), (7, 12, 3))]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@st.composite
def integer_problems(draw_from):
    """Small integers: equal, opposite, zero and dependent columns, and ties."""
    m, n = draw_from(st.integers(1, 4)), draw_from(st.integers(1, 7))
    groups = draw_from(st.none() | st.lists(st.integers(0, 3), min_size=n, max_size=n))
    s = draw_from(st.integers(1, min(3, n if groups is None else len(set(groups)))))
    rng = np.random.default_rng(draw_from(st.integers(0, 10_000)))
    A = torch.from_numpy(rng.integers(-1, 2, (m, n)).astype(float))
    b = torch.from_numpy(rng.integers(-2, 3, m).astype(float))
    return A, b, s, groups


def violation(A, b, lam, z):
    """Largest violation of: a_j'(b - A z) = lam where z_j > 0, at most lam elsewhere; z >= 0."""
    c = A.T @ (b - A @ z) - lam
    return max(torch.where(z > 0, c.abs(), c.clamp(min=0)).max().item(), (-z).max().item())


class TestBestSubset:
    def least(self, A, b, s, groups):
        """The least residual of all admissible supports, by non-negative least squares on each."""
        n = A.shape[1]
        groups = range(n) if groups is None else groups
        supports = [
            support
            for support in combinations(range(n), s)
            if len({groups[j] for j in support}) == s
        ]
        return min(nnls(A.numpy()[:, list(support)], b.numpy())[1] for support in supports)

    def completed(self, A, b, z, s, groups):
        """The columns of z > 0, and of the groups left the largest a_j'(b - A z), one by one."""
        n = A.shape[1]
        groups = range(n) if groups is None else groups
        c = [
            sum(
                Fraction(a) * Fraction(r)
                for a, r in zip(A[:, j].tolist(), (b - A @ z).tolist(), strict=True)
            )
            for j in range(n)
        ]
        c = [round(float(each), 10) for each in c]
        support = z.nonzero().flatten().tolist()
        while len(support) < s:
            left = [j for j in range(n) if groups[j] not in {groups[i] for i in support}]
            support.append(max(left, key=lambda j: (c[j], -j)))
        return tuple(sorted(support))

    @pytest.mark.parametrize(
        "m, n, s, groups", [*EDGES, (7, 14, 2, None), (7, 21, 2, None), (3, 6, 4, None)]
    )
    def test_agrees_with_brute_force(self, m, n, s, groups):
        for seed in range(10):
            A, b = draw(m, n, seed=seed), draw(m, seed=50 + seed)
            result = best_subset(A, b, s, groups=groups, non_negative=True)
            assert (result.z >= 0).all()
            least = self.least(A, b, s, groups)
            assert result.residual.item() == pytest.approx(least, rel=1e-10, abs=1e-13)
            assert (A @ result.z - b).norm().item() == pytest.approx(least, rel=1e-10, abs=1e-13)
            assert result.support == self.completed(A, b, result.z, s, groups)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(integer_problems())
    def test_ties_and_dependent_columns(self, problem):
        A, b, s, groups = problem
        result = best_subset(A, b, s, groups=groups, non_negative=True)
        assert (result.z >= 0).all()
        assert result.residual.item() == pytest.approx(self.least(A, b, s, groups), abs=1e-10)
        assert (A @ result.z - b).norm().item() == pytest.approx(result.residual.item(), abs=1e-10)
        assert result.support == self.completed(A, b, result.z, s, groups)

    def test_every_group_has_one_column_even_where_nothing_fits(self):
        # b is opposite to every column: z = 0, and the least unwilling column of each group stays.
        A = torch.tensor([[1.0, 2.0, 0.5, 3.0]], dtype=torch.float64)
        b = -torch.ones(1, dtype=torch.float64)
        result = best_subset(A, b, 2, groups=[0, 0, 1, 1], non_negative=True)
        assert result.support == (0, 2)
        assert not result.z.any()
        assert result.residual == 1

    def test_a_column_that_is_wanted_with_a_minus_sign_is_not_taken(self):
        A = torch.eye(3, dtype=torch.float64)
        b = torch.tensor([-5.0, 1.0, 2.0], dtype=torch.float64)
        assert best_subset(A, b, 1).support == (0,)
        assert best_subset(A, b, 1, non_negative=True).support == (2,)

    def test_of_equal_columns_the_first(self):
        A = torch.ones(3, 4, dtype=torch.float64)
        result = best_subset(A, torch.ones(3, dtype=torch.float64), 2, non_negative=True)
        assert result.z.tolist() == [1, 0, 0, 0]
        assert result.support == (0, 1)

    def test_the_answer_turns_with_the_sign_of_b(self):
        # A rule on |z| would give one support for b and -b.
        A, b = draw(7, 12), draw(7, seed=1)
        both = best_subset(A, torch.stack([b, -b]), 3, groups=EDGES[2][3], non_negative=True)
        assert both.support[0] != both.support[1]


class TestPrepared:
    @pytest.mark.parametrize("non_negative", [False, True])
    def test_problems_of_different_sizes_and_s_in_one_call(self, non_negative):
        A = [draw(m, n, seed=n) for m, n, _, _ in EDGES]
        sizes, groups = [s for *_, s, _ in EDGES], [each for *_, each in EDGES]
        search = BestSubset(A, sizes, groups=groups, non_negative=non_negative)
        for seed in range(3):
            b = [draw(m, seed=seed) for m, *_ in EDGES]
            result = search(b)
            once = best_subset(A, b, sizes, groups=groups, non_negative=non_negative)
            assert result.support == once.support
            assert [len(support) for support in result.support] == sizes
            assert all(map(torch.equal, result.z, once.z))
            for i in range(3):
                alone = best_subset(
                    A[i], b[i], sizes[i], groups=groups[i], non_negative=non_negative
                )
                assert alone.support == result.support[i]
                assert torch.allclose(alone.z, result.z[i], rtol=1e-12, atol=1e-15)
                assert torch.allclose(alone.residual, result.residual[i])

    @pytest.mark.parametrize("non_negative", [False, True])
    def test_many_right_hand_sides_for_each_matrix(self, non_negative):
        A = [draw(7, n, seed=n) for n in (14, 21, 9)]
        b = [draw(2, 3, 7, seed=50 + i) for i in range(3)]
        search = BestSubset(A, 2, non_negative=non_negative)
        result = search(b)
        assert [z.shape for z in result.z] == [(2, 3, 14), (2, 3, 21), (2, 3, 9)]
        assert result.residual.shape == (3, 2, 3)
        for i in range(3):
            for j in range(6):
                alone = search([each.reshape(6, 7)[j] for each in b])
                assert alone.support[i] == result.support[6 * i + j]
                assert torch.allclose(alone.z[i], result.z[i].reshape(6, -1)[j], rtol=1e-12)
        one = BestSubset(A[0], 2, non_negative=non_negative)(b[0])
        assert one.z.shape == (2, 3, 14)
        assert torch.allclose(one.z, result.z[0], rtol=1e-12)
        assert one.support == result.support[:6]

    def test_batch_dimensions_of_matrices_and_vectors_broadcast(self):
        A, b = draw(3, 1, 5, 8), draw(2, 5, seed=1)
        result = BestSubset(A, 2)(b)
        assert result.z.shape == (3, 2, 8)
        for i in range(3):
            for j in range(2):
                alone = best_subset(A[i, 0], b[j], 2)
                assert torch.allclose(result.z[i, j], alone.z, rtol=1e-12)
                assert result.support[2 * i + j] == alone.support

    def test_chunks_and_what_is_not_kept(self, monkeypatch):
        A = [draw(5, n, seed=n) for n in (9, 9, 6)]
        b = [draw(4, 5, seed=n) for n in range(3)]
        expected = BestSubset(A, 3, non_negative=True)(b)
        for kept, chunk in ((1 << 23, 100), (0, 1000), (0, 1)):
            monkeypatch.setitem(best_subset.__globals__, "KEPT", kept)
            monkeypatch.setitem(best_subset.__globals__, "CHUNK", chunk)
            result = BestSubset(A, 3, non_negative=True)(b)
            assert result.support == expected.support
            assert all(map(torch.allclose, result.z, expected.z))

    def test_dtype_and_device_are_those_of_b_and_a(self):
        search = BestSubset(draw(5, 9).float(), 2)
        assert search(draw(5).float()).z.dtype == torch.float32
        assert search(draw(5)).z.dtype == torch.float64

    def test_bad_input_is_named(self):
        with pytest.raises(
            ValueError, match=r"s must hold 2 integers, one for each problem, got 3"
        ):
            BestSubset([draw(3, 4), draw(3, 5)], [1, 2, 3])
        with pytest.raises(ValueError, match=r"s\[1\] must lie between 1 and n = 5, got 6"):
            BestSubset([draw(3, 4), draw(3, 5)], [1, 6])
        with pytest.raises(ValueError, match=r"s\[0\] must be an integer, got 1\.0"):
            BestSubset([draw(3, 4), draw(3, 5)], [1.0, 2])
        search = BestSubset([draw(3, 4), draw(2, 5)], [1, 2])
        with pytest.raises(ValueError, match=r"b must hold 2 tensors to fit A, got 1"):
            search([draw(3)])
        with pytest.raises(
            ValueError, match=r"b\[1\] must have shape \(2,\) to fit A\[1\] of shape"
        ):
            search([draw(3), draw(3)])
        with pytest.raises(ValueError, match=r"b\[1\] must have shape \(4, 2\) to fit A\[1\]"):
            search([draw(4, 3), draw(2)])
        with pytest.raises(ValueError, match=r"b must have shape \(\.\.\., 3\) to fit A of shape"):
            BestSubset(draw(3, 4), 1)(draw(4))


class TestLasso:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("shape", [(7, 14), (7, 35), (20, 10)])
    def test_meets_the_optimality_conditions(self, method, shape):
        for seed in range(5):
            A, b = draw(*shape, seed=seed), draw(shape[0], seed=50 + seed)
            for lam in (1e-5, 0.1, 1.0):
                result = lasso(A, b, lam, method=method, non_negative=True)
                assert result.converged
                assert violation(A, b, lam, result.z) <= 1e-4 * lam

    @pytest.mark.parametrize("method", METHODS)
    def test_agrees_with_scikit_learn(self, method):
        for seed in range(5):
            A, b, lam = draw(7, 21, seed=seed), draw(7, seed=50 + seed), 0.1
            model = Lasso(
                alpha=lam / 7, fit_intercept=False, positive=True, tol=1e-14, max_iter=1_000_000
            )
            expected = torch.from_numpy(model.fit(A.numpy(), b.numpy()).coef_)
            z = lasso(A, b, lam, method=method, non_negative=True).z
            assert torch.allclose(z, expected, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("shape", [(20, 10), (9, 9)])
    def test_without_penalty_non_negative_least_squares(self, method, shape):
        for seed in range(5):
            A, b = draw(*shape, seed=seed), draw(shape[0], seed=50 + seed)
            result = lasso(A, b, 0.0, method=method, non_negative=True)
            expected, distance = nnls(A.numpy(), b.numpy())
            assert result.converged
            assert np.allclose(result.z.numpy(), expected, rtol=1e-6, atol=1e-9)
            assert (A @ result.z - b).norm().item() == pytest.approx(distance, rel=1e-9)

    @pytest.mark.parametrize("method", METHODS)
    def test_zero_exactly_from_the_largest_useful_lam_on(self, method):
        A, b = draw(7, 21), draw(7, seed=1)
        largest = (A.T @ b).max().item()
        assert largest < (A.T @ b).abs().max().item()
        for factor in (1.0, 1.5, 1e9):
            result = lasso(A, b, largest * factor, method=method, non_negative=True)
            assert not result.z.any()
            assert result.converged
            assert result.iterations == 0
        assert lasso(A, b, largest * 0.999, method=method, non_negative=True).z.any()
        assert not lasso(A.abs(), -b.abs(), 0.0, method=method, non_negative=True).z.any()

    def test_is_the_lasso_of_twice_the_columns_turned_around(self):
        # min over z is min over (u, v) >= 0 of the problem with [A, -A].
        A, b = draw(5, 9), draw(5, seed=1)
        z = lasso(A, b, 0.1).z
        both = lasso(torch.cat([A, -A], 1), b, 0.1, non_negative=True).z
        assert torch.allclose(both[:9] - both[9:], z, rtol=1e-10, atol=1e-13)

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(integer_problems(), st.sampled_from([1e-3, 0.1, 0.5, 1.0]))
    def test_ties_and_dependent_columns(self, problem, lam):
        A, b, *_ = problem
        result = lasso(A, b, lam, non_negative=True)
        assert result.converged
        assert violation(A, b, lam, result.z) <= 1e-4 * lam

    @pytest.mark.parametrize("method", METHODS)
    def test_a_start_with_the_right_support_is_finished_without_iterating(self, method):
        A, b = draw(7, 21), draw(7, seed=1)
        exact = lasso(A, b, 1e-3, non_negative=True)
        start = torch.where(exact.z > 0, 1.3 * exact.z, -1.0)  # what is negative counts as zero
        again = lasso(A, b, 1e-3, method=method, non_negative=True, z0=start)
        assert again.iterations == 0
        assert torch.allclose(again.z, exact.z, rtol=1e-12)

    def test_many_right_hand_sides_for_each_matrix_of_a_sequence(self):
        A, b = [draw(5, 9), draw(3, 4)], [draw(6, 5, seed=1), draw(6, 3, seed=2)]
        result = lasso(A, b, 0.1, non_negative=True)
        assert [z.shape for z in result.z] == [(6, 9), (6, 4)]
        assert result.gap.shape == (2, 6)
        for i in range(2):
            assert torch.allclose(result.z[i], lasso(A[i], b[i], 0.1, non_negative=True).z)
        again = lasso(A, b, 0.1, non_negative=True, z0=result.z)
        assert not again.iterations.any()


class TestGap:
    def gap_by_definition(self, A, b, z, lam):
        """(P - D) / P with the dual point r min(1, lam / max a_j'r), in rational arithmetic."""
        rows = [[Fraction(x) for x in row] for row in A.tolist()]
        b_, z_ = [Fraction(x) for x in b.tolist()], [Fraction(x) for x in z.tolist()]

        def inner(x, y):
            return sum(p * q for p, q in zip(x, y, strict=True))

        r = [y - inner(row, z_) for row, y in zip(rows, b_, strict=True)]
        largest = max(inner(column, r) for column in zip(*rows, strict=True))
        scale = min(Fraction(1), Fraction(lam) / largest) if largest > 0 else Fraction(1)
        primal = inner(r, r) / 2 + Fraction(lam) * sum(z_)
        missing = [y - scale * x for y, x in zip(b_, r, strict=True)]
        gap = primal - inner(b_, b_) / 2 + inner(missing, missing) / 2
        return min(float(gap / primal), 1.0)

    @pytest.mark.parametrize("lam", [10.0, 0.1, 1e-5])
    def test_equals_its_definition(self, lam):
        for seed in range(5):
            A, b, z = draw(5, 12), draw(5, seed=1), draw(12, seed=2 + seed).clamp(min=0)
            expected = self.gap_by_definition(A, b, z, lam)
            gap = duality_gap(A, b, z, lam, non_negative=True).item()
            assert gap == pytest.approx(expected, rel=1e-9, abs=1e-15)

    def test_is_smaller_than_that_without_the_constraint(self):
        A, b = draw(7, 21), draw(7, seed=1)
        z = lasso(A, b, 0.1, non_negative=True).z
        assert duality_gap(A, b, z, 0.1, non_negative=True) <= 1e-12
        assert duality_gap(A, b, z, 0.1) > 0.01

    def test_without_penalty_zero_at_non_negative_least_squares_only(self):
        A, b = draw(12, 5), draw(12, seed=1)
        z = torch.from_numpy(nnls(A.numpy(), b.numpy())[0])
        assert (z == 0).any()
        assert duality_gap(A, b, z, 0.0, non_negative=True) <= 1e-15
        gap = duality_gap(A, b, z + 0.1, 0.0, non_negative=True)
        moved = (A @ (z + 0.1) - b).square().sum()
        least = (A @ z - b).square().sum()
        assert gap >= (moved - least) / moved * (1 - 1e-12)

    def test_a_negative_entry_is_refused(self):
        with pytest.raises(ValueError, match=r"z must be at least 0 .*, got -0\.5"):
            duality_gap(draw(3, 2), draw(3), torch.tensor([1.0, -0.5]), 0.1, non_negative=True)


class TestPath:
    @pytest.mark.parametrize("shape", [(7, 14), (7, 35), (20, 10)])
    def test_agrees_with_lars_path(self, shape):
        for seed in range(3):
            A, b = draw(*shape, seed=seed), draw(shape[0], seed=50 + seed)
            alphas, _, expected = lars_path(A.numpy(), b.numpy(), method="lasso", positive=True)
            knots = lasso_path(A, b, non_negative=True)
            # Its alpha is lam / m, and its end is no solution: its documentation promises no more
            # than the path down to the last alpha above zero.
            last = np.flatnonzero(alphas > 0)[-1] + 1
            lam = [knot.lam for knot in knots[:last]]
            assert lam == pytest.approx(alphas[:last] * shape[0], rel=1e-8)
            ours = np.stack([knot.z.numpy() for knot in knots[:last]], axis=1)
            assert np.abs(ours - expected[:, :last]).max() <= 1e-8

    def test_begins_and_ends_where_it_should(self):
        A, b = draw(9, 6), draw(9, seed=1)
        knots = lasso_path(A, b, non_negative=True)
        assert knots[0].lam == pytest.approx((A.T @ b).max().item())
        assert knots[0].support == ()
        assert knots[-1].lam == 0
        assert np.allclose(knots[-1].z.numpy(), nnls(A.numpy(), b.numpy())[0], atol=1e-12)
        (only,) = lasso_path(A.abs(), -b.abs(), non_negative=True)
        assert only.lam == 0
        assert not only.z.any()


class TestSparsest:
    @pytest.mark.parametrize("m, n, s, groups", [*EDGES, (7, 14, 2, None), (7, 35, 3, None)])
    def test_is_a_point_of_the_path_refitted(self, m, n, s, groups):
        labels = range(n) if groups is None else groups
        for seed in range(10):
            A, b = draw(m, n, seed=seed), draw(m, seed=50 + seed)
            result = sparsest(A, b, s, groups=groups, non_negative=True)
            fit, distance = nnls(A.numpy()[:, list(result.support)], b.numpy())
            assert np.allclose(result.z[list(result.support)].numpy(), fit, atol=1e-10)
            assert result.residual.item() == pytest.approx(distance, rel=1e-10)
            touched = [
                {labels[j] for j in knot.support} for knot in lasso_path(A, b, non_negative=True)
            ]
            assert len(result.support) == min(s, max(map(len, touched)))
            assert {labels[j] for j in result.support} in touched

    def test_sizes_can_differ(self):
        A, b = [draw(7, 14), draw(5, 9)], [draw(7, seed=1), draw(5, seed=2)]
        together = sparsest(A, b, [3, 1])
        for i, s in enumerate((3, 1)):
            alone = sparsest(A[i], b[i], s)
            assert together.support[i] == alone.support
            assert torch.allclose(together.z[i], alone.z, rtol=1e-12)


class TestSignedCut:
    def test_keeps_the_largest_values(self):
        z = torch.tensor([0.5, -3.0, 2.0, 0.0, 1.0])
        assert truncate(z, 2).support == (1, 2)
        result = truncate(z, 2, signed=True)
        assert result.support == (2, 4)
        assert result.z.tolist() == [0, 0, 2, 0, 1]
        assert result.residual.item() == pytest.approx((0.25 + 9) ** 0.5)

    def test_negative_ones_only_where_there_are_not_enough_others(self):
        z = torch.tensor([-1.0, -0.5, 2.0, 0.0])
        assert truncate(z, 2, signed=True).support == (2, 3)
        assert truncate(z, 3, signed=True).support == (1, 2, 3)

    def test_what_is_not_positive_goes_by_ties(self):
        z = torch.tensor([-1.0, 0.0, 2.0, 0.0, 1.0, 1.0])
        ties = torch.tensor([0.9, 0.1, -5.0, 0.3, 0.0, 0.5])
        kept = [truncate(z, s, signed=True, ties=ties).support for s in (1, 2, 3, 4, 5, 6)]
        order = [set(b) - set(a) for a, b in zip([(), *kept], kept, strict=False)]
        assert order == [{2}, {5}, {4}, {0}, {3}, {1}]

    def test_magnitudes_go_by_ties_too_where_they_are_equal(self):
        z = torch.tensor([1.0, -1.0, 0.5])
        assert truncate(z, 1).support == (0,)
        assert truncate(z, 1, ties=torch.tensor([0.0, 1.0, 9.0])).support == (1,)

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(st.lists(st.integers(-2, 2), min_size=1, max_size=8), st.data())
    def test_agrees_with_sorting(self, values, data):
        n = len(values)
        groups = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
        ties = data.draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n))
        s = data.draw(st.integers(1, len(set(groups))))
        expected: list[int] = []
        for j in sorted(range(n), key=lambda j: (-max(values[j], 0), -ties[j], -values[j], j)):
            if len(expected) < s and groups[j] not in {groups[i] for i in expected}:
                expected.append(j)
        z, c = (torch.tensor(each, dtype=torch.float64) for each in (values, ties))
        result = truncate(z, s, groups, signed=True, ties=c)
        assert result.support == tuple(sorted(expected))

    def test_of_a_lasso_solution_the_cut_agrees_with_the_path(self):
        # The next column to become positive is the one whose correlation is nearest to lam.
        A, b = torch.eye(4, dtype=torch.float64), torch.tensor([0.9, 2.0, 0.7, -3.0]).double()
        z = lasso(A, b, 1.0).z
        assert truncate(z, 2, signed=True, ties=A.T @ (b - A @ z)).support == (0, 1)
        assert truncate(z, 3, signed=True, ties=A.T @ (b - A @ z)).support == (0, 1, 2)

    def test_sequences_with_many_vectors_each(self):
        z = [draw(3, 6), draw(3, 4, seed=1)]
        ties = [draw(3, 6, seed=2), draw(3, 4, seed=3)]
        result = truncate(z, [2, 1], [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1]], signed=True, ties=ties)
        assert [each.shape for each in result.z] == [(3, 6), (3, 4)]
        assert [len(support) for support in result.support] == [2, 2, 2, 1, 1, 1]
        alone = truncate(z[1][2], 1, [0, 1, 1, 1], signed=True, ties=ties[1][2])
        assert alone.support == result.support[5]
        with pytest.raises(ValueError, match=r"ties\[1\] must have shape \(3, 4\) to fit z, got"):
            truncate(z, 1, signed=True, ties=[ties[0], ties[1][0]])
