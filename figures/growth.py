"""Growth of time and memory of a search step with the size of the problem.

    python -m figures.growth benchmarks/results/growth -o growth.svg

The directory is what ``benchmarks/growth.py`` wrote.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from isnas.comparison.rows import read_rows
from isnas.drawing import PAGE_WIDTH
from isnas.runtime.errors import UserError

from ._command import Parser, run_command
from ._style import COLOURS, MARKERS, legend_below, new_figure, plain_log_labels, tidy

_TITLES = {
    "channels": "channels",
    "cells": "cells",
    "batch_size": "batch size",
    "candidates": "candidate operations\nof an edge",
    "s": "active operations\nof a node, s",
}
_NAMES = {
    "discrete": "discrete network",
    "sparse": "sparse code: s operations of a node",
    "all candidates": "all candidates, as DARTS",
}


def draw(directory: str | Path) -> Figure:
    """Return the figure: a column for what is varied, time above and memory below, both axes logarithmic.

    Raises
    ------
    UserError
        When there is nothing to draw, or it is not of that benchmark.
    """
    rows = read_rows(directory)
    figure = new_figure(PAGE_WIDTH, 3.6)
    axes = figure.subplots(2, len(_TITLES), sharey="row")
    try:
        for column, (varied, title) in zip(axes.T, _TITLES.items(), strict=True):
            of_it = sorted(
                (row for row in rows if row["varied"] == varied), key=lambda row: row["value"]
            )
            values = [row["value"] for row in of_it]
            for i, (method, name) in enumerate(_NAMES.items()):
                # the discrete network's line is wide, for the sparse code's lies upon it
                style = {"color": COLOURS[i], "marker": MARKERS[i], "label": name}
                style |= {"markersize": 5 - i, "linewidth": 2.4 if i == 0 else 1.0}
                column[0].plot(values, [1e3 * row["seconds"][method] for row in of_it], **style)
                column[1].plot(values, [row["saved"][method] / 2**20 for row in of_it], **style)
            for ax in column:
                ax.set(xscale="log", yscale="log")
                ax.set_xticks(values, [str(value) for value in values])
                ax.xaxis.set_minor_formatter(NullFormatter())
                ax.xaxis.minorticks_off()
                plain_log_labels(ax.yaxis)
            tidy(column[0])
            tidy(column[1], xlabel=title)
    except (KeyError, TypeError):
        raise UserError(f"{directory} has no results of benchmarks/growth.py") from None
    tidy(axes[0, 0], ylabel="ms for a step on a batch")
    tidy(axes[1, 0], ylabel="MiB saved for\nthe backward pass", xlabel=_TITLES["channels"])
    legend_below(figure, axes[0], columns=3)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("growth", "Time and memory of a step against the size of the problem.")
    parser.add_argument("directory", metavar="DIR", help="what benchmarks/growth.py wrote")

    def drawn(given: argparse.Namespace) -> Figure:
        return draw(given.directory)

    return run_command(parser, drawn, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
