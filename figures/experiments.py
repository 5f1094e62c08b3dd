"""The experiments' rows: what was found, how accuracies agree, what searches cost, what matters.

python -m figures.experiments two_stage DIR -o errors.svg       test errors of found and random networks, by seed
python -m figures.experiments one_stage DIR -o errors.svg       those of single runs and of networks trained again
python -m figures.experiments correlation DIR -o tau.svg        accuracy in search against accuracy alone
python -m figures.experiments efficiency DIR -o cost.svg        accuracy against images and time of the search
python -m figures.experiments steps DIR -o steps.svg            time and memory of a step against batch size
python -m figures.experiments ablation DIR -o ablation.svg      differences that settings of the code make

DIR is what the experiment wrote: `experiments.cifar10_two_stage`, `cifar10_one_stage`, `correlation`, `efficiency` (for
``efficiency`` and ``steps``) or `ablation`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments import ablation, cifar10_one_stage, correlation, efficiency
from experiments._searches import DARTS, ONE_STAGE, SEARCHES, SHARING, TWO_STAGE
from experiments._statistics import ceiling, interval_text, mean_interval, mean_tau
from isnas.comparison.rows import read_rows
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
    reach,
    tidy,
)

Rows = list[dict[str, Any]]

_NAMES = {
    TWO_STAGE: "sparse code, two-stage",
    ONE_STAGE: "sparse code, one-stage",
    DARTS: "DARTS, first order",
    SHARING: "random sharing",
    efficiency.RANDOM: "random architecture",
    efficiency.DISCRETE: "discrete network",
}
_LOOKS = {name: (COLOURS[i], MARKERS[i]) for i, name in enumerate(_NAMES)}


def draw_groups(groups: Mapping[str, Sequence[Sequence[float]]], ylabel: str) -> Figure:
    """Return the figure of one number for each group and seed, with means and standard deviations.

    Parameters
    ----------
    groups : mapping of str to sequence of sequence of float
        By the group's words, for each seed its values. What belongs to one seed is joined by a line.
    ylabel : str
    """
    figure = new_figure(COLUMN_WIDTH * max(1.0, len(groups) / 3), 2.8)  # words need a third
    ax = figure.subplots()
    means = [[float(np.mean(values)) for values in seeds] for seeds in groups.values()]
    if len({len(column) for column in means}) == 1:
        for path in zip(*means, strict=True):
            ax.plot(range(len(path)), path, color=GREY, linewidth=0.5, alpha=0.6, zorder=1)
    for x, seeds in enumerate(groups.values()):
        colour = COLOURS[x % len(COLOURS)]
        each = [value for values in seeds for value in values]
        ax.plot([x] * len(each), each, ".", color=colour, markersize=4, alpha=0.6, zorder=2)
        deviation = float(np.std(each, ddof=1)) if len(each) > 1 else None
        ax.errorbar(
            x + 0.18,
            np.mean(each),
            deviation,
            color=colour,
            marker=MARKERS[x % len(MARKERS)],
            markersize=4,
            linewidth=0.9,
            capsize=2,
            zorder=3,
        )
    tidy(ax, ylabel=ylabel)
    words = "dots: networks; a line: one seed" if len(means[0]) > 1 else "dots: networks"
    if any(sum(map(len, seeds)) > 1 for seeds in groups.values()):
        words += "\nlarge: their mean, with one standard deviation"
    figure.supxlabel(words, fontsize=FONT_SIZE, color=GREY)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set_xlim(-0.5, len(groups) - 0.5)
    return figure


def draw_two_stage(rows: Rows) -> Figure:
    """Return the figure of test errors of found and random networks."""
    groups = {"found": [[row["error"]] for row in rows]}
    if any(row["random_errors"] for row in rows):
        groups["random"] = [row["random_errors"] for row in rows if row["random_errors"]]
    return draw_groups(groups, "test error (%)")


def draw_one_stage(rows: Rows) -> Figure:
    """Return the figure of test errors of single runs, their genotypes from scratch, and random ones."""
    words = (
        "single run",
        "retrained as long\nas its training",
        "retrained as long\nas all of it",
        "random as long\nas all of it",
    )
    groups = {
        text: [[row["errors"][name]] for row in rows if name in row["errors"]]
        for name, text in zip(cifar10_one_stage.NETWORKS, words, strict=True)
    }
    groups = {text: values for text, values in groups.items() if values}
    return draw_groups(groups, "test error (%)")


def draw_correlation(rows: Rows) -> Figure:
    """Return the figure of accuracies in search against accuracies alone, and of two trainings alone.

    Raises
    ------
    UserError
        When fewer than two architectures have been trained.
    """
    numbers, accuracies, found = correlation.measured(rows)
    if len(numbers) < 2:
        raise UserError("fewer than two architectures are trained alone yet")
    twice = len(accuracies) > 1
    panels = len(found) + twice
    columns = min(3, panels)
    lines = -(-panels // columns)
    figure = new_figure(PAGE_WIDTH, 2.3 * lines)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    alone = 100 * accuracies.mean(0)
    for ax, (method, scores) in zip(axes, found.items(), strict=False):
        colour, _ = _LOOKS[method]
        for i, row in enumerate(scores):
            marker = MARKERS[i % len(MARKERS)]
            style = {"color": colour, "markersize": 3, "alpha": 0.6, "markeredgewidth": 0}
            ax.plot(100 * row, alone, marker, **style)
        tau = interval_text(mean_tau(scores, accuracies))
        seeds = f"{len(scores)} super-net{'s' if len(scores) > 1 else ''}"
        title = f"{_NAMES[method]}, {seeds}\n$\\tau$ = {tau}"
        tidy(ax, xlabel="accuracy in search (%)", ylabel="accuracy alone (%)", title=title)
    if twice:
        ax = axes[panels - 1]
        ax.plot(100 * accuracies[0], 100 * accuracies[1], "o", color=GREY, markersize=3)
        title = (
            f"noise ceiling: trained alone twice\n$\\tau$ = {interval_text(ceiling(accuracies))}"
        )
        tidy(ax, xlabel="first training (%)", ylabel="second training (%)", title=title)
    for ax in axes[panels:]:
        ax.set_visible(False)
    return figure


def draw_efficiency(rows: Rows) -> Figure:
    """Return the figure of validation accuracy during search and of the accuracy of what was found, against cost.

    Raises
    ------
    UserError
        When no search is finished.
    """
    searches = {
        method: [row for row in rows if (row["kind"], row["method"]) == ("search", method)]
        for method in (efficiency.RANDOM, *SEARCHES)
    }
    searches = {method: of_method for method, of_method in searches.items() if of_method}
    if not searches:
        raise UserError("no search is finished yet")
    figure = new_figure(PAGE_WIDTH, 2.7)
    axes = figure.subplots(1, 3)
    for method, of_method in searches.items():
        colour, marker = _LOOKS[method]
        for ax, column in ((axes[0], 1), (axes[1], 0)):
            for row in of_method:
                points = [point for point in row["curve"] if point[2] is not None]
                x = [point[column] for point in points]
                y = [100 * point[2] for point in points]
                single = marker if len(points) == 1 else ""
                style = {"color": colour, "linewidth": 0.9, "alpha": 0.8, "markersize": 3.5}
                ax.plot(x, y, marker=single, **style)
        spent = [row["search_seconds"] for row in of_method]
        accuracies = [100 * row["test_accuracy"] for row in of_method]
        style = {"color": colour, "marker": marker, "linestyle": ""}
        axes[2].plot(spent, accuracies, **style, markersize=3, alpha=0.5, markeredgewidth=0)
        deviation = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
        axes[2].errorbar(
            np.mean(spent),
            np.mean(accuracies),
            deviation,
            **style,
            markersize=5,
            linewidth=0.9,
            capsize=2,
            label=_NAMES[method],
        )
    tidy(axes[0], xlabel="images passed in search", ylabel="accuracy in search (%)")
    tidy(axes[1], xlabel="seconds of search", ylabel="accuracy in search (%)")
    tidy(
        axes[2],
        xlabel="seconds of search (log, but for 0)",
        ylabel="test accuracy, trained alone (%)",
    )
    for ax in axes[:2]:
        if not any(len(line.get_xdata()) for line in ax.lines):
            note(ax, "no search has validated yet")
    axes[1].set_xscale("log")
    plain_log_labels(axes[1].xaxis)
    axes[0].xaxis.set_major_locator(MaxNLocator(4))
    # no search costs nothing, which a log axis cannot show
    least = max(1.0, _least_cost(searches) / 3)
    axes[2].set_xscale("symlog", linthresh=least, linscale=0.5)
    plain_log_labels(axes[2].xaxis)
    axes[2].margins(0.1)
    axes[2].set_xlim(left=-least / 3)
    several = any(len(of_method) > 1 for of_method in searches.values())
    words = "right: every search small, the mean large with one standard deviation over seeds"
    legend_below(figure, axes, columns=3, title=words if several else "")
    return figure


def _least_cost(searches: Mapping[str, Rows]) -> float:
    costs = [row["search_seconds"] for of_method in searches.values() for row in of_method]
    return min((cost for cost in costs if cost > 0), default=1.0)


def draw_steps(rows: Rows) -> Figure:
    """Return the figure of the time and memory of a training step on one batch against the batch's size.

    Raises
    ------
    UserError
        When no step was measured.
    """
    known = [row for row in rows if row["kind"] == "step" and row["seconds"] is not None]
    if not known:
        raise UserError("no step is measured yet")
    figure = new_figure(PAGE_WIDTH, 2.8)
    axes = figure.subplots(1, 2)
    for method in efficiency.STEPS:
        of_method = sorted(
            (row for row in known if row["method"] == method), key=lambda row: row["number"]
        )
        colour, marker = _LOOKS[method]
        style = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1.0}
        sizes = [row["number"] for row in of_method]
        times = [1e3 * row["seconds"] / row["batches"] for row in of_method]
        axes[0].plot(sizes, times, **style, label=_NAMES[method])
        saved = [row["saved"] / 2**20 for row in of_method]
        axes[1].plot(sizes, saved, **style, label=_NAMES[method])
    tidy(axes[0], xlabel="batch size", ylabel="ms for a batch")
    tidy(axes[1], xlabel="batch size", ylabel="MiB saved for the backward pass")
    sizes = sorted({row["number"] for row in known})
    for ax in axes:
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.xaxis.minorticks_off()
        plain_log_labels(ax.yaxis)
    legend_below(figure, axes, columns=3)
    return figure


_BEHAVIOUR = {
    "changed": "nodes that change\nat a recovery (%)",
    "flipped": "coefficients that flip\nin an epoch (%)",
    "started_flipped": "nodes that start\nflipped (%)",
}


def draw_ablation(rows: Rows) -> Figure:
    """Return the figure of the settings' accuracies less that of their centre, and of what their codes did."""
    names = [name for name in ablation.SETTINGS if any(row["setting"] == name for row in rows)]
    figure = new_figure(PAGE_WIDTH, 0.75 + 0.17 * len(names))
    axes = figure.subplots(1, 1 + len(_BEHAVIOUR), sharey=True, width_ratios=(2.2, 1, 1, 1))
    axes[0].axvline(0, color=GREY, linewidth=0.8)
    everything, intervals = [0.0], []
    for y, name in enumerate(names):
        setting = ablation.SETTINGS[name]
        colour = _colour_of(name)
        if setting.centre is None:
            axes[0].plot(0, y, "D", color=colour, markersize=3.5)
        differences = ablation.differences(rows, name, setting.centre or name)
        if setting.centre is not None and differences:
            mean, low, high = mean_interval(differences)
            axes[0].plot(differences, [y] * len(differences), ".", color=GREY, markersize=2.5)
            everything += differences
            if np.isfinite(low):
                intervals.append((low, high))
                axes[0].plot([low, high], [y, y], color=colour, linewidth=1.0)
            axes[0].plot(mean, y, "o", color=colour, markersize=3.5)
        for ax, quantity in zip(axes[1:], _BEHAVIOUR, strict=True):
            values = [
                100 * row[quantity]
                for row in rows
                if row["setting"] == name and row[quantity] is not None
            ]
            if values:
                ax.plot(values, [y] * len(values), ".", color=GREY, markersize=2.5)
                ax.plot(np.mean(values), y, "o", color=colour, markersize=3.5)
    tidy(axes[0], xlabel="accuracy minus the centre's (points)")
    for ax, words in zip(axes[1:], _BEHAVIOUR.values(), strict=True):
        tidy(ax, xlabel=words)
        ax.set_xlim(-5, 105)
    left, right = reach(everything, intervals)
    axes[0].set_xlim(left, right)
    beyond = any(low < left or high > right for low, high in intervals)
    words = "small: seeds; large: means"
    if intervals:
        words += ", with 95 % intervals by Student's t"
    if beyond:
        words += "; those of few seeds go on beyond the edge"
    figure.supxlabel(words, fontsize=FONT_SIZE, color=GREY)
    for ax in axes:
        ax.grid(axis="y", color=GREY, linewidth=0.3, alpha=0.4)
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(names)), names, fontsize=FONT_SIZE)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def _colour_of(name: str) -> str:
    first = name.split()[0]
    families = ("gaussian", "uniform", "orthogonal", "one-stage")
    return COLOURS[families.index(first)] if first in families else GREY


FIGURES: dict[str, Callable[[Rows], Figure]] = {
    "two_stage": draw_two_stage,
    "one_stage": draw_one_stage,
    "correlation": draw_correlation,
    "efficiency": draw_efficiency,
    "steps": draw_steps,
    "ablation": draw_ablation,
}


def draw(name: str, directory: str | Path) -> Figure:
    """Return a figure of an experiment's directory.

    Raises
    ------
    UserError
        When there is nothing to draw, or it is of another experiment.
    """
    rows = read_rows(directory)
    try:
        return FIGURES[name](rows)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{directory} has no results for the figure {name}: {error} is missing in its rows"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("experiments", "The experiments' rows as figures.")
    parser.add_argument("figure", choices=FIGURES, help="what to draw")
    parser.add_argument("directory", metavar="DIR", help="what the experiment wrote")

    def drawn(given: argparse.Namespace) -> Figure:
        return draw(given.figure, given.directory)

    return run_command(parser, drawn, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
