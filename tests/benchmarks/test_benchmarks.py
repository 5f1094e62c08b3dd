"""The benchmarks run, at the smallest size, and their columns are what they say."""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from figures import growth as figure

HERE = Path(__file__).parents[2] / "benchmarks"

Script = Callable[..., ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """Return a function that imports a script and sets its command line."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def load(name: str, *words: str) -> ModuleType:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
        return importlib.import_module(f"benchmarks.{name}")

    yield load
    torch.set_num_threads(threads)


SMALL = ("--channels", "2", "--cells", "3", "--side", "8", "--rounds", "1")


def saved_of(table: str) -> dict[str, float]:
    """Return the ratio of saved memory of each step in what `benchmarks.step.report` printed."""
    # ratio of times, ratio of memory, (ratio of peaks,) milliseconds, MiB, name; the first is of any width
    row = re.compile(r" *[\d.]+ +([\d.]+) +(?:[\d.]+ +)?[\d.]+ +[\d.]+  (\D.*[^:])")
    found = [row.fullmatch(line) for line in table.splitlines()]
    return {match[2]: float(match[1]) for match in found if match}


def test_saved_of_reads_ratios_of_any_width() -> None:
    """A pause of a noisy machine can make a ratio of times of one round as large as it likes."""
    table = """x time  x saved  x peak        ms   saved MiB  step (of one batch)
                           1379.5       694.9  discrete network:
10.034    1.250            1421.2       694.9  search
1234.567    8.754   2.345    10290.1      6082.8  DARTS, first order
   0.001 %      6.16 ms  recovery of all nodes, certified
"""
    assert saved_of(table) == {"search": 1.25, "DARTS, first order": 8.754}


@pytest.mark.slow
def test_step(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script("step", *SMALL, "--batch-size", "32", "--images", "64", "--device", "cpu").main()
    out = capsys.readouterr().out
    assert out.startswith("`python -m benchmarks.step --channels 2")
    saved = saved_of(out)
    assert saved["two-stage search, weights"] <= 1.02
    assert saved["two-stage search, architecture"] < 1
    assert saved["one-stage, searching"] <= 1.02
    assert saved["one-stage, all frozen"] <= 1.02
    assert saved["DARTS, first order"] > 3
    assert "recovery of all nodes, certified" in out


@pytest.mark.slow
def test_smoothed(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    """The average is that of an epoch on fair paths and one with scores, as often as the preset has them."""
    words = ("--channels", "2", "--batch-size", "8", "--side", "8", "--rounds", "1")
    smoothed = script("smoothed", *words, "--scored", "8", "4", "--device", "cpu")
    smoothed.main()
    table, average = capsys.readouterr().out.split("on average, with ")
    fair, *scored = [float(line.split()[0]) for line in table.splitlines()[4:] if line]
    first, *lines = average.splitlines()
    epochs, _, whole, *_ = first.split()
    share = int(epochs) / int(whole)
    assert 0 < share < 1
    found = [float(line.split()[0]) for line in lines]
    assert found == pytest.approx([share * fair + (1 - share) * each for each in scored], abs=2e-3)


@pytest.mark.slow
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


@pytest.mark.slow
def test_training(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script("training", *SMALL, "--batch-size", "4", "--steps", "1", "--device", "cpu").main()
    names = [line[20:] for line in capsys.readouterr().out.splitlines()[3:]]
    assert names[:2] == ["isnas", "plain"] and len(names) == 5


@pytest.mark.slow
def test_recurrent(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--width", "8", "--batch-size", "2", "--bptt", "4", "--vocabulary", "20")
    script("recurrent", *small, "--rounds", "1", "--device", "cpu").main()
    out = capsys.readouterr().out
    assert out.startswith("`python -m benchmarks.recurrent --width 8")
    saved = saved_of(out)
    # no place that is not active is run: what is saved besides are the affine parts of the norms
    assert saved["two-stage search, weights"] <= 1.2
    assert saved["found network, without norms"] < 1
    assert saved["DARTS, first order"] > 3


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of all rows of Markdown tables."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_benchmark_has_a_test() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in HERE.glob("[a-z]*.py")} <= tested


def test_layout(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    layout = script("layout", "--rounds", "1")
    layout.SIZES = ((2, 3, 4, 8, 1),)
    layout.main()
    ratio, last, contiguous, *size = capsys.readouterr().out.splitlines()[-1].split(maxsplit=3)
    assert float(ratio) == pytest.approx(float(last) / float(contiguous), rel=0.1)
    assert size == ["(2, 3, 4, 8)"]


@pytest.mark.slow
def test_rounding(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--channels", "2", "--cells", "3", "--batch-size", "64", "--images", "128")
    shortest = ("--seeds", "1", "--search-epochs", "1", "--epochs", "1", "--networks", "1")
    script("rounding", *size, *shortest).main()
    rows = {tuple(row[:2]): row[2:] for row in rows_of(capsys.readouterr().out)}
    for size_of_norm in ("64 x 8 x 8", "256 x 32 x 32"):
        contiguous, last = (
            float(rows[name, size_of_norm][0]) for name in ("contiguous", "channels-last")
        )
        assert contiguous < 5e-7 and contiguous < last < 1e-3
    noise = rows["float64, another batch", "(8, 4, 64, 8)"]
    assert all(float(each) > 0.1 for each in noise)
    trainings = [row for row in rows.values() if len(row) == 6 and row[-1].endswith("%")]
    assert trainings[0][-1] == "100 %"  # of contiguous with itself
    assert all(
        row[1].startswith("1.00") for row in trainings
    )  # all nodes froze at the end of the search


def test_rounding_reads_what_it_is_to_read(script: Script) -> None:
    rounding = script("rounding")
    for layout, memory_format in rounding.FORMATS.items():
        stage = rounding.one_stage(
            rounding.random_images(64, 8), layout, 1e-6, channels=2, cells=3, batch_size=32
        )
        dense = stage.network.stem[0].weight
        assert dense.is_contiguous(memory_format=memory_format)
    small = rounding.subset(rounding.load_dataset("digits"), 20, 4)
    assert small.train_images.shape == (20, 1, 4, 4) and len(small.test_labels) == 20


def test_recovery(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--draws", "1", "--repeats", "1", "--scales", "1e-3", "--kinds", "gaussian")
    script("recovery", *words).main()
    out = capsys.readouterr().out
    rows = {line.split(maxsplit=5)[-1]: line.split() for line in out.splitlines() if "%" in line}
    assert rows["homotopy"][0] == "1.00" and rows["homotopy"][4] == "0.0%"
    assert float(rows["homotopy"][3]) < 1e-8
    assert out.count("BestSubset(b), z >= 0") == 2


@pytest.mark.slow
def test_loading(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    loading = script("loading", "--share", "0.001", "--repeats", "1")
    loading.SETTINGS = (("32 x 32", (32, 32), 32, "pad", 100, 8),)
    loading.main()
    lines = capsys.readouterr().out.partition("workers  way\n")[2].splitlines()
    rows = [line.split(maxsplit=4) for line in lines]
    ways = ["threads", "processes, same work", "processes, torchvision"]
    assert [row[4] for row in rows[:3]] == ways
    assert rows[0][0] == "1.00"


def test_loading_does_the_same_work(script: Script, tmp_path: Path) -> None:
    loading = script("loading")
    loading.make_folder(tmp_path, (20, 16), 20)
    for crop in ("pad", "resized"):
        dataset = loading.load_dataset(str(tmp_path), image_size=8, crop=crop, memory_budget=0)
        indices = torch.arange(20)
        images = dataset.train_images[indices]
        if crop == "resized":
            images = dataset.train_images.parts(indices, 0.0, 0, "train", "resized crop", 0)
        for i in range(20):
            pixels, label = loading.Same(dataset)[i]
            assert torch.equal(pixels, images[i]) and label == dataset.train_labels[i]


@pytest.mark.slow
def test_precision(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--channels", "2", "--cells", "3", "--batch-size", "256")
    precision = script(
        "precision", "--seeds", "2", "--epochs", "1", "--evaluation-epochs", "1", *size
    )
    precision.main()
    out = capsys.readouterr().out
    assert [row[0] for row in rows_of(out)[2:]] == [
        "float32",
        "bfloat16",
        "bfloat16 minus float32, paired",
    ]
    assert "operations shared by the two searches of a seed" in out
    genotype = precision.isnas.GENOTYPES["ISTA_twostage"]
    assert precision.shared(genotype, genotype) == 1


def test_compilation(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # the compiler itself would take minutes
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    script("compilation", *SMALL, "--batch-size", "2", "--device", "cpu").main()
    values = {line[8:].strip(): line[:8] for line in capsys.readouterr().out.splitlines()[2:]}
    assert float(values["x the step as it is"]) > 0 and float(values["s for compiling"]) > 0
    assert values.keys() & {"steps to make up for it", "pays"}


def of_convolutions(*words: str) -> list[list[str]]:
    """Return the rows of the benchmark, run in a process of its own: it forks, and spoils the memory that it gets."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.convolutions", "--instructions", "AVX2", *words],
        cwd=HERE.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return [row for row in rows_of(result.stdout) if row[0] not in ("convolution", "---")]


def test_convolutions() -> None:
    ((kind, *errors),) = of_convolutions("--kernels", "2", "--channels", "3")
    assert kind == "2x2" and len(errors) == 6
    assert all(0 < float(error) < 0.1 for error in errors)


@pytest.mark.slow
def test_convolutions_that_fail() -> None:
    theirs = "1x1 stride 2 (PyTorch's)"
    rows = of_convolutions("--kernels", "1", "--channels", "3", "8")
    assert [row[0] for row in rows[:3]] == ["1x1", "1x1 stride 2", theirs]
    # all further rows are failures; ours must have none
    assert {row[0] for row in rows[3:]} <= {theirs}


def test_figure_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"method": "random", "seed": 0}\n')
    assert figure.main([str(tmp_path), "-o", str(tmp_path / "growth.svg")]) == 2
    assert "no results of benchmarks/growth.py" in capsys.readouterr().err


def test_latency(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script("latency", "--channels", "2", "--side", "8", "--networks", "3", "--device", "cpu").main()
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["darts", "nasbench201", "chain", "macro"]
    assert all("error: median" in line and "Kendall's tau" in line for line in lines)
