"""The benchmarks of steps run, at the smallest size, and their columns are what they say."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from figures import growth as figure

HERE = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.slow


Script = Callable[..., ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """Return a function that imports a script as if it were run, with a command line."""
    monkeypatch.syspath_prepend(str(HERE))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def load(name: str, *words: str) -> ModuleType:
        for each in ("_measure", name):
            monkeypatch.delitem(sys.modules, each, raising=False)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        return importlib.import_module(name)

    yield load
    torch.set_num_threads(threads)
    for each in ("_measure", "step", "growth", "training", "recurrent"):
        sys.modules.pop(each, None)


SMALL = ("--channels", "2", "--cells", "3", "--side", "8", "--rounds", "1")


def test_step(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script("step", *SMALL, "--batch-size", "32", "--images", "64", "--device", "cpu").main()
    out = capsys.readouterr().out
    assert out.startswith("`python benchmarks/step.py --channels 2")
    rows = [line.split() for line in out.splitlines() if line.startswith(" ") and "%" not in line]
    saved = {" ".join(row[4:]): float(row[1]) for row in rows if not row[-1].endswith(":")}
    assert saved["two-stage search, weights"] <= 1.02
    assert saved["two-stage search, architecture"] < 1
    assert saved["one-stage, searching"] <= 1.02
    assert saved["one-stage, all frozen"] <= 1.02
    assert saved["DARTS, first order"] > 3
    assert "recovery of all nodes, certified" in out


def test_growth(script: Script, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    growth = script("growth", "--out", str(tmp_path), "--rounds", "1", "--device", "cpu")
    growth.SIDE = 8
    growth.CENTRE = {"channels": 2, "cells": 3, "batch_size": 4, "candidates": 3, "s": 2}
    growth.VARIED = {
        "channels": (2, 4),
        "cells": (3,),
        "batch_size": (4, 8),
        "candidates": (2, 5),
        "s": (1, 3),
    }
    growth.main()
    first = capsys.readouterr().out
    table = {
        (line.split()[0], int(line.split()[1])): [float(word) for word in line.split()[2:]]
        for line in first.splitlines()[3:]
    }
    saved = {key: dict(zip(growth.METHODS, row[1::2], strict=True)) for key, row in table.items()}
    for method in ("discrete", "sparse"):  # candidates that are not active cost nothing
        assert saved["candidates", 2][method] == saved["candidates", 5][method]
        assert saved["s", 3][method] > saved["s", 1][method]
    assert saved["candidates", 5]["all candidates"] > 1.5 * saved["candidates", 2]["all candidates"]
    growth.main()
    assert capsys.readouterr().out == first, "rows that are there are not measured again"
    assert figure.main([str(tmp_path), "-o", str(tmp_path / "growth.svg")]) == 0
    assert "sparse code: s operations of a node" in (tmp_path / "growth.svg").read_text()


def test_training(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script("training", *SMALL, "--batch-size", "4", "--steps", "1", "--device", "cpu").main()
    names = [line[20:] for line in capsys.readouterr().out.splitlines()[3:]]
    assert names[:2] == ["isnas", "plain"] and len(names) == 5


def test_figure_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"method": "random", "seed": 0}\n')
    assert figure.main([str(tmp_path), "-o", str(tmp_path / "growth.svg")]) == 2
    assert "no results of benchmarks/growth.py" in capsys.readouterr().err


def test_recurrent(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--width", "8", "--batch-size", "2", "--bptt", "4", "--vocabulary", "20")
    script("recurrent", *small, "--rounds", "1", "--device", "cpu").main()
    out = capsys.readouterr().out
    assert out.startswith("`python benchmarks/recurrent.py --width 8")
    rows = [line.split() for line in out.splitlines() if line.startswith(" ")]
    saved = {" ".join(row[4:]): float(row[1]) for row in rows if not row[-1].endswith(":")}
    # no place that is not active is run: what is saved besides are the affine parts of the norms
    assert saved["two-stage search, weights"] <= 1.2
    assert saved["found network, without norms"] < 1
    assert saved["DARTS, first order"] > 3
