"""The network of NAS-Bench-Macro (Su et al., CVPR 2021; xiusu/NAS-Bench-Macro): stem, eight layers, head.

    stem      3x3 convolution, batch norm, ReLU                    (B, in, H, W)     -> (B, c, H, W)
    stages    2, 3 and 3 layers; the first of each halves the resolution and doubles the channels
                                                                   (B, c, H, W)      -> (B, 8c, H/8, W/8)
    head      1x1 convolution, batch norm, ReLU, global average    (B, 8c, H/8, W/8) -> (B, features)
    linear classifier

A layer's operation is the identity (where channels change, a 1x1 convolution and batch norm) or MobileNetV2's inverted
residual block. Where shapes allow it a block's input is added to its output, so that its last batch norm does not close
it: what closes an identity with ``closing_norm="all"`` is one more batch norm, and so for such a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..runtime.errors import UserError
from ..runtime.options import BaseOptions
from ..spaces.base import Place, Space
from ..spaces.chain import FIRST_LAYERS, IDENTITY, KIND, LAYERS
from .core import Coefficients, Factor, Incoming, Term
from .images import ImageNetwork, check_images, pooled
from .operations import (
    BatchNorm,
    ClosingNorm,
    Operation,
    conv_norm,
    convolution,
)

BLOCKS = {"mb3_conv_3x3": (3, 3), "mb6_conv_5x5": (6, 5)}
"""Expansion and kernel of the inverted residual blocks."""


@dataclass(frozen=True)
class ChainOptions(BaseOptions):
    """The shape of a network around its operations; the defaults are the benchmark's.

    Parameters
    ----------
    channels : int
        Channels of the stem; they double at the first layer of each stage.
    features : int
        Features that the classifier reads.
    classes, in_channels : int
        Classes, and channels of the input image.
    closing_norm : {"none", "pooling", "all"}
        See `isnas.networks.operations.ClosingNorm`; nothing pools here. The benchmark's networks have "none".

    Raises
    ------
    UserError
        When a value is out of its range.
    """

    least: ClassVar[dict[str, float]] = {
        "channels": 1,
        "features": 1,
        "classes": 2,
        "in_channels": 1,
    }
    given: ClassVar[tuple[str, ...]] = ("classes", "in_channels")

    channels: int = 32
    features: int = 1280
    classes: int = 10
    in_channels: int = 3
    closing_norm: ClosingNorm = "none"


class ResidualBlock(Operation):
    """An inverted residual block whose input is added to its output; what drop path silences is the body."""

    def forward(self, x: Tensor, factor: Factor = None, term: Term | None = None) -> Tensor:
        """Return x + body(x), normed where a norm closes it, multiplied; drop path silences the body of a `term`."""
        change = self.body(x)
        x = x + (change if term is None else term.silenced(change))
        if self.norm is not None:
            return self.norm(x, factor)
        return x if factor is None else factor * x


def _operation(
    primitive: str, c_in: int, c_out: int, stride: int, closing_norm: ClosingNorm
) -> Operation:
    """Return an operation, (B, c_in, H, W) -> (B, c_out, ceil(H / stride), ceil(W / stride)).

    None of them may be silenced as a whole: nothing else brings an image to the next layer.
    """
    same = stride == 1 and c_in == c_out
    closing = BatchNorm(c_out) if closing_norm == "all" or not same else None
    if primitive == IDENTITY:
        body = nn.Identity() if same else convolution(c_in, c_out, 1, stride=stride)
        return Operation(body, closing, droppable=False)
    expansion, kernel = BLOCKS[primitive]
    c = expansion * c_in
    depthwise = convolution(c, c, kernel, stride=stride, padding=kernel // 2, groups=c)
    body = nn.Sequential(
        *conv_norm(c_in, c, 1),
        nn.ReLU(),
        depthwise,
        BatchNorm(c),
        nn.ReLU(),
        convolution(c, c_out, 1),
    )
    if same:
        return ResidualBlock(body.append(BatchNorm(c_out)), closing)
    return Operation(body, closing, droppable=False)


class Layers(nn.Module):
    """The layers: each has one operation, or in a super-net several, whose outputs it adds up."""

    def __init__(self, space: Space, places: Iterable[Place], options: ChainOptions) -> None:
        super().__init__()
        self.operations = nn.ModuleDict()
        for place in places:
            stage = sum(first <= place.node for first in FIRST_LAYERS)  # from 1
            c_out = options.channels * 2**stage
            c_in, stride = (c_out // 2, 2) if place.node in FIRST_LAYERS else (c_out, 1)
            primitive = space.primitives[place.operation]
            self.operations[space.place_key(place)] = _operation(
                primitive, c_in, c_out, stride, options.closing_norm
            )

    def forward(self, x: Tensor, incoming: Incoming) -> Tensor:
        """Map (B, channels, H, W) to (B, 8 * channels, H / 8, W / 8), all rounded up."""
        for terms in incoming:
            found: Tensor | None = None
            for term in terms:
                operation = self.operations[term.key]
                more = {"term": term} if operation.droppable else {}
                out = operation(x, term.factor, **more)
                found = out if found is None else found + out
            x = found
        return x


class Body(nn.Module):
    """The one cell: its layers."""

    def __init__(self, nodes: Layers) -> None:
        super().__init__()
        self.nodes = nodes

    def forward(self, x: Tensor, incoming: Incoming) -> Tensor:
        """Run the layers."""
        return self.nodes(x, incoming)


class ChainNetwork(ImageNetwork):
    """Stem, layers, head.

    Parameters
    ----------
    space, places, concat, options
        See `ImageNetwork`; the space must be one of chains, with at least a place in every layer.
    """

    def __init__(
        self,
        space: Space,
        places: Mapping[str, Iterable[Place]],
        concat: Mapping[str, tuple[int, ...]],
        options: ChainOptions,
    ) -> None:
        super().__init__(space, places, concat, options)
        layers = {place.node for of_kind in self.places.values() for place in of_kind}
        if space.kinds != (KIND,) or layers != set(range(LAYERS)):
            raise UserError(
                f"this network is a chain of {LAYERS} layers; got {len(layers)} layers of "
                f"{', '.join(space.kinds)} cells"
            )
        self.kinds = space.kinds
        c = options.channels
        self.stem = nn.Sequential(*conv_norm(options.in_channels, c, 3), nn.ReLU())
        self.cells = nn.ModuleList([Body(Layers(space, self.places[KIND], options))])
        c *= 2 ** len(FIRST_LAYERS)
        self.head = nn.Sequential(*conv_norm(c, options.features, 1), nn.ReLU())
        self.classifier = nn.Linear(options.features, options.classes)

    def blocks(self) -> tuple[nn.Module, ...]:
        """Return the stem and the layers' operations, see `ImageNetwork.blocks`."""
        return (self.stem, *self.cells[0].nodes.operations.values())

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
        (incoming,) = self.incoming(coefficients, drop_path_mask)
        x = self.cells[0](self.stem(x), incoming)
        return self.classifier(pooled(self.head(x), dropout))
