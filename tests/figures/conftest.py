"""Common parts of the tests of figures: reading texts and ink off a drawn figure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, which lose much time where processors are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(figure: Figure) -> FigureCanvasAgg:
    """Draw a figure and return its canvas."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def texts_of(figure: Figure) -> list[Text]:
    """Return all texts that can be seen in a drawn figure."""
    found = [*figure.texts]
    for legend in figure.legends:
        found += [*legend.get_texts(), legend.get_title()]
    for ax in figure.axes:
        found += [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]
        if ax.get_legend() is not None:
            found += ax.get_legend().get_texts()
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            low, high = sorted(limits)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if low <= tick.get_loc() <= high:
                    found += [tick.label1, tick.label2]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def ink(ax: Axes, canvas: FigureCanvasAgg) -> int:
    """Return how many pixels inside an axis's frame are not white."""
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    box = ax.get_window_extent()
    frame = min(3, round(box.width / 4), round(box.height / 4))
    top = len(pixels) - box.y1
    rows = slice(round(top) + frame, round(top + box.height) - frame)
    inside = pixels[rows, round(box.x0) + frame : round(box.x1) - frame]
    return int((inside < 250).any(-1).sum())


@pytest.fixture
def check_figure() -> Callable[[Figure], list[str]]:
    """Return a function that checks that a figure is legible, and returns its texts.

    No text overlaps another or leaves the figure or is smaller than 7 points; no axis is empty.
    """

    def check(figure: Figure) -> list[str]:
        canvas = drawn(figure)
        texts = texts_of(figure)
        boxes = {text: text.get_window_extent(canvas.get_renderer()) for text in texts}
        whole = figure.bbox
        for text, box in boxes.items():
            shown = text.get_text()
            assert text.get_fontsize() >= 7, f"{shown!r} is too small"
            assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1, f"{shown!r} is cut off"
            assert box.y0 >= whole.y0 - 1 and box.y1 <= whole.y1 + 1, f"{shown!r} is cut off"
        for (a, one), (b, other) in itertools.combinations(boxes.items(), 2):
            wide = min(one.x1, other.x1) - max(one.x0, other.x0)
            high = min(one.y1, other.y1) - max(one.y0, other.y0)
            overlap = wide > 1 and high > 1
            assert not overlap, f"{a.get_text()!r} overlaps {b.get_text()!r} by {wide} x {high}"
        for ax in figure.axes:
            # bars may all be zero
            if ax.patches and all(patch.get_height() == 0 for patch in ax.patches):
                continue
            assert ink(ax, canvas) > 10, f"axis {ax.get_title()!r} is empty"
        return [text.get_text() for text in texts]

    return check
