"""Ground of searches with shared weights: an architecture alone, its accuracy with shared weights, two halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from making import (
    IMAGES,
    build_nasbench201_network,
    build_nasbench201_supernet,
    build_network,
    build_supernet,
    random_genotype,
)
from torch import Tensor, nn

from isnas import DARTS_SPACE, Dataset, Genotype
from isnas.networks.core import CellNetwork
from isnas.networks.darts import NetworkOptions
from isnas.networks.nasbench201 import NASBench201Options
from isnas.networks.operations import BatchNorm
from isnas.searches.base import Setting, SupernetSearch, ones
from isnas.searches.registry import search_options
from isnas.spaces.nasbench201 import NASBENCH201_SPACE, parse_string

CPU = torch.device("cpu")
# an edge without an operation, a node without any
SPARSE_CELL = "|nor_conv_3x3~0|+|none~0|none~1|+|avg_pool_3x3~0|skip_connect~1|skip_connect~2|"
Fill = Callable[[nn.Module, int], None]


def darts_pair() -> tuple[CellNetwork, CellNetwork, Genotype]:
    """A super-net, a discrete network of the same shape, and its genotype."""
    genotype = random_genotype(DARTS_SPACE, torch.Generator().manual_seed(1))
    options = NetworkOptions(4, 3, 4, 1, closing_norm="pooling")
    discrete = build_network(genotype, 4, 3, 4, in_channels=1, closing_norm="pooling")
    return build_supernet(options), discrete, genotype


def nasbench_pair() -> tuple[CellNetwork, CellNetwork, Genotype]:
    options = NASBench201Options(channels=4, cells=1, classes=4, in_channels=1)
    genotype = parse_string(SPARSE_CELL)
    supernet = build_nasbench201_supernet(options)
    return supernet, build_nasbench201_network(genotype, options, seed=9), genotype


PAIRS = pytest.mark.parametrize("pair", [darts_pair, nasbench_pair])


def batches_of(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(3)
    return [
        (torch.randn(n, 1, 8, 8, generator=random), torch.randint(0, 4, (n,), generator=random))
        for n in sizes
    ]


class TestOnes:
    @PAIRS
    def test_are_the_places_of_the_genotype_with_factor_one(self, pair: Callable[[], Any]) -> None:
        network, _, genotype = pair()
        found = ones(genotype, network, CPU)
        assert list(found) == list(network.space.kinds)
        for kind, places in genotype.places(network.space).items():
            assert found[kind].places == places
            assert found[kind].values.tolist() == [1.0] * len(places)
            assert not found[kind].values.requires_grad


class TestSharedAccuracy:
    @PAIRS
    def test_is_that_of_the_discrete_network_with_the_batches_statistics(
        self, pair: Callable[[], Any], fill_norms: Fill
    ) -> None:
        network, discrete, genotype = pair()
        fill_norms(network, 5)
        state = network.state_dict()
        discrete.load_state_dict({name: state[name] for name in discrete.state_dict()})
        batches = batches_of(60, 40, 30)
        discrete.train()
        with torch.no_grad():
            right = sum(int((discrete(x).argmax(1) == y).sum()) for x, y in batches)
        found = IMAGES.shared_score(network, ones(genotype, network, CPU), iter(batches))
        assert found == pytest.approx(right / 130, abs=1e-9)
        assert 0 < found < 1
        # with the gathered statistics it would be another one
        discrete.load_state_dict({name: state[name] for name in discrete.state_dict()})
        discrete.eval()
        with torch.no_grad():
            assert right != sum(int((discrete(x).argmax(1) == y).sum()) for x, y in batches)

    @PAIRS
    def test_leaves_the_network_as_it_was(self, pair: Callable[[], Any], fill_norms: Fill) -> None:
        network, _, genotype = pair()
        fill_norms(network, 5)
        norms = [each for each in network.modules() if isinstance(each, BatchNorm)]
        for i, norm in enumerate(norms):
            norm.momentum = 0.1 + i / 1000
        before = {name: value.clone() for name, value in network.state_dict().items()}
        IMAGES.shared_score(network, ones(genotype, network, CPU), batches_of(8, 8))
        assert [norm.momentum for norm in norms] == [0.1 + i / 1000 for i in range(len(norms))]
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())
        assert network.training

    def test_leaves_the_network_as_it_was_when_it_fails(self, fill_norms: Fill) -> None:
        network, _, genotype = nasbench_pair()
        fill_norms(network, 5)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        good, bad = batches_of(8, 8)
        coefficients = ones(genotype, network, CPU)
        cut = (bad[0][:, :, :, :0], bad[1])
        for batches, error in ([good, cut], RuntimeError), ([], ValueError):
            with pytest.raises(error):
                IMAGES.shared_score(network, coefficients, batches)
            for norm in network.modules():
                if isinstance(norm, BatchNorm):
                    assert norm.momentum == 0.1
            after = network.state_dict()
            assert all(torch.equal(after[name], value) for name, value in before.items())


class Plain(SupernetSearch):
    """The least that a search is."""

    def genotype(self) -> Genotype:
        return parse_string(SPARSE_CELL)

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        train, _ = batch
        return self.train_weights(train, self.alone(self.genotype()))

    def stateful(self) -> dict[str, Any]:
        return self.weights.stateful()


def plain_search(data: Dataset, **changes: Any) -> Plain:
    values = {"channels": 2, "cells": 1, "batch_size": 8, "epochs": 2, "seed": 3, **changes}
    options = search_options("ista-two-stage", NASBENCH201_SPACE, **values)
    return Plain.create(Setting(NASBENCH201_SPACE, IMAGES, data, CPU, options))


class TestSupernetSearch:
    @pytest.mark.parametrize("n", [32, 33])
    def test_halves_are_disjoint_and_together_all(
        self, toy_data: Callable[..., Dataset], n: int
    ) -> None:
        stage = plain_search(toy_data(n=n, classes=n))
        halves = [set(b.indices.tolist()) for b in (stage.train_feed, stage.valid_feed)]
        assert not halves[0] & halves[1]
        assert halves[0] | halves[1] == set(range(n))
        assert sorted(map(len, halves)) == [n // 2, n - n // 2]
        # each image is a class of its own: the batches are of these halves
        for train, valid in stage.batches(0, 0):
            assert set(train[1].tolist()) <= halves[0]
            assert set(valid[1].tolist()) <= halves[1]
        other = plain_search(toy_data(n=n, classes=n), seed=4)
        assert set(other.train_feed.indices.tolist()) != halves[0]

    def test_weights_learn_and_affine_parts_of_cells_rest(
        self, toy_data: Callable[..., Dataset], recorder: Any, drive: Callable[..., Any]
    ) -> None:
        stage = plain_search(toy_data())
        before = {name: p.detach().clone() for name, p in stage.network.named_parameters()}
        drive(stage, recorder)
        active = {"node0_from0_nor_conv_3x3"}  # the only one with weights
        for name, p in stage.network.named_parameters():
            of_cell = name.startswith("cells.")
            affine = of_cell and p.ndim == 1
            moves = not affine and (not of_cell or any(key in name for key in active))
            assert torch.equal(p, before[name]) != moves, name
        assert stage.space == NASBENCH201_SPACE

    def test_the_supernet_has_the_role_of_the_method(
        self, toy_data: Callable[..., Dataset]
    ) -> None:
        assert plain_search(toy_data()).network.options.closing_norm == "pooling"
