"""Methods compared: the test's measure against search cost and parameters, means and deviations over seeds.

Each run gives the row of its method, and of its data where these differ; a search that trained random architectures,
too, gives one for these. A comparison (``isnas compare``) gives those of all its methods, and the measure against
sample passes, too. A dashed line is the Pareto front of measure and parameters: the methods on it found the smallest
networks that are as good on the average.

python -m figures.compare [LABEL=]RUN [[LABEL=]RUN ...] -o compare.svg
python -m figures.compare COMPARISON -o compare.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isnas.comparison.judging import row_form
from isnas.comparison.rows import ROWS, read_about, read_rows
from isnas.drawing import PAGE_WIDTH, figure_content
from isnas.networks.hand_made import HAND_MADE
from isnas.runs.records import RunRecord
from isnas.runtime.errors import UserError
from isnas.runtime.files import Folder
from isnas.searches.registry import METHODS
from isnas.tasks.base import Measure
from isnas.tasks.registry import FIRST, TASKS, task_named

from ._command import Parser, run_command
from ._runs import Groups, add_runs, data_of, open_groups
from ._style import (
    INK,
    axis_label,
    legend_below,
    look,
    new_figure,
    note,
    plain_log_labels,
    tidy,
)

MEASURE = TASKS[FIRST].measure
"""The measure that is drawn by default."""

Quantity = Literal["cost", "passes", "parameters"]

WIDE = 5
"""Numbers of parameters that differ by more than this factor are drawn on a log axis."""

BARS = "small: every run; large: the mean, with bars of one standard deviation over runs"
"""Legend of the marks where a method has several runs."""

DRAWN = "random architectures"
"""The label of architectures that no search has found."""


@dataclass(frozen=True)
class Result:
    """Result of one run of a method.

    Parameters
    ----------
    value : float
        Value of the measure at the test, in the unit that it is shown in.
    cost : float
        Seconds of search; 0 for an architecture that was drawn, nan where the search is not of this run.
    parameters : float
        Parameters of the tested network; nan where unknown.
    passes : float
        Sample passes of the search, in epochs; nan where they were not counted.
    """

    value: float
    cost: float
    parameters: float
    passes: float = float("nan")


def results_of(groups: Groups) -> dict[str, list[Result]]:
    """Return the results of each method. Runs without any yet give none.

    Raises
    ------
    UserError
        When no run has a result.
    """
    found: dict[str, list[Result]] = {}
    several = len({data_of(run) for runs in groups.values() for run in runs}) > 1
    for label, runs in groups.items():
        for run in runs:
            of_random = f"{DRAWN} on {data_of(run)}" if several else DRAWN
            for part, result in run.results.items():
                name = f"test_{run.measure.name}"
                if name not in result:
                    continue
                drawn = part.startswith("random-")
                row = Result(
                    value=run.measure.scale * float(result[name]),
                    cost=0.0 if drawn else search_seconds(run),
                    parameters=float(result.get("parameters", np.nan)),
                )
                found.setdefault(of_random if drawn else label, []).append(row)
    if not found:
        raise UserError("none of the runs has been tested yet")
    return found


def results_of_rows(
    rows: Sequence[dict[str, Any]], measure: Measure = MEASURE
) -> dict[str, list[Result]]:
    """Return the results of each method of a comparison, as its rows have them.

    Raises
    ------
    UserError
        When no row has a result.
    """
    # rows come as trials end; colours should not
    order = [*METHODS, *(row["method"] for row in rows)]
    found: dict[str, list[Result]] = {}
    for row in sorted(rows, key=lambda row: (order.index(row["method"]), row["seed"])):
        name = f"test_{measure.name}"
        if name not in row:  # it failed, or serves others
            continue
        drawn = row["method"] in (DRAWN, *HAND_MADE)
        result = Result(
            value=measure.scale * float(row[name]),
            cost=0.0 if drawn else float(row["seconds"]),
            parameters=float(row["parameters"]),
            passes=0.0 if drawn else float(row["epochs"]),
        )
        found.setdefault(row["method"], []).append(result)
    if not found:
        raise UserError("none of the rows has been tested yet")
    return found


def search_seconds(run: RunRecord) -> float:
    """Return the seconds that a run spent searching; nan for one that did not search."""
    if run.command != "search":
        return float("nan")
    seconds = run.seconds("search")
    phases = run.epochs("search").get("phase", np.array([]))
    if "training" in phases.tolist():  # of the architecture that was found, in the same run
        seconds = seconds[phases == "search"]
    return float(np.nansum(seconds))


def draw_comparison(
    results: Mapping[str, Sequence[Result]],
    quantity: Quantity,
    ax: Axes,
    measure: Measure = MEASURE,
) -> None:
    """Draw what tests gave against a quantity: every run small, the mean large with standard deviations.

    Parameters
    ----------
    results : mapping of str to sequence of Result
    quantity : {"cost", "passes", "parameters"}
    ax : matplotlib.axes.Axes
    measure : Measure
    """
    largest = [getattr(row, quantity) for rows in results.values() for row in rows]
    unit, text = _unit(quantity, np.nanmax([0.0, *largest]))
    drawn = False
    for i, (label, rows) in enumerate(results.items()):
        known = [row for row in rows if np.isfinite(getattr(row, quantity))]
        style = {**look(i), "linestyle": ""}
        x = np.array([getattr(row, quantity) for row in known]) / unit
        y = np.array([row.value for row in known])
        # an empty line where there is nothing to show keeps the legends of both axes alike
        filled = {**style, "markerfacecolor": style["color"]}
        ax.plot(x, y, **filled, markersize=3, alpha=0.4, markeredgewidth=0)
        bars = {"yerr": y.std(ddof=1), "xerr": x.std(ddof=1)} if len(known) > 1 else {}
        mean = ([x.mean()], [y.mean()]) if known else ([], [])
        name = f"{label} ({len(rows)} runs)" if len(rows) > 1 else label
        ax.errorbar(
            *mean,
            **bars,
            **style,
            markersize=5,
            markeredgecolor="white"
            if style["markerfacecolor"] == style["color"]
            else style["color"],
            markeredgewidth=0.5 if style["markerfacecolor"] == style["color"] else 1.0,
            elinewidth=0.9,
            capsize=2,
            label=name,
        )
        drawn = drawn or bool(known)
    if quantity == "parameters":
        _draw_front(results, unit, ax, measure)
    tidy(ax, xlabel=text, ylabel=axis_label(measure))
    if not drawn:
        note(ax, "not known of any run")
        ax.set(xticks=[], yticks=[])
    else:
        ax.margins(0.12)
        sizes = [size for size in largest if size > 0]
        if quantity == "parameters" and sizes and max(sizes) > WIDE * min(sizes):
            ax.set_xscale("log")
            plain_log_labels(ax.xaxis)
        if quantity != "parameters":
            right = ax.get_xlim()[1]
            ax.set_xlim(-0.05 * right, right)


def pareto_front(
    points: Sequence[tuple[float, float]], higher_is_better: bool = True
) -> list[tuple[float, float]]:
    """Return the points (x, y) that none other beats: no other has an x as small and a y as good, one of them better.

    Sorted by x, each once.
    """
    sign = 1 if higher_is_better else -1
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    return front


def _draw_front(
    results: Mapping[str, Sequence[Result]], unit: float, ax: Axes, measure: Measure
) -> None:
    """Draw the Pareto front of the means, in steps: what a network of so many parameters has been seen to reach."""
    means = [
        (
            float(np.mean([row.parameters for row in known])) / unit,
            float(np.mean([r.value for r in known])),
        )
        for rows in results.values()
        if (known := [row for row in rows if np.isfinite(row.parameters)])
    ]
    front = pareto_front(means, measure.higher_is_better)
    if len(front) > 1:
        ax.step(
            *zip(*front, strict=True),
            where="post",
            color=INK,
            linewidth=1.2,
            linestyle=(0, (3, 2)),
            zorder=2.5,
            label="Pareto front of the means",
        )


def _unit(quantity: Quantity, largest: float) -> tuple[float, str]:
    """Return the unit to show values up to `largest` in, and the axis's label."""
    if quantity == "parameters":
        steps = [(1e6, "parameters (millions)"), (1e3, "parameters (thousands)")]
        return next((step for step in steps if largest >= step[0]), (1.0, "parameters"))
    if quantity == "passes":
        return 1.0, "passes of the search (epochs)"
    times = [(86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")]
    unit, word = next((time for time in times if largest >= 2 * time[0]), (1.0, "seconds"))
    return unit, f"search cost ({word})"


def make_figure(groups: Groups) -> Figure:
    """Return the figure that compares some groups of runs; see `results_of` for errors."""
    measures = {run.measure for runs in groups.values() for run in runs}
    if len(measures) > 1:
        names = ", ".join(sorted(measure.name for measure in measures))
        raise UserError(f"runs with different measures cannot be compared: {names}")
    return _figure(results_of(groups), ("cost", "parameters"), *measures)


def make_comparison_figure(directory: str | Path) -> Figure:
    """Return the figure of a comparison; see `results_of_rows` for errors."""
    settings = read_about(directory)["settings"]
    measure = task_named(settings.get("task", FIRST)).measure
    results = results_of_rows(read_rows(directory, row_form(measure)), measure)
    return _figure(results, ("cost", "passes", "parameters"), measure)


def _figure(
    results: Mapping[str, Sequence[Result]], quantities: Sequence[Quantity], measure: Measure
) -> Figure:
    columns = 3 if len(results) <= 6 else 4
    lines = -(-len(results) // columns)
    figure = new_figure(PAGE_WIDTH, 2.4 + 0.14 * lines)
    axes = figure.subplots(1, len(quantities), sharey=True)
    for ax, quantity in zip(axes, quantities, strict=True):
        draw_comparison(results, quantity, ax, measure)
        if ax is not axes[0]:
            ax.set_ylabel("")
    several = any(len(rows) > 1 for rows in results.values())
    legend_below(figure, axes, columns, BARS if several else "")
    return figure


def write_figure(directory: str | Path) -> Path:
    """Draw a comparison into its directory, and return where the figure is.

    Raises
    ------
    UserError
        When there are no results yet, or the file cannot be written.
    """
    Folder(directory).write("compare.svg", figure_content(make_comparison_figure(directory), "svg"))
    return Path(directory) / "compare.svg"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser(
        "compare", "The measure of the test against search cost and against parameters."
    )
    add_runs(parser)

    def draw(given: argparse.Namespace) -> Figure:
        comparisons = [text for text in given.runs if (Path(text) / ROWS).is_file()]
        if not comparisons:
            return make_figure(open_groups(given.runs))
        if len(given.runs) > 1:
            raise UserError(f"{comparisons[0]} is a comparison: it is drawn by itself")
        return make_comparison_figure(comparisons[0])

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
