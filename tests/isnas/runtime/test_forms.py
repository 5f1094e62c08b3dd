"""Forms: what is of them passes as it is, all else is one line that says where it is and what was expected."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isnas.runtime.errors import FileError
from isnas.runtime.forms import (
    ANYTHING,
    OBJECT,
    PLAIN,
    Array,
    Both,
    Chosen,
    Either,
    Flag,
    Form,
    List,
    Mapping,
    Number,
    Optional,
    Record,
    Text,
    Whole,
    check,
    check_arrays,
)

ROW = Record(
    needed={"name": Text(longest=5, least=1), "count": Whole(1, 9)},
    known={
        "flag": Flag(),
        "kind": Text(choices=("a", "b")),
        "pair": List(Number(loose=True), 2, 2),
    },
    endings={"_share": Number(0, 1)},
    others=PLAIN,
)
GOOD = {"name": "x", "count": 3, "flag": True, "kind": "a", "pair": [1, math.inf], "s_share": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name must be a text that is not empty, got ''"),
        ({"name": "long name"}, "name must be a text that is not empty, got 'long name'"),
        ({"name": "a\0"}, r"name must be .* got \'a.*00\'"),
        ({"name": None}, "name must be .*, got None"),
        ({"count": 0}, "count must be a whole number from 1 to 9, got 0"),
        ({"count": 10}, "got 10"),
        ({"count": 3.0}, r"got 3\.0"),
        ({"count": True}, "got True"),
        ({"flag": 1}, "flag must be true or false, got 1"),
        ({"kind": "c"}, "kind must be 'a' or 'b', got 'c'"),
        ({"pair": [1]}, r"pair must be a list of 2 values, got \[1\]"),
        ({"pair": [1, "2"]}, r"pair\[1\] must be a number, got '2'"),
        ({"pair": [1, 10**400]}, r"pair\[1\] must be a number, got 10+"),
        ({"pair": (1, 2)}, None),
        ({"s_share": 1.5}, r"s_share must be a number from 0 to 1, got 1\.5"),
        ({"s_share": math.nan}, "got nan"),
        ({"s_share": [1]}, r"got \[1\]"),
        ({"more": 1}, None),
        ({"more": [1]}, "more must be true or false or a number or a text"),
        ({"a\x1b[1m\n": []}, r"a\\x1b\[1m\\n must be"),
    ],
)
def test_records(change: dict[str, Any], message: str | None) -> None:
    data = {**GOOD, **change}
    if message is None:
        assert check(data, ROW, "a.json") is data
        return
    with pytest.raises(FileError, match=f"^a.json: {message}" if message[0] != "g" else message):
        check(data, ROW, "a.json")


def test_missing_and_unknown_names() -> None:
    with pytest.raises(FileError, match=r"^a: count is missing$"):
        check({"name": "x"}, ROW, "a")
    with pytest.raises(FileError, match=r"^a: more is not known$"):
        check({"more": 1}, Record(), "a")
    with pytest.raises(FileError, match="has a name that is no text: 1"):
        check({1: 2}, OBJECT, "a")
    for value in ([], None, "x"):
        for form in (ROW, Mapping(PLAIN), Chosen(lambda row: ROW)):
            with pytest.raises(FileError, match=r"^a: its content must be an object, got"):
                check(value, form, "a")


def test_where_it_is() -> None:
    form = Mapping(List(Record({"count": Whole()})))
    with pytest.raises(FileError, match=r"^a: b\.c\[1\]\.count must be"):
        check({"b.c": [{"count": 1}, {"count": -1}]}, form, "a")


def test_combined_forms() -> None:
    number_or_text = Optional(Either((Number(), Text())))
    for value in (None, 1.5, "a"):
        check(value, number_or_text, "a")
    with pytest.raises(FileError, match="a number or a text, got False"):
        check(False, number_or_text, "a")
    chosen = Chosen(lambda row: Record({"a": Whole()}) if "a" in row else Record({"b": Flag()}))
    check({"a": 1}, Both((OBJECT, chosen)), "a")
    check({"b": True}, Both((OBJECT, chosen)), "a")
    with pytest.raises(FileError, match="b must be true or false"):
        check({"b": 1}, Both((OBJECT, chosen)), "a")


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(-1e30, 1e30)
        | st.just(math.inf)
        | st.text("abc"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
        max_leaves=20,
    )
)
def test_anything_is_what_json_can_hold(data: Any) -> None:
    for written in (data, json.loads(json.dumps(data))):
        assert check(written, ANYTHING, "a") is written


@pytest.mark.parametrize("data", [{1}, b"a", object(), 2**54, 1e31, [[2**54]], {"a": {1: 2}}, 1j])
def test_what_json_cannot_hold_or_computers_not_compute_with_is_refused(data: Any) -> None:
    with pytest.raises(FileError):
        check(data, ANYTHING, "a")


def test_what_is_nested_too_deeply_is_refused() -> None:
    for nest in (lambda inner: [inner], lambda inner: {"a": inner}):
        data: Any = 1
        for _ in range(30):
            data = nest(data)
        check(data, ANYTHING, "a")
        for _ in range(10_000):
            data = nest(data)
        with pytest.raises(FileError, match="nested more than 32 deep"):
            check(data, ANYTHING, "a")


@pytest.mark.parametrize(
    "form", [Text(), Number(), Number(0), Whole(), Flag(), List(Flag()), Mapping(Flag()), PLAIN]
)
def test_all_forms_say_what_they_are_in_words(form: Form) -> None:
    assert form.words.isprintable() and form.words
    with pytest.raises(FileError, match="must be"):
        check(object(), form, "a")


ARRAYS = {"A": Array("f", ("m", "n")), "z": Array("f", ("n",)), "on": Array("b", ())}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"A": np.zeros((5, 3), np.float32)}, None),
        (
            {"z": np.zeros(4)},
            r"'z' must hold floating-point values of shape \(3,\), got float64 of shape \(4,\)",
        ),
        ({"z": np.zeros((3, 1))}, "'z' must hold"),
        ({"z": np.zeros(3, int)}, "got int64 of shape"),
        ({"on": np.array(1.0)}, r"'on' must hold truth values of shape \(\), got float64"),
        ({"more": np.zeros(1)}, "the array 'more' is not known"),
        ({"z": None}, "the array 'z' is missing"),
    ],
)
def test_arrays(change: dict[str, Any], message: str | None) -> None:
    arrays = {"A": np.zeros((2, 3)), "z": np.zeros(3), "on": np.array(True), **change}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if message is None:
        check_arrays(arrays, ARRAYS, "a.npz")
        return
    with pytest.raises(FileError, match=f"^a.npz: .*{message}"):
        check_arrays(arrays, ARRAYS, "a.npz")
