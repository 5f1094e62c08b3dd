"""Trials: what is missing is run, each row is written at once, runs go on in their directories."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image

import isnas
from isnas.commands.evaluate import evaluation_job
from isnas.commands.run import Job
from isnas.comparison.clusters import Dask, Processes, workers
from isnas.comparison.rows import Rows, read_rows
from isnas.comparison.trials import run_or_resume, run_trials
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.records import RunRecord
from isnas.runs.training import Training
from isnas.runtime.errors import UserError


def squared(name: str, number: int, factor: int) -> dict[str, Any]:
    return {"name": name, "number": number, "value": factor * number**2}


def failing(name: str, number: int, factor: int) -> dict[str, Any]:
    if number > 1:
        raise KeyboardInterrupt
    return squared(name, number, factor)


def table(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    return f"{about['settings']['unit']}: {sorted(row['value'] for row in rows)}"


def opened(directory: Path) -> Rows:
    return Rows(directory, ("name", "number"), {"unit": "m"}, {"command": "toy"})


TRIALS = [("a", number, 10) for number in range(4)]


def test_rows_and_table_grow_with_each_trial(tmp_path: Path) -> None:
    said: list[str] = []

    class Shown(isnas.Progress):
        def say(self, text: str) -> None:
            said.append(f"{text} | {(tmp_path / 'table.md').read_text()}")

    with opened(tmp_path) as rows:
        run_trials(
            rows,
            squared,
            TRIALS[:2],
            table=table,
            finish=lambda row: {**row, "value": row["value"] + 1},
            describe=lambda row: f"number {row['number']}",
            progress=Shown(),
        )
    assert said == ["1/2  number 0 | m: [1]", "2/2  number 1 | m: [1, 11]"]
    assert [row["value"] for row in read_rows(tmp_path)] == [1, 11]


def test_only_what_is_missing_is_run(tmp_path: Path) -> None:
    with opened(tmp_path) as rows, pytest.raises(KeyboardInterrupt):
        run_trials(rows, failing, TRIALS, table=table)
    assert (tmp_path / "table.md").read_text() == "m: [0, 10]"
    with opened(tmp_path) as rows:
        run_trials(rows, squared, TRIALS, table=table)
    assert [row["number"] for row in read_rows(tmp_path)] == [0, 1, 2, 3]
    (tmp_path / "table.md").write_text("an older text")
    with opened(tmp_path) as rows:
        run_trials(rows, failing, TRIALS, table=table)
    assert (tmp_path / "table.md").read_text() == "m: [0, 10, 40, 90]"


@pytest.mark.slow
def test_trials_side_by_side(tmp_path: Path) -> None:
    with opened(tmp_path) as rows:
        run_trials(rows, squared, TRIALS, table=table, jobs=2)
    assert sorted(row["value"] for row in read_rows(tmp_path)) == [0, 10, 40, 90]


def dying(name: str, number: int, recovered: str) -> dict[str, Any]:
    if number == 1 and not Path(recovered).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return squared(name, number, 10)


@pytest.mark.slow
def test_a_worker_that_dies_is_a_failed_trial_and_tried_again(tmp_path: Path) -> None:
    said: list[str] = []

    class Shown(isnas.Progress):
        def say(self, text: str) -> None:
            said.append(text)

    trials = [("a", number, str(tmp_path / "recovered")) for number in range(4)]
    with opened(tmp_path) as rows:
        run_trials(rows, dying, trials, table=table, jobs=2, progress=Shown())
        assert [(row["name"], row["number"]) for row in rows.died] == [("a", 1)]
    assert sorted(row["value"] for row in read_rows(tmp_path)) == [0, 40, 90]
    shown = (tmp_path / "table.md").read_text()
    assert shown.startswith("m: [0, 40, 90]\n")
    assert "- name a, number 1: its process died (SIGKILL(-9))" in shown
    assert any("name a, number 1: its process died" in line for line in said)
    assert "died" in (tmp_path / "rows.jsonl").read_text()

    (tmp_path / "recovered").touch()
    with opened(tmp_path) as rows:
        assert [row["number"] for row in rows.died] == [1]
        run_trials(rows, dying, trials, table=table, jobs=2)
    assert sorted(row["value"] for row in read_rows(tmp_path)) == [0, 10, 40, 90]
    assert (tmp_path / "table.md").read_text() == "m: [0, 10, 40, 90]"
    with opened(tmp_path) as rows:
        assert rows.died == []


def blocked() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="has no such signals")
def test_ctrl_c_while_a_process_begins_is_for_this_one_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from joblib.externals.loky import ProcessPoolExecutor

    submit = ProcessPoolExecutor.submit

    def interrupted(*arguments: Any) -> Any:
        future = submit(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return future

    # also where a shell lets what it runs in the background ignore it
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Processes(1) as pool:
            assert pool.result(pool.submit(blocked))
            monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.submit(blocked)
                signal.pthread_sigmask(signal.SIG_BLOCK, [])  # somewhere to be interrupted
        assert not blocked()
    finally:
        signal.signal(signal.SIGINT, usual)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_worker_of_a_cluster_that_dies_is_a_failed_trial(
    tmp_path: Path, backend: Literal["dask", "ray"]
) -> None:
    pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend])
    trials = [("a", number, str(tmp_path / "recovered")) for number in range(4)]
    with opened(tmp_path) as rows, workers(2, backend, None):
        run_trials(rows, dying, trials, table=table, jobs=2)
        assert ("a", 1) in [(row["name"], row["number"]) for row in rows.died]
    assert "- name a, number 1: its " in (tmp_path / "table.md").read_text()
    assert "worker" in (tmp_path / "rows.jsonl").read_text()

    (tmp_path / "recovered").touch()
    with opened(tmp_path) as rows, workers(2, backend, None):
        run_trials(rows, dying, trials, table=table, jobs=2)
    assert sorted(row["value"] for row in read_rows(tmp_path)) == [0, 10, 40, 90]


def refusing(name: str, number: int) -> dict[str, Any]:
    raise UserError(f"{name} has no {number}")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_an_exception_of_a_trial_on_a_cluster_is_raised_here(
    tmp_path: Path, backend: Literal["dask", "ray"]
) -> None:
    pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend])
    with (
        opened(tmp_path) as rows,
        workers(1, backend, None),
        pytest.raises(UserError, match=r"^a has no 3$"),
    ):
        run_trials(rows, refusing, [("a", 3)], table=table)


@pytest.mark.slow
def test_a_cluster_that_is_gone_is_said_in_a_line(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=0, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        with Dask(client, patience=0.0) as pool, pytest.raises(UserError, match="had no worker"):
            pool.places()
        pool = Dask(client)
        client.close()
        with pytest.raises(UserError, match=r"scheduler cannot be reached any more.*same command"):
            pool.places()


OPTIONS = {
    "channels": 2, "cells": 3, "batch_size": 512, "epochs": 2, "device": "cpu", "threads": 1,
}  # fmt: skip


def test_a_run_is_started_read_or_refused(tmp_path: Path) -> None:
    genotype = isnas.GENOTYPES["DARTS_V2"]
    schema = evaluation_schema(genotype.space)

    def job(**changes: Any) -> Job:
        return evaluation_job(genotype, schema.compose(**{**OPTIONS, **changes}))

    out = tmp_path / "run"
    (out / "codes").mkdir(parents=True)  # killed before it had begun
    first = run_or_resume(job(), out)
    metrics = (out / "metrics.jsonl").read_bytes()
    again = run_or_resume(job(checkpoint_steps=3), out)  # which changes no result
    assert again.results == first.results
    assert (out / "metrics.jsonl").read_bytes() == metrics
    with pytest.raises(UserError, match="holds a run with epochs = 2, not 3"):
        run_or_resume(job(epochs=3), out)


def test_data_may_be_named_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genotype = isnas.GENOTYPES["DARTS_V2"]
    schema = evaluation_schema(genotype.space)
    for split, label in itertools.product(("train", "test"), ("a", "b")):
        folder = tmp_path / "images" / split / label
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "0.png")

    def job(data: str) -> Job:
        return evaluation_job(
            genotype, schema.compose(**{**OPTIONS, "data": data, "epochs": 1, "batch_size": 2})
        )

    monkeypatch.chdir(tmp_path)
    first = run_or_resume(job("images"), "run")
    assert run_or_resume(job(str(tmp_path / "images")), "run").results == first.results
    monkeypatch.chdir("images")
    assert run_or_resume(job("../images"), "../run").results == first.results
    (tmp_path / "images" / "other").mkdir()
    with pytest.raises(UserError, match="holds a run with data ="):
        run_or_resume(job("other"), "../run")


def test_a_run_that_was_broken_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genotype = isnas.GENOTYPES["DARTS_V2"]
    options = evaluation_schema(genotype.space).compose(**OPTIONS)
    step, taken = Training.train_step, []

    def breaking(self: Training, batch: Any) -> Any:
        taken.append(self.epoch)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Training, "train_step", breaking)
    with pytest.raises(isnas.Interrupted):
        run_or_resume(evaluation_job(genotype, options), tmp_path / "run")
    assert RunRecord(tmp_path / "run").status == "broken off"
    result = run_or_resume(evaluation_job(genotype, options), tmp_path / "run")
    assert RunRecord(tmp_path / "run").status == "finished"
    whole = run_or_resume(evaluation_job(genotype, options), tmp_path / "whole")
    assert result.results == whole.results
