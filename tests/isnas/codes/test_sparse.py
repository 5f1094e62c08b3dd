"""The sparse code against the formulas of METHOD.md, section 2, written out naively, and against scikit-learn."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from making import nodes_of
from sklearn.linear_model import LassoLars

from isnas import DARTS_SPACE, Place, Space, SparseCode, SparseCodeOptions, UserError

MATRICES = ("gaussian", "uniform", "orthogonal")
RULES = ("truncate", "path", "best_subset")


def code_of(
    seed: int = 0, draw: int = 0, space: Space = DARTS_SPACE, **options: object
) -> SparseCode:
    """A code in float64, so that identities hold to rounding; b is of the size it has within a search."""
    made = SparseCode(
        space, SparseCodeOptions(**{"init_scale": 0.1, **options}), seed=seed, draw=draw
    )
    return made.double()


def jolt(code: SparseCode, size: float = 0.02, seed: int = 0) -> None:
    """Move b as a search does between two recoveries."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for b in code.b:
            b += size * torch.randn(b.shape, generator=random, dtype=torch.float64).to(b)


def by_node(code: SparseCode) -> list[torch.Tensor]:
    """Coefficients of every node, found by their places alone."""
    found: dict[tuple[str, int], list[tuple[Place, torch.Tensor]]] = {}
    for kind, part in code.coefficients().items():
        for place, value in zip(part.places, part.values, strict=True):
            found.setdefault((kind, place.node), []).append((place, value))
    ordered = []
    for (kind, node), support in zip(nodes_of(code), code.support, strict=True):
        entries = dict(found[kind, node])
        candidates = code.space.candidates(node)
        assert set(entries) == {candidates[k] for k in support}
        ordered.append(torch.stack([entries[candidates[k]] for k in support]))
    return ordered


class TestCoefficients:
    @pytest.mark.parametrize("matrix", MATRICES)
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("reencode", [False, True])
    def test_are_the_formula(self, matrix: str, rule: str, reencode: bool) -> None:
        """c(b) = (A'b)_S - (E z)_S with E = A'A - I, z held since the recovery."""
        code = code_of(3, matrix=matrix, rule=rule, reencode=reencode)
        jolt(code)
        code.recover()
        held = [z.numpy().copy() for z in code.z]
        jolt(code, seed=1)
        for i, (A, b, c) in enumerate(zip(code.A, code.b, by_node(code), strict=True)):
            A_, b_, S = A.numpy(), b.detach().numpy(), list(code.support[i])
            E = A_.T @ A_ - np.eye(A_.shape[1])
            expected = (A_.T @ b_)[S] - (E @ held[i])[S]
            np.testing.assert_allclose(c.detach().numpy(), expected, rtol=1e-11, atol=1e-12)

    def test_gradient_is_the_transposed_columns_of_the_support(self) -> None:
        code = code_of(1)
        for i, c in enumerate(by_node(code)):
            for row, k in enumerate(code.support[i]):
                gradients = torch.autograd.grad(
                    c[row], list(code.b), retain_graph=True, allow_unused=True
                )
                for j, gradient in enumerate(gradients):
                    expected = code.A[i][:, k] if i == j else torch.zeros_like(code.b[j])
                    torch.testing.assert_close(
                        torch.zeros_like(code.b[j]) if gradient is None else gradient, expected
                    )

    def test_float32_is_the_same_up_to_rounding(self) -> None:
        single, double = code_of(5).float(), code_of(5)
        jolt(single)
        jolt(double)
        for a, b in zip(by_node(single), by_node(double), strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)

    def test_places_are_sorted_supports_of_different_places(self) -> None:
        code = code_of(2)
        for kind, part in code.coefficients().items():
            assert len(part.values) == len(part.places) == len(set(part.places)) == 8
            assert [sum(p.node == node for p in part.places) for node in range(4)] == [2] * 4
            assert set(part.places) <= set(DARTS_SPACE.places())
            assert set(code.genotype().places(DARTS_SPACE)[kind]) == set(part.places)

    @pytest.mark.parametrize(("rule", "reencode"), [("path", False), ("best_subset", False)])
    def test_equal_z_right_after_a_recovery_with_refitted_rules(
        self, rule: str, reencode: bool
    ) -> None:
        self.check_equality(code_of(4, rule=rule, reencode=reencode))

    @pytest.mark.parametrize("matrix", MATRICES)
    @pytest.mark.parametrize("rule", RULES)
    def test_equal_z_right_after_a_recovery_with_reencoding(self, rule: str, matrix: str) -> None:
        code = code_of(4, rule=rule, matrix=matrix, reencode=True)
        self.check_equality(code)
        for A, z, b in zip(code.A, code.z, code.b, strict=True):
            torch.testing.assert_close(b.detach(), A @ z)

    def check_equality(self, code: SparseCode) -> None:
        for epoch in range(3):
            jolt(code, 0.05, epoch)
            recovery = code.recover()
            for i, c in enumerate(by_node(code)):
                z_S = code.z[i][list(code.support[i])]
                torch.testing.assert_close(c.detach(), z_S, rtol=1e-9, atol=1e-11)
                torch.testing.assert_close(recovery[i].coefficients, c.detach())

    def test_of_the_paper_are_far_from_z(self) -> None:
        """The cut leaves c - z_S = A_S'(b - A z_S), not 0: with uniform matrices signs flip (METHOD.md, section 5)."""
        flipped = nodes = 0
        for seed in range(6):
            code = code_of(seed, matrix="uniform", rule="truncate", init_scale=1e-3)
            for i, c in enumerate(by_node(code)):
                S = list(code.support[i])
                z_S = code.z[i][S]
                rest = code.b[i].detach() - code.A[i] @ code.z[i]
                torch.testing.assert_close(
                    c.detach() - z_S, code.A[i][:, S].T @ rest, rtol=1e-6, atol=1e-9
                )
                flipped += int((c.detach() * z_S < 0).any())
                nodes += 1
        assert nodes == 48
        assert 0.2 <= flipped / nodes <= 0.6

    def test_of_an_exactly_sparse_code_differ_by_lam_only(self) -> None:
        """Where the LASSO's own solution is s-sparse, its optimality says A_S'(b - A z) = lam sign(z)."""
        lam = 1e-3
        code = code_of(0, m=10, lam=lam)
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for A, b in zip(code.A, code.b, strict=True):
                z = torch.zeros(A.shape[1], dtype=torch.float64)
                z[torch.randperm(len(z), generator=random)[:2]] = torch.tensor([0.5, -0.4]).double()
                b.copy_(A @ z)
        recovery = code.recover()
        exact = [i for i, found in enumerate(recovery) if found.nonzeros == 2]
        assert len(exact) >= 4
        for i in exact:
            z_S = code.z[i][list(code.support[i])]
            torch.testing.assert_close(
                by_node(code)[i].detach() - z_S, lam * z_S.sign(), rtol=1e-5, atol=1e-9
            )


class TestRecovery:
    @pytest.mark.parametrize("matrix", MATRICES)
    @pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.3])
    def test_support_is_the_largest_of_scikit_learns_solution(
        self, matrix: str, scale: float
    ) -> None:
        for seed in range(3):
            code = code_of(seed, matrix=matrix, init_scale=scale)
            for i, found in enumerate(code.last_recovery):
                b = code.b[i].detach().numpy()
                # scaled, because scikit-learn takes alphas for equal that differ by less than 1e-7
                up = 1 / np.linalg.norm(b)
                lars = LassoLars(alpha=up * 1e-5 / len(b), fit_intercept=False)
                z = lars.fit(code.A[i].numpy(), up * b).coef_ / up
                assert code.support[i] == tuple(sorted(np.argsort(-np.abs(z))[:2].tolist()))
                np.testing.assert_allclose(found.z.numpy(), z, rtol=1e-4, atol=1e-6 * scale)
                S = list(code.support[i])
                np.testing.assert_array_equal(code.z[i].numpy()[S], found.z.numpy()[S])
                assert int((code.z[i] != 0).sum()) == 2

    @pytest.mark.parametrize("solver", ["fista", "ista", "coordinate_descent"])
    @pytest.mark.parametrize("matrix", ["gaussian", "uniform"])
    def test_supports_do_not_depend_on_the_solver(self, solver: str, matrix: str) -> None:
        exact = code_of(6, matrix=matrix)
        other = code_of(6, matrix=matrix, solver=solver)
        assert other.support == exact.support
        assert all(found.gap <= 1e-8 for found in other.last_recovery)

    def test_best_subset_is_the_best_of_all_pairs(self) -> None:
        code = code_of(7, rule="best_subset")
        for i, (A, b) in enumerate(zip(code.A, code.b, strict=True)):
            A_, b_ = A.numpy(), b.detach().numpy()
            residuals = {
                pair: np.linalg.norm(
                    b_ - A_[:, pair] @ np.linalg.lstsq(A_[:, pair], b_, rcond=None)[0]
                )
                for pair in itertools.combinations(range(A_.shape[1]), 2)
            }
            assert code.support[i] == min(residuals, key=residuals.__getitem__)
            assert code.last_recovery[i].residual_cut == pytest.approx(min(residuals.values()))

    @pytest.mark.parametrize("rule", RULES)
    def test_m_and_s_may_differ_between_nodes(self, rule: str) -> None:
        code = code_of(1, m=(4, 5, 6, 9), s=(1, 2, 3, 1), rule=rule)
        assert [tuple(A.shape) for A in code.A] == [(4, 14), (5, 21), (6, 28), (9, 35)] * 2
        assert [len(b) for b in code.b] == [4, 5, 6, 9] * 2
        assert [len(support) for support in code.support] == [1, 2, 3, 1] * 2
        assert [len(c) for c in by_node(code)] == [1, 2, 3, 1] * 2

    def test_other_spaces(self) -> None:
        """One kind of cell with one input: nothing here knows of images (DESIGN.md)."""
        space = Space(("a", "b", "c"), nodes=3, inputs=1, kinds=("cell",))
        code = code_of(0, space=space, m=2)
        assert [A.shape[1] for A in code.A] == [3, 6, 9]
        assert code.genotype().kinds == ("cell",)

    def test_reports_what_was_found_and_what_changed(self) -> None:
        code = code_of(2)
        assert all(found.moved == float("inf") and found.changed for found in code.last_recovery)
        # whole solutions, before the cut
        before = [(found.z.clone(), found.support) for found in code.last_recovery]
        jolt(code, 0.1)
        b = [b.detach().clone() for b in code.b]
        recovery = code.recover()
        assert [(found.kind, found.node) for found in recovery] == nodes_of(code)
        for i, found in enumerate(recovery):
            z, support = before[i]
            assert found.support == code.support[i]
            assert found.changed == (found.support != support)
            assert found.moved == pytest.approx(float((found.z - z).norm()))
            assert found.norm == pytest.approx(float(code.z[i].norm()))
            assert found.residual == pytest.approx(float((code.A[i] @ found.z - b[i]).norm()))
            assert found.residual_cut == pytest.approx(float((code.A[i] @ code.z[i] - b[i]).norm()))
            assert torch.equal(found.b, b[i])
            assert found.gap <= 1e-8
        assert {found.changed for found in recovery} == {True, False}

    def test_without_a_change_of_b_nothing_moves(self) -> None:
        code = code_of(3)
        coefficients = by_node(code)
        recovery = code.recover()
        assert all(found.moved == 0 and not found.changed for found in recovery)
        assert all(map(torch.equal, coefficients, by_node(code)))

    def test_supports_hold_until_the_next_recovery(self) -> None:
        code = code_of(3)
        before = list(code.support)
        jolt(code, 1.0)
        assert code.support == before
        code.recover()
        assert code.support != before

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_diverged_code_is_a_user_error(self, bad: float) -> None:
        code = code_of(0)
        support = list(code.support)
        with torch.no_grad():
            code.b[5][2] = bad
        with pytest.raises(UserError, match="diverged"):
            code.recover()
        assert code.support == support

    def test_a_zero_code_is_no_error(self) -> None:
        for rule in RULES:
            code = code_of(0, rule=rule)
            with torch.no_grad():
                for b in code.b:
                    b.zero_()
            code.recover()
            assert all(len(support) == 2 for support in code.support)
            assert all(not c.any() for c in by_node(code))

    def test_more_supports_than_can_be_tried_is_a_user_error(self) -> None:
        with pytest.raises(UserError, match="best_subset"):
            code_of(0, rule="best_subset", s=(2, 2, 2, 7))


class TestDraws:
    def test_depend_on_seed_and_draw_only(self) -> None:
        a, b = code_of(1, 2), code_of(1, 2)
        torch.rand(10)
        assert all(map(torch.equal, a.A, b.A))
        assert all(map(torch.equal, a.b, b.b))
        assert a.support == b.support
        for other in (code_of(2, 2), code_of(1, 3)):
            assert not any(map(torch.equal, a.A, other.A))
            assert not any(map(torch.equal, a.b, other.b))

    def test_of_b_have_the_given_scale(self) -> None:
        drawn = [
            float(x)
            for seed in range(40)
            for b in code_of(seed, init_scale=1e-3).b
            for x in b.detach()
        ]
        assert len(drawn) == 40 * 8 * 7
        assert abs(np.std(drawn) / 1e-3 - 1) < 0.1
        assert abs(np.mean(drawn)) < 1e-4

    def test_matrices_are_of_the_given_kind(self) -> None:
        uniform = code_of(0, matrix="uniform").A[3]
        assert 0 <= float(uniform.min()) < 0.2 < 0.8 < float(uniform.max()) < 1
        gaussian = torch.cat([A.flatten() for A in code_of(0).A])
        assert float(gaussian.std()) == pytest.approx(7**-0.5, rel=0.1)
        orthogonal = code_of(0, matrix="orthogonal").A[3]
        gram = orthogonal @ orthogonal.T
        torch.testing.assert_close(gram, gram[0, 0] * torch.eye(7, dtype=torch.float64))


class TestFreezing:
    def test_keeps_the_coefficients_whatever_b_does(self) -> None:
        code = code_of(4)
        jolt(code)
        before = [c.detach() for c in by_node(code)]
        for i in (0, 5):
            code.freeze(i)
        assert all(map(torch.equal, before, by_node(code)))
        jolt(code, 1.0)
        supports = list(code.support)
        recovery = code.recover()
        for i, c in enumerate(by_node(code)):
            frozen = i in (0, 5)
            assert torch.equal(c.detach(), before[i]) == frozen
            assert code.frozen[i] == frozen
            if frozen:
                assert code.support[i] == supports[i]
                assert not recovery[i].changed and recovery[i].moved == 0

    def test_entries_of_a_frozen_node_repeat_in_later_recoveries(self) -> None:
        code = code_of(4)
        first = code.last_recovery[2]
        code.freeze(2)
        again = code.recover()[2]
        assert torch.equal(again.z, first.z)
        assert torch.equal(again.coefficients, first.coefficients)
        assert (again.support, again.gap, again.residual) == (
            first.support,
            first.gap,
            first.residual,
        )
        assert (again.moved, again.changed) == (0, False)

    def test_gives_b_no_gradient(self) -> None:
        code = code_of(4)
        code.freeze(2)
        sum(part.values.sum() for part in code.coefficients().values()).backward()
        assert [b.grad is None for b in code.b] == [i == 2 for i in range(8)]

    def test_of_all_nodes_leaves_nothing_to_differentiate(self) -> None:
        code = code_of(4)
        for i in range(8):
            code.freeze(i)
        assert not any(part.values.requires_grad for part in code.coefficients().values())
        assert len(code.recover()) == 8


class TestState:
    def saved(self, code: SparseCode) -> dict[str, object]:
        file = io.BytesIO()
        torch.save(code.state_dict(), file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_survives_a_file_bit_for_bit(self, dtype: torch.dtype) -> None:
        code = code_of(4).to(dtype)
        jolt(code)
        code.recover()
        code.freeze(3)
        jolt(code, seed=5)
        other = code_of(99, matrix="uniform").to(dtype)
        other.freeze(1)
        other.load_state_dict(self.saved(code))
        assert all(map(torch.equal, by_node(other), by_node(code)))
        assert [b.requires_grad for b in other.b] == [b.requires_grad for b in code.b]
        assert other.genotype() == code.genotype()
        jolt(code, seed=6)
        jolt(other, seed=6)
        assert all(map(torch.equal, by_node(other), by_node(code)))
        for a, b in zip(code.recover(), other.recover(), strict=True):
            assert (a.support, a.moved, a.changed) == (b.support, b.moved, b.changed)
            assert torch.equal(a.coefficients, b.coefficients)


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("m", 0),
            ("m", -1),
            ("m", 2.0),
            ("m", True),
            ("m", ()),
            ("m", (7, 7, 0, 7)),
            ("m", "7"),
            ("s", 0),
            ("s", (2, 2, "2", 2)),
            ("lam", -1e-9),
            ("lam", float("nan")),
            ("lam", float("inf")),
            ("lam", "small"),
            ("lam", None),
            ("init_scale", -1.0),
            ("init_scale", float("nan")),
            ("init_scale", float("inf")),
            ("init_scale", None),
            ("matrix", "hadamard"),
            ("rule", "greedy"),
            ("solver", "lars"),
        ],
    )
    def test_out_of_range_are_named(self, option: str, value: object) -> None:
        with pytest.raises(UserError, match=rf"\b{option}\b"):
            SparseCodeOptions(**{option: value})

    @pytest.mark.parametrize(
        ("option", "value"),
        [("m", (7, 7)), ("s", (2, 2, 2, 2, 2)), ("s", 15), ("s", (2, 22, 2, 2))],
    )
    def test_that_do_not_fit_the_space_are_named(self, option: str, value: object) -> None:
        with pytest.raises(UserError, match=rf"\b{option}\b"):
            SparseCode(DARTS_SPACE, SparseCodeOptions(**{option: value}))

    def test_defaults_are_the_papers_but_for_the_matrix(self) -> None:
        options = SparseCodeOptions()
        assert set(options.lengths(DARTS_SPACE)) == {7} and set(options.places(DARTS_SPACE)) == {2}
        assert (options.lam, options.init_scale) == (1e-5, 1e-3)
        assert (options.rule, options.matrix, options.reencode) == ("truncate", "gaussian", False)
