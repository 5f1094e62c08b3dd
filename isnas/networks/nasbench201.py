"""The network of NAS-Bench-201 (Dong and Yang, ICLR 2020): three stages of cells with residual blocks between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.options import BaseOptions
from ..spaces.base import Place, Space
from .core import Coefficients, Incoming, only_kind
from .images import ImageNetwork, Nodes, check_images, check_partial, pooled
from .operations import BatchNorm, ClosingNorm, conv_norm, convolution

STAGES = 3


@dataclass(frozen=True)
class NASBench201Options(BaseOptions):
    """The shape of a network around its cells; the defaults are the benchmark's.

    Parameters
    ----------
    channels : int
        Channels of the first stage; they double twice.
    cells : int
        Cells of each stage.
    classes, in_channels : int
        Classes, and channels of the input image.
    closing_norm : {"none", "pooling", "all"}
        See `isnas.networks.operations.ClosingNorm`; the benchmark's networks have "none".
    partial : int
        As in `isnas.networks.darts.NetworkOptions`.

    Raises
    ------
    UserError
        When a value is out of its range.
    """

    least: ClassVar[dict[str, float]] = {"channels": 1, "cells": 1, "classes": 2, "in_channels": 1}
    given: ClassVar[tuple[str, ...]] = ("classes", "in_channels", "partial")

    channels: int = 16
    cells: int = 5
    classes: int = 10
    in_channels: int = 3
    closing_norm: ClosingNorm = "none"
    partial: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_partial(self.partial, self.channels)


class Cell(nn.Module):
    """A cell: its input, its nodes; the last one is its output."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self.nodes = nodes

    def forward(self, x: Tensor, incoming: Incoming) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        return self.nodes([x], incoming)[-1]


class ResidualBlock(nn.Module):
    """Halve the resolution: two 3x3 convolutions, beside average pooling and a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            *conv_norm(c_in, c_out, 3, stride=2),
            nn.ReLU(),
            *conv_norm(c_out, c_out, 3),
        )
        # without padding count_include_pad changes nothing here, but runtimes of exported networks
        # count what lies beyond an odd edge otherwise (ONNX Runtime 1.20)
        pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
        self.shortcut = nn.Sequential(pool, convolution(c_in, c_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, ceil(H / 2), ceil(W / 2))."""
        return self.body(x) + self.shortcut(x)


class NASBench201Network(ImageNetwork):
    """Stem, three stages of cells, global pooling, linear classifier.

    Parameters
    ----------
    space, places, concat, options
        See `ImageNetwork`; the space must have one kind of cell with one input.
    """

    def __init__(
        self,
        space: Space,
        places: Mapping[str, Iterable[Place]],
        concat: Mapping[str, tuple[int, ...]],
        options: NASBench201Options,
    ) -> None:
        super().__init__(space, places, concat, options)
        kind = only_kind(space)
        self.kinds = (kind,) * (STAGES * options.cells)
        self.cells_per_stage = options.cells
        c = options.channels
        self.stem = conv_norm(options.in_channels, c, 3)
        self.cells = nn.ModuleList()
        self.reductions = nn.ModuleList()
        for stage in range(STAGES):
            if stage > 0:
                self.reductions.append(ResidualBlock(c, 2 * c))
                c *= 2
            for _ in range(options.cells):
                nodes = Nodes(space, self.places[kind], c, 1, options.closing_norm, options.partial)
                self.cells.append(Cell(nodes))
        self.norm = BatchNorm(c)
        self.classifier = nn.Linear(c, options.classes)

    def blocks(self) -> tuple[nn.Module, ...]:
        """Return the stem, the cells of a stage, the residual block behind it, and so on, see `ImageNetwork.blocks`."""
        found: list[nn.Module] = [self.stem]
        for stage in range(STAGES):
            if stage > 0:
                found.append(self.reductions[stage - 1])
            found += self.cells[stage * self.cells_per_stage : (stage + 1) * self.cells_per_stage]
        return tuple(found)

    def forward(
        self,
        x: Tensor,
        coefficients: Mapping[str, Coefficients] | None = None,
        *,
        drop_path_mask: Tensor | None = None,
        dropout: Tensor | None = None,
    ) -> Tensor:
        """Run the network, see `ImageNetwork.forward`: (B, in_channels, H, W) -> (B, classes)."""
        check_images(x, self.options.in_channels)
        incoming = self.incoming(coefficients, drop_path_mask)
        x = self.stem(x)
        for i, (cell, edges) in enumerate(zip(self.cells, incoming, strict=True)):
            stage, first = divmod(i, self.cells_per_stage)
            if stage > 0 and first == 0:
                x = self.reductions[stage - 1](x)
            x = cell(x, edges)
        return self.classifier(pooled(F.relu(self.norm(x)), dropout))
