"""Losses and measures of one or several runs over the epochs; of runs with one label the mean and the range.

python -m figures.training [LABEL=]RUN [[LABEL=]RUN ...] -o training.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isnas.drawing import COLUMN_WIDTH, PAGE_WIDTH
from isnas.runs.records import RunRecord
from isnas.runtime.errors import UserError

from ._command import Parser, run_command
from ._runs import Groups, add_runs, open_groups
from ._style import COLOURS, GREY, MARKERS, legend_below, new_figure, tidy, whole_numbers

_SEARCHING = ("search",)
_RANDOM = "random architectures"

Curves = dict[str, list[tuple[RunRecord, str]]]
"""The (run, part) pairs that are drawn as one curve, by label."""


def curves_of(groups: Groups) -> dict[str, Curves]:
    """Return what there is to draw for ``search`` and for ``training from scratch``; what has no epoch is left out."""
    stages: dict[str, Curves] = {"search": {}, "training from scratch": {}}
    for label, runs in groups.items():
        for run in runs:
            for part in run.parts:
                if len(run.epochs(part)) == 0:
                    continue
                name = label
                if part.startswith("random-"):
                    name = f"{label}: {_RANDOM}"
                elif part not in (*_SEARCHING, run.command):
                    name = f"{label}: {part}"
                stage = "search" if part in _SEARCHING else "training from scratch"
                stages[stage].setdefault(name, []).append((run, part))
    return {stage: curves for stage, curves in stages.items() if curves}


def draw_curves(
    curves: Curves,
    quantity: str,
    ax: Axes,
    colours: dict[str, str],
    markers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Draw a quantity over epochs: on training data solid, on validation data dashed, at the test a star.

    Parameters
    ----------
    curves : dict of str to list of (RunRecord, part)
    quantity : str
        "loss", or the name of the measure.
    ax : matplotlib.axes.Axes
    colours : dict of str to colour
        By label.
    markers : mapping of str to marker, optional
        By label: of those whose colour others have, too.
    """
    for label, members in curves.items():
        colour = colours[label]
        for split, dashes in (("train", "-"), ("valid", (0, (3, 1.5)))):
            found = [run.epochs(part).get(f"{split}_{quantity}") for run, part in members]
            known = [values for values in found if values is not None]
            if not known:
                continue
            low, mean, high = _spread(known)
            x = np.arange(1, len(mean) + 1)
            name = label if split == "train" else f"{label}, validation"
            dot = "." if len(mean) == 1 else markers.get(label)
            every = max(1, len(mean) // 8)
            style = {"color": colour, "linestyle": dashes, "linewidth": 1.0}
            ax.plot(x, mean, **style, label=name, marker=dot, markersize=3, markevery=every)
            if len(known) > 1:
                ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        for run, part in members:
            tested = run.results.get(part, {}).get(f"test_{quantity}")
            last = len(run.epochs(part)["epoch"])
            if tested is not None:
                ax.plot(
                    last,
                    tested,
                    marker="*",
                    markersize=6,
                    color=colour,
                    markeredgecolor="white",
                    markeredgewidth=0.4,
                    linestyle="",
                    zorder=4,
                    clip_on=False,
                )
            phases = run.epochs(part).get("phase", np.array([]))
            if 0 < (searched := (phases == "search").sum()) < last:
                ax.axvline(searched + 0.5, color=colour, linewidth=0.7, linestyle=":", zorder=1)
    tidy(ax, xlabel="epoch", ylabel=quantity)


def _spread(curves: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the least, mean and largest value for every epoch, of the curves that go so far."""
    columns = [[c[i] for c in curves if i < len(c)] for i in range(max(map(len, curves)))]
    values = [(min(column), float(np.mean(column)), max(column)) for column in columns]
    low, mean, high = np.array(values).T
    return low, mean, high


def make_figure(groups: Groups) -> Figure:
    """Return the figure of some runs: losses above accuracies, search beside training from scratch.

    Raises
    ------
    UserError
        When no run has finished an epoch yet.
    """
    stages = curves_of(groups)
    if not stages:
        names = ", ".join(str(run.directory) for runs in groups.values() for run in runs)
        raise UserError(f"no epoch is finished yet in {names}")
    labels = dict.fromkeys(label for curves in stages.values() for label in curves)
    plain = [label for label in labels if not label.endswith(_RANDOM)]
    colours = {label: COLOURS[i % (len(COLOURS) - 1)] for i, label in enumerate(plain)}
    colours |= {label: GREY for label in labels if label not in colours}
    rounds = len(COLOURS) - 1
    markers = {label: MARKERS[i // rounds] for i, label in enumerate(plain) if i >= rounds}
    figure = new_figure(PAGE_WIDTH if len(stages) > 1 else COLUMN_WIDTH, 4.0)
    axes = figure.subplots(2, len(stages), sharex="col", squeeze=False)
    for column, (stage, curves) in zip(axes.T, stages.items(), strict=True):
        members = [member for each in curves.values() for member in each]
        measure = members[0][0].measure
        for ax, quantity in zip(column, ("loss", measure.name), strict=True):
            draw_curves(curves, quantity, ax, colours, markers)
        column[0].set_ylim(0, 1.08 * column[0].dataLim.y1)
        if measure.scale == 100:  # a share
            column[1].set_ylim(0, 1.02)
        one_stage = any("training" in run.epochs(part).get("phase", ()) for run, part in members)
        title = "Search, one-stage training" if one_stage else stage.capitalize()
        tidy(column[0], ylabel="loss", title=title)
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    whole_numbers(axes.flat)
    _explain_marks(
        axes[0, 0], [member for c in stages.values() for m in c.values() for member in m]
    )
    several = any(len(m) > 1 for curves in stages.values() for m in curves.values())
    legend_below(
        figure,
        axes.flat,
        columns=3,
        title="lines: means over runs; bands: from the least to the largest" if several else "",
    )
    return figure


def _explain_marks(ax: Axes, members: Sequence[tuple[RunRecord, str]]) -> None:
    """Give an axis the legend's entries of the marks that were drawn."""
    if any(f"test_{run.measure.name}" in run.results.get(part, {}) for run, part in members):
        ax.plot([], [], "*", color=GREY, markersize=6, label="test, at the end")
    phases = [run.epochs(part).get("phase", np.array([])) for run, part in members]
    if any(len(set(each.tolist())) > 1 for each in phases):
        ax.plot([], [], ":", color=GREY, linewidth=0.9, label="end of search")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("training", "Losses and measures; runs that differ in the seed are one band.")
    add_runs(parser)

    def draw(given: argparse.Namespace) -> Figure:
        return make_figure(open_groups(given.runs))

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
