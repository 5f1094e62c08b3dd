"""ENAS's macro space: a whole network, each layer with an operation and with skip connections from earlier layers.

Layer l, counted from 0, applies one of six operations to the layer before it, and takes any of the earlier states
beside. State 0 is the stem, state l + 1 the output of layer l: layer l's operation reads state l, its skips can read
the states 0 to l - 1. With L layers there are 6^L 2^(L (L - 1) / 2) networks, 1.6e29 for the 12 of ENAS's search.

References
----------
Pham, Guan, Zoph, Le & Dean, "Efficient Neural Architecture Search via Parameter Sharing", ICML 2018, section 2.3, and
the authors' code, melodyguan/enas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..runtime.errors import UserError
from .base import Choice, Place, Space
from .genotype import CellGenotype, Edge, Genotype

OPERATIONS = (
    "conv_3x3",
    "sep_conv_3x3",
    "conv_5x5",
    "sep_conv_5x5",
    "avg_pool_3x3",
    "max_pool_3x3",
)
"""The operations of a layer, in the order of ENAS's numbers."""

SKIP = "skip"
"""The primitive that brings an earlier state to a layer."""

KIND = "network"
"""The one kind of cell: the network itself."""

SKIP_SHARE = 0.4
"""Share of the possible skips that ENAS draws its controller towards."""

MOST_LAYERS = 100


@dataclass(frozen=True)
class MacroSpace(Space):
    """Networks of layers with one operation each, and any skip connections between them.

    Parameters
    ----------
    layers : int
        Layers of a network, 3 to 100; those of the stem and of the reductions are not counted.
    """

    primitives: tuple[str, ...] = (*OPERATIONS, SKIP)
    nodes: int = 0
    inputs: int = 1
    kinds: tuple[str, ...] = (KIND,)
    layers: int = 12

    name: ClassVar[str] = "macro"
    network: ClassVar[str] = "macro"
    drawing: ClassVar[str] = "layers"
    parameters: ClassVar[tuple[str, ...]] = ("layers",)
    skips: ClassVar[tuple[str, ...]] = (SKIP,)

    def __post_init__(self) -> None:
        if type(self.layers) is not int or not 3 <= self.layers <= MOST_LAYERS:
            raise UserError(f"layers must be 3 to {MOST_LAYERS}, got {self.layers!r}")
        object.__setattr__(self, "nodes", self.layers)  # a layer is a node
        super().__post_init__()
        if self.primitives[-1] != SKIP:
            raise UserError(f"the last primitive must be {SKIP!r}, got {self.primitives}")

    @property
    def reduced_after(self) -> tuple[int, ...]:
        """The layers after which all states are halved in resolution: at a third and at two thirds of the depth."""
        third = self.layers // 3
        return third - 1, 2 * third - 1

    @property
    def concat(self) -> tuple[int, ...]:
        return (self.layers,)

    def candidates(self, node: int) -> tuple[Place, ...]:
        """Return the operations of a layer, and then its skips by the state that they bring."""
        skip = len(self.primitives) - 1
        operations = (Place(node, node, operation) for operation in range(skip))
        return (*operations, *(Place(node, source, skip) for source in range(node)))

    def choices_of(self, kind: str, node: int) -> tuple[Choice, ...]:
        """Return a layer's choices: one operation, and for each earlier state whether it is brought.

        A code with a fixed number of skips keeps 40 % of the possible ones by default, at least one: ENAS's target.
        """
        candidates = self.candidates(node)
        operations, skips = candidates[: -node or None], candidates[len(candidates) - node :]
        one = Choice(kind, node, operations, (0,) * len(operations), 1, 1, 1, "operation")
        if not skips:
            return (one,)
        s = max(1, round(SKIP_SHARE * node))
        return one, Choice(kind, node, skips, tuple(range(node)), 0, node, s, "skips")

    def state_label(self, state: int) -> str:
        return str(state - 1) if state else "stem"

    @property
    def published(self) -> Mapping[str, Genotype]:
        """Published architectures, of any number of layers: each names its own."""
        return GENOTYPES

    def check(self, genotype: Genotype) -> None:
        super().check(genotype)
        cell = genotype[KIND]
        if cell.concat != self.concat:
            raise UserError(
                f"the network's output is made of the states {cell.concat}; expected that of the last layer, "
                f"{self.concat}"
            )
        for layer, edges in enumerate(cell.nodes):
            operations = [edge for edge in edges if edge.operation != SKIP]
            if len(operations) != 1:
                raise UserError(f"layer {layer} has {len(operations)} operations; expected one")
            if operations[0].source != layer:
                raise UserError(
                    f"the operation of layer {layer} reads state {operations[0].source}; expected state {layer}, "
                    f"the layer before"
                )
            if any(edge.operation == SKIP and edge.source == layer for edge in edges):
                raise UserError(
                    f"layer {layer} has a skip from state {layer}, which its operation reads; skips come from the "
                    f"states before"
                )

    def format(self, genotype: Genotype) -> str:
        """Return ENAS's numbers: of each layer its operation, and for each earlier state 1 if it is brought, else 0."""
        numbers: list[int] = []
        for layer, edges in enumerate(genotype[KIND].nodes):
            skips = {edge.source for edge in edges if edge.operation == SKIP}
            (operation,) = (edge.operation for edge in edges if edge.operation != SKIP)
            numbers += [self.primitives.index(operation), *(int(i in skips) for i in range(layer))]
        return " ".join(map(str, numbers))

    def parse(self, text: str) -> Genotype:
        """Read ENAS's numbers, see `format`; they may stand in several lines."""
        return _genotype(self, text)

    @classmethod
    def reading(cls, text: str) -> MacroSpace | None:
        words = text.split()
        if len(words) < 2 or not all(word.isdecimal() for word in words):
            return None
        # of a wrong number of numbers the nearest, whose message says what is expected
        return cls(layers=min(max(round(layers_of(len(words))), 3), MOST_LAYERS))


def layers_of(numbers: int) -> float:
    """Return how many layers so many numbers describe: the L of L (L + 1) / 2."""
    return (math.sqrt(8 * numbers + 1) - 1) / 2


def _genotype(space: MacroSpace, text: str) -> Genotype:
    words = text.split()
    expected = space.layers * (space.layers + 1) // 2
    if len(words) != expected:
        raise UserError(
            f"{space.layers} layers take {expected} numbers, one of each layer's operation and one for each state "
            f"before it; got {len(words)}"
        )
    left = iter(words)
    nodes = []
    for layer in range(space.layers):
        operation, *bits = itertools.islice(left, layer + 1)
        # in the order of states, as `Genotype.from_places` has it
        nodes.append((*_skips(layer, bits), _operation(space, layer, operation)))
    cell = CellGenotype(tuple(nodes), space.concat, space.inputs)
    return Genotype(space, ((KIND, cell),))


def _operation(space: MacroSpace, layer: int, word: str) -> Edge:
    known = space.primitives[:-1]
    if not word.isdecimal() or len(word) > 3 or int(word) >= len(known):
        numbered = ", ".join(f"{i} {name}" for i, name in enumerate(known))
        raise UserError(
            f"layer {layer} has the operation {word!r:.20}; expected the number of one of {numbered}"
        )
    return Edge(known[int(word)], layer)


def _skips(layer: int, bits: list[str]) -> Iterator[Edge]:
    for state, bit in enumerate(bits):
        if bit not in ("0", "1"):
            raise UserError(
                f"layer {layer} has {bit!r:.20} for the skip from state {state}; expected 0 or 1"
            )
        if bit == "1":
            yield Edge(SKIP, state)


GENOTYPES: dict[str, Genotype] = {
    # Released with ENAS's code (scripts/cifar10_macro_final.sh). Its 24 layers are not the paper's network: see
    # `isnas.networks.macro`.
    "ENAS_macro": _genotype(
        MacroSpace(layers=24),
        """
        0
        3 0
        0 1 0
        2 0 0 1
        2 0 0 0 0
        3 1 1 0 1 0
        2 0 0 0 0 0 1
        2 0 1 1 0 1 1 1
        1 0 1 1 1 0 1 0 1
        0 0 0 0 0 0 0 0 0 0
        2 0 0 0 0 0 1 0 0 0 0
        0 1 0 0 1 1 0 0 0 0 1 1
        2 0 1 0 0 0 0 0 1 0 1 1 0
        1 0 0 1 0 0 0 1 1 1 0 1 0 1
        0 1 1 0 1 0 1 0 0 0 0 0 1 0 0
        2 0 0 1 0 0 0 0 0 0 0 1 0 1 0 1
        2 0 1 0 0 0 1 0 0 1 1 1 1 0 0 1 0
        2 0 0 0 0 1 0 1 0 1 0 0 1 0 1 0 0 1
        3 0 1 1 0 1 0 0 0 0 0 1 0 1 0 1 0 0 0
        3 0 1 1 0 0 0 0 0 0 0 0 0 1 1 0 0 0 0 1
        0 1 0 0 1 0 1 1 0 0 0 1 0 0 0 0 0 1 1 0 0
        3 0 1 0 1 1 0 0 1 0 1 1 0 1 1 0 1 0 0 1 0 0
        0 1 0 1 0 1 0 0 0 0 0 0 0 0 1 0 1 0 0 1 0 0 0
        0 1 1 0 0 0 1 1 1 0 1 0 0 0 1 0 1 0 0 1 1 0 0 0
        """,
    ),
}
"""Published architectures of this space by name."""
