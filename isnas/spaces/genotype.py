"""Genotypes: found architectures as plain, immutable data that names its space."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..runtime.errors import UserError, suggestion
from ..runtime.files import write_json
from .base import Place, Space

MOST_NODES = 1000
"""A cell with more nodes than this is no architecture: it is refused before time is spent on it."""

MOST_LETTERS = 100_000
"""Neither is a longer text."""


class HasPlaces(Protocol):
    """A discrete network, as far as its genotype goes."""

    space: Space
    places: Mapping[str, tuple[Place, ...]]
    concat: Mapping[str, tuple[int, ...]]


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
        if len(self.nodes) > MOST_NODES:
            raise UserError(f"a cell has {MOST_NODES} nodes at most, got {len(self.nodes)}")
        for node, edges in enumerate(self.nodes):
            state = self.inputs + node
            for edge in edges:
                if not 0 <= edge.source < state:
                    raise UserError(
                        f"node {node} reads state {edge.source} through {edge.operation}; "
                        f"it can read states 0 to {state - 1} only"
                    )
            if len(set(edges)) != len(edges):
                raise UserError(f"node {node} has an incoming operation twice: {short(edges)}")
        states = range(self.inputs, self.inputs + len(self.nodes))
        if (
            not self.concat
            or len(set(self.concat)) != len(self.concat)
            or not set(self.concat) <= set(states)
        ):
            raise UserError(
                f"concat is {short(self.concat)}; expected different states out of {tuple(states)}"
            )

    def canonical(self) -> CellGenotype:
        """Return the representative of all cells that differ only in the numbering of nodes and the order of edges.

        It is the smallest of them, by brute force over the numberings that keep edges pointing forward.
        """
        reads = [{e.source for e in edges if e.source >= self.inputs} for edges in self.nodes]

        def orders(before: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
            """Yield the numberings that begin with these nodes."""
            if len(before) == len(self.nodes):
                yield before
            there = {self.inputs + node for node in before}
            for node, sources in enumerate(reads):
                if node not in before and sources <= there:
                    yield from orders((*before, node))

        def renumbered(order: Sequence[int]) -> tuple[Any, ...]:
            state = {i: i for i in range(self.inputs)}
            state |= {self.inputs + old: self.inputs + new for new, old in enumerate(order)}
            nodes = (
                tuple(sorted(Edge(e.operation, state[e.source]) for e in self.nodes[old]))
                for old in order
            )
            return tuple(nodes), tuple(sorted(state[i] for i in self.concat))

        forms = map(renumbered, orders(()))
        nodes, concat = min(forms)
        return CellGenotype(nodes, concat, self.inputs)


@dataclass(frozen=True)
class Genotype:
    """A found architecture: one `CellGenotype` for each kind of cell of a space.

    Two genotypes are equal when they are written alike; compare ``a.canonical() == b.canonical()`` to ask whether
    they are the same architecture.

    Parameters
    ----------
    space : Space
    cells : tuple of (kind, CellGenotype)

    Raises
    ------
    UserError
        When the cells are not those of the space.

    Examples
    --------
    >>> genotype = GENOTYPES["ISTA_onestage"]
    >>> Genotype.parse(str(genotype)) == genotype
    True
    """

    space: Space
    cells: tuple[tuple[str, CellGenotype], ...]

    def __post_init__(self) -> None:
        self.space.check(self)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of cell, in order."""
        return tuple(kind for kind, _ in self.cells)

    def __getitem__(self, kind: str) -> CellGenotype:
        """Return the cell of a kind."""
        return dict(self.cells)[kind]

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
        return cls(space, tuple(cells.items()))

    @classmethod
    def of(cls, network: HasPlaces) -> Genotype:
        """Return the genotype of a discrete network."""
        return cls.from_places(network.places, network.space, network.concat)

    def places(self, space: Space | None = None) -> dict[str, tuple[Place, ...]]:
        """Return the places of each kind of cell, sorted, as they are numbered in a space; by default its own.

        Raises
        ------
        UserError
            When the genotype is not one of that space.
        """
        space = self.space if space is None else space
        space.check(self)
        number = {name: i for i, name in enumerate(space.primitives)}
        return {
            kind: tuple(
                sorted(
                    Place(node, edge.source, number[edge.operation])
                    for node, edges in enumerate(cell.nodes)
                    for edge in edges
                )
            )
            for kind, cell in self.cells
        }

    @property
    def skips(self) -> int:
        """Number of its places that pass a state on as it is, in one cell of each kind together."""
        return sum(
            edge.operation in self.space.skips
            for _, cell in self.cells
            for edges in cell.nodes
            for edge in edges
        )

    def canonical(self) -> Genotype:
        """Return the form that is the same for all ways to write this architecture."""
        return self.space.canonical(self)

    def __str__(self) -> str:
        """Return the text form of its space."""
        return self.space.format(self)

    @classmethod
    def parse(cls, text: str, space: Space | None = None) -> Genotype:
        """Read the text form of a space's genotypes. Nothing in the text is executed.

        Parameters
        ----------
        text : str
        space : Space, optional
            By default the first registered space whose form this is.

        Raises
        ------
        UserError
            When the text is not of that form or does not describe a genotype of the space.
        """
        from .registry import get, space_reading

        if not isinstance(text, str):
            raise UserError(f"expected the text of a genotype, got {short(text)}")
        text = _typed(text)
        if len(text) > MOST_LETTERS:
            raise UserError(
                f"genotype text has {len(text)} letters, more than {MOST_LETTERS}: it is no genotype"
            )
        # DARTS's message says what is expected
        return (space or space_reading(text) or get("darts")).parse(text)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        cells = {
            kind: {
                "inputs": cell.inputs,
                "nodes": [[list(edge) for edge in edges] for edges in cell.nodes],
                "concat": list(cell.concat),
            }
            for kind, cell in self.cells
        }
        return {"space": self.space.to_json(), "cells": cells}

    @classmethod
    def from_json(cls, data: Any, space: Space | None = None) -> Genotype:
        """Build a genotype from what `to_json` returned.

        Parameters
        ----------
        data
            Plain data, also of earlier versions, which did not name the space.
        space : Space, optional
            The space of data that do not name one; by default DARTS's.

        Raises
        ------
        UserError
            When the data are not of that form or not a genotype of the space.
        """
        from .registry import from_json, get

        try:
            if "space" in data:
                space, data = from_json(data["space"]), data["cells"]
            cells = []
            for kind, cell in data.items():
                if len(cell["nodes"]) > MOST_NODES:
                    raise UserError(
                        f"a cell has {MOST_NODES} nodes at most, got {len(cell['nodes'])}"
                    )
                nodes = tuple(tuple(edge_of(pair) for pair in edges) for edges in cell["nodes"])
                concat = tuple(integer(state) for state in cell["concat"])
                cells.append((kind, CellGenotype(nodes, concat, integer(cell["inputs"]))))
        except UserError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"genotype JSON is not of the form {{space, cells: {{kind: {{inputs, nodes, concat}}}}}}: "
                f"{error!r:.100}"
            ) from None
        return cls(space or get("darts"), tuple(cells))

    def save(self, path: str | Path) -> None:
        """Write the genotype as JSON, whole or not at all.

        Raises
        ------
        UserError
            When the file cannot be written.
        """
        write_json(path, self.to_json())

    @classmethod
    def meant(cls, value: Genotype | str | Path) -> Genotype:
        """Return the genotype that an argument means: one, the name of a published one, or a file, see `load`.

        Raises
        ------
        UserError
            When it is none of these.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, (str, os.PathLike)):
            raise UserError(
                f"expected a Genotype, the name of a published one or a file, got {short(value)}"
            )
        return cls.load(value)

    @classmethod
    def load(cls, name: str | Path, space: Space | None = None) -> Genotype:
        """Return a published genotype by name, or read one from a file or a text.

        Parameters
        ----------
        name : str or path
            A published name; a file of JSON, of text form, of assignments ``NAME = Genotype(...)`` or of a log with a
            line that ends in one; FILE:NAME for one of several in a file; or, where there is no such file, a text form
            itself.
        space : Space, optional
            By default whichever has such a name, or such a form.

        Raises
        ------
        UserError
            When there is neither such a name nor such a file, or the file holds no genotype, or several.
        """
        from .registry import published, space_reading
        from .text import genotype_in

        known = published(space)
        if str(name) in known:
            return known[str(name)]
        path, wanted = Path(name), ""
        there = os.path.exists(path)
        if not there and isinstance(name, str) and space_reading(_typed(name)):
            return cls.parse(name, space)
        if not there and ":" in str(name):
            file, _, wanted = str(name).rpartition(":")
            path = Path(file)
        try:
            with open(path, "rb") as file:
                content = file.read(MOST_LETTERS * 4 + 1)
            text = _typed(content.decode("utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise UserError(
                f"genotype {str(name)!r} cannot be read ({reason}){suggestion(str(name), known)}; "
                f"expected a file or one of {', '.join(known)}"
            ) from None
        try:
            if not text.startswith("{"):
                return cls.parse(genotype_in(text, wanted), space)
            return cls.from_json(json.loads(text), space)
        except UserError as error:
            raise UserError(f"genotype file {str(name)!r}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"genotype file {str(name)!r} is no valid JSON: {error}") from None


_TYPED = str.maketrans(dict.fromkeys("\u2018\u2019", "'") | dict.fromkeys("\u201c\u201d", '"'))


def _typed(text: str) -> str:
    """Return a text as it would be typed: pages and word processors put other blanks and quotation marks into it."""
    blanks = re.sub(r"[^\S\n]|\ufeff", " ", text)
    return blanks.translate(_TYPED).strip()


def integer(value: Any) -> int:
    """Return a state's number; raise a `UserError` where the value is none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"expected a whole number, got {short(value)}")
    if abs(value) > 10**6:
        raise UserError("expected the number of a state, got one of more than six digits")
    return value


def edge_of(pair: Any) -> Edge:
    """Return the edge that a pair stands for; raise a `UserError` where it is none."""
    if (
        isinstance(pair, (str, bytes))
        or not isinstance(pair, Sequence)
        or len(pair) != 2
        or not isinstance(pair[0], str)
    ):
        raise UserError(f"expected a pair (operation, earlier state), got {short(pair)}")
    if len(pair[0]) > 100:
        raise UserError(f"expected the name of an operation, got {short(pair[0])}")
    return Edge(pair[0], integer(pair[1]))


def short(value: Any) -> str:
    """Return a value in a few letters, whatever it is."""
    try:
        return f"{value!r:.60}"
    except (ValueError, RecursionError):  # numbers of thousands of digits, deep nests
        return f"a {type(value).__name__}"
