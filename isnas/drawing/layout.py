"""Layout of layered graphs, in points at the printed size.

What a state hands on to later layers runs as *one* line that branches to each operation that reads it, so that a layer
holds at most one passing line for each state. Every box and every passing line has a place of its own in its layer, and
lines bend only in the gaps between layers: no line can run through a box that is not its own. The order in the layers
is chosen for few crossings (sweeps of barycentres and exchanges of neighbours, after Sugiyama, Tagawa and Toda, 1981),
the positions for straight lines.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

from ..spaces.genotype import Edge

Flow = Literal["right", "down"]
"""The direction from the inputs to the output."""

CellCoefficients = Mapping[tuple[int, Edge], float]
"""The coefficient of each (node, incoming operation) of a cell."""

# All lengths are points.
PORT = 6.0  # between the lines that enter a box
_BOX_GAP = 5.0  # between neighbours in a layer
_LANE_GAP = 7.0  # between passing lines
_BALANCE = 8.0  # a line longer than this pulls an operation less than its node does
_CROSSING_COST = 300.0  # in weighted length of lines
_STRETCHED_GAP = 46.0  # the widest gap between layers


# eq=False: things are compared and hashed as themselves
@dataclass(eq=False)
class Thing:
    """A thing with a position in a layer: the box of a state or operation, or a line of a state that passes through."""

    role: Literal["input", "node", "operation", "output", "lane"]
    layer: int
    label: str = ""
    pale: bool = False
    along: float = 0.0
    """Extent in the direction of flow."""
    across: float = 0.0
    """Extent at right angles to it."""
    centre: float = 0.0
    """Position at right angles to the flow."""
    before: list[Link] = field(default_factory=list)
    after: list[Link] = field(default_factory=list)


@dataclass(eq=False)
class Link:
    """A line from one layer to the next."""

    role: Literal["state", "output", "operation"]
    start: Thing
    end: Thing
    key: tuple[int, Edge] | None = None
    """The node and operation whose result the line carries; none for states."""
    port: float = 0.0
    """Offset from the middle at which the line enters its end."""

    @property
    def rise(self) -> float:
        """Distance that the line moves across the flow."""
        return self.end.centre + self.port - self.start.centre


class Point(NamedTuple):
    x: float
    y: float


@dataclass(eq=False)
class Diagram:
    """A cell with everything in its place, in points.

    `along` of a layer is where it begins in the direction of flow; it is settled by `spread`.
    """

    flow: Flow
    layers: list[list[Thing]]
    links: list[Link]

    @classmethod
    def of(cls, layers: list[list[Thing]], links: list[Link], flow: Flow) -> Diagram:
        """Lay out boxes whose extents are known."""
        arrange(layers)
        low = min(thing.centre - thing.across / 2 for layer in layers for thing in layer)
        for layer in layers:
            for thing in layer:
                thing.centre -= low
        return cls(flow, layers, links)

    @property
    def breadth(self) -> float:
        """Extent across the flow."""
        return max(thing.centre + thing.across / 2 for layer in self.layers for thing in layer)

    @property
    def gaps(self) -> list[float]:
        """The smallest gaps after each layer but the last: wider where lines have to climb."""
        return [7.5 + min(6.0, 0.07 * rise) for rise in self.rises]

    @property
    def easy_gaps(self) -> list[float]:
        """Gaps in which lines are easy to follow."""
        # downwards there is room, and there are long ways across
        least, slope, most = (11.0, 0.12, 12.0) if self.flow == "right" else (13.0, 0.2, 20.0)
        return [least + min(most, slope * rise) for rise in self.rises]

    @property
    def rises(self) -> list[float]:
        """The furthest that a line moves across the flow, after each layer but the last."""
        return [
            max((abs(link.rise) for thing in layer for link in thing.after), default=0.0)
            for layer in self.layers[:-1]
        ]

    @property
    def length(self) -> float:
        """The smallest extent in the direction of flow."""
        return sum(layer[0].along for layer in self.layers) + sum(self.gaps)

    @property
    def easy_length(self) -> float:
        """The extent in the direction of flow with easy gaps."""
        return self.length + sum(self.easy_gaps) - sum(self.gaps)

    @property
    def width(self) -> float:
        """The smallest width."""
        return self.length if self.flow == "right" else self.breadth

    @property
    def height(self) -> float:
        """The smallest height."""
        return self.breadth if self.flow == "right" else self.length

    @property
    def easy_size(self) -> tuple[float, float]:
        """Width and height with easy gaps."""
        size = (self.easy_length, self.breadth)
        return size if self.flow == "right" else size[::-1]

    def spread(self, length: float) -> list[float]:
        """Return where each layer begins when the gaps are widened to fill a length as far as that looks well."""
        gaps, rises = self.gaps, self.rises
        most = [
            max(gap, min(_STRETCHED_GAP, 20.0 + 0.5 * rise))
            for gap, rise in zip(gaps, rises, strict=True)
        ]
        wanted = sum(m - g for m, g in zip(most, gaps, strict=True))
        share = min(1.0, max(0.0, length - self.length) / wanted) if wanted else 0.0
        begins = [0.0]
        for layer, gap, limit in zip(self.layers[:-1], gaps, most, strict=True):
            begins.append(begins[-1] + layer[0].along + gap + share * (limit - gap))
        return begins


def arrange(layers: list[list[Thing]]) -> None:
    """Order each layer and give everything its position across the flow."""
    best = math.inf
    settled: list[list[tuple[Thing, float]]] = []
    for crossings, layout in _orders(layers):
        length = _settle(layout)
        # one crossing more is worth it where lines get much shorter
        cost = length + _CROSSING_COST * crossings
        if cost < best:
            best = cost
            settled = [[(thing, thing.centre) for thing in layer] for layer in layout]
    for index, layer in enumerate(settled):
        layers[index] = [thing for thing, _ in layer]
        for thing, centre in layer:
            thing.centre = centre
    _assign_ports(layers)


def _orders(layers: list[list[Thing]]) -> list[tuple[float, list[list[Thing]]]]:
    """Return the best three orders that several starts lead to, with their crossings."""
    shuffle = random.Random(0).shuffle
    found: dict[tuple[tuple[int, ...], ...], tuple[float, list[list[Thing]]]] = {}
    for start in range(6):
        order = [list(layer) for layer in layers]
        for layer in order[1:] if start else []:  # the inputs keep their order in all diagrams
            shuffle(layer)
        crossings, order = _uncross(order)
        found.setdefault(tuple(tuple(map(id, layer)) for layer in order), (crossings, order))
    return sorted(found.values(), key=lambda each: each[0])[:3]


def _uncross(order: list[list[Thing]]) -> tuple[float, list[list[Thing]]]:
    """Reduce the crossings of an order by sweeps to and fro, until they do not help any more."""
    rank = {thing: float(index) for layer in order for index, thing in enumerate(layer)}

    def sort(layer: list[Thing], neighbours: dict[Thing, list[Thing]]) -> None:
        def mean(thing: Thing) -> float:
            near = neighbours[thing]
            return sum(rank[each] for each in near) / len(near) if near else rank[thing]

        layer.sort(key=mean)
        rank.update((thing, float(index)) for index, thing in enumerate(layer))

    before = {t: [link.start for link in t.before] for layer in order for t in layer}
    after = {t: [link.end for link in t.after] for layer in order for t in layer}
    best = math.inf
    kept = order
    for _ in range(5):
        for layer in order[1:]:
            sort(layer, before)
        for layer in reversed(order[1:-1]):
            sort(layer, after)
        for _ in range(4):
            if not sum(_exchange(layer, rank) for layer in order[1:]):
                break
        crossings = _crossings(order, rank)
        if crossings >= best:
            break
        best, kept = crossings, [list(layer) for layer in order]
    return best, kept


def _weight(link: Link) -> float:
    """Return how much a crossing with this line disturbs."""
    return 0.6 if link.role == "output" else 1.0


def _clashes(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]]) -> float:
    """Return the crossings between the lines of two neighbours, each given as (rank of the other end, weight)."""
    return sum(a * b for p, a in upper for q, b in lower if p > q)


def _exchange(layer: list[Thing], rank: dict[Thing, float]) -> int:
    """Exchange neighbours where that saves crossings; return how often."""
    ends = {
        thing: (
            [(rank[link.start], _weight(link)) for link in thing.before],
            [(rank[link.end], _weight(link)) for link in thing.after],
        )
        for thing in layer
    }
    exchanged = 0
    for index in range(len(layer) - 1):
        upper, lower = ends[layer[index]], ends[layer[index + 1]]
        now = sum(map(_clashes, upper, lower))
        if now and sum(map(_clashes, lower, upper)) < now - 1e-9:
            layer[index], layer[index + 1] = layer[index + 1], layer[index]
            exchanged += 1
    rank.update((thing, float(index)) for index, thing in enumerate(layer))
    return exchanged


def _crossings(order: list[list[Thing]], rank: dict[Thing, float]) -> float:
    total = 0.0
    for layer in order[:-1]:
        lines = [[(rank[link.end], _weight(link)) for link in thing.after] for thing in layer]
        for index, upper in enumerate(lines):
            total += sum(_clashes(upper, lower) for lower in lines[index + 1 :])
    return total


def _settle(layers: list[list[Thing]]) -> float:
    """Move everything across the flow, in the given order, so that lines become straight; return their length.

    This minimises the weighted sum of how far lines move across the flow by reweighted least squares, one layer after
    the other. Absolute instead of squared distances leave few bends rather than a small bend in every line.
    """
    offsets = []
    for layer in layers:
        steps = [0.0]
        for upper, lower in pairwise(layer):
            steps.append(steps[-1] + _separation(upper, lower))
        offsets.append(steps)
        for thing, step in zip(layer, steps, strict=True):
            thing.centre = step - steps[-1] / 2
    _assign_ports(layers)
    pulls = {
        thing: [(link, link.start, -link.port) for link in thing.before]
        + [(link, link.end, link.port) for link in thing.after]
        for layer in layers
        for thing in layer
    }
    forward = list(zip(layers, offsets, strict=True))
    for slack in (60.0, 30.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5):
        for sweep in (forward, forward[::-1], forward, forward[::-1]):
            for layer, steps in sweep:
                wanted, weights = [], []
                for thing, step in zip(layer, steps, strict=True):
                    pull, weight = 1e-3 * thing.centre, 1e-3
                    for link, other, port in pulls[thing]:
                        straight = other.centre + port
                        # squares keep a node in the middle of its operations
                        short = link.role == "operation"
                        distance = _BALANCE if short else abs(straight - thing.centre) + slack
                        own = _stiffness(link) / distance
                        pull += own * straight
                        weight += own
                    wanted.append(pull / weight - step)
                    weights.append(weight)
                for thing, step, value in zip(
                    layer, steps, _ascending(wanted, weights), strict=True
                ):
                    thing.centre = step + value
    for _ in range(3):
        _straighten(layers)
    return sum(abs(link.rise) * _stiffness(link) for each in pulls for link in each.after)


def _assign_ports(layers: list[list[Thing]]) -> None:
    """Let lines enter their ends in the order of where they come from."""
    rank = {thing: index for layer in layers for index, thing in enumerate(layer)}
    for thing in rank:
        entering = sorted(thing.before, key=lambda link: rank[link.start])
        for index, link in enumerate(entering):
            link.port = PORT * (index - (len(entering) - 1) / 2)


def _straighten(layers: list[list[Thing]]) -> None:
    """Take out the bends that are left in passing lines where there is room to, and boxes' very small offsets."""
    room: dict[Thing, tuple[float, float]] = {}

    def measure(layer: list[Thing]) -> None:
        for index, thing in enumerate(layer):
            low, high = -math.inf, math.inf
            if index:
                low = layer[index - 1].centre + _separation(layer[index - 1], thing)
            if index + 1 < len(layer):
                high = layer[index + 1].centre - _separation(thing, layer[index + 1])
            room[thing] = (low, high)

    def move(block: list[Thing], low: float, high: float, furthest: float = math.inf) -> None:
        """Move things to one line, where the lines to other things are shortest."""
        straight = sorted(
            [
                link.start.centre - link.port
                for thing in block
                for link in thing.before
                if link.role != "operation" and link.start not in block
            ]
            + [
                link.end.centre + link.port
                for thing in block
                for link in thing.after
                if link.role != "operation" and link.end not in block
            ]
        )
        if not straight:
            return
        lower, upper = straight[(len(straight) - 1) // 2], straight[len(straight) // 2]
        target = min(max(block[0].centre, lower), upper)  # any point between is as good
        target = min(max(target, low), high)
        if abs(target - block[0].centre) <= furthest:
            for thing in block:
                thing.centre = target
                measure(layers[thing.layer])

    for layer in layers:
        measure(layer)
    for thing in [thing for layer in layers for thing in layer]:
        if thing.role != "lane":
            move([thing], *room[thing], furthest=3.0)
        elif thing.before[0].start.role != "lane":
            # as far as one straight line can reach, then the next
            block, (low, high) = [thing], room[thing]
            while following := [link.end for link in block[-1].after if link.end.role == "lane"]:
                least, most = room[following[0]]
                if max(low, least) > min(high, most):
                    move(block, low, high)
                    block, low, high = [], -math.inf, math.inf
                block.append(following[0])
                low, high = max(low, least), min(high, most)
            move(block, low, high)


def _separation(upper: Thing, lower: Thing) -> float:
    """Return the least distance between the centres of two neighbours in a layer."""
    lanes = (upper.role == "lane") + (lower.role == "lane")
    return (upper.across + lower.across) / 2 + (_LANE_GAP if lanes == 2 else _BOX_GAP)


def _stiffness(link: Link) -> float:
    """Return how much a line is to be straight: long ones that only pass most of all."""
    lanes = (link.start.role == "lane") + (link.end.role == "lane")
    return (1.0, 2.0, 4.0)[lanes] * (0.5 if link.role == "output" else 1.0)


def _ascending(values: Iterable[float], weights: Iterable[float]) -> list[float]:
    """Return the ascending numbers nearest to `values` in weighted least squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        count = 1
        while pools and pools[-1][0] > value:
            other, mass, members = pools.pop()
            value = (value * weight + other * mass) / (weight + mass)
            weight += mass
            count += members
        pools.append((value, weight, count))
    return [value for value, _, count in pools for _ in range(count)]
