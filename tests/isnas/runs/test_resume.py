"""Runs that are interrupted, killed and damaged end as the uninterrupted run does, bit for bit."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import IMAGES
from PIL import Image

import isnas
from isnas.runs.directory import Run
from isnas.runtime import files
from isnas.runtime.progress import Progress

SEARCH = {
    "channels": 2,
    "cells": 3,
    "epochs": 3,
    "batch_size": 180,
    "device": "cpu",
    "evaluation_epochs": 2,
    "evaluation_batch_size": 180,
    "random_architectures": 1,
    "checkpoint_steps": 2,
}
TRAIN = {
    "channels": 2,
    "cells": 3,
    "search_epochs": 3,
    "epochs": 3,
    "batch_size": 240,
    "device": "cpu",
    "auxiliary_weight": 0.4,
    "drop_path": 0.3,
    "cutout": 2,
    "limit": ("parameters=9k",),
    "checkpoint_steps": 2,
}
RUNS: dict[str, tuple[Callable[..., Any], Any]] = {
    "search": (isnas.search, SEARCH),
    "train": (isnas.train, TRAIN),
}


class Killed(Exception):
    """Stands for a crash inside this process."""


class At(Progress):
    """Does something when it hears of a step for the n-th time."""

    def __init__(self, n: int, action: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self.left = n
        self.action = action

    def step(self, done: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


def crash() -> None:
    raise Killed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Sums depend on the number of threads; the processes that are killed have one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, (command, options) in RUNS.items():
        made[name] = tmp_path_factory.mktemp("reference") / name
        command(out=made[name], **options)
    return made


def assert_same_tree(a: Any, b: Any, where: str = "") -> None:
    """Equal types, keys and values; tensors and floats bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same_tree(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_tree(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    else:
        assert a == b or (a != a and b != b), where


def assert_same_run(a: Path, b: Path) -> None:
    """Everything that is not a time or a date: weights, codes, optimizers, metrics, trajectory, results."""
    for name in ("metrics.jsonl", "genotype.json", "network.json", "results.json", "cells.svg"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert_same_tree(files.read_tensors(a / "network.pt"), files.read_tensors(b / "network.pt"))
    names = sorted(path.name for path in (a / "codes").iterdir())
    assert names == sorted(path.name for path in (b / "codes").iterdir())
    for name in names:
        with np.load(a / "codes" / name) as x, np.load(b / "codes" / name) as y:
            assert x.files == y.files
            for key in x.files:
                np.testing.assert_array_equal(x[key], y[key], f"{name} {key}")
    # the last checkpoint of the last stage: optimizers, schedules, counters
    for x, y in zip(checkpoints(a), checkpoints(b), strict=True):
        for part in ("stage", "state", "results", "recoveries"):
            assert_same_tree(x[part], y[part], part)
        assert x["sizes"]["metrics"] == y["sizes"]["metrics"]


def checkpoints(run: Path) -> list[dict[str, Any]]:
    return [files.read_tensors(path) for path in sorted((run / "checkpoints").iterdir())]


@pytest.mark.parametrize(
    ("name", "action"),
    [("search", crash), ("search", interrupt), ("train", crash), ("train", terminate)],
)
def test_interrupted_run_ends_as_the_uninterrupted_one(
    name: str, action: Callable[[], None], reference: dict[str, Path], tmp_path: Path
) -> None:
    command, options = RUNS[name]
    run = tmp_path / "run"
    moments = random.Random(f"{name} {action.__name__}")
    with pytest.raises((Killed, isnas.Interrupted)):
        command(out=run, progress=At(moments.randint(1, 8), action), **options)
    stops = 1
    while True:
        try:
            isnas.resume(run, progress=At(moments.randint(5, 15), action))
            break
        except (Killed, isnas.Interrupted):
            stops += 1
    assert stops >= 2
    assert_same_run(reference[name], run)


def test_interrupted_after_the_last_step(
    reference: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While what was trained is tested: the request is not lost, nor is the run."""
    run = tmp_path / "run"

    examine = type(IMAGES).examine

    def examined(*arguments: Any) -> Any:
        interrupt()
        return examine(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(IMAGES), "examine", examined)
        with pytest.raises(isnas.Interrupted):
            isnas.train(out=run, **TRAIN)
    isnas.resume(run)
    assert_same_run(reference["train"], run)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_run_that_is_interrupted(tmp_path: Path) -> None:
    options = {
        "channels": 2,
        "cells": 3,
        "batch_size": 240,
        "epochs": 2,
        "drop_path": 0.3,
        "device": "cpu",
        "compile": True,
    }
    run = tmp_path / "run"
    whole = isnas.evaluate("ISTA_twostage", out=tmp_path / "whole", **options)
    torch.compiler.reset()  # as in a new process
    with pytest.raises(isnas.Interrupted):
        isnas.evaluate("ISTA_twostage", out=run, progress=At(7, interrupt), **options)
    resumed = isnas.resume(run)
    metrics = [done.directory / "metrics.jsonl" for done in (whole, resumed)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    reference: dict[str, Path], tmp_path: Path
) -> None:
    isnas.train(out=tmp_path / "again", **TRAIN)
    assert_same_run(reference["train"], tmp_path / "again")
    other = break_off(tmp_path / "other", 3, seed=1)
    first = [
        (run / "metrics.jsonl").read_text().splitlines()[0] for run in (reference["train"], other)
    ]
    assert first[0] != first[1]


def test_checkpoints_at_every_step_do_not_change_the_run(
    reference: dict[str, Path], tmp_path: Path
) -> None:
    isnas.train(out=tmp_path / "run", **{**TRAIN, "checkpoint_steps": 0})
    assert_same_run(reference["train"], tmp_path / "run")


def test_two_checkpoints_are_kept(reference: dict[str, Path]) -> None:
    assert len(checkpoints(reference["train"])) == 2


def break_off(run: Path, steps: int = 24, **changes: Any) -> Path:
    with pytest.raises(Killed):
        isnas.train(out=run, progress=At(steps, crash), **{**TRAIN, **changes})
    return run


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return break_off(tmp_path_factory.mktemp("broken") / "run")


@pytest.fixture(name="run")
def broken_off(original: Path, tmp_path: Path) -> Path:
    """Return a run that was broken off, for one test to change."""
    return shutil.copytree(original, tmp_path / "run")


def test_resuming_a_finished_run_changes_nothing(
    reference: dict[str, Path], tmp_path: Path
) -> None:
    run = shutil.copytree(reference["train"], tmp_path / "run")
    result = isnas.resume(run)
    assert result.genotype == isnas.Genotype.load(run / "genotype.json")
    assert_same_run(reference["train"], run)


def test_results_that_a_kill_kept_from_the_disk_are_written_on_resuming(
    reference: dict[str, Path], tmp_path: Path
) -> None:
    run = shutil.copytree(reference["train"], tmp_path / "run")
    (run / "results.json").unlink()
    isnas.resume(run)
    assert_same_run(reference["train"], run)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "hostile", "empty", "other"])
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(
    damage: str, reference: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    damage_file(newest, damage, tmp_path)
    with pytest.warns(UserWarning, match=newest.name):
        isnas.resume(run)
    assert not (tmp_path / "executed").exists()
    assert_same_run(reference["train"], run)


@pytest.mark.parametrize("damage", ["truncated", "hostile"])
def test_no_sound_checkpoint_is_one_clear_error(damage: str, run: Path, tmp_path: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        damage_file(path, damage, tmp_path)
    with pytest.raises(isnas.UserError, match="no checkpoint can be read"):
        isnas.resume(run)
    assert not (tmp_path / "executed").exists()


def damage_file(path: Path, damage: str, tmp_path: Path) -> None:
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        torch.save(Hostile(tmp_path / "executed"), path)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_changes_are_allowed_by_name_and_shown(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    isnas.resume(run, epochs=4, progress=Progress())
    assert "changed: epochs 3 -> 4" in capsys.readouterr().err
    last = files.read_json(run / "config.json")
    assert last["options"]["epochs"] == 4
    assert last["changes"] == [{"epochs": 4}]
    text = (run / "metrics.jsonl").read_text()
    assert text.count('"phase": "training"') == 4


def test_fewer_epochs_are_refused(run: Path) -> None:
    with pytest.raises(isnas.UserError, match="epochs can be raised only"):
        isnas.resume(run, epochs=2)


def test_other_data_are_refused(run: Path) -> None:
    config = files.read_json(run / "config.json")
    config["data"]["train"] += 1
    files.write_json(run / "config.json", config)
    with pytest.raises(isnas.UserError, match="not those of the run: train differ"):
        isnas.resume(run)


def test_exchanged_images_are_refused(tmp_path: Path) -> None:
    """The same numbers, means and deviations, but images of one class now belong to the other."""
    data = tmp_path / "data"
    for split, number in (("train", 8), ("test", 2)):
        for k, name in enumerate(("a", "b")):
            (data / split / name).mkdir(parents=True)
            for i in range(number):
                image = Image.new("RGB", (8, 8), (20 * i, 100 * k, 50))
                image.save(data / split / name / f"{i}.png")
    run = break_off(tmp_path / "run", data=str(data), batch_size=4)
    (data / "train" / "a" / "0.png").rename(data / "spare.png")
    (data / "train" / "b" / "0.png").rename(data / "train" / "a" / "0.png")
    (data / "spare.png").rename(data / "train" / "b" / "0.png")
    with pytest.raises(isnas.UserError, match="not those of the run: fingerprint differ"):
        isnas.resume(run)


def test_other_settings_in_the_record_are_refused(run: Path) -> None:
    config = files.read_json(run / "config.json")
    config["options"]["channels"] = 4
    files.write_json(run / "config.json", config)
    with pytest.raises(isnas.UserError, match="channels"):
        isnas.resume(run)


def test_a_run_has_one_writer_at_a_time(run: Path) -> None:
    assert isnas.RunRecord(run).status == "broken off"
    writer, _ = Run.reopen(run)
    with writer:
        assert isnas.RunRecord(run).status == "running"
        with pytest.raises(isnas.UserError, match="is being written by another process"):
            isnas.resume(run)
    isnas.resume(run)
    assert isnas.RunRecord(run).status == "finished"


def test_other_versions_are_said(run: Path) -> None:
    config = files.read_json(run / "config.json")
    config["versions"]["torch"] = "1.0"
    files.write_json(run / "config.json", config)
    with pytest.warns(UserWarning, match=r"begun with .*1\.0"):
        isnas.resume(run)


def test_full_disk_ends_cleanly_and_the_run_goes_on(
    reference: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without space refuses at fsync or write; what was there stays."""
    run = tmp_path / "run"
    fsync, left = os.fsync, [40]

    def no_space(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", no_space)
        with pytest.raises(isnas.UserError, match="No space left on device"):
            isnas.train(out=run, **TRAIN)
    assert not list(run.rglob("*.tmp"))
    isnas.resume(run)
    assert_same_run(reference["train"], run)


# --- a real process, really killed -----------------------------------------------------------------------------------


def go(name: str, run: str, kill_in_write: int) -> None:
    """Begin or resume a run, in a process of its own; kill it inside the n-th write if n > 0."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    if kill_in_write:
        fsync, left = os.fsync, [kill_in_write]

        def cut(descriptor: int) -> None:
            left[0] -= 1
            if left[0] == 0:
                half_written = f"/proc/self/fd/{descriptor}"
                if os.readlink(half_written).endswith(".tmp"):
                    os.truncate(half_written, os.fstat(descriptor).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(descriptor)

        files.os.fsync = cut
    if (Path(run) / "config.json").exists():
        isnas.resume(run)
    else:
        command, options = RUNS[name]
        command(out=run, **options)


def phase_of(run: Path) -> str:
    """Return where a run was when it was killed, by its last whole line of metrics."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    last = json.loads(whole[-1]) if whole else {"part": "search", "epoch": 0}
    if "train" in run.parent.name and last["part"] == "search":
        return "search" if last["epoch"] < TRAIN["search_epochs"] else "fixed"
    return "search" if last["part"] == "search" else "fixed"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_runs_end_as_the_uninterrupted_one(
    name: str, reference: dict[str, Path], tmp_path: Path
) -> None:
    """Each mode is killed at least 12 times, in both phases, at random moments and inside the writing of files."""
    moments = random.Random(f"kill {name}")
    context = multiprocessing.get_context("forkserver")
    # what takes seconds to import; the optimizers import the second
    context.set_forkserver_preload(["isnas", "torch._dynamo"])
    kills: Counter[tuple[str, str]] = Counter()
    wanted = set(itertools.product(("anywhere", "in a write"), ("search", "fixed")))
    for i in range(10):
        run = tmp_path / name / f"run{i}"
        while True:
            where = moments.choice(("anywhere", "in a write"))
            kill_in_write = moments.randint(1, 30) if where == "in a write" else 0
            process = context.Process(target=go, args=(name, str(run), kill_in_write))
            process.start()
            if where == "anywhere":
                process.join(moments.uniform(0.1, 3))
                process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break
            kills[where, phase_of(run)] += 1
        assert process.exitcode == 0
        assert_same_run(reference[name], run)
        if sum(kills.values()) >= 12 and set(kills) == wanted:
            break
    print(f"{name}: {sum(kills.values())} kills in {i + 1} runs: {dict(kills)}")
    assert sum(kills.values()) >= 12
    assert set(kills) == wanted
