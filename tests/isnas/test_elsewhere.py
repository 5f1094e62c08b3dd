"""Data, networks and runs that are used from another directory than the one that they were made in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import isnas
from isnas import commands
from isnas.cli import main
from isnas.comparison.compare import comparison_schema
from isnas.tasks.registry import task_of

TINY: dict[str, Any] = {"channels": 2, "cells": 3, "batch_size": 4, "device": "cpu", "cutout": 0}


def make_images(folder: Path, shade: int = 100) -> None:
    for part in ("train", "test"):
        for label in "ab":
            (folder / part / label).mkdir(parents=True)
            for i in range(4):
                colour = (shade * (label == "a"), 20 * i, 0)
                Image.new("RGB", (4, 4), colour).save(folder / part / label / f"{i}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with images in `photos` and a run on them, given by its relative path."""
    place = tmp_path_factory.mktemp("home")
    make_images(place / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        isnas.evaluate("ISTA_onestage", data="photos", out="run", epochs=1, **TINY)
    return place


def test_a_network_finds_its_images(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = json.loads((made / "run" / "network.json").read_text())["data"]
    assert saved["source"] == str(made / "photos")
    for path in ("run/network.pt", "run", "run/network.json"):
        assert commands.test_saved(made / path, device="cpu")["images"] == 8


def test_a_network_whose_images_are_gone_says_what_to_give(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("network.pt", "network.json"):
        shutil.copy(made / "run" / name, tmp_path)
    description = json.loads((tmp_path / "network.json").read_text())
    for source in ("photos", "/no\nwhere"):  # as earlier versions wrote it; and as nobody did
        description["data"]["source"] = source
        (tmp_path / "network.json").write_text(json.dumps(description))
        assert main(["evaluate", "--network", str(tmp_path / "network.pt")]) == 2
        shown = capsys.readouterr().err
        assert len(shown.splitlines()) == 1
        assert "say where such images are by --data" in shown
    make_images(tmp_path / "moved")
    assert commands.test_saved(tmp_path / "network.pt", data=str(tmp_path / "moved"))["images"] == 8


def test_a_broken_off_run_finds_its_images(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(made / "run", tmp_path / "run")
    for path in (run / "results.json", *(run / "checkpoints").iterdir()):
        path.unlink()
    monkeypatch.chdir(tmp_path)
    isnas.resume(run)
    assert (run / "metrics.jsonl").read_bytes() == (made / "run/metrics.jsonl").read_bytes()


def test_a_run_goes_on_with_the_same_images_at_the_same_relative_path(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project that was copied to another machine; other images are refused."""
    for name in ("same", "other"):
        run = shutil.copytree(made / "run", tmp_path / name / "run")
        for path in (run / "results.json", *(run / "checkpoints").iterdir()):
            path.unlink()
        config = json.loads((run / "config.json").read_text())
        config["data"]["source"] = "/not/there"
        (run / "config.json").write_text(json.dumps(config))
        make_images(tmp_path / name / "photos", 100 if name == "same" else 101)
    monkeypatch.chdir(tmp_path / "same")
    isnas.resume("run")
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(isnas.UserError, match="the data are not those of the run"):
        isnas.resume("run")


def test_where_cifar_was_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task = task_of(isnas.DARTS_SPACE)
    saved = {"source": "cifar10", "root": str(tmp_path / "data")}
    assert task.options_of_saved(saved, {}) == {"data": "cifar10", "data_root": saved["root"]}
    assert task.options_of_saved(saved, {"data": "cifar10"}) == {}
    options = comparison_schema(isnas.DARTS_SPACE).compose(data="cifar10", data_root="data")
    assert task.located(options, saved).data.data_root == saved["root"]
    (tmp_path / "data").mkdir()
    assert task.located(options, saved).data.data_root == "data"
