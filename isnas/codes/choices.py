"""What searches over discrete architectures choose from: the decisions that make up one, its neighbours, a grid.

In most spaces every node has `s` different places, see `isnas.spaces.base`. In a space with one operation per edge
every edge has one operation or none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import torch

from ..runtime.errors import UserError
from ..spaces.base import Place, Space
from ..spaces.genotype import Genotype, random_genotype

What = Literal["source", "operation"]
"""What a decision is about."""

T = TypeVar("T")

NONE = "none"
"""The name in a grid of no operation on an edge."""

WIRINGS = ("inputs", "latest")
"""What the nodes of a grid's cells read: the first states, or those just before the node."""


class Decision(NamedTuple):
    """One choice in the sequence that describes an architecture."""

    kind: str
    """The kind of cell."""
    node: int
    """The node, counted from 0."""
    what: What
    options: int
    """Number of options: states for a source, primitives (and none, first, where an edge may be empty) otherwise."""


class Choices:
    """The architectures of a space, and the decisions that lead to one.

    For every kind of cell, node and slot k < s[node] there are two decisions: the state that is read, and the operation
    through which. In a space with one operation per edge there is one for each edge, by node and source: 0 for no
    operation, then the primitives.

    Parameters
    ----------
    space : Space
    s : int or sequence of int
        Places of a node, one number for all nodes or one for each; not used where edges have one operation each.

    Attributes
    ----------
    space : Space
    s : tuple of int
        Places of each node; the most that it can have where edges have one operation each.
    decisions : tuple of Decision

    Raises
    ------
    UserError
        When `s` does not fit the space.
    """

    def __init__(self, space: Space, s: int | Sequence[int] = 2) -> None:
        self.space = space
        self.s = _sizes(space, s)
        k = len(space.primitives)
        self.decisions = tuple(
            decision
            for kind in space.kinds
            for node in range(space.nodes)
            for decision in (
                [Decision(kind, node, "operation", k + 1)] * self.s[node]
                if space.one_per_edge
                else [
                    Decision(kind, node, "source", space.inputs + node),
                    Decision(kind, node, "operation", k),
                ]
                * self.s[node]
            )
        )
        # where the decisions of each decision's node begin
        firsts: dict[tuple[str, int], int] = {}
        self._first = [
            firsts.setdefault(decision[:2], i) for i, decision in enumerate(self.decisions)
        ]

    # Sequences of decisions

    def allowed(self, chosen: Sequence[int]) -> list[bool]:
        """Return which options the next decision has, given those so far: a node's places are different ones."""
        i = len(chosen)
        decision = self.decisions[i]
        if self.space.one_per_edge:
            return [True] * decision.options
        before = list(chosen[self._first[i] :])
        taken = list(zip(before[::2], before[1::2], strict=False))
        if decision.what == "operation":
            return [(before[-1], option) not in taken for option in range(decision.options)]
        sources = [source for source, _ in taken]
        k = len(self.space.primitives)
        return [sources.count(option) < k for option in range(decision.options)]

    def genotype(self, chosen: Sequence[int]) -> Genotype:
        """Return the architecture of a whole sequence.

        Raises
        ------
        UserError
            When the sequence is too short or too long, or an option is not allowed.
        """
        if len(chosen) != len(self.decisions):
            raise UserError(
                f"an architecture takes {len(self.decisions)} decisions, got {len(chosen)}"
            )
        places: dict[str, list[Place]] = {kind: [] for kind in self.space.kinds}
        for i, (decision, option) in enumerate(zip(self.decisions, chosen, strict=True)):
            self.check(chosen[:i], option)
            if decision.what == "source":
                continue
            if not self.space.one_per_edge:
                places[decision.kind].append(Place(decision.node, chosen[i - 1], option))
            elif option > 0:  # the edges of a node stand in the order of their sources
                source = i - self._first[i]
                places[decision.kind].append(Place(decision.node, source, option - 1))
        return Genotype.from_places(places, self.space)

    def check(self, chosen: Sequence[int], option: int) -> None:
        """Raise a `UserError` unless the option is allowed after these decisions."""
        allowed = self.allowed(chosen)
        if not 0 <= option < len(allowed) or not allowed[option]:
            kind, node, what, _ = self.decisions[len(chosen)]
            raise UserError(
                f"decision {len(chosen)}, the {what} of node {node} of the {kind} cell, cannot be {option}"
            )

    # All architectures

    @property
    def size(self) -> int:
        """How many architectures there are, as they are written: cells with renumbered nodes are different ones."""
        k = len(self.space.primitives)
        nodes = [
            (k + 1) ** self.s[node]
            if self.space.one_per_edge
            else math.comb(len(self.space.candidates(node)), self.s[node])
            for node in range(self.space.nodes)
        ]
        return math.prod(nodes) ** len(self.space.kinds)

    def all(self) -> Iterator[Genotype]:
        """Yield every architecture once, lazily."""
        for sets in _product([partial(self._sets_of, node) for _, node in self._nodes()]):
            yield self._genotype(sets)

    def random(self, random: torch.Generator) -> Genotype:
        """Draw an architecture, each equally likely, with a generator on the CPU."""
        if not self.space.one_per_edge:
            return random_genotype(self.space, random, self.s)
        k = len(self.space.primitives)
        drawn = torch.randint(k + 1, (len(self.decisions),), generator=random)
        return self.genotype(drawn.tolist())

    # Neighbours

    def mutate(self, genotype: Genotype, random: torch.Generator) -> Genotype:
        """Return an architecture with one place changed (regularised evolution, Real et al., AAAI 2019, section 3).

        With equal chance a place gets another operation or reads another earlier state, if both can be done. The place
        is drawn from those for which it can be done, then what it gets from all that leaves the node's places
        different. Where edges have one operation each, an edge, drawn from all, gets another operation or none. The
        identity, which the paper draws once in twenty times, is left out: it would train an architecture again.

        Raises
        ------
        UserError
            When the genotype is not one of this space, or the only one.
        """
        sets = self._sets(genotype)
        whats: tuple[What, ...] = ("operation", "source")
        moves = {
            what: [
                (i, place, others)
                for i, (_, node) in enumerate(self._nodes())
                for place, others in self._moves(what, node, sets[i])
            ]
            for what in whats
        }
        possible = [what for what in whats if moves[what]]
        if not possible:
            raise UserError("the space has one architecture only: there is none to mutate to")
        i, place, others = _one_of(moves[_one_of(possible, random)], random)
        new = _one_of(others, random)
        sets[i] = tuple(p for p in (*sets[i], new) if p is not None and p != place)
        return self._genotype(sets)

    def crossover(self, one: Genotype, other: Genotype, random: torch.Generator) -> Genotype:
        """Return an architecture that has each node of each kind of cell from either parent, with equal chance.

        Raises
        ------
        UserError
            When a parent is not one of this space.
        """
        pairs = list(zip(self._sets(one), self._sets(other), strict=True))
        drawn = torch.randint(2, (len(pairs),), generator=random).tolist()
        return self._genotype([pair[i] for pair, i in zip(pairs, drawn, strict=True)])

    # A grid

    def grid_size(
        self, primitives: Sequence[str] | None = None, wirings: Sequence[str] | None = None
    ) -> int:
        """Return how many architectures the grid has."""
        return math.prod(map(len, self._grid_axes(primitives, wirings)))

    def grid(
        self,
        primitives: Sequence[str] | None = None,
        wirings: Sequence[str] | None = None,
        points: int | None = None,
    ) -> Iterator[Genotype]:
        """Return the architectures of a grid, or some spread evenly over it; made one by one, as they are asked for.

        In a cell of the grid all nodes are alike: they have the same operations, one for each of their places, and a
        wiring. By ``inputs`` a node reads the first states, by ``latest`` those just before it, the last first. The
        operations change faster than the wiring, the last kind of cell fastest. (Where a cell has one node, both
        wirings can lead to the same architecture.) Where edges have one operation each, the grid has all combinations
        of the edges' operations, the last edge changing fastest, and there are no wirings.

        Parameters
        ----------
        primitives : sequence of str, optional
            The operations of the grid, by default all; where edges have one operation each, `NONE` is one, too.
        wirings : sequence of str, optional
            Out of `WIRINGS`; by default all.
        points : int, optional
            How many, at least 1: one out of each of so many equal parts of the grid in its order; by default all.

        Raises
        ------
        UserError
            When a primitive or a wiring is unknown or named twice, or a node has more places than states to read.
        """
        axes = self._grid_axes(primitives, wirings)
        size = math.prod(map(len, axes))
        if points is not None and points < 1:
            raise UserError(f"points must be at least 1, got {points}")
        n = size if points is None else min(points, size)
        return (self._grid_point(axes, _spread(i, n, size)) for i in range(n))

    def _grid_axes(
        self, primitives: Sequence[str] | None, wirings: Sequence[str] | None
    ) -> list[Sequence[int] | Sequence[str]]:
        """Return the values of each coordinate of the grid, the slowest first."""
        space = self.space
        operations = (NONE, *space.primitives) if space.one_per_edge else space.primitives
        primitives = tuple(primitives or operations)
        wirings = tuple(wirings or WIRINGS)
        for name, values, known in (
            ("primitives", primitives, operations),
            ("wirings", wirings, WIRINGS),
        ):
            if not set(values) <= set(known) or len(set(values)) != len(values):
                raise UserError(
                    f"{name} of the grid must be different ones of {', '.join(known)}, "
                    f"got {', '.join(values)}"
                )
        chosen = [operations.index(name) for name in primitives]
        if space.one_per_edge:
            return [chosen] * len(self.decisions)
        for node, number in enumerate(self.s):
            if number > space.inputs + node:
                raise UserError(
                    f"the grid lets each place of a node read another state: node {node} has {number} "
                    f"places and {space.inputs + node} states to read"
                )
        return [wirings, *[chosen] * max(self.s)] * len(space.kinds)

    def _grid_point(self, axes: Sequence[Sequence[int] | Sequence[str]], position: int) -> Genotype:
        values: list[int | str] = []
        for axis in reversed(axes):
            position, digit = divmod(position, len(axis))
            values.append(axis[digit])
        values.reverse()
        if self.space.one_per_edge:
            return self.genotype([int(value) for value in values])
        each = 1 + max(self.s)
        cells = {kind: values[i * each : (i + 1) * each] for i, kind in enumerate(self.space.kinds)}
        sets = []
        for kind, node in self._nodes():
            wiring, *operations = cells[kind]
            latest = self.space.inputs + node - 1
            slots = range(self.s[node])
            sources = slots if wiring == "inputs" else [latest - slot for slot in slots]
            sets.append([Place(node, sources[slot], int(operations[slot])) for slot in slots])
        return self._genotype(sets)

    # Architectures as the places of each node of each kind of cell

    def _nodes(self) -> list[tuple[str, int]]:
        return [(kind, node) for kind in self.space.kinds for node in range(self.space.nodes)]

    def _edges(self, node: int) -> list[list[Place | None]]:
        """Return what each edge of a node can have: nothing, or one of its places."""
        candidates = self.space.candidates(node)
        return [
            [None, *(place for place in candidates if place.source == source)]
            for source in range(self.space.inputs + node)
        ]

    def _moves(
        self, what: What, node: int, places: Sequence[Place]
    ) -> list[tuple[Place | None, list[Place | None]]]:
        """Return which places of a node can change in this respect, each with all that can stand instead of it."""
        if self.space.one_per_edge:
            if what == "source":
                return []
            now = [next((p for p in edge if p in places), None) for edge in self._edges(node)]
            return [
                (place, [other for other in edge if other != place])
                for place, edge in zip(now, self._edges(node), strict=True)
            ]
        kept = "source" if what == "operation" else "operation"
        found: list[tuple[Place | None, list[Place | None]]] = []
        for place in places:
            others: list[Place | None] = [
                other
                for other in self.space.candidates(node)
                if other not in places and getattr(other, kept) == getattr(place, kept)
            ]
            if others:
                found.append((place, others))
        return found

    def _sets_of(self, node: int) -> Iterable[tuple[Place, ...]]:
        if not self.space.one_per_edge:
            return itertools.combinations(self.space.candidates(node), self.s[node])
        return (
            tuple(place for place in places if place is not None)
            for places in itertools.product(*self._edges(node))
        )

    def _sets(self, genotype: Genotype) -> list[tuple[Place, ...]]:
        """Return the places of each node of each kind, after a check that they are as this space has them."""
        places = genotype.places(self.space)
        sets = [
            tuple(place for place in places[kind] if place.node == node)
            for kind, node in self._nodes()
        ]
        for (kind, node), found in zip(self._nodes(), sets, strict=True):
            if self.space.one_per_edge:
                if len({place.source for place in found}) != len(found):
                    raise UserError(
                        f"node {node} of the {kind} cell has an edge with two operations; "
                        f"this space allows one"
                    )
            elif len(found) != self.s[node]:
                raise UserError(
                    f"node {node} of the {kind} cell has {len(found)} incoming operations; "
                    f"expected {self.s[node]}"
                )
        return sets

    def _genotype(self, sets: Iterable[Iterable[Place]]) -> Genotype:
        places: dict[str, list[Place]] = {kind: [] for kind in self.space.kinds}
        for (kind, _), found in zip(self._nodes(), sets, strict=True):
            places[kind] += found
        return Genotype.from_places(places, self.space)


def _sizes(space: Space, s: int | Sequence[int]) -> tuple[int, ...]:
    if space.one_per_edge:
        return tuple(space.most(node) for node in range(space.nodes))
    sizes = (s,) * space.nodes if isinstance(s, int) else tuple(s)
    if len(sizes) != space.nodes:
        raise UserError(f"s has {len(sizes)} values; a cell has {space.nodes} nodes")
    for node, number in enumerate(sizes):
        if not 1 <= number <= space.most(node):
            raise UserError(
                f"s must be 1 to {space.most(node)}, the candidates of node {node}, got {number}"
            )
    return sizes


def _one_of(values: Sequence[T], random: torch.Generator) -> T:
    return values[int(torch.randint(len(values), (), generator=random))]


def _spread(i: int, n: int, size: int) -> int:
    """Return a position in the i-th of `n` parts of 0 .. size - 1.

    Where it lies in its part goes by multiples of the golden ratio, which are spread evenly themselves (Knuth, volume
    3, section 6.4). At the same place of every part the last coordinates would often be the same for all.
    """
    start, end = i * size // n, (i + 1) * size // n
    return start + ((i * 0x9E3779B97F4A7C15 % 2**64) * (end - start) >> 64)


def _product(
    pools: Sequence[Callable[[], Iterable[tuple[Place, ...]]]],
) -> Iterator[list[tuple[Place, ...]]]:
    """Yield the product of iterables that are made anew when needed: `itertools.product` would hold all of each."""
    if not pools:
        yield []
        return
    for first in pools[0]():
        for rest in _product(pools[1:]):
            yield [first, *rest]
