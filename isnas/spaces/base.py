"""Search spaces: what is decided, between which candidates, and how a found architecture is written.

A cell is a directed acyclic graph. Its states are numbered: first the cell's inputs, then its nodes in order. A node
may read earlier states through candidate operations. One such possibility, (node, source, operation), is a *place*.
What is decided at once, by one vector z, is a *choice*: some candidate places and how many of them may be active. Codes
say which places are active; a super-net runs these and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..runtime.errors import UserError

if TYPE_CHECKING:
    from .genotype import Genotype


class Place(NamedTuple):
    """The position of an operation: plain integers, known without asking a device."""

    node: int
    """The node that reads, counted from 0."""
    source: int
    """The state that is read: a cell input or an earlier node, in the numbering of states."""
    operation: int
    """Index into the space's primitives."""


@dataclass(frozen=True)
class Choice:
    """One decision: which of some candidate places of a node are active.

    Parameters
    ----------
    kind : str
        The kind of cell.
    node : int
        The node that reads.
    candidates : tuple of Place
        In the order of the vector z.
    groups : tuple of int or None
        The group of each candidate, 0, 1, ..., of which one may be active at most; None: all may be.
    least, most : int
        Bounds of the number of active candidates.
    s : int
        The number that a code with a fixed number keeps by default.
    name : str
        The word that tells the choices of a node apart where it has several.
    """

    kind: str
    node: int
    candidates: tuple[Place, ...]
    groups: tuple[int, ...] | None
    least: int
    most: int
    s: int
    name: str = ""

    @property
    def key(self) -> str:
        """Its name in files, such as ``normal.2``."""
        return ".".join(filter(None, (self.kind, str(self.node), self.name)))

    @property
    def label(self) -> str:
        """Its name for people, such as ``normal 2``."""
        return self.key.replace(".", " ")

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The candidates of each group, as indices; of one group each where all may be active."""
        if self.groups is None:
            return tuple((i,) for i in range(len(self.candidates)))
        found: dict[int, list[int]] = {}
        for i, group in enumerate(self.groups):
            found.setdefault(group, []).append(i)
        return tuple(map(tuple, found.values()))

    @property
    def optional(self) -> bool:
        """Whether a group may stay empty, where there are groups."""
        return self.least < len(self.members)

    @property
    def yes_or_no(self) -> bool:
        """Whether each candidate is decided on by itself: it is a group of its own that may stay empty."""
        alone = self.groups is not None and len(self.members) == len(self.candidates)
        return alone and self.optional


def rows_of(choice: Choice) -> list[list[Place]]:
    """Return the candidates of a choice, edge by edge or group by group: those that compete with each other."""
    if choice.groups is not None:
        return [[choice.candidates[i] for i in members] for members in choice.members]
    rows: dict[int, list[Place]] = {}
    for place in choice.candidates:
        rows.setdefault(place.source, []).append(place)
    return list(rows.values())


@dataclass(frozen=True)
class Space:
    """A search space of cells whose nodes keep some of all their candidates; other spaces are subclasses.

    Parameters
    ----------
    primitives : tuple of str
        Names of the candidate operations.
    nodes : int
        Intermediate nodes of a cell.
    inputs : int
        States that a cell is given.
    kinds : tuple of str
        Kinds of cell; all cells of a kind share one architecture.
    output : tuple of int
        The states that make up a cell's output; empty: all nodes.

    Class attributes
    ----------------
    name : str
        Name in the registry.
    network : str
        Name of the family of networks that are made of it.
    task : str
        Name of the task that these networks are for.
    parameters : tuple of str
        The fields that a user can choose.
    skips : tuple of str
        The primitives that pass a state on as it is.
    drawing : str
        How an architecture is drawn, see `isnas.drawing.draw_cells`.
    """

    primitives: tuple[str, ...]
    nodes: int
    inputs: int
    kinds: tuple[str, ...]
    output: tuple[int, ...] = ()

    name: ClassVar[str] = ""
    network: ClassVar[str] = ""
    task: ClassVar[str] = "images"
    parameters: ClassVar[tuple[str, ...]] = ()
    skips: ClassVar[tuple[str, ...]] = ("skip_connect",)
    default_s: ClassVar[int] = 2
    drawing: ClassVar[str] = "cells"

    def __post_init__(self) -> None:
        if len(set(self.primitives)) != len(self.primitives) or not self.primitives:
            raise ValueError(f"primitives must be different names, at least one: {self.primitives}")
        if self.nodes < 1 or self.inputs < 1 or not self.kinds:
            raise ValueError(
                f"a space needs at least one node, one input and one kind of cell, got "
                f"nodes={self.nodes}, inputs={self.inputs}, kinds={self.kinds}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON, see `isnas.spaces.from_json`."""
        return {"name": self.name, **dataclasses.asdict(self)}

    # What is decided

    def candidates(self, node: int) -> tuple[Place, ...]:
        """Return the places of `node`, by source and then by operation."""
        return tuple(
            Place(node, source, operation)
            for source in range(self.inputs + node)
            for operation in range(len(self.primitives))
        )

    def choices_of(self, kind: str, node: int) -> tuple[Choice, ...]:
        """Return what is decided at a node of a kind of cell."""
        candidates = self.candidates(node)
        n = len(candidates)
        return (Choice(kind, node, candidates, None, 1, n, min(self.default_s, n)),)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """All that is decided, kind by kind and node by node."""
        return tuple(
            choice
            for kind in self.kinds
            for node in range(self.nodes)
            for choice in self.choices_of(kind, node)
        )

    def choices_of_kind(self) -> int:
        """Return how many choices a kind of cell has; all have as many."""
        return len(self.choices) // len(self.kinds)

    def places(self) -> tuple[Place, ...]:
        """Return all places of a cell, node by node."""
        return tuple(
            place
            for choice in self.choices
            if choice.kind == self.kinds[0]
            for place in choice.candidates
        )

    def exchanges(
        self, places: Mapping[str, Sequence[Place]], drop: bool = False
    ) -> Iterator[tuple[str, Place, Place | None]]:
        """Yield all single exchanges of an architecture's places: of one for another of its choice, or for none.

        Of an edge or a group one place stays at most. A place is dropped where its group may stay empty.

        Parameters
        ----------
        places : mapping of kind to sequence of Place
        drop : bool
            Whether a place may be dropped wherever the choice may have fewer.

        Yields
        ------
        kind : str
        gone : Place
        come : Place or None
        """
        for choice in self.choices:
            active = [p for p in places[choice.kind] if p in choice.candidates]
            rows = rows_of(choice)
            droppable = choice.groups is not None and choice.optional
            taken = {i for i, row in enumerate(rows) for p in active if p in row}
            for gone in active:
                if (drop or droppable) and len(active) > choice.least:
                    yield choice.kind, gone, None
                for i, row in enumerate(rows):
                    if gone in row or i not in taken:
                        yield from ((choice.kind, gone, p) for p in row if p not in active)

    def numbers(self, name: str, value: int | Sequence[int] | None) -> tuple[int, ...] | None:
        """Return one number for each choice of a kind of cell: what an option like ``s`` stands for.

        Parameters
        ----------
        name : str
            Name of the option, for messages.
        value : int, sequence of int or None
            One number for all, or one for each; None: none is given.

        Raises
        ------
        UserError
            When there are as many numbers as there are neither choices nor ones.
        """
        if value is None:
            return None
        number = self.choices_of_kind()
        values = (value,) * number if isinstance(value, int) else tuple(value)
        if len(values) != number:
            what = "nodes" if number == self.nodes else "choices"
            raise UserError(f"{name} has {len(values)} values; a cell has {number} {what}")
        return values

    # Words

    @property
    def concat(self) -> tuple[int, ...]:
        """The states that make up a cell's output."""
        return self.output or tuple(range(self.inputs, self.inputs + self.nodes))

    def label(self, place: Place) -> str:
        """Return the place in words, e.g. ``sep_conv_3x3<0``: the operation and the state that it reads."""
        return f"{self.primitives[place.operation]}<{place.source}"

    def place_key(self, place: Place) -> str:
        """Return the name of a place in a cell's state dict, e.g. ``node2_from0_sep_conv_3x3``."""
        return f"node{place.node}_from{place.source}_{self.primitives[place.operation]}"

    def kind_label(self, kind: str) -> str:
        """Return the name of a kind of cell in pictures, e.g. ``Normal cell``; what is drawn in layers is no cell."""
        word = kind.capitalize()
        return word if word == "Cell" or self.drawing == "layers" else f"{word} cell"

    def state_label(self, state: int) -> str:
        """Return the name of a state in pictures; in mathematical text between dollars."""
        return str(state - self.inputs) if state >= self.inputs else f"in {state}"

    @property
    def output_label(self) -> str:
        """The name of a cell's output in pictures, likewise."""
        return "out"

    # Genotypes

    @property
    def published(self) -> Mapping[str, Genotype]:
        """Published architectures by name."""
        return {}

    def check(self, genotype: Genotype) -> None:
        """Raise a `UserError` that names what does not fit, unless the genotype is one of this space."""
        if genotype.kinds != self.kinds:
            raise UserError(
                f"genotype has the cells {', '.join(genotype.kinds)}; expected {', '.join(self.kinds)}"
            )
        for kind, cell in genotype.cells:
            if cell.inputs != self.inputs or len(cell.nodes) != self.nodes:
                raise UserError(
                    f"{kind} cell has {len(cell.nodes)} nodes and {cell.inputs} inputs; "
                    f"expected {self.nodes} nodes and {self.inputs} inputs"
                )
            for edges in cell.nodes:
                for edge in edges:
                    if edge.operation not in self.primitives:
                        raise UserError(
                            f"{kind} cell has the unknown operation {edge.operation!r}; "
                            f"known are {', '.join(self.primitives)}"
                        )

    def canonical(self, genotype: Genotype) -> Genotype:
        """Return the form of a genotype that is the same for all ways to write its architecture."""
        from .genotype import Genotype

        return Genotype(self, tuple((kind, cell.canonical()) for kind, cell in genotype.cells))

    def format(self, genotype: Genotype) -> str:
        """Return the text form of a genotype; by default DARTS's, see `isnas.spaces.text`."""
        from .text import format_cells

        return format_cells(genotype)

    def parse(self, text: str) -> Genotype:
        """Read the text form of a genotype. Nothing in the text is executed.

        Raises
        ------
        UserError
            When the text is not of that form or does not describe a genotype of the space.
        """
        from .text import parse_cells

        return parse_cells(text, self)

    @classmethod
    def reading(cls, text: str) -> Space | None:
        """Return the space of this class that a genotype's text form is of; None where it is not of such a form."""
        from .text import names_kinds

        space = cls()  # type: ignore[call-arg]
        return space if names_kinds(text, space) else None
