"""A task on the command line means its space, and a published cell's name may be of any space."""

from __future__ import annotations

from pathlib import Path

import pytest

from isnas.cli import _space_of, main


@pytest.mark.parametrize(
    ("words", "name", "nodes"),
    [
        ("search", "darts", 4),
        ("search --task language", "recurrent", 8),
        ("search --task=language --nodes 3", "recurrent", 3),
        ("search --space recurrent", "recurrent", 8),
        ("search --task images", "darts", 4),
        ("search --task images --space nasbench201", "nasbench201", 3),
        ("search --task language --space recurrent", "recurrent", 8),
    ],
)
def test_task_and_space(words: str, name: str, nodes: int) -> None:
    space = _space_of(words.split())
    assert (space.name, space.nodes) == (name, nodes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("search --task languages", "did you mean language?"),
        ("search --task language --space darts", "--space darts is for the task images"),
        ("search --task language --data nowhere", "no such file or folder"),
        ("search --space recurrent --method hm-nas", "hm-nas cannot search the space recurrent"),
    ],
)
def test_mistakes_are_one_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_recurrent_cell_is_drawn(tmp_path: Path) -> None:
    out = tmp_path / "cell.svg"
    words = ["--genotype", "DARTS_V2", "--space", "recurrent", "--out", str(out)]
    assert main(["draw", *words]) == 0
    drawn = out.read_text()
    assert "Recurrent cell" in drawn
    for word in ("sigmoid", "identity", "tanh"):
        assert word in drawn
