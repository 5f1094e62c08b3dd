"""The cell space of NAS-Bench-201.

A cell has one input and three nodes, states 0 to 3; each of its six edges (a node reads each earlier state) carries one
operation or none, and the last state is the output. That makes 5^6 = 15,625 cells, each of which the benchmark's
authors have trained on three data sets (`isnas.tabular.nasbench201`). The benchmark counts states as we do and nodes
from 1: its node i + 1 is our node i.

References
----------
Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020.
Dong, Liu, Musial & Gabrys, "NATS-Bench", TPAMI 2021.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch

from ..runtime.errors import UserError
from .base import Choice, Space
from .genotype import CellGenotype, Edge, Genotype

NONE = "none"
"""The benchmark's word for an edge without an operation. It is no primitive: such an edge has no place."""

PRIMITIVES = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""The operations of the benchmark, but for `none`."""


@dataclass(frozen=True)
class NASBench201Space(Space):
    """Cells that read every earlier state through one operation or none."""

    primitives: tuple[str, ...] = PRIMITIVES
    nodes: int = 3
    inputs: int = 1
    kinds: tuple[str, ...] = ("cell",)
    output: tuple[int, ...] = (3,)

    name: ClassVar[str] = "nasbench201"
    network: ClassVar[str] = "nasbench201"

    def choices_of(self, kind: str, node: int) -> tuple[Choice, ...]:
        candidates = self.candidates(node)
        edges = self.inputs + node
        groups = tuple(place.source for place in candidates)
        return (Choice(kind, node, candidates, groups, 0, edges, edges),)

    def state_label(self, state: int) -> str:
        return str(state)

    def format(self, genotype: Genotype) -> str:
        """Return the benchmark's text form."""
        return to_string(genotype)

    def parse(self, text: str) -> Genotype:
        """Read the benchmark's text form, also with blanks in it."""
        return parse_string("".join(text.split()) if isinstance(text, str) else text)

    @classmethod
    def reading(cls, text: str) -> NASBench201Space | None:
        return cls() if text.startswith("|") else None


NASBENCH201_SPACE = NASBench201Space()
"""The space of the benchmark."""

_SKIP = "skip_connect"
_ZERO = "#"  # a value that is zero, whatever the input: the benchmark's sign
_OPERATIONS = (NONE, *PRIMITIVES)
_NODES = NASBENCH201_SPACE.nodes
(_OUTPUT,) = NASBENCH201_SPACE.output
_EXAMPLE = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"

Cell = str | Genotype
"""A cell as the benchmark writes it, or as a genotype."""


def to_string(genotype: Genotype) -> str:
    """Return the benchmark's text form of a cell.

    Examples
    --------
    >>> cell = CellGenotype(((), (), (Edge("skip_connect", 0),)), (3,), 1)
    >>> to_string(Genotype(NASBENCH201_SPACE, (("cell", cell),)))
    '|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|'

    Raises
    ------
    UserError
        When the genotype is not one of this space, has two operations on an edge, or another output than its last
        state.
    """
    return _written(_of_genotype(genotype))


def parse_string(text: str) -> Genotype:
    """Read the benchmark's text form: for each node, its edges by source, each with an operation or `none`.

    Returns
    -------
    Genotype
        With one cell of the kind "cell"; its `concat` is the last state.

    Raises
    ------
    UserError
        When the text is not exactly of that form: it names what is wrong.
    """
    nodes = tuple(
        tuple(Edge(operation, source) for source, operation in enumerate(row) if operation != NONE)
        for row in _of_text(text)
    )
    cell = CellGenotype(nodes, (_OUTPUT,), NASBENCH201_SPACE.inputs)
    return Genotype(NASBENCH201_SPACE, (("cell", cell),))


def canonical(cell: Cell) -> str:
    """Return the text by which the benchmark tells cells apart, its "unique string".

    A state's text is the sorted sum of what its edges bring. A skip brings the text of its source; an edge without an
    operation, or whose source is a zero, brings a zero, ``#``, which stays in the sum. By this the 15,625 cells fall
    into 6,466 classes, the figure that NATS-Bench gives (``get_unique_str`` of its package). Cells of one class compute
    the same if each primitive is one function on all edges: whether two edges share a value, or compute it twice with
    weights of their own, is not seen. The converse fails: as zeros and nested sums stay as written, cells that compute
    the same can be in different classes, even where they differ in the order of their nodes only. `expression` joins
    these.

    Raises
    ------
    UserError
        When it is not a cell of this space.
    """
    values = ["0"]
    for row in _operations(cell):
        terms = []
        for value, operation in zip(values, row, strict=True):
            if operation == NONE or value == _ZERO:
                terms.append(_ZERO)
            else:
                terms.append(value if operation == _SKIP else f"({value})@{operation}")
        values.append("+".join(sorted(terms)))
    return values[-1]


def expression(cell: Cell) -> str:
    """Return what a cell computes, with zeros dropped and nested sums opened: ``#`` when that is zero.

    Two cells share it exactly when they compute the same whatever the primitives are, each being one function on all
    edges that keeps a zero (batch norm may shift it by a constant). There are 4,930 of them; the 341 cells that compute
    zero are at chance in the benchmark's results.

    Raises
    ------
    UserError
        When it is not a cell of this space.
    """
    values: list[tuple[str, ...]] = [("0",)]
    for row in _operations(cell):
        terms: list[str] = []
        for value, operation in zip(values, row, strict=True):
            if operation == _SKIP:
                terms += value
            elif operation != NONE and value:
                terms.append(f"({'+'.join(value)})@{operation}")
        values.append(tuple(sorted(terms)))
    return "+".join(values[-1]) or _ZERO


@cache
def all_cells() -> tuple[str, ...]:
    """Return the 15,625 cells in a fixed order: that of their edges' operations, the last edge changing fastest."""
    every = itertools.product(_OPERATIONS, repeat=_NODES * (_NODES + 1) // 2)
    return tuple(_written(_rows_of(operations)) for operations in every)


def random_cell(generator: torch.Generator) -> Genotype:
    """Draw a cell, each of the 15,625 equally likely, with a generator on the CPU."""
    return parse_string(all_cells()[int(torch.randint(len(all_cells()), (), generator=generator))])


def _operations(cell: Cell) -> tuple[tuple[str, ...], ...]:
    """Return for each node the operation on the edge from each earlier state."""
    return _of_genotype(cell) if isinstance(cell, Genotype) else _of_text(cell)


def _of_genotype(genotype: Genotype) -> tuple[tuple[str, ...], ...]:
    NASBENCH201_SPACE.check(genotype)
    cell = genotype["cell"]
    if cell.concat != (_OUTPUT,):
        raise UserError(
            f"the cell's output is made of the states {cell.concat}; "
            f"expected the last one alone, {(_OUTPUT,)}"
        )
    rows = []
    for node, edges in enumerate(cell.nodes):
        row = [NONE] * (node + 1)
        for operation, source in edges:
            if row[source] != NONE:
                raise UserError(
                    f"the edge from state {source} to node {node} has the operations {row[source]} "
                    f"and {operation}; expected one at most"
                )
            row[source] = operation
        rows.append(tuple(row))
    return tuple(rows)


def _of_text(text: str) -> tuple[tuple[str, ...], ...]:
    if not isinstance(text, str):
        raise UserError(f"a cell is a text such as {_EXAMPLE}, got a {type(text).__name__}")
    shown = f"cell {text!r:.150}"
    nodes = text.split("+")
    if len(nodes) != _NODES:
        raise UserError(
            f"{shown} has {len(nodes)} nodes; expected {_NODES}, joined by '+': {_EXAMPLE}"
        )
    rows = []
    for node, part in enumerate(nodes):
        if len(part) < 2 or part[0] != "|" or part[-1] != "|":
            raise UserError(f"{shown}: node {node} does not stand between '|' and '|': {_EXAMPLE}")
        edges = part[1:-1].split("|")
        if len(edges) != node + 1:
            raise UserError(
                f"{shown}: node {node} has {len(edges)} edges; expected {node + 1}, "
                f"one from each earlier state: {_EXAMPLE}"
            )
        row = []
        for source, edge in enumerate(edges):
            operation, _, written = edge.partition("~")
            if operation not in _OPERATIONS:
                raise UserError(
                    f"{shown}: node {node} has the unknown operation {operation!r:.40}; "
                    f"known are {', '.join(_OPERATIONS)}"
                )
            if written != str(source):
                raise UserError(
                    f"{shown}: the edge {edge!r:.40} of node {node} stands where that from state "
                    f"{source} was expected, {operation}~{source}"
                )
            row.append(operation)
        rows.append(tuple(row))
    return tuple(rows)


def _rows_of(operations: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Split the operations of all edges by node."""
    left = iter(operations)
    return tuple(tuple(itertools.islice(left, node + 1)) for node in range(_NODES))


def _written(rows: Iterable[Iterable[str]]) -> str:
    return "+".join(
        "".join(f"|{operation}~{source}" for source, operation in enumerate(row)) + "|"
        for row in rows
    )
