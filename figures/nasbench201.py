"""Searches on NAS-Bench-201 against the truth: what they find for their cost, on which way, and how super-nets rank.

python -m figures.nasbench201 cost DIR -o cost.svg        accuracy found against search cost
python -m figures.nasbench201 trajectory DIR -o t.svg     true accuracy of the current cell over the epochs
python -m figures.nasbench201 scatter DIR -o s.svg        super-net's score against the truth, cell by cell

DIR is what `experiments.nasbench201` wrote. Accuracies are those of the benchmark's table, on the CIFAR-10 test after
200 epochs. Their axis is stretched towards the optimum, where the good cells are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from experiments.nasbench201 import FREE, METHODS, OWN_LOSSES, SPARSE, TRAINED
from isnas.comparison.rows import read_about, read_rows
from isnas.drawing import COLUMN_WIDTH, PAGE_WIDTH
from isnas.runtime.errors import UserError

from ._command import Parser, run_command
from ._style import (
    COLOURS,
    FONT_SIZE,
    GREY,
    MARKERS,
    legend_below,
    new_figure,
    note,
    plain_log_labels,
    tidy,
    whole_numbers,
)

ACCURACY = "cell's accuracy on CIFAR-10 (%),\nstretched towards the optimum"
_DRAWN = (*METHODS, *TRAINED, OWN_LOSSES)
_RULES = tuple(dict.fromkeys(variant["rule"] for variant in SPARSE.values()))
_MATRICES = tuple(dict.fromkeys(variant["matrix"] for variant in SPARSE.values()))
_TICKS = (10, 50, 70, 80, 85, 90, 92, 93, 94)
_FORWARD = 1 / 3
"""Cost of a forward pass alone, where forwards and backwards cost 1: the backward pass does twice the work."""

Results = tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, float]]]
"""Rows by method, in the experiment's order, and what they are measured against."""


def read_results(directory: str | Path) -> Results:
    """Read what `experiments.nasbench201` wrote.

    Raises
    ------
    UserError
        When there is nothing or it is damaged, or it is of another experiment.
    """
    rows = read_rows(directory)
    try:
        found = read_about(directory)["settings"]["references"]
        by_method = {name: [row for row in rows if row["method"] == name] for name in _DRAWN}
        return {name: kept for name, kept in by_method.items() if kept}, found
    except (KeyError, TypeError):
        raise UserError(f"{directory} has no results of experiments.nasbench201") from None


def cost(row: dict[str, Any]) -> float:
    """Return what a search cost: images passed forwards and backwards, and a third of those passed forwards only."""
    return row["trained"] + _FORWARD * row["evaluated"]


def _look(method: str) -> dict[str, Any]:
    """Return colour and marker of a method: rule by colour, matrix by marker, re-encoded filled."""
    if method in SPARSE:
        variant = SPARSE[method]
        colour = COLOURS[_RULES.index(variant["rule"])]
        fill = colour if variant["reencode"] else "white"
        marker = MARKERS[_MATRICES.index(variant["matrix"])]
        return {"color": colour, "marker": marker, "markerfacecolor": fill}
    i = [name for name in _DRAWN if name not in SPARSE].index(method)
    markers = MARKERS[2:]
    return {"color": COLOURS[3 + i % (len(COLOURS) - 3)], "marker": markers[i % len(markers)]}


def _stretch(ax: Axes, optimum: float, values: Sequence[float]) -> None:
    """Scale the y axis by the square root of the distance to the optimum."""

    def forward(y: np.ndarray) -> np.ndarray:
        return -np.sqrt(np.maximum(optimum - np.asarray(y, dtype=float), 0))

    def inverse(v: np.ndarray) -> np.ndarray:
        return optimum - np.square(np.minimum(v, 0))

    ax.set_yscale("function", functions=(forward, inverse))
    # a little below the lowest value, and room enough where all are good
    low = inverse(1.06 * forward(np.array(min(*values, optimum - 3))))
    ax.set_ylim(max(float(low), 0), optimum)
    ticks = [tick for tick in _TICKS if low <= tick < optimum - 0.2]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())


def _mark_references(ax: Axes, known: dict[str, dict[str, float]]) -> None:
    ax.axhline(
        known["optimum"]["cifar10"], color=GREY, linewidth=1.6, label="optimum", clip_on=False
    )
    for name, label, dashes in (
        ("mean", "mean of all cells", (0, (4, 2))),
        ("full", "mean of the cells without none", (0, (1, 1.5))),
    ):
        if known[name]["cifar10"] > ax.get_ylim()[0]:
            style = {"color": GREY, "linewidth": 0.8, "linestyle": dashes, "zorder": 1}
            ax.axhline(known[name]["cifar10"], label=label, **style)


def draw_cost(results: Results) -> Figure:
    """Return the figure of accuracy found against search cost: each seed, and the mean with the standard deviation.

    Methods of the same cost stand side by side around it.
    """
    methods, known = results
    optimum = known["optimum"]["cifar10"]
    figure = new_figure(PAGE_WIDTH, 3.8)
    ax = figure.subplots()
    ax.set_xscale("log")
    counted = {method: fmean(map(cost, rows)) for method, rows in methods.items()}
    # a search that passes no image has no place on a log axis: it stands left of the others
    nothing = min(filter(None, counted.values()), default=1.0) / 3
    costs = {method: spent or nothing for method, spent in counted.items()}
    everything: list[float] = []
    for method, rows in methods.items():
        accuracies = [row["accuracy"]["cifar10"] for row in rows]
        everything += accuracies
        alike = [other for other in costs if abs(np.log(costs[other] / costs[method])) < 0.1]
        place = alike.index(method) - (len(alike) - 1) / 2
        x = costs[method] * 1.13**place
        look = _look(method)
        ax.plot(
            [x] * len(rows),
            accuracies,
            ".",
            color=look["color"],
            markersize=2.5,
            alpha=0.5,
            zorder=2,
        )
        mean, deviation = fmean(accuracies), float(np.std(accuracies, ddof=len(rows) > 1))
        # nothing is above the optimum
        whiskers = [[deviation], [min(deviation, max(optimum - mean, 0))]] if deviation else None
        ax.errorbar(
            x, mean, whiskers, **look, markersize=4.5, linewidth=0.8, label=method, zorder=3
        )
        everything.append(mean - deviation)
    _stretch(ax, optimum, everything)
    # a margin that a single cost has, too
    ax.set_xlim(min(costs.values()) / 1.5, max(costs.values()) * 1.5)
    _mark_references(ax, known)
    if max(costs.values()) < 10 * min(costs.values()):  # there may be no power of ten among them
        places = sorted(costs.values())
        apart = [x for i, x in enumerate(places) if i == 0 or x > 1.2 * places[i - 1]]
        ax.xaxis.set_major_locator(FixedLocator(apart))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    else:
        plain_log_labels(ax.xaxis)
    xlabel = (
        "search cost (images passed forwards and backwards; methods of equal cost side by side)"
    )
    if 0 in counted.values():
        xlabel = xlabel.replace(")", "; none at the left)")
    tidy(ax, xlabel=xlabel, ylabel=ACCURACY)
    words = "dots: seeds; large: the mean of the accuracies, with one standard deviation"
    legend_below(figure, [ax], columns=3, title=words)
    return figure


def draw_trajectories(results: Results) -> Figure:
    """Return the figure of the current cell's true accuracy over epochs: median and quartiles over seeds.

    Raises
    ------
    UserError
        When no method with such a cell has been run.
    """
    methods, known = results
    panels = {
        rule: [name for name in methods if SPARSE.get(name, {}).get("rule") == rule]
        for rule in _RULES
    }
    # all of a method's trajectories are of one length
    panels["others" if any(panels.values()) else ""] = [
        name for name, rows in methods.items() if name not in SPARSE and rows[0]["trajectory"]
    ]
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        raise UserError("no search that holds a cell is finished: there is no trajectory")
    figure = new_figure(PAGE_WIDTH if len(panels) > 1 else COLUMN_WIDTH, 2.8)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    everything: list[float] = []
    for ax, (title, names) in zip(axes, panels.items(), strict=True):
        for i, name in enumerate(names):
            paths = np.array(
                [[accuracy for _, accuracy in row["trajectory"]] for row in methods[name]]
            )
            low, middle, high = np.quantile(paths, (0.25, 0.5, 0.75), axis=0)
            everything += [*low]
            # in a panel of their own: every colour once, then with dashes
            colour, dashes = COLOURS[i % len(COLOURS)], ("-", (0, (3, 1.5)))[i // len(COLOURS) % 2]
            if name in SPARSE:  # one rule in a panel
                colour = COLOURS[_MATRICES.index(SPARSE[name]["matrix"])]
                dashes = "-" if SPARSE[name]["reencode"] else (0, (3, 1.5))
            x = np.arange(len(middle))
            label = name.removeprefix(f"sparse {title} ")
            ax.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
            ax.plot(x, middle, color=colour, linestyle=dashes, linewidth=1.2, label=label)
        tidy(ax, xlabel="epochs of search", title=title)
    for ax in axes:
        _stretch(ax, known["optimum"]["cifar10"], everything)
        _mark_references(ax, known)
    axes[0].set_ylabel(ACCURACY, fontsize=FONT_SIZE)
    whole_numbers(axes)
    words = "lines: medians over seeds; bands: quartiles"
    legend_below(figure, axes, columns=4 if len(panels) > 1 else 2, title=words)
    return figure


def draw_scatter(results: Results) -> Figure:
    """Return the figure of super-net scores of random cells against their true accuracies, with Kendall's tau.

    Raises
    ------
    UserError
        When no super-net has scored cells.
    """
    methods, known = results
    scored = {name: [row for row in rows if row["scores"]] for name, rows in methods.items()}
    scored = {name: rows for name, rows in scored.items() if rows}
    if not scored:
        raise UserError("no super-net has scored cells yet")
    columns = min(len(scored), 3)
    lines = -(-len(scored) // columns)
    figure = new_figure(PAGE_WIDTH if columns > 1 else COLUMN_WIDTH, 0.3 + 2.4 * lines)
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for ax in axes.flat[len(scored) :]:
        ax.set_visible(False)
    shown = axes.flat[: len(scored)]
    everything: list[float] = []
    for ax, (name, rows) in zip(shown, scored.items(), strict=True):
        scores, truth = np.array([point[1:] for row in rows for point in row["scores"]]).T
        everything += [*truth]
        ax.plot(
            scores,
            truth,
            ".",
            color=_look(name)["color"],
            markersize=3,
            alpha=0.35,
            markeredgewidth=0,
        )
        taus = [row["tau"] for row in rows if row["tau"] is not None]
        seeds = f"{len(rows)} seed{'s' if len(rows) > 1 else ''}"
        tau = f"Kendall's tau {fmean(taus):.2f}" if taus else "all scores alike"
        xlabel = "score with shared weights (%)"
        if name in FREE:  # of what a ranker cannot judge the score is as good as endless
            low, middle = np.quantile(scores, (0.1, 0.5))
            kept = scores[scores >= middle - 5 * (middle - low)]
            margin = 0.05 * (np.ptp(kept) or 1)
            ax.set_xlim(kept.min() - margin, kept.max() + margin)
            ax.ticklabel_format(axis="x", scilimits=(-3, 4))
            left = len(scores) - len(kept)
            xlabel = "score" + (f"; {left} further left" if left else "")
        ax.locator_params(axis="x", nbins=4)
        tidy(ax, xlabel=xlabel, title=f"{name}\n{tau}, {seeds}")
    for ax in shown:
        _stretch(ax, known["optimum"]["cifar10"], everything)
        if not ax.lines:
            note(ax, "no cells")
    for ax in axes[:, 0]:
        ax.set_ylabel(ACCURACY, fontsize=FONT_SIZE)
    return figure


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "cost": draw_cost,
    "trajectory": draw_trajectories,
    "scatter": draw_scatter,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("nasbench201", "Searches on NAS-Bench-201 against the truth.")
    parser.add_argument("figure", choices=FIGURES, help="what to draw")
    parser.add_argument("directory", metavar="DIR", help="what experiments.nasbench201 wrote")

    def draw(given: argparse.Namespace) -> Figure:
        return FIGURES[given.figure](read_results(given.directory))

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
