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

from .distributed import processes, rank
from .errors import UserError
from .operations import (
    BYPASS,
    OPERATIONS,
    BatchNorm,
    ClosingNorm,
    Factor,
    layout,
    scaled,
    shuffled,
)
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

    `generator` (on the images' device) draws; it is set anew for every step, see `isnas.randomness`. Where several
    processes work together it draws for the images of all.
    """

    def __init__(self) -> None:
        self.rate = 0.0
        self.generator: torch.Generator | None = None

    def __call__(self, x: Tensor) -> Tensor:
        keep = 1.0 - self.rate
        number, first = len(x) * processes(), len(x) * rank()
        drawn = torch.rand(number, 1, 1, 1, device=x.device, generator=self.generator)
        kept = drawn[first : first + len(x)] < keep
        return x * (kept.to(x.dtype) / keep)


Edge = tuple[str, int, Factor]
"""An operation's key, the state that it reads, and what its output is multiplied by."""

Incoming = list[list[Edge]]
"""What each node of a cell adds up."""


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
    partial : int
        Operations work on the first channels / partial channels of a state only; the bypasses carry the others, and
        all are shuffled at every node (PC-DARTS, arXiv 1907.05737, section 3.2).
    """

    def __init__(
        self,
        space: Space,
        places: Iterable[Place],
        channels: int,
        stride: int,
        closing_norm: ClosingNorm,
        partial: int = 1,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.partial = partial
        self.worked = channels // partial  # channels that operations work on
        self.bypasses: set[str] = set()
        self.operations = nn.ModuleDict()
        for place in places:
            primitive, key = space.primitives[place.operation], place_key(space, place)
            of_input = place.source < space.inputs
            self.operations[key] = OPERATIONS[primitive](
                self.worked, stride if of_input else 1, closing_norm
            )
            if primitive == BYPASS:
                self.bypasses.add(key)

    def forward(
        self, states: list[Tensor], incoming: Incoming, drop: DropPath | None
    ) -> list[Tensor]:
        """Return the inputs, (B, channels, H, W) each, and the nodes, (B, channels, H / stride, W / stride)."""
        states = list(states)
        if self.partial > 1:
            return self._partial(states, incoming, drop)
        for edges in incoming:
            states.append(self._sum(edges, states, self.channels, drop))
        return states

    def _partial(
        self, states: list[Tensor], incoming: Incoming, drop: DropPath | None
    ) -> list[Tensor]:
        """Do likewise with partial channels.

        Joining and shuffling are linear and the same for all edges, so they are done once for a node.
        """
        parts = [self._split(state) for state in states]
        for edges in incoming:
            working = [edge for edge in edges if edge[0] not in self.bypasses]
            passing = [edge for edge in edges if edge[0] in self.bypasses]
            firsts, rests = ([part[i] for part in parts] for i in range(2))
            worked = self._sum(working, firsts, self.worked, drop)
            passed = self._sum(passing, rests, self.channels - self.worked, drop)
            states.append(shuffled(worked, passed, self.partial))
            parts.append(self._split(states[-1]))
        return states

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        # many operations read the first part: it is worth a compact copy
        first = state[:, : self.worked].contiguous(memory_format=layout(state))
        return first, state[:, self.worked :]

    def _sum(
        self,
        edges: list[Edge],
        states: list[Tensor],
        channels: int,
        drop: DropPath | None,
    ) -> Tensor:
        """Return the sum of incoming operations, (B, channels, H / stride, W / stride)."""
        node: Tensor | None = None
        for key, source, factor in edges:
            operation = self.operations[key]
            out = operation(states[source], factor)
            if drop is not None and operation.droppable:
                out = drop(out)
            node = out if node is None else node + out
        if node is None:  # a node that nothing reaches is zero
            size = [-(-length // self.stride) for length in states[0].shape[2:]]
            node = states[0].new_zeros(len(states[0]), channels, *size)
        return node


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
        What else shapes the network; a frozen dataclass with `closing_norm` and `partial`.

    Attributes
    ----------
    kinds : tuple of str
        The kind of each cell, in order; set by the network.
    cells : nn.ModuleList
        The cells, likewise.

    Raises
    ------
    UserError
        When channels are partial and the space has no bypass, or the other way round.
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
        if (options.partial > 1) != (BYPASS in space.primitives):
            raise UserError(
                f"partial channels and the primitive {BYPASS!r} need each other; got partial = "
                f"{options.partial} and the primitives {', '.join(space.primitives)}"
            )
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

    def incoming(self, coefficients: Mapping[str, Coefficients] | None) -> list[Incoming]:
        """Return what each node of every cell adds up."""
        if coefficients is None:
            of_kind = {kind: self._nodes(places) for kind, places in self.places.items()}
            return [of_kind[kind] for kind in self.kinds]
        found: list[Incoming] = [[] for _ in self.kinds]
        for kind in self.space.kinds:
            part = coefficients[kind]
            groups: dict[int, list[int]] = {}  # cells by their channels
            for i, (each, cell) in enumerate(zip(self.kinds, self.cells, strict=True)):
                if each == kind:
                    groups.setdefault(cell.nodes.worked, []).append(i)
            for cells in groups.values():
                for i, factors in zip(cells, self._factors(cells, part), strict=True):
                    found[i] = self._nodes(part.places, factors)
        return found

    def _nodes(self, places: Iterable[Place], factors: Iterable[Factor] | None = None) -> Incoming:
        nodes: Incoming = [[] for _ in range(self.space.nodes)]
        entries = ((place, None) for place in places)
        if factors is not None:
            entries = zip(places, factors, strict=True)
        for place, factor in sorted(entries, key=lambda entry: entry[0]):
            nodes[place.node].append((place_key(self.space, place), place.source, factor))
        return nodes

    def _factors(self, cells: list[int], part: Coefficients) -> list[list[Factor]]:
        """Return for each of these cells, which have as many channels, what its active operations are multiplied by."""
        values: list[Factor] = list(part.values.unbind())
        keys = [place_key(self.space, place) for place in part.places]
        norms = [[self.cells[i].nodes.operations[key].norm for key in keys] for i in cells]
        closed = [k for k, norm in enumerate(norms[0]) if norm is not None]
        found = [list(values) for _ in cells]
        if closed:
            of_closed = torch.stack([values[k] for k in closed])
            rows = scaled([[row[k] for k in closed] for row in norms], of_closed)
            for factors, row in zip(found, rows, strict=True):
                for k, affine in zip(closed, row, strict=True):
                    factors[k] = affine
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


def check_partial(partial: int, channels: int) -> None:
    """Raise a `UserError` unless `channels` can be divided into `partial` equal parts."""
    if isinstance(partial, bool) or not isinstance(partial, int) or partial < 1:
        raise UserError(f"partial must be a whole number of at least 1, got {partial!r}")
    if channels % partial:
        raise UserError(
            f"channels must be a multiple of partial, {partial}: the operations work on one of "
            f"{partial} equal parts; got {channels}"
        )


def train_affine(modules: nn.Module | Iterable[nn.Module], trainable: bool) -> None:
    """Make the batch norms' affine parts in `modules` trainable, or fix them where they are."""
    roots = [modules] if isinstance(modules, nn.Module) else modules
    for module in itertools.chain.from_iterable(root.modules() for root in roots):
        if isinstance(module, BatchNorm):
            module.requires_grad_(trainable)
