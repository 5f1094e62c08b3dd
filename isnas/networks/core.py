"""The super-net's core: it runs the operations it is told to, and nothing else.

A cell holds an operation for each of its places. A *super-net* has all places of its space and is called with
coefficients, which name the active places and their values; a *discrete network* has a genotype's places only and is
called without. Both are of one class, so that a search step costs what a step of the found network costs, and that
folding is copying. What stands around the cells (stem, reductions, head) is a network's own: see
`isnas.networks.darts`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..runtime.errors import UserError
from ..runtime.processes import processes, rank
from ..spaces.base import Place, Space
from .operations import (
    BYPASS,
    OPERATIONS,
    ClosingNorm,
    Factor,
    Norm,
    layout,
    scaled,
    shuffled,
)


def only_kind(space: Space) -> str:
    """Return the one kind of cell of a space whose cells have one input; raise a `UserError` where it has others."""
    if len(space.kinds) != 1 or space.inputs != 1:
        raise UserError(
            f"this network is made of one kind of cell with one input; the space has "
            f"{', '.join(space.kinds)} cells with {space.inputs} inputs"
        )
    return space.kinds[0]


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


def drop_path(operations: int, images: int, rate: float, generator: torch.Generator) -> Tensor:
    """Draw what operations are multiplied by for each image: 0 with probability `rate`, else 1 / (1 - rate).

    All in one draw: a draw for each operation would be several kernels for each. Where several processes work together,
    it is for the images of all, and each gets its own.

    Parameters
    ----------
    operations, images : int
        The images are those of this process.
    rate : float
        At least 0, below 1.
    generator : torch.Generator
        The factors are on its device.

    Returns
    -------
    Tensor, shape (operations, images)
    """
    size = (operations, images * processes())
    drawn = torch.rand(size, device=generator.device, generator=generator)
    own = drawn[:, images * rank() : images * (rank() + 1)]
    return (own >= rate) / (1.0 - rate)


def pooled(x: Tensor, dropout: Tensor | None = None) -> Tensor:
    """Return the means of feature maps, (B, C, H, W) -> (B, C), times what dropout multiplies them by, if anything."""
    x = x.mean(dim=(2, 3))
    return x if dropout is None else x * dropout.to(x.dtype)


def drop_skips(network: CellNetwork) -> None:
    """Let drop path silence stride-1 skips, too; not the bypass of partial channels, which is no candidate."""
    for cell in network.cells:
        for key, operation in cell.nodes.operations.items():
            operation.droppable = key not in cell.nodes.bypasses


class Term(NamedTuple):
    """An operation into a node."""

    key: str
    """Its name in the cell."""
    source: int
    """The state that it reads."""
    factor: Factor = None
    """What its output is multiplied by."""
    drop_path_mask: Tensor | None = None
    """What its output is multiplied by for each example of the batch, shape (B,), where drop path may silence it."""

    def silenced(self, out: Tensor) -> Tensor:
        """Return an output, (B, ...), of this operation times the mask of drop path, if there is one."""
        if self.drop_path_mask is None:
            return out
        return out * self.drop_path_mask.to(out.dtype).view(-1, *(1,) * (out.dim() - 1))


Incoming = list[list[Term]]
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
            primitive, key = space.primitives[place.operation], space.place_key(place)
            of_input = place.source < space.inputs
            self.operations[key] = OPERATIONS[primitive](
                self.worked, stride if of_input else 1, closing_norm
            )
            if primitive == BYPASS:
                self.bypasses.add(key)

    def forward(self, states: list[Tensor], incoming: Incoming) -> list[Tensor]:
        """Return the inputs, (B, channels, H, W) each, and the nodes, (B, channels, H / stride, W / stride)."""
        states = list(states)
        if self.partial > 1:
            return self._partial(states, incoming)
        for terms in incoming:
            states.append(self._sum(terms, states, self.channels))
        return states

    def _partial(self, states: list[Tensor], incoming: Incoming) -> list[Tensor]:
        """Do likewise with partial channels.

        Joining and shuffling are linear and the same for all edges, so they are done once for a node.
        """
        parts = [self._split(state) for state in states]
        for terms in incoming:
            working = [term for term in terms if term.key not in self.bypasses]
            passing = [term for term in terms if term.key in self.bypasses]
            firsts, rests = ([part[i] for part in parts] for i in range(2))
            worked = self._sum(working, firsts, self.worked)
            passed = self._sum(passing, rests, self.channels - self.worked)
            states.append(shuffled(worked, passed, self.partial))
            parts.append(self._split(states[-1]))
        return states

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        # many operations read the first part: it is worth a compact copy
        first = state[:, : self.worked].contiguous(memory_format=layout(state))
        return first, state[:, self.worked :]

    def _sum(self, terms: list[Term], states: list[Tensor], channels: int) -> Tensor:
        """Return the sum of incoming operations, (B, channels, H / stride, W / stride)."""
        node: Tensor | None = None
        for term in terms:
            operation = self.operations[term.key]
            out = operation(states[term.source], term.factor)
            if operation.droppable:
                out = term.silenced(out)
            node = out if node is None else node + out
        if node is None:  # a node that nothing reaches is zero
            step = self.stride
            node = torch.zeros_like(states[0][:, :channels, ::step, ::step])
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
        What else shapes the network; a frozen dataclass with `closing_norm` and, where it can be partial, `partial`.

    Attributes
    ----------
    kinds : tuple of str
        The kind of each cell, in order; set by the network.
    cells : nn.ModuleList
        The cells, likewise.
    stem : nn.Module
        What comes before the cells, likewise.

    Raises
    ------
    UserError
        When channels are partial and the space has no bypass, or the other way round.
    """

    kinds: tuple[str, ...]
    cells: nn.ModuleList
    stem: nn.Module
    additive: ClassVar[bool] = True
    """Whether multiply-adds are a sum over places."""

    def __init__(
        self,
        space: Space,
        places: Mapping[str, Iterable[Place]],
        concat: Mapping[str, tuple[int, ...]],
        options: Any,
    ) -> None:
        super().__init__()
        partial = getattr(options, "partial", 1)  # of networks of channels
        if (partial > 1) != (BYPASS in space.primitives):
            raise UserError(
                f"partial channels and the primitive {BYPASS!r} need each other; got partial = "
                f"{partial} and the primitives {', '.join(space.primitives)}"
            )
        self.space = space
        self.places = {kind: tuple(sorted(places[kind])) for kind in space.kinds}
        self.concat = {kind: tuple(concat[kind]) for kind in space.kinds}
        self.options = options

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        coefficients: Mapping[str, Coefficients] | None = None,
        *,
        drop_path_mask: Tensor | None = None,
        dropout: Tensor | None = None,
    ) -> Tensor:
        """Run the network.

        Parameters
        ----------
        x : Tensor, shape (B, ...)
        coefficients : mapping of kind to Coefficients, optional
            The active places and their factors. Without it all places that the network has run, with factor 1.
        drop_path_mask : Tensor, shape (active operations, B), optional
            What drop path multiplies them by, see `drop_path`; stride-1 skips are left alone, see `drop_skips`.
        dropout : Tensor, shape (B, features), optional
            What dropout multiplies the features by that the classifier reads.

        Returns
        -------
        Tensor, shape (B, classes)
            Class scores.
        """

    def blocks(self) -> tuple[nn.Module, ...]:
        """Return the modules that features pass one after the other: the stem, then the cells and what is between."""
        return (self.stem, *self.cells)

    def example(self, size: tuple[int, ...], device: torch.device | str) -> Tensor:
        """Return a batch of one sample of some size, without content: for images (H, W) pixels."""
        return torch.empty(1, self.options.in_channels, *size, device=device)

    @property
    def features(self) -> int:
        """How many features the classifier reads."""
        return self.classifier.in_features

    @staticmethod
    def units(x: Tensor) -> int:
        """Return how many units of the task a batch of inputs has."""
        return len(x)

    def active(self, coefficients: Mapping[str, Coefficients] | None = None) -> int:
        """Return how many operations a pass with these coefficients runs, in all cells together."""
        places = self.places
        if coefficients is not None:
            places = {kind: part.places for kind, part in coefficients.items()}
        return sum(len(places[kind]) for kind in self.kinds)

    def incoming(
        self, coefficients: Mapping[str, Coefficients] | None, drop_path_mask: Tensor | None = None
    ) -> list[Incoming]:
        """Return what each node of every cell adds up."""
        found = self._incoming(coefficients)
        if drop_path_mask is None:
            return found
        rows = iter(drop_path_mask.unbind())
        return [
            [[term._replace(drop_path_mask=next(rows)) for term in node] for node in cell]
            for cell in found
        ]

    def _incoming(self, coefficients: Mapping[str, Coefficients] | None) -> list[Incoming]:
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
            nodes[place.node].append(Term(self.space.place_key(place), place.source, factor))
        return nodes

    def _factors(self, cells: list[int], part: Coefficients) -> list[list[Factor]]:
        """Return for each of these cells, which have as many channels, what its active operations are multiplied by."""
        values: list[Factor] = list(part.values.unbind())
        keys = [self.space.place_key(place) for place in part.places]
        norms = [[self.cells[i].nodes.operations[key].norm for key in keys] for i in cells]
        closing: dict[int, list[int]] = {}  # places with a closing norm, by its channels
        for k, norm in enumerate(norms[0]):
            if norm is not None:
                closing.setdefault(norm.num_features, []).append(k)
        found = [list(values) for _ in cells]
        for closed in closing.values():
            of_closed = torch.stack([values[k] for k in closed])
            rows = scaled([[row[k] for k in closed] for row in norms], of_closed)
            for factors, row in zip(found, rows, strict=True):
                for k, affine in zip(closed, row, strict=True):
                    factors[k] = affine
        return found

    def discrete(self, places: Mapping[str, Iterable[Place]]) -> CellNetwork:
        """Return a network like this one that has these places only, without memory for its weights (on "meta")."""
        with torch.device("meta"):
            return type(self)(self.space, places, self.concat, self.options)

    def operations_at(self, kind: str, places: Iterable[Place]) -> list[nn.Module]:
        """Return the operations at these places in all cells of a kind."""
        keys = [self.space.place_key(place) for place in places]
        cells = [cell for k, cell in zip(self.kinds, self.cells, strict=True) if k == kind]
        return [cell.nodes.operations[key] for cell in cells for key in keys]


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
    """Make the norms' affine parts in `modules` trainable, or fix them where they are."""
    roots = [modules] if isinstance(modules, nn.Module) else modules
    for module in itertools.chain.from_iterable(root.modules() for root in roots):
        if isinstance(module, Norm):
            module.requires_grad_(trainable)
