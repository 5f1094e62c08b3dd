"""Exhibits of a test beside its measure, in forms that any report can print: tables, matrices, pictures.

A task makes them when it tests a network (`isnas.tasks.base.Task.examine`); they are kept as plain data.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..runtime.errors import UserError

PNG = b"\x89PNG\r\n\x1a\n"
"""The bytes that every PNG file begins with."""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Parameters
    ----------
    title, caption : str
    header : tuple of str
    rows : tuple of tuple of str
        Each as long as the header.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Matrix:
    """Counts of how often each of some things, by row, met each of others, by column.

    Parameters
    ----------
    title, caption : str
    row_title, column_title : str
        Names of what the rows and the columns are.
    rows, columns : tuple of str
        Their names.
    counts : tuple of tuple of int
    """

    title: str
    caption: str
    row_title: str
    column_title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Pictures:
    """Small pictures, each with a line of text.

    Parameters
    ----------
    title, caption : str
    items : tuple of (bytes, str)
        The content of a PNG file, and its text.
    """

    title: str
    caption: str
    items: tuple[tuple[bytes, str], ...]


Exhibit = Table | Matrix | Pictures


def to_json(exhibits: Sequence[Exhibit]) -> list[dict[str, Any]]:
    """Return exhibits as plain data for JSON."""
    found = []
    for each in exhibits:
        plain: dict[str, Any] = {"kind": type(each).__name__.lower(), **vars(each)}
        if isinstance(each, Pictures):
            plain["items"] = [[base64.b64encode(png).decode(), text] for png, text in each.items]
        found.append(plain)
    return found


def from_json(data: Any) -> tuple[Exhibit, ...]:
    """Return the exhibits that `to_json` has made plain.

    Raises
    ------
    UserError
        When the data are not those of exhibits.
    """
    if not isinstance(data, list):
        raise UserError(f"exhibits must be a list, got {data!r:.60}")
    return tuple(_exhibit(each) for each in data)


def _exhibit(data: Any) -> Exhibit:
    try:
        title, caption = _text(data["title"]), _text(data["caption"])
        if data["kind"] == "table":
            header = _texts(data["header"])
            rows = tuple(_texts(row, len(header)) for row in data["rows"])
            return Table(title, caption, header, rows)
        if data["kind"] == "matrix":
            names, columns = _texts(data["rows"]), _texts(data["columns"])
            counts = tuple(tuple(map(_count, row)) for row in data["counts"])
            if len(counts) != len(names) or any(len(row) != len(columns) for row in counts):
                raise ValueError("a matrix of another shape than its names")
            return Matrix(
                title,
                caption,
                _text(data["row_title"]),
                _text(data["column_title"]),
                names,
                columns,
                counts,
            )
        if data["kind"] == "pictures":
            return Pictures(title, caption, tuple(_picture(*item) for item in data["items"]))
        raise ValueError(f"unknown kind {data['kind']!r:.40}")
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise UserError(f"damaged exhibit: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text expected, got {value!r:.40}")
    return value


def _texts(values: Any, number: int | None = None) -> tuple[str, ...]:
    if not isinstance(values, list) or number not in (None, len(values)):
        raise ValueError(f"a list of {number or 'several'} texts expected, got {values!r:.40}")
    return tuple(map(_text, values))


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a count expected, got {value!r:.40}")
    return value


def _picture(content: Any, text: Any) -> tuple[bytes, str]:
    png = base64.b64decode(_text(content), validate=True)
    if not png.startswith(PNG):
        raise ValueError("a picture that is no PNG file")
    return png, _text(text)
