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
        The size that the network's `example` takes: for images their height and width in pixels.
    """
    shape = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shape(network.example(size, "meta"))
    return counter.get_total_flops() // 2  # a multiply-add counts as two operations there


def multiply_adds_of_modules(network: CellNetwork, size: tuple[int, ...]) -> dict[str, int]:
    """Return the multiply-adds of each convolution and linear layer for one sample, by its name in the network.

    Parameters
    ----------
    network : CellNetwork
        On "meta": nothing is computed. A super-net runs all its operations.
    size : tuple of int
        As in `count_multiply_adds`, whose rule this follows.
    """
    found: dict[str, int] = {}
    names = {module: name for name, module in network.named_modules()}

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        each = (
            module.in_features
            if isinstance(module, nn.Linear)
            else module.weight[0].numel()  # input channels of a group times the window
        )
        found[names[module]] = found.get(names[module], 0) + output[0].numel() * each

    hooks = [
        module.register_forward_hook(count)
        for module in names
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            network(network.example(size, "meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return found


class PlaceCosts:
    """Parameters and multiply-adds of discrete networks, read off the super-net that has all their operations.

    They are sums over the places of a genotype and what all networks have in common; multiply-adds of networks whose
    parts depend on each other (`CellNetwork.additive`) are counted one by one.

    Parameters
    ----------
    supernet : CellNetwork
    size : tuple of int, optional
        As in `count_multiply_adds`: of the samples that multiply-adds are counted for; without it they are not.
    """

    def __init__(self, supernet: CellNetwork, size: tuple[int, ...] | None = None) -> None:
        self.space = supernet.space
        names = {module: name for name, module in supernet.named_modules()}
        passes: dict[str, int] = {}
        if size is not None:
            on_meta = supernet.discrete(supernet.places).eval()
            passes = multiply_adds_of_modules(on_meta, size)
        self.costs: dict[str, dict[Place, int]] = {}
        self.passes: dict[str, dict[Place, int]] = {}
        for kind in supernet.space.kinds:
            of_places = {p: supernet.operations_at(kind, [p]) for p in supernet.places[kind]}
            self.costs[kind] = {p: sum(map(count_parameters, of)) for p, of in of_places.items()}
            self.passes[kind] = {
                p: sum(passes.get(names[m], 0) for each in of for m in each.modules())
                for p, of in of_places.items()
            }
        every = sum(sum(costs.values()) for costs in self.costs.values())
        self.rest = count_parameters(supernet) - every
        auxiliary = sum(n for name, n in passes.items() if name.startswith("auxiliary_head."))
        every = sum(sum(costs.values()) for costs in self.passes.values())
        self._rest_passes = sum(passes.values()) - auxiliary - every
        self._counted = size is not None
        self.additive = supernet.additive
        self._one_by_one = None if supernet.additive else (supernet, size)

    def parameters(self, places: Mapping[str, Iterable[Place]]) -> int:
        """Return the parameters of the network that has these places, without the auxiliary head's."""
        return self.rest + sum(self.costs[kind][p] for kind in places for p in places[kind])

    def multiply_adds(self, places: Mapping[str, Iterable[Place]]) -> int:
        """Return the multiply-adds of the network that has these places, for one sample.

        Raises
        ------
        RuntimeError
            When no size of samples was given.
        """
        if not self._counted:
            raise RuntimeError("multiply-adds were not counted: give the size of samples")
        if self._one_by_one is not None:
            supernet, size = self._one_by_one
            return count_multiply_adds(supernet.discrete(places), size)
        passes = sum(self.passes[kind][p] for kind in places for p in places[kind])
        return self._rest_passes + passes

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
