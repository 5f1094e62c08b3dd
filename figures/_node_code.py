"""The sparse code of one node on axes: z as a heat map, and how sparse it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import FuncNorm
from matplotlib.patches import Rectangle

from isnas.runs.records import Trajectory
from isnas.spaces.base import Space

from ._style import COLOURS, FONT_SIZE, GREY, INK, PALE, tidy, whole_numbers

COLOUR_MAP = "PuOr"
"""Diverging, and safe for the colour-blind; white is zero."""


def shares(code: Trajectory) -> np.ndarray:
    """Return z / ||z||_1, shape (R, n): signed shares; nan once the node is frozen and where z = 0."""
    total = np.abs(code.z).sum(1, keepdims=True)
    found = np.divide(code.z, total, out=np.full(code.z.shape, np.nan), where=total > 0)
    if code.frozen_at is not None:
        found[code.frozen_at + 1 :] = np.nan
    return found


def colour_norm(top: float) -> FuncNorm:
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
        norm=colour_norm(top),
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
    whole_numbers([ax], most=4)
    for spine in ax.spines.values():
        spine.set_visible(True)


def label_candidates(code: Trajectory, ax: Axes, space: Space) -> None:
    """Write a node's candidates to the right of its heat map: operations, and for each group what they read."""
    inputs = space.inputs
    sources = [place.source for place in code.places]
    names = [label.rpartition("<")[0] for label in code.labels]
    each_reads_another = len(set(sources)) == len(sources)
    if each_reads_another:
        names = [f"from {space.state_label(source)}" for source in sources]
    ax.set_yticks(range(len(names)), names, fontsize=FONT_SIZE)
    ax.tick_params(axis="y", length=0, labelright=True, labelleft=False)
    if each_reads_another or len(set(sources)) == 1:
        return
    for source, group in groupby(code.places, key=lambda place: place.source):
        rows = [code.places.index(place) for place in group]
        text = f"input {source}" if source < inputs else f"node {source - inputs}"
        ax.annotate(
            f"from{' ' if len(rows) > 5 else chr(10)}{text}",  # a few rows are lower than a line is long
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


def draw_course(code: Trajectory, axes: Sequence[Axes], line: Sequence[Trajectory]) -> None:
    """Draw a node's non-zeros, concentration and new places over recoveries onto three axes.

    The scales are those of all nodes that stand in a line.
    """
    shown = np.arange(len(code) if code.frozen_at is None else code.frozen_at + 1)
    nonzeros, share, new = axes
    m, s = (
        max(each) for each in zip(*((c.b.shape[1], c.support.shape[1]) for c in line), strict=True)
    )
    nonzeros.step(shown, code.nonzeros[shown], where="mid", color=COLOURS[0], linewidth=1.0)
    nonzeros.set_ylim(0, 1.15 * max(m, *(each.nonzeros.max() for each in line)))
    nonzeros.set_yticks([0, m])
    share.plot(shown, code.concentration[shown], color=COLOURS[2], linewidth=1.0)
    if len(shown) == 1:  # a line needs two
        nonzeros.plot(shown, code.nonzeros[shown], ".", color=COLOURS[0])
        share.plot(shown, code.concentration[shown], ".", color=COLOURS[2])
    share.set(ylim=(0, 1.05), yticks=[0, 1])
    new.bar(shown, code.replaced[shown], width=0.8, color=COLOURS[1])
    new.set(ylim=(0, 1.1 * max(s, 1)), yticks=[0, s] if s else [0])
    for ax in axes:
        tidy(ax)
        ax.set_xlim(-0.5, len(code) - 0.5)
        ax.tick_params(labelbottom=ax is new)
        if code.frozen_at is not None and code.frozen_at < len(code) - 1:
            ax.axvspan(code.frozen_at + 0.5, len(code) - 0.5, color=PALE, linewidth=0)
    whole_numbers(axes, most=4)
