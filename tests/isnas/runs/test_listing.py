"""The list of runs: states as they are, and no directory that stops it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from isnas import resume
from isnas.cli import main
from isnas.runs.directory import LOCK
from isnas.runs.listing import age, list_runs, table_of
from isnas.runtime.errors import UserError
from isnas.runtime.files import Folder


@pytest.fixture
def many(
    tmp_path: Path, train_run: Path, search_run: Path, broken_off: Callable[..., Path]
) -> Path:
    """Return a directory with runs of all states, at several levels."""
    place = tmp_path / "runs"
    shutil.copytree(search_run, place / "group" / "seed-0")
    shutil.copytree(train_run, place / "train")
    shutil.copytree(broken_off(train_run, 2), place / "stopped")
    shutil.copytree(place / "stopped", place / "going on")
    (place / "no run").mkdir()
    (place / "a file").touch()
    return place


def test_every_state_is_told(many: Path) -> None:
    (many / "broken").mkdir()
    (many / "broken" / "config.json").write_text("{")
    with Folder(many / "going on").lock(LOCK):
        found = {Path(run.path).name: run for run in list_runs(many)}
    states = {name: run.state for name, run in found.items()}
    assert states == {
        "seed-0": "finished",
        "train": "finished",
        "stopped": "interrupted",
        "going on": "running",
        "broken": "damaged",
    }
    results = json.loads((many / "group" / "seed-0" / "results.json").read_text())
    accuracy = results["found"]["test_accuracy"]
    run = found["seed-0"]
    assert (run.command, run.space, run.method) == ("search", "darts", "ista-two-stage")
    assert run.shown == f"accuracy {100 * accuracy:.2f} %"
    assert run.result is not None and run.result["found"] == accuracy
    assert found["train"].method == "ista-one-stage"
    assert (found["stopped"].part, found["stopped"].epoch) == ("search", 1)
    assert "JSON" in found["broken"].problem


def test_the_one_written_last_comes_first(many: Path) -> None:
    for name in ("metrics.jsonl", "config.json", "results.json"):
        path = many / "train" / name
        os.utime(path, (time.time() + 5, time.time() + 5))
    os.utime(many / "stopped" / "metrics.jsonl", (1.0, 1.0))
    os.utime(many / "stopped" / "config.json", (time.time() - 3 * 86_400,) * 2)
    names = [Path(run.path).name for run in list_runs(many)]
    assert names[0] == "train" and names[-1] == "stopped"
    assert age(list_runs(many)[-1].seconds_ago) == "3 days"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        '{"command": 1, "options": []}',
        '{"command": "search", "options": {}}',
        '{"command": "search", "options": {}, "space": {"name": "nowhere"}}',
        '{"command": "search", "options": {}, "space": {"name": "darts"}, "data": {"task": []}}',
        '{"command": "search", "options": {}, "space": {"name": "darts"}, "parts": 3}',
        "[" * 100_000,
        "\x00\x01",
    ],
)
def test_damaged_records_are_listed_and_stop_nothing(many: Path, content: str) -> None:
    (many / "bad").mkdir()
    (many / "bad" / "config.json").write_text(content)
    found = {Path(run.path).name: run for run in list_runs(many)}
    assert found["bad"].state == "damaged" and found["bad"].problem
    assert found["train"].state == "finished"


@pytest.mark.parametrize("name", ["config.json", "results.json", "metrics.jsonl", LOCK])
@pytest.mark.parametrize("how", ["pipe", "folder", "loop"])
def test_what_is_no_file_is_damage_and_is_not_waited_for(many: Path, name: str, how: str) -> None:
    path = many / "stopped" / name
    path.unlink(missing_ok=True)
    {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
    }[how]()
    found = {Path(run.path).name: run.state for run in list_runs(many)}
    assert found["stopped"] == "damaged" and found["train"] == "finished"


@pytest.mark.parametrize(
    "line",
    [
        "precious",
        "[" * 100_000,
        '{"part": 3, "epoch": 1}',
        f'{{"part": "search", "epoch": {"9" * 300}}}',
        '{"part": "search", "epoch": -1}',
    ],
)
def test_a_wrong_last_line_is_damage_in_few_words(many: Path, line: str) -> None:
    (many / "stopped" / "metrics.jsonl").write_text(f"{line}\n")
    found = {Path(run.path).name: run for run in list_runs(many)}["stopped"]
    assert found.state == "damaged" and "metrics.jsonl, last line" in found.problem
    assert max(map(len, table_of([found]))) < 400


def test_files_of_a_run_are_not_read_through_links(many: Path, tmp_path: Path) -> None:
    path = many / "stopped" / "metrics.jsonl"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    found = {Path(run.path).name: run for run in list_runs(many)}["stopped"]
    assert found.state == "damaged" and "is no ordinary file" in found.problem


def test_large_files_are_not_read(many: Path) -> None:
    with open(many / "stopped" / "config.json", "r+b") as file:
        file.truncate(2**33)
    with open(many / "train" / "metrics.jsonl", "r+b") as file:
        file.truncate(2**33)  # without an end of line for long
    begun = time.monotonic()
    found = {Path(run.path).name: run for run in list_runs(many)}
    assert "too many" in found["stopped"].problem
    assert time.monotonic() - begun < 2


def test_links_are_not_followed_round(many: Path) -> None:
    (many / "again").symlink_to(many, target_is_directory=True)
    assert len(list_runs(many)) == 4


def test_the_command_prints_a_table_or_json(
    many: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(many / "train", many / "esc\x1b[31m\nrun")
    assert main(["list", str(many)]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert len(lines) == 6 and lines[0].split()[:2] == ["run", "state"]
    assert "\x1b" not in shown and "esc?[31m?run" in shown
    assert "interrupted" in shown and "accuracy" in shown
    assert main(["list", str(many), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5
    (many / "no run" / "x").mkdir()
    assert main(["list", str(many / "no run")]) == 0
    assert "no runs in" in capsys.readouterr().out
    monkeypatch.chdir(many / "no run")
    assert main(["list"]) == 2
    assert "runs cannot be read" in capsys.readouterr().err


def test_a_missing_directory_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        list_runs(tmp_path / "nope")


def test_many_runs_are_listed_quickly(tmp_path: Path, train_run: Path) -> None:
    for i in range(300):
        (tmp_path / f"{i}").mkdir()
        for name in ("config.json", "results.json", "metrics.jsonl"):
            os.link(train_run / name, tmp_path / f"{i}" / name)
    begun = time.monotonic()
    assert len(list_runs(tmp_path)) == 300
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": "rm"}, "command must be 'search' or 'evaluate', got 'rm'"),
        ({"format": 99}, "is a run of another version of isnas"),
    ],
)
def test_a_run_of_an_unknown_kind_is_not_gone_on_with(
    many: Path, changes: dict[str, object], message: str
) -> None:
    path = many / "train" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=message):
        resume(many / "train")
