"""Networks count what the published ones count, and multiply-adds are those of an independent counter."""

from __future__ import annotations

import math

import pytest
import torch
from making import build_network, build_supernet, random_genotype
from torch import Tensor, nn

from isnas import (
    DARTS_SPACE,
    GENOTYPES,
    Genotype,
    count_multiply_adds,
    count_parameters,
    get_space,
)
from isnas.codes.choices import Choices
from isnas.networks.counting import PlaceCosts
from isnas.networks.darts import Network, NetworkOptions
from isnas.networks.registry import build_network as build_any_network
from isnas.networks.registry import build_supernet as build_any_supernet
from isnas.spaces.registry import SPACES


def on_meta(name: str, *shape: int, **options: object) -> Network:
    """Build without weights: these networks are large."""
    with torch.device("meta"):
        return build_network(GENOTYPES[name], *shape, **options)


# METHOD.md, section 6
PUBLISHED = [
    ("ISTA_twostage", (36, 20, 10), {}, 3_316_726),
    ("ISTA_onestage", (36, 20, 10), {"closing_norm": "all"}, 3_371_806),
    ("ISTA_onestage", (36, 20, 10), {}, 3_363_598),
    ("ISTA_ImageNet", (48, 14, 1000), {"stem": "imagenet"}, 5_651_392),
    ("DARTS_V2", (36, 20, 10), {}, 3_349_342),
    ("DARTS_V2", (48, 14, 1000), {"stem": "imagenet"}, 4_718_752),
]
MULTIPLY_ADDS = [
    ("ISTA_twostage", (36, 20, 10), {}, 32, 515.2),
    ("ISTA_onestage", (36, 20, 10), {}, 32, 532.3),
    ("ISTA_onestage", (36, 20, 10), {"closing_norm": "all"}, 32, 532.3),
    ("ISTA_ImageNet", (48, 14, 1000), {"stem": "imagenet"}, 224, 621.1),
    ("DARTS_V2", (36, 20, 10), {}, 32, 528.4),
    ("DARTS_V2", (48, 14, 1000), {"stem": "imagenet"}, 224, 529.9),
]


class TestParameters:
    @pytest.mark.parametrize(("name", "shape", "options", "parameters"), PUBLISHED)
    def test_published_networks(
        self, name: str, shape: tuple[int, ...], options: dict[str, str], parameters: int
    ) -> None:
        network = on_meta(name, *shape, **options)
        assert count_parameters(network) == parameters
        assert sum(p.numel() for p in network.parameters()) == parameters

    def test_imagenet_network_with_all_batch_norms(self) -> None:
        network = on_meta("ISTA_ImageNet", 48, 14, 1000, stem="imagenet", closing_norm="all")
        assert round(count_parameters(network) / 1e6, 3) == 5.655

    def test_auxiliary_head_is_there_but_not_part_of_the_size(self) -> None:
        network = on_meta("ISTA_twostage", auxiliary=True)
        assert sum(p.numel() for p in network.parameters()) == 3_793_152
        assert count_parameters(network) == 3_316_726

    @pytest.mark.parametrize("name", GENOTYPES)
    @pytest.mark.parametrize("closing_norm", ["none", "pooling", "all"])
    def test_size_of_a_genotype_is_that_of_its_network(self, name: str, closing_norm: str) -> None:
        shape = NetworkOptions(4, 6, 7, 1, "imagenet", True, closing_norm)
        built = build_network(
            GENOTYPES[name], 4, 6, 7, in_channels=1, stem="imagenet", closing_norm=closing_norm
        )
        counted = sum(p.numel() for p in built.parameters())
        costs = PlaceCosts(build_supernet(shape), (40, 32))
        places = GENOTYPES[name].places(DARTS_SPACE)
        assert costs.parameters(places) == counted
        assert costs.multiply_adds(places) == count_multiply_adds(built, (40, 32))

    @pytest.mark.parametrize("space", SPACES)
    def test_costs_of_places_add_up_in_every_space_of_images(self, space: str) -> None:
        """Counts are those of built random networks, by their parameters and an independent counter."""
        where = get_space(space)
        if where.task != "images":
            pytest.skip("no images")
        with torch.device("meta"):
            costs = PlaceCosts(build_any_supernet(where), (16, 16))
        for i in range(3):
            genotype = Choices(where).random(torch.Generator().manual_seed(i))
            with torch.device("meta"):
                network = build_any_network(genotype)
            places = genotype.places(where)
            assert costs.parameters(places) == count_parameters(network)
            assert costs.multiply_adds(places) == count_multiply_adds(network, (16, 16))

    def test_multiply_adds_need_a_size(self) -> None:
        with pytest.raises(RuntimeError, match="size"):
            PlaceCosts(build_supernet(NetworkOptions(2, 3, 5, 1))).multiply_adds({})

    def test_least_size_is_that_of_the_smallest_architecture(self) -> None:
        shape = NetworkOptions(4, 3, 5, 1)
        costs = PlaceCosts(build_supernet(shape))
        drawn = [random_genotype(DARTS_SPACE, torch.Generator().manual_seed(i)) for i in range(200)]
        sizes = [costs.parameters(genotype.places(DARTS_SPACE)) for genotype in drawn]
        nothing = "Genotype(normal=[{0}], normal_concat=range(2, 6), reduce=[{0}], reduce_concat=range(2, 6))"
        pairs = ", ".join(["('max_pool_3x3', 0), ('max_pool_3x3', 1)"] * 4)
        smallest = Genotype.parse(nothing.format(pairs)).places(DARTS_SPACE)
        assert costs.least((2, 2, 2, 2)) == costs.parameters(smallest) <= min(sizes)

    def test_supernet_has_every_candidate(self) -> None:
        """Counts follow the operations' formulas: of 98 places of a cell 14 for each of the seven operations."""
        c, cells = 4, 3
        shape = NetworkOptions(channels=c, cells=cells, classes=3, in_channels=1)
        depthwise = {3: 9 * c, 5: 25 * c}
        separable = sum(2 * (k + c * c + 2 * c) for k in depthwise.values())
        dilated = sum(k + c * c + 2 * c for k in depthwise.values())
        network = build_supernet(shape)
        normal = network.cells[0].nodes.operations
        assert len(normal) == 98
        assert sum(p.numel() for p in normal.parameters()) == 14 * (separable + dilated)


class TestMultiplyAdds:
    @pytest.mark.parametrize(("name", "shape", "options", "size", "millions"), MULTIPLY_ADDS)
    def test_published_networks(
        self,
        name: str,
        shape: tuple[int, ...],
        options: dict[str, str],
        size: int,
        millions: float,
    ) -> None:
        network = on_meta(name, *shape, **options)
        assert round(count_multiply_adds(network, (size, size)) / 1e6, 1) == millions

    @pytest.mark.parametrize("size", [(16, 16), (9, 13)])
    def test_equal_those_counted_layer_by_layer(self, size: tuple[int, int]) -> None:
        network = build_network(GENOTYPES["ISTA_twostage"], 4, 5, 10, in_channels=1, auxiliary=True)
        counted = 0

        def count(layer: nn.Module, _: object, out: Tensor) -> None:
            nonlocal counted
            if isinstance(layer, nn.Conv2d):
                per_pixel = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
                counted += out[0].numel() * per_pixel
            elif isinstance(layer, nn.Linear):
                counted += layer.in_features * layer.out_features

        hooks = [layer.register_forward_hook(count) for layer in network.modules()]
        network.eval()(torch.zeros(1, 1, *size))
        for hook in hooks:
            hook.remove()
        assert count_multiply_adds(network, size) == counted

    def test_counting_leaves_the_network_as_it_is(self) -> None:
        network = build_network(GENOTYPES["DARTS_V2"], 4, 3, 10, in_channels=1).train()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        count_multiply_adds(network, (8, 8))
        assert network.training
        for name, value in network.state_dict().items():
            assert value.device.type == "cpu"
            assert torch.equal(value, before[name])
