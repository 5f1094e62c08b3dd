"""The sparsity of each node's code over the recoveries.

A heat map of z for every node (candidates from top to bottom, each recovery a column), the places that were active
framed; beneath it the number of non-zeros, the share of ||z||_1 in the active places, and how many of them are new.

python -m figures.sparsity RUN [--kind KIND] -o sparsity.svg
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from isnas.drawing import PAGE_WIDTH
from isnas.runs.records import RunRecord, Trajectory
from isnas.runtime.errors import UserError
from isnas.spaces.base import Space

from ._command import Parser, run_command
from ._node_code import (
    COLOUR_MAP,
    colour_norm,
    draw_course,
    draw_heat_map,
    label_candidates,
    shares,
)
from ._runs import heading, trajectories_of
from ._style import COLOURS, FONT_SIZE, INK, PALE, tidy

# Layout in inches; a row is as high as its label.
_ROW = 0.103
_LEFT, _RIGHT, _GAP = 0.72, 1.0, 0.12
_KEY, _TITLE, _FOOT = 0.5, 0.2, 0.38
_COURSE, _COURSE_GAP = 0.27, 0.08
_MOST = 8  # nodes in a line


def make_figure(run: RunRecord, kinds: Sequence[str] | None = None) -> Figure:
    """Return the figure of a run: for each kind of cell a row of its nodes, or several rows where they are many.

    Parameters
    ----------
    run : RunRecord
    kinds : sequence of str, optional
        The kinds of cell; by default all.

    Raises
    ------
    UserError
        When the run has no sparse codes, or no such kind of cell.
    """
    found = trajectories_of(run)
    if unknown := set(kinds or ()) - set(found):
        raise UserError(f"no kind of cell is called {min(unknown)!r}; there are {', '.join(found)}")
    lines = [line for kind in kinds or found for line in _lines(found[kind])]
    heights = [max(len(code.places) for code in line) for line in lines]
    around = _TITLE + 3 * (_COURSE + _COURSE_GAP) + _FOOT
    top = _KEY + sum(around + rows * _ROW for rows in heights)
    figure = Figure(figsize=(PAGE_WIDTH, top))
    everything = [code for line in lines for code in line]
    scale = max(np.nanmax(np.abs(shares(code)), initial=1e-9) for code in everything)
    top -= _KEY
    for line, rows in zip(lines, heights, strict=True):
        _draw_line(figure, line, top, rows, scale, run.space)
        top -= around + rows * _ROW
    _draw_key(
        figure,
        scale,
        any(code.frozen[:-1].any() for code in everything),
        everything[0].refused.any(),
    )
    return figure


def _lines(codes: Sequence[Trajectory]) -> list[Sequence[Trajectory]]:
    """Return the nodes in lines as long as each other, or shorter by one."""
    number = math.ceil(len(codes) / _MOST)
    ends = [len(codes) * i // number for i in range(number + 1)]
    return [codes[i:j] for i, j in itertools.pairwise(ends)]


def _draw_line(
    figure: Figure,
    codes: Sequence[Trajectory],
    top: float,
    rows: int,
    scale: float,
    space: Space,
) -> None:
    """Draw some nodes of a kind of cell side by side, `top` inches above the figure's lower edge."""
    height = figure.get_figheight()
    width = (PAGE_WIDTH - _LEFT - _RIGHT + _GAP) / len(codes) - _GAP

    def add_axes(left: float, upper: float, high: float) -> Axes:
        box = (left, upper - high, width, high)
        whole = (PAGE_WIDTH, height, PAGE_WIDTH, height)
        return figure.add_axes([part / of for part, of in zip(box, whole, strict=True)])

    middle = top - _TITLE - rows * _ROW / 2
    figure.text(
        0.2 / PAGE_WIDTH,
        middle / height,
        heading(space, codes),
        rotation=90,
        ha="center",
        va="center",
        fontsize=FONT_SIZE + 2,
        color=INK,
    )
    # of equals the last, which has room to its right
    longest = max(reversed(codes), key=lambda code: len(code.places))
    for j, code in enumerate(codes):
        left = _LEFT + j * (width + _GAP)
        upper = top - _TITLE
        ax = add_axes(left, upper, len(code.places) * _ROW)
        draw_heat_map(code, ax, scale=scale)
        if code is longest:
            label_candidates(code, ax, space)
        upper -= rows * _ROW
        axes = []
        for _ in range(3):
            upper -= _COURSE_GAP
            axes.append(add_axes(left, upper, _COURSE))
            upper -= _COURSE
        draw_course(code, axes, codes)
        axes[2].set_xlabel("epochs of search", fontsize=FONT_SIZE, color=INK, labelpad=2)
        for ax, text in zip(axes, ("non-\nzeros", "concen-\ntration", "new\nplaces"), strict=True):
            if j == 0:
                ax.set_ylabel(
                    text, fontsize=FONT_SIZE, color=INK, rotation=0, ha="left", va="center"
                )
                ax.yaxis.set_label_coords(-0.62 / width, 0.5)
            else:
                ax.tick_params(labelleft=False)


def _draw_key(figure: Figure, scale: float, frozen: bool, refused: bool) -> None:
    """Draw what colours and marks mean, along the upper edge."""
    height = figure.get_figheight()
    bar = figure.add_axes((_LEFT / PAGE_WIDTH, 1 - 0.2 / height, 0.27, 0.11 / height))
    colours = ScalarMappable(colour_norm(scale), COLOUR_MAP)
    # the quarter of the end stands in the middle of a scale of square roots
    end = np.floor(10 * scale) / 10 if scale >= 0.1 else scale
    ticks = [-end, -end / 4, 0, end / 4, end]
    figure.colorbar(colours, cax=bar, orientation="horizontal", ticks=ticks, format="{x:.3g}")
    tidy(bar, xlabel="z, as a share of its l1 norm (colours go by its square root)")
    marks = [Patch(facecolor="none", edgecolor=INK, linewidth=0.8, label="active")]
    if frozen:
        marks.append(Patch(facecolor=PALE, label="frozen"))
    if refused:
        style = {"color": COLOURS[1], "markersize": 4, "linestyle": ""}
        marks.append(Line2D([], [], marker="x", label="refused: too large", **style))
    figure.legend(
        handles=marks,
        loc="upper right",
        bbox_to_anchor=(1 - 0.05 / PAGE_WIDTH, 1 - 0.02 / height),
        ncols=len(marks),
        fontsize=FONT_SIZE,
        frameon=False,
        labelcolor=INK,
        borderpad=0.2,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("sparsity", "z of every node over the recoveries, and how sparse it is.")
    parser.add_argument("run", metavar="RUN", help="a run of isnas search or train")
    parser.add_argument("--kind", action="append", help="this kind of cell only, e.g. normal")

    def draw(given: argparse.Namespace) -> Figure:
        return make_figure(RunRecord(given.run), given.kind)

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
