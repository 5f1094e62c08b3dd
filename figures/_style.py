"""The style of all figures: sizes, colours, axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from isnas.tasks.base import Measure

FONT_SIZE = 7.0
"""The smallest text, in points at the printed size. So nothing is set as a subscript."""

# Okabe and Ito's palette: told apart with all common kinds of colour blindness; yellow is left out, too pale for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p", "d")
INK = "#222222"
GREY = "#8C8C8C"
PALE = "#E4E4E4"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that keeps its texts apart."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.03)
    return figure


def look(i: int) -> dict[str, Any]:
    """Return colour and marker of the i-th of several; from the second round of colours on markers are hollow."""
    colour = COLOURS[i % len(COLOURS)]
    hollow = (i // len(COLOURS)) % 2 == 1
    marker = MARKERS[i % len(MARKERS)]
    return {"color": colour, "marker": marker, "markerfacecolor": "white" if hollow else colour}


def tidy(ax: Axes, *, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    """Give an axis the common look and its labels."""
    ax.tick_params(labelsize=FONT_SIZE, labelcolor=INK, color=GREY, width=0.6, length=2.5, pad=2)
    ax.tick_params(which="minor", color=GREY, width=0.4, length=1.5)
    for side, spine in ax.spines.items():
        spine.set(linewidth=0.6, color=GREY, visible=side in ("left", "bottom"))
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_offset_text().set_fontsize(FONT_SIZE)
    ax.set_xlabel(xlabel, fontsize=FONT_SIZE, color=INK, labelpad=2)
    ax.set_ylabel(ylabel, fontsize=FONT_SIZE, color=INK, labelpad=3)
    if title:
        ax.set_title(title, fontsize=FONT_SIZE + 1, color=INK, pad=4)


def whole_numbers(axes: Iterable[Axes], most: int = 6) -> None:
    """Put ticks of the x axes at whole numbers only."""
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))


def plain_log_labels(axis: Axis) -> None:
    """Label a log axis with whole numbers such as 0.01 or 1e-6: exponents in superscript would be too small."""
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("e-0", "e-")))
    axis.set_minor_formatter(NullFormatter())


def reach(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the limits of an axis for values and their intervals.

    An interval, which can be huge where there are two seeds only, counts so far as it goes beyond the values by no more
    than the range of the values.
    """
    low, high = min(values), max(values)
    room = (high - low) or max(abs(high), 1.0)
    ends = [end for interval in intervals for end in interval if np.isfinite(end)]
    low, high = (
        min([low, *(max(end, low - room) for end in ends)]),
        max([high, *(min(end, high + room) for end in ends)]),
    )
    margin = 0.05 * ((high - low) or room)
    return low - margin, high + margin


def legend_below(figure: Figure, axes: Iterable[Axes], columns: int, title: str = "") -> None:
    """Put one legend for all axes under them; a label that several have is shown once.

    The title says in a line what marks, bars and bands are.
    """
    entries = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=min(columns, len(entries)),
            title=title or None,
            title_fontsize=FONT_SIZE,
            fontsize=FONT_SIZE,
            labelcolor=INK,
            frameon=False,
            handlelength=2.4,
            columnspacing=1.4,
        )


def note(ax: Axes, text: str) -> None:
    """Say in the middle of an axis why it is empty."""
    ax.text(
        0.5,
        0.5,
        text,
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=FONT_SIZE,
        color=GREY,
    )


def axis_label(measure: Measure, what: str = "test") -> str:
    """Return the label of an axis that shows a measure, such as ``test accuracy (%)``."""
    unit = f" ({measure.unit})" if measure.unit else ""
    better = "" if measure.higher_is_better else ", lower is better"
    return f"{what} {measure.name}{unit}{better}"
