"""Behaviour of the recovery rules when of each group of columns at most one may be active."""

from itertools import combinations, pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import best_subset, lasso_path, sparsest, truncate
from solvers._groups import admissible_supports, count_supports

# Edges of a cell: columns of a group side by side, scattered, and of uneven number.
LAYOUTS = (
    (2, (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)),
    (3, (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)),
    (2, (5, -1, 5, 7, -1, 7, 7, 5, 0, 0)),
    (4, (3, 1, 2, 0, 3, 3, 1, 0, 9)),
    (1, (4, 4, 4, 4, 4)),
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def admissible(groups, s):
    """All supports of s columns from s different groups, by filtering every choice."""
    every = combinations(range(len(groups)), s)
    return [support for support in every if len({groups[j] for j in support}) == s]


def residual_on(A, b, support):
    """||b - A_S z_S|| for the least-squares z_S, and z_S."""
    columns = A.numpy()[:, list(support)]
    fit = np.linalg.lstsq(columns, b.numpy(), rcond=None)[0]
    return np.linalg.norm(columns @ fit - b.numpy()), fit


def brute_force(A, b, s, groups):
    """Least residual over all admissible supports, and the first that has it up to rounding."""
    residuals = {support: residual_on(A, b, support)[0] for support in admissible(groups, s)}
    least = min(residuals.values())
    return least, next(k for k, v in residuals.items() if v <= least + 1e-12)


@st.composite
def degenerate(draw_from):
    """Small integers: equal, opposite, zero and dependent columns, in any groups."""
    n = draw_from(st.integers(1, 7))
    groups = draw_from(st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    s = draw_from(st.integers(1, len(set(groups))))
    m = draw_from(st.integers(1, 4))
    rng = np.random.default_rng(draw_from(st.integers(0, 10_000)))
    A = torch.from_numpy(rng.integers(-1, 2, (m, n)).astype(float))
    b = torch.from_numpy(rng.integers(-2, 3, m).astype(float))
    return A, b, s, groups


class TestSupports:
    @pytest.mark.parametrize("size", [1, 7, 1000])
    @pytest.mark.parametrize("s, groups", LAYOUTS)
    def test_each_once_in_lexicographic_order(self, s, groups, size):
        labels = [sorted(set(groups)).index(group) for group in groups]
        chunks = list(admissible_supports(labels, s, size))
        assert max(map(len, chunks)) <= max(size, len(groups))
        assert [tuple(row) for row in np.concatenate(chunks).tolist()] == admissible(groups, s)
        assert count_supports(groups, s) == len(admissible(groups, s))

    def test_as_products_over_chosen_groups(self):
        sizes = (1, 4, 2, 3)
        groups = [k for k, size in enumerate(sizes) for _ in range(size)]
        blocks = [[j for j, group in enumerate(groups) if group == k] for k in range(4)]
        expected = {each for chosen in combinations(blocks, 3) for each in product(*chosen)}
        rows = np.concatenate(list(admissible_supports(groups, 3, 5))).tolist()
        assert len(rows) == len(expected) == 1 * 4 * 2 + 1 * 4 * 3 + 1 * 2 * 3 + 4 * 2 * 3
        assert set(map(tuple, rows)) == expected


class TestTruncate:
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(degenerate())
    def test_is_the_nearest_admissible_vector(self, problem):
        A, _, s, groups = problem
        z = A[0]  # small integers, so ties abound
        result = truncate(z, s, groups)
        kept = {each: z[list(each)].square().sum().item() for each in admissible(groups, s)}
        most = max(kept.values())
        assert result.support == next(k for k, v in kept.items() if v == most)
        cut = torch.zeros_like(z)
        cut[list(result.support)] = z[list(result.support)]
        assert torch.equal(result.z, cut)
        assert result.residual.item() == pytest.approx((z - cut).norm().item(), abs=1e-15)
        eye = torch.eye(len(z), dtype=z.dtype)
        assert best_subset(eye, z, s, groups=groups).support == result.support

    @pytest.mark.parametrize("seed", range(5))
    def test_without_groups_the_largest(self, seed):
        z = draw(35, seed=seed).round(decimals=1)
        largest = torch.sort(z.abs(), descending=True, stable=True).indices
        for s in (1, 2, 35):
            assert truncate(z, s).support == tuple(sorted(largest[:s].tolist()))
            assert truncate(z, s, range(35)).support == truncate(z, s).support

    def test_groups_of_one_change_nothing(self):
        z = draw(12)
        alone, grouped = truncate(z, 4), truncate(z, 4, range(12))
        assert alone.support == grouped.support
        assert torch.equal(alone.z, grouped.z)

    def test_ties_go_to_the_lowest_index(self):
        assert truncate(torch.ones(4), 2).support == (0, 1)
        assert truncate(torch.tensor([1.0, -2.0, 2.0, 1.0]), 2, [0, 1, 1, 0]).support == (0, 1)
        assert truncate(torch.zeros(5), 2, [3, 3, 3, 1, 1]).support == (0, 3)

    def test_a_group_gives_one_even_if_its_others_are_larger_than_all_else(self):
        z = torch.tensor([9.0, -8.0, 7.0, 0.5, 0.25])
        result = truncate(z, 2, [0, 0, 0, 1, 1])
        assert result.z.tolist() == [9.0, 0.0, 0.0, 0.5, 0.0]
        assert result.support == (0, 3)

    def test_batches_and_sequences(self):
        z = draw(2, 3, 6)
        groups = [0, 1, 0, 1, 2, 2]
        batch = truncate(z, 2, groups)
        assert batch.z.shape == (2, 3, 6)
        assert batch.residual.shape == (2, 3)
        alone = [truncate(row, 2, groups) for row in z.reshape(-1, 6)]
        assert batch.support == tuple(one.support for one in alone)
        assert torch.equal(batch.z.reshape(-1, 6), torch.stack([one.z for one in alone]))
        vectors, layouts = [draw(6), draw(3, seed=1)], [groups, [4, 4, 1]]
        ragged = truncate(vectors, 2, layouts)
        alone = [truncate(*each) for each in zip(vectors, (2, 2), layouts, strict=True)]
        assert ragged.support == tuple(one.support for one in alone)
        assert all(torch.equal(each, one.z) for each, one in zip(ragged.z, alone, strict=True))
        assert truncate(vectors, 3).support[1] == (0, 1, 2)  # padding is never kept

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_entries_and_dtype_are_kept(self, dtype):
        z = draw(9).to(dtype).requires_grad_()
        result = truncate(z, 3)
        assert result.z.dtype == result.residual.dtype == dtype
        assert torch.equal(result.z[list(result.support)], z[list(result.support)])
        assert not result.z.requires_grad

    @pytest.mark.parametrize(
        "z, error, message",
        [
            (torch.tensor(1.0), ValueError, r"z must have shape \(..., n\), got \(\)"),
            (torch.zeros(2, 0), ValueError, r"z must not be empty, got shape \(2, 0\)"),
            ([torch.ones(2), torch.ones(2, 2)], ValueError, r"z\[1\] must have shape \(n,\), got"),
            ([torch.ones(2), torch.ones(0)], ValueError, r"z\[1\] must not be empty"),
            ([], ValueError, "z must not be empty, got a sequence of length 0"),
            (torch.tensor([1.0, float("nan")]), ValueError, "z must be finite, got 1 NaN"),
            (torch.ones(3, dtype=torch.int64), ValueError, "z must be real floating-point"),
            ([1.0, 2.0], TypeError, r"z\[0\] must be a torch.Tensor or a NumPy array, got float"),
            (3.0, TypeError, "z must be a tensor, an array, or a sequence .*, got float"),
        ],
    )
    def test_bad_vectors_are_named(self, z, error, message):
        with pytest.raises(error, match=message):
            truncate(z, 1)


class TestBestSubset:
    @pytest.mark.parametrize("s, groups", LAYOUTS)
    def test_agrees_with_brute_force(self, s, groups):
        n = len(groups)
        for seed in range(3):
            A, b = draw(5, n, seed=seed), draw(5, seed=50 + seed)
            result = best_subset(A, b, s, groups=groups)
            least, support = brute_force(A, b, s, groups)
            assert result.support == support
            assert result.residual.item() == pytest.approx(least, rel=1e-10, abs=1e-13)
            assert (A @ result.z - b).norm().item() == pytest.approx(least, rel=1e-10, abs=1e-13)
            assert set(result.z.nonzero().flatten().tolist()) <= set(support)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(degenerate())
    def test_ties_and_dependent_columns(self, problem):
        A, b, s, groups = problem
        result = best_subset(A, b, s, groups=groups)
        least, support = brute_force(A, b, s, groups)
        assert result.support == support
        assert result.residual.item() == pytest.approx(least, abs=1e-10)

    def test_groups_of_one_change_nothing(self):
        A, b = draw(3, 5, 9), draw(3, 5, seed=1)
        alone, grouped = best_subset(A, b, 3), best_subset(A, b, 3, groups=range(9))
        assert alone.support == grouped.support
        assert torch.equal(alone.z, grouped.z)

    def test_batches_and_sequences_and_chunks(self, monkeypatch):
        # Equal sizes in different groups, too: those are not searched together.
        layouts = [(0, 0, 1, 1, 2, 2), (0, 1, 2, 0, 1, 2), (0, 0, 1, 1, 2, 2), (3, 2, 2, 1)]
        A = [draw(5, len(groups), seed=i) for i, groups in enumerate(layouts)]
        b = [draw(5, seed=50 + i) for i in range(4)]
        alone = [
            best_subset(*each, 2, groups=groups)
            for *each, groups in zip(A, b, layouts, strict=True)
        ]
        together = best_subset(A, b, 2, groups=layouts)
        assert together.support == tuple(one.support for one in alone)
        assert all(torch.allclose(z, one.z) for z, one in zip(together.z, alone, strict=True))
        monkeypatch.setitem(best_subset.__globals__, "CHUNK", 20)  # a support at a time
        assert best_subset(A, b, 2, groups=layouts).support == together.support
        batch = best_subset(torch.stack(A[:3:2]), torch.stack(b[:3:2]), 2, groups=layouts[0])
        assert batch.support == (alone[0].support, alone[2].support)

    def test_only_admissible_supports_count_against_the_limit(self):
        A, b = draw(4, 40), draw(4, seed=1)
        with pytest.raises(ValueError, match="76,904,685 supports"):
            best_subset(A, b, 8)
        groups = [0] * 33 + list(range(1, 8))  # 33 supports of 8 columns
        assert best_subset(A, b, 8, groups=groups).support[1:] == tuple(range(33, 40))
        groups = [j // 2 for j in range(40)]
        message = r"s = 8 of n = 40 columns in 20 groups gives 32,248,320 supports; .* 5,000,000"
        with pytest.raises(ValueError, match=message):
            best_subset(A, b, 8, groups=groups)


class TestSparsest:
    @pytest.mark.parametrize("s, groups", LAYOUTS)
    def test_is_the_first_point_of_the_path_that_touches_s_groups(self, s, groups):
        for seed in range(10):
            A, b = draw(7, len(groups), seed=seed), draw(7, seed=100 + seed)
            # Between two knots everything is active that is not zero at both.
            for upper, lower in pairwise(lasso_path(A, b)):
                active = sorted(set(upper.support) | set(lower.support))
                touched = {groups[j] for j in active}
                if len(touched) == s:
                    break
            size = upper.z.abs()
            support = tuple(
                sorted(
                    max((j for j in active if groups[j] == group), key=lambda j: size[j])
                    for group in touched
                )
            )
            result = sparsest(A, b, s, groups=groups)
            assert result.support == support
            least, fit = residual_on(A, b, support)
            assert np.allclose(result.z[list(support)], fit, rtol=1e-10)
            assert set(result.z.nonzero().flatten().tolist()) <= set(support)
            assert result.residual.item() == pytest.approx(least, rel=1e-10)
            best = best_subset(A, b, s, groups=groups)
            assert best.residual <= result.residual * (1 + 1e-10)

    def test_the_column_that_joins_later_can_be_the_larger(self):
        # Orthogonal columns join at lam = 8, 3 and 1, in group 0 with magnitudes 7/4 and 2 there:
        # column 0 has norm 2, and moves by 1/4 where column 1 moves by 1.
        A = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
        b = torch.tensor([4.0, 3.0, 1.0], dtype=torch.float64)
        assert sparsest(A, b, 2).support == (0, 1)
        assert sparsest(A, b, 2, groups=[0, 0, 1]).support == (1, 2)
        # Refitted, column 0 would still be the smaller; with lam = 2 there it is the larger.
        b[2] = 2.0
        result = sparsest(A, b, 2, groups=[0, 0, 1])
        assert result.support == (0, 2)
        assert result.z.tolist() == [2.0, 0.0, 2.0]

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(degenerate())
    def test_ties_and_dependent_columns(self, problem):
        A, b, s, groups = problem
        result = sparsest(A, b, s, groups=groups)
        touched = {groups[j] for j in result.support}
        assert len(touched) == len(result.support) <= s
        least, fit = residual_on(A, b, result.support)
        assert result.residual.item() == pytest.approx(least, abs=1e-10)
        assert np.allclose(result.z[list(result.support)], fit, atol=1e-10)
        if len(result.support) < s:  # then no point of the path has more
            for knot in lasso_path(A, b):
                assert len({groups[j] for j in knot.support}) <= len(touched)

    def test_groups_of_one_change_nothing(self):
        A, b = draw(3, 5, 9), draw(3, 5, seed=1)
        alone, grouped = sparsest(A, b, 3), sparsest(A, b, 3, groups=range(9))
        assert alone.support == grouped.support
        assert torch.equal(alone.z, grouped.z)

    def test_fewer_when_the_path_never_touches_s_groups(self):
        A, z = draw(20, 40), torch.zeros(40, dtype=torch.float64)
        z[[4, 17]] = torch.tensor([1.0, -2.0], dtype=torch.float64)
        groups = [j // 10 for j in range(40)]
        assert sparsest(A, A @ z, 4, groups=groups).support == (4, 17)  # two groups explain b
        z = torch.zeros(40, dtype=torch.float64)
        z[[3, 4]] = torch.tensor([1.0, -2.0], dtype=torch.float64)
        assert sparsest(A, A @ z, 2, groups=groups).support == (4,)  # of one, the larger
        column = draw(5, 1)
        result = sparsest(column.expand(5, 6), draw(5, seed=1), 3, groups=[0, 0, 1, 1, 2, 2])
        assert result.support == (0,)  # rank one

    def test_zero_vector_has_the_empty_support(self):
        zero = torch.zeros(2, 5, dtype=torch.float64)
        result = sparsest(draw(5, 6), zero, 2, groups=[0, 0, 0, 1, 1, 1])
        assert result.support == ((), ())
        assert not result.z.any()

    def test_ties_go_to_the_lowest_index(self):
        assert sparsest(torch.eye(4), torch.ones(4), 2, groups=[0, 0, 1, 1]).support == (0, 2)
        z = torch.tensor([3.0, -3.0, 3.0, 1.0], dtype=torch.float64)
        for seed in range(20):  # group 0 has +-2 when column 3 joins, up to rounding
            A = torch.linalg.qr(draw(4, 4, seed=seed)).Q
            assert sparsest(A, A @ z, 2, groups=[0, 0, 0, 1]).support == (0, 3)

    def test_batches_and_sequences(self):
        layouts = [(0, 0, 1, 1, 2, 2), (0, 1, 2, 0, 1, 2), (3, 2, 2, 1)]
        A = [draw(5, len(groups), seed=i) for i, groups in enumerate(layouts)]
        b = [draw(5, seed=50 + i) for i in range(3)]
        b[1] = torch.zeros_like(b[1])
        alone = [
            sparsest(*each, 2, groups=groups) for *each, groups in zip(A, b, layouts, strict=True)
        ]
        together = sparsest(A, b, 2, groups=layouts)
        assert together.support == tuple(one.support for one in alone)
        assert all(torch.allclose(z, one.z) for z, one in zip(together.z, alone, strict=True))
        batch = sparsest(torch.stack(A[:2]), torch.stack(b[:2]), 2, groups=layouts[0])
        assert batch.support == (alone[0].support, ())


def on_problem(rule):
    def call(z, s, groups):
        eye = (
            torch.eye(z.shape[-1])
            if isinstance(z, torch.Tensor)
            else [torch.eye(len(x)) for x in z]
        )
        return rule(eye, z, s, groups=groups)

    return call


@pytest.mark.parametrize(
    "rule", [truncate, on_problem(best_subset), on_problem(sparsest)], ids=["t", "b", "s"]
)
class TestBadGroups:
    @pytest.mark.parametrize("s", [0, 3, 5])
    def test_s_beyond_the_groups(self, rule, s):
        message = f"s must lie between 1 and the number of groups, 2, got {s}"
        with pytest.raises(ValueError, match=message):
            rule(torch.ones(4), s, [7, 7, 3, 3])
        with pytest.raises(ValueError, match=message):
            rule([torch.ones(6), torch.ones(3)], s, [range(6), [0, 1, 1]])

    def test_s_is_no_integer(self, rule):
        with pytest.raises(ValueError, match=r"s must be an integer, got 2\.0"):
            rule(torch.ones(4), 2.0, [7, 7, 3, 3])

    @pytest.mark.parametrize(
        "groups, error, message",
        [
            ([0, 1, 1], ValueError, "groups must hold 4 ints, one for each column, got 3"),
            ([], ValueError, "groups must hold 4 ints, one for each column, got 0"),
            (3, TypeError, "groups must be a sequence of ints, got int"),
            (torch.arange(4), TypeError, "groups must be a sequence of ints, got Tensor"),
            ("abcd", TypeError, "groups must be a sequence of ints, got 'a' in it"),
            ([0, 1, 1.5, 2], TypeError, "groups must be a sequence of ints, got 1.5 in it"),
            ([0, 1, True, 2], TypeError, "groups must be a sequence of ints, got True in it"),
            ([[0, 1, 2, 3]], TypeError, r"groups must be a sequence of ints, got \[0, 1, 2, 3\]"),
        ],
    )
    def test_of_one_vector(self, rule, groups, error, message):
        with pytest.raises(error, match=message):
            rule(torch.ones(4), 2, groups)

    @pytest.mark.parametrize(
        "groups, error, message",
        [
            ([[0, 1]], ValueError, "groups must hold 2 sequences, one for each problem, got 1"),
            ([[0, 1], [0, 1]], ValueError, r"groups\[1\] must hold 3 ints, .* got 2"),
            ([0, 1], TypeError, r"groups\[0\] must be a sequence of ints, got int"),
            (4, TypeError, "groups must be a sequence of sequences of ints, got int"),
            ([[0, 1], [0, 1, None]], TypeError, r"groups\[1\] .* ints, got None in it"),
        ],
    )
    def test_of_a_sequence(self, rule, groups, error, message):
        with pytest.raises(error, match=message):
            rule([torch.ones(2), torch.ones(3)], 2, groups)
