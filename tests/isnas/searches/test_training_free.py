"""Scores of untrained networks against naive calculations; the searches by them: what they find, and their resuming."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import isnas
from isnas import (
    DARTS_SPACE,
    METHODS,
    NASBENCH201_SPACE,
    DartsSpace,
    Dataset,
    Genotype,
    Space,
    UserError,
)
from isnas.codes.choices import Choices
from isnas.networks.counting import count_multiply_adds, count_parameters
from isnas.networks.registry import build_network
from isnas.searches.rankers import (
    WORST,
    Agreement,
    az_nas,
    entropy_of_components,
    features_of,
    log_determinant,
    log_ranks,
    naswot,
    trainability_of,
)
from isnas.searches.registry import create_search
from isnas.searches.training_free import ROUND, TrainingFreeSearch
from isnas.spaces.base import rows_of
from isnas.spaces.nasbench201 import parse_string, to_string

FREE = [name for name in METHODS if name.startswith("training-free-")]
SPACES = {"darts": DARTS_SPACE, "nasbench201": NASBENCH201_SPACE}
TINY = {
    "darts": {"channels": 2, "cells": 3, "batch_size": 8},
    "nasbench201": {"channels": 2, "cells": 1, "batch_size": 8},
}
ALL_CONV = parse_string(
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)
ALL_SKIP = parse_string(
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
)
NOTHING = parse_string("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")


def images(n: int = 6, size: int = 8) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


def network_of(genotype: Genotype, **shape: Any) -> isnas.CellNetwork:
    return build_network(genotype, **{"channels": 4, "cells": 1, **shape}).train()


def pre_activations(network: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return what every ReLU of a network gets, by a replacement of the function that they call."""
    found: list[Tensor] = []
    with monkeypatch.context() as patch, torch.no_grad():

        def relu(x: Tensor, inplace: bool = False) -> Tensor:
            found.append(x.clone())
            return x.clamp_min(0)

        patch.setattr(F, "relu", relu)
        network(x)
    return found


class TestNaswot:
    @pytest.mark.parametrize("space", SPACES)
    def test_is_the_naive_count(self, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """For two images, how many units of all ReLUs are on in both, or off in both."""
        genotype = Choices(SPACES[space]).random(torch.Generator().manual_seed(3))
        network = network_of(genotype, cells=3 if space == "darts" else 1)
        x = images(5)
        kernel = np.zeros((5, 5))
        for units in pre_activations(network, x, monkeypatch):
            on = units.flatten(1).numpy() > 0
            for i, j in itertools.product(range(5), repeat=2):
                kernel[i, j] += sum(
                    a == b for a, b in zip(on[i].tolist(), on[j].tolist(), strict=True)
                )
        expected = math.log(abs(np.linalg.det(kernel)))
        assert naswot(network, x) == pytest.approx(expected, rel=1e-9)

    def test_sees_functions_modules_and_clipped_ones(self) -> None:
        """Each of these gets the same units: the kernel is as often that of one."""
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        on = (x > 0).double()
        once = on @ on.T + (1 - on) @ (1 - on).T
        kinds = [F.relu, torch.relu, nn.ReLU(), nn.ReLU6(), F.relu6, Tensor.relu, torch.relu_]
        kinds.append(nn.ReLU(inplace=True))
        for number, kind in enumerate(kinds, 1):
            with Agreement(4) as agreement:
                for each in kinds[:number]:
                    each(x.clone())
            assert torch.equal(agreement.kernel, number * once), kind
        with Agreement(4) as agreement:
            F.gelu(x)
        assert not agreement.kernel.any()

    def test_two_equal_images_are_the_worst(self) -> None:
        x = images(4)
        x[1] = x[0]
        assert naswot(network_of(ALL_CONV), x) == WORST
        assert log_determinant(torch.zeros(2, 2)) == WORST

    def test_leaves_the_network_as_it_is(self) -> None:
        network = network_of(ALL_CONV)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        naswot(network, images())
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class TestAzNas:
    def test_entropy_is_that_of_the_shares_of_variance(self) -> None:
        """By NumPy's covariance of the pixels, and by hand for channels that do not correlate."""
        features = torch.randn(3, 5, 4, 2, generator=torch.Generator().manual_seed(0))
        samples = features.permute(0, 2, 3, 1).reshape(-1, 5).numpy()
        shares = np.linalg.eigvalsh(np.cov(samples.T, bias=True))
        shares = shares / shares.sum()
        expected = -(shares * np.log(shares + 1e-8)).sum()
        assert entropy_of_components(features) == pytest.approx(expected, rel=1e-5)

        one, two = torch.tensor([[1.0, 1, -1, -1], [3.0, -3, 3, -3]])
        by_hand = torch.stack([one, two])[None, :, None]
        assert entropy_of_components(by_hand) == pytest.approx(
            -0.1 * math.log(0.1) - 0.9 * math.log(0.9), abs=1e-6
        )

    def test_entropy_of_what_does_not_vary_is_zero(self) -> None:
        assert entropy_of_components(torch.ones(2, 3, 4, 4)) == 0

    @pytest.mark.parametrize(("stride", "size"), [(1, 6), (2, 6), (2, 5)])
    def test_trainability_is_the_naive_one(self, stride: int, size: int) -> None:
        """The mean over images and pixels of g_in g_out', gathered pixel by pixel, and its singular values by NumPy."""
        torch.manual_seed(0)
        block = nn.Conv2d(3, 4, 3, stride, padding=1)
        before = torch.randn(2, 3, size, size, requires_grad=True)
        after = block(before)
        value = trainability_of(before, after, torch.Generator().manual_seed(7))

        signs = torch.randint(2, after.shape, generator=torch.Generator().manual_seed(7)) * 2.0 - 1
        (after * signs).sum().backward()
        height, width = after.shape[2:]
        matrix = np.zeros((3 * stride**2, 4))
        for image, i, j in itertools.product(range(2), range(height), range(width)):
            window = np.zeros((3, stride, stride))
            for a, b in itertools.product(range(stride), repeat=2):
                row, column = stride * i + a, stride * j + b
                if row < size and column < size:
                    window[:, a, b] = before.grad[image, :, row, column]
            matrix += np.outer(window, signs[image, :, i, j])
        s = np.linalg.svd(matrix / (2 * height * width))[1].max()
        assert value == pytest.approx(2 - s - 1 / (s + 1e-6), rel=1e-4)

    def test_trainability_of_orthogonal_maps_and_of_skips(self) -> None:
        """An orthogonal 1x1 convolution has the Jacobian's norm 1, so nearly the best value; a skip is no block."""
        random = torch.Generator().manual_seed(0)
        before = torch.randn(64, 8, 8, 8, generator=random, requires_grad=True)
        q = torch.linalg.qr(torch.randn(8, 8, generator=random)).Q
        value = trainability_of(before, F.conv2d(before, q[:, :, None, None]), random)
        assert -0.01 < value <= 0
        assert trainability_of(before, before * 1.0, random) == WORST
        dead = trainability_of(before, torch.zeros_like(before).requires_grad_(), random)
        assert dead == pytest.approx(2 - 1e6)

    def test_scores_are_those_of_the_blocks(self) -> None:
        """Sum, smallest rise and mean, of the features as the network gives them; the weights are Kaiming's."""
        network = network_of(ALL_CONV, channels=8)
        found = az_nas(network, images(), seed=5)
        features = features_of(network, images())
        assert [tuple(each.shape[1:]) for each in features] == [
            (8, 8, 8),
            (8, 8, 8),
            (16, 4, 4),
            (16, 4, 4),
            (32, 2, 2),
            (32, 2, 2),
        ]
        entropies = [entropy_of_components(each) for each in features]
        assert found["expressivity"] == pytest.approx(sum(entropies), rel=1e-5)
        assert found["progressivity"] == pytest.approx(min(np.diff(entropies)), rel=1e-4)
        random = torch.Generator().manual_seed(5)
        each = [
            trainability_of(features[i], features[i + 1], random)
            for i in reversed(range(len(features) - 1))
        ]
        assert found["trainability"] == pytest.approx(np.mean(each), rel=1e-4)
        convolution = network.cells[0].nodes.operations["node0_from0_nor_conv_3x3"].body[1]
        assert float(convolution.weight.detach().std()) == pytest.approx(
            math.sqrt(2 / 72), rel=0.15
        )

    def test_cells_that_pass_all_or_nothing(self) -> None:
        """No score is infinite or not a number. A cell of three skips multiplies by four, which is no identity."""
        for genotype in (NOTHING, ALL_SKIP):
            found = az_nas(network_of(genotype), images(), seed=0)
            assert all(math.isfinite(value) for value in found.values())
        one_skip = parse_string("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
        assert az_nas(network_of(one_skip), images(), seed=0)["trainability"] == WORST

    def test_log_ranks(self) -> None:
        """By hand: equal scores share the mean of their ranks."""
        marks = [{"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 5.0}]
        expected = [
            math.log(3 / 3) + math.log(1.5 / 3),
            math.log(1 / 3) + math.log(1.5 / 3),
            math.log(2 / 3) + math.log(3 / 3),
        ]
        assert log_ranks(marks) == pytest.approx(expected)
        assert log_ranks([]) == []


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", FREE)
class TestSearch:
    def search(self, name: str, space: str, data: Dataset, **options: Any) -> TrainingFreeSearch:
        options = {"architectures": ROUND + 3, **TINY[space], **options}
        return create_search(name, SPACES[space], data, **options)

    def test_finds_the_best_of_what_it_draws(
        self,
        name: str,
        space: str,
        toy_data: Callable[..., Dataset],
        drive: Callable[..., Any],
        recorder: Any,
    ) -> None:
        """Scored once more from outside, by the sizes of built networks or by `score`."""
        search = self.search(name, space, toy_data(48))
        drive(search, recorder)
        assert (search.epoch, len(search.asked)) == (2, ROUND + 3)
        found = search.genotype()
        SPACES[space].check(found)
        shape = {"channels": 2, "cells": TINY[space]["cells"], "classes": 4, "in_channels": 1}
        if name.endswith("parameters"):
            values = [count_parameters(build_network(g, **shape)) for g in search.asked]
        elif name.endswith("multiply-adds"):
            values = [count_multiply_adds(build_network(g, **shape), (8, 8)) for g in search.asked]
        else:
            values = [search.score(g) for g in search.asked]
        assert found == search.asked[values.index(max(values))]

    def test_going_on_is_the_same(
        self,
        name: str,
        space: str,
        toy_data: Callable[..., Dataset],
        recorder: Any,
        take_steps: Callable[..., Any],
    ) -> None:
        """Bit for bit, from the middle of an epoch, with proposals that depend on all scores before."""
        data = toy_data(48)
        options = {"proposals": "mutated", "population": 4, "sample": 3}

        whole = self.search(name, space, data, **options)
        all_marks = take_steps(whole, recorder, 100)
        first = self.search(name, space, data, **options)
        begun = take_steps(first, recorder, 6)
        second = self.search(name, space, data, **options)
        second.load_state_dict(first.state_dict())
        marks = begun + take_steps(second, recorder, 100)
        assert second.asked == whole.asked
        assert marks == all_marks
        assert second.state_dict() == whole.state_dict()

    def test_mutants_differ_by_one_change_from_one_of_the_latest(
        self,
        name: str,
        space: str,
        toy_data: Callable[..., Dataset],
        drive: Callable[..., Any],
        recorder: Any,
    ) -> None:
        options = {"proposals": "mutated", "population": 3, "sample": 2}
        search = self.search(name, space, toy_data(48), **options)
        drive(search, recorder)
        for i in range(3, len(search.asked)):
            child = places_of(search.asked[i])
            changes = [len(child - places_of(g)) for g in search.asked[i - 3 : i]]
            lost = [len(places_of(g) - child) for g in search.asked[i - 3 : i]]
            assert any(max(pair) == 1 for pair in zip(changes, lost, strict=True))


def places_of(genotype: Genotype) -> set[tuple[Any, ...]]:
    places = genotype.places(genotype.space)
    return {(kind, *place) for kind, of in places.items() for place in of}


class TestZeroCostPT:
    SPACES: ClassVar[dict[str, Space]] = {
        **SPACES,
        # fewer edges, of which two nodes must lose one and two
        "darts": DartsSpace(("skip_connect", "avg_pool_3x3", "sep_conv_3x3"), nodes=3),
    }

    def search(self, space: str, data: Dataset, **options: Any) -> Any:
        return create_search(
            "zero-cost-pt", self.SPACES[space], data, **{"proposals": 1, **TINY[space], **options}
        )

    def test_keeps_what_the_supernet_is_worst_without(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        """The first edge by hand: a discrete super-net without one operation, NASWOT written out."""
        search = self.search("nasbench201", toy_data(48))
        ((choice, edge), *_) = search.batches(0, 0)
        candidates = rows_of(NASBENCH201_SPACE.choices[choice])[edge]
        x = search._images(0)
        scores = []
        for removed in candidates:
            rows = [row for each in NASBENCH201_SPACE.choices for row in rows_of(each)]
            kept = [(p, 1 / len(row)) for row in rows for p in row if p != removed]
            places, values = zip(*kept, strict=True)
            coefficients = {"cell": isnas.Coefficients(torch.tensor(values), places)}
            scores.append(naswot(search.network, x, coefficients))
        search.train_step((choice, edge))
        assert search.left[choice][edge] == [candidates[scores.index(min(scores))]]

    def test_decides_every_edge_and_keeps_s_of_a_node(
        self,
        toy_data: Callable[..., Dataset],
        drive: Callable[..., Any],
        recorder: Any,
    ) -> None:
        found = {}
        for space in SPACES:
            search = self.search(space, toy_data(48), proposals=2)
            drive(search, recorder)
            self.SPACES[space].check(search.genotype())
            best = max(search.proposed, key=lambda entry: entry[1])
            assert search.genotype() == best[0]
            assert best[1] == search.score(best[0])
            found[space] = search.genotype()
        assert "none" not in to_string(found["nasbench201"])
        for _, cell in found["darts"].cells:
            for edges in cell.nodes:
                assert len({edge.source for edge in edges}) == len(edges) == 2

    @pytest.mark.parametrize("space", SPACES)
    def test_going_on_is_the_same(self, space: str, toy_data: Callable[..., Dataset]) -> None:
        whole, first, second = (self.search(space, toy_data(48)) for _ in range(3))
        for batch in whole.batches(0, 0):
            whole.train_step(batch)
        for batch in itertools.islice(first.batches(0, 0), 4):
            first.train_step(batch)
            first.step += 1
        second.load_state_dict(first.state_dict())
        for batch in second.batches(0, second.step):
            second.train_step(batch)
        assert second.left == whole.left


@pytest.mark.parametrize("name", [*FREE, "zero-cost-pt"])
def test_from_the_command_to_the_report(name: str, tmp_path: Path) -> None:
    """A whole run on digits, with what follows a search."""
    options = {**TINY["nasbench201"], "batch_size": 64, "random_architectures": 0}
    amount = {"proposals": 1} if name == "zero-cost-pt" else {"architectures": 4}
    result = isnas.search(
        name,
        "nasbench201",
        out=tmp_path / "run",
        evaluation_epochs=1,
        device="cpu",
        **amount,
        **options,
    )
    assert result.results["found"]["genotype"] == str(result.genotype)


def test_nothing_of_a_training_is_an_option() -> None:
    for name in (*FREE, "zero-cost-pt"):
        with pytest.raises(UserError, match="there is no option learning_rate"):
            isnas.search_options(name, DARTS_SPACE, learning_rate=0.1)
