"""Exhibits come back from JSON as they were, and nothing that is not theirs does."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from isnas.runtime.errors import UserError
from isnas.tasks.exhibits import PNG, Matrix, Pictures, Table, from_json, to_json

SHOWN = (
    Table("t", "a caption", ("a", "b"), (("1", "2"), ("3", "4"))),
    Matrix("m", "", "class", "answer", ("x", "y"), ("x", "y", "z"), ((1, 0, 2), (0, 3, 0))),
    Pictures("p", "", ((PNG + b"\x00\xff", "one"), (PNG, "<two>"))),
)


def test_they_come_back_as_they_were() -> None:
    assert from_json(json.loads(json.dumps(to_json(SHOWN)))) == SHOWN
    assert from_json([]) == ()


@pytest.mark.parametrize(
    ("which", "name", "value"),
    [
        (0, "title", 3),
        (0, "kind", "script"),
        (0, "rows", [["1"]]),
        (0, "rows", [["1", 2]]),
        (0, "header", "ab"),
        (1, "counts", [[1, 0, 2]]),
        (1, "counts", [[1, 0], [0, 3]]),
        (1, "counts", [[1, 0, -2], [0, 3, 0]]),
        (1, "counts", [[1, 0, True], [0, 3, 0]]),
        (1, "counts", 7),
        (2, "items", [["!!", "one"]]),
        (2, "items", [["PHN2Zz4=", "an SVG with a script, say"]]),
        (2, "items", [["iVBORw0KGgo=", None]]),
        (2, "items", [["iVBORw0KGgo="]]),
    ],
)
def test_what_is_damaged_is_named(which: int, name: str, value: Any) -> None:
    data = copy.deepcopy(to_json(SHOWN))
    data[which][name] = value
    with pytest.raises(UserError, match="damaged exhibit"):
        from_json(data)


@pytest.mark.parametrize("data", [None, {}, "x", [None], [[]], [{}]])
def test_what_is_no_list_of_exhibits_is_refused(data: Any) -> None:
    with pytest.raises(UserError, match="exhibit"):
        from_json(data)
