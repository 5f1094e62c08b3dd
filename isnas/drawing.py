"""Diagrams of found cells.

A cell is drawn in layers, with the operations as boxes of their own between the states:

    inputs | operations | nodes | operations | nodes | ... | output

An operation stands just before the node that it belongs to. What a state hands on to later layers runs as *one* line
that branches to each operation that reads it, so that a layer holds at most one passing line for each state. Every box
and every passing line has a place of its own in its layer, and lines bend only in the gaps between layers: no line can
run through a box that is not its own. The order in the layers is chosen for few crossings (sweeps of barycentres and
exchanges of neighbours, after Sugiyama, Tagawa and Toda, 1981), the positions for straight lines.

Diagrams are laid out in points at their printed size, so that no text has to shrink.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path
from matplotlib.textpath import TextToPath

from .runtime.errors import UserError
from .spaces.genotype import CellGenotype, Edge, Genotype

Flow = Literal["right", "down"]
"""The direction from the inputs to the output."""

CellCoefficients = Mapping[tuple[int, Edge], float]
"""The coefficient of each (node, incoming operation) of a cell."""

COLUMN_WIDTH = 3.4
"""Width of one column of a two-column paper, in inches."""
PAGE_WIDTH = 7.0
"""Width of both columns, in inches."""

# Okabe and Ito's palette, told apart with all common kinds of colour blindness
_FAMILY_COLOURS = {
    "pooling": "#E69F00",
    "skip": "#CC79A7",
    "separable": "#0072B2",
    "dilated": "#009E73",
    "other": "#56B4E9",
}
_INK = "#222222"
_STATE_LINE = "#666666"
_OUTPUT_LINE = "#B5B5B5"
_NODE_FILL = "#E9E9E9"
_PALE_FILL = "#FAFAFA"
_PALE_INK = "#A0A0A0"

# DejaVu Sans comes with Matplotlib: diagrams are measured alike everywhere; a viewer without it takes a narrower one
_FONT = ["DejaVu Sans", "sans-serif"]

# All lengths below are points.
_OPERATION_FONT = 7.0
_NODE_FONT = 8.0
_STATE_FONT = 10.0  # its subscript is 0.7 of it: 7 points
_TITLE_FONT = 9.0
_PORT = 6.0  # between the lines that enter a box
_BOX_GAP = 5.0  # between neighbours in a layer
_LANE_GAP = 7.0  # between passing lines
_BALANCE = 8.0  # a line longer than this pulls an operation less than its node does
_CROSSING_COST = 300.0  # in weighted length of lines
_STRETCHED_GAP = 46.0  # the widest gap between layers
_HEAD = 5.0
_LINE = 1.0
_THINNEST, _THICKEST = 0.5, 2.8  # heads of neighbours must not touch
_MARGIN = 2.0
_TITLE_BAND = 17.0
_BETWEEN_CELLS = 14.0


# eq=False: things are compared and hashed as themselves
@dataclass(eq=False)
class _Thing:
    """What has a place in a layer: the box of a state or operation, or a state's passing line."""

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
    before: list[_Link] = field(default_factory=list)
    after: list[_Link] = field(default_factory=list)


@dataclass(eq=False)
class _Link:
    """A line from one layer to the next."""

    role: Literal["state", "output", "operation"]
    start: _Thing
    end: _Thing
    key: tuple[int, Edge] | None = None
    """The node and operation whose result the line carries; none for states."""
    port: float = 0.0
    """Where the line enters its end, from the middle."""

    @property
    def rise(self) -> float:
        """How far the line moves across the flow."""
        return self.end.centre + self.port - self.start.centre


class _Point(NamedTuple):
    x: float
    y: float


def draw_cell(
    cell: CellGenotype,
    ax: Axes,
    *,
    title: str = "",
    coefficients: CellCoefficients | None = None,
    flow: Flow | None = None,
) -> None:
    """Draw one cell into an axis, as large as its text asks for and centred.

    Text has at least 7 points as long as the axis has room for it (`draw_cells` sees to that); in a smaller axis the
    whole diagram shrinks. Call it when the axis has its final size.

    Parameters
    ----------
    cell : CellGenotype
        The cell.
    ax : matplotlib.axes.Axes
        Where to draw; its frame and limits are replaced.
    title : str
        Title above the axis.
    coefficients : mapping of (node, Edge) to float, optional
        The width of an operation's line shows the size of its coefficient; negative ones are dashed.
    flow : {"right", "down"}, optional
        Direction from the inputs to the output; by default to the right, or down where only that fits.

    Raises
    ------
    UserError
        When an operation's coefficient is missing or not finite.
    """
    box = ax.get_window_extent()
    width, height = (extent * 72 / ax.figure.dpi for extent in (box.width, box.height))
    flows: tuple[Flow, ...] = (flow,) if flow else ("right", "down")
    diagrams = [_Diagram.of(cell, each) for each in flows]
    shrinks = [min(1.0, width / d.width, height / d.height) for d in diagrams]
    # to the right unless that costs legibility
    diagram = diagrams[0] if shrinks[0] >= max(shrinks) - 1e-3 else diagrams[-1]
    _paint(diagram, ax, title, coefficients, _largest([coefficients]))


def draw_cells(
    genotype: Genotype,
    path: str | FilePath | None = None,
    *,
    coefficients: Mapping[str, CellCoefficients] | None = None,
    title: str | None = None,
    width: float | None = None,
) -> Figure:
    """Draw all kinds of cell of a genotype as a figure for a paper.

    Parameters
    ----------
    genotype : Genotype
        The architecture.
    path : path, optional
        Where to save the figure: .svg, .png or .pdf. The same genotype gives the same bytes.
    coefficients : mapping of kind to (mapping of (node, Edge) to float), optional
        Shown as line widths, on one scale for all kinds of cell.
    title : str, optional
        Title of the figure.
    width : float, optional
        Width of the figure in inches, 3.4 for one column and 7 for two; by default the smaller that fits all cells
        from left to right with ease. Cells too deep for it are drawn downwards. A figure is wider than this where
        text of 7 points asks for it.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    UserError
        When `path` cannot be written or has another suffix, or a coefficient is missing or not finite.
    """
    if path is not None:
        _format(path)
    cells = [(kind, _Diagram.of(cell, "right")) for kind, cell in genotype.cells]
    if width is None:
        column = all(d.easy_size[0] <= 72 * COLUMN_WIDTH - 2 * _MARGIN for _, d in cells)
        width = COLUMN_WIDTH if column else PAGE_WIDTH
    rows = _rows(genotype, cells, 72 * width - 2 * _MARGIN)
    needed = max(sum(d.width for _, d in row) + _BETWEEN_CELLS * (len(row) - 1) for row in rows)
    full = max(72 * width, needed + 2 * _MARGIN)

    heights = [_TITLE_BAND + max(d.easy_size[1] for _, d in row) for row in rows]
    band = _TITLE_BAND if title else 0.0
    total = band + sum(heights) + _BETWEEN_CELLS * (len(rows) - 1) + 2 * _MARGIN
    figure = Figure(figsize=(full / 72, total / 72))
    if title:
        figure.text(
            0.5,
            1 - (_MARGIN + _TITLE_BAND / 2) / total,
            title,
            ha="center",
            va="center",
            family=_FONT,
            size=_TITLE_FONT + 1,
            color=_INK,
        )
    largest = _largest([coefficients.get(kind) for kind in genotype.kinds] if coefficients else [])
    top = total - _MARGIN - band
    for row, height in zip(rows, heights, strict=True):
        # what is left over goes to the cells, in proportion to what they need
        room = full - 2 * _MARGIN - _BETWEEN_CELLS * (len(row) - 1)
        stretch = room / sum(diagram.width for _, diagram in row)
        left = _MARGIN
        for kind, diagram in row:
            wide, high = stretch * diagram.width, height - _TITLE_BAND
            ax = figure.add_axes(
                (left / full, (top - height) / total, wide / full, high / total), label=kind
            )
            if coefficients is None:
                own = None
            elif kind in coefficients:
                own = coefficients[kind]
            else:
                raise UserError(f"no coefficients for the {kind} cell, only for {[*coefficients]}")
            _paint(diagram, ax, f"{kind.capitalize()} cell", own, largest)
            left += wide + _BETWEEN_CELLS
        top -= height + _BETWEEN_CELLS
    if path is not None:
        save_figure(figure, path)
    return figure


def save_figure(figure: Figure, path: str | FilePath) -> None:
    """Save a figure in the format of the path's suffix; the same figure gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    path : path
        A file that ends in .svg, .png or .pdf. Text in SVG and PDF files stays text.

    Raises
    ------
    UserError
        When the path has another suffix or cannot be written.
    """
    suffix = _format(path)
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[suffix]
    settings = {"svg.fonttype": "none", "svg.hashsalt": "isnas", "pdf.fonttype": 42}
    try:
        with matplotlib.rc_context(settings):
            figure.savefig(path, format=suffix, dpi=300, metadata=undated)
    except OSError as error:
        raise UserError(f"figure {str(path)!r} cannot be written ({error.strerror})") from None


def operation_family(operation: str) -> str:
    """Return the family of an operation: pooling, skip, separable, dilated or other.

    Examples
    --------
    >>> operation_family("sep_conv_3x3")
    'separable'
    """
    marks = {"pool": "pooling", "skip": "skip", "identity": "skip"}
    marks |= {"sep_": "separable", "dil_": "dilated"}
    return next((family for mark, family in marks.items() if mark in operation), "other")


def operation_colour(operation: str) -> str:
    """Return the colour, as ``#rrggbb``, of an operation's family."""
    return _FAMILY_COLOURS[operation_family(operation)]


def _format(path: str | FilePath) -> str:
    suffix = FilePath(path).suffix.lower()
    if suffix not in {".svg", ".png", ".pdf"}:
        raise UserError(
            f"figure {str(path)!r} has the suffix {suffix!r}; expected .svg, .png or .pdf"
        )
    return suffix[1:]


def _rows(
    genotype: Genotype, right: list[tuple[str, _Diagram]], room: float
) -> list[list[tuple[str, _Diagram]]]:
    """Choose flows, and whether cells stand side by side, for the width (in points) that there is."""
    cells = []
    for kind, diagram in right:
        if diagram.width > room:
            down = _Diagram.of(genotype[kind], "down")
            diagram = min(diagram, down, key=lambda each: each.width)
        cells.append((kind, diagram))
    if sum(d.easy_size[0] for _, d in cells) + _BETWEEN_CELLS * (len(cells) - 1) <= room:
        return [cells]
    return [[each] for each in cells]


@dataclass(eq=False)
class _Diagram:
    """A cell with everything in its place, in points.

    `along` of a layer is where it begins in the direction of flow; it is settled by `spread`.
    """

    flow: Flow
    layers: list[list[_Thing]]
    links: list[_Link]

    @classmethod
    def of(cls, cell: CellGenotype, flow: Flow) -> _Diagram:
        """Lay out a cell."""
        layers, links = _things(cell)
        for layer in layers:
            sizes = [_size(thing, flow) for thing in layer if thing.role != "lane"]
            along = max((size[0] for size in sizes), default=0.0)
            for thing in layer:
                thing.along = along
                if thing.role != "lane":
                    # room for the lines that enter
                    ports = _PORT * len(thing.before) + 4.0 if thing.role != "operation" else 0.0
                    thing.across = max(_size(thing, flow)[1], ports)
        _arrange(layers)
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


def _things(cell: CellGenotype) -> tuple[list[list[_Thing]], list[_Link]]:
    """Return the boxes and passing lines of a cell layer by layer, and the lines between layers."""
    depth = _depths(cell)
    last = 2 * max(depth) + 1
    layers: list[list[_Thing]] = [[] for _ in range(last + 1)]
    links: list[_Link] = []

    def add(thing: _Thing) -> _Thing:
        layers[thing.layer].append(thing)
        return thing

    def connect(
        role: Literal["state", "output", "operation"],
        start: _Thing,
        end: _Thing,
        key: tuple[int, Edge] | None = None,
    ) -> None:
        link = _Link(role, start, end, key)
        start.after.append(link)
        end.before.append(link)
        links.append(link)

    states = [
        add(_Thing("input", 0, _state_label(cell.inputs - index))) for index in range(cell.inputs)
    ]
    for node, edges in enumerate(cell.nodes):
        states.append(add(_Thing("node", 2 * depth[cell.inputs + node], str(node), pale=not edges)))
    output = add(_Thing("output", last, _state_label(0)))

    readers: dict[int, list[_Thing]] = defaultdict(list)
    for node, edges in enumerate(cell.nodes):
        target = states[cell.inputs + node]
        for edge in sorted(edges, key=lambda edge: edge.source):
            box = add(_Thing("operation", target.layer - 1, edge.operation))
            connect("operation", box, target, (node, edge))
            readers[edge.source].append(box)

    for index, state in enumerate(states):
        read_until = max((box.layer for box in readers[index]), default=0)
        until = last if index in cell.concat else read_until
        end = state
        for layer in range(state.layer + 1, until + 1):
            for box in readers[index]:
                if box.layer == layer:
                    connect("state", end, box)
            if layer == last:
                connect("output", end, output)
            elif layer < until:
                lane = add(_Thing("lane", layer))
                connect("state" if layer < read_until else "output", end, lane)
                end = lane
    # where no node of the first layer reads anything, no operation and no line stands before it
    layers = [layer for layer in layers if layer]
    for index, layer in enumerate(layers):
        for thing in layer:
            thing.layer = index
    return layers, links


def _depths(cell: CellGenotype) -> list[int]:
    """Return for each state the length of the longest path to it, in operations."""
    depth = [0] * cell.inputs
    for edges in cell.nodes:
        depth.append(1 + max((depth[edge.source] for edge in edges), default=0))
    # a node that reads nothing stands next to its first reader, where its line is shortest
    for node, edges in enumerate(cell.nodes):
        if not edges:
            state = cell.inputs + node
            reading = (
                depth[cell.inputs + other] - 1
                for other, edges in enumerate(cell.nodes)
                if any(edge.source == state for edge in edges)
            )
            depth[state] = min(reading, default=max(depth))
    return depth


def _state_label(back: int) -> str:
    """Return the literature's name of the output of the cell `back` before the next."""
    return f"$c_{{k-{back}}}$" if back else "$c_{k}$"


@lru_cache(maxsize=256)
def _text_width(text: str, size: float, math_text: bool) -> float:
    properties = FontProperties(family=_FONT, size=size)
    width, _, _ = TextToPath().get_text_width_height_descent(text, properties, ismath=math_text)
    return float(width)


def _size(thing: _Thing, flow: Flow) -> tuple[float, float]:
    """Return a box's extents along and across the flow, without the room for entering lines."""
    if thing.role == "operation":
        size = (_text_width(thing.label, _OPERATION_FONT, False) + 5.5, 12.5)
    elif thing.role == "node":
        size = (max(16.0, _text_width(thing.label, _NODE_FONT, False) + 8.0), 16.0)
    else:
        size = (_text_width(thing.label, _STATE_FONT, True) + 6.5, 18.0)
    return size if flow == "right" else (size[1], size[0])


def _arrange(layers: list[list[_Thing]]) -> None:
    """Order each layer and give everything its position across the flow."""
    best = math.inf
    settled: list[list[tuple[_Thing, float]]] = []
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


def _orders(layers: list[list[_Thing]]) -> list[tuple[float, list[list[_Thing]]]]:
    """Return the best three orders that several starts lead to, with their crossings."""
    shuffle = random.Random(0).shuffle
    found: dict[tuple[tuple[int, ...], ...], tuple[float, list[list[_Thing]]]] = {}
    for start in range(6):
        order = [list(layer) for layer in layers]
        for layer in order[1:] if start else []:  # the inputs keep their order in all diagrams
            shuffle(layer)
        crossings, order = _uncross(order)
        found.setdefault(tuple(tuple(map(id, layer)) for layer in order), (crossings, order))
    return sorted(found.values(), key=lambda each: each[0])[:3]


def _uncross(order: list[list[_Thing]]) -> tuple[float, list[list[_Thing]]]:
    """Reduce the crossings of an order by sweeps to and fro, until they do not help any more."""
    rank = {thing: float(index) for layer in order for index, thing in enumerate(layer)}

    def sort(layer: list[_Thing], neighbours: dict[_Thing, list[_Thing]]) -> None:
        def mean(thing: _Thing) -> float:
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


def _weight(link: _Link) -> float:
    """Return how much a crossing with this line disturbs."""
    return 0.6 if link.role == "output" else 1.0


def _clashes(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]]) -> float:
    """Return the crossings between the lines of two neighbours, each given as (rank of the other end, weight)."""
    return sum(a * b for p, a in upper for q, b in lower if p > q)


def _exchange(layer: list[_Thing], rank: dict[_Thing, float]) -> int:
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


def _crossings(order: list[list[_Thing]], rank: dict[_Thing, float]) -> float:
    total = 0.0
    for layer in order[:-1]:
        lines = [[(rank[link.end], _weight(link)) for link in thing.after] for thing in layer]
        for index, upper in enumerate(lines):
            total += sum(_clashes(upper, lower) for lower in lines[index + 1 :])
    return total


def _settle(layers: list[list[_Thing]]) -> float:
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


def _assign_ports(layers: list[list[_Thing]]) -> None:
    """Let lines enter their ends in the order of where they come from."""
    rank = {thing: index for layer in layers for index, thing in enumerate(layer)}
    for thing in rank:
        entering = sorted(thing.before, key=lambda link: rank[link.start])
        for index, link in enumerate(entering):
            link.port = _PORT * (index - (len(entering) - 1) / 2)


def _straighten(layers: list[list[_Thing]]) -> None:
    """Take out the bends that are left in passing lines where there is room to, and boxes' very small offsets."""
    room: dict[_Thing, tuple[float, float]] = {}

    def measure(layer: list[_Thing]) -> None:
        for index, thing in enumerate(layer):
            low, high = -math.inf, math.inf
            if index:
                low = layer[index - 1].centre + _separation(layer[index - 1], thing)
            if index + 1 < len(layer):
                high = layer[index + 1].centre - _separation(thing, layer[index + 1])
            room[thing] = (low, high)

    def move(block: list[_Thing], low: float, high: float, furthest: float = math.inf) -> None:
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


def _separation(upper: _Thing, lower: _Thing) -> float:
    """Return the least distance between the centres of two neighbours in a layer."""
    lanes = (upper.role == "lane") + (lower.role == "lane")
    return (upper.across + lower.across) / 2 + (_LANE_GAP if lanes == 2 else _BOX_GAP)


def _stiffness(link: _Link) -> float:
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


def _largest(coefficients: Iterable[CellCoefficients | None]) -> float:
    """Return the largest size of a coefficient."""
    sizes = [abs(value) for each in coefficients if each for value in each.values()]
    return max((size for size in sizes if math.isfinite(size)), default=0.0)


def _paint(
    diagram: _Diagram,
    ax: Axes,
    title: str,
    coefficients: CellCoefficients | None,
    largest: float,
) -> None:
    """Draw a laid-out cell."""
    box = ax.get_window_extent()
    width, height = (extent * 72 / ax.figure.dpi for extent in (box.width, box.height))
    # rounded, lest a figure of the right size get fonts of 6.9999999 points
    scale = min(1.0, round(width / diagram.width, 6), round(height / diagram.height, 6))
    right = diagram.flow == "right"
    begins = diagram.spread((width if right else height) / scale)
    length = begins[-1] + diagram.layers[-1][0].along

    # one unit is one point (as far as there is room), y upwards
    wide, high = (length, diagram.breadth) if right else (diagram.breadth, length)
    ax.set_axis_off()
    ax.set_xlim((wide - width / scale) / 2, (wide + width / scale) / 2)
    ax.set_ylim(-(high + height / scale) / 2, -(high - height / scale) / 2)
    if title:
        ax.set_title(title, family=_FONT, size=_TITLE_FONT, color=_INK, pad=5.0)

    def point(along: float, across: float) -> _Point:
        return _Point(along, -across) if right else _Point(across, -along)

    _paint_links(diagram, ax, begins, point, scale, coefficients, largest)
    for layer, begin in zip(diagram.layers, begins, strict=True):
        for thing in layer:
            if thing.role != "lane":
                corner = point(begin, thing.centre - thing.across / 2)
                opposite = point(begin + thing.along, thing.centre + thing.across / 2)
                _paint_box(thing, ax, corner, opposite, scale)


def _paint_box(thing: _Thing, ax: Axes, corner: _Point, opposite: _Point, scale: float) -> None:
    fill, edge, ink = _NODE_FILL, _INK, _INK
    size = _STATE_FONT
    if thing.role == "operation":
        edge = operation_colour(thing.label)
        fill = _tint(edge)
        size = _OPERATION_FONT
    elif thing.role == "node":
        size = _NODE_FONT
        if thing.pale:
            fill, edge, ink = _PALE_FILL, _PALE_INK, _PALE_INK
    else:
        fill = "white"
    (x0, x1), (y0, y1) = sorted((corner.x, opposite.x)), sorted((corner.y, opposite.y))
    ax.add_artist(
        FancyBboxPatch(
            (x0, y0),
            x1 - x0,
            y1 - y0,
            boxstyle="round,pad=0,rounding_size=3.5",
            facecolor=fill,
            edgecolor=edge,
            linewidth=0.8 * scale,
            linestyle=(0, (3, 2)) if thing.pale else "solid",
            clip_on=False,
            zorder=3,
        )
    )
    math_text = thing.role in ("input", "output")
    # plain labels share a base line, whatever their letters: 0.36 is half the height of a capital or digit
    drop = 0.0 if math_text else 0.36 * size
    ax.text(
        (x0 + x1) / 2,
        (y0 + y1) / 2 - drop,
        thing.label,
        ha="center",
        va="center" if math_text else "baseline",
        family=_FONT,
        size=size * scale,
        color=ink,
        parse_math=math_text,
        zorder=4,
    )


def _paint_links(
    diagram: _Diagram,
    ax: Axes,
    begins: list[float],
    point: Callable[[float, float], _Point],
    scale: float,
    coefficients: CellCoefficients | None,
    largest: float,
) -> None:
    # lines that begin together are one group; those of which all only go to the output lie lowest
    levels = ("output", "state", "operation")
    groups = [
        sorted(thing.after, key=lambda link: levels.index(link.role))
        for layer in diagram.layers
        for thing in layer
    ]
    for group in sorted(filter(None, groups), key=lambda group: levels.index(group[-1].role)):
        lines = []
        for link in group:
            start, end = begins[link.start.layer] + link.start.along, begins[link.end.layer]
            low, high = link.start.centre, link.end.centre + link.port
            width, dashed = _stroke(link, coefficients, largest)
            colour = _line_colour(link)
            headed = link.end.role in ("node", "output")
            head = min(_HEAD, 0.45 * (end - start))
            stop = end - 0.7 * head if headed else end
            middle = (start + stop) / 2
            points = [(start, low), (middle, low), (middle, high), (stop, high)]
            codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
            if link.end.role == "lane":
                points.append((end + link.end.along, high))
                codes.append(Path.LINETO)
            lines.append((Path([point(*each) for each in points], codes), width, dashed, colour))
            if headed:
                half = 1.5 + 0.5 * width
                tip = [(end - head, high - half), (end - 0.3, high), (end - head, high + half)]
                ax.add_artist(
                    Polygon(
                        [point(*each) for each in tip],
                        color=colour,
                        linewidth=0,
                        clip_on=False,
                        zorder=2,
                    )
                )
        # A white border shows which of two crossing lines lies above. Lines of a group get theirs first, or they
        # would cut each other where they branch.
        for path, width, _, _ in lines:
            _paint_line(ax, path, "white", (width + 2.0) * scale)
        for path, width, dashed, colour in lines:
            # without a seam where a passing line goes on
            cap = "butt" if dashed else "projecting"
            _paint_line(ax, path, colour, width * scale, dashed, cap)


def _paint_line(
    ax: Axes,
    path: Path,
    colour: str,
    width: float,
    dashed: bool = False,
    cap: Literal["butt", "projecting"] = "butt",
) -> None:
    ax.add_artist(
        PathPatch(
            path,
            fill=False,
            edgecolor=colour,
            linewidth=width,
            linestyle=(0, (2.5, 1.2)) if dashed else "solid",
            capstyle=cap,
            joinstyle="round",
            clip_on=False,
            zorder=1,
        )
    )


def _line_colour(link: _Link) -> str:
    if link.role == "operation":
        return operation_colour(link.start.label)
    return _STATE_LINE if link.role == "state" else _OUTPUT_LINE


def _stroke(
    link: _Link, coefficients: CellCoefficients | None, largest: float
) -> tuple[float, bool]:
    """Return a line's width, and whether it is dashed."""
    if coefficients is None or link.key is None:
        return _LINE, False
    node, edge = link.key
    value = coefficients.get(link.key)
    if value is None or not math.isfinite(value):
        raise UserError(
            f"the coefficient of {edge.operation} from state {edge.source} to node {node} is "
            f"{value}; expected a finite number"
        )
    share = abs(value) / largest if largest else 0.0
    return _THINNEST + share * (_THICKEST - _THINNEST), value < 0


def _tint(colour: str) -> str:
    """Return a colour lightened so far that black text stands out on it."""
    red, green, blue = (round(255 - 0.27 * (255 - part)) for part in bytes.fromhex(colour[1:]))
    return f"#{red:02x}{green:02x}{blue:02x}"
