"""Discrete architectures of a space: the decisions that make up one, its neighbours, a grid, all of them.

Each choice of a space (`isnas.spaces.base.Choice`) comes about by decisions. Where all candidates may be active, a
choice has `s` places, and for each of them a source and an operation are decided. Where candidates are in groups there
is one decision for each group: which of its candidates is active, or none where that is allowed. Where each candidate
is a group of its own, a skip, it is there or not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import torch

from ..runtime.errors import UserError
from ..spaces.base import Choice, Place, Space
from ..spaces.genotype import Genotype

What = Literal["source", "operation", "skip"]
"""The subject of a decision."""

T = TypeVar("T")

NONE = "none"
"""The name in a grid of no operation where there could be one."""

WIRINGS = ("inputs", "latest")
"""The states that nodes of a grid's cells read: the first ones, or those just before the node."""


class Decision(NamedTuple):
    """One decision in the sequence that describes an architecture."""

    kind: str
    """The kind of cell."""
    node: int
    """The node, counted from 0."""
    what: What
    options: int
    """Number of options: states for a source; else operations, or none (first, where it is allowed) and a group's
    candidates."""
    choice: int
    """Position of its choice among the space's."""


class Choices:
    """The architectures of a space, and the decisions that lead to one.

    Parameters
    ----------
    space : Space
    s : int, sequence of int or None
        Active places of each choice of a kind of cell; one number for all, or one for each; by default the space's.
        Used where all candidates of a choice may be active and their number is open.

    Attributes
    ----------
    space : Space
    s : tuple of int
        Places of each choice of the space; the most that it can have where candidates are in groups.
    decisions : tuple of Decision

    Raises
    ------
    UserError
        When `s` does not fit the space.
    """

    def __init__(self, space: Space, s: int | Sequence[int] | None = None) -> None:
        self.space = space
        self.s = places_of_choices(space, s)
        self.decisions = tuple(
            decision for i in range(len(space.choices)) for decision in self._decisions(i)
        )
        # where the decisions of each decision's choice begin
        firsts: dict[int, int] = {}
        self._first = [
            firsts.setdefault(decision.choice, i) for i, decision in enumerate(self.decisions)
        ]

    def _decisions(self, i: int) -> Iterator[Decision]:
        choice = self.space.choices[i]
        kind, node = choice.kind, choice.node
        if choice.groups is not None:
            what: What = "skip" if choice.yes_or_no else "operation"
            for members in choice.members:
                yield Decision(kind, node, what, choice.optional + len(members), i)
            return
        sources = len({place.source for place in choice.candidates})
        for _ in range(self.s[i]):
            yield Decision(kind, node, "source", sources, i)
            yield Decision(kind, node, "operation", len(choice.candidates) // sources, i)

    # Sequences of decisions

    def allowed(self, chosen: Sequence[int]) -> list[bool]:
        """Return which options the next decision has, given those so far: a choice's places are different ones."""
        i = len(chosen)
        decision = self.decisions[i]
        choice = self.space.choices[decision.choice]
        if choice.groups is not None:
            return [True] * decision.options
        before = list(chosen[self._first[i] :])
        taken = list(zip(before[::2], before[1::2], strict=False))
        if decision.what == "operation":
            return [(before[-1], option) not in taken for option in range(decision.options)]
        sources = [source for source, _ in taken]
        operations = len(choice.candidates) // decision.options
        return [sources.count(option) < operations for option in range(decision.options)]

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
        sets: list[list[Place]] = [[] for _ in self.space.choices]
        for i, (decision, option) in enumerate(zip(self.decisions, chosen, strict=True)):
            self.check(chosen[:i], option)
            choice = self.space.choices[decision.choice]
            if choice.groups is not None:
                members = choice.members[i - self._first[i]]
                if option >= choice.optional:
                    position = members[option - choice.optional]
                    sets[decision.choice].append(choice.candidates[position])
            elif decision.what == "operation":
                position = chosen[i - 1] * decision.options + option
                sets[decision.choice].append(choice.candidates[position])
        return self._genotype(sets)

    def check(self, chosen: Sequence[int], option: int) -> None:
        """Raise a `UserError` unless the option is allowed after these decisions."""
        allowed = self.allowed(chosen)
        if not 0 <= option < len(allowed) or not allowed[option]:
            decision = self.decisions[len(chosen)]
            raise UserError(
                f"decision {len(chosen)}, the {decision.what} of "
                f"{self.space.choices[decision.choice].label}, cannot be {option}"
            )

    # All architectures

    @property
    def size(self) -> int:
        """Number of architectures, as they are written: cells with renumbered nodes are different ones."""
        return math.prod(
            math.comb(len(choice.candidates), s)
            if choice.groups is None
            else math.prod(choice.optional + len(members) for members in choice.members)
            for choice, s in zip(self.space.choices, self.s, strict=True)
        )

    def all(self) -> Iterator[Genotype]:
        """Yield every architecture once, lazily."""
        for sets in _product([partial(self._sets_of, i) for i in range(len(self.s))]):
            yield self._genotype(sets)

    def random(self, random: torch.Generator) -> Genotype:
        """Draw an architecture, each equally likely, with a generator on the CPU."""
        sets = []
        for choice, s in zip(self.space.choices, self.s, strict=True):
            if choice.groups is None:
                order = torch.randperm(len(choice.candidates), generator=random).tolist()
                sets.append([choice.candidates[i] for i in order[:s]])
                continue
            drawn = []
            for members in choice.members:
                options = choice.optional + len(members)
                option = int(torch.randint(options, (), generator=random))
                if option >= choice.optional:
                    drawn.append(choice.candidates[members[option - choice.optional]])
            sets.append(drawn)
        return self._genotype(sets)

    # Neighbours

    def mutate(self, genotype: Genotype, random: torch.Generator) -> Genotype:
        """Return an architecture with one place changed (regularised evolution, Real et al., AAAI 2019, section 3).

        With equal chance a place gets another operation, reads another earlier state, or a skip comes or goes, of those
        that can be done. The place is drawn from those for which it can be done, then what it gets from all that leaves
        the choice's places different. Where candidates are in groups, a node is drawn, then a group of it, which gets
        another of its candidates or none (NAS-Bench-201, Dong & Yang, ICLR 2020). The identity, which Real et al. draw
        once in twenty times, is left out: it would train an architecture again.

        Raises
        ------
        UserError
            When the genotype is not one of this space, or the only one.
        """
        sets = self._sets(genotype)
        whats: tuple[What, ...] = ("operation", "source", "skip")
        moves = {
            what: [
                (i, place, others)
                for i, choice in enumerate(self.space.choices)
                for place, others in _moves(what, choice, sets[i])
            ]
            for what in whats
        }
        possible = [what for what in whats if moves[what]]
        if not possible:
            raise UserError("the space has one architecture only: there is none to mutate to")
        found = moves[_one_of(possible, random)]
        if self._grouped:
            nodes = [(self.space.choices[i].kind, self.space.choices[i].node) for i, *_ in found]
            node = _one_of(list(dict.fromkeys(nodes)), random)
            found = [move for move, of in zip(found, nodes, strict=True) if of == node]
        i, place, others = _one_of(found, random)
        new = _one_of(others, random)
        sets[i] = tuple(p for p in (*sets[i], new) if p is not None and p != place)
        return self._genotype(sets)

    def crossover(self, one: Genotype, other: Genotype, random: torch.Generator) -> Genotype:
        """Return an architecture that has each choice of each kind of cell from either parent, with equal chance.

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
        wirings can lead to the same architecture.) Where candidates are in groups, the grid has all combinations of
        what the groups can have, the last one changing fastest, and there are no wirings.

        Parameters
        ----------
        primitives : sequence of str, optional
            The operations of the grid, by default all; where a group may be empty, `NONE` is one, too.
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

    @property
    def _grouped(self) -> bool:
        return any(choice.groups is not None for choice in self.space.choices)

    def _grid_axes(
        self, primitives: Sequence[str] | None, wirings: Sequence[str] | None
    ) -> list[Sequence[int] | Sequence[str]]:
        """Return the values of each coordinate of the grid, the slowest first."""
        space = self.space
        empty = any(c.groups is not None and c.optional for c in space.choices)
        operations = (NONE, *space.primitives) if empty else space.primitives
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
        if self._grouped:
            return [
                self._options_named(decision, i, primitives)
                for i, decision in enumerate(self.decisions)
            ]
        chosen = [space.primitives.index(name) for name in primitives]
        for choice, number in zip(space.choices, self.s, strict=True):
            if number > space.inputs + choice.node:
                raise UserError(
                    f"the grid lets each place of a node read another state: node {choice.node} has {number} "
                    f"places and {space.inputs + choice.node} states to read"
                )
        return [wirings, *[chosen] * max(self.s)] * len(space.kinds)

    def _options_named(self, decision: Decision, i: int, names: Sequence[str]) -> list[int]:
        """Return the options of a group's decision whose operations are these; all of them where there is none."""
        choice = self.space.choices[decision.choice]
        members = choice.members[i - self._first[i]]
        operations = [
            self.space.primitives[choice.candidates[position].operation] for position in members
        ]
        of_group = [NONE, *operations] if choice.optional else operations
        # in the order of the names, which says what changes first
        found = [of_group.index(name) for name in names if name in of_group]
        return found or list(range(decision.options))

    def _grid_point(self, axes: Sequence[Sequence[int] | Sequence[str]], position: int) -> Genotype:
        values: list[int | str] = []
        for axis in reversed(axes):
            position, digit = divmod(position, len(axis))
            values.append(axis[digit])
        values.reverse()
        if self._grouped:
            return self.genotype([int(value) for value in values])
        each = 1 + max(self.s)
        cells = {kind: values[i * each : (i + 1) * each] for i, kind in enumerate(self.space.kinds)}
        sets = []
        for choice, s in zip(self.space.choices, self.s, strict=True):
            wiring, *operations = cells[choice.kind]
            latest = self.space.inputs + choice.node - 1
            slots = range(s)
            sources = slots if wiring == "inputs" else [latest - slot for slot in slots]
            sets.append([Place(choice.node, sources[k], int(operations[k])) for k in slots])
        return self._genotype(sets)

    # Architectures as the places of each choice

    def _sets_of(self, i: int) -> Iterable[tuple[Place, ...]]:
        choice = self.space.choices[i]
        if choice.groups is None:
            return itertools.combinations(choice.candidates, self.s[i])
        return (
            tuple(place for place in places if place is not None)
            for places in itertools.product(*_groups(choice))
        )

    def _sets(self, genotype: Genotype) -> list[tuple[Place, ...]]:
        """Return the places of each choice, after a check that they are as this space has them."""
        places = genotype.places(self.space)
        sets = []
        for choice, s in zip(self.space.choices, self.s, strict=True):
            own = set(choice.candidates)
            found = tuple(place for place in places[choice.kind] if place in own)
            if choice.groups is None:
                if len(found) != s:
                    raise UserError(
                        f"node {choice.node} of the {choice.kind} cell has {len(found)} incoming operations; "
                        f"expected {s}"
                    )
            else:
                group = dict(zip(choice.candidates, choice.groups, strict=True))
                groups = [group[place] for place in found]
                if len(set(groups)) != len(groups):
                    raise UserError(
                        f"node {choice.node} of the {choice.kind} cell has an edge with two operations; "
                        f"this space allows one"
                    )
                if not choice.optional and len(groups) != len(choice.members):
                    raise UserError(f"{choice.label} has no operation; this space wants one")
            sets.append(found)
        return sets

    def _genotype(self, sets: Iterable[Iterable[Place]]) -> Genotype:
        places: dict[str, list[Place]] = {kind: [] for kind in self.space.kinds}
        for choice, found in zip(self.space.choices, sets, strict=True):
            places[choice.kind] += found
        return Genotype.from_places(places, self.space)


def places_of_choices(space: Space, s: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return how many places each choice of a space has, at most where candidates are in groups.

    Parameters
    ----------
    space : Space
    s : int, sequence of int or None
        See `Choices`.

    Raises
    ------
    UserError
        When a number is not one of the space's.
    """
    given = space.numbers("s", s)
    found = []
    for i, choice in enumerate(space.choices):
        number = choice.s if given is None else given[i % len(given)]
        if choice.groups is not None or choice.least == choice.most:
            number = choice.most
        elif not choice.least <= number <= choice.most:
            raise UserError(
                f"s must be {choice.least} to {choice.most}, the candidates of node {choice.node}, "
                f"got {number}"
            )
        found.append(number)
    return tuple(found)


def _groups(choice: Choice) -> list[list[Place | None]]:
    """Return what each group of a choice can have: one of its places, or nothing where that is allowed."""
    empty: list[Place | None] = [None] if choice.optional else []
    return [[*empty, *(choice.candidates[i] for i in members)] for members in choice.members]


def _moves(
    what: What, choice: Choice, places: Sequence[Place]
) -> list[tuple[Place | None, list[Place | None]]]:
    """Return which places of a choice can change in this respect, each with all that can stand instead of it."""
    found: list[tuple[Place | None, list[Place | None]]] = []
    if (what == "skip") != choice.yes_or_no:
        return []
    if choice.groups is not None:
        if what == "source":
            return []
        for group in _groups(choice):
            now = next((place for place in group if place in places), None)
            if others := [other for other in group if other != now]:
                found.append((now, others))
        return found
    kept = "source" if what == "operation" else "operation"
    for place in places:
        others = [
            other
            for other in choice.candidates
            if other not in places and getattr(other, kept) == getattr(place, kept)
        ]
        if others:
            found.append((place, others))
    return found


def _one_of(values: Sequence[T], random: torch.Generator) -> T:
    return values[int(torch.randint(len(values), (), generator=random))]


def _spread(i: int, n: int, size: int) -> int:
    """Return a position in the i-th of `n` parts of 0 .. size - 1.

    Where it lies in its part goes by multiples of the golden ratio, which are spread evenly themselves (Knuth, volume
    3, section 6.4). At the same place of every part the last coordinates would often be the same for all.
    """
    start, end = i * size // n, (i + 1) * size // n
    # of the ratio as many bits as say where in a part, at least 64
    bits = 64 if size <= 2**64 else 64 + size.bit_length()
    golden = (math.isqrt(5 << 2 * bits) - (1 << bits)) >> 1
    return start + ((i * golden % 2**bits) * (end - start) >> bits)


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
