"""The two-stage search: two exact updates in turn, on two halves of the training data, and nothing else."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from making import nodes_of
from torch import Tensor, nn
from torch.nn import functional as F

from isnas import DARTS_SPACE, Coefficients, Dataset
from isnas.searches.registry import create_search
from isnas.searches.two_stage import TwoStageSearch

OPTIONS = {
    "channels": 2,
    "cells": 3,
    "batch_size": 8,
    "epochs": 3,
    "seed": 3,
    "init_scale": 0.1,
    "learning_rate": 0.1,
    "code_learning_rate": 0.02,
}
Drive = Callable[..., list[dict[str, Any]]]


def search_of(data: Dataset, **changes: Any) -> TwoStageSearch:
    return create_search("ista-two-stage", DARTS_SPACE, data, **{**OPTIONS, **changes})


def in_float64(stage: TwoStageSearch) -> TwoStageSearch:
    """So that updates can be compared with a formula to rounding."""
    stage.network.double()
    stage.code.double()
    return stage


def batch_of(seed: int, n: int = 8) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=random, dtype=torch.float64)
    return x, torch.randint(0, 4, (n,), generator=random)


def formula(stage: TwoStageSearch, codes: list[Tensor]) -> dict[str, Coefficients]:
    """c(b) = A_S' b - [E z]_S, node by node, for these b."""
    parts: dict[str, tuple[list[Tensor], list[Any]]] = {
        kind: ([], []) for kind in DARTS_SPACE.kinds
    }
    code = stage.code
    for (kind, node), A, z, S, b in zip(
        nodes_of(code), code.A, code.z, code.support, codes, strict=True
    ):
        E = A.T @ A - torch.eye(A.shape[1], dtype=A.dtype)
        c = A.T @ b - E @ z
        parts[kind][0].extend(c[k] for k in S)
        parts[kind][1].extend(DARTS_SPACE.candidates(node)[k] for k in S)
    return {
        kind: Coefficients(torch.stack(values), tuple(places))
        for kind, (values, places) in parts.items()
    }


def parameters(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def test_codes_may_learn_from_fewer_examples(toy_data: Callable[..., Dataset]) -> None:
    """As many steps, whose batches of the weights are the same."""
    data = toy_data(48)
    usual, cheap = search_of(data), search_of(data, code_batch_size=2)
    assert cheap.steps == usual.steps == 3
    pairs = list(zip(usual.batches(0, 0), cheap.batches(0, 0), strict=True))
    for ((x, y), (_, full)), ((same_x, same_y), (_, few)) in pairs:
        assert torch.equal(x, same_x) and torch.equal(y, same_y)
        assert (len(full), len(few)) == (8, 2)


class TestSteps:
    def test_b_takes_an_adam_step_on_the_exact_gradient(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        """lr, betas (0.5, 0.999), weight decay added to the gradient (L2), for several steps."""
        stage = in_float64(search_of(toy_data(), code_weight_decay=0.01))
        b = [each.detach().clone() for each in stage.code.b]
        mean = [torch.zeros_like(each) for each in b]
        square = [torch.zeros_like(each) for each in b]
        for step in range(1, 4):
            network = copy.deepcopy(stage.network)
            train, valid = batch_of(step), batch_of(100 + step)
            leaves = [each.clone().requires_grad_() for each in b]
            loss = F.cross_entropy(network(valid[0], formula(stage, leaves)), valid[1])
            for i, gradient in enumerate(torch.autograd.grad(loss, leaves)):
                assert gradient.any()
                gradient = gradient + 0.01 * b[i]
                mean[i] = 0.5 * mean[i] + 0.5 * gradient
                square[i] = 0.999 * square[i] + 0.001 * gradient**2
                m, v = mean[i] / (1 - 0.5**step), square[i] / (1 - 0.999**step)
                b[i] = b[i] - OPTIONS["code_learning_rate"] * m / (v.sqrt() + 1e-8)
            metrics = stage.train_step((train, valid))
            assert float(metrics["valid_loss"]) == pytest.approx(float(loss.detach()))
            for ours, expected in zip(stage.code.b, b, strict=True):
                torch.testing.assert_close(ours.detach(), expected, rtol=1e-8, atol=1e-11)

    def test_weights_take_a_clipped_sgd_step_at_the_new_b(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        stage = in_float64(search_of(toy_data(), clip=0.05, weight_decay=0.01))
        reference = copy.deepcopy(stage.network)
        train, valid = batch_of(1), batch_of(2)
        stage.train_step((train, valid))
        # the validation pass comes first, and moves the batch norms' statistics only
        coefficients = formula(stage, [b.detach() for b in stage.code.b])
        F.cross_entropy(reference(train[0], coefficients), train[1]).backward()
        having = [p for p in reference.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in having]).norm()
        assert norm > 0.05
        for ours, before in zip(stage.network.parameters(), reference.parameters(), strict=True):
            expected = before.detach()
            if before.grad is not None:
                clipped = before.grad * (0.05 / (norm + 1e-6))
                expected = expected - 0.1 * (clipped + 0.01 * expected)
            torch.testing.assert_close(ours.detach(), expected, rtol=1e-9, atol=1e-12)

    def test_b_step_leaves_weights_and_their_gradients_alone(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        stage = search_of(toy_data(), learning_rate=0.0, min_learning_rate=0.0)
        before = parameters(stage.network)
        b = [each.detach().clone() for each in stage.code.b]
        batches = next(stage.batches(0, 0))
        seen: list[bool] = []
        forward = stage.network.forward

        def look(*arguments: Any, **options: Any) -> Any:
            seen.append(any(p.grad is not None for p in stage.network.parameters()))
            return forward(*arguments, **options)

        stage.network.forward = look
        stage.train_step(batches)
        assert seen == [False, False]  # not before the second pass, the weights' own
        assert all(map(torch.equal, before, parameters(stage.network)))
        assert not any(map(torch.equal, b, stage.code.b))

    def test_b_follows_the_validation_batch_only_and_weights_step_leaves_it(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        stages = [in_float64(search_of(toy_data())) for _ in range(3)]
        for stage, (train, valid) in zip(stages, [(1, 10), (2, 10), (1, 11)], strict=True):
            stage.train_step((batch_of(train), batch_of(valid)))
        b = [[each.detach() for each in stage.code.b] for stage in stages]
        assert all(map(torch.equal, b[0], b[1]))
        assert not any(map(torch.equal, b[0], b[2]))
        weights = [parameters(stage.network) for stage in stages]
        assert not all(map(torch.equal, weights[0], weights[1]))

    def test_learning_rate_falls_along_the_cosine(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(toy_data(), epochs=4, learning_rate=0.2, min_learning_rate=0.02)
        rates: list[float] = []
        drive(
            stage,
            recorder,
            before_end=lambda s: rates.append(s.weights.optimizer.param_groups[0]["lr"]),
        )
        half = torch.linspace(0, torch.pi, 5, dtype=torch.float64)[:4]
        assert rates == pytest.approx((0.02 + 0.18 * (1 + half.cos()) / 2).tolist())


class TestNetwork:
    def test_is_the_search_network_of_the_paper(self, toy_data: Callable[..., Dataset]) -> None:
        """Cells' batch norms without affine part, one behind each pooling candidate, none behind a skip."""
        stage = search_of(toy_data())
        norms = [m for m in stage.network.cells.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        for norm in norms:
            assert not norm.weight.requires_grad and not norm.bias.requires_grad
            assert (norm.weight == 1).all() and (norm.bias == 0).all()
        for cell in stage.network.cells:
            for name, operation in cell.nodes.operations.items():
                has_norm = any(isinstance(m, nn.BatchNorm2d) for m in operation.modules())
                assert has_norm or "skip_connect" in name


class TestData:
    def test_halves_are_used_disjointly(self, toy_data: Callable[..., Dataset]) -> None:
        """Each image is a class of its own here, so labels tell which images a batch has."""
        stage = search_of(toy_data(n=32, classes=32))
        seen: tuple[set[int], set[int]] = (set(), set())
        for epoch in range(3):
            for batches in stage.batches(epoch, 0):
                for (x, y), found in zip(batches, seen, strict=True):
                    assert x.shape == (8, 1, 8, 8)
                    assert len(set(y.tolist())) == 8
                    found.update(y.tolist())
        for_weights, for_code = seen
        assert not for_weights & for_code
        assert len(for_weights) == len(for_code) == 16

    def test_test_data_are_never_touched(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Drive
    ) -> None:
        with pytest.raises(AssertionError, match="test data"):
            len(toy_data().test_images)
        drive(search_of(toy_data()), recorder)


class TestWholeSearch:
    def test_genotype_is_the_last_supports(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(toy_data(), code_learning_rate=0.1)
        ends = drive(stage, recorder)
        assert stage.epoch == 3 and len(ends) == 3
        last = recorder.recoveries[-1]
        genotype = stage.code.genotype()
        for found in last:
            candidates = DARTS_SPACE.candidates(found.node)
            names = {DARTS_SPACE.label(candidates[k]) for k in found.support}
            edges = genotype[found.kind].nodes[found.node]
            assert {f"{edge.operation}<{edge.source}" for edge in edges} == names
        assert ends[-1]["genotype"] == str(genotype)
        # what the last recovery found is what b is, too: nothing is moved after it
        for found, b in zip(last, stage.code.b, strict=True):
            torch.testing.assert_close(found.b, b.detach().double())
        changed = {f.node for f in last if f.changed}
        assert (ends[-1]["supports_changed"] == "none") == (not changed)

    def test_z_is_recovered_after_every_epoch_and_not_within(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(toy_data())
        held = []
        drive(
            stage,
            recorder,
            before_end=lambda s: held.append([list(s.code.support), [z.clone() for z in s.code.z]]),
        )
        assert len(recorder.recoveries) == 3
        for (support, z), found in zip(held[1:], recorder.recoveries, strict=False):
            assert support == [f.support for f in found]
            for ours, f in zip(z, found, strict=True):
                assert torch.equal(ours[list(f.support)], f.z[list(f.support)])

    def test_same_seed_same_bits(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Drive
    ) -> None:
        stages = [search_of(toy_data(), seed=seed) for seed in (5, 5, 6)]
        for i, stage in enumerate(stages):
            torch.manual_seed(i)  # must not matter
            drive(stage, recorder)
        first, again, other = (
            [*stage.network.state_dict().values(), *stage.code.b] for stage in stages
        )
        assert all(map(torch.equal, first, again))
        assert stages[0].code.genotype() == stages[1].code.genotype()
        assert stages[0].code.genotype() != stages[2].code.genotype()
        assert not all(map(torch.equal, first, other))

    def test_loss_falls(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Drive
    ) -> None:
        data = toy_data(classes=2)
        brighter = data.train_labels.to(torch.uint8)[:, None, None, None] * 127
        data = replace(data, train_images=data.train_images // 2 + brighter)
        stage = search_of(data, channels=4, epochs=8)
        losses: list[float] = []
        step = stage.train_step

        def remember(batch: Any) -> dict[str, Tensor]:
            metrics = step(batch)
            losses.append(float(metrics["train_loss"]))
            return metrics

        stage.train_step = remember
        drive(stage, recorder)
        assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


@pytest.mark.parametrize(("m", "short"), [(1, True), (2, False)])
def test_a_code_below_the_active_places_is_said(
    m: int, short: bool, toy_data: Callable[..., Dataset]
) -> None:
    expected = contextlib.nullcontext()
    if short:
        expected = pytest.warns(UserWarning, match="m = 1 is below the 2 active places of normal 0")
    with expected:
        search_of(toy_data(), m=m, s=2)
