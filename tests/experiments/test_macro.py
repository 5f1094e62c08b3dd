"""The experiment in ENAS's macro space: it compares, writes a table, and goes on where it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from experiments import macro


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the smallest scale compare two methods only."""
    tiny = macro.SCALES["tiny"]
    options = tiny.options.replace(methods=("random", "ista-two-stage"), set=(), sampled=1)
    small = dataclasses.replace(tiny, options=options)
    monkeypatch.setitem(macro.SCALES, "tiny", small)


def test_rows_table_and_going_on(quick: None, tmp_path: Path) -> None:
    words = ["--scale", "tiny", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert macro.main(words) == 0
    rows = (tmp_path / "out" / "rows.jsonl").read_text()
    found = {json.loads(line)["method"] for line in rows.splitlines()}
    assert {"random", "ista-two-stage"} <= found
    assert "ista-two-stage" in (tmp_path / "out" / "table.md").read_text()
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["launches"][-1]["command"].startswith("python -m experiments.macro --scale tiny")
    assert about["settings"]["space"]["layers"] == 3
    assert macro.main(words) == 0
    assert (tmp_path / "out" / "rows.jsonl").read_text() == rows


def test_the_constants_are_of_methods_that_are_compared() -> None:
    names = {text.partition(".")[0] for text in macro.CONSTANTS}
    assert names <= set(macro.METHODS)
    for scale in macro.SCALES.values():
        assert scale.options.comparison.methods == macro.METHODS
        assert scale.options.comparison.set == macro.CONSTANTS


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--scale", "tiny", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]
    assert macro.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
