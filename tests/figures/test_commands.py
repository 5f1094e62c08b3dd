"""The figures' commands: files of every format, the same bytes each time, one line about a mistake."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from figures import report

SIGNATURES = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}
OF_RUNS = ("cells", "sparsity", "freezing", "training", "compare")


def command(name: str, *arguments: object) -> int:
    """Run a figure's command in this process."""
    try:
        return importlib.import_module(f"figures.{name}").main([*map(str, arguments)])
    except SystemExit as error:
        return int(error.code)


@pytest.mark.parametrize("suffix", SIGNATURES)
@pytest.mark.parametrize("name", ["cells", "freezing"])
def test_formats(name: str, suffix: str, train_run: Path, tmp_path: Path) -> None:
    path = tmp_path / f"figure{suffix}"
    assert command(name, train_run, "-o", path) == 0
    assert path.read_bytes().startswith(SIGNATURES[suffix])
    assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cells", ["Normal cell", "Reduction cell"]),
        ("sparsity", ["max_pool_3x3", "from node 2", "concen-", "epochs of search"]),
        ("freezing", ["node 0", "movement of z"]),
        ("training", ["two-stage", "two-stage: random architectures", "loss", "accuracy"]),
        ("compare", ["two-stage", "random architectures (2 runs)", "test accuracy (%)"]),
    ],
)
def test_texts_and_the_same_bytes_each_time(
    name: str, expected: list[str], search_run: Path, train_run: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        assert command(name, train_run if name == "freezing" else search_run, "-o", path) == 0
    content = paths[0].read_text()
    for text in expected:
        assert text in content
    assert content == paths[1].read_text()


def test_cells_of_a_published_genotype(tmp_path: Path) -> None:
    assert command("cells", "DARTS_V2", "-o", tmp_path / "cells.svg") == 0
    assert "skip_connect" in (tmp_path / "cells.svg").read_text()


@pytest.mark.parametrize("name", [*OF_RUNS, "report"])
def test_mistakes_are_one_line(
    name: str,
    search_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "picture", lambda *_: "")  # the pictures take their time
    suffix = ".html" if name == "report" else ".svg"
    cases = [
        (tmp_path, "-o", tmp_path / f"x{suffix}"),  # no run
        (tmp_path / "missing", "-o", tmp_path / f"x{suffix}"),
        (search_run, "-o", tmp_path / "missing" / f"x{suffix}"),  # cannot be written
        (search_run, "--unknown"),
        (),
    ]
    if name != "report":
        cases.append((search_run, "-o", tmp_path / "x.gif"))
    for case in cases:
        assert command(name, *case) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"python -m figures.{name}: error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")


def test_freezing_of_a_run_that_freezes_nothing(
    search_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("freezing", search_run, "-o", tmp_path / "x.svg") == 2
    assert "is a run of ista-two-stage: no node is frozen in it" in capsys.readouterr().err


def test_unknown_kind(search_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("sparsity", search_run, "--kind", "x", "-o", tmp_path / "x.svg") == 2
    assert "there are normal, reduction" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_program(train_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "freezing.svg"
    program = [sys.executable, "-W", "error", "-m", "figures.freezing"]
    done = subprocess.run([*program, train_run, "-o", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.exists()
