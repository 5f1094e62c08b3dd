"""Movement of the sparse code of each node between recoveries, and the time when each node was frozen.

A node is frozen when it has *settled*: it moved by no more than the threshold. One that has not by the last epoch of
the search is *cut off* there, as it is.

python -m figures.freezing RUN -o freezing.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isnas.drawing import PAGE_WIDTH
from isnas.runs.records import RunRecord, Trajectory
from isnas.runtime.errors import UserError

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

_MARK = {"markersize": 7, "markeredgecolor": INK, "markeredgewidth": 0.8, "linestyle": ""}
_SETTLED = {"marker": "o", "markerfacecolor": "none", **_MARK}
_CUT_OFF = {"marker": "x", **_MARK}


@dataclass(frozen=True)
class Freezing:
    """The rule that says when nodes are frozen, see `isnas.searches.one_stage.OneStageOptions`.

    Parameters
    ----------
    threshold : float
        A node that moves no more than this has settled.
    limit : int or None
        Epochs of search at most: what has not settled then is cut off.
    by_cut : bool
        Whether it is what the cut leaves of z whose movement counts, not the whole solution.
    floor : float
        A node has not settled before ||z|| is this many times the threshold.
    """

    threshold: float
    limit: int | None = None
    by_cut: bool = False
    floor: float = 0.0

    @classmethod
    def of(cls, run: RunRecord) -> Freezing:
        """Return that of a run.

        Raises
        ------
        UserError
            When no node is ever frozen in such a run.
        """
        options = run.options
        if "freeze_threshold" not in options:
            raise UserError(f"{run.directory} is a run of {run.method}: no node is frozen in it")
        return cls(
            options["freeze_threshold"],
            options.get("search_epochs"),
            options.get("freeze_by") == "cut",
            options.get("freeze_floor", 0.0),
        )

    def movement(self, code: Trajectory) -> np.ndarray:
        """Return by how much a node's z moved from recovery to recovery, (R,); inf at the first."""
        if not self.by_cut:
            return code.moved
        cut = np.zeros_like(code.z)
        np.put_along_axis(cut, code.support, np.take_along_axis(code.z, code.support, 1), axis=1)
        return np.array([np.inf, *np.linalg.norm(np.diff(cut, axis=0), axis=1)])

    def cut_off(self, code: Trajectory) -> bool:
        """Return whether a node was frozen by the limit alone."""
        at = code.frozen_at
        if at is None or at != self.limit:
            return False
        moved, size = self.movement(code)[at], np.linalg.norm(code.z[at])
        return bool(moved > self.threshold or size < self.floor * self.threshold)


def draw_freezing(
    codes: Sequence[Trajectory], ax: Axes, freezing: Freezing, *, title: str = ""
) -> None:
    """Draw ||z_t - z_(t-1)|| of some nodes on a log axis, and how each came to be frozen.

    Parameters
    ----------
    codes : sequence of Trajectory
    ax : matplotlib.axes.Axes
    freezing : Freezing
    title : str
    """
    threshold = freezing.threshold
    lowest = [threshold] if threshold else []
    marks: dict[str, dict[str, Any]] = {}
    for i, code in enumerate(codes):
        end = len(code) if code.frozen_at is None else code.frozen_at + 1
        t = np.arange(1, end)
        moved = freezing.movement(code)[1:end]
        moved = np.where(moved > 0, moved, np.nan)  # none: not on a log axis
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        state = ": not frozen"
        cut_off = freezing.cut_off(code)
        if code.frozen_at is not None:
            state = f": {'cut off' if cut_off else 'settled'} after {code.frozen_at}"
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
            style = _CUT_OFF if cut_off else _SETTLED
            ax.plot(*last, **style)
            marks["cut off" if cut_off else "settled"] = style
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
    for label, style in marks.items():
        ax.plot([], [], **style, label=label)
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
        When the run has no sparse codes, or no node is ever frozen in it.
    """
    kinds = trajectories_of(run)
    rule = Freezing.of(run)
    # a legend of many nodes takes room of its own
    entries = max(map(len, kinds.values()))
    figure = new_figure(PAGE_WIDTH, 3.1 + 0.07 * max(0, entries - 5))
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for ax, codes in zip(axes, kinds.values(), strict=True):
        draw_freezing(codes, ax, rule, title=heading(run.space, codes))
    for ax in axes[1:]:
        ax.set_ylabel("")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("freezing", "How far each node's z moves, and when the node is frozen.")
    parser.add_argument("run", metavar="RUN", help="a run of isnas train")

    def draw(given: argparse.Namespace) -> Figure:
        return make_figure(RunRecord(given.run))

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
