"""One run with several seeds: the test of every run, the mean, and its 95 % interval (Student's t).

python -m figures.seeds DIR -o seeds.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from isnas.comparison.seeds import measure_of, read_summary
from isnas.comparison.statistics import mean_interval
from isnas.drawing import COLUMN_WIDTH, save_figure
from isnas.runtime.errors import UserError

from ._command import Parser, run_command
from ._style import COLOURS, FONT_SIZE, GREY, INK, axis_label, new_figure, tidy


def make_figure(directory: str | Path) -> Figure:
    """Return the figure of the runs in a directory: a column for each network that they have tested.

    Raises
    ------
    UserError
        When there is no summary of several seeds, or no run is finished.
    """
    summary = read_summary(directory)
    measure = measure_of(summary)
    values: dict[str, dict[str, float]] = {}
    for seed, run in summary["runs"].items():
        for part, numbers in run["results"].items():
            if run["state"] == "finished" and measure is not None:
                value = measure.scale * numbers[f"test_{measure.name}"]
                values.setdefault(part, {})[seed] = value
    if measure is None or not values:
        raise UserError(f"no run in {directory} is finished yet")
    figure = new_figure(COLUMN_WIDTH, 2.6)
    ax = figure.subplots()
    for column, of in enumerate(values.values()):
        colour = COLOURS[column % len(COLOURS)]
        y = np.array(list(of.values()))
        # side by side in the order of seeds, so that equal values are told apart
        x = column - 0.12 + 0.24 * (np.arange(len(y)) - (len(y) - 1) / 2) / max(len(y), 2)
        ax.plot(x, y, "o", color=colour, markersize=3.5, alpha=0.55, markeredgewidth=0)
        mean, half = mean_interval(list(of.values()))
        bars = {} if half is None else {"yerr": half}
        ax.errorbar(
            [column + 0.16], [mean], **bars, fmt="D", color=colour, markersize=4, capsize=3,
            elinewidth=1.0,
        )  # fmt: skip
        text = measure.show(mean / measure.scale)
        if half is not None:
            text = text.replace(f" {measure.unit}", "") + f" ± {half:.{measure.digits}f}"
        ax.annotate(
            text, (column + 0.16, mean), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=FONT_SIZE, color=INK,
        )  # fmt: skip
    ax.set_xticks(range(len(values)), [f"{part}\n({len(of)} seeds)" for part, of in values.items()])
    ax.set_xlim(-0.4, len(values) - 0.2)
    ax.margins(y=0.15)
    ax.grid(axis="y", color="#E4E4E4", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.plot([], [], "o", color=GREY, markersize=3.5, alpha=0.55, label="a seed")
    ax.plot([], [], "D", color=GREY, markersize=4, label="mean, 95 % interval")
    tidy(ax, ylabel=axis_label(measure))
    figure.legend(
        loc="outside lower center", ncols=2, fontsize=FONT_SIZE, frameon=False, labelcolor=INK
    )
    return figure


def write_figure(directory: str | Path, path: str | Path) -> None:
    """Draw the runs of a directory and save the figure; see `make_figure` for errors."""
    save_figure(make_figure(directory), path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("seeds", "Tests of one run with several seeds, mean and 95 % interval.")
    parser.add_argument("directory", metavar="DIR", help="of isnas search --seeds, or the like")

    def draw(given: argparse.Namespace) -> Figure:
        return make_figure(given.directory)

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
