"""Messages are one line, whatever they are made of."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from isnas.runtime.errors import FileError, UserError, printable, short


@pytest.mark.parametrize(
    "text", ["a\x1b[2Jb", "a\nb", "\r", "\u202eb", "\udcff", "\u2028", "\x00", "\x07" * 5000]
)
def test_messages_do_nothing_to_a_terminal(text: str) -> None:
    message = str(FileError(text))
    assert message.isprintable()
    assert len(message) <= 300
    message.encode()


def test_letters_of_all_languages_stay() -> None:
    assert str(UserError("Größe 大小 ± 1")) == "Größe 大小 ± 1"


def test_long_messages_lose_their_middle() -> None:
    message = str(FileError(f"first {'x' * 10_000} last"))
    assert len(message) == 300
    assert message.startswith("first x") and message.endswith("x last")
    assert str(UserError("x" * 1000)) == "x" * 1000
    assert printable("x" * 1000) == "x" * 1000


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(FileError("a\n")))
    assert (type(error), str(error)) == (FileError, "a\\n")


def test_any_value_is_short() -> None:
    many: Any = ["x"]
    for _ in range(60):
        many = [many, many]
    around: list[Any] = []
    around.append(around)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    values = (many, around, deep, 10**5000, "\n" * 10**6, {"a": {"b": {"c": {"d": 1}}}}, None, 1.5)
    for value in values:
        text = short(value)
        assert text.isprintable() and len(text) <= 60
    assert short("a") == "'a'" and short(1.5) == "1.5" and short([1, "b"]) == "[1, 'b']"
