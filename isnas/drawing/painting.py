"""Painting of laid-out graphs with Matplotlib, and saving of figures."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path
from matplotlib.textpath import TextToPath

from ..runtime.errors import UserError
from ..runtime.files import write_atomically
from ..spaces.genotype import Edge
from .layout import CellCoefficients, Diagram, Flow, Link, Point, Thing

# Okabe and Ito's palette, told apart with all common kinds of colour blindness
_FAMILY_COLOURS = {
    "pooling": "#E69F00",
    "skip": "#CC79A7",
    "separable": "#0072B2",
    "dilated": "#009E73",
    "other": "#56B4E9",
}
INK = "#222222"
_STATE_LINE = "#666666"
OUTPUT_LINE = "#B5B5B5"
_NODE_FILL = "#E9E9E9"
_PALE_FILL = "#FAFAFA"
_PALE_INK = "#A0A0A0"

# DejaVu Sans comes with Matplotlib: diagrams are measured alike everywhere; a viewer without it takes a narrower one
FONT = ["DejaVu Sans", "sans-serif"]

# All lengths below are points.
OPERATION_FONT = 7.0
NODE_FONT = 8.0
STATE_FONT = 10.0  # its subscript is 0.7 of it: 7 points
TITLE_FONT = 9.0
_HEAD = 5.0
LINE = 1.0
THINNEST, THICKEST = 0.5, 2.8  # heads of neighbours must not touch


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
    write_atomically(path, figure_content(figure, figure_format(path)))


def figure_content(figure: Figure, suffix: str) -> bytes:
    """Return a figure as the content of a file: svg, png or pdf."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[suffix]
    settings = {"svg.fonttype": "none", "svg.hashsalt": "isnas", "pdf.fonttype": 42}
    content = io.BytesIO()
    with matplotlib.rc_context(settings):
        figure.savefig(content, format=suffix, dpi=300, metadata=undated)
    return content.getvalue()


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


def figure_format(path: str | FilePath) -> str:
    suffix = FilePath(path).suffix.lower()
    if suffix not in {".svg", ".png", ".pdf"}:
        raise UserError(
            f"figure {str(path)!r} has the suffix {suffix!r}; expected .svg, .png or .pdf"
        )
    return suffix[1:]


@lru_cache(maxsize=256)
def text_width(text: str, size: float, math_text: bool) -> float:
    properties = FontProperties(family=FONT, size=size)
    width, _, _ = TextToPath().get_text_width_height_descent(text, properties, ismath=math_text)
    return float(width)


def size(thing: Thing, flow: Flow) -> tuple[float, float]:
    """Return a box's extents along and across the flow, without the room for entering lines."""
    if thing.role == "operation":
        size = (text_width(thing.label, OPERATION_FONT, False) + 5.5, 12.5)
    elif thing.role == "node":
        size = (max(16.0, text_width(thing.label, NODE_FONT, False) + 8.0), 16.0)
    else:
        size = (text_width(thing.label, STATE_FONT, True) + 6.5, 18.0)
    return size if flow == "right" else (size[1], size[0])


def paint(
    diagram: Diagram,
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
        ax.set_title(title, family=FONT, size=TITLE_FONT, color=INK, pad=5.0)

    def point(along: float, across: float) -> Point:
        return Point(along, -across) if right else Point(across, -along)

    _paint_links(diagram, ax, begins, point, scale, coefficients, largest)
    for layer, begin in zip(diagram.layers, begins, strict=True):
        for thing in layer:
            if thing.role != "lane":
                corner = point(begin, thing.centre - thing.across / 2)
                opposite = point(begin + thing.along, thing.centre + thing.across / 2)
                paint_box(thing, ax, corner, opposite, scale)


def paint_box(thing: Thing, ax: Axes, corner: Point, opposite: Point, scale: float = 1.0) -> None:
    """Paint the box of a thing between two of its corners."""
    fill, edge, ink = _NODE_FILL, INK, INK
    size = STATE_FONT
    if thing.role == "operation":
        edge = operation_colour(thing.label)
        fill = _tint(edge)
        size = OPERATION_FONT
    elif thing.role == "node":
        size = NODE_FONT
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
        family=FONT,
        size=size * scale,
        color=ink,
        parse_math=math_text,
        zorder=4,
    )


def _paint_links(
    diagram: Diagram,
    ax: Axes,
    begins: list[float],
    point: Callable[[float, float], Point],
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


def _line_colour(link: Link) -> str:
    if link.role == "operation":
        return operation_colour(link.start.label)
    return _STATE_LINE if link.role == "state" else OUTPUT_LINE


def _stroke(
    link: Link, coefficients: CellCoefficients | None, largest: float
) -> tuple[float, bool]:
    """Return a line's width, and whether it is dashed."""
    if coefficients is None or link.key is None:
        return LINE, False
    value, share = share_of(link.key, coefficients, largest)
    return THINNEST + share * (THICKEST - THINNEST), value < 0


def share_of(
    key: tuple[int, Edge], coefficients: CellCoefficients, largest: float
) -> tuple[float, float]:
    """Return an operation's coefficient, and its size as a share of the largest.

    Raises
    ------
    UserError
        When it is missing or not finite.
    """
    node, edge = key
    value = coefficients.get(key)
    if value is None or not math.isfinite(value):
        raise UserError(
            f"the coefficient of {edge.operation} from state {edge.source} to node {node} is "
            f"{value}; expected a finite number"
        )
    return value, abs(value) / largest if largest else 0.0


def _tint(colour: str) -> str:
    """Return a colour lightened so far that black text stands out on it."""
    red, green, blue = (round(255 - 0.27 * (255 - part)) for part in bytes.fromhex(colour[1:]))
    return f"#{red:02x}{green:02x}{blue:02x}"
