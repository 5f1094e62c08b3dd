"""The sparsity of each node's code over the recoveries.

A heat map of z for every node (candidates from top to bottom, each recovery a column), the places that were active
framed; beneath it the number of non-zeros, the share of ||z||_1 in the active places, and how many of them are new.

python -m figures.sparsity RUN [--kind KIND] -o sparsity.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from isnas.drawing import PAGE_WIDTH
from isnas.errors import UserError
from isnas.records import RunRecord, Trajectory

from ._command import Parser, run_command
from ._runs import trajectories_of
from ._style import COLOURS, FONT_SIZE, GREY, INK, PALE, tidy, whole_numbers

COLOUR_MAP = "PuOr"
"""Diverging, and safe for the colour-blind; white is zero."""

# Layout in inches; a row is as high as its label.
_ROW = 0.103
_LEFT, _RIGHT, _GAP = 0.72, 1.0, 0.12
_KEY, _TITLE, _FOOT = 0.5, 0.2, 0.38
_COURSE, _COURSE_GAP = 0.27, 0.08


def shares(code: Trajectory) -> np.ndarray:
    """Return z / ||z||_1, shape (R, n): signed shares; nan once the node is frozen and where z = 0."""
    total = np.abs(code.z).sum(1, keepdims=True)
    found = np.divide(code.z, total, out=np.full(code.z.shape, np.nan), where=total > 0)
    if code.frozen_at is not None:
        found[code.frozen_at + 1 :] = np.nan
    return found


def _norm(top: float) -> FuncNorm:
    """Return the scale of colours: the square root of the size, so that small shares are seen, too."""

    def root(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * np.sqrt(np.abs(x))

    def square(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * np.square(x)

    return FuncNorm((root, square), -top, top)


def draw_heat_map(code: Trajectory, ax: Axes, *, scale: float | None = None) -> None:
    """Draw a node's z over recoveries, relative to ||z||_1, with the active places framed.

    Parameters
    ----------
    code : Trajectory
    ax : matplotlib.axes.Axes
    scale : float, optional
        The share that has the darkest colour; by default the node's largest.
    """
    z = shares(code)
    top = scale or np.nanmax(np.abs(z), initial=1e-9)
    n, recoveries = len(code.places), len(code)
    tidy(ax, title=f"node {code.node}")
    ax.title.set_fontsize(FONT_SIZE)
    ax.set_facecolor(PALE)
    ax.imshow(
        z.T,
        cmap=COLOUR_MAP,
        norm=_norm(top),
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, recoveries - 0.5, n - 0.5, -0.5),
    )
    sources = [place.source for place in code.places]
    for i in np.flatnonzero(np.diff(sources)):
        ax.axhline(i + 0.5, color=GREY, linewidth=0.4)
    for i in range(n):
        active = (code.support == i).any(1)
        for on, stretch in groupby(range(recoveries), key=active.__getitem__):
            if on:
                first, *_, last = [*stretch] * 2
                frame = (first - 0.5, i - 0.5), last - first + 1, 1
                ax.add_patch(Rectangle(*frame, fill=False, edgecolor=INK, linewidth=0.8, zorder=3))
    refused = np.flatnonzero(code.refused)
    ax.plot(
        refused, np.full(len(refused), -0.5), "x", color=COLOURS[1], markersize=3, clip_on=False
    )
    ax.set_yticks([])
    ax.tick_params(labelbottom=False)
    for spine in ax.spines.values():
        spine.set_visible(True)


def label_candidates(code: Trajectory, ax: Axes, inputs: int) -> None:
    """Write a node's candidates to the right of its heat map: operations, and for each group what they read."""
    names = [label.rpartition("<")[0] for label in code.labels]
    ax.set_yticks(range(len(names)), names, fontsize=FONT_SIZE)
    ax.tick_params(axis="y", length=0, labelright=True, labelleft=False)
    for source, group in groupby(code.places, key=lambda place: place.source):
        rows = [code.places.index(place) for place in group]
        text = f"input {source}" if source < inputs else f"node {source - inputs}"
        ax.annotate(
            f"from {text}",
            (1, np.mean(rows)),
            xycoords=("axes fraction", "data"),
            xytext=(0.9 * 72, 0),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="center",
            fontsize=FONT_SIZE,
            color=INK,
        )


def draw_course(code: Trajectory, axes: Sequence[Axes]) -> None:
    """Draw a node's non-zeros, concentration and new places over recoveries onto three axes."""
    shown = np.arange(len(code) if code.frozen_at is None else code.frozen_at + 1)
    nonzeros, share, new = axes
    m, s = code.b.shape[1], code.support.shape[1]
    nonzeros.step(shown, code.nonzeros[shown], where="mid", color=COLOURS[0], linewidth=1.0)
    nonzeros.set_ylim(0, 1.15 * max(m, code.nonzeros.max()))
    nonzeros.set_yticks([0, m])
    share.plot(shown, code.concentration[shown], color=COLOURS[2], linewidth=1.0)
    if len(shown) == 1:
        share.plot(shown, code.concentration[shown], ".", color=COLOURS[2])
    share.set(ylim=(0, 1.05), yticks=[0, 1])
    new.bar(shown, code.replaced[shown], width=0.8, color=COLOURS[1])
    new.set(ylim=(0, 1.1 * s), yticks=[0, s])
    for ax in axes:
        tidy(ax)
        ax.set_xlim(-0.5, len(code) - 0.5)
        ax.tick_params(labelbottom=ax is new)
        if code.frozen_at is not None:
            ax.axvspan(code.frozen_at + 0.5, len(code) - 0.5, color=PALE, linewidth=0)
    whole_numbers(axes, most=4)


def make_figure(run: RunRecord, kinds: Sequence[str] | None = None) -> Figure:
    """Return the figure of a run: for each kind of cell a row of its nodes.

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
    found = {kind: found[kind] for kind in kinds or found}
    rows = max(len(code.places) for codes in found.values() for code in codes)
    beneath = 3 * (_COURSE + _COURSE_GAP)
    block = _TITLE + rows * _ROW + beneath + _FOOT
    height = _KEY + block * len(found)
    figure = Figure(figsize=(PAGE_WIDTH, height))
    everything = [code for codes in found.values() for code in codes]
    scale = max(np.nanmax(np.abs(shares(code)), initial=1e-9) for code in everything)
    for i, (kind, codes) in enumerate(found.items()):
        top = height - _KEY - i * block
        _draw_kind(figure, kind, codes, top, rows, scale, run.space.inputs)
    _draw_key(
        figure,
        scale,
        any(code.frozen[:-1].any() for code in everything),
        everything[0].refused.any(),
    )
    return figure


def _draw_kind(
    figure: Figure,
    kind: str,
    codes: Sequence[Trajectory],
    top: float,
    rows: int,
    scale: float,
    inputs: int,
) -> None:
    """Draw the nodes of a kind of cell side by side, `top` inches above the figure's lower edge."""
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
        f"{kind.capitalize()} cell",
        rotation=90,
        ha="center",
        va="center",
        fontsize=FONT_SIZE + 2,
        color=INK,
    )
    longest = max(codes, key=lambda code: len(code.places))
    for j, code in enumerate(codes):
        left = _LEFT + j * (width + _GAP)
        upper = top - _TITLE
        ax = add_axes(left, upper, len(code.places) * _ROW)
        draw_heat_map(code, ax, scale=scale)
        if code is longest:
            label_candidates(code, ax, inputs)
        upper -= rows * _ROW
        axes = []
        for _ in range(3):
            upper -= _COURSE_GAP
            axes.append(add_axes(left, upper, _COURSE))
            upper -= _COURSE
        draw_course(code, axes)
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
    colours = ScalarMappable(_norm(scale), COLOUR_MAP)
    figure.colorbar(colours, cax=bar, orientation="horizontal")
    tidy(bar, xlabel="z, as a share of its l1 norm")
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
