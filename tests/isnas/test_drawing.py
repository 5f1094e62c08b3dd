"""Diagrams: nothing overlaps, and what is drawn is the genotype - read back from the picture's geometry alone."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from making import random_genotype
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.text import Text

from isnas import GENOTYPES, DartsSpace
from isnas.drawing import (
    Flow,
    draw_cell,
    draw_cells,
    operation_colour,
    operation_family,
    save_figure,
)
from isnas.runtime.errors import UserError
from isnas.spaces.base import Place, Space
from isnas.spaces.darts import PRIMITIVES
from isnas.spaces.genotype import CellGenotype, Edge, Genotype

Box = tuple[float, float, float, float]
"""Left, lower, right and upper end."""


def boxes_of(ax: Axes) -> dict[Text, Box]:
    """Return the boxes of an axis, in its units, each under the text in its middle."""
    texts = [text for text in ax.texts if text.get_text()]
    boxes = {}
    for patch in ax.patches:
        if isinstance(patch, FancyBboxPatch):
            x, y, wide, high = patch.get_bbox().bounds
            own = [
                text
                for text in texts
                if x < text.get_position()[0] < x + wide and y < text.get_position()[1] < y + high
            ]
            assert len(own) == 1
            boxes[own[0]] = (x, y, x + wide, y + high)
    assert len(boxes) == len(texts)
    return boxes


def lines_of(ax: Axes) -> list[PathPatch]:
    """Return the lines of an axis without their white borders."""
    lines = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    return [line for line in lines if to_hex(line.get_edgecolor()) != "#ffffff"]


def sampled(line: PathPatch) -> np.ndarray:
    """Return points along a line: a cubic curve and perhaps a straight part."""
    vertices = line.get_path().vertices
    t = np.linspace(0, 1, 41)[:, None]
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    curve = sum(weight * vertex for weight, vertex in zip(weights, vertices[:4], strict=True))
    return np.concatenate([curve, *((1 - t) * vertices[3] + t * end for end in vertices[4:])])


@functools.cache
def measuring(dpi: float) -> RendererAgg:
    """Return one renderer for all figures, because each parses formulas anew."""
    return FigureCanvasAgg(Figure(dpi=dpi)).get_renderer()


def inside(points: np.ndarray, boxes: np.ndarray, margin: float) -> np.ndarray:
    """Return whether points (..., 2) lie in boxes (..., 4), widened by a margin."""
    low, high = boxes[..., :2] - margin, boxes[..., 2:] + margin
    return ((points > low) & (points < high)).all(axis=-1)


def clear(first: Box, second: Box, distance: float = 0.0) -> bool:
    """Return whether two boxes are at least a distance apart."""
    return (
        first[2] + distance <= second[0]
        or second[2] + distance <= first[0]
        or first[3] + distance <= second[1]
        or second[3] + distance <= first[1]
    )


def read_back(ax: Axes, inputs: int) -> tuple[dict[int, set[Edge]], set[int]]:
    """Return the edges of each node and the concatenated states that an axis shows, by following its lines."""
    boxes = boxes_of(ax)
    areas = np.array([*boxes.values()])
    states: dict[Text, int | None] = {}
    for text in boxes:
        label = text.get_text()
        if back := re.fullmatch(r"\$c_\{k-(\d+)\}\$", label):
            states[text] = inputs - int(back[1])
        elif label.isdecimal():
            states[text] = inputs + int(label)
        elif label == "$c_{k}$":
            states[text] = None

    def box_at(point: np.ndarray, margin: float) -> Text | None:
        found = np.flatnonzero(inside(point, areas, margin))
        assert len(found) <= 1
        return [*boxes][found[0]] if len(found) else None

    lines = [line.get_path().vertices for line in lines_of(ax)]
    passing = {tuple(np.round(line[-1], 6)): line for line in lines if len(line) == 5}
    incoming = defaultdict(list)
    for line in lines:
        if len(line) == 4:
            end = box_at(line[-1], 4.0)  # the head is in between
            while (start := box_at(line[0], 0.01)) is None:
                line = passing[tuple(np.round(line[0], 6))]
            assert end is not None
            incoming[end].append(start)

    edges: dict[int, set[Edge]] = {}
    concat = set()
    for text, state in states.items():
        if state is None:
            concat = {states[start] for start in incoming[text]}
            assert len(concat) == len(incoming[text])
        elif state >= inputs:
            operations = incoming[text]
            edges[state - inputs] = set()
            for operation in operations:
                (source,) = incoming[operation]
                edges[state - inputs].add(Edge(operation.get_text(), states[source]))
            assert len(edges[state - inputs]) == len(operations)
        else:
            assert not incoming[text]
    return edges, concat


def check(figure: Figure, genotype: Genotype) -> None:
    """Check that nothing overlaps in a figure, that all text is legible and that the figure shows the genotype."""
    renderer = measuring(figure.dpi)
    points = 72 / figure.dpi
    page = tuple(figure.bbox.extents * points)
    outer: list[Box] = []
    assert [ax.get_label() for ax in figure.axes] == list(genotype.kinds)
    for ax in figure.axes:
        cell = genotype[ax.get_label()]
        boxes = boxes_of(ax)
        to_points = ax.transData.transform
        unit = (to_points((1, 1)) - to_points((0, 0))) * points
        assert np.allclose(unit, 1.0)  # an axis unit is a printed point
        for text, (x0, y0, x1, y1) in boxes.items():
            label = text.get_text()
            least = 10 if label.startswith("$") else 7  # a subscript has 0.7 of its letter
            assert text.get_fontsize() >= least - 1e-6
            box = (*to_points((x0, y0)) * points, *to_points((x1, y1)) * points)
            inner = text.get_window_extent(renderer).extents * points
            assert box[0] + 1 < inner[0] and inner[2] < box[2] - 1
            assert box[1] + 1 < inner[1] and inner[3] < box[3] - 1
            outer.append(box)
        outer.append(tuple(ax.title.get_window_extent(renderer).extents * points))

        lines = lines_of(ax)
        for line in lines:
            along = sampled(line)
            assert not inside(along[:, None], np.array([*boxes.values()]), -0.05).any()
            corners = to_points(along) * points
            assert (corners > 0.5).all() and (corners < np.array(page[2:]) - 0.5).all()
        # passing lines keep apart from each other and from boxes
        straight = [line.get_path().vertices[3:] for line in lines if len(line.get_path()) == 5]
        ends: list[Box] = [(*np.minimum(a, b), *np.maximum(a, b)) for a, b in straight]
        for first, second in itertools.combinations(ends, 2):
            if len({*np.round(first, 6)} & {*np.round(second, 6)}) < 3:  # not one going on
                assert clear(first, second, 5.0) or not clear(first, second, -0.01)
        assert all(clear(end, box, 4.0) for end in ends for box in boxes.values())

        edges, concat = read_back(ax, cell.inputs)
        assert edges == {node: set(each) for node, each in enumerate(cell.nodes)}
        assert concat == set(cell.concat)

    outer += [tuple(text.get_window_extent(renderer).extents * points) for text in figure.texts]
    for box in outer:
        assert box[0] >= 0.5 and box[1] >= 0.5 and box[2] <= page[2] - 0.5
        assert box[3] <= page[3] - 0.5
    for first, second in itertools.combinations(outer, 2):
        assert clear(first, second, 2.0)


def ragged_genotype(space: Space, generator: torch.Generator) -> Genotype:
    """Draw a genotype with 0 to 5 operations a node, of which not every node is concatenated."""

    def whole(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    places: dict[str, list[Place]] = {kind: [] for kind in space.kinds}
    for kind in space.kinds:
        for node in range(space.nodes):
            candidates = space.candidates(node)
            order = torch.randperm(len(candidates), generator=generator).tolist()
            places[kind] += [candidates[i] for i in order[: whole(6)]]
    cells = []
    for kind, cell in Genotype.from_places(places, space).cells:
        concat = tuple(state for state in cell.concat[:-1] if whole(3)) + cell.concat[-1:]
        cells.append((kind, CellGenotype(cell.nodes, concat, cell.inputs)))
    return Genotype(space, tuple(cells))


@pytest.mark.parametrize("width", [None, 3.4, 7.0])
@pytest.mark.parametrize("name", GENOTYPES)
def test_published(name: str, width: float | None) -> None:
    figure = draw_cells(GENOTYPES[name], title=name, width=width)
    check(figure, GENOTYPES[name])
    width = width or 7.0  # where they have room
    # three layers with four operations each do not fit one column with text of 7 points
    too_wide = width == 3.4 and name in ("ISTA_onestage", "ISTA_ImageNet")
    assert figure.get_figwidth() == pytest.approx(width, rel=0.15 if too_wide else 1e-6)


@pytest.mark.parametrize("inputs", [1, 2, 3])
@pytest.mark.parametrize("nodes", range(1, 9))
def test_random(nodes: int, inputs: int) -> None:
    space = DartsSpace(nodes=nodes, inputs=inputs, kinds=("cell",))
    generator = torch.Generator().manual_seed(10 * nodes + inputs)
    drawn = [random_genotype(space, generator, s) for s in (1, 1, 2, 2, 3)]
    drawn += [ragged_genotype(space, generator) for _ in range(4)]
    for index, genotype in enumerate(drawn):
        check(draw_cells(genotype, width=(None, 3.4)[index % 2]), genotype)


def test_as_wide_as_asked_when_text_fits() -> None:
    generator = torch.Generator().manual_seed(0)
    for nodes in (2, 5, 8):
        for _ in range(3):
            genotype = random_genotype(DartsSpace(nodes=nodes), generator)
            assert draw_cells(genotype).get_figwidth() in (pytest.approx(3.4), pytest.approx(7))


class AnyCells(DartsSpace):
    """A space that takes cells of every kind."""

    def check(self, genotype: Genotype) -> None:
        pass


def test_strange_cells() -> None:
    unread = CellGenotype(
        ((), (Edge("zoom", 2),), (Edge("zoom", 0), Edge("a_$b$_c", 0)), ()), (2, 4)
    )
    empty = CellGenotype(((), ()), (1,), 1)
    late = CellGenotype(
        ((), (Edge("zoom", 0),), (Edge("zoom", 2),), (Edge("zoom", 3), Edge("zoom", 1))), (4,), 1
    )
    genotype = Genotype(AnyCells(), (("unread", unread), ("empty", empty), ("late", late)))
    check(draw_cells(genotype), genotype)
    ax = draw_cells(genotype).axes[0]
    dashed = [
        p for p in ax.patches if isinstance(p, FancyBboxPatch) and p.get_linestyle() != "solid"
    ]
    pale = [t.get_text() for t in ax.texts if to_hex(t.get_color()) == "#a0a0a0"]
    assert len(dashed) == 2 and sorted(pale) == ["0", "3"]


def test_widths_show_coefficients() -> None:
    genotype = GENOTYPES["ISTA_twostage"]
    values = {
        kind: {
            (node, edge): (-1) ** index * (node + 1.0) / (4 if kind == "normal" else 8)
            for node, edges in enumerate(cell.nodes)
            for index, edge in enumerate(edges)
        }
        for kind, cell in genotype.cells
    }
    figure = draw_cells(genotype, coefficients=values)
    check(figure, genotype)
    for ax in figure.axes:
        names = {to_hex(operation_colour(name)) for name in PRIMITIVES}
        lines = [line for line in lines_of(ax) if to_hex(line.get_edgecolor()) in names]
        cell_values = values[ax.get_label()].values()
        expected = [(round(0.5 + 2.3 * abs(v), 6), v < 0) for v in cell_values]
        drawn = [(round(ln.get_linewidth(), 6), ln.get_linestyle() != "solid") for ln in lines]
        assert sorted(drawn) == sorted(expected)
    # a key says what the widest line and dashes are
    key = [text.get_text() for text in figure.texts]
    assert key == ["coefficient:", "1", "0", "negative"]
    assert [line.get_linewidth() for line in figure.artists] == [2.8, 0.5, (2.8 + 0.5) / 2]
    # one scale for all kinds
    widest = [max(line.get_linewidth() for line in lines_of(ax)) for ax in figure.axes]
    assert widest == pytest.approx([0.5 + 2.3, 0.5 + 2.3 / 2])


def test_coefficients_that_do_not_fit() -> None:
    genotype = GENOTYPES["DARTS_V2"]
    values = {(n, e): 0.0 for n, edges in enumerate(genotype["normal"].nodes) for e in edges}
    draw_cell(genotype["normal"], Figure().add_subplot(), coefficients=values)  # all zero is fine
    with pytest.raises(UserError, match="no coefficients for the reduction cell"):
        draw_cells(genotype, coefficients={"normal": values})
    values[0, Edge("sep_conv_3x3", 1)] = math.nan
    with pytest.raises(UserError, match="sep_conv_3x3 from state 1 to node 0 is nan"):
        draw_cell(genotype["normal"], Figure().add_subplot(), coefficients=values)
    del values[0, Edge("sep_conv_3x3", 1)]
    with pytest.raises(UserError, match="sep_conv_3x3 from state 1 to node 0 is None"):
        draw_cell(genotype["normal"], Figure().add_subplot(), coefficients=values)


@pytest.mark.parametrize("flow", ["right", "down", None])
@pytest.mark.parametrize("size", [(1.5, 1.2), (1.2, 4.0), (9.0, 5.0)])
def test_draws_into_any_axis(size: tuple[float, float], flow: Flow | None) -> None:
    cell = GENOTYPES["ISTA_twostage"]["reduction"]
    ax = Figure(figsize=size, dpi=300).add_subplot()
    draw_cell(cell, ax, title="a cell", flow=flow)
    assert ax.get_title() == "a cell"
    renderer = measuring(ax.figure.dpi)
    extents = [text.get_window_extent(renderer).extents for text in ax.texts]
    assert all(clear(*pair) for pair in itertools.combinations(extents, 2))
    frame = ax.get_window_extent(renderer).extents
    for box in boxes_of(ax).values():
        low, high = ax.transData.transform((box[:2], box[2:]))
        assert (low >= frame[:2] - 0.01).all() and (high <= frame[2:] + 0.01).all()
    assert read_back(ax, 2)[0] == {node: set(edges) for node, edges in enumerate(cell.nodes)}
    if size[0] == 9:
        assert {text.get_fontsize() for text in ax.texts} == {7.0, 8.0, 10.0}


def test_flow_turns_only_where_that_helps() -> None:
    cell = GENOTYPES["ISTA_twostage"]["reduction"]  # four layers deep

    def goes_right(width: float) -> bool:
        ax = Figure(figsize=(width, 6)).add_axes((0, 0, 1, 1))
        draw_cell(cell, ax)
        places = {text.get_text(): text.get_position() for text in ax.texts}
        return places["3"][0] - places["0"][0] > abs(places["3"][1] - places["0"][1])

    assert goes_right(7.0) and not goes_right(3.4)


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_same_bytes(suffix: str, tmp_path: Path) -> None:
    settings = dict(matplotlib.rcParams)
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        draw_cells(GENOTYPES["ISTA_onestage"], path, title="found")
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[suffix]
    assert first.startswith(start) and len(first) > 5000
    assert dict(matplotlib.rcParams) == settings


def test_svg_keeps_text(tmp_path: Path) -> None:
    genotype = GENOTYPES["ISTA_onestage"]
    path = tmp_path / "cells.SVG"
    draw_cells(genotype, str(path))
    svg = path.read_text(encoding="utf-8")
    names = re.findall(r"<text[^>]*>([a-z]+_[a-z0-9_]+)</text>", svg)
    edges = [edge for _, cell in genotype.cells for edges in cell.nodes for edge in edges]
    assert sorted(names) == sorted(edge.operation for edge in edges)
    assert "Normal cell" in svg and "Reduction cell" in svg
    assert "sans-serif" in svg and "dc:date" not in svg


def test_where_it_cannot_save(tmp_path: Path) -> None:
    genotype = GENOTYPES["DARTS_V2"]
    for name in ("cells.jpg", "cells"):
        with pytest.raises(UserError, match=r"expected \.svg, \.png or \.pdf"):
            draw_cells(genotype, tmp_path / name)
    with pytest.raises(UserError, match=r"cannot be written: No such file or directory"):
        draw_cells(genotype, tmp_path / "nowhere" / "cells.svg")
    with pytest.raises(UserError, match=r"expected \.svg, \.png or \.pdf"):
        save_figure(Figure(), tmp_path / "empty.eps")
    assert not list(tmp_path.iterdir())


def test_families() -> None:
    families = {name: operation_family(name) for name in (*PRIMITIVES, "nor_conv_1x1")}
    assert families == {
        "max_pool_3x3": "pooling",
        "avg_pool_3x3": "pooling",
        "skip_connect": "skip",
        "sep_conv_3x3": "separable",
        "sep_conv_5x5": "separable",
        "dil_conv_3x3": "dilated",
        "dil_conv_5x5": "dilated",
        "nor_conv_1x1": "other",
    }
    assert len({operation_colour(name) for name in families}) == 5
