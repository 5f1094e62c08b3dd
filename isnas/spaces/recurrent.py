"""The space of DARTS's recurrent cells (Liu, Simonyan and Yang, ICLR 2019, sections 2.1 and 3.1.2).

A cell makes the hidden state h_t of a time step from the input x_t and h_{t-1}. State 0 is fixed: it joins the two.
Every other state, 1 to `nodes`, belongs to a node, which reads one earlier state through one activation. The mean of
some states, by default of all nodes, is h_t.

ENAS (Pham et al., ICML 2018) searches the same cells: with the same states, one earlier state and one activation each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..runtime.errors import UserError
from .base import Choice, Space
from .genotype import MOST_NODES, CellGenotype, Edge, Genotype, edge_of, integer
from .text import fields_of

KIND = "recurrent"
"""The one kind of cell, and the field of the text form that has its nodes."""

PRIMITIVES = ("tanh", "relu", "sigmoid", "identity")
"""The activations of DARTS and of ENAS. DARTS's relaxation has `none`, too; no found cell can have it."""

FORM = "Genotype(recurrent=[(activation, state), ...], concat=range(1, 9))"


@dataclass(frozen=True)
class RecurrentSpace(Space):
    """Cells whose nodes read one earlier state each, through one activation."""

    primitives: tuple[str, ...] = PRIMITIVES
    nodes: int = 8
    inputs: int = 1
    kinds: tuple[str, ...] = (KIND,)
    output: tuple[int, ...] = ()

    name: ClassVar[str] = "recurrent"
    network: ClassVar[str] = "recurrent"
    task: ClassVar[str] = "language"
    parameters: ClassVar[tuple[str, ...]] = ("nodes",)
    # identity is none: it stands behind a matrix and a gate
    skips: ClassVar[tuple[str, ...]] = ()
    default_s: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= MOST_NODES:
            raise UserError(f"nodes must be 1 to {MOST_NODES}, got {self.nodes}")
        super().__post_init__()

    def choices_of(self, kind: str, node: int) -> tuple[Choice, ...]:
        return (Choice(kind, node, self.candidates(node), None, 1, 1, 1),)

    def state_label(self, state: int) -> str:
        return str(state) if state else "$x_t, h_{t-1}$"

    @property
    def output_label(self) -> str:
        return "$h_t$"

    @property
    def published(self) -> Mapping[str, Genotype]:
        """The published cells by name, whatever their number of nodes: each brings its own space."""
        return GENOTYPES

    def check(self, genotype: Genotype) -> None:
        super().check(genotype)
        for node, edges in enumerate(genotype[KIND].nodes):
            if len(edges) != 1:
                raise UserError(
                    f"node {node} of the recurrent cell has {len(edges)} incoming operations; expected 1"
                )

    def format(self, genotype: Genotype) -> str:
        """Return DARTS's text form."""
        cell = genotype[KIND]
        nodes = [tuple(edge) for (edge,) in cell.nodes]
        concat: list[int] | range = list(cell.concat)
        if concat == list(range(concat[0], concat[-1] + 1)):
            concat = range(concat[0], concat[-1] + 1)
        return f"Genotype({KIND}={nodes!r}, concat={concat!r})"

    def parse(self, text: str) -> Genotype:
        """Read DARTS's text form."""
        return Genotype(self, ((KIND, _cell_of(text)),))

    @classmethod
    def reading(cls, text: str) -> RecurrentSpace | None:
        """Return the space with as many nodes as the text has."""
        if not re.match(rf"Genotype\s*\(\s*{KIND}\s*=", text):
            return None
        return cls(nodes=len(_cell_of(text).nodes))


def _cell_of(text: str) -> CellGenotype:
    fields = fields_of(text, (KIND, "concat"), FORM)
    pairs, concat = fields[KIND], fields["concat"]
    if not isinstance(pairs, (list, tuple)) or not isinstance(concat, (list, tuple, range)):
        raise UserError(f"genotype text: {KIND} and concat must be lists: {FORM}")
    nodes = tuple((edge_of(pair),) for pair in pairs)
    return CellGenotype(nodes, tuple(integer(i) for i in concat), 1)


def _published(text: str, concat: tuple[int, ...] = ()) -> Genotype:
    words = [word.split("<") for word in text.split()]
    nodes = tuple((Edge(operation, int(source)),) for operation, source in words)
    cell = CellGenotype(nodes, concat or tuple(range(1, len(nodes) + 1)), 1)
    return Genotype(RecurrentSpace(nodes=len(nodes)), ((KIND, cell),))


GENOTYPES: dict[str, Genotype] = {
    # DARTS, Liu et al., ICLR 2019, Penn Treebank: first order (57.6 test perplexity, 23 M parameters)
    "DARTS_V1": _published("relu<0 relu<1 tanh<2 relu<3 relu<4 identity<1 relu<5 relu<1"),
    # the same, second order (55.7)
    "DARTS_V2": _published("sigmoid<0 relu<1 relu<1 identity<1 tanh<2 sigmoid<5 tanh<3 relu<5"),
    # ENAS, Pham et al., ICML 2018, as DARTS's code has it: the mean of the states that no node reads
    "ENAS": _published(
        "tanh<0 tanh<1 relu<1 tanh<3 tanh<3 relu<3 relu<4 relu<7 relu<8 relu<8 relu<8",
        (2, 5, 6, 9, 10, 11),
    ),
    # the cell of ENAS's corrected language model (google-research, enas_lm)
    "ENAS_LM": _published("sigmoid<0 tanh<1 relu<2 sigmoid<2 tanh<4 tanh<5 sigmoid<3 sigmoid<6"),
}
"""Published cells by name."""
