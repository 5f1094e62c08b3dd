"""Diagrams of networks of layers: what is drawn is the genotype, read back from the picture's geometry alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from isnas import Edge, Genotype, UserError
from isnas.codes.choices import Choices
from isnas.drawing import draw_cells
from isnas.drawing.painting import INK
from isnas.spaces.macro import KIND, SKIP, MacroSpace


def read_back(ax: Axes, layers: int) -> list[set[tuple[str, int]]]:
    """Return what each layer has: its box's text, and its dots by the lanes that begin at the states' heights."""
    labels = [text for text in ax.texts if not text.get_text().isdecimal()]
    assert labels[0].get_text() == "stem"
    heights = [text.get_position()[1] for text in labels]
    assert heights == sorted(heights, reverse=True) and len(heights) == layers + 1
    spacing = heights[0] - heights[1]
    lanes = {}
    for line in ax.lines:
        x, y = line.get_xdata(), line.get_ydata()
        if len(x) == 3:  # from a box to the right, and down to the last reader
            state = round((heights[0] - y[0]) / spacing)
            assert abs(heights[state] - y[0]) < spacing / 3
            lanes[round(x[1], 3)] = (state, y[2])
    found = [{(text.get_text(), layer)} for layer, text in enumerate(labels[1:])]
    last = {}
    for dot in ax.patches:
        if isinstance(dot, Circle) and to_hex(dot.get_edgecolor()) == INK:
            x, y = dot.center
            layer = round((heights[0] - y) / spacing) - 1
            state, _ = lanes[round(x, 3)]
            found[layer].add((SKIP, state))
            last[state] = min(y, last.get(state, y))
    # lanes end where they are read last
    assert last == {state: pytest.approx(end) for state, end in lanes.values()}
    return found


def expected(genotype: Genotype) -> list[set[tuple[str, int]]]:
    return [{tuple(edge) for edge in edges} for edges in genotype[KIND].nodes]


@pytest.mark.parametrize("layers", [3, 12, 24])
def test_the_picture_is_the_genotype(layers: int) -> None:
    random = torch.Generator().manual_seed(layers)
    for _ in range(3):
        genotype = Choices(MacroSpace(layers=layers)).random(random)
        figure = draw_cells(genotype)
        assert read_back(figure.axes[0], layers) == expected(genotype)
        assert_apart(figure)


def assert_apart(figure: Figure) -> None:
    """Texts do not touch, lie within the figure, and have at least 7 points."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    extents = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    for i, one in enumerate(extents):
        assert figure.bbox.x0 <= one.x0 and one.x1 <= figure.bbox.x1
        assert not any(one.overlaps(other) for other in extents[:i])
    assert all(text.get_fontsize() >= 7 for text in figure.axes[0].texts)


def test_a_network_without_skips_and_the_published_one() -> None:
    chain = Genotype.parse("0 1 0 2 0 0")
    assert read_back(draw_cells(chain).axes[0], 3) == expected(chain)
    published = Genotype.load("ENAS_macro")
    figure = draw_cells(published, title="ENAS")
    assert figure.get_figwidth() <= 7 and figure.get_figheight() <= 9
    dots = [p for p in figure.axes[0].patches if isinstance(p, Circle)]
    assert sum(to_hex(dot.get_edgecolor()) == INK for dot in dots) == 98
    assert len(dots) == 276  # all that could be


def test_coefficients_are_sizes_of_dots_and_negative_ones_hollow() -> None:
    genotype = Genotype.parse("0 1 1 2 1 1")
    values = {
        (node, edge): 1.0 for node, edges in enumerate(genotype[KIND].nodes) for edge in edges
    }
    values[2, Edge(SKIP, 0)] = -0.5
    figure = draw_cells(genotype, coefficients={KIND: values})
    dots = {
        dot.center: (dot.radius, to_hex(dot.get_facecolor()))
        for dot in figure.axes[0].patches
        if isinstance(dot, Circle)
    }
    lowest = min(y for _, y in dots)
    negative, positive = (dots[center] for center in sorted(dots) if center[1] == lowest)
    assert negative[1] == "#ffffff" and positive[1] == INK
    assert negative[0] < positive[0]
    del values[2, Edge(SKIP, 0)]
    with pytest.raises(UserError, match="coefficient of skip from state 0 to node 2 is None"):
        draw_cells(genotype, coefficients={KIND: values})


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_the_same_genotype_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for path in paths:
        draw_cells(Genotype.load("ENAS_macro"), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
