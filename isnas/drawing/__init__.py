"""Diagrams of architectures: layout of layered graphs, painting, and the translation of cells into such graphs."""

from .cells import COLUMN_WIDTH, PAGE_WIDTH, draw_cell, draw_cells
from .layout import CellCoefficients, Flow
from .painting import figure_content, operation_colour, operation_family, save_figure

__all__ = [
    "COLUMN_WIDTH",
    "PAGE_WIDTH",
    "CellCoefficients",
    "Flow",
    "draw_cell",
    "draw_cells",
    "figure_content",
    "operation_colour",
    "operation_family",
    "save_figure",
]
