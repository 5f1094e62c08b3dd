"""Discrete networks: operations as DARTS defines them, cells that follow the genotype, any image size."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from making import build_network, build_supernet
from torch import Tensor, nn

from isnas import DARTS_SPACE, GENOTYPES, CellGenotype, Edge, Genotype, UserError
from isnas.networks.core import drop_path
from isnas.networks.darts import AuxiliaryHead, NetworkOptions, Outputs
from isnas.networks.images import drop_skips
from isnas.networks.operations import BYPASS, OPERATIONS, bypassing
from isnas.spaces.darts import PRIMITIVES


def sequential(c: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(c, c, kernel, stride, padding, dilation, groups=c, bias=False),
        nn.Conv2d(c, c, 1, bias=False),
        nn.BatchNorm2d(c),
    ]


class Reduce(nn.Module):
    """DARTS's FactorizedReduce."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(c, c // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(c, c // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def as_in_darts(name: str, c: int, stride: int) -> nn.Module:
    """The definitions of DARTS's operations.py."""
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Reduce(c)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride=stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)
    kernel = int(name[-1])
    if name.startswith("dil"):
        return nn.Sequential(*sequential(c, kernel, stride, 2))
    return nn.Sequential(*sequential(c, kernel, stride, 1), *sequential(c, kernel, 1, 1))


def cell_of(*nodes: str, concat: tuple[int, ...] = (2, 3, 4, 5)) -> CellGenotype:
    """Return a cell by the texts of its nodes, as in ``cell_of("skip_connect<0 max_pool_3x3<1", "", ...)``."""
    edges = [[word.split("<") for word in node.split()] for node in nodes]
    return CellGenotype(tuple(tuple(Edge(o, int(i)) for o, i in node) for node in edges), concat)


def both(cell: CellGenotype) -> Genotype:
    return Genotype(DARTS_SPACE, (("normal", cell), ("reduction", cell)))


UNEVEN = both(
    cell_of(
        "",
        "sep_conv_3x3<0",
        "skip_connect<2 max_pool_3x3<1 dil_conv_3x3<1 dil_conv_3x3<3 avg_pool_3x3<0",
        "",
    )
)
"""Nodes with no, one and many incoming operations; two of them read by nobody but the output."""


class TestOperations:
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("name", PRIMITIVES)
    @pytest.mark.parametrize("training", [True, False])
    def test_are_those_of_darts(self, name: str, stride: int, training: bool) -> None:
        expected = as_in_darts(name, 6, stride).double().train(training)
        operation = OPERATIONS[name](6, stride, "none").double().train(training)
        parameters = list(operation.parameters())
        assert [p.shape for p in parameters] == [p.shape for p in expected.parameters()]
        with torch.no_grad():
            for ours, theirs in zip(parameters, expected.parameters(), strict=True):
                ours.copy_(theirs.normal_())
        x = torch.randn(4, 6, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(operation(x), expected(x))

    @pytest.mark.parametrize("closing_norm", ["none", "pooling", "all"])
    @pytest.mark.parametrize("name", PRIMITIVES)
    def test_closing_norm_says_what_ends_in_a_batch_norm(
        self, name: str, closing_norm: str
    ) -> None:
        """Pooling from "pooling" on, the stride-1 skip with "all" only; convolutions always."""
        x = 3 + 2 * torch.randn(8, 4, 9, 9)
        out = OPERATIONS[name](4, 1, closing_norm)(x)
        normed = {"none": ("conv",), "pooling": ("conv", "pool"), "all": ("conv", "pool", "skip")}
        mean, deviation = out.mean((0, 2, 3)), out.std((0, 2, 3))
        is_normed = bool((mean.abs() < 1e-4).all() and ((deviation - 1).abs() < 1e-2).all())
        assert is_normed == any(part in name for part in normed[closing_norm])


class TestTopology:
    @pytest.mark.parametrize("cells", [3, 4, 5, 6, 7, 8, 14, 20])
    def test_resolution_halves_and_channels_double_at_a_third_and_two_thirds(
        self, cells: int
    ) -> None:
        network = build_network(
            both(cell_of(*["skip_connect<0 skip_connect<1"] * 4)), 2, cells, 10, in_channels=1
        )
        shapes: list[torch.Size] = []
        for cell in network.cells:
            cell.register_forward_hook(lambda _, __, out: shapes.append(out.shape))
        network(torch.zeros(2, 1, 16, 16))
        size, channels, expected = 16, 2, []
        for i in range(cells):
            if i in (cells // 3, 2 * cells // 3):
                size, channels = size // 2, channels * 2
            expected.append((2, 4 * channels, size, size))
        assert shapes == expected

    def test_a_cell_computes_what_its_genotype_says(self) -> None:
        """The first, normal cell of a network by hand, operation by operation."""
        cell = cell_of(
            "skip_connect<0 skip_connect<1",
            "max_pool_3x3<2",
            "avg_pool_3x3<0 skip_connect<3",
            "",
            concat=(5, 3, 4),
        )
        network = build_network(both(cell), 2, 3, 10, in_channels=1).double().eval()
        s0 = torch.randn(2, 6, 8, 8, dtype=torch.float64)
        seen: list[Tensor] = []
        network.stem.register_forward_hook(lambda *_: s0)
        network.cells[0].register_forward_hook(lambda _, __, out: seen.append(out))
        network(torch.zeros(2, 1, 8, 8, dtype=torch.float64))
        a, b = (bring(s0) for bring in network.cells[0].inputs)
        node_2 = a + b
        node_3 = nn.functional.max_pool2d(node_2, 3, 1, 1)
        node_4 = nn.functional.avg_pool2d(a, 3, 1, 1, count_include_pad=False) + node_3
        expected = torch.cat([torch.zeros_like(a), node_3, node_4], 1)
        torch.testing.assert_close(seen[0], expected)

    def test_an_operation_that_is_not_in_the_genotype_is_not_in_the_network(self) -> None:
        network = build_network(UNEVEN, 2, 3, 10)
        assert [len(cell.nodes.operations) for cell in network.cells] == [6, 6, 6]

    @pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 9), (1, 1), (33, 32)])
    @pytest.mark.parametrize("genotype", [UNEVEN, GENOTYPES["ISTA_onestage"]])
    @pytest.mark.parametrize("stem", ["cifar", "imagenet"])
    def test_any_image_size_and_number_of_channels(
        self, size: tuple[int, int], genotype: Genotype, stem: str
    ) -> None:
        network = build_network(genotype, 3, 4, 5, in_channels=1, stem=stem, auxiliary=True)
        out = network(torch.randn(3, 1, *size), auxiliary=True)
        assert out.logits.shape == out.auxiliary.shape == (3, 5)
        assert out.logits.isfinite().all()
        out.logits.sum().backward()

    def test_a_node_that_nothing_reaches_is_zero(self) -> None:
        network = build_network(UNEVEN, 2, 3, 10, in_channels=1).eval()
        shapes: list[Tensor] = []
        for cell in network.cells:
            cell.register_forward_hook(lambda _, __, out: shapes.append(out))
        network(torch.randn(2, 1, 7, 7))
        for out, c in zip(shapes, (2, 4, 8), strict=True):
            assert (out[:, :c] == 0).all()
            assert (out[:, 3 * c :] == 0).all()
            assert (out[:, c : 3 * c] != 0).any()

    def test_imagenet_stem_reduces_eight_times(self) -> None:
        network = build_network(GENOTYPES["DARTS_V2"], 4, 3, 10, stem="imagenet")
        seen: list[tuple[torch.Size, ...]] = []
        for cell in network.cells:
            cell.register_forward_hook(
                lambda _, states, out: seen.append(
                    tuple(state.shape[2:] for state in (*states[:2], out))
                )
            )
        network(torch.zeros(2, 3, 64, 64))
        sizes = [tuple(size[0] for size in cell) for cell in seen]
        assert sizes == [(16, 8, 8), (8, 8, 4), (8, 4, 2)]


class TestAuxiliaryHead:
    @pytest.mark.parametrize("stem", ["cifar", "imagenet"])
    def test_norms_are_the_published_ones(self, stem: str) -> None:
        """The head for ImageNet has no batch norm behind its second convolution."""
        c, classes = 4 * 4 * 2, 7
        network = build_network(GENOTYPES["DARTS_V2"], 2, 3, classes, auxiliary=True, stem=stem)
        expected = c * 128 + 2 * 128 + 128 * 768 * 4 + (768 + 1) * classes
        expected += 2 * 768 * (stem == "cifar")
        assert sum(p.numel() for p in network.auxiliary_head.parameters()) == expected
        size = {"cifar": 32, "imagenet": 224}[stem]
        out = network(torch.randn(2, 3, size, size), auxiliary=True)
        assert out.auxiliary.shape == (2, classes)

    def test_gives_two_scores_only_when_asked(self) -> None:
        network = build_network(GENOTYPES["DARTS_V2"], 4, 3, 7, in_channels=1, auxiliary=True)
        x = torch.randn(4, 1, 8, 8)
        alone, pair = network(x), network(x, auxiliary=True)
        assert isinstance(alone, Tensor)
        assert isinstance(pair, Outputs)
        torch.testing.assert_close(pair.logits, alone)
        assert pair.auxiliary.shape == (4, 7)
        assert not torch.allclose(pair.auxiliary, pair.logits)

    @pytest.mark.parametrize("cells", [3, 5, 6, 8, 20])
    def test_sits_behind_the_second_reduction(self, cells: int) -> None:
        network = build_network(
            both(cell_of(*["skip_connect<0 skip_connect<1"] * 4)), 2, cells, 7, auxiliary=True
        )
        order: list[object] = []
        for i, cell in enumerate(network.cells):
            cell.register_forward_hook(lambda *_, i=i: order.append(i))
        network.auxiliary_head.register_forward_hook(lambda *_: order.append("head"))
        network(torch.zeros(2, 3, 8, 8), auxiliary=True)
        assert order.index("head") == order.index(2 * cells // 3) + 1

    def test_pools_cifar_and_imagenet_as_darts_does(self) -> None:
        head = AuxiliaryHead(4, 3).eval()
        for size, stride in ((8, 3), (7, 2)):
            x = torch.randn(2, 4, size, size)
            pooled = nn.functional.avg_pool2d(torch.relu(x), 5, stride, 0, count_include_pad=False)
            assert pooled.shape[2:] == (2, 2)
            expected = head.classifier(head.features(pooled).flatten(1))
            torch.testing.assert_close(head(x), expected)

    def test_asking_a_network_that_has_none_is_a_user_error(self) -> None:
        network = build_network(GENOTYPES["DARTS_V2"], 2, 3, 7)
        with pytest.raises(UserError, match="auxiliary"):
            network(torch.zeros(2, 3, 8, 8), auxiliary=True)


class TestDropPath:
    def states(
        self, cell: CellGenotype, images: int, skips: bool = False, closing_norm: str = "none"
    ) -> tuple[Tensor, Tensor]:
        """The first cell's first input, and its first node, of a pass with drop path 0.5."""
        network = build_network(both(cell), 2, 3, 10, in_channels=1, closing_norm=closing_norm)
        if skips:
            drop_skips(network)
        states: list[Tensor] = []
        network.cells[0].inputs[0].register_forward_hook(lambda _, __, out: states.append(out))
        network.cells[0].register_forward_hook(lambda _, __, out: states.append(out[:, :2]))
        mask = drop_path(network.active(), images, 0.5, torch.Generator().manual_seed(0))
        network(torch.randn(images, 1, 8, 8), drop_path_mask=mask)
        return states[0], states[1]

    def test_silences_whole_operations_per_image_and_scales_the_others(self) -> None:
        read, node = self.states(cell_of("max_pool_3x3<0", "", "", ""), 400)
        whole = 2 * nn.functional.max_pool2d(read, 3, 1, 1)
        dropped = (node == 0).flatten(1).all(1)
        assert 140 < int(dropped.sum()) < 260  # half of 400: six standard deviations
        torch.testing.assert_close(node[~dropped], whole[~dropped])

    def test_never_silences_a_stride_1_skip(self) -> None:
        assert torch.equal(*self.states(cell_of("skip_connect<0", "", "", ""), 50))

    @pytest.mark.parametrize("closing_norm", ["none", "all"])
    def test_silences_skips_where_asked_to(self, closing_norm: str) -> None:
        """A skip that ends in a batch norm is no identity there, as in the published one-stage code."""
        cell = cell_of("skip_connect<0", "", "", "")
        read, node = self.states(cell, 400, skips=True, closing_norm=closing_norm)
        if closing_norm == "all":
            read = nn.functional.batch_norm(read, None, None, training=True)
        dropped = (node == 0).flatten(1).all(1)
        assert 140 < int(dropped.sum()) < 260
        torch.testing.assert_close(node[~dropped], 2 * read[~dropped])

    def test_bypasses_are_no_skips(self) -> None:
        shape = NetworkOptions(4, 3, 10, 1, partial=2)
        network = build_supernet(shape, bypassing(DARTS_SPACE))
        drop_skips(network)
        for cell in network.cells:
            for key, operation in cell.nodes.operations.items():
                assert operation.droppable == (not key.endswith(BYPASS))

    def test_operations_are_dropped_independently(self) -> None:
        mask = drop_path(40, 500, 0.2, torch.Generator().manual_seed(1))
        assert set(mask.unique().tolist()) == {0.0, 1.25}
        assert mask.mean().item() == pytest.approx(1, abs=0.02)  # six standard deviations
        correlations = torch.corrcoef(mask) - torch.eye(40)
        assert correlations.abs().max() < 6 / 500**0.5

    def test_each_operation_has_its_own_row(self) -> None:
        """Rows are in the order of cells, nodes, and their operations."""
        network = build_network(GENOTYPES["DARTS_V2"], 2, 3, 10, in_channels=1)
        assert network.active() == 3 * 8
        mask = torch.rand(24, 4)
        terms = [t for cell in network.incoming(None, mask) for node in cell for t in node]
        assert torch.equal(torch.stack([term.drop_path_mask for term in terms]), mask)

    def test_rate_0_changes_nothing(self) -> None:
        network = build_network(GENOTYPES["DARTS_V2"], 2, 3, 10, in_channels=1)
        x = torch.randn(4, 1, 8, 8)
        mask = drop_path(network.active(), 4, 0.0, torch.Generator())
        assert torch.equal(network(x, drop_path_mask=mask), network(x))


class TestBuilding:
    def test_same_seed_same_weights_whatever_else_was_drawn(self) -> None:
        shape = {"channels": 2, "cells": 3}
        first = build_network(GENOTYPES["DARTS_V2"], **shape, seed=5)
        torch.rand(100)
        before = torch.get_rng_state()
        again = build_network(GENOTYPES["DARTS_V2"], **shape, seed=5)
        assert torch.equal(torch.get_rng_state(), before), "the global generator has moved"
        other = build_network(GENOTYPES["DARTS_V2"], **shape, seed=6)
        assert all(map(torch.equal, first.parameters(), again.parameters()))
        assert not all(map(torch.equal, first.parameters(), other.parameters()))

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("channels", 1),
            ("channels", 2.5),
            ("channels", True),
            ("channels", "16"),
            ("cells", 2),
            ("classes", 1),
            ("in_channels", 0),
            ("stem", "mnist"),
            ("closing_norm", "some"),
            ("closing_norm", None),
        ],
    )
    def test_values_out_of_range_are_named(self, option: str, value: object) -> None:
        with pytest.raises(UserError, match=option):
            dataclasses.replace(NetworkOptions(), **{option: value})
        with pytest.raises(UserError, match=option):
            build_network(GENOTYPES["DARTS_V2"], **{option: value})

    def test_a_genotype_of_another_space_is_refused(self) -> None:
        cell = CellGenotype(((Edge("skip_connect", 0),),), (2,))
        with pytest.raises(UserError, match="1 nodes"):
            build_network(both(cell), 2, 3)
        unknown = cell_of("none<0", "", "", "")
        with pytest.raises(UserError, match="none"):
            build_network(both(unknown), 2, 3)


class TestGenotypeOfANetwork:
    @pytest.mark.parametrize("name", GENOTYPES)
    def test_is_the_one_it_was_built_of(self, name: str) -> None:
        network = build_network(GENOTYPES[name], 2, 3)
        assert Genotype.of(network).canonical() == GENOTYPES[name].canonical()
        assert Genotype.of(build_network(Genotype.of(network), 2, 3)) == Genotype.of(network)

    @pytest.mark.parametrize("concat", [(2, 3, 4, 5), (4, 5), (5, 3, 2, 4)])
    def test_keeps_what_is_concatenated_and_in_which_order(self, concat: tuple[int, ...]) -> None:
        """As in AmoebaNet, whose output leaves out nodes; another order is another network to the weights."""
        genotype = both(dataclasses.replace(GENOTYPES["DARTS_V2"]["normal"], concat=concat))
        assert Genotype.of(build_network(genotype, 2, 3))["normal"].concat == concat

    def test_of_uneven_nodes(self) -> None:
        assert Genotype.of(build_network(UNEVEN, 2, 3)).canonical() == UNEVEN.canonical()

    def test_of_a_supernet_has_all_places(self) -> None:
        places = Genotype.of(build_supernet(NetworkOptions(2, 3))).places(DARTS_SPACE)
        assert places["normal"] == places["reduction"] == DARTS_SPACE.places()
