"""Diagrams of found cells.

A cell is drawn in layers, with the operations as boxes of their own between the states:

    inputs | operations | nodes | operations | nodes | ... | output

An operation stands just before the node that it belongs to. Diagrams are laid out in points at their printed size, so
that no text has to shrink.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..runtime.errors import UserError
from ..spaces.base import Space
from ..spaces.darts import DARTS_SPACE
from ..spaces.genotype import CellGenotype, Edge, Genotype
from .layers import layers_figure
from .layout import PORT, CellCoefficients, Diagram, Flow, Link, Thing
from .painting import (
    FONT,
    INK,
    OPERATION_FONT,
    THICKEST,
    THINNEST,
    TITLE_FONT,
    figure_format,
    paint,
    save_figure,
    size,
    text_width,
)

COLUMN_WIDTH = 3.4
"""Width of one column of a two-column paper, in inches."""
PAGE_WIDTH = 7.0
"""Width of both columns, in inches."""

_MARGIN = 2.0
_TITLE_BAND = 17.0
_BETWEEN_CELLS = 14.0
_KEY_BAND = 14.0
_KEY_LINE = 16.0


def draw_cell(
    cell: CellGenotype,
    ax: Axes,
    *,
    space: Space = DARTS_SPACE,
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
    space : Space
        The space of the cell: it names the states.
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
    diagrams = [_diagram(cell, each, space) for each in flows]
    shrinks = [min(1.0, width / d.width, height / d.height) for d in diagrams]
    # to the right unless that costs legibility
    diagram = diagrams[0] if shrinks[0] >= max(shrinks) - 1e-3 else diagrams[-1]
    paint(diagram, ax, title, coefficients, _largest([coefficients]))


def draw_cells(
    genotype: Genotype | str | FilePath,
    path: str | FilePath | None = None,
    *,
    coefficients: Mapping[str, CellCoefficients] | None = None,
    title: str | None = None,
    width: float | None = None,
) -> Figure:
    """Draw all kinds of cell of a genotype as a figure for a paper, or its layers where the space is one of layers.

    Parameters
    ----------
    genotype : Genotype, str or path
        The architecture, the name of a published one, or a file with one.
    path : path, optional
        Where to save the figure: .svg, .png or .pdf. The same genotype gives the same bytes.
    coefficients : mapping of kind to (mapping of (node, Edge) to float), optional
        Shown as line widths, on one scale for all kinds of cell, with a key.
    title : str, optional
        Title of the figure.
    width : float, optional
        Width of the figure in inches, 3.4 for one column and 7 for two; by default the smaller that fits all cells
        from left to right with ease. Cells too deep for it are drawn downwards. A figure is wider than this where
        text of 7 points asks for it. Layers take what they need.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    UserError
        When `path` cannot be written or has another suffix, or a coefficient is missing or not finite.
    """
    genotype = Genotype.meant(genotype)
    if path is not None:
        figure_format(path)
    if genotype.space.drawing == "layers":
        (kind,) = genotype.kinds
        own = None if coefficients is None else coefficients[kind]
        figure = layers_figure(genotype, own, _largest([own]), title or "")
        if path is not None:
            save_figure(figure, path)
        return figure
    cells = [(kind, _diagram(cell, "right", genotype.space)) for kind, cell in genotype.cells]
    if width is None:
        column = all(d.easy_size[0] <= 72 * COLUMN_WIDTH - 2 * _MARGIN for _, d in cells)
        width = COLUMN_WIDTH if column else PAGE_WIDTH
    rows = _rows(genotype, cells, 72 * width - 2 * _MARGIN)
    needed = max(sum(d.width for _, d in row) + _BETWEEN_CELLS * (len(row) - 1) for row in rows)
    full = max(72 * width, needed + 2 * _MARGIN)

    heights = [_TITLE_BAND + max(d.easy_size[1] for _, d in row) for row in rows]
    band = _TITLE_BAND if title else 0.0
    largest = _largest([coefficients.get(kind) for kind in genotype.kinds] if coefficients else [])
    key = _KEY_BAND if largest else 0.0
    total = band + sum(heights) + _BETWEEN_CELLS * (len(rows) - 1) + 2 * _MARGIN + key
    figure = Figure(figsize=(full / 72, total / 72))
    if title:
        figure.text(
            0.5,
            1 - (_MARGIN + _TITLE_BAND / 2) / total,
            title,
            ha="center",
            va="center",
            family=FONT,
            size=TITLE_FONT + 1,
            color=INK,
        )
    if coefficients and largest:
        negative = any(value < 0 for cell in coefficients.values() for value in cell.values())
        _draw_key(figure, largest, negative)
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
            paint(diagram, ax, genotype.space.kind_label(kind), own, largest)
            left += wide + _BETWEEN_CELLS
        top -= height + _BETWEEN_CELLS
    if path is not None:
        save_figure(figure, path)
    return figure


def _draw_key(figure: Figure, largest: float, negative: bool) -> None:
    """Say along the lower edge which coefficient a line's width stands for, and what dashes are."""
    full, total = (72 * float(extent) for extent in figure.get_size_inches())
    entries = [(f"{largest:.2g}", THICKEST, False), ("0", THINNEST, False)]
    if negative:
        entries.append(("negative", (THICKEST + THINNEST) / 2, True))
    left, middle = 2 * _MARGIN, _MARGIN + _KEY_BAND / 2
    words = {"va": "center", "family": FONT, "size": OPERATION_FONT, "color": INK}
    for text, line_width, dashed in (("coefficient:", 0.0, False), *entries):
        if line_width:
            x = [left / full, (left + _KEY_LINE) / full]
            dashes = (0, (2.5, 1.2)) if dashed else "solid"
            style = {"linewidth": line_width, "linestyle": dashes, "color": INK}
            figure.add_artist(Line2D(x, [middle / total] * 2, solid_capstyle="butt", **style))
            left += _KEY_LINE + 3
        figure.text(left / full, middle / total, text, ha="left", **words)
        left += text_width(text, OPERATION_FONT, False) + 10


def _rows(
    genotype: Genotype, right: list[tuple[str, Diagram]], room: float
) -> list[list[tuple[str, Diagram]]]:
    """Choose flows, and whether cells stand side by side, for the width (in points) that there is."""
    cells = []
    for kind, diagram in right:
        if diagram.width > room:
            down = _diagram(genotype[kind], "down", genotype.space)
            diagram = min(diagram, down, key=lambda each: each.width)
        cells.append((kind, diagram))
    if sum(d.easy_size[0] for _, d in cells) + _BETWEEN_CELLS * (len(cells) - 1) <= room:
        return [cells]
    return [[each] for each in cells]


def _diagram(cell: CellGenotype, flow: Flow, space: Space) -> Diagram:
    """Lay out a cell."""
    layers, links = _things(cell, space)
    for layer in layers:
        sizes = [size(thing, flow) for thing in layer if thing.role != "lane"]
        along = max((size[0] for size in sizes), default=0.0)
        for thing in layer:
            thing.along = along
            if thing.role != "lane":
                # room for the lines that enter
                ports = PORT * len(thing.before) + 4.0 if thing.role != "operation" else 0.0
                thing.across = max(size(thing, flow)[1], ports)
    return Diagram.of(layers, links, flow)


def _things(cell: CellGenotype, space: Space) -> tuple[list[list[Thing]], list[Link]]:
    """Return the boxes and passing lines of a cell layer by layer, and the lines between layers."""
    depth = _depths(cell)
    last = 2 * max(depth) + 1
    layers: list[list[Thing]] = [[] for _ in range(last + 1)]
    links: list[Link] = []

    def add(thing: Thing) -> Thing:
        layers[thing.layer].append(thing)
        return thing

    def connect(
        role: Literal["state", "output", "operation"],
        start: Thing,
        end: Thing,
        key: tuple[int, Edge] | None = None,
    ) -> None:
        link = Link(role, start, end, key)
        start.after.append(link)
        end.before.append(link)
        links.append(link)

    shift = (
        space.inputs - cell.inputs
    )  # a cell with fewer inputs than the space's has the last ones
    states = [
        add(Thing("input", 0, space.state_label(index + shift))) for index in range(cell.inputs)
    ]
    for node, edges in enumerate(cell.nodes):
        state = cell.inputs + node
        label = space.state_label(state + shift)
        states.append(add(Thing("node", 2 * depth[state], label, pale=not edges)))
    output = add(Thing("output", last, space.output_label))

    readers: dict[int, list[Thing]] = defaultdict(list)
    for node, edges in enumerate(cell.nodes):
        target = states[cell.inputs + node]
        for edge in sorted(edges, key=lambda edge: edge.source):
            box = add(Thing("operation", target.layer - 1, edge.operation))
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
                lane = add(Thing("lane", layer))
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


def _largest(coefficients: Iterable[CellCoefficients | None]) -> float:
    """Return the largest size of a coefficient."""
    sizes = [abs(value) for each in coefficients if each for value in each.values()]
    return max((size for size in sizes if math.isfinite(size)), default=0.0)
