"""Nodes of feature maps: partial channels against PC-DARTS's own way of computing them."""

from __future__ import annotations

import pytest
import torch
from making import build_nasbench201_supernet, build_supernet
from torch import Tensor, nn

from isnas import DARTS_SPACE, NASBENCH201_SPACE, Coefficients, DartsSpace, Place, UserError
from isnas.networks.core import Factor, Term
from isnas.networks.darts import NetworkOptions
from isnas.networks.images import Nodes
from isnas.networks.nasbench201 import NASBench201Options
from isnas.networks.operations import (
    BYPASS,
    Operation,
    bypassing,
    layout,
    shuffled,
    without_bypass,
)

EDGE_SPACE = bypassing(
    DartsSpace(primitives=("max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5"), nodes=2)
)


def factor(operation: Operation, coefficient: Tensor) -> Factor:
    if operation.norm is None:
        return coefficient
    return operation.norm.weight * coefficient, operation.norm.bias * coefficient


def mixed_edge(
    nodes: Nodes, x: Tensor, weights: dict[str, Tensor], stride: int, partial: int
) -> Tensor:
    """An edge as PC-DARTS's code computes it: work on the first channels, join the others, shuffle."""
    c = x.shape[1]
    first, rest = x[:, : c // partial], x[:, c // partial :]
    worked = sum(weight * nodes.operations[key](first) for key, weight in weights.items())
    if stride == 2:
        rest = nn.functional.max_pool2d(rest, 2, 2, ceil_mode=True)
    joined = torch.cat([worked, rest], dim=1)
    b, _, h, w = joined.shape
    turned = joined.view(b, partial, c // partial, h, w).transpose(1, 2).contiguous()
    return turned.view(b, c, h, w)


class TestPartialChannels:
    @pytest.mark.parametrize("partial", [2, 4])
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("size", [6, 7])
    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_edge_by_edge(
        self, partial: int, stride: int, size: int, memory_format: torch.memory_format
    ) -> None:
        """Each node is the sum over its edges of edge weight * (operations and what passes by), with gradients."""
        space, places, channels = EDGE_SPACE, EDGE_SPACE.places(), 8
        nodes = Nodes(space, places, channels, stride, "pooling", partial).double()
        nodes = nodes.to(memory_format=memory_format)
        random = torch.Generator().manual_seed(partial + stride)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random, dtype=torch.float64)

        inputs = [
            drawn(3, channels, size, size).contiguous(memory_format=memory_format).requires_grad_()
            for _ in range(2)
        ]
        alpha = {place: drawn().requires_grad_() for place in places}
        beta = {(p.node, p.source): drawn().requires_grad_() for p in places}
        states = list(inputs)
        for node in range(space.nodes):
            edges = []
            for source in range(space.inputs + node):
                weights = {
                    space.place_key(p): alpha[p]
                    for p in space.candidates(node)
                    if p.source == source and space.primitives[p.operation] != BYPASS
                }
                of_input = source < space.inputs
                edge = mixed_edge(
                    nodes, states[source], weights, stride if of_input else 1, partial
                )
                edges.append(beta[node, source] * edge)
            states.append(sum(edges))
        leaves = [*inputs, *alpha.values(), *beta.values(), *nodes.parameters()]
        loss = sum((i * state**2).sum() for i, state in enumerate(states))
        expected = torch.autograd.grad(loss, leaves, allow_unused=True)

        incoming = [
            [
                Term(
                    space.place_key(p),
                    p.source,
                    factor(
                        nodes.operations[space.place_key(p)],
                        beta[node, p.source]
                        * (1 if space.primitives[p.operation] == BYPASS else alpha[p]),
                    ),
                )
                for p in space.candidates(node)
            ]
            for node in range(space.nodes)
        ]
        found = nodes(inputs, incoming)
        for ours, theirs in zip(found, states, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
            assert layout(ours) is memory_format
        loss = sum((i * state**2).sum() for i, state in enumerate(found))
        for ours, theirs in zip(
            torch.autograd.grad(loss, leaves, allow_unused=True), expected, strict=True
        ):
            if theirs is None:  # the bypasses' alpha
                assert ours is None
            else:
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_shuffle_is_a_permutation_that_brings_others_to_the_front(
        self, memory_format: torch.memory_format
    ) -> None:
        x = torch.arange(12.0).view(1, 12, 1, 1).expand(2, 12, 3, 3)
        x = x.contiguous(memory_format=memory_format)
        first = x[:, :3].contiguous(memory_format=memory_format)
        out = shuffled(first, x[:, 3:], 4)
        assert layout(out) is memory_format and out.is_contiguous(memory_format=memory_format)
        assert out[1, :, 2, 2].tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]

    def test_what_nothing_reaches_is_zero(self) -> None:
        nodes = Nodes(EDGE_SPACE, EDGE_SPACE.places(), 4, 2, "none", 2)
        x = torch.randn(2, 4, 5, 5)
        skip = Term("node1_from0_skip_connect", 0)
        states = nodes([x, x], [[Term("node0_from0_bypass", 0)], [skip]])
        pooled = nn.functional.max_pool2d(x[:, 2:], 2, 2, ceil_mode=True)
        assert torch.equal(states[2][:, 1::2], pooled) and not states[2][:, ::2].any()
        worked = nodes.operations[skip[0]](x[:, :2])
        assert torch.equal(states[3][:, ::2], worked) and not states[3][:, 1::2].any()
        empty = nodes([x, x], [[], []])
        assert all(state.shape == (2, 4, 3, 3) and not state.any() for state in empty[2:])

    def test_whole_network(self) -> None:
        """Operations of a quarter of the channels; the rest of the network, its places and names as ever."""
        plain = build_supernet(NetworkOptions(8, 3, 4, 1))
        network = build_supernet(NetworkOptions(8, 3, 4, 1, partial=4), bypassing(DARTS_SPACE))
        assert network.state_dict().keys() == plain.state_dict().keys()
        for cell, c in zip(network.cells, (8, 16, 32), strict=True):
            widths = {m.num_features for m in cell.nodes.modules() if isinstance(m, nn.BatchNorm2d)}
            assert widths == {c // 4} and cell.nodes.channels == c
        places = network.space.places()
        coefficients = dict.fromkeys(
            DARTS_SPACE.kinds, Coefficients(torch.rand(len(places), requires_grad=True), places)
        )
        out = network(torch.randn(6, 1, 8, 8), coefficients)
        out.square().sum().backward()
        assert out.shape == (6, 4) and coefficients["normal"].values.grad.all()
        shape = network.discrete({kind: part.places for kind, part in coefficients.items()})
        assert shape.state_dict().keys() == network.state_dict().keys()

    def test_in_the_space_of_nasbench201(self) -> None:
        space = bypassing(NASBENCH201_SPACE)
        options = NASBench201Options(4, 1, 3, 1, "pooling", partial=2)
        network = build_nasbench201_supernet(options, space).double()
        places = space.places()
        values = torch.rand(len(places), dtype=torch.float64)
        incoming = network.incoming({"cell": Coefficients(values, places)})[0]
        x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
        weights = dict(zip(places, values, strict=True))
        states = [x]
        for node in range(3):
            total = 0
            for source in range(node + 1):
                own = {
                    space.place_key(Place(node, source, k)): weights[Place(node, source, k)]
                    / weights[Place(node, source, len(space.primitives) - 1)]
                    for k in range(len(space.primitives) - 1)
                }
                edge = mixed_edge(network.cells[0].nodes, states[source], own, 1, 2)
                total = total + edge * weights[Place(node, source, len(space.primitives) - 1)]
            states.append(total)
        torch.testing.assert_close(network.cells[0](x, incoming), states[-1])
        assert network(
            torch.randn(2, 1, 8, 8).double(), {"cell": Coefficients(values, places)}
        ).shape == (2, 3)

    def test_spaces_differ_by_the_last_primitive(self) -> None:
        space = bypassing(DARTS_SPACE)
        assert space.primitives == (*DARTS_SPACE.primitives, BYPASS)
        assert without_bypass(space) == DARTS_SPACE == without_bypass(DARTS_SPACE)

    def test_options_of_older_networks_mean_all_channels(self) -> None:
        assert NetworkOptions(8, 3).partial == 1
        assert NASBench201Options().partial == 1

    def test_mistakes(self) -> None:
        with pytest.raises(UserError, match=r"channels must be a multiple of partial, 4: .* got 6"):
            NetworkOptions(6, 3, partial=4)
        with pytest.raises(UserError, match=r"channels must be a multiple of partial, 3: .* got 4"):
            NASBench201Options(4, partial=3)
        for partial in (0, True, 1.5):
            with pytest.raises(UserError, match="partial must be a whole number"):
                NetworkOptions(8, 3, partial=partial)
        with pytest.raises(UserError, match="'bypass' need each other; got partial = 4"):
            build_supernet(NetworkOptions(8, 3, partial=4))
        with pytest.raises(UserError, match="'bypass' need each other; got partial = 1"):
            build_supernet(NetworkOptions(8, 3), bypassing(DARTS_SPACE))
