"""Both cells of a found or given architecture; line widths show coefficients where a run knows them.

python -m figures.cells RUN|GENOTYPE -o cells.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from isnas.drawing import CellCoefficients, draw_cells
from isnas.runs.records import RunRecord
from isnas.runtime.errors import UserError
from isnas.spaces.genotype import Edge, Genotype

from ._command import Parser, run_command


def coefficients_of(run: RunRecord) -> dict[str, CellCoefficients] | None:
    """Return the coefficients that the last recovery left, by kind of cell and (node, edge).

    None for a run without codes, or whose architecture is another than that of its last recovery.
    """
    found: dict[str, dict[tuple[int, Edge], float]] = {}
    for code in run.trajectories.values():
        cell = found.setdefault(code.kind, {})
        for place, value in code.active.items():
            edge = Edge(run.space.primitives[place.operation], place.source)
            cell[code.node, edge] = value
    if run.genotype is None or not found:
        return None
    for kind, cell in run.genotype.cells:
        edges = {(node, edge) for node, edges in enumerate(cell.nodes) for edge in edges}
        if edges != set(found.get(kind, ())):
            return None
    return found


def make_figure(run: RunRecord, width: float | None = None) -> Figure:
    """Return the figure of a run's cells; see `isnas.drawing.draw_cell` to draw one into an axis.

    Parameters
    ----------
    run : RunRecord
    width : float, optional
        In inches, see `isnas.drawing.draw_cells`.

    Raises
    ------
    UserError
        When the run has no architecture.
    """
    if run.genotype is None:
        raise UserError(f"{run.directory} has no architecture yet")
    return draw_cells(run.genotype, coefficients=coefficients_of(run), width=width)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser("cells", "Both cells of an architecture as diagrams.")
    parser.add_argument(
        "source", metavar="RUN|GENOTYPE", help="a run, a published genotype's name, or its file"
    )
    parser.add_argument("--width", type=float, help="in inches, e.g. 3.4 or 7")

    def draw(given: argparse.Namespace) -> Figure:
        if Path(given.source).is_dir():
            return make_figure(RunRecord(given.source), given.width)
        return draw_cells(Genotype.load(given.source), width=given.width)

    return run_command(parser, draw, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
