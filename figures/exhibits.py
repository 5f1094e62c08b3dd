"""The exhibits of a test, which a task keeps beside its measure, as HTML: tables, matrices of counts, pictures.

A matrix is a table, too, not a figure: the names in it can be in any script that the reader's browser knows.
"""

from __future__ import annotations

from html import escape

from isnas.tasks.exhibits import Exhibit, Matrix, Pictures, Table

from ._page import gallery, shaded, table


def section(exhibit: Exhibit) -> str:
    """Return an exhibit as HTML, with its title."""
    if isinstance(exhibit, Matrix):
        content = _matrix(exhibit)
    elif isinstance(exhibit, Pictures):
        content = gallery(exhibit.items)
    else:
        content = _table(exhibit)
    return f"<h3>{escape(exhibit.title)}</h3>\n<p>{escape(exhibit.caption)}</p>\n{content}"


def _table(exhibit: Table) -> str:
    return table([exhibit.header, *exhibit.rows], header=True, numbers=True)


def _matrix(matrix: Matrix) -> str:
    """Return a table whose cells are as dark as their share of their row is large."""
    totals = [sum(row) for row in matrix.counts]
    cells = [
        [(f"{count:,}" if count else "", count / total if total else 0.0) for count in row]
        for row, total in zip(matrix.counts, totals, strict=True)
    ]
    corner = f"{matrix.row_title} \\ {matrix.column_title}"
    return shaded(corner, matrix.columns, matrix.rows, cells)
