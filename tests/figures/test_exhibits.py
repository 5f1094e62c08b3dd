"""Exhibits on a page: everything is escaped, cells are shaded by their share, pictures are inside."""

from __future__ import annotations

import base64
import re

from figures.exhibits import section
from isnas.tasks.exhibits import PNG, Matrix, Pictures, Table


def test_a_matrix_is_as_dark_as_the_share_of_the_row() -> None:
    names = ("<b>", "猫 & co")
    text = section(Matrix("M", "c", "class", "answer", names, names, ((3, 1), (0, 0))))
    assert "<b>" not in text and "&lt;b&gt;" in text and "猫 &amp; co" in text
    cells = re.findall(r"rgba\(0,114,178,([\d.]+)\);color:(#\w+)\">([^<]*)</td>", text)
    assert cells == [
        ("0.750", "#fff", "3"),
        ("0.250", "#222", "1"),
        ("0.000", "#222", ""),
        ("0.000", "#222", ""),
    ]


def test_pictures_and_tables_are_escaped_and_inside() -> None:
    text = section(Pictures("P", "c", ((PNG + b"x", 'a "b" <i>'),)))
    inside = re.search(r'src="data:image/png;base64,([^"]*)"', text)
    assert inside is not None and base64.b64decode(inside[1]) == PNG + b"x"
    assert "<i>" not in text and 'alt="a &quot;b&quot; &lt;i&gt;"' in text
    assert "&lt;u&gt;" in section(Table("T", "", ("a", "b"), (("1", "<u>"),)))
