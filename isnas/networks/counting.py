"""Sizes of networks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..spaces.base import Place
from .core import CellNetwork


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, without the auxiliary head's: it is not part of the network that is used."""
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if not name.startswith("auxiliary_head.")
    )


def count_multiply_adds(network: CellNetwork, size: tuple[int, ...] = (32, 32)) -> int:
    """Return the multiply-adds for one sample.

    Counting rule: convolutions and linear layers, nothing else (no pooling, batch norm, activation or addition).

    Parameters
    ----------
    network : CellNetwork
    size : tuple of int
        What the network's `example` takes: for images their height and width in pixels.
    """
    shape = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shape(network.example(size, "meta"))
    return counter.get_total_flops() // 2  # a multiply-add counts as two operations there


class PlaceCosts:
    """Parameters of discrete networks, read off the super-net that has all their operations.

    Parameters
    ----------
    supernet : CellNetwork
    """

    def __init__(self, supernet: CellNetwork) -> None:
        self.space = supernet.space
        self.costs = {
            kind: {
                place: sum(map(count_parameters, supernet.operations_at(kind, [place])))
                for place in supernet.places[kind]
            }
            for kind in supernet.space.kinds
        }
        every = sum(sum(costs.values()) for costs in self.costs.values())
        self.rest = count_parameters(supernet) - every

    def parameters(self, places: Mapping[str, Iterable[Place]]) -> int:
        """Return the parameters of the network that has these places, without the auxiliary head's."""
        return self.rest + sum(self.costs[kind][p] for kind in places for p in places[kind])

    def least(self, s: Sequence[int]) -> int:
        """Return the parameters of the smallest network with `s[i]` active candidates of each kind's i-th choice."""
        smallest: dict[str, list[Place]] = {kind: [] for kind in self.costs}
        for i, choice in enumerate(self.space.choices):
            costs = self.costs[choice.kind]
            # of each group the cheapest, and of these the cheapest
            cheapest = [
                min(members, key=lambda j: costs[choice.candidates[j]])
                for members in choice.members
            ]
            places = sorted((choice.candidates[j] for j in cheapest), key=costs.__getitem__)
            smallest[choice.kind] += places[: s[i % len(s)]]
        return self.parameters(smallest)
