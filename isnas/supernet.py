"""The super-net's core: it runs the operations it is told to, and nothing else.

A cell holds an operation for each of its places. A *super-net* has all places of its space and is called with
coefficients, which name the active places and their values; a *discrete network* has a genotype's places only and is
called without. Both are of one class, so that a search step costs what a step of the found network costs, and that
folding is copying. What stands around the cells (stem, reductions, head) is a network's own: see `isnas.network`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .operations import OPERATIONS, BatchNorm, ClosingNorm
from .space import Place, Space


@dataclass(frozen=True)
class Coefficients:
    """What a code hands to the super-net for one kind of cell.

    Parameters
    ----------
    values : Tensor, shape (k,)
        The factor of each active place; differentiable.
    places : tuple of Place, length k
        The active places, different ones.
    """

    values: Tensor
    places: tuple[Place, ...]

    def __post_init__(self) -> None:
        if len(set(self.places)) != len(self.places) or self.values.shape != (len(self.places),):
            raise ValueError(
                f"coefficients need one value for each of different places, got values of shape "
                f"{tuple(self.values.shape)} for {len(self.places)} places"
            )


class DropPath:
    """Silence whole operations, per image, with probability `rate` while training; the others are scaled up.

    `generator` (on the images' device) draws; it is set anew for every step, see `isnas.randomness`.
    """

    def __init__(self) -> None:
        self.rate = 0.0
        self.generator: torch.Generator | None = None

    def __call__(self, x: Tensor) -> Tensor:
        keep = 1.0 - self.rate
        kept = torch.rand(len(x), 1, 1, 1, device=x.device, generator=self.generator) < keep
        return x * (kept.to(x.dtype) / keep)


# (operation's key, source state, coefficient) for each node
Incoming = list[list[tuple[str, int, Tensor | None]]]


class Nodes(nn.Module):
    """The nodes of a cell: each adds up its incoming operations.

    Parameters
    ----------
    space : Space
    places : iterable of Place
        The operations to build.
    channels : int
        Channels of the states.
    stride : int
        Of the operations on the cell's inputs.
    closing_norm : ClosingNorm
    """

    def __init__(
        self,
        space: Space,
        places: Iterable[Place],
        channels: int,
        stride: int,
        closing_norm: ClosingNorm,
    ) -> None:
        super().__init__()
        self.operations = nn.ModuleDict()
        for place in places:
            build = OPERATIONS[space.primitives[place.operation]]
            of_input = place.source < space.inputs
            self.operations[place_key(space, place)] = build(
                channels, stride if of_input else 1, closing_norm
            )
        self.channels = channels
        self.stride = stride

    def forward(
        self, states: list[Tensor], incoming: Incoming, drop: DropPath | None
    ) -> list[Tensor]:
        """Return the inputs, (B, channels, H, W) each, and the nodes, (B, channels, H / stride, W / stride)."""
        states = list(states)
        for edges in incoming:
            node: Tensor | None = None
            for key, source, coefficient in edges:
                operation = self.operations[key]
                out = operation(states[source], coefficient)
                if drop is not None and operation.droppable:
                    out = drop(out)
                node = out if node is None else node + out
            # a node that nothing reaches is zero
            states.append(self._zero(states[0]) if node is None else node)
        return states

    def _zero(self, state: Tensor) -> Tensor:
        size = [-(-length // self.stride) for length in state.shape[2:]]
        return state.new_zeros(len(state), self.channels, *size)


class CellNetwork(nn.Module, ABC):
    """What all networks of cells share. Each cell is a module with `nodes`, a `Nodes`.

    Parameters
    ----------
    space : Space
    places : mapping of kind to places
        The operations to build in every cell of a kind.
    concat : mapping of kind to states
        The states that make up the output of each kind of cell.
    options
        What else shapes the network; a frozen dataclass with `closing_norm`.

    Attributes
    ----------
    kinds : tuple of str
        The kind of each cell, in order; set by the network.
    cells : nn.ModuleList
        The cells, likewise.
    """

    kinds: tuple[str, ...]
    cells: nn.ModuleList

    def __init__(
        self,
        space: Space,
        places: Mapping[str, Iterable[Place]],
        concat: Mapping[str, tuple[int, ...]],
        options: Any,
    ) -> None:
        super().__init__()
        self.space = space
        self.places = {kind: tuple(sorted(places[kind])) for kind in space.kinds}
        self.concat = {kind: tuple(concat[kind]) for kind in space.kinds}
        self.options = options
        self.drop_path = DropPath()

    @abstractmethod
    def forward(self, x: Tensor, coefficients: Mapping[str, Coefficients] | None = None) -> Tensor:
        """Run the network on x, (B, ...), and return class scores, (B, classes).

        `coefficients` are the active places and their factors; without them all places that the network has run, with
        factor 1.
        """

    def incoming(self, coefficients: Mapping[str, Coefficients] | None) -> dict[str, Incoming]:
        """Return what each node of each kind of cell adds up."""
        found = {}
        for kind in self.space.kinds:
            nodes: Incoming = [[] for _ in range(self.space.nodes)]
            places = self.places[kind] if coefficients is None else coefficients[kind].places
            values = (
                [None] * len(places) if coefficients is None else coefficients[kind].values.unbind()
            )
            for place, value in sorted(
                zip(places, values, strict=True), key=lambda entry: entry[0]
            ):
                nodes[place.node].append((place_key(self.space, place), place.source, value))
            found[kind] = nodes
        return found

    def active_drop_path(self) -> DropPath | None:
        """Return the drop path if it does something now."""
        return self.drop_path if self.training and self.drop_path.rate > 0 else None

    def discrete(self, places: Mapping[str, Iterable[Place]]) -> CellNetwork:
        """Return a network like this one that has these places only, without memory for its weights (on "meta")."""
        with torch.device("meta"):
            return type(self)(self.space, places, self.concat, self.options)

    def operations_at(self, kind: str, places: Iterable[Place]) -> list[nn.Module]:
        """Return the operations at these places in all cells of a kind."""
        keys = [place_key(self.space, place) for place in places]
        cells = [cell for k, cell in zip(self.kinds, self.cells, strict=True) if k == kind]
        return [cell.nodes.operations[key] for cell in cells for key in keys]


def place_key(space: Space, place: Place) -> str:
    """Return the name of a place in a cell's state dict, e.g. ``node2_from0_sep_conv_3x3``."""
    return f"node{place.node}_from{place.source}_{space.primitives[place.operation]}"


def train_affine(modules: nn.Module | Iterable[nn.Module], trainable: bool) -> None:
    """Make the batch norms' affine parts in `modules` trainable, or fix them where they are."""
    roots = [modules] if isinstance(modules, nn.Module) else modules
    for module in itertools.chain.from_iterable(root.modules() for root in roots):
        if isinstance(module, BatchNorm):
            module.requires_grad_(trainable)
