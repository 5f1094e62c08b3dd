"""The network of ENAS's macro space: a stem, layers with skip connections, two reductions, a linear classifier.

A layer applies its operation o to the state before it (where several are active, o is their sum), and joins the outcome
with the states s_i that its skips bring. It does so in one of two forms. With coefficients c_o of the operation and c_i
of the skips:

    sum, of the search:      BN(c_o o + sum_i c_i s_i),
                             o = ReLU BN conv ReLU BN conv1x1 of the state, or pool ReLU BN conv1x1;
    concatenation, final:    BN(W_o ReLU(c_o o) + sum_i c_i W_i ReLU(s_i)),
                             o = BN conv ReLU BN conv1x1 ReLU of the state, or pool ReLU BN conv1x1 ReLU.

The second is ENAS's 1x1 convolution of the concatenation, (W_o W_1 ... W_k) ReLU(o, s_1, ..., s_k), written out. So a
skip's coefficient is absorbed by its part of that convolution, and an operation's by its closing batch norm, where it
has one: folding is exact. Layer 0 has neither a join nor its batch norm. A separable convolution is one depthwise and
one pointwise convolution.

After layers d - 1 and 2d - 1, d = L // 3, every state goes through a reduction of its own: two 1x1 convolutions of
the grids of every second pixel, with offset 0 and 1, concatenated, and batch norm. In the final form the channels
double there. All states have one, as in the released code, but only those of states that a later layer reads are run.

Constants and structure are those of the authors' code, melodyguan/enas (``src/cifar10/general_child.py``), without its
faults. Its final network has full convolutions where the found ones are separable, and no pooling; here each operation
is what it is called. The released network of 24 layers has 42,559,392 parameters at 96 channels as that code builds
it; with its separable convolutions separable it has 30,947,424. Neither is the 21.3 M (4.23 % test error) or the 38.0 M
(3.87 %) of the paper's tables: these fit networks of 12 layers with 96 and 128 channels, as (128 / 96)^2 = 38.0 / 21.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.errors import UserError
from ..runtime.options import BaseOptions
from ..spaces.base import Place, Space
from ..spaces.macro import MacroSpace
from .core import Coefficients, Term
from .images import ImageNetwork, check_images, pooled
from .operations import (
    BatchNorm,
    ClosingNorm,
    Operation,
    conv_norm,
    convolution,
    reduce_norm,
)

Form = Literal["sum", "concatenation"]
"""The way a layer joins its operation with its skips: in the search, and in the final network."""


@dataclass(frozen=True)
class MacroOptions(BaseOptions):
    """The shape of a network of layers; the defaults are those of ENAS's final network.

    Parameters
    ----------
    channels : int
        Channels of the stem; in the final network they double at each of the two reductions.
    classes, in_channels : int
        Classes, and channels of the input image.
    closing_norm : {"none", "pooling", "all"}
        Whether the final network's operations that pool are closed by a batch norm, too; the published one's are not.
    form : {"sum", "concatenation"}
        How a layer joins its operation with its skips.

    Raises
    ------
    UserError
        When a value is out of its range.
    """

    least: ClassVar[dict[str, float]] = {"channels": 2, "classes": 2, "in_channels": 1}
    given: ClassVar[tuple[str, ...]] = ("classes", "in_channels", "form")

    channels: int = 96
    classes: int = 10
    in_channels: int = 3
    closing_norm: ClosingNorm = "none"
    form: Form = "concatenation"


class Bring(nn.Module):
    """A skip of the final form: its part of the 1x1 convolution that joins a layer.

    It is not called: the layer runs the convolution of all its parts at once.
    """

    norm = None
    droppable = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = convolution(channels, channels, 1)

    @torch.no_grad()
    def absorb(self, coefficient: Tensor) -> None:
        """Multiply what it brings by a coefficient, 0-d, for good."""
        self.conv.weight.mul_(coefficient)


class Join(nn.Module):
    """The join of a layer: the operation's part of the 1x1 convolution, in the final form, and the batch norm."""

    def __init__(self, channels: int, form: Form) -> None:
        super().__init__()
        self.conv = convolution(channels, channels, 1) if form == "concatenation" else None
        self.norm = BatchNorm(channels)


class Layers(nn.Module):
    """The operations and skips of all layers, by their places' keys: all that a code has coefficients for."""

    def __init__(self, operations: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(operations)


class Body(nn.Module):
    """The one cell of a network of layers."""

    def __init__(self, nodes: Layers) -> None:
        super().__init__()
        self.nodes = nodes


class MacroNetwork(ImageNetwork):
    """A network of layers; see the module for its mathematics.

    Parameters
    ----------
    space : MacroSpace
    places : mapping of kind to places
        The operations and skips to build.
    concat : mapping of kind to states
        The last state.
    options : MacroOptions

    Attributes
    ----------
    reduced_after : tuple of int
        The layers after which all states are reduced.
    """

    additive: ClassVar[bool] = False  # which states are reduced depends on who reads them

    def __init__(
        self,
        space: Space,
        places: Mapping[str, Iterable[Place]],
        concat: Mapping[str, tuple[int, ...]],
        options: MacroOptions,
    ) -> None:
        super().__init__(space, places, concat, options)
        if not isinstance(space, MacroSpace):
            raise UserError(f"this network is made of the space macro, got {space.name}")
        self.kinds = space.kinds
        (kind,) = self.kinds
        self.reduced_after = space.reduced_after
        growth = 2 if options.form == "concatenation" else 1
        c = options.channels
        self.stem = conv_norm(options.in_channels, c, 3)
        self.joins = nn.ModuleList([nn.Identity()])  # layer 0 has none
        self.reductions = nn.ModuleList()
        channels = []  # of each layer
        for layer in range(space.nodes):
            channels.append(c)
            if layer > 0:
                self.joins.append(Join(c, options.form))
            if layer in self.reduced_after:
                reductions = [reduce_norm(c, growth * c, activated=False) for _ in range(layer + 2)]
                self.reductions.append(nn.ModuleList(reductions))
                c *= growth
        operations: dict[str, nn.Module] = {}
        for place in self.places[kind]:
            primitive = space.primitives[place.operation]
            width = channels[place.node]
            operations[space.place_key(place)] = (
                _skip(width, options.form)
                if primitive in space.skips
                else operation(primitive, width, options)
            )
        self.cells = nn.ModuleList([Body(Layers(operations))])
        self.classifier = nn.Linear(c, options.classes, bias=False)

    def blocks(self) -> tuple[nn.Module, ...]:
        """Return the stem and what ends each layer but the first, see `ImageNetwork.blocks`."""
        return (self.stem, *(join.norm for join in self.joins[1:]))

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
        last_reader = [0] * (len(incoming) + 1)
        for layer, terms in enumerate(incoming):
            for term in terms:
                last_reader[term.source] = layer
        states: list[Tensor | None] = [self.stem(x)]
        reductions = iter(self.reductions)
        for layer, terms in enumerate(incoming):
            states.append(self._layer(layer, terms, states))
            # the last layer's state is read by what comes next
            last_reader[layer + 1] = max(last_reader[layer + 1], layer + 1)
            for state in range(layer + 1):
                if last_reader[state] <= layer:
                    states[state] = None  # its memory is free where no gradient needs it
            if layer in self.reduced_after:
                for state, reduce in enumerate(next(reductions)):
                    if states[state] is not None:
                        states[state] = reduce(states[state])
        return self.classifier(pooled(states[-1], dropout))

    def _layer(self, layer: int, terms: list[Term], states: list[Tensor | None]) -> Tensor:
        """Return the output of a layer, of the shape of the state before it."""
        operations = self.cells[0].nodes.operations
        skips = []
        found: Tensor | None = None
        for term in terms:
            if term.source < layer:  # an operation reads the state before the layer
                skips.append(term)
                continue
            part = term.silenced(operations[term.key](states[layer], term.factor))
            found = part if found is None else found + part
        if found is None:
            raise ValueError(f"layer {layer} has no active operation")
        out = found
        if layer == 0:
            return out
        join = self.joins[layer]
        if self.options.form == "sum":
            for term in skips:
                out = out + operations[term.key](states[term.source], term.factor)
            return join.norm(out)
        weights = [join.conv.weight]
        for term in skips:
            weight = operations[term.key].conv.weight
            weights.append(weight if term.factor is None else term.factor * weight)
        joined = torch.cat([out, *(states[term.source] for term in skips)], dim=1)
        return join.norm(F.conv2d(F.relu(joined), torch.cat(weights, dim=1)))


def operation(primitive: str, channels: int, options: MacroOptions) -> Operation:
    """Return the operation of a layer: (B, channels, H, W) -> (B, channels, H, W)."""
    final = options.form == "concatenation"
    before: list[nn.Module] = [*conv_norm(channels, channels, 1), nn.ReLU()]
    if final:
        before.insert(0, nn.ReLU())
    if primitive.endswith("pool_3x3"):
        pool = (
            nn.MaxPool2d(3, 1, 1)
            if primitive.startswith("max")
            else nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        )
        closed = final and options.closing_norm != "none"
        return Operation(nn.Sequential(*before, pool), BatchNorm(channels) if closed else None)
    kernel = int(primitive[-1])
    if primitive.startswith("sep"):
        own = [
            convolution(channels, channels, kernel, padding=kernel // 2, groups=channels),
            convolution(channels, channels, 1),
        ]
    else:
        own = [convolution(channels, channels, kernel, padding=kernel // 2)]
    if final:
        return Operation(nn.Sequential(*before, *own), BatchNorm(channels))
    # what ends in a ReLU is multiplied after it: a negative coefficient is another thing before
    return Operation(nn.Sequential(*before, *own, BatchNorm(channels), nn.ReLU()), None)


def _skip(channels: int, form: Form) -> nn.Module:
    if form == "sum":
        return Operation(nn.Identity(), None, droppable=False)
    return Bring(channels)
