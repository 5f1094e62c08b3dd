"""The command predict: which files it takes, what it prints, and what it says of files that it cannot read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from pictures import picture

import isnas
from isnas.cli import main

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network, and photos in folders; the working directory."""
    monkeypatch.chdir(tmp_path)
    data = {"classes": ["a cat", "a,dog", "emu"], "size": [8, 8], "mean": [0.5], "std": [0.25]}
    genotype = isnas.Genotype.parse(CELL, isnas.NASBENCH201_SPACE)
    network = isnas.build_network(genotype, channels=2, cells=1, classes=3, in_channels=1)
    isnas.save_network(network, "network.pt", data)
    for i, name in enumerate(("b.png", "deep/er/c.jpg", "a.png", ".hidden.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i, (10 + i, 9)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path


PATHS = ["photos/a.png", "photos/b.png", "photos/deep/er/c.jpg"]


def predict(*words: str) -> int:
    return main(["predict", "network.pt", *words])


def test_a_line_for_each_image(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("photos") == 0
    shown = capsys.readouterr()
    assert shown.err == "left out 1 hidden or system entry, 1 file of another kind (1 .txt)\n"
    expected = [
        f"{p}: {x.label} {100 * x.probability:.2f} %" for p, x in zip(PATHS, said(), strict=True)
    ]
    assert shown.out.splitlines() == expected


def said() -> list[isnas.Prediction]:
    return isnas.load_classifier("network.pt")(PATHS)


def test_csv_is_a_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("photos", "--format", "csv", "--top", "2", "--quiet") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    for path, row, prediction in zip(PATHS, rows, said(), strict=True):
        first, second = prediction.top(2)
        assert row["path"] == path
        assert (row["class"], row["class_2"]) == (first[0], second[0])
        assert float(row["probability"]) == pytest.approx(first[1], rel=1e-5)
        assert float(row["probability_2"]) == pytest.approx(second[1], rel=1e-5)


def test_json_is_an_array(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("photos", "--format", "json", "--top", "9") == 0
    found = json.loads(capsys.readouterr().out)
    for path, each, prediction in zip(PATHS, found, said(), strict=True):
        assert (each["path"], each["class"]) == (path, prediction.label)
        assert [(x["class"], x["probability"]) for x in each["top"]] == prediction.top(3)
    assert predict("none.png", "--format", "json") == 1
    assert json.loads(capsys.readouterr().out) == []


def test_files_folders_and_patterns_are_taken_once(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("photos/b.png", "photos/*.png", "photos/**/*.jpg", "photos") == 0
    shown = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["photos/b.png", "photos/a.png", "photos/deep/er/c.jpg"]


def test_what_cannot_be_read_is_named_and_the_others_go_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad\x1b[31m.png").write_bytes(b"no image")
    Path("empty").mkdir()
    Path("photos/link.png").symlink_to("nowhere.png")
    given = ["none.png", "*.gif", "bad\x1b[31m.png", "empty", "photos", "photos/notes.txt"]
    assert predict(*given, "--quiet") == 1
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 3
    errors = shown.err.splitlines()
    assert "\x1b" not in shown.err
    for words in (
        "no file matches *.gif",
        "no images in empty",
        "none.png (No such file or directory)",
        "bad\\x1b[31m.png (unknown format)",
        "photos/link.png (No such file or directory)",
        "photos/notes.txt (unknown format)",
        "6 of 9 images could not be read",
    ):
        assert sum(words in line for line in errors) == 1, words
    assert len(errors) == 7


def test_results_go_to_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("photos", "--out", "new/found.csv", "--format", "csv", "--quiet") == 0
    assert capsys.readouterr().out == ""
    rows = csv.DictReader(Path("new/found.csv").read_text().splitlines())
    assert [row["path"] for row in rows] == PATHS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "network.pt"], "IMAGES"),
        (["predict", "photos", "a.png"], "photos holds no trained network"),
        (["predict", "none.pt", "a.png"], "none.pt cannot be read"),
        (["predict", "network.pt", "a.png", "--top", "0"], "top must be at least 1, got 0"),
        (["predict", "network.pt", "a.png", "--batch-size", "0"], "batch_size must be at least 1"),
        (["predict", "network.pt", "a.png", "--device", "tpu"], "tpu"),
        (["predict", "network.pt", "a.png", "--format", "cvs"], "did you mean csv?"),
        (["predict", "network.pt", "a.png", "--out", "photos"], "it is a directory"),
        (
            ["predict", "network.pt", "a.png", "--out", "network.pt/x"],
            "network.pt/x cannot be written",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr()
    assert status == 2 and shown.out == ""
    assert len(shown.err.splitlines()) == 1 and message in shown.err
