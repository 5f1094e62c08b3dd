"""The network, searched or found: a stack of cells that runs the operations it is told to, and nothing else.

A cell holds an operation for each of its places. The *super-net* has all places of the space and is called with
coefficients, which name the active places and their values; the *discrete network* of a genotype has that genotype's
places only and is called without. It is one class, so that a search step costs what a step of the found network costs,
and that folding is copying.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import UserError
from .genotype import Genotype
from .operations import (
    CLOSING_NORMS,
    OPERATIONS,
    BatchNorm,
    ClosingNorm,
    conv_norm,
    convolution,
    reduce_norm,
    relu_conv_norm,
)
from .randomness import seeded
from .space import DARTS_SPACE, Place, Space


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


class Outputs(NamedTuple):
    """Class scores before the softmax, shapes (B, classes)."""

    logits: Tensor
    auxiliary: Tensor
    """Scores of the auxiliary head."""


@dataclass(frozen=True)
class NetworkOptions:
    """The shape of a network around its cells.

    Parameters
    ----------
    channels : int
        Channels of the first cells' nodes; they double at each reduction.
    cells : int
        Cells in the stack, at least 3; those at a third and two thirds of the depth are reduction cells.
    classes, in_channels : int
        Classes, and channels of the input image.
    stem : {"cifar", "imagenet"}
        One 3x3 convolution, or three with stride 2 (resolution / 8), as in DARTS.
    auxiliary : bool
        Whether to put an auxiliary head behind the second reduction cell.
    closing_norm : {"none", "pooling", "all"}
        See `isnas.operations.ClosingNorm`.

    Raises
    ------
    UserError
        When a value is out of its range.
    """

    channels: int = 36
    cells: int = 20
    classes: int = 10
    in_channels: int = 3
    stem: Literal["cifar", "imagenet"] = "cifar"
    auxiliary: bool = False
    closing_norm: ClosingNorm = "none"

    def __post_init__(self) -> None:
        bounds = {"channels": 2, "cells": 3, "classes": 2, "in_channels": 1}
        for name, least in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}")
        for name, known in (("stem", ("cifar", "imagenet")), ("closing_norm", CLOSING_NORMS)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
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
_Incoming = list[list[tuple[str, int, Tensor | None]]]


class Cell(nn.Module):
    """One cell: two inputs, nodes that add up their incoming operations, and their concatenation.

    Parameters
    ----------
    space : Space
    places : iterable of Place
        The operations to build.
    concat : tuple of int
        The states that make up the output.
    c_prev_prev, c_prev : int
        Channels of the cell's inputs.
    channels : int
        Channels of its nodes.
    reduction : bool
        Whether operations on the inputs have stride 2.
    after_reduction : bool
        Whether the previous cell was a reduction cell, so that the first input has twice the resolution.
    """

    def __init__(
        self,
        space: Space,
        places: Iterable[Place],
        concat: tuple[int, ...],
        c_prev_prev: int,
        c_prev: int,
        channels: int,
        reduction: bool,
        after_reduction: bool,
        closing_norm: ClosingNorm,
    ) -> None:
        super().__init__()
        bring = reduce_norm if after_reduction else relu_conv_norm
        self.inputs = nn.ModuleList(
            [bring(c_prev_prev, channels), relu_conv_norm(c_prev, channels)]
        )
        self.operations = nn.ModuleDict()
        for place in places:
            stride = 2 if reduction and place.source < space.inputs else 1
            build = OPERATIONS[space.primitives[place.operation]]
            self.operations[place_key(space, place)] = build(channels, stride, closing_norm)
        self.concat = concat
        self.channels = channels
        self.stride = 2 if reduction else 1

    def forward(self, s0: Tensor, s1: Tensor, incoming: _Incoming, drop: DropPath | None) -> Tensor:
        """(B, c_prev_prev, H', W'), (B, c_prev, H, W) -> (B, len(concat) * channels, H / stride, W / stride)."""
        states = [bring(s) for bring, s in zip(self.inputs, (s0, s1), strict=True)]
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
        return torch.cat([states[i] for i in self.concat], dim=1)

    def _zero(self, state: Tensor) -> Tensor:
        size = [-(-length // self.stride) for length in state.shape[2:]]
        return state.new_zeros(len(state), self.channels, *size)


class AuxiliaryHead(nn.Module):
    """A second classifier at two thirds of the depth (DARTS): pooling to 2x2, two convolutions, a linear layer."""

    def __init__(self, c_in: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv_norm(c_in, 128, 1),
            nn.ReLU(),
            convolution(128, 768, 2),
            BatchNorm(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, classes)."""
        x = F.relu(x)
        if x.shape[2] == x.shape[3] and 6 <= x.shape[2] <= 10:
            # two windows of five at either end: stride 3 on CIFAR's 8x8, 2 on ImageNet's 7x7, as in DARTS
            x = F.avg_pool2d(x, 5, x.shape[2] - 5)
        else:
            x = F.adaptive_avg_pool2d(x, 2)
        return self.classifier(self.features(x).flatten(1))


class Network(nn.Module):
    """Stem, cells, global pooling, linear classifier.

    Parameters
    ----------
    space : Space
    places : mapping of kind to places
        The operations to build in every cell of a kind.
    concat : mapping of kind to states
        The states that each kind of cell concatenates.
    options : NetworkOptions
    """

    def __init__(
        self,
        space: Space,
        places: Mapping[str, Iterable[Place]],
        concat: Mapping[str, tuple[int, ...]],
        options: NetworkOptions,
    ) -> None:
        super().__init__()
        if set(space.kinds) != {"normal", "reduction"} or space.inputs != 2:
            raise UserError(
                f"this network is made of normal and reduction cells with two inputs; the space "
                f"has {', '.join(space.kinds)} cells with {space.inputs} inputs"
            )
        self.space = space
        self.options = options
        self.places = {kind: tuple(sorted(places[kind])) for kind in space.kinds}
        self.concat = dict(concat)
        self.drop_path = DropPath()
        c = options.channels
        if options.stem == "cifar":
            self.stem = conv_norm(options.in_channels, 3 * c, 3)
            self.stem_2: nn.Module | None = None
            c_prev_prev = c_prev = 3 * c
        else:
            self.stem = nn.Sequential(
                *conv_norm(options.in_channels, c // 2, 3, stride=2),
                nn.ReLU(),
                *conv_norm(c // 2, c, 3, stride=2),
            )
            self.stem_2 = nn.Sequential(nn.ReLU(), *conv_norm(c, c, 3, stride=2))
            c_prev_prev = c_prev = c
        reductions = {options.cells // 3, 2 * options.cells // 3}
        self.kinds = tuple(
            "reduction" if i in reductions else "normal" for i in range(options.cells)
        )
        self.cells = nn.ModuleList()
        after_reduction = self.stem_2 is not None
        for i, kind in enumerate(self.kinds):
            c *= 2 if kind == "reduction" else 1
            self.cells.append(
                Cell(
                    space,
                    self.places[kind],
                    self.concat[kind],
                    c_prev_prev,
                    c_prev,
                    c,
                    kind == "reduction",
                    after_reduction,
                    options.closing_norm,
                )
            )
            after_reduction = kind == "reduction"
            c_prev_prev, c_prev = c_prev, len(self.concat[kind]) * c
            if i == max(reductions) and options.auxiliary:
                self.auxiliary_head = AuxiliaryHead(c_prev, options.classes)
        self.auxiliary_after = max(reductions)
        self.classifier = nn.Linear(c_prev, options.classes)

    def forward(
        self,
        x: Tensor,
        coefficients: Mapping[str, Coefficients] | None = None,
        *,
        auxiliary: bool = False,
    ) -> Tensor | Outputs:
        """Run the network.

        Parameters
        ----------
        x : Tensor, shape (B, in_channels, H, W)
        coefficients : mapping of kind to Coefficients, optional
            The active places and their factors. Without it all places that the network has run, with factor 1.
        auxiliary : bool
            Whether to return the auxiliary head's scores, too (`Outputs`).

        Returns
        -------
        Tensor, shape (B, classes), or Outputs
        """
        if auxiliary and not self.options.auxiliary:
            raise UserError("the network was built without an auxiliary head")
        incoming = {
            kind: self._incoming(kind, None if coefficients is None else coefficients[kind])
            for kind in self.space.kinds
        }
        drop = self.drop_path if self.training and self.drop_path.rate > 0 else None
        s0 = s1 = self.stem(x)
        if self.stem_2 is not None:
            s1 = self.stem_2(s0)
        side = None
        for i, (kind, cell) in enumerate(zip(self.kinds, self.cells, strict=True)):
            s0, s1 = s1, cell(s0, s1, incoming[kind], drop)
            if auxiliary and i == self.auxiliary_after:
                side = self.auxiliary_head(s1)
        logits = self.classifier(s1.mean(dim=(2, 3)))
        return logits if side is None else Outputs(logits, side)

    def _incoming(self, kind: str, coefficients: Coefficients | None) -> _Incoming:
        nodes: _Incoming = [[] for _ in range(self.space.nodes)]
        places = self.places[kind] if coefficients is None else coefficients.places
        values = [None] * len(places) if coefficients is None else coefficients.values.unbind()
        for place, value in sorted(zip(places, values, strict=True), key=lambda entry: entry[0]):
            nodes[place.node].append((place_key(self.space, place), place.source, value))
        return nodes

    def operations_at(self, kind: str, places: Iterable[Place]) -> list[nn.Module]:
        """Return the operations at these places in all cells of a kind."""
        keys = [place_key(self.space, place) for place in places]
        cells = [cell for k, cell in zip(self.kinds, self.cells, strict=True) if k == kind]
        return [cell.operations[key] for cell in cells for key in keys]


def place_key(space: Space, place: Place) -> str:
    """Return the name of a place in a cell's state dict, e.g. ``node2_from0_sep_conv_3x3``."""
    return f"node{place.node}_from{place.source}_{space.primitives[place.operation]}"


def train_affine(modules: nn.Module | Iterable[nn.Module], trainable: bool) -> None:
    """Make the batch norms' affine parts in `modules` trainable, or fix them where they are."""
    roots = [modules] if isinstance(modules, nn.Module) else modules
    for module in itertools.chain.from_iterable(root.modules() for root in roots):
        if isinstance(module, BatchNorm):
            module.requires_grad_(trainable)


def build_supernet(
    options: NetworkOptions, space: Space = DARTS_SPACE, *, seed: int = 0
) -> Network:
    """Return the super-net: every place of the space in every cell, initial weights drawn from `seed`."""
    places = {kind: space.places() for kind in space.kinds}
    with seeded(seed, "weights"):
        return Network(space, places, dict.fromkeys(space.kinds, space.all_nodes), options)


def build_network(
    genotype: Genotype,
    channels: int = 36,
    cells: int = 20,
    classes: int = 10,
    *,
    in_channels: int = 3,
    stem: Literal["cifar", "imagenet"] = "cifar",
    auxiliary: bool = False,
    closing_norm: ClosingNorm = "none",
    space: Space = DARTS_SPACE,
    seed: int = 0,
) -> Network:
    """Return the discrete network of a genotype, its initial weights drawn from `seed`.

    The parameters are those of `NetworkOptions`; the defaults are the published CIFAR-10 evaluation network's.

    Raises
    ------
    UserError
        When the genotype is not one of the space or a value is out of its range.

    Examples
    --------
    >>> network = build_network(GENOTYPES["ISTA_twostage"])
    >>> sum(p.numel() for p in network.parameters())
    3316726
    """
    options = NetworkOptions(channels, cells, classes, in_channels, stem, auxiliary, closing_norm)
    concat = {kind: cell.concat for kind, cell in genotype.cells}
    with seeded(seed, "weights"):
        return Network(space, genotype.places(space), concat, options)
