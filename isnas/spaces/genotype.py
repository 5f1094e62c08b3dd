"""Genotypes: found architectures as plain, immutable data.

The text form is that of DARTS, ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...],
reduce_concat=range(2, 6))``: two (operation, earlier state) pairs for each node. Where a node has another number of
them, each node's pairs stand in a list of their own: ``normal=[[('skip_connect', 0)], [...], ...]``.
"""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..runtime.errors import UserError
from ..runtime.files import write_json
from .base import DARTS_SPACE, Place, Space

_TEXT_NAMES = {"reduction": "reduce"}  # DARTS's keyword for the kind of cell


class Edge(NamedTuple):
    """An incoming operation of a node."""

    operation: str
    """Name of the operation."""
    source: int
    """The state that it reads: 0 .. inputs - 1 are the cell's inputs, then come the nodes."""


@dataclass(frozen=True)
class CellGenotype:
    """The architecture of one kind of cell.

    Parameters
    ----------
    nodes : tuple of tuple of Edge
        For every node its incoming operations, any number of them; their order carries no meaning.
    concat : tuple of int
        The states that make up the output, in order of concatenation.
    inputs : int
        States that the cell is given.

    Raises
    ------
    UserError
        When an edge comes from a later state, occurs twice in a node, or `concat` names a state that is no node.
    """

    nodes: tuple[tuple[Edge, ...], ...]
    concat: tuple[int, ...]
    inputs: int = 2

    def __post_init__(self) -> None:
        if not self.nodes:
            raise UserError("a cell needs at least one node, got none")
        for node, edges in enumerate(self.nodes):
            state = self.inputs + node
            for edge in edges:
                if not 0 <= edge.source < state:
                    raise UserError(
                        f"node {node} reads state {edge.source} through {edge.operation}; "
                        f"it can read states 0 to {state - 1} only"
                    )
            if len(set(edges)) != len(edges):
                raise UserError(f"node {node} has an incoming operation twice: {_short(edges)}")
        states = range(self.inputs, self.inputs + len(self.nodes))
        if (
            not self.concat
            or len(set(self.concat)) != len(self.concat)
            or not set(self.concat) <= set(states)
        ):
            raise UserError(
                f"concat is {_short(self.concat)}; expected different states out of {tuple(states)}"
            )

    def canonical(self) -> CellGenotype:
        """Return the representative of all cells that differ only in the numbering of nodes and the order of edges.

        It is the smallest of them, by brute force over the numberings that keep edges pointing forward.
        """
        size = len(self.nodes)

        def renumbered(order: Sequence[int]) -> tuple[Any, ...] | None:
            state = {i: i for i in range(self.inputs)}
            state |= {self.inputs + old: self.inputs + new for new, old in enumerate(order)}
            nodes = []
            for new, old in enumerate(order):
                edges = sorted(Edge(e.operation, state[e.source]) for e in self.nodes[old])
                if any(e.source >= self.inputs + new for e in edges):
                    return None
                nodes.append(tuple(edges))
            return tuple(nodes), tuple(sorted(state[i] for i in self.concat))

        forms = filter(None, map(renumbered, itertools.permutations(range(size))))
        nodes, concat = min(forms)
        return CellGenotype(nodes, concat, self.inputs)


@dataclass(frozen=True)
class Genotype:
    """A found architecture: one `CellGenotype` for each kind of cell.

    Two genotypes are equal when they are written alike; compare ``a.canonical() == b.canonical()`` to ask whether
    they are the same architecture.

    Examples
    --------
    >>> genotype = GENOTYPES["ISTA_onestage"]
    >>> Genotype.parse(str(genotype)) == genotype
    True
    """

    cells: tuple[tuple[str, CellGenotype], ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of cell, in order."""
        return tuple(kind for kind, _ in self.cells)

    def __getitem__(self, kind: str) -> CellGenotype:
        """Return the cell of a kind."""
        return dict(self.cells)[kind]

    @property
    def normal(self) -> CellGenotype:
        """The normal cell."""
        return self["normal"]

    @property
    def reduction(self) -> CellGenotype:
        """The reduction cell."""
        return self["reduction"]

    @classmethod
    def from_places(
        cls,
        places: Mapping[str, Iterable[Place]],
        space: Space,
        concat: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Genotype:
        """Return the genotype that has exactly these places in each kind of cell.

        `concat` names the states that each kind concatenates; by default the space's.
        """
        cells = {}
        for kind in space.kinds:
            nodes: list[list[Edge]] = [[] for _ in range(space.nodes)]
            for place in sorted(places[kind]):
                nodes[place.node].append(Edge(space.primitives[place.operation], place.source))
            states = space.concat if concat is None else tuple(concat[kind])
            cells[kind] = CellGenotype(tuple(map(tuple, nodes)), states, space.inputs)
        return cls(tuple(cells.items()))

    def places(self, space: Space) -> dict[str, tuple[Place, ...]]:
        """Return the places of each kind of cell, sorted.

        Raises
        ------
        UserError
            When the genotype is not one of this space.
        """
        self.check(space)
        return {
            kind: tuple(
                sorted(
                    Place(node, edge.source, space.primitives.index(edge.operation))
                    for node, edges in enumerate(cell.nodes)
                    for edge in edges
                )
            )
            for kind, cell in self.cells
        }

    def check(self, space: Space) -> None:
        """Raise a `UserError` that names what does not fit, unless the genotype is one of this space."""
        if self.kinds != space.kinds:
            raise UserError(
                f"genotype has the cells {', '.join(self.kinds)}; expected {', '.join(space.kinds)}"
            )
        for kind, cell in self.cells:
            if cell.inputs != space.inputs or len(cell.nodes) != space.nodes:
                raise UserError(
                    f"{kind} cell has {len(cell.nodes)} nodes and {cell.inputs} inputs; "
                    f"expected {space.nodes} nodes and {space.inputs} inputs"
                )
            for edge in itertools.chain(*cell.nodes):
                if edge.operation not in space.primitives:
                    raise UserError(
                        f"{kind} cell has the unknown operation {edge.operation!r}; "
                        f"known are {', '.join(space.primitives)}"
                    )

    def canonical(self) -> Genotype:
        """Return the form that is the same for all ways to write this architecture."""
        return Genotype(tuple((kind, cell.canonical()) for kind, cell in self.cells))

    def __str__(self) -> str:
        """Return the DARTS text form."""
        parts = []
        for kind, cell in self.cells:
            name = _TEXT_NAMES.get(kind, kind)
            nodes = [[tuple(edge) for edge in edges] for edges in cell.nodes]
            pairs = all(len(edges) == 2 for edges in nodes)
            written: list[Any] = list(itertools.chain(*nodes)) if pairs else nodes
            concat: Any = list(cell.concat)
            if concat == list(range(concat[0], concat[-1] + 1)):
                concat = range(concat[0], concat[-1] + 1)
            parts.append(f"{name}={written!r}, {name}_concat={concat!r}")
        return f"Genotype({', '.join(parts)})"

    @classmethod
    def parse(cls, text: str, space: Space = DARTS_SPACE) -> Genotype:
        """Read the DARTS text form. Nothing in the text is executed.

        Raises
        ------
        UserError
            When the text is not of that form or does not describe a genotype of the space.
        """
        genotype = _parse(text, space)
        genotype.check(space)
        return genotype

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            kind: {
                "inputs": cell.inputs,
                "nodes": [[list(edge) for edge in edges] for edges in cell.nodes],
                "concat": list(cell.concat),
            }
            for kind, cell in self.cells
        }

    @classmethod
    def from_json(cls, data: Any, space: Space = DARTS_SPACE) -> Genotype:
        """Build a genotype from what `to_json` returned.

        Raises
        ------
        UserError
            When the data are not of that form or not a genotype of the space.
        """
        try:
            cells = []
            for kind, cell in data.items():
                nodes = tuple(tuple(_edge(pair) for pair in edges) for edges in cell["nodes"])
                concat = tuple(_integer(state) for state in cell["concat"])
                cells.append((kind, CellGenotype(nodes, concat, _integer(cell["inputs"]))))
        except UserError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"genotype JSON is not of the form {{kind: {{inputs, nodes, concat}}}}: {error!r}"
            ) from None
        genotype = cls(tuple(cells))
        genotype.check(space)
        return genotype

    def save(self, path: str | Path) -> None:
        """Write the genotype as JSON, whole or not at all.

        Raises
        ------
        UserError
            When the file cannot be written.
        """
        write_json(path, self.to_json())

    @classmethod
    def load(cls, name: str | Path, space: Space = DARTS_SPACE) -> Genotype:
        """Return a published genotype by name, or read one from a file of JSON or text form.

        Raises
        ------
        UserError
            When there is neither such a name nor such a file, or the file holds no genotype.
        """
        if str(name) in GENOTYPES:
            return GENOTYPES[str(name)]
        try:
            text = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise UserError(
                f"genotype {str(name)!r} cannot be read ({reason}); expected a file or one of "
                f"{', '.join(GENOTYPES)}"
            ) from None
        try:
            if not text.startswith("{"):
                return cls.parse(text, space)
            return cls.from_json(json.loads(text), space)
        except UserError as error:
            raise UserError(f"genotype file {str(name)!r}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"genotype file {str(name)!r} is no valid JSON: {error}") from None


def random_genotype(
    space: Space, generator: torch.Generator, s: int | Sequence[int] = 2
) -> Genotype:
    """Draw a genotype: for every node `s` of its places (or `s[node]`), every set of so many equally likely."""
    sizes = [s] * space.nodes if isinstance(s, int) else s
    places: dict[str, list[Place]] = {}
    for kind in space.kinds:
        places[kind] = []
        for node in range(space.nodes):
            candidates, groups = space.candidates(node), space.groups(node)
            order = torch.randperm(len(candidates), generator=generator).tolist()
            if groups is not None:  # the first of each group in this order
                order = list({groups[i]: i for i in reversed(order)}.values())[::-1]
            places[kind] += [candidates[i] for i in order[: sizes[node]]]
    return Genotype.from_places(places, space)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"expected a whole number, got {_short(value)}")
    if abs(value) > 10**6:
        raise UserError("expected the number of a state, got one of more than six digits")
    return value


def _edge(pair: Any) -> Edge:
    if (
        isinstance(pair, (str, bytes))
        or not isinstance(pair, Sequence)
        or len(pair) != 2
        or not isinstance(pair[0], str)
    ):
        raise UserError(f"expected a pair (operation, earlier state), got {_short(pair)}")
    if len(pair[0]) > 100:
        raise UserError(f"expected the name of an operation, got {_short(pair[0])}")
    return Edge(pair[0], _integer(pair[1]))


def _short(value: Any) -> str:
    """Return a value in a few letters, whatever it is."""
    try:
        return f"{value!r:.60}"
    except (ValueError, RecursionError):  # numbers of thousands of digits, deep nests
        return f"a {type(value).__name__}"


def _parse(text: str, space: Space) -> Genotype:
    form = "Genotype(normal=[(operation, state), ...], normal_concat=range(2, 6), reduce=..., ...)"
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"genotype text is not of the form {form}: {text[:80]!r}") from None
    if (
        not isinstance(call, ast.Call)
        or not isinstance(call.func, ast.Name)
        or call.func.id != "Genotype"
        or call.args
    ):
        raise UserError(f"genotype text is not of the form {form}: {text[:80]!r}")
    kinds = {_TEXT_NAMES.get(kind, kind): kind for kind in space.kinds}
    expected = sorted(part for name in kinds for part in (name, f"{name}_concat"))
    given = sorted(str(keyword.arg) for keyword in call.keywords)
    if given != expected:
        raise UserError(f"genotype text has the fields {_short(given)}; expected {expected}")
    fields = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
    cells = []
    for name, kind in kinds.items():
        written, concat = fields[name], fields[f"{name}_concat"]
        if not isinstance(written, (list, tuple)) or not isinstance(concat, (list, tuple, range)):
            raise UserError(f"genotype text: {name} and {name}_concat must be lists")
        nested = all(isinstance(edges, list) for edges in written)
        if not nested:
            if len(written) % 2:
                raise UserError(
                    f"genotype text: {name} has {len(written)} pairs; expected two for each node"
                )
            written = [written[i : i + 2] for i in range(0, len(written), 2)]
        nodes = tuple(tuple(_edge(pair) for pair in edges) for edges in written)
        states = tuple(_integer(i) for i in concat)
        cells.append((kind, CellGenotype(nodes, states, space.inputs)))
    return Genotype(tuple(cells))


def _literal(node: ast.expr) -> Any:
    """Evaluate literals and ``range(a, b)``, nothing else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [_literal(argument) for argument in node.args]
        if len(bounds) == 2 and all(isinstance(b, int) and 0 <= b < 1000 for b in bounds):
            return range(*bounds)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UserError(
            "genotype text holds something that is neither a list of pairs nor range(a, b)"
        ) from None


def _published(normal: str, reduction: str) -> Genotype:
    def cell(text: str) -> CellGenotype:
        edges = [Edge(word.split("<")[0], int(word.split("<")[1])) for word in text.split()]
        nodes = tuple(tuple(edges[i : i + 2]) for i in range(0, len(edges), 2))
        return CellGenotype(nodes, tuple(range(2, 2 + len(nodes))))

    return Genotype((("normal", cell(normal)), ("reduction", cell(reduction))))


GENOTYPES: dict[str, Genotype] = {
    # ISTA-NAS, Yang et al., NeurIPS 2020: found by the two-stage search on CIFAR-10 (2.54 % test error, 3.32 M)
    "ISTA_twostage": _published(
        "skip_connect<0 dil_conv_3x3<1 sep_conv_5x5<0 dil_conv_3x3<2 "
        "dil_conv_3x3<1 sep_conv_3x3<0 sep_conv_3x3<2 skip_connect<0",
        "avg_pool_3x3<0 sep_conv_5x5<1 dil_conv_5x5<2 max_pool_3x3<1 "
        "dil_conv_5x5<3 sep_conv_3x3<1 dil_conv_5x5<4 sep_conv_5x5<1",
    ),
    # the same, one-stage on CIFAR-10 (2.36 %, 3.37 M)
    "ISTA_onestage": _published(
        "skip_connect<0 dil_conv_3x3<1 sep_conv_3x3<1 dil_conv_5x5<2 "
        "avg_pool_3x3<3 sep_conv_3x3<1 sep_conv_5x5<1 sep_conv_3x3<2",
        "avg_pool_3x3<0 max_pool_3x3<1 skip_connect<0 max_pool_3x3<1 "
        "sep_conv_5x5<1 avg_pool_3x3<0 max_pool_3x3<0 dil_conv_5x5<2",
    ),
    # the same, one-stage on ImageNet (24.0 % top-1, 5.65 M)
    "ISTA_ImageNet": _published(
        "sep_conv_3x3<1 sep_conv_3x3<0 sep_conv_3x3<1 skip_connect<2 "
        "sep_conv_3x3<1 sep_conv_3x3<0 sep_conv_3x3<1 dil_conv_5x5<4",
        "skip_connect<0 sep_conv_3x3<1 dil_conv_5x5<2 sep_conv_3x3<0 "
        "sep_conv_3x3<0 skip_connect<2 sep_conv_3x3<2 skip_connect<3",
    ),
    # DARTS, Liu et al., ICLR 2019: second order on CIFAR-10 (2.76 %, 3.3 M)
    "DARTS_V2": _published(
        "sep_conv_3x3<0 sep_conv_3x3<1 sep_conv_3x3<0 sep_conv_3x3<1 "
        "sep_conv_3x3<1 skip_connect<0 skip_connect<0 dil_conv_3x3<2",
        "max_pool_3x3<0 max_pool_3x3<1 skip_connect<2 max_pool_3x3<1 "
        "max_pool_3x3<0 skip_connect<2 skip_connect<2 max_pool_3x3<1",
    ),
}
"""Published architectures by name."""
