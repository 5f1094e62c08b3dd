"""Choices of skips, each by itself yes or no, in the codes: how many are active, and ENAS's controller of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from isnas import NASBENCH201_SPACE, SparseCode, SparseCodeOptions, UserError
from isnas.codes.choices import Choices
from isnas.codes.controller import (
    Controller,
    Reinforce,
    SkipController,
    SoftmaxPolicy,
    controller,
)
from isnas.codes.fair import fair_path
from isnas.spaces.macro import KIND, MacroSpace

SPACE = MacroSpace(layers=6)
SKIPS = [i for i, choice in enumerate(SPACE.choices) if choice.name == "skips"]


def code_of(seed: int = 0, **options: object) -> SparseCode:
    return SparseCode(SPACE, SparseCodeOptions(init_scale=0.5, **options), seed=seed)


class TestFixedNumber:
    @pytest.mark.parametrize("rule", ["truncate", "signed", "path", "best_subset", "non_negative"])
    @pytest.mark.parametrize("matrix", ["gaussian", "balanced"])
    def test_one_operation_and_s_skips(self, rule: str, matrix: str) -> None:
        code = code_of(rule=rule, matrix=matrix)
        for choice, support in zip(code.choices, code.support, strict=True):
            assert len(support) == choice.s
        code.genotype()

    def test_one_number_is_for_the_skips(self) -> None:
        code = code_of(s=3)
        assert [len(code.support[i]) for i in SKIPS] == [1, 2, 3, 3, 3]
        assert all(len(s) == 1 for i, s in enumerate(code.support) if i not in SKIPS)

    def test_numbers_for_each_choice(self) -> None:
        s = (1, 1, 1, 1, 2, 1, 1, 1, 4, 1, 2)
        assert [len(support) for support in code_of(s=s).support] == list(s)
        with pytest.raises(UserError, match="s has 2 values; a cell has 11 choices"):
            code_of(s=(1, 2))

    def test_one_length_is_shortened_where_a_choice_is_small(self) -> None:
        lengths = SparseCodeOptions(m=4).lengths(SPACE)
        assert lengths == (4, 4, 1, 4, 1, 4, 2, 4, 3, 4, 4)
        with pytest.raises(UserError, match="m must be below the 6 candidates"):
            SparseCodeOptions(m=(6,) * 11).lengths(SPACE)

    def test_balanced_skips_compete_with_each_other(self) -> None:
        options = SparseCodeOptions(matrix="balanced")
        # one less than the candidates; the lone skip of layer 1 has no rival
        lengths = dict(zip([c.key for c in SPACE.choices], options.lengths(SPACE), strict=True))
        assert lengths["network.3.skips"] == 2 and lengths["network.5.skips"] == 4
        assert lengths["network.3.operation"] == 5 and lengths["network.1.skips"] == 1
        code = SparseCode(SPACE, options)
        for i in SKIPS[1:]:
            norms = torch.linalg.norm(code.A[i], dim=0)
            torch.testing.assert_close(norms, torch.ones_like(norms))


class TestNumberByLam:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("lam", [0.01, 0.3, 1.0])
    def test_the_support_is_what_the_optimality_conditions_say(self, seed: int, lam: float) -> None:
        code = code_of(seed, sparsity="lam", lam=lam)
        for i, choice in enumerate(code.choices):
            A, b = code.A[i].numpy(), code.last_recovery[i].b.numpy()
            z = code.last_recovery[i].z.numpy()
            pull = A.T @ (b - A @ z)
            assert np.all(np.abs(pull) <= lam * (1 + 1e-6))
            on = np.flatnonzero(z)
            np.testing.assert_allclose(pull[on], lam * np.sign(z[on]), rtol=1e-5)
            if choice.name == "skips":
                assert code.support[i] == tuple(on)
            else:
                assert len(code.support[i]) == 1

    def test_none_above_the_largest_correlation_all_of_b_below(self) -> None:
        code = code_of(sparsity="lam", lam=1e-9)
        i = SKIPS[-1]
        largest = float((code.A[i].T @ code.last_recovery[i].b).abs().max())
        assert len(code.support[i]) >= 1
        above = code_of(sparsity="lam", lam=1.001 * largest)
        below = code_of(sparsity="lam", lam=0.999 * largest)
        assert above.support[i] == ()
        assert len(below.support[i]) == 1

    def test_in_units_of_b(self) -> None:
        small, large = (code_of(sparsity="lam", lam=lam) for lam in (0.1, 0.2))
        with torch.no_grad():
            for b in large.b:
                b.mul_(2)
        large.recover()
        assert large.support == small.support

    def test_signed_takes_positive_entries_alone(self) -> None:
        code = code_of(sparsity="lam", lam=0.05, rule="signed")
        for i in SKIPS:
            z = code.last_recovery[i].z
            assert code.support[i] == tuple(torch.nonzero(z > 0).flatten().tolist())

    def test_coefficients_of_an_empty_support(self) -> None:
        code = code_of(sparsity="lam", lam=100.0)
        coefficients = code.coefficients()[KIND]
        assert len(coefficients.places) == SPACE.layers  # the operations
        coefficients.values.square().sum().backward()
        assert all(not code.b[i].grad.any() for i in SKIPS)
        assert code.genotype().skips == 0
        again = code_of(sparsity="lam", lam=100.0, m=None)
        again.load_state_dict(code.state_dict())
        assert again.genotype() == code.genotype()

    def test_places_near_b_have_different_numbers(self) -> None:
        code = code_of(sparsity="lam", lam=0.5, rule="signed")
        shifts = torch.randn(20, sum(map(len, code.b)), dtype=torch.float64)
        numbers = {len(places[KIND]) for places in code.places_at(shifts)}
        assert len(numbers) > 3

    def test_groups_keep_one_each(self) -> None:
        options = SparseCodeOptions(init_scale=0.5, sparsity="lam", lam=0.05, m=(3, 6, 7))
        code = SparseCode(NASBENCH201_SPACE, options)
        for choice, z, support in zip(
            code.choices, [r.z for r in code.last_recovery], code.support, strict=True
        ):
            on = {choice.groups[k] for k in torch.nonzero(z).flatten().tolist()}
            assert sorted(choice.groups[k] for k in support) == sorted(on)

    def test_needs_a_rule_that_solves_the_lasso(self) -> None:
        with pytest.raises(UserError, match="rule must be truncate or signed, got 'path'"):
            SparseCodeOptions(sparsity="lam", rule="path")


def test_fair_paths_bring_each_skip_as_often_as_the_others() -> None:
    s = tuple(choice.s for choice in SPACE.choices)
    counts: dict[tuple[int, int], int] = {}
    for step in range(60):
        places = fair_path(SPACE, s, 0, step)[KIND]
        assert len([p for p in places if p.source < p.node]) == sum(s[i] for i in SKIPS)
        for place in places:
            if place.source < place.node:
                counts[place[:2]] = counts.get(place[:2], 0) + 1
    # layer 3 has one of three skips in a step, layer 4 two of four
    assert [counts[3, i] for i in range(3)] == [20, 20, 20]
    assert [counts[4, i] for i in range(4)] == [30, 30, 30, 30]


class TestController:
    def test_the_space_decides(self) -> None:
        assert type(controller(Choices(SPACE))) is SkipController
        assert type(controller(Choices(NASBENCH201_SPACE))) is Controller

    def test_probabilities_of_all_networks_add_up_to_one(self) -> None:
        space = MacroSpace(layers=3, primitives=("conv_3x3", "conv_5x5", "skip"))
        choices = Choices(space)
        policy = controller(choices, hidden=8, tanh_constant=1.5, op_tanh_reduce=1.0, seed=4)
        with torch.no_grad():
            for weight in policy.parameters():
                weight.mul_(20)  # far from even
        options = [range(d.options) for d in choices.decisions]
        logs = torch.stack(
            [policy.log_prob(chosen).log_prob.detach() for chosen in itertools.product(*options)]
        )
        assert len(logs) == 2**3 * 2**3
        assert logs.exp().max() > 3 * logs.exp().min()
        assert float(logs.double().logsumexp(0)) == pytest.approx(0, abs=1e-5)

    def test_logits_of_skips_are_attention_over_the_layers_that_made_the_states(self) -> None:
        """The decisions of three layers by hand, from the same LSTM."""
        choices = Choices(MacroSpace(layers=3))
        policy = controller(choices, hidden=5, temperature=2.0, tanh_constant=1.5, seed=1)
        chosen = (4, 2, 1, 0, 1, 0)
        made: list[torch.Tensor] = []
        decisions = policy.logits()
        made.append(next(decisions))
        for option in chosen[:-1]:
            made.append(decisions.send(option))

        def operation(h: torch.Tensor) -> torch.Tensor:
            return 1.5 / 2.5 * torch.tanh(policy.operation_head(h)[0] / 2)

        def skip(anchor: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            v, W, U = policy.source_head.weight[0], policy.anchor_keys, policy.query
            q = v @ torch.tanh(W(anchor) + U(h))[0]
            return 1.5 * torch.tanh(torch.stack([-q, q]) / 2)

        state = stem = policy.lstm(policy.start, None)
        state = policy.lstm(policy.start, state)
        expected = [operation(state[0])]
        state = first = policy.lstm(policy.operations.weight[4:5], state)
        state = policy.lstm(policy.start, state)
        expected.append(operation(state[0]))
        state = policy.lstm(policy.operations.weight[2:3], state)
        expected.append(skip(stem[0], state[0]))
        state = policy.lstm(stem[0] / 2, state)  # one skip: the sum over one more than their number
        expected.append(operation(state[0]))
        state = policy.lstm(policy.operations.weight[0:1], state)
        expected += [skip(stem[0], state[0]), skip(first[0], state[0])]
        for found, right in zip(made, expected, strict=True):
            torch.testing.assert_close(found, right)

    def test_divergence_is_the_mean_over_layers_of_the_kl(self) -> None:
        choices = Choices(MacroSpace(layers=3))
        policy = SoftmaxPolicy(choices, skip_target=0.3)
        logits = iter([0.7, -0.2, 1.1])  # layer 1's skip, layer 2's two
        with torch.no_grad():
            for decision, row in zip(choices.decisions, policy.table, strict=True):
                if decision.what == "skip":
                    row[1] = next(logits)
        kl = []
        for x in (0.7, -0.2, 1.1):
            p = 1 / (1 + math.exp(-x))
            kl.append(p * math.log(p / 0.3) + (1 - p) * math.log((1 - p) / 0.7))
        sample = policy.sample(torch.Generator().manual_seed(0))
        assert float(sample.divergence.detach()) == pytest.approx(
            (kl[0] + kl[1] + kl[2]) / 2, rel=1e-5
        )

    def test_without_reward_the_skips_go_to_their_target(self) -> None:
        choices = Choices(MacroSpace(layers=4))
        policy = SoftmaxPolicy(choices, skip_target=0.4)
        learner = Reinforce(policy, learning_rate=0.05, entropy_weight=0.0, skip_weight=0.8)
        random = torch.Generator().manual_seed(0)
        for _ in range(300):
            learner.step([policy.sample(random)], [0.0])
        for decision, row in zip(choices.decisions, policy.table, strict=True):
            p = row.detach().softmax(0)
            if decision.what == "skip":
                assert float(p[1]) == pytest.approx(0.4, abs=0.01)
            else:
                torch.testing.assert_close(p, torch.full((6,), 1 / 6))

    def test_its_gradient_is_that_of_the_expected_reward(self) -> None:
        """The gradient is exact: REINFORCE's estimate summed over all networks of three layers with two operations."""
        space = MacroSpace(layers=3, primitives=("conv_3x3", "conv_5x5", "skip"))
        choices = Choices(space)
        policy = controller(choices, hidden=4, tanh_constant=1.5, seed=3).double()
        options = [range(d.options) for d in choices.decisions]
        samples = [policy.log_prob(chosen) for chosen in itertools.product(*options)]
        rewards = torch.rand(len(samples), generator=torch.Generator().manual_seed(1)).double()
        weights = [p for p in policy.parameters() if p.requires_grad]
        logs = torch.stack([sample.log_prob for sample in samples])
        exact = torch.autograd.grad((logs.exp() * rewards).sum(), weights, retain_graph=True)
        estimate = torch.autograd.grad((logs.exp().detach() * rewards * logs).sum(), weights)
        for a, b in zip(exact, estimate, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
        assert any(a.abs().max() > 1e-6 for a in exact)

    def test_all_its_weights_take_part(self) -> None:
        policy: nn.Module = controller(Choices(SPACE), seed=0)
        sample = policy.sample(torch.Generator().manual_seed(5))
        (sample.log_prob + sample.entropy + sample.divergence).backward()
        for name, weight in policy.named_parameters():
            assert weight.grad is not None and weight.grad.any(), name
