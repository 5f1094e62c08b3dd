"""Several seeds: each run as by itself, whatever stops; means and intervals as SciPy has them."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import isnas
from figures import seeds as figure
from isnas.cli import main
from isnas.commands.evaluate import evaluation_job
from isnas.comparison import seeds
from isnas.comparison.seeds import read_summary, repeat
from isnas.comparison.statistics import mean_interval
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.loop import Diverged
from isnas.runtime.errors import UserError

evaluating = importlib.import_module("isnas.commands.evaluate")  # a function has its name, too

SMALL = {"channels": 2, "cells": 3, "batch_size": 256, "device": "cpu", "epochs": 1}
WORDS = "--genotype ISTA_onestage --channels 2 --cells 3 --batch-size 256 --device cpu --epochs 1"


def job(**changes: Any) -> Any:
    genotype = isnas.GENOTYPES["ISTA_onestage"]
    options = evaluation_schema(genotype.space).compose(**{**SMALL, **changes})
    return evaluation_job(genotype, options)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_is_students(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    mean, half = mean_interval(values.tolist())
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert half is not None
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-12)


def test_one_value_has_no_interval() -> None:
    assert mean_interval([3.0]) == (3.0, None)


def test_each_seed_is_the_run_by_itself(tmp_path: Path) -> None:
    result = repeat(job(seed=3), 2, tmp_path / "several")
    for seed in (3, 4):
        isnas.evaluate("ISTA_onestage", out=tmp_path / f"{seed}", seed=seed, **SMALL)
        for name in ("metrics.jsonl", "results.json"):
            own, alone = tmp_path / "several" / f"seed-{seed}" / name, tmp_path / f"{seed}" / name
            assert own.read_bytes() == alone.read_bytes()
    values = [
        run["results"]["evaluate"]["test_accuracy"] for run in result.summary["runs"].values()
    ]
    means = result.summary["means"]["evaluate"]["test_accuracy"]
    assert means["mean"] == pytest.approx(sum(values) / 2) and means["runs"] == 2
    half = stats.t.ppf(0.975, 1) * np.std(values, ddof=1) / math.sqrt(2)
    assert means["interval"] == pytest.approx(half)
    assert read_summary(tmp_path / "several") == json.loads(json.dumps(result.summary))
    assert f"{100 * means['mean']:.2f} ± {100 * half:.2f}" in result.table
    assert (tmp_path / "several" / "table.md").read_text() == result.table


def test_it_goes_on_with_what_is_missing_and_adds_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeat(job(), 1, tmp_path)
    before = (tmp_path / "seed-0" / "config.json").stat().st_mtime_ns
    ran: list[int] = []
    real = seeds.run_seed

    def counted(seed: int, *arguments: Any) -> dict[str, Any]:
        ran.append(seed)
        return real(seed, *arguments)

    monkeypatch.setattr(seeds, "run_seed", counted)
    result = repeat(job(), 3, tmp_path)
    assert ran == [1, 2] and (tmp_path / "seed-0" / "config.json").stat().st_mtime_ns == before
    assert result.summary["means"]["evaluate"]["test_accuracy"]["runs"] == 3


def test_a_seed_that_fails_is_reported_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = evaluating.from_scratch

    def fails(genotype: Any, recipe: Any, *arguments: Any) -> Any:
        if recipe.runtime.seed == 1:
            raise Diverged("train_loss is not a number")
        if recipe.runtime.seed == 2:
            raise MemoryError("no more")
        return real(genotype, recipe, *arguments)

    monkeypatch.setattr(evaluating, "from_scratch", fails)
    result = repeat(job(), 4, tmp_path)
    assert result.failed == {"1": "train_loss is not a number", "2": "MemoryError: no more"}
    assert result.summary["means"]["evaluate"]["test_accuracy"]["runs"] == 2
    assert "seed 1 failed: train_loss is not a number" in result.table
    monkeypatch.setattr(evaluating, "from_scratch", real)
    assert not repeat(job(), 4, tmp_path).failed


def test_mistakes_are_said_once_and_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for changes, number, message in (
        ({"data": "nowhere"}, 2, "nowhere"),
        ({"device": "abacus"}, 2, "abacus"),
        ({}, 0, "seeds must be at least 1"),
        ({}, 10_001, "seeds must be at most 10000"),
    ):
        with pytest.raises(UserError, match=message):
            repeat(job(**changes), number, out)
    with pytest.raises(UserError, match="jobs must be at least 1"):
        repeat(job(), 2, out, jobs=0)
    assert not out.exists()


def test_runs_of_another_job_are_not_mixed(tmp_path: Path) -> None:
    repeat(job(), 1, tmp_path / "several")
    with pytest.raises(UserError, match="channels = 2, not 4"):
        repeat(job(channels=4), 2, tmp_path / "several")
    other = isnas.GENOTYPES["DARTS_V2"]
    options = evaluation_schema(other.space).compose(**SMALL)
    with pytest.raises(UserError, match="another genotype"):
        repeat(evaluation_job(other, options), 2, tmp_path / "several")
    with pytest.raises(UserError, match="holds a single run"):
        repeat(job(), 1, tmp_path / "several" / "seed-0")


def test_the_figure_has_every_seed(tmp_path: Path) -> None:
    repeat(job(), 3, tmp_path)
    (ax,) = figure.make_figure(tmp_path).axes
    drawn = ax.lines[0].get_ydata()
    runs = read_summary(tmp_path)["runs"].values()
    expected = [100 * run["results"]["evaluate"]["test_accuracy"] for run in runs]
    assert sorted(drawn) == pytest.approx(sorted(expected))
    assert "3 seeds" in ax.get_xticklabels()[0].get_text()
    assert figure.main([str(tmp_path), "-o", str(tmp_path / "f.png")]) == 0
    (tmp_path / "seeds.json").write_text('{"runs": {"0": {}}, "means": {}}')
    assert figure.main([str(tmp_path), "-o", str(tmp_path / "g.png")]) == 2


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["evaluate", *WORDS.split(), "--seeds", "2", "--out", str(out), "--quiet"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "mean ± 95 %" in shown and "seeds.svg" in shown and (out / "seeds.svg").is_file()
    assert main(["evaluate", *WORDS.split(), "--jobs", "2"]) == 2
    assert "give --seeds, too" in capsys.readouterr().err
    network = str(out / "seed-0" / "network.pt")
    assert main(["evaluate", "--network", network, "--seeds", "2"]) == 2
    assert "a test has no seed" in capsys.readouterr().err
    more = ["evaluate", "--network", network, "--epochs", "1", "--batch-size", "256"]
    assert main([*more, "--seeds", "1", "--out", str(tmp_path / "more"), "--quiet"]) == 0
    assert (tmp_path / "more" / "seed-0" / "results.json").is_file()


def test_a_search_counts_its_random_architectures_as_one(tmp_path: Path) -> None:
    words = "search --channels 2 --cells 3 --batch-size 256 --device cpu --epochs 1 --quiet"
    words += " --evaluation-epochs 1 --random-architectures 2 --seeds 1"
    assert main([*words.split(), "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "seed-0" / "results.json").read_text())
    found = read_summary(tmp_path)["runs"]["0"]["results"]
    assert set(found) == {"found", seeds.RANDOM}
    drawn = [results[f"random-{i}"]["test_accuracy"] for i in (1, 2)]
    assert found[seeds.RANDOM]["test_accuracy"] == pytest.approx(sum(drawn) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_it_is_interrupted_and_goes_on_to_the_same_results(tmp_path: Path, jobs: str) -> None:
    words = WORDS.replace("--epochs 1", "--epochs 6").split()
    command = [sys.executable, "-m", "isnas", "evaluate", *words, "--seeds", "3"]
    command += ["--out", str(tmp_path / "out"), "--jobs", jobs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, env=environment, text=True
    )
    deadline = time.monotonic() + 600  # the machine may be busy
    first = tmp_path / "out" / "seed-0" / "metrics.jsonl"
    try:
        while not (first.exists() and '"epoch": 1' in first.read_text()):
            assert begun.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(begun.pid, signal.SIGINT)  # as a terminal does
        _, said = begun.communicate(timeout=600)
    finally:
        begun.kill()
    assert begun.returncode == 130 and "the same command goes on" in said, said
    assert not (tmp_path / "out" / "seeds.json").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    isnas.evaluate("ISTA_onestage", out=tmp_path / "whole", **{**SMALL, "epochs": 6})
    for name in ("metrics.jsonl", "results.json"):
        own = (tmp_path / "out" / "seed-0" / name).read_bytes()
        assert own == (tmp_path / "whole" / name).read_bytes()
