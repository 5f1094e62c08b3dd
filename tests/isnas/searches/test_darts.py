"""DARTS: the gradients of first and second order are the right ones, and so is what is done with them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from making import (
    build_network,
    random_genotype,
    search_with,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from isnas import DARTS_SPACE, CellNetwork, DartsSpace, Dataset, Space, UserError
from isnas.networks.operations import BYPASS, kept_statistics
from isnas.searches.darts import DartsOptions, DartsSearch, mixed_product
from isnas.searches.registry import METHODS, create_search, search_options
from isnas.spaces.nasbench201 import NASBENCH201_SPACE
from isnas.tasks.registry import TASKS

IMAGES = TASKS["images"]


SPACE = DartsSpace(primitives=("max_pool_3x3", "skip_connect", "dil_conv_3x3"), nodes=2)
UNREAD = dataclasses.replace(SPACE, output=(2,))  # node 1 has weights that no loss depends on
OPTIONS = {
    "channels": 4,
    "cells": 3,
    "batch_size": 8,
    "epochs": 3,
    "seed": 3,
    "learning_rate": 0.1,
    "weight_decay": 3e-4,
    "architecture_learning_rate": 3e-3,
}
PARTIAL = {"partial": 2, "edge_weights": True}
Drive = Callable[..., list[dict[str, Any]]]
Maker = Callable[..., Dataset]


def search_of(data: Dataset, space: Space = SPACE, **changes: Any) -> DartsSearch:
    values = {**OPTIONS, **changes}
    order = values.pop("order", 1)
    return create_search(f"darts-{order}", space, data, **values)


def in_float64(stage: DartsSearch) -> DartsSearch:
    """So that updates can be compared with a formula to rounding."""
    stage.network.double()
    stage.code.double()
    return stage


def batch_of(seed: int, n: int = 8) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=random, dtype=torch.float64)
    return x, torch.randint(0, 4, (n,), generator=random)


def loss_of(network: nn.Module, code: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(network(batch[0], code.coefficients()), batch[1])


def copied(tensors: Any) -> list[Tensor]:
    return [each.detach().clone() for each in tensors]


def spread(stage: DartsSearch) -> None:
    """Give the code weights that differ from each other."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in stage.code.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))


class TestFirstOrder:
    @pytest.mark.parametrize("changes", [{}, {"edge_weights": True}, PARTIAL])
    def test_architecture_takes_an_adam_step_on_the_exact_gradient(
        self, toy_data: Maker, changes: dict[str, Any]
    ) -> None:
        """lr, betas (0.5, 0.999), weight decay added to the gradient (L2), for several steps."""
        stage = in_float64(search_of(toy_data(), architecture_weight_decay=0.01, **changes))
        values = copied(stage.code.parameters())
        mean, square = ([torch.zeros_like(each) for each in values] for _ in range(2))
        for step in range(1, 4):
            network, code = copy.deepcopy(stage.network), copy.deepcopy(stage.code)
            train, valid = batch_of(step), batch_of(100 + step)
            loss = loss_of(network, code, valid)
            loss.backward()
            for i, parameter in enumerate(code.parameters()):
                assert parameter.grad.any()
                gradient = parameter.grad + 0.01 * values[i]
                mean[i] = 0.5 * mean[i] + 0.5 * gradient
                square[i] = 0.999 * square[i] + 0.001 * gradient**2
                m, v = mean[i] / (1 - 0.5**step), square[i] / (1 - 0.999**step)
                rate = OPTIONS["architecture_learning_rate"]
                values[i] = values[i] - rate * m / (v.sqrt() + 1e-8)
            metrics = stage.train_step((train, valid))
            assert float(metrics["valid_loss"]) == pytest.approx(loss.item())
            for ours, expected in zip(stage.code.parameters(), values, strict=True):
                torch.testing.assert_close(ours.detach(), expected, rtol=1e-8, atol=1e-11)

    @pytest.mark.parametrize("order", [1, 2])
    def test_weights_then_take_their_step_at_the_new_weights_of_operations(
        self, toy_data: Maker, order: int
    ) -> None:
        """Statistics, too, are those of this pass alone."""
        stage = in_float64(search_of(toy_data(), clip=0.05, weight_decay=0.01, order=order))
        reference = copy.deepcopy(stage.network)
        train, valid = batch_of(1), batch_of(2)
        stage.train_step((train, valid))
        loss_of(reference, stage.code, train).backward()
        norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        assert norm > 0.05
        for ours, before in zip(stage.network.parameters(), reference.parameters(), strict=True):
            expected = before.detach()
            if before.grad is not None:
                expected = expected - 0.1 * (before.grad + 0.01 * expected)
            torch.testing.assert_close(ours.detach(), expected, rtol=1e-9, atol=1e-12)
        for ours, theirs in zip(stage.network.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("order", [1, 2])
    def test_architectures_step_leaves_the_network_as_it_is(
        self, toy_data: Maker, order: int
    ) -> None:
        stage = search_of(toy_data(), order=order)
        before = copied(stage.network.state_dict().values())
        passes: list[bool] = []
        stage.network.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
        train, valid = next(stage.batches(0, 0))
        stage.weights.set_learning_rate(0.0)
        with kept_statistics(stage.network):
            stage.architecture_gradients(train, valid)
        assert all(map(torch.equal, before, stage.network.state_dict().values()))
        assert all(p.grad is None for p in stage.network.parameters())
        assert all(p.grad is None for p in stage.code.parameters())
        assert passes == [True] * (1 if order == 1 else 4)  # a referee sees every pass
        assert all(
            norm.momentum == 0.1
            for norm in stage.network.modules()
            if isinstance(norm, nn.BatchNorm2d)
        )


def exact(
    stage: DartsSearch, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """The total derivative of L_v(w'(alpha), alpha): autograd through the step itself, nothing approximated."""
    network, code = copy.deepcopy(stage.network), stage.code
    (group,) = stage.weights.optimizer.param_groups
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    originals = dict(stage.network.named_parameters())
    loss = loss_of(network, code, train)
    gradients = torch.autograd.grad(
        loss, list(named.values()), create_graph=True, allow_unused=True
    )
    moved = {}
    for (name, w), gradient in zip(named.items(), gradients, strict=True):
        if gradient is not None:
            step = gradient + group["weight_decay"] * w.detach()
            state = stage.weights.optimizer.state.get(originals[name], {})
            if "momentum_buffer" in state:
                step = step + group["momentum"] * state["momentum_buffer"]
            moved[name] = w.detach() - group["lr"] * step
    logits = functional_call(network, moved, (valid[0], code.coefficients()))
    return list(torch.autograd.grad(F.cross_entropy(logits, valid[1]), list(code.parameters())))


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    found, expected = (torch.cat([e.flatten() for e in each]) for each in (found, expected))
    return float((found - expected).norm() / expected.norm())


class Smooth(nn.Module):
    """A tiny network without a kink, with a batch norm, that depends on alpha at two places."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.one = nn.Parameter(torch.randn(5, 6, generator=random, dtype=torch.float64))
        self.two = nn.Parameter(torch.randn(6, 3, generator=random, dtype=torch.float64))
        self.norm = nn.BatchNorm1d(6).double()

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        share = alpha.softmax(1)
        hidden = self.norm(x @ self.one)
        hidden = share[0, 0] * hidden.tanh() + share[0, 1] * hidden.sin() + share[0, 2] * hidden
        return share[1, 0] * hidden @ self.two + share[1, 1] * (hidden**2) @ self.two


class TestSecondOrder:
    def test_product_is_that_of_double_backward_up_to_epsilon_squared(self) -> None:
        random = torch.Generator().manual_seed(2)
        network = Smooth()
        x = torch.randn(16, 5, generator=random, dtype=torch.float64)
        y = torch.randint(0, 3, (16,), generator=random)
        alpha = torch.randn(2, 3, generator=random, dtype=torch.float64).requires_grad_()
        weights = dict(network.named_parameters())
        vector = {
            name: torch.randn(w.shape, generator=random, dtype=torch.float64)
            for name, w in weights.items()
        }

        def gradient(moved: Any, create_graph: bool = False) -> tuple[Tensor, ...]:
            loss = F.cross_entropy(functional_call(network, dict(moved), (x, alpha)), y)
            return torch.autograd.grad(loss, [alpha], create_graph=create_graph)

        loss = F.cross_entropy(network(x, alpha), y)
        first = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        inner = sum((g * vector[name]).sum() for name, g in zip(weights, first, strict=True))
        expected = torch.autograd.grad(inner, [alpha])
        detached = {name: w.detach() for name, w in weights.items()}
        errors = [
            relative_error(mixed_product(gradient, detached, vector, radius), list(expected))
            for radius in (0.04, 0.02, 0.01)
        ]
        assert errors[2] < 1e-4
        for larger, smaller in itertools.pairwise(errors):
            assert larger / smaller == pytest.approx(4, rel=0.02)

    def test_no_direction_gives_zero(self) -> None:
        weights = {"w": torch.ones(3)}
        (product,) = mixed_product(lambda w: (w["w"] ** 2,), weights, {"w": torch.zeros(3)})
        assert torch.equal(product, torch.zeros(3))

    @pytest.mark.parametrize(
        ("space", "changes"),
        [(SPACE, {}), (SPACE, PARTIAL), (UNREAD, {"edge_weights": True})],
    )
    def test_gradient_is_the_total_derivative(
        self, toy_data: Maker, space: Space, changes: dict[str, Any]
    ) -> None:
        """With momentum from steps before, weight decay and the present learning rate, on the super-net itself.

        ReLU and max pooling have kinks, which central differences must not step across: hence the small radius.
        """
        stage = search_of(toy_data(), space, order=2, weight_decay=0.01, **changes)
        stage = in_float64(stage)
        spread(stage)
        for step in range(2):
            stage.train_step((batch_of(step), batch_of(50 + step)))
        stage.weights.set_learning_rate(0.4)
        stage.radius = 1e-5
        train, valid = batch_of(10), batch_of(11)
        found, metrics = stage.architecture_gradients(train, valid)
        expected = exact(stage, train, valid)
        assert relative_error(found, expected) < 1e-6
        # and the second part is not negligible
        first = torch.autograd.grad(
            loss_of(stage.network, stage.code, valid), list(stage.code.parameters())
        )
        assert relative_error(list(first), expected) > 0.05
        assert set(metrics) == {"valid_loss", "valid_accuracy"}

    def test_is_the_published_algorithm(self, toy_data: Maker) -> None:
        """With epsilon = 0.01 / ||v||, by copies of the network whose weights are moved one by one."""
        stage = in_float64(search_of(toy_data(), order=2))
        spread(stage)
        train, valid = batch_of(10), batch_of(11)
        code = list(stage.code.parameters())

        def moved(steps: list[Tensor], size: float) -> tuple[nn.Module, list[Tensor]]:
            network = copy.deepcopy(stage.network)
            weights = [p for p in network.parameters() if p.requires_grad]
            with torch.no_grad():
                for weight, step in zip(weights, steps or [0.0] * len(weights), strict=True):
                    weight += size * step
            return network, weights

        network, weights = moved([], 0.0)
        gradients = torch.autograd.grad(loss_of(network, stage.code, train), weights)
        steps = [
            gradient + OPTIONS["weight_decay"] * w
            for gradient, w in zip(gradients, copied(weights), strict=True)
        ]
        network, weights = moved(steps, -OPTIONS["learning_rate"])
        both = torch.autograd.grad(loss_of(network, stage.code, valid), [*code, *weights])
        first, v = both[: len(code)], list(both[len(code) :])
        epsilon = 0.01 / float(torch.cat([part.flatten() for part in v]).norm())
        up, down = (
            torch.autograd.grad(loss_of(moved(v, e)[0], stage.code, train), code)
            for e in (epsilon, -epsilon)
        )
        expected = [
            f - OPTIONS["learning_rate"] * (u - d) / (2 * epsilon)
            for f, u, d in zip(first, up, down, strict=True)
        ]
        found, _ = stage.architecture_gradients(train, valid)
        assert relative_error(found, expected) < 1e-9

    def test_without_a_step_it_is_the_first_order(self, toy_data: Maker) -> None:
        stages = [
            in_float64(search_of(toy_data(), order=order, learning_rate=0, min_learning_rate=0))
            for order in (1, 2)
        ]
        (first, _), (second, _) = (
            stage.architecture_gradients(batch_of(1), batch_of(2)) for stage in stages
        )
        assert relative_error(second, first) < 1e-12


class TestSchedule:
    def test_architecture_is_not_touched_while_warming_up(
        self, toy_data: Maker, recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(toy_data(), warm_up=2, **PARTIAL)
        start, weights = copied(stage.code.parameters()), copied(stage.network.parameters())
        passes: list[int] = []
        stage.network.register_forward_hook(lambda *_: passes.append(stage.epoch))
        metrics = stage.train_step(next(stage.batches(0, 0)))
        assert set(metrics) == {"train_loss", "train_accuracy"}
        drive(stage, recorder, epochs=2)
        assert all(map(torch.equal, start, stage.code.parameters()))
        assert not all(map(torch.equal, weights, stage.network.parameters()))
        drive(stage, recorder)
        assert not any(map(torch.equal, start, stage.code.parameters()))
        assert [passes.count(epoch) for epoch in range(3)] == [1 + 2, 2, 4]

    @pytest.mark.parametrize("changes", [{}, {"order": 2}, {**PARTIAL, "warm_up": 1}])
    def test_resumed_is_uninterrupted(
        self, toy_data: Maker, recorder: Any, drive: Drive, changes: dict[str, Any]
    ) -> None:
        """Broken off in the middle of the second epoch; every bit is the same at the end."""
        whole = search_of(toy_data(n=48), **changes)
        ends = drive(whole, recorder)
        broken = search_of(toy_data(n=48), **changes)
        drive(broken, recorder, epochs=1)
        broken.train_step(next(broken.batches(1, 0)))
        broken.step = 1
        state = copy.deepcopy(broken.state_dict())
        torch.manual_seed(9)  # must not matter
        again = search_of(toy_data(n=48), **changes)
        spread(again)  # nor what it was before
        again.load_state_dict(state)
        assert (again.epoch, again.step) == (1, 1)
        assert drive(again, recorder) == ends[1:]
        for ours, expected in zip(
            [*again.network.state_dict().values(), *again.code.parameters()],
            [*whole.network.state_dict().values(), *whole.code.parameters()],
            strict=True,
        ):
            assert torch.equal(ours, expected)

    def test_finds_an_architecture_and_says_so(
        self, toy_data: Maker, recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(toy_data(), DARTS_SPACE, epochs=1)
        (end,) = drive(stage, recorder)
        genotype = stage.genotype()
        assert end == {"genotype": str(genotype)}
        assert all(
            len(node) == 2 for node in (*genotype["normal"].nodes, *genotype["reduction"].nodes)
        )
        assert build_network(genotype, 4, 3, 4, in_channels=1)(torch.randn(2, 1, 8, 8)).shape


class TestOtherSpaces:
    @pytest.mark.parametrize("changes", [{}, {"order": 2}, PARTIAL])
    def test_nasbench201(
        self, toy_data: Maker, recorder: Any, drive: Drive, changes: dict[str, Any]
    ) -> None:
        stage = search_of(
            toy_data(), NASBENCH201_SPACE, epochs=1, cells=1, **{"order": 1, **changes}
        )
        start = copied(stage.code.parameters())
        drive(stage, recorder)
        assert not any(map(torch.equal, start, stage.code.parameters()))
        genotype = stage.genotype()
        NASBENCH201_SPACE.check(genotype)
        for node in genotype["cell"].nodes:
            assert len({edge.source for edge in node}) == len(node)
        IMAGES.shared_score(stage.network, stage.alone(genotype), [next(stage.batches(0, 0))[1]])


class TestAlone:
    def test_runs_the_genotype_and_what_passes_by_its_edges(self, toy_data: Maker) -> None:
        stage = search_of(toy_data(), **PARTIAL)
        genotype = random_genotype(SPACE, torch.Generator().manual_seed(0), 3)
        coefficients = stage.alone(genotype)
        bypass = stage.space.primitives.index(BYPASS)
        for kind, part in coefficients.items():
            own = [place for place in part.places if place.operation != bypass]
            assert tuple(own) == genotype.places(SPACE)[kind]
            edges = [place[:2] for place in part.places if place.operation == bypass]
            assert sorted(edges) == sorted({place[:2] for place in own})
            assert torch.equal(part.values, torch.ones(len(part.places)))
        batch = next(stage.batches(0, 0))[1]
        assert 0 <= IMAGES.shared_score(stage.network, coefficients, [batch]) <= 1

    def test_without_partial_channels_the_genotype_only(self, toy_data: Maker) -> None:
        stage = search_of(toy_data(), edge_weights=True)
        genotype = random_genotype(SPACE, torch.Generator().manual_seed(0))
        found = {kind: part.places for kind, part in stage.alone(genotype).items()}
        assert found == genotype.places(SPACE)


class TestOptions:
    def test_papers_constants(self) -> None:
        darts = search_options("darts-1", DARTS_SPACE, "paper")
        pc = search_options("pc-darts", DARTS_SPACE, "paper")
        shared = {
            "data": "cifar10",
            "channels": 16,
            "cells": 8,
            "epochs": 50,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "clip": 5.0,
            "architecture_weight_decay": 1e-3,
        }
        for options in (darts, pc):
            flat = options.to_json()
            assert {name: flat[name] for name in shared} == shared
            assert {choice.s for choice in DARTS_SPACE.choices} == {2} and flat["s"] is None
        assert (darts.optimizer.batch_size, pc.optimizer.batch_size) == (64, 256)
        assert (darts.optimizer.learning_rate, pc.optimizer.learning_rate) == (0.025, 0.1)
        assert (darts.optimizer.min_learning_rate, pc.optimizer.min_learning_rate) == (0.001, 0.0)
        rates = [options.method.architecture_learning_rate for options in (darts, pc)]
        assert rates == [3e-4, 6e-4]
        assert (darts.method.partial, darts.method.edge_weights, darts.method.warm_up) == (
            1,
            False,
            0,
        )
        assert (pc.method.partial, pc.method.edge_weights, pc.method.warm_up) == (4, True, 15)

    @pytest.mark.parametrize("method", ["darts-1", "darts-2", "pc-darts"])
    def test_quick_has_ten_times_the_architectures_learning_rate(self, method: str) -> None:
        quick, paper = (search_options(method, DARTS_SPACE, name) for name in ("quick", "paper"))
        ratio = quick.method.architecture_learning_rate / paper.method.architecture_learning_rate
        assert ratio == pytest.approx(10)
        assert quick.data.data == "digits" and quick.network.channels % quick.method.partial == 0
        assert quick.method.warm_up == (5 if method == "pc-darts" else 0)
        schema = METHODS[method].schema(DARTS_SPACE)
        assert schema.from_json(quick.to_json()) == quick

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"order": 3}, "order must be at most 2, got 3"),
            ({"order": 0}, "order must be at least 1"),
            ({"partial": 0}, "partial must be at least 1"),
            ({"s": 0}, "s must be whole numbers of at least 1, got 0"),
            ({"s": (1, 0)}, r"s must be whole numbers of at least 1, got \(1, 0\)"),
            ({"architecture_learning_rate": -1.0}, "must be at least 0"),
        ],
    )
    def test_mistakes(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            DartsOptions(**changes)

    def test_a_search_of_nothing_is_refused(self, toy_data: Maker) -> None:
        message = "warm_up must be below epochs, 3, or nothing is searched; got 3"
        with pytest.raises(UserError, match=message):
            search_of(toy_data(), warm_up=3)

    def test_network_of_other_partial_channels_is_refused(self, toy_data: Maker) -> None:
        supernet: CellNetwork = search_of(toy_data()).network
        with pytest.raises(UserError, match="super-net has partial = 1, the options have 2"):
            search_with(supernet, "darts-1", toy_data(), **OPTIONS, **PARTIAL)
