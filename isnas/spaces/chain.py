"""The space of NAS-Bench-Macro: a chain of eight layers, each with one of three operations.

Layer l, counted from 0, reads the layer before it, the first one the stem: state 0 is the stem's output, state l + 1
that of layer l. That makes 3^8 = 6,561 networks, each of which the benchmark's authors have trained three times on
CIFAR-10 (`isnas.tabular.nasbench_macro`). Layers stand in stages of 2, 3 and 3; the first layer of a stage halves the
resolution and doubles the channels (`isnas.networks.chain`). In the others an identity does nothing, so where it stands
among them makes no difference: there are 3,969 different networks.

References
----------
Su, Huang, Li, You, Wang, Qian, Zhang & Xu, "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021,
and the authors' code and data, xiusu/NAS-Bench-Macro.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from ..runtime.errors import UserError
from .base import Choice, Place, Space
from .genotype import CellGenotype, Edge, Genotype

IDENTITY = "identity"
"""Passes a layer's input on; where a layer halves the resolution, a 1x1 convolution with batch norm."""

PRIMITIVES = (IDENTITY, "mb3_conv_3x3", "mb6_conv_5x5")
"""The operations of a layer, in the order of the benchmark's numbers: identity, and MobileNetV2's block of expansion 3
and a 3x3 kernel, or with expansion 6 and a 5x5 kernel."""

STAGES = (2, 3, 3)
"""Layers of each stage."""

LAYERS = sum(STAGES)

FIRST_LAYERS = tuple(itertools.accumulate((0, *STAGES[:-1])))
"""The layers that begin a stage."""

KIND = "network"
"""The one kind of cell: the network itself."""

_FORM = (
    f"expected {LAYERS} digits, one for each layer: "
    f"{', '.join(f'{i} {name}' for i, name in enumerate(PRIMITIVES))}"
)


@dataclass(frozen=True)
class ChainSpace(Space):
    """Networks of eight layers, each of which has exactly one operation."""

    primitives: tuple[str, ...] = PRIMITIVES
    nodes: int = LAYERS
    inputs: int = 1
    kinds: tuple[str, ...] = (KIND,)
    output: tuple[int, ...] = (LAYERS,)

    name: ClassVar[str] = "chain"
    network: ClassVar[str] = "chain"
    drawing: ClassVar[str] = "layers"
    skips: ClassVar[tuple[str, ...]] = (IDENTITY,)

    def candidates(self, node: int) -> tuple[Place, ...]:
        """Return the operations of a layer: all read the layer before."""
        return tuple(Place(node, node, operation) for operation in range(len(self.primitives)))

    def choices_of(self, kind: str, node: int) -> tuple[Choice, ...]:
        candidates = self.candidates(node)
        return (Choice(kind, node, candidates, (0,) * len(candidates), 1, 1, 1),)

    def label(self, place: Place) -> str:
        return self.primitives[place.operation]

    def place_key(self, place: Place) -> str:
        return f"layer{place.node}_{self.primitives[place.operation]}"

    def state_label(self, state: int) -> str:
        return str(state - 1) if state else "stem"

    def check(self, genotype: Genotype) -> None:
        super().check(genotype)
        cell = genotype[KIND]
        if cell.concat != self.concat:
            raise UserError(
                f"the network's output is made of the states {cell.concat}; "
                f"expected that of the last layer, {self.concat}"
            )
        for layer, edges in enumerate(cell.nodes):
            if len(edges) != 1:
                raise UserError(f"layer {layer} has {len(edges)} operations; expected one")
            if edges[0].source != layer:
                raise UserError(
                    f"layer {layer} reads state {edges[0].source}; expected state {layer}, that before it"
                )

    def canonical(self, genotype: Genotype) -> Genotype:
        """Return the form of a genotype in which the identities of a stage stand behind its other layers.

        But for its first layer, where an identity is a convolution. The benchmark has trained networks in this form.
        """
        return parse_string(canonical_string(to_string(genotype)))

    def format(self, genotype: Genotype) -> str:
        """Return the benchmark's text form."""
        return to_string(genotype)

    def parse(self, text: str) -> Genotype:
        """Read the benchmark's text form."""
        return parse_string(text)

    @classmethod
    def reading(cls, text: str) -> ChainSpace | None:
        # one word of digits, any: the reader says what is wrong with others
        return cls() if text.isascii() and text.isdecimal() else None


CHAIN_SPACE = ChainSpace()
"""The space of the benchmark."""


def to_string(genotype: Genotype) -> str:
    """Return the benchmark's text form: for each layer the number of its operation.

    Raises
    ------
    UserError
        When the genotype is not one of this space.
    """
    CHAIN_SPACE.check(genotype)
    return "".join(str(PRIMITIVES.index(edge.operation)) for (edge,) in genotype[KIND].nodes)


def parse_string(text: str) -> Genotype:
    """Read the benchmark's text form.

    Examples
    --------
    >>> str(parse_string("01221100"))
    '01221100'

    Raises
    ------
    UserError
        When the text is not exactly of that form: it names what is wrong.
    """
    if not isinstance(text, str):
        raise UserError(f"a network is a text such as 01221100, got a {type(text).__name__}")
    if len(text) != LAYERS:
        raise UserError(f"network {text!r:.60} has {len(text)} layers; {_FORM}")
    edges = []
    for layer, digit in enumerate(text):
        if digit not in "012":
            raise UserError(
                f"network {text!r}: layer {layer} has the unknown operation {digit!r}; {_FORM}"
            )
        edges.append((Edge(PRIMITIVES[int(digit)], layer),))
    cell = CellGenotype(tuple(edges), CHAIN_SPACE.output, CHAIN_SPACE.inputs)
    return Genotype(CHAIN_SPACE, ((KIND, cell),))


def canonical_string(text: str) -> str:
    """Return the text that all ways to write a network share, see `ChainSpace.canonical`."""
    stages = (text[first : first + n] for first, n in zip(FIRST_LAYERS, STAGES, strict=True))
    found = (stage[0] + stage[1:].replace("0", "").ljust(len(stage) - 1, "0") for stage in stages)
    return "".join(found)


@cache
def all_networks() -> tuple[str, ...]:
    """Return the 6,561 networks as texts, the last layer changing fastest."""
    return tuple(map("".join, itertools.product("012", repeat=LAYERS)))
