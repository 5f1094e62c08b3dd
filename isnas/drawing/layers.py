"""Diagrams of networks of layers, with any number of skip connections.

Layers stand below each other, each a box with its operation. Every state has a lane of its own to the right, which
runs down to the last layer that reads it. A layer reads a lane where there is a dot, and brings what it reads to its
box by one line: with lines of their own, the hundred skips of a network of 24 layers could not be told apart. Where a
state could be read and is not, there is a small pale dot.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon

from ..spaces.genotype import Edge, Genotype
from .layout import CellCoefficients, Point, Thing
from .painting import (
    FONT,
    INK,
    LINE,
    OPERATION_FONT,
    OUTPUT_LINE,
    THICKEST,
    THINNEST,
    TITLE_FONT,
    operation_colour,
    paint_box,
    share_of,
    text_width,
)

# All lengths are points.
_ROW = 19.0
_BOX = 12.5
_NUMBERS = 20.0  # of the layers, left of the boxes
_LANE = 9.0
_BEFORE_LANES = 12.0
_MARGIN = 6.0
_TITLE_BAND = 17.0
_DOT, _SMALL_DOT, _LARGE_DOT, _NO_DOT = 2.3, 1.1, 3.3, 0.8
_READ, _WRITE = (
    2.6,
    -2.8,
)  # from the middle of a box: where its reading line enters, and its state leaves
_PALE = "#CFCFCF"


def layers_figure(
    genotype: Genotype, coefficients: CellCoefficients | None, largest: float, title: str = ""
) -> Figure:
    """Return the figure of a genotype with one kind of cell, whose nodes are layers.

    The operation of a layer reads the state before it; all else that the layer reads are skips.

    Parameters
    ----------
    genotype : Genotype
    coefficients : mapping of (node, Edge) to float or None
        The width of the line into an operation and the size of a skip's dot show the size of a coefficient; where it
        is negative the line is dashed, the dot hollow.
    largest : float
        The coefficient of the largest width.
    title : str

    Raises
    ------
    UserError
        When a coefficient is missing or not finite.
    """
    ((_, cell),) = genotype.cells
    space = genotype.space
    layers = [_parted(node + cell.inputs - 1, edges) for node, edges in enumerate(cell.nodes)]
    names = [space.state_label(i) for i in range(cell.inputs)]
    labels = [*names, *(operation.operation for operation, _ in layers)]
    box = max(text_width(label, OPERATION_FONT, False) for label in labels) + 8.0
    left = _MARGIN + _NUMBERS
    lanes = left + box + _BEFORE_LANES
    readable = [
        {place.source for place in space.candidates(node)} - {node + cell.inputs - 1}
        for node in range(len(layers))
    ]
    last_lane = max((max(sources) for sources in readable if sources), default=None)
    right = left + box if last_lane is None else lanes + _LANE * last_lane + 3.0
    width = right + _MARGIN
    band = _TITLE_BAND if title else 0.0
    height = band + _ROW * (len(labels) + 1) + 2 * _MARGIN
    figure = Figure(figsize=(width / 72, height / 72))
    ax = figure.add_axes((0, 0, 1, 1), label=genotype.kinds[0])
    ax.set_axis_off()
    ax.set_xlim(0, width)
    ax.set_ylim(-height, 0)
    if title:
        _write(ax, width / 2, -_MARGIN - band / 2, title, TITLE_FONT + 1, "center", INK)

    def row(state: int) -> float:
        return -(_MARGIN + band + _ROW * (state + 0.5))

    def lane(state: int) -> float:
        return lanes + _LANE * state

    last_reader = {edge.source: node for node, (_, skips) in enumerate(layers) for edge in skips}
    for state, node in sorted(last_reader.items()):
        begin, end = row(state) + _WRITE, row(node + cell.inputs) + _READ
        _line(ax, (left + box, lane(state), lane(state)), (begin, begin, end), OUTPUT_LINE, LINE)
    middle = left + box / 2
    for node, (operation, skips) in enumerate(layers):
        state = node + cell.inputs
        y = row(state) + _READ
        brought = {edge.source: edge for edge in skips}
        for source in readable[node] - set(brought):
            _dot(ax, lane(source), y, _NO_DOT, _PALE)
        if brought:
            _line(ax, (left + box, lane(max(brought))), (y, y), INK, LINE)
            _head(ax, Point(left + box, y), Point(-1, 0), INK)
        for source, edge in brought.items():
            size, hollow = _DOT, False
            if coefficients is not None:
                value, share = share_of((node, edge), coefficients, largest)
                size, hollow = _SMALL_DOT + share * (_LARGE_DOT - _SMALL_DOT), value < 0
            _dot(ax, lane(source), y, size, INK, hollow)
        thickness, dashed = LINE, False
        if coefficients is not None:
            value, share = share_of((node, operation), coefficients, largest)
            thickness, dashed = THINNEST + share * (THICKEST - THINNEST), value < 0
        begin, end = row(state - 1) - _BOX / 2, row(state) + _BOX / 2
        colour = operation_colour(operation.operation)
        _line(ax, (middle, middle), (begin, end), colour, thickness, dashed)
        if node in getattr(space, "reduced_after", ()):
            y = row(state) - _ROW / 2
            _line(ax, (_MARGIN, width - _MARGIN), (y, y), _PALE, 0.8, True, below=True)
    end = row(len(labels) - 1) - _BOX / 2
    _line(ax, (middle, middle), (end, end - _ROW / 2), OUTPUT_LINE, LINE)
    _head(ax, Point(middle, end - _ROW / 2), Point(0, -1), OUTPUT_LINE)
    for state, label in enumerate(labels):
        y = row(state)
        role = "operation" if state >= cell.inputs else "node"
        corners = Point(left, y - _BOX / 2), Point(left + box, y + _BOX / 2)
        paint_box(Thing(role, 0, label), ax, *corners)
        if state >= cell.inputs:
            name = space.state_label(state)
            _write(ax, left - 5.0, y, name, OPERATION_FONT, "right", "#666666")
    return figure


def _parted(before: int, edges: tuple[Edge, ...]) -> tuple[Edge, list[Edge]]:
    """Return a layer's operation, which reads the state `before` it, and its skips."""
    (operation,) = (edge for edge in edges if edge.source == before)
    return operation, [edge for edge in edges if edge.source != before]


def _write(ax: Axes, x: float, y: float, text: str, size: float, side: str, colour: str) -> None:
    ax.text(
        x, y, text, ha=side, va="center_baseline", family=FONT, size=size, color=colour, zorder=4
    )


def _line(
    ax: Axes,
    x: tuple[float, ...],
    y: tuple[float, ...],
    colour: str,
    width: float,
    dashed: bool = False,
    below: bool = False,
) -> None:
    ax.add_line(
        Line2D(
            x,
            y,
            color=colour,
            linewidth=width,
            linestyle=(0, (2.5, 1.2)) if dashed else "solid",
            solid_joinstyle="round",
            solid_capstyle="butt",
            zorder=0 if below else 1,
        )
    )


def _head(ax: Axes, tip: Point, way: Point, colour: str) -> None:
    """Draw the head of an arrow that goes a way of length 1."""
    back = Point(tip.x - 4.0 * way.x, tip.y - 4.0 * way.y)
    corners = [
        (back.x - 1.8 * way.y, back.y + 1.8 * way.x),
        tip,
        (back.x + 1.8 * way.y, back.y - 1.8 * way.x),
    ]
    ax.add_patch(Polygon(corners, color=colour, linewidth=0, zorder=2))


def _dot(ax: Axes, x: float, y: float, radius: float, colour: str, hollow: bool = False) -> None:
    fill = "white" if hollow else colour
    # the pale ones below the lines, which they would cut
    level = 0.5 if colour == _PALE else 3
    ax.add_patch(
        Circle((x, y), radius, facecolor=fill, edgecolor=colour, linewidth=0.7, zorder=level)
    )
