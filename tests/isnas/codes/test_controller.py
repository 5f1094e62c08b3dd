"""Policies and REINFORCE: probabilities and expected gradients by enumeration of all sequences."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from isnas import DARTS_SPACE, Space, UserError
from isnas.codes.choices import Choices
from isnas.codes.controller import Controller, Policy, Reinforce, Sample, SoftmaxPolicy
from isnas.spaces.nasbench201 import NASBENCH201_SPACE, NASBench201Space

CHOICES: dict[str, Callable[[], Choices]] = {
    # the second node has three of its four places: most options are forbidden at some time
    "masked": lambda: Choices(Space(("a", "b"), nodes=2, inputs=1, kinds=("cell",)), (1, 3)),
    "two kinds": lambda: Choices(Space(("a", "b"), nodes=1, inputs=2, kinds=("one", "two")), 1),
    "edges": lambda: Choices(NASBench201Space(("a", "b"), nodes=2, output=())),
}


def softmax_policy(choices: Choices) -> Policy:
    """Return a softmax policy whose logits are not all alike."""
    policy = SoftmaxPolicy(choices).double()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for logits in policy.parameters():
            logits.copy_(torch.randn(len(logits), generator=random))
    return policy


def controller(choices: Choices) -> Policy:
    """Return a controller with larger weights than at first, so that its distribution is far from uniform."""
    policy = Controller(choices, hidden=5, tanh_constant=4.0, seed=1).double()
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(8)
    return policy


POLICIES = {"softmax": softmax_policy, "lstm": controller}


@pytest.fixture(params=itertools.product(POLICIES, CHOICES), ids=" ".join)
def policy(request: pytest.FixtureRequest) -> Policy:
    kind, choices = request.param
    return POLICIES[kind](CHOICES[choices]())


def every_sample(policy: Policy) -> list[Sample]:
    """Return a sample for each sequence of allowed options."""
    sequences: list[tuple[int, ...]] = [()]
    for _ in policy.choices.decisions:
        sequences = [
            (*chosen, option)
            for chosen in sequences
            for option, allowed in enumerate(policy.choices.allowed(chosen))
            if allowed
        ]
    return [policy.log_prob(chosen) for chosen in sequences]


def chance(sample: Sample) -> float:
    return math.exp(sample.log_prob.detach())


def invented_rewards(samples: list[Sample]) -> list[float]:
    random = torch.Generator().manual_seed(len(samples))
    return torch.randn(len(samples), generator=random).tolist()


def gradient(loss: Tensor, policy: Policy) -> Tensor:
    grads = torch.autograd.grad(
        loss, list(policy.parameters()), retain_graph=True, materialize_grads=True
    )
    return torch.cat([grad.flatten() for grad in grads])


class TestPolicies:
    def test_probabilities_sum_to_one(self, policy: Policy) -> None:
        total = sum(chance(sample) for sample in every_sample(policy))
        assert total == pytest.approx(1, abs=1e-12)

    def test_draws_come_with_these_probabilities(self, policy: Policy) -> None:
        samples = every_sample(policy)
        random = torch.Generator().manual_seed(0)
        draws = 300
        with torch.no_grad():
            counts = Counter(policy.sample(random).chosen for _ in range(draws))
        assert set(counts) <= {sample.chosen for sample in samples}
        expected = {sample.chosen: draws * chance(sample) for sample in samples}
        # sequences expected less than five times are counted together
        rare = [chosen for chosen, number in expected.items() if number < 5]
        often = [chosen for chosen in expected if chosen not in rare]
        groups = [[chosen] for chosen in often] + ([rare] if rare else [])
        assert len(groups) > 3
        assert (
            chisquare(
                [sum(counts[chosen] for chosen in group) for group in groups],
                [sum(expected[chosen] for chosen in group) for group in groups],
            ).pvalue
            > 1e-3
        )

    def test_a_sample_is_what_log_prob_says(self, policy: Policy) -> None:
        random = torch.Generator().manual_seed(1)
        for _ in range(5):
            drawn = policy.sample(random)
            again = policy.log_prob(drawn.chosen)
            assert again.chosen == drawn.chosen
            torch.testing.assert_close(again[1:], drawn[1:])
            assert drawn.log_prob.ndim == drawn.entropy.ndim == 0
            assert drawn.log_prob.requires_grad

    def test_entropies_make_up_that_of_the_whole(self, policy: Policy) -> None:
        """The chain rule: the mean of the decisions' entropies is the entropy of all sequences."""
        samples = every_sample(policy)
        chances = [chance(sample) for sample in samples]
        whole = -sum(p * math.log(p) for p in chances)
        mean = sum(p * sample.entropy.item() for p, sample in zip(chances, samples, strict=True))
        assert mean == pytest.approx(whole, rel=1e-10)

    def test_what_is_no_architecture_is_refused(self, policy: Policy) -> None:
        chosen = every_sample(policy)[0].chosen
        for wrong in (chosen[:-1], (*chosen[:-1], 9)):
            with pytest.raises(UserError):
                policy.log_prob(wrong)

    def test_same_generator_same_draws(self, policy: Policy) -> None:
        one, other = (
            [policy.sample(torch.Generator().manual_seed(7)).chosen for _ in range(2)]
            for _ in range(2)
        )
        assert one == other


@pytest.mark.parametrize("space", [DARTS_SPACE, NASBENCH201_SPACE], ids=["DARTS", "NAS-Bench-201"])
class TestKnownSpaces:
    def test_softmax_begins_uniform(self, space: Space) -> None:
        choices = Choices(space)
        sample = SoftmaxPolicy(choices).sample(torch.Generator().manual_seed(0))
        log = 0.0
        for i in range(len(sample.chosen)):
            log -= math.log(sum(choices.allowed(sample.chosen[:i])))
        assert sample.log_prob.item() == pytest.approx(log, rel=1e-5)

    def test_controller_draws_architectures(self, space: Space) -> None:
        choices = Choices(space)
        controller = Controller(choices)
        random = torch.Generator().manual_seed(0)
        samples = [controller.sample(random) for _ in range(5)]
        for sample in samples:
            space.check(choices.genotype(sample.chosen))
        torch.stack([sample.log_prob for sample in samples]).sum().backward()
        assert all(weight.grad is not None for weight in controller.parameters())

    def test_initial_weights(self, space: Space) -> None:
        weights = torch.cat([w.detach().flatten() for w in Controller(Choices(space)).parameters()])
        assert float(weights.abs().max()) <= 0.1
        assert float(weights.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.05)


class TestController:
    def test_seed_gives_the_weights_and_leaves_the_global_generator(self) -> None:
        choices = CHOICES["masked"]()
        state = torch.random.get_rng_state()
        one, same, other = (Controller(choices, seed=seed).state_dict() for seed in (1, 1, 2))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert not torch.equal(one["start"], other["start"])

    def test_tanh_bounds_the_logits(self) -> None:
        policy = Controller(CHOICES["masked"](), tanh_constant=1.1, op_tanh_reduce=2.5)
        with torch.no_grad():
            for weight in policy.parameters():
                weight.mul_(1e4)
        largest: dict[str, float] = {"source": 0.0, "operation": 0.0}
        for sample in every_sample(policy):
            steps = policy.logits()
            logits = next(steps)
            for i, (decision, option) in enumerate(
                zip(policy.choices.decisions, sample.chosen, strict=True)
            ):
                largest[decision.what] = max(largest[decision.what], logits.abs().max().item())
                if i + 1 < len(sample.chosen):
                    logits = steps.send(option)
        assert largest["source"] == pytest.approx(1.1)
        assert largest["operation"] == pytest.approx(1.1 / 2.5)

    def test_temperature_flattens(self) -> None:
        choices = CHOICES["edges"]()

        def entropy(temperature: float) -> float:
            policy = Controller(choices, temperature=temperature, tanh_constant=None)
            with torch.no_grad():
                for weight in policy.parameters():
                    weight.mul_(10)
            return policy.sample(torch.Generator().manual_seed(0)).entropy.item()

        uniform = len(choices.decisions) * math.log(3)
        assert entropy(1.0) < entropy(5.0) < entropy(1e4)
        assert entropy(1e4) == pytest.approx(uniform, rel=1e-4)

    @pytest.mark.parametrize("name", CHOICES)
    def test_the_last_decision_depends_on_each_before(self, name: str) -> None:
        """Otherwise it would be a softmax policy."""
        policy = controller(CHOICES[name]())
        decisions = policy.choices.decisions
        last: dict[tuple[int, ...], Tensor] = {}
        for sample in every_sample(policy):
            steps = policy.logits()
            logits = next(steps)
            for option in sample.chosen[:-1]:
                logits = steps.send(option)
            last[sample.chosen[:-1]] = logits.detach()
        for i, decision in enumerate(decisions[:-1]):
            of_inputs = decision.what == "source" and decision.node == 0  # these are not seen
            if decision.options > 1 and not of_inputs:
                assert any(
                    not torch.allclose(last[one], last[two])
                    for one, two in itertools.combinations(last, 2)
                    if one[:i] == two[:i] and one[i + 1 :] == two[i + 1 :]
                ), i

    def test_a_source_stands_for_its_node(self) -> None:
        """What a node consists of changes how the next nodes are drawn, and gradients reach it through attention."""
        space = Space(("a", "b"), nodes=3, inputs=1, kinds=("cell",))
        policy = Controller(Choices(space, 1))
        sample = policy.log_prob((0, 1, 1, 0, 2, 1))
        sample.log_prob.backward()
        assert float(policy.anchor_keys.weight.grad.abs().sum()) > 0


class TestReinforce:
    """Expectations are sums over all sequences, or all pairs of them, times their probabilities."""

    def expected(self, policy: Policy, learner: Reinforce) -> Tensor:
        samples = every_sample(policy)
        rewards = invented_rewards(samples)
        return sum(
            chance(sample) * gradient(learner.loss([sample], [reward]), policy)
            for sample, reward in zip(samples, rewards, strict=True)
        )

    def exact(self, policy: Policy, entropy_weight: float) -> Tensor:
        """Return the gradient of -(sum p R + weight * entropy of p), by autograd."""
        samples = every_sample(policy)
        log = torch.stack([sample.log_prob for sample in samples])
        rewards = torch.tensor(invented_rewards(samples), dtype=log.dtype)
        return gradient(-(log.exp() * (rewards - entropy_weight * log)).sum(), policy)

    @pytest.mark.parametrize("entropy_weight", [0.0, 0.7])
    def test_gradient_is_right_on_average(self, policy: Policy, entropy_weight: float) -> None:
        learner = Reinforce(policy, entropy_weight=entropy_weight)
        exact = self.exact(policy, entropy_weight)
        assert float(exact.norm()) > 0.01
        torch.testing.assert_close(self.expected(policy, learner), exact, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("baseline", [-2.0, 50.0])
    def test_a_baseline_does_not_change_it(self, policy: Policy, baseline: float) -> None:
        learner = Reinforce(policy, entropy_weight=0.3)
        learner.baseline = baseline
        torch.testing.assert_close(
            self.expected(policy, learner), self.exact(policy, 0.3), rtol=1e-9, atol=1e-10
        )

    @pytest.mark.parametrize("kind", POLICIES)
    def test_nor_do_other_samples_of_the_step(self, kind: str) -> None:
        """In a step of two the second's baseline depends on the first, but not on itself."""
        space = Space(("a", "b"), nodes=2, inputs=1, kinds=("cell",))
        policy = POLICIES[kind](Choices(space, 1))
        learner = Reinforce(policy, entropy_weight=0.3, decay=0.4)
        samples = every_sample(policy)
        pairs = itertools.product(zip(samples, invented_rewards(samples), strict=True), repeat=2)
        mean = sum(
            chance(one) * chance(two) * gradient(learner.loss([one, two], [r, q]), policy)
            for (one, r), (two, q) in pairs
        )
        torch.testing.assert_close(mean, self.exact(policy, 0.3), rtol=1e-9, atol=1e-12)

    def test_baseline_is_a_moving_average(self) -> None:
        policy = SoftmaxPolicy(CHOICES["edges"]())
        sample = policy.sample(torch.Generator().manual_seed(0))
        learner = Reinforce(policy, entropy_weight=0.0, decay=0.9, start="zero")
        learner.step([sample], [1.0])
        assert learner.baseline == pytest.approx(0.1)
        learner.step([policy.log_prob(sample.chosen)] * 2, [0.5, 0.6])
        assert learner.baseline == pytest.approx(0.9 * (0.9 * 0.1 + 0.1 * 0.5) + 0.1 * 0.6)

    def test_nothing_is_learnt_from_a_first_reward_that_is_the_baseline(self) -> None:
        policy = SoftmaxPolicy(CHOICES["edges"]())
        learner = Reinforce(policy, entropy_weight=0.0, start="first")
        sample = policy.sample(torch.Generator().manual_seed(0))
        learner.step([sample], [0.8])
        assert learner.baseline == pytest.approx(0.8)
        assert all(not logits.any() for logits in policy.parameters())
        learner.step([policy.log_prob(sample.chosen)], [0.9])
        after = policy.log_prob(sample.chosen)
        assert after.log_prob.item() > sample.log_prob.item()

    def test_corrected_baseline_is_that_of_nasbench201(self) -> None:
        """Numerator and denominator as its code has them; the second gain of 88 and 85 is -1.42."""
        policy = SoftmaxPolicy(CHOICES["edges"]())
        sample = policy.sample(torch.Generator().manual_seed(0))
        learner = Reinforce(
            policy, learning_rate=0.0, entropy_weight=0.0, decay=0.9, start="corrected"
        )
        above = below = 0.0
        gains = []
        for reward in (88.0, 85.0, 91.5, 60.0):
            above = 0.9 * above + 0.1 * reward
            below = 0.9 * below + 0.1
            loss = learner.loss([sample], [reward]) / -sample.log_prob
            gains.append(loss.item())
            assert gains[-1] == pytest.approx(reward - above / below, abs=1e-3)
            learner.step([policy.log_prob(sample.chosen)], [reward])
            assert learner.baseline == pytest.approx(above / below)
        assert gains[0] == 0 and gains[1] == pytest.approx(-1.42, abs=5e-3)

    def test_loss_leaves_the_baseline(self) -> None:
        policy = SoftmaxPolicy(CHOICES["edges"]())
        learner = Reinforce(policy)
        learner.loss([policy.sample(torch.Generator().manual_seed(0))], [0.8])
        assert learner.baseline == 0.0

    def test_entropy_weight_spreads_a_policy(self) -> None:
        policy = softmax_policy(CHOICES["edges"]())
        learner = Reinforce(policy, learning_rate=0.1, entropy_weight=1.0, start="first")
        random = torch.Generator().manual_seed(0)
        for _ in range(60):
            learner.step([policy.sample(random)], [0.0])
        uniform = len(policy.choices.decisions) * math.log(3)
        assert policy.sample(random).entropy.item() > 0.97 * uniform

    @pytest.mark.parametrize(
        ("kind", "start"), [("softmax", "first"), ("lstm", "zero"), ("softmax", "corrected")]
    )
    def test_goes_on_from_its_state_exactly(self, kind: str, start: Any) -> None:
        choices = CHOICES["two kinds"]()

        def make() -> Reinforce:
            policy = SoftmaxPolicy(choices) if kind == "softmax" else Controller(choices, hidden=4)
            return Reinforce(policy, learning_rate=0.05, entropy_weight=0.01, start=start)

        def advance(learner: Reinforce, steps: range) -> None:
            for step in steps:
                random = torch.Generator().manual_seed(step)
                samples = [learner.policy.sample(random) for _ in range(2)]
                learner.step(samples, [float(sum(sample.chosen)) for sample in samples])

        whole, before, after = make(), make(), make()
        advance(whole, range(6))
        advance(before, range(3))
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        advance(after, range(3, 6))
        assert after.baseline == whole.baseline
        for one, other in zip(after.policy.parameters(), whole.policy.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_state_survives_a_file(self, tmp_path: object) -> None:
        policy = Controller(CHOICES["masked"](), hidden=4)
        learner = Reinforce(policy)
        learner.step([policy.sample(torch.Generator().manual_seed(0))], [0.5])
        torch.save(learner.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        learner.load_state_dict(state)
        assert state["baseline"] == learner.baseline
