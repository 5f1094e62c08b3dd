"""The network of DARTS, searched or found: stem, a stack of normal and reduction cells, head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.errors import UserError
from ..runtime.options import BaseOptions
from ..spaces.base import Place, Space
from .core import Coefficients, Incoming
from .images import ImageNetwork, Nodes, check_images, check_partial, pooled
from .operations import (
    BatchNorm,
    ClosingNorm,
    conv_norm,
    convolution,
    reduce_norm,
    relu_conv_norm,
)


class Outputs(NamedTuple):
    """Class scores before the softmax, shapes (B, classes)."""

    logits: Tensor
    auxiliary: Tensor
    """Scores of the auxiliary head."""


@dataclass(frozen=True)
class NetworkOptions(BaseOptions):
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
        See `isnas.networks.operations.ClosingNorm`.
    partial : int
        A super-net's operations work on one of so many equal parts of the channels, see `isnas.networks.images.Nodes`;
        1: on all of them.

    Raises
    ------
    UserError
        When a value is out of its range.
    """

    least: ClassVar[dict[str, float]] = {"channels": 2, "cells": 3, "classes": 2, "in_channels": 1}
    given: ClassVar[tuple[str, ...]] = ("classes", "in_channels", "auxiliary", "partial")

    channels: int = 36
    cells: int = 20
    classes: int = 10
    in_channels: int = 3
    stem: Literal["cifar", "imagenet"] = "cifar"
    auxiliary: bool = False
    closing_norm: ClosingNorm = "none"
    partial: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_partial(self.partial, self.channels)


class Cell(nn.Module):
    """One cell: two inputs brought to its channels, its nodes, and their concatenation.

    Parameters
    ----------
    nodes : Nodes
    concat : tuple of int
        The states that make up the output.
    c_prev_prev, c_prev : int
        Channels of the cell's inputs.
    after_reduction : bool
        Whether the previous cell was a reduction cell, so that the first input has twice the resolution.
    """

    def __init__(
        self,
        nodes: Nodes,
        concat: tuple[int, ...],
        c_prev_prev: int,
        c_prev: int,
        after_reduction: bool,
    ) -> None:
        super().__init__()
        bring = reduce_norm if after_reduction else relu_conv_norm
        self.inputs = nn.ModuleList(
            [bring(c_prev_prev, nodes.channels), relu_conv_norm(c_prev, nodes.channels)]
        )
        self.nodes = nodes
        self.concat = concat

    def forward(self, s0: Tensor, s1: Tensor, incoming: Incoming) -> Tensor:
        """Map (B, c_prev_prev, H', W') and (B, c_prev, H, W) to (B, len(concat) * channels, H / stride, W / stride)."""
        inputs = [bring(s) for bring, s in zip(self.inputs, (s0, s1), strict=True)]
        states = self.nodes(inputs, incoming)
        return torch.cat([states[i] for i in self.concat], dim=1)


class AuxiliaryHead(nn.Module):
    """A second classifier at two thirds of the depth (DARTS): pooling to 2x2, two convolutions, a linear layer.

    Parameters
    ----------
    c_in, classes : int
    second_norm : bool
        Whether a batch norm follows the second convolution, too. Not so in the published head for ImageNet, "due to a
        typo", as its authors say, who keep to it.
    """

    def __init__(self, c_in: int, classes: int, second_norm: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv_norm(c_in, 128, 1),
            nn.ReLU(),
            convolution(128, 768, 2),
            *([BatchNorm(768)] if second_norm else []),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, classes)."""
        x = F.relu(x)
        if x.shape[2] == x.shape[3] and 6 <= x.shape[2] <= 10:
            # two windows of five at either end: stride 3 on CIFAR's 8x8, 2 on ImageNet's 7x7, as in DARTS
            x = F.avg_pool2d(x, 5, x.shape[2] - 5)
        else:
            x = F.adaptive_avg_pool2d(x, 2)
        return self.classifier(self.features(x).flatten(1))


class Network(ImageNetwork):
    """Stem, cells, global pooling, linear classifier: the network of DARTS.

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
        super().__init__(space, places, concat, options)
        if set(space.kinds) != {"normal", "reduction"} or space.inputs != 2:
            raise UserError(
                f"this network is made of normal and reduction cells with two inputs; the space "
                f"has {', '.join(space.kinds)} cells with {space.inputs} inputs"
            )
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
            stride = 2 if kind == "reduction" else 1
            nodes = Nodes(
                space, self.places[kind], c, stride, options.closing_norm, options.partial
            )
            self.cells.append(Cell(nodes, self.concat[kind], c_prev_prev, c_prev, after_reduction))
            after_reduction = kind == "reduction"
            c_prev_prev, c_prev = c_prev, len(self.concat[kind]) * c
            if i == max(reductions) and options.auxiliary:
                self.auxiliary_head = AuxiliaryHead(
                    c_prev, options.classes, second_norm=options.stem != "imagenet"
                )
        self.auxiliary_after = max(reductions)
        self.classifier = nn.Linear(c_prev, options.classes)

    def forward(
        self,
        x: Tensor,
        coefficients: Mapping[str, Coefficients] | None = None,
        *,
        auxiliary: bool = False,
        drop_path_mask: Tensor | None = None,
        dropout: Tensor | None = None,
    ) -> Tensor | Outputs:
        """Run the network, see `ImageNetwork.forward`.

        Parameters
        ----------
        x : Tensor, shape (B, in_channels, H, W)
        coefficients, drop_path_mask, dropout
            As there.
        auxiliary : bool
            Whether to return the auxiliary head's scores, too (`Outputs`).

        Returns
        -------
        Tensor, shape (B, classes), or Outputs
        """
        if auxiliary and not self.options.auxiliary:
            raise UserError("the network was built without an auxiliary head")
        check_images(x, self.options.in_channels)
        incoming = self.incoming(coefficients, drop_path_mask)
        s0 = s1 = self.stem(x)
        if self.stem_2 is not None:
            s1 = self.stem_2(s0)
        side = None
        for i, (cell, edges) in enumerate(zip(self.cells, incoming, strict=True)):
            s0, s1 = s1, cell(s0, s1, edges)
            if auxiliary and i == self.auxiliary_after:
                side = self.auxiliary_head(s1)
        logits = self.classifier(pooled(s1, dropout))
        return logits if side is None else Outputs(logits, side)
