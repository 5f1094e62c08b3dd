"""One-stage training: nodes freeze when they have settled, then the network trains on; no architecture is too large."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from making import build_network, nodes_of
from torch import Tensor, nn
from torch.nn import functional as F

from isnas import (
    DARTS_SPACE,
    DartsSpace,
    Dataset,
    Genotype,
    Place,
    Space,
    SparseCode,
    UserError,
    fold,
)
from isnas.searches import sparse_search
from isnas.searches.one_stage import OneStageTraining
from isnas.searches.registry import create_search, search_options

OPTIONS = {
    "channels": 2,
    "cells": 3,
    "batch_size": 16,
    "epochs": 2,
    "search_epochs": 3,
    "init_scale": 0.5,
    "rule": "best_subset",
    "auxiliary_weight": 0.4,
    "drop_path": 0.2,
    "cutout": 2,
    "learning_rate": 0.05,
}
LARGEST = "sep_conv_5x5"
SMALLEST = "skip_connect"

Data = Callable[..., Dataset]
Drive = Callable[..., list[dict[str, Any]]]
Steer = Callable[..., None]


def training(data: Dataset, space: Space = DARTS_SPACE, **changes: Any) -> OneStageTraining:
    return create_search("ista-one-stage", space, data, **{**OPTIONS, **changes})


def is_operation(name: str) -> Callable[[Place], bool]:
    return lambda place: DARTS_SPACE.primitives[place.operation] == name


def size_of(genotype: Genotype) -> int:
    """Parameters of the discrete network, without auxiliary head."""
    network = build_network(genotype, 2, 3, 4, in_channels=1, closing_norm="all")
    return sum(p.numel() for p in network.parameters())


def norms_of(stage: OneStageTraining, node: int) -> list[nn.BatchNorm2d]:
    """The batch norms of the active operations of node `nodes_of(code)[node]`."""
    kind, number = nodes_of(stage.code)[node]
    places = [p for p in stage.code.places[kind] if p.node == number]
    return [
        module
        for operation in stage.network.operations_at(kind, places)
        for module in operation.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]


def all_norms(stage: OneStageTraining) -> list[nn.BatchNorm2d]:
    """The batch norms of all candidates."""
    return [
        module
        for cell in stage.network.cells
        for module in cell.nodes.operations.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]


def values(stage: OneStageTraining) -> list[Tensor]:
    return [part.values.detach().clone() for part in stage.code.coefficients().values()]


def adam_state(stage: OneStageTraining) -> list[Tensor]:
    state = stage.code_optimizer.state_dict()["state"]
    return [state[i][name].clone() for i in sorted(state) for name in sorted(state[i])]


class TestSteps:
    def test_b_and_weights_follow_the_same_loss_from_where_they_both_were(
        self, toy_data: Data
    ) -> None:
        """One backward pass; the auxiliary loss counts; b's gradient is not clipped, the weights' is."""
        stage = training(toy_data(), clip=0.01, weight_decay=0.1, code_learning_rate=0.01)
        stage.network.double()
        stage.code.double()
        network, code = copy.deepcopy(stage.network), copy.deepcopy(stage.code)
        random = torch.Generator().manual_seed(0)
        x = torch.randn(16, 1, 8, 8, generator=random, dtype=torch.float64)
        y = torch.arange(16) % 4
        out = network(x, code.coefficients(), auxiliary=True)
        loss = F.cross_entropy(out.logits, y) + 0.4 * F.cross_entropy(out.auxiliary, y)
        loss.backward()
        metrics = stage.train_step((x, y))
        assert float(metrics["train_loss"]) == pytest.approx(float(loss.detach()))
        for ours, before in zip(stage.code.b, code.b, strict=True):
            # Adam's first step: mean and square of the gradient are the gradient itself
            gradient = before.grad + 1e-3 * before.detach()
            expected = before.detach() - 0.01 * gradient / (gradient.abs() + 1e-8)
            torch.testing.assert_close(ours.detach(), expected, rtol=1e-7, atol=1e-10)
        having = [p for p in network.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in having]).norm()
        for ours, before in zip(stage.network.parameters(), network.parameters(), strict=True):
            expected = before.detach()
            if before.grad is not None and before.requires_grad:
                step = before.grad * (0.01 / (norm + 1e-6)) + 0.1 * expected
                expected = expected - 0.05 * step
            torch.testing.assert_close(ours.detach(), expected, rtol=1e-9, atol=1e-12)

    def test_all_training_images_are_used_and_no_test_images(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = training(toy_data(n=32, classes=32))
        for epoch in (0, 1):
            labels = torch.cat([y for _, y in stage.batches(epoch, 0)])
            assert sorted(labels.tolist()) == list(range(32))
        drive(stage, recorder)  # the test data of these refuse to be used

    def test_same_seed_same_bits(self, toy_data: Data, recorder: Any, drive: Drive) -> None:
        stages = [training(toy_data(), seed=seed, code_learning_rate=0.05) for seed in (5, 5, 6)]
        for i, stage in enumerate(stages):
            torch.manual_seed(i)  # must not matter
            drive(stage, recorder)
        folded = [fold(stage.network, stage.code.coefficients()) for stage in stages]
        first, again, other = (list(network.state_dict().values()) for network in folded)
        assert all(map(torch.equal, first, again))
        assert stages[0].code.genotype() == stages[1].code.genotype()
        assert stages[0].code.genotype() != stages[2].code.genotype()
        assert len(first) != len(other) or not all(map(torch.equal, first, other))


class TestFreezing:
    def test_a_node_freezes_when_its_z_has_stopped(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        """By the definition: ||z_t - z_(t-1)|| <= threshold, z the recovered vector cut to its support."""
        stage = training(
            toy_data(), code_learning_rate=2e-3, freeze_threshold=0.008, search_epochs=50
        )
        outcomes = set()
        for _ in range(5):
            if not stage.searching:
                break
            before = [z.clone() for z in stage.code.z]
            frozen = list(stage.code.frozen)
            drive(stage, recorder, epochs=1)
            for i, z in enumerate(stage.code.z):
                if frozen[i]:
                    assert stage.code.frozen[i]
                else:
                    settled = float((z - before[i]).norm()) <= 0.008
                    assert float(z.norm()) > 0.08
                    assert stage.code.frozen[i] == settled
                    outcomes.add(settled)
        assert outcomes == {True, False}

    def test_only_the_node_that_moves_goes_on(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = training(toy_data(), code_learning_rate=0.0)

        def push(stage: OneStageTraining) -> None:
            with torch.no_grad():
                stage.code.b[3] += 0.2

        ends = drive(stage, recorder, epochs=1, before_end=push)
        assert stage.code.frozen == [i != 3 for i in range(8)]
        assert recorder.frozen[-1] == stage.code.frozen
        assert ends[-1]["frozen"] == 7
        assert stage.searching
        drive(stage, recorder, epochs=1)
        assert all(stage.code.frozen)
        assert not stage.searching

    def test_what_has_not_moved_yet_has_not_settled(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        """With the initial b of 1e-3 no z moves by more than the threshold 1e-3: an artefact, not an answer."""
        stage = training(toy_data(), init_scale=1e-4, code_learning_rate=1e-6, search_epochs=50)
        drive(stage, recorder, epochs=3)
        assert all(found.moved <= 1e-3 for found in recorder.recoveries[-1])
        assert not any(stage.code.frozen)

    def test_the_guard_is_a_multiple_of_the_threshold(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        lengths = [float(z.norm()) for z in training(toy_data()).code.z]
        floor = sorted(lengths)[3] * (1 + 1e-9)
        stage = training(
            toy_data(), code_learning_rate=0.0, freeze_threshold=1e-3, freeze_floor=floor / 1e-3
        )
        drive(stage, recorder, epochs=1)
        assert stage.code.frozen == [length >= floor for length in lengths]
        assert sum(stage.code.frozen) == 4

    @pytest.mark.parametrize("init_scale", [1e-3, 0.5])
    def test_what_is_left_freezes_when_the_search_epochs_run_out(
        self, init_scale: float, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        """It is the last recovery that is frozen: the genotype is that of the network that is trained on."""
        stage = training(
            toy_data(), init_scale=init_scale, freeze_threshold=0.0, code_learning_rate=0.05
        )
        drive(stage, recorder, epochs=2)
        assert stage.searching
        drive(stage, recorder, epochs=1)
        assert all(stage.code.frozen)
        assert not stage.searching
        last = recorder.recoveries[-1]
        assert [found.support for found in last] == stage.code.support
        expected = torch.cat([found.coefficients for found in last])
        torch.testing.assert_close(torch.cat(values(stage)).double(), expected)
        drive(stage, recorder)
        assert [found.support for found in last] == stage.code.support

    def test_coefficients_of_a_frozen_node_never_change(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = training(toy_data(), code_learning_rate=0.02, freeze_threshold=0.0, search_epochs=4)
        stage.code.freeze(2)
        before = list(stage.code.recover()[2].coefficients)
        b = stage.code.b[2].detach().clone()
        drive(stage, recorder)
        assert list(stage.code.recover()[2].coefficients) == before
        assert torch.equal(stage.code.b[2].detach(), b)

    def test_coefficients_are_constant_after_the_search(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = training(toy_data(), code_learning_rate=0.05)
        drive(stage, recorder, epochs=3)
        before, places = values(stage), dict(stage.code.places)
        b = [each.detach().clone() for each in stage.code.b]
        drive(stage, recorder)
        assert stage.epoch == 5
        assert all(map(torch.equal, before, values(stage)))
        assert all(map(torch.equal, b, stage.code.b))
        assert stage.code.places == places


class TestBatchNorms:
    def test_are_fixed_at_one_and_zero_while_searching(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = training(toy_data(), freeze_threshold=0.0, weight_decay=0.1, search_epochs=10)
        drive(stage, recorder, epochs=2)
        assert not any(stage.code.frozen)
        for norm in all_norms(stage):
            assert not norm.weight.requires_grad and not norm.bias.requires_grad
            assert (norm.weight == 1).all() and (norm.bias == 0).all()
        # all others are trained from the start
        own = {id(norm) for norm in all_norms(stage)}
        for module in stage.network.modules():
            if isinstance(module, nn.BatchNorm2d) and id(module) not in own:
                assert module.weight.requires_grad
                assert (module.weight != 1).any()

    def test_become_trainable_with_their_node_and_only_they(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = training(toy_data(), code_learning_rate=0.0, search_epochs=10)

        def push(stage: OneStageTraining) -> None:
            with torch.no_grad():
                for i in range(8):
                    if i not in (1, 6):
                        stage.code.b[i] += 0.3 * (1 + stage.epoch)

        drive(stage, recorder, epochs=1, before_end=push)
        assert [i for i, frozen in enumerate(stage.code.frozen) if frozen] == [1, 6]
        free = {id(norm) for i in (1, 6) for norm in norms_of(stage, i)}
        assert free
        for norm in all_norms(stage):
            assert norm.weight.requires_grad == norm.bias.requires_grad == (id(norm) in free)
        drive(stage, recorder, epochs=1, before_end=push)
        for norm in all_norms(stage):
            moved = bool((norm.weight != 1).any() or (norm.bias != 0).any())
            assert not moved or id(norm) in free
        # in a cell whose output is not read for now nothing can be learnt
        for i in (1, 6):
            assert any((norm.weight != 1).any() for norm in norms_of(stage, i))
            assert any((norm.bias != 0).any() for norm in norms_of(stage, i))

    def test_of_candidates_that_are_not_found_stay_as_they_were(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = training(toy_data(), code_learning_rate=0.05)
        drive(stage, recorder)
        found = {id(norm) for i in range(8) for norm in norms_of(stage, i)}
        for norm in all_norms(stage):
            assert bool((norm.weight != 1).any()) == (id(norm) in found)
            assert norm.weight.requires_grad == (id(norm) in found)


class TestDropPath:
    @pytest.mark.parametrize("drops", [False, True])
    def test_of_skips_is_an_option(self, toy_data: Data, drops: bool) -> None:
        """Off by default; the preset `paper` has it, as the published code drops skips that end in a norm."""
        stage = training(toy_data(), drop_skips=drops)
        skips = [
            operation
            for cell in stage.network.cells
            for operation in cell.nodes.operations.values()
            if isinstance(operation.body, torch.nn.Identity)
        ]
        assert {skip.droppable for skip in skips} == {drops}
        for preset, expected in (("quick", False), ("paper", True)):
            options = search_options("ista-one-stage", DARTS_SPACE, preset)
            assert options.regularization.drop_skips == expected


class TestSchedule:
    def rates(
        self, stage: OneStageTraining, recorder: Any, drive: Drive
    ) -> tuple[list[float], list[float]]:
        """Learning rate and drop path of every epoch."""
        learning, drop, rates = [], [], [0.0]
        task = stage.task

        class Watching(type(task)):
            def regularize(
                self, network: Any, batch: Any, options: Any, done: float | None, *rest: Any
            ) -> dict[str, Any]:
                rates.append(options.drop_path * (done or 0.0))
                found = task.regularize(network, batch, options, done, *rest)
                assert ("drop_path_mask" in found) == (done is not None)
                return found

        stage.task = Watching()

        def look(stage: OneStageTraining) -> None:
            learning.append(stage.weights.optimizer.param_groups[0]["lr"])
            drop.append(rates[-1])

        drive(stage, recorder, before_end=look)
        return learning, drop

    def test_begins_when_all_are_frozen(self, toy_data: Data, recorder: Any, drive: Drive) -> None:
        """Settled at once: the search ends after one epoch instead of fifty, and training is as long as ever."""
        stage = training(toy_data(), code_learning_rate=0.0, search_epochs=50, epochs=4)
        learning, drop = self.rates(stage, recorder, drive)
        assert stage.searched == 1
        assert stage.epoch == stage.epochs == 5
        done = torch.tensor([0, 0, 0.25, 0.5, 0.75], dtype=torch.float64)
        assert learning == pytest.approx((0.05 * (1 + (torch.pi * done).cos()) / 2).tolist())
        assert drop == pytest.approx((0.2 * done).tolist())
        assert len(recorder.recoveries) == 1, "nothing is recovered any more"

    def test_learning_rate_is_full_while_searching(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = training(toy_data(), freeze_threshold=0.0)
        learning, drop = self.rates(stage, recorder, drive)
        assert stage.searched == 3
        assert len(learning) == 5
        assert learning == pytest.approx([0.05] * 4 + [0.025])
        assert drop == pytest.approx([0, 0, 0, 0, 0.1])

    def test_folds_in_the_end(self, toy_data: Data, recorder: Any, drive: Drive) -> None:
        stage = training(toy_data(), code_learning_rate=0.05)
        drive(stage, recorder)
        coefficients = stage.code.coefficients()
        folded = fold(stage.network, coefficients).eval()
        x = torch.randn(5, 1, 8, 8)
        expected = stage.network.eval()(x, coefficients)
        torch.testing.assert_close(folded(x), expected, rtol=1e-5, atol=1e-6)


class TestLimit:
    def limited(self, data: Dataset, **changes: Any) -> OneStageTraining:
        """A training whose limit is just what it begins with."""
        size = size_of(training(data).code.genotype())
        return training(
            data, limit=(f"parameters={size}",), search_epochs=10, freeze_threshold=0.0, **changes
        )

    def becoming(self, operation: str, steer: Steer) -> Callable[[OneStageTraining], None]:
        """What makes the next recovery find this operation everywhere."""
        return lambda stage: steer(stage.code, DARTS_SPACE, is_operation(operation))

    def test_a_larger_architecture_is_refused_and_taken_back(
        self, toy_data: Data, recorder: Any, drive: Drive, steer: Steer
    ) -> None:
        stage = self.limited(toy_data())
        genotype, coefficients = stage.code.genotype(), values(stage)
        b = [each.detach().clone() for each in stage.code.b]
        ends = drive(stage, recorder, epochs=1, before_end=self.becoming(LARGEST, steer))
        assert recorder.refused == [True]
        assert "refused" in ends[-1]["supports_changed"]
        assert size_of(
            Genotype.from_places(
                {
                    kind: [
                        DARTS_SPACE.candidates(f.node)[k]
                        for f in recorder.recoveries[-1]
                        if f.kind == kind
                        for k in f.support
                    ]
                    for kind in DARTS_SPACE.kinds
                },
                DARTS_SPACE,
            )
        ) > size_of(genotype)
        assert stage.code.genotype() == genotype
        assert all(map(torch.equal, values(stage), coefficients))
        assert all(map(torch.equal, stage.code.b, b))
        assert adam_state(stage) == []

    def test_adam_is_taken_back_too_however_often(
        self, toy_data: Data, recorder: Any, drive: Drive, steer: Steer
    ) -> None:
        stage = self.limited(toy_data())
        drive(stage, recorder, epochs=1, before_end=self.becoming(SMALLEST, steer))
        assert recorder.refused == [False]
        adam, b = adam_state(stage), [each.detach().clone() for each in stage.code.b]
        assert adam
        z = [each.clone() for each in stage.code.z]
        for _ in range(3):
            drive(stage, recorder, epochs=1, before_end=self.becoming(LARGEST, steer))
            assert recorder.refused[-1]
            assert all(map(torch.equal, stage.code.b, b))
            assert all(map(torch.equal, stage.code.z, z))
            again = adam_state(stage)
            assert len(again) == len(adam)
            assert all(map(torch.equal, again, adam))

    def test_a_smaller_architecture_is_taken(
        self, toy_data: Data, recorder: Any, drive: Drive, steer: Steer
    ) -> None:
        stage = self.limited(toy_data())
        drive(stage, recorder, epochs=1, before_end=self.becoming(LARGEST, steer))
        drive(stage, recorder, epochs=1, before_end=self.becoming(SMALLEST, steer))
        assert recorder.refused == [True, False]
        for cell in (stage.code.genotype()["normal"], stage.code.genotype()["reduction"]):
            assert {edge.operation for edges in cell.nodes for edge in edges} == {SMALLEST}

    def test_holds_at_the_end_even_if_the_last_one_is_refused(
        self, toy_data: Data, recorder: Any, drive: Drive, steer: Steer
    ) -> None:
        stage = self.limited(toy_data())
        stage.options = stage.options.replace(search_epochs=2)
        genotype = stage.code.genotype()
        drive(stage, recorder, epochs=2, before_end=self.becoming(LARGEST, steer))
        assert recorder.refused == [True, True]
        assert all(stage.code.frozen) and not stage.searching
        drive(stage, recorder)
        folded = fold(stage.network, stage.code.coefficients())
        assert stage.code.genotype() == genotype
        parameters = folded.named_parameters()
        counted = sum(p.numel() for name, p in parameters if "auxiliary" not in name)
        assert counted <= stage.limits.bounds["parameters"]
        for norm in (norm for i in range(8) for norm in norms_of(stage, i)):
            assert norm.weight.requires_grad

    def test_holds_in_every_epoch_of_a_search_that_moves_a_lot(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = self.limited(toy_data(), code_learning_rate=0.3)
        sizes: list[int] = []
        drive(
            stage,
            recorder,
            epochs=10,
            before_end=lambda s: sizes.append(size_of(s.code.genotype())),
        )
        sizes.append(size_of(stage.code.genotype()))
        assert max(sizes) <= stage.limits.bounds["parameters"]
        assert set(recorder.refused) == {True, False}

    def test_the_first_architecture_obeys_it(self, toy_data: Data) -> None:
        code = training(toy_data()).options.code
        drawn = [
            size_of(SparseCode(DARTS_SPACE, code, seed=2, draw=draw).genotype())
            for draw in range(12)
        ]
        limit = sorted(drawn)[2]
        assert drawn[0] > limit, "the first draw obeys the limit by chance: take another seed"
        stage = training(toy_data(), seed=2, limit=(f"parameters={limit}",))
        first = next(size for size in drawn if size <= limit)
        assert size_of(stage.code.genotype()) == first
        unlimited = training(toy_data(), seed=2)
        assert size_of(unlimited.code.genotype()) == drawn[0]

    def test_an_impossible_one_is_a_user_error(
        self, toy_data: Data, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(UserError, match="parameters must be at least") as caught:
            training(toy_data(), limit=("parameters=100",))
        least = int(re.search("at least ([0-9,]+),", str(caught.value))[1].replace(",", ""))
        monkeypatch.setattr(sparse_search, "DRAWS", 5)
        with pytest.raises(UserError, match=f"limit parameters={least:,}: none of 5"):
            training(toy_data(), limit=(f"parameters={least}",))

    def test_is_off_by_default(
        self, toy_data: Data, recorder: Any, drive: Drive, steer: Steer
    ) -> None:
        stage = training(toy_data(), search_epochs=10)
        drive(stage, recorder, epochs=1, before_end=self.becoming(LARGEST, steer))
        assert recorder.refused == [False]
        for edges in stage.code.genotype()["normal"].nodes:
            assert {edge.operation for edge in edges} == {LARGEST}

    def test_works_in_other_spaces(self, toy_data: Data) -> None:
        stage = training(toy_data(), DartsSpace(nodes=2), limit=("parameters=1M",))
        assert len(stage.code.genotype()["normal"].nodes) == 2


class TestState:
    def test_survives_with_frozen_nodes_and_a_limit(
        self, toy_data: Data, recorder: Any, drive: Drive, tmp_path: Any
    ) -> None:
        changes = {
            "limit": ("parameters=1M",),
            "code_learning_rate": 2e-3,
            "search_epochs": 4,
            "freeze_threshold": 0.008,
        }
        stage = training(toy_data(), **changes)
        drive(stage, recorder, epochs=1)
        assert set(stage.code.frozen) == {True, False}
        torch.save(stage.state_dict(), tmp_path / "state.pt")
        other = training(toy_data(), **changes)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        for each in (stage, other):
            drive(each, recorder)
        assert other.searched == stage.searched
        ours, theirs = other.network.state_dict(), stage.network.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert all(map(torch.equal, values(other), values(stage)))
