"""Methods compared: test accuracy against search cost and against parameters, means and deviations over seeds.

Each run gives the row of its method; a search that trained random architectures, too, gives one for these.

python -m figures.compare [LABEL=]RUN [[LABEL=]RUN ...] -o compare.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isnas.drawing import PAGE_WIDTH
from isnas.errors import UserError
from isnas.records import RunRecord

from ._command import Parser, run_command
from ._runs import Groups, add_runs, open_groups
from ._style import COLOURS, MARKERS, legend_below, new_figure, note, tidy

Quantity = Literal["cost", "parameters"]


@dataclass(frozen=True)
class Result:
    """What one run of a method came to.

    Parameters
    ----------
    accuracy : float
        Test accuracy, 0 to 1.
    cost : float
        Seconds of search; 0 for an architecture that was drawn, nan where the search is not of this run.
    parameters : float
        Of the network tested; nan where unknown.
    """

    accuracy: float
    cost: float
    parameters: float


def results_of(groups: Groups) -> dict[str, list[Result]]:
    """Return the results of each method. Runs without any yet give none.

    Raises
    ------
    UserError
        When no run has a result.
    """
    found: dict[str, list[Result]] = {}
    for label, runs in groups.items():
        for run in runs:
            for part, result in run.results.items():
                if "test_accuracy" not in result:
                    continue
                drawn = part.startswith("random-")
                row = Result(
                    accuracy=float(result["test_accuracy"]),
                    cost=0.0 if drawn else search_seconds(run),
                    parameters=float(result.get("parameters", np.nan)),
                )
                found.setdefault("random architectures" if drawn else label, []).append(row)
    if not found:
        raise UserError("none of the runs has a test accuracy yet")
    return found


def search_seconds(run: RunRecord) -> float:
    """Return the seconds that a run spent searching; nan for one that did not search."""
    if run.command == "search":
        return float(np.nansum(run.seconds("search")))
    if run.command == "train":
        phases = run.epochs("train").get("phase", np.array([]))
        return float(np.nansum(run.seconds("train")[phases == "search"]))
    return float("nan")


def draw_comparison(results: Mapping[str, Sequence[Result]], quantity: Quantity, ax: Axes) -> None:
    """Draw test accuracy against cost or parameters: every run small, the mean large with standard deviations.

    Parameters
    ----------
    results : mapping of str to sequence of Result
    quantity : {"cost", "parameters"}
    ax : matplotlib.axes.Axes
    """
    largest = [getattr(row, quantity) for rows in results.values() for row in rows]
    unit, text = _unit(quantity, np.nanmax([0.0, *largest]))
    drawn = False
    for i, (label, rows) in enumerate(results.items()):
        known = [row for row in rows if np.isfinite(getattr(row, quantity))]
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        style = {"color": colour, "marker": marker, "linestyle": ""}
        x = np.array([getattr(row, quantity) for row in known]) / unit
        y = 100 * np.array([row.accuracy for row in known])
        # an empty line where there is nothing to show keeps the legends of both axes alike
        ax.plot(x, y, **style, markersize=3, alpha=0.4, markeredgewidth=0)
        bars = {"yerr": y.std(ddof=1), "xerr": x.std(ddof=1)} if len(known) > 1 else {}
        mean = ([x.mean()], [y.mean()]) if known else ([], [])
        name = f"{label} ({len(rows)} runs)" if len(rows) > 1 else label
        ax.errorbar(
            *mean,
            **bars,
            **style,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=0.9,
            capsize=2,
            label=name,
        )
        drawn = drawn or bool(known)
    tidy(ax, xlabel=text, ylabel="test accuracy (%)")
    if not drawn:
        note(ax, "not known of any run")
        ax.set(xticks=[], yticks=[])
    else:
        ax.margins(0.12)
        if quantity == "cost":
            right = ax.get_xlim()[1]
            ax.set_xlim(-0.05 * right, right)


def _unit(quantity: Quantity, largest: float) -> tuple[float, str]:
    """Return the unit to show values up to `largest` in, and the axis's label."""
    if quantity == "parameters":
        steps = [(1e6, "parameters (millions)"), (1e3, "parameters (thousands)")]
        return next((step for step in steps if largest >= step[0]), (1.0, "parameters"))
    times = [(86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")]
    unit, word = next((time for time in times if largest >= 2 * time[0]), (1.0, "seconds"))
    return unit, f"search cost ({word})"


def make_figure(groups: Groups) -> Figure:
    """Return the figure that compares some groups of runs; see `results_of` for errors."""
    results = results_of(groups)
    figure = new_figure(PAGE_WIDTH, 2.5 + 0.12 * (len(results) // 3))
    axes = figure.subplots(1, 2, sharey=True)
    draw_comparison(results, "cost", axes[0])
    draw_comparison(results, "parameters", axes[1])
    axes[1].set_ylabel("")
    legend_below(figure, axes, columns=3)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("compare", "Test accuracy against search cost and against parameters.")
    add_runs(parser)

    def draw(given: argparse.Namespace) -> Figure:
        return make_figure(open_groups(given.runs))

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
