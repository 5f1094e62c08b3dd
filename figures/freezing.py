"""How far the sparse code of each node moved between recoveries, and when each node was frozen.

python -m figures.freezing RUN -o freezing.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isnas.drawing import PAGE_WIDTH
from isnas.runs.records import RunRecord, Trajectory

from ._command import Parser, run_command
from ._runs import heading, trajectories_of
from ._style import (
    COLOURS,
    FONT_SIZE,
    INK,
    MARKERS,
    new_figure,
    note,
    plain_log_labels,
    tidy,
    whole_numbers,
)


def draw_freezing(
    codes: Sequence[Trajectory], ax: Axes, *, threshold: float | None = None, title: str = ""
) -> None:
    """Draw ||z_t - z_(t-1)||, of the active places, of some nodes on a log axis.

    Parameters
    ----------
    codes : sequence of Trajectory
    ax : matplotlib.axes.Axes
    threshold : float, optional
        A node that moves no more than this is frozen.
    title : str
    """
    lowest = [threshold] if threshold else []
    for i, code in enumerate(codes):
        end = len(code) if code.frozen_at is None else code.frozen_at + 1
        t = np.arange(1, end)
        moved = np.where(
            code.moved[1:end] > 0, code.moved[1:end], np.nan
        )  # none: not on a log axis
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        state = ": not frozen" if threshold else ""
        if code.frozen_at is not None:
            state = f": frozen after {code.frozen_at}"
        ax.plot(
            t,
            moved,
            color=colour,
            linewidth=1.0,
            marker=marker,
            markersize=2.8,
            label=f"node {code.node}{state}",
        )
        if code.frozen_at is not None and len(t):
            last = [t[-1]], [moved[-1]]
            ax.plot(*last, marker="o", markersize=7, mfc="none", mec=INK, mew=0.8, linestyle="")
        lowest += moved[np.isfinite(moved)].tolist()
    tidy(
        ax,
        xlabel="epochs of search",
        ylabel="movement of z since the last recovery",
        title=title,
    )
    whole_numbers([ax])
    if threshold:
        ax.axhline(threshold, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), label="threshold")
    if lowest:
        ax.set_yscale("log")
        plain_log_labels(ax.yaxis)
    if all(len(code) < 2 for code in codes):
        note(ax, "one recovery so far: nothing has moved yet")
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncols=2,
        fontsize=FONT_SIZE,
        frameon=False,
        labelcolor=INK,
        handlelength=2.4,
    )


def make_figure(run: RunRecord) -> Figure:
    """Return the figure of a run: an axis for each kind of cell.

    Raises
    ------
    UserError
        When the run has no sparse codes.
    """
    kinds = trajectories_of(run)
    # a legend of many nodes takes room of its own
    entries = max(map(len, kinds.values()))
    figure = new_figure(PAGE_WIDTH, 2.9 + 0.07 * max(0, entries - 5))
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    threshold = run.options.get("freeze_threshold")
    for ax, codes in zip(axes, kinds.values(), strict=True):
        draw_freezing(codes, ax, threshold=threshold, title=heading(codes))
    for ax in axes[1:]:
        ax.set_ylabel("")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("freezing", "How far each node's z moves, and when the node is frozen.")
    parser.add_argument("run", metavar="RUN", help="a run of isnas search or train")

    def draw(given: argparse.Namespace) -> Figure:
        return make_figure(RunRecord(given.run))

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
