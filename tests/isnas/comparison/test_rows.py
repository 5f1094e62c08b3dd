"""Rows of experiments: one writer, nothing lost, nothing mixed; and the text of tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isnas.comparison.rows import (
    Rows,
    launch_record,
    markdown_table,
    mean_and_deviation,
    read_about,
    read_rows,
)
from isnas.runtime.errors import UserError


def test_directory_has_one_writer(tmp_path: Path) -> None:
    record = launch_record("experiments.toy", ["--data", "/some/where/images", "two words"])
    assert record["command"] == "python -m experiments.toy --data images 'two words'"
    with Rows(tmp_path, ("name",), {}, record) as rows:
        rows.append({"name": "a"})
        assert rows.has("a") and not rows.has("b")
        with pytest.raises(UserError, match="written by another process"):
            Rows(tmp_path, ("name",), {}, record)
    (tmp_path / "rows.jsonl").write_text("{]\n")
    with pytest.raises(UserError, match="line 1 is no valid JSON"):
        Rows(tmp_path, ("name",), {}, record)


def test_text_of_tables() -> None:
    assert mean_and_deviation([2.0]) == "2.00"
    assert mean_and_deviation([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    assert markdown_table(("a", "b"), [("x", "1")]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"


def test_rows_survive_a_kill_in_the_middle_of_one(tmp_path: Path) -> None:
    with Rows(tmp_path, ("name", "seed"), {"size": (1, 2)}, {}) as rows:
        rows.append({"name": "a", "seed": 0})
        assert read_rows(tmp_path) == rows.rows  # at once, and while it is written
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write('{"name": "b", "se')
    assert read_rows(tmp_path) == [{"name": "a", "seed": 0}]
    with Rows(tmp_path, ("name", "seed"), {"size": (1, 2)}, {}) as rows:
        assert rows.has("a", 0) and not rows.has("a", 1) and not rows.has("b", 0)
        rows.append({"name": "b", "seed": 0})
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a", "b"]
    assert len(read_about(tmp_path)["launches"]) == 2


def test_rows_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    Rows(tmp_path, ("name",), {"size": 1}, {}).__exit__()
    with pytest.raises(UserError, match="has rows with size = 1, not 2: go on with the same"):
        Rows(tmp_path, ("name",), {"size": 2}, {})
    Rows(tmp_path, ("name",), {"size": 1}, {}).__exit__()  # the lock was given back


def test_rows_of_a_version_with_fewer_settings_go_on_with_the_default_of_what_is_new(
    tmp_path: Path,
) -> None:
    defaults = {"precision": "float32", "other": 0}
    Rows(tmp_path, ("name",), {"size": 1}, {}).__exit__()
    with pytest.raises(UserError, match="has rows with precision = 'float32', not 'bfloat16'"):
        Rows(tmp_path, ("name",), {"size": 1, "precision": "bfloat16"}, {}, defaults)
    settings = {"size": 1, "precision": "float32"}
    Rows(tmp_path, ("name",), settings, {}, defaults).__exit__()
    assert read_about(tmp_path)["settings"] == settings
    with pytest.raises(UserError, match="has rows with size = 1, not None"):
        Rows(tmp_path, ("name",), {"precision": "float32"}, {}, defaults)


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path)
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(UserError, match="has no rows yet"):
        read_rows(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Rows(tmp_path / "file" / "rows", ("name",), {}, {})
