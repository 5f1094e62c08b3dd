"""HM-NAS: three phases with exact updates, nothing else moved in each, and a found network that is the masked one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from making import random_genotype
from torch import Tensor, nn
from torch.nn import functional as F

from isnas import DARTS_SPACE, DartsSpace, Dataset, Genotype, Place, Space, UserError
from isnas.codes.hierarchical import operation_weights
from isnas.runtime.options import option_fields
from isnas.searches.hm_nas import HmNasOptions, HmNasSearch
from isnas.searches.registry import create_search, search_options
from isnas.spaces.nasbench201 import NASBENCH201_SPACE
from isnas.tasks.registry import TASKS

IMAGES = TASKS["images"]


SMALL = DartsSpace(primitives=("skip_connect", "sep_conv_3x3", "avg_pool_3x3"), nodes=2)
SPACES = [SMALL, NASBENCH201_SPACE]
# masks move far in a step, so that a few steps suffice to turn some off
OPTIONS = {
    "channels": 2,
    "cells": 3,
    "batch_size": 8,
    "epochs": 6,
    "joint_share": 0.34,
    "mask_share": 0.34,
    "seed": 3,
    "learning_rate": 0.05,
    "code_learning_rate": 0.02,
    "mask_learning_rate": 2e-3,
}

Data = Callable[..., Dataset]
Drive = Callable[..., list[dict[str, Any]]]


def search_of(data: Dataset, space: Space = SMALL, **changes: Any) -> HmNasSearch:
    cells = {"cells": 1} if space is NASBENCH201_SPACE else {}
    return create_search("hm-nas", space, data, **{**OPTIONS, **cells, **changes})


def in_float64(stage: HmNasSearch) -> HmNasSearch:
    """So that updates can be compared with a formula to rounding."""
    stage.network.double()
    stage.code.double()
    return stage


def batch_of(seed: int, n: int = 8) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=random, dtype=torch.float64)
    return x, torch.randint(0, 4, (n,), generator=random)


def values(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def affine(network: nn.Module) -> list[Tensor]:
    """Scales of the batch norms of the operations in the cells."""
    norms = [m for m in network.cells.modules() if isinstance(m, nn.BatchNorm2d)]
    return [norm.weight for norm in norms]


class TestOptions:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"joint_share": 0.0}, "joint_share must be above 0"),
            ({"mask_share": -0.1}, "mask_share must be above 0"),
            ({"joint_share": 0.8, "mask_share": 0.2}, "must be below 1"),
            ({"mask_init": 5e-3}, "mask_init must be above mask_threshold"),
            ({"mask_threshold": -1.0}, "mask_threshold must be at least 0"),
            ({"mask_learning_rate": -1.0}, "mask_learning_rate must be at least 0"),
            ({"fine_tuning_learning_rate": -1.0}, "fine_tuning_learning_rate must be at least 0"),
            ({"init_scale": float("nan")}, "init_scale must be finite"),
        ],
    )
    def test_out_of_range_is_one_clear_error(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            HmNasOptions(**changes)

    def test_presets_and_help(self) -> None:
        paper = search_options("hm-nas", DARTS_SPACE, "paper")
        # DARTS's 50, Piggyback's 30
        assert paper.method.phase_ends(paper.optimizer.epochs) == (50, 80)
        assert all(field.help for field in option_fields(HmNasOptions))

    def test_too_few_epochs(self, toy_data: Data) -> None:
        with pytest.raises(UserError, match="epochs must be at least 3"):
            search_of(toy_data(), epochs=2)

    def test_every_phase_has_an_epoch(self) -> None:
        for epochs in range(3, 30):
            for joint, masks in [(0.4, 0.2), (0.01, 0.01), (0.98, 0.01), (0.01, 0.98)]:
                options = HmNasOptions(joint_share=joint, mask_share=masks)
                first, second = options.phase_ends(epochs)
                assert 1 <= first < second < epochs


class TestJointPhase:
    def test_code_and_weights_follow_the_same_loss_from_where_they_both_were(
        self, toy_data: Data
    ) -> None:
        """One backward pass without masks; SGD with clipping, Adam with L2; in one step for all."""
        stage = in_float64(search_of(toy_data(), clip=0.05, weight_decay=0.01))
        with torch.no_grad():  # masks do not matter yet
            stage.code.edge_mask.zero_()
        network, code = copy.deepcopy(stage.network), copy.deepcopy(stage.code)
        masks = [stage.code.edge_mask.clone(), stage.code.operation_mask.clone()]
        x, y = batch_of(1)
        loss = F.cross_entropy(network(x, code.coefficients()), y)
        loss.backward()
        metrics = stage.train_step((x, y))
        assert float(metrics["train_loss"]) == pytest.approx(float(loss.detach()))
        having = [p for p in network.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in having]).norm()
        assert norm > 0.05
        for ours, before in zip(stage.network.parameters(), network.parameters(), strict=True):
            expected = before.detach()
            if before.grad is not None:
                step = before.grad * (0.05 / (norm + 1e-6)) + 0.01 * expected
                expected = expected - OPTIONS["learning_rate"] * step
            torch.testing.assert_close(ours.detach(), expected, rtol=1e-9, atol=1e-12)
        for name in ("alpha", "beta"):
            before, ours = getattr(code, name), getattr(stage.code, name)
            # Adam's first step: mean and square of the gradient are the gradient itself
            gradient = before.grad + 1e-3 * before.detach()
            expected = before.detach() - 0.02 * gradient / (gradient.abs() + 1e-8)
            torch.testing.assert_close(ours.detach(), expected, rtol=1e-7, atol=1e-9)
        assert same(masks, [stage.code.edge_mask, stage.code.operation_mask])

    def test_all_training_images_are_used_in_every_phase_and_no_test_images(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(toy_data(n=32, classes=32))
        for epoch in range(6):
            labels = torch.cat([y for _, y in stage.batches(epoch, 0)])
            assert sorted(labels.tolist()) == list(range(32))
        assert stage.steps == 4
        drive(stage, recorder)  # the test data of these refuse to be used


class TestMaskPhase:
    @pytest.mark.parametrize("space", SPACES)
    def test_masks_alone_are_learnt(
        self, space: Space, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(toy_data(), space)
        drive(stage, recorder, epochs=2)
        assert stage.phase == "masks"
        weights = values(stage.network)
        alpha, beta = stage.code.alpha.detach().clone(), stage.code.beta.detach().clone()
        before = [stage.code.edge_mask.detach().clone(), *values(stage.weight_masks)]
        drive(stage, recorder, epochs=1)
        assert same(weights, values(stage.network))
        assert torch.equal(alpha, stage.code.alpha) and torch.equal(beta, stage.code.beta)
        after = [stage.code.edge_mask, *values(stage.weight_masks)]
        assert not any(map(torch.equal, before, after))

    def test_takes_an_adam_step_on_the_masked_loss(self, toy_data: Data) -> None:
        """Gradients by hand: of c times the mask's, of a weight times the weight."""
        stage = search_of(toy_data())
        in_float64(stage)._begin_masks()
        network, code = copy.deepcopy(stage.network).requires_grad_(), copy.deepcopy(stage.code)
        x, y = batch_of(2)
        coefficients = code.coefficients()
        for part in coefficients.values():
            part.values.retain_grad()
        F.cross_entropy(network(x, coefficients), y).backward()
        of_weights = torch.cat(
            [(w.grad * w.detach()).flatten() for w in operation_weights(network).values()]
        )
        of_operations = torch.stack(
            [part.values.grad * part.values.detach() for part in coefficients.values()]
        )
        stage.train_step((x, y))
        edges = len(SMALL.places()) // 3
        of_operations = of_operations.view(2, edges, 3)
        for mask, gradient in [
            (stage.code.edge_mask, of_operations.sum(2)),
            (stage.code.operation_mask, of_operations),
            (stage.weight_masks.mask, of_weights),
        ]:
            expected = 0.01 - 2e-3 * gradient / (gradient.abs() + 1e-8)
            torch.testing.assert_close(mask.detach(), expected, rtol=1e-5, atol=1e-9)


class TestFound:
    @pytest.mark.parametrize("space", SPACES)
    def test_is_the_masked_supernet(
        self, space: Space, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        """In float64: super-net with masked weights and masked coefficients = folded network."""
        stage = in_float64(search_of(toy_data(), space, mask_learning_rate=3e-3))
        random = torch.Generator().manual_seed(0)
        stage._begin_masks()
        with torch.no_grad():
            for mask in (stage.code.edge_mask, stage.code.operation_mask, stage.weight_masks.mask):
                noise = torch.rand(mask.shape, generator=random, dtype=torch.float64)
                mask.copy_(5e-3 + 0.01 * (noise - 0.3))
            if (
                space is NASBENCH201_SPACE
            ):  # so that what an edge's strongest operation hides is off
                for place in space.places():
                    if place not in stage.code.survivors()["cell"]:
                        stage.code.operation_mask.view(-1)[space.places().index(place)] = 0.0
        stage.network.eval()
        x, _ = batch_of(5)
        coefficients = stage.code.masked_coefficients()
        expected = torch.func.functional_call(
            stage.network, stage.weight_masks(), (x, coefficients)
        ).detach()
        stage.weight_masks.apply_to_weights()
        stage._begin_fine_tuning()
        assert stage.network is not stage.supernet
        found = stage.network.eval()(x)
        torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-12)
        zeros = {part.values.eq(0).any().item() for part in coefficients.values()}
        assert zeros == {True}
        survivors = {
            kind: tuple(p for p, c in zip(part.places, part.values.tolist(), strict=True) if c)
            for kind, part in coefficients.items()
        }
        assert stage.network.places == survivors
        assert Genotype.of(stage.network) == stage.genotype()

    @pytest.mark.parametrize("space", SPACES)
    def test_masked_weights_are_zero_to_the_end_and_the_share_is_reported(
        self, space: Space, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(toy_data(), space, weight_decay=0.1, clip=0.1)
        assert stage.trained_network() is None
        ends = drive(stage, recorder, epochs=4)
        assert stage.phase == "fine-tuning"
        before = {name: w.detach().clone() for name, w in operation_weights(stage.network).items()}
        norms = [p.detach().clone() for p in affine(stage.network)]
        ends += drive(stage, recorder)
        weights = operation_weights(stage.network)
        zero = total = 0
        for name, weight in weights.items():
            assert torch.equal(weight == 0, before[name] == 0)
            assert not torch.equal(weight, before[name])
            zero, total = zero + int((weight == 0).sum()), total + weight.numel()
        assert 0 < zero < total
        assert stage.surviving_weights == pytest.approx(1 - zero / total)
        assert [end["surviving_weights"] for end in ends] == [1, 1, 1] + 3 * [1 - zero / total]
        assert [end["phase"] for end in ends] == [
            phase for phase in ("joint", "masks", "fine-tuning") for _ in range(2)
        ]
        assert ends[-1]["genotype"] == str(stage.genotype())
        assert ends[-1]["places"] == sum(map(len, stage.network.places.values()))
        assert stage.trained_network() is stage.network
        assert Genotype.of(stage.network) == stage.genotype()
        assert all(p.requires_grad for p in affine(stage.network))
        assert not same(norms, affine(stage.network))

    def test_places_are_fewer_in_the_end(self, toy_data: Data, recorder: Any, drive: Drive) -> None:
        stage = search_of(toy_data())
        ends = drive(stage, recorder)
        assert ends[0]["places"] == 2 * len(SMALL.places())
        assert 2 * SMALL.nodes <= ends[-1]["places"] < ends[0]["places"]
        text = stage.describe({**ends[-1], "epoch": 5})
        assert "epoch 6/6" in text and "fine-tuning" in text and "weights kept" in text

    def test_a_cell_without_weights_can_be_found(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        space = DartsSpace(primitives=("skip_connect", "avg_pool_3x3"), nodes=1, inputs=2)
        stage = search_of(toy_data(), space)
        drive(stage, recorder)
        assert 0 <= stage.surviving_weights <= 1  # strided skips of reduction cells have weights

    def test_other_architectures_are_scored_by_the_supernet_to_the_end(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(toy_data())
        genotype = random_genotype(SMALL, torch.Generator().manual_seed(0), (2, 3))
        for _ in range(4):
            score = IMAGES.shared_score(
                stage.supernet, stage.alone(genotype), stage.valid_feed.epoch(0)
            )
            assert 0 <= score <= 1
            drive(stage, recorder, epochs=2)
        assert stage.epoch == stage.epochs


class TestSchedule:
    def test_a_cosine_in_each_phase_that_trains_weights(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        stage = search_of(
            toy_data(n=8), learning_rate=0.2, min_learning_rate=0.02, fine_tuning_learning_rate=0.1
        )
        rates: list[float] = []
        drive(
            stage,
            recorder,
            before_end=lambda s: rates.append(s.weights.optimizer.param_groups[0]["lr"]),
        )
        assert rates[:2] == pytest.approx([0.2, 0.11])
        assert rates[4:] == pytest.approx([0.1, 0.05])

    def test_same_seed_same_bits(self, toy_data: Data, recorder: Any, drive: Drive) -> None:
        stages = [search_of(toy_data(n=16), seed=seed) for seed in (5, 5, 6)]
        for i, stage in enumerate(stages):
            torch.manual_seed(i)  # must not matter
            drive(stage, recorder)
        first, again, other = (values(stage.network) for stage in stages)
        assert same(first, again) and not same(first, other)
        assert stages[0].genotype() == stages[1].genotype()


class TestResume:
    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("stop", [1, 4, 5, 8, 9, 11])
    def test_in_the_middle_of_any_phase_and_at_its_start_is_bit_for_bit(
        self, space: Space, stop: int, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        """Two steps an epoch, two epochs a phase."""
        data = toy_data(n=16)
        whole, resumed = search_of(data, space), search_of(data, space)
        states = []
        step = whole.train_step

        def train_step(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            if whole.epoch * whole.steps + whole.step == stop:
                states.append(copy.deepcopy(whole.state_dict()))
            return step(batch)

        whole.train_step = train_step
        drive(whole, recorder)
        (state,) = states
        resumed.load_state_dict(state)
        assert (resumed.epoch, resumed.step) == divmod(stop, 2)
        drive(resumed, recorder)
        assert resumed.epoch == 6
        for name, part in whole.stateful().items():
            assert_same_state(part.state_dict(), resumed.stateful()[name].state_dict())
        assert same(values(whole.network), values(resumed.network))
        assert whole.genotype() == resumed.genotype()
        assert whole.surviving_weights == resumed.surviving_weights

    def test_more_epochs_lengthen_the_fine_tuning(
        self, toy_data: Data, recorder: Any, drive: Drive
    ) -> None:
        data = toy_data(n=8)
        stage, longer = search_of(data), search_of(data, epochs=12)
        drive(stage, recorder, epochs=5)
        longer.load_state_dict(copy.deepcopy(stage.state_dict()))
        phases = [end["phase"] for end in drive(longer, recorder)]
        assert phases == ["fine-tuning"] * 7

    def test_the_state_can_be_saved_without_pickled_objects(
        self, toy_data: Data, recorder: Any, drive: Drive, tmp_path: Any
    ) -> None:
        stage = search_of(toy_data(n=8))
        while stage.epoch < stage.epochs:
            drive(stage, recorder, epochs=1)
            torch.save(stage.state_dict(), tmp_path / "state.pt")
            torch.load(tmp_path / "state.pt", weights_only=True)


def assert_same_state(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for each in zip(one, other, strict=True):
            assert_same_state(*each)
    else:
        assert one == other


@pytest.mark.slow
def test_in_the_darts_space_any_number_of_places_is_found(
    toy_data: Data, recorder: Any, drive: Drive
) -> None:
    stage = search_of(toy_data(n=16), DARTS_SPACE, epochs=3)
    drive(stage, recorder)
    genotype = stage.genotype()
    assert Genotype.parse(str(genotype)) == genotype
    per_node = [len(edges) for kind in genotype.kinds for edges in genotype[kind].nodes]
    assert min(per_node) >= 1
    sources = [Place(0, e.source, 0) for e in genotype["normal"].nodes[3]]
    assert len(sources) > len(set(sources))  # several operations on an edge
