"""A process that is killed at any file operation leaves what the same command, or `resume`, goes on from.

What a kill leaves is what the directory holds just before an operation, so one run shows all of it. An append may have
been cut in the middle, too.
"""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import isnas
from isnas.comparison.rows import read_rows
from isnas.runs.directory import Run
from isnas.runtime.options import Schema

OPERATIONS = ("open", "replace", "rename", "mkdir", "unlink", "remove", "rmdir", "fsync")
"""Functions of `os` before which the directory is looked at, beside the built-in `open`."""

State = dict[str, bytes | None]
"""The content of a directory by path: of files their bytes, of folders None. A directory that is not there: none."""

TINY: dict[str, Any] = {"channels": 2, "cells": 3, "batch_size": 4, "device": "cpu"}
GENOTYPE = "ISTA_onestage"


def state_of(directory: Path) -> State:
    return {
        str(path.relative_to(directory.parent)): path.read_bytes() if path.is_file() else None
        for path in sorted([directory, *directory.rglob("*")])
        if path.exists()
    }


@contextmanager
def watched(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[State]]:
    """Yield a list that gets every state of a directory before an operation on whatever file."""
    states: list[State] = [state_of(directory)]
    looking = False

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def observed(*arguments: Any, **named: Any) -> Any:
            nonlocal looking
            if not looking:
                looking = True
                now = state_of(directory)
                looking = False
                if now != states[-1]:
                    states.append(now)
            return function(*arguments, **named)

        return observed

    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, before(getattr(os, name)))
        patch.setattr(builtins, "open", before(builtins.open))
        yield states
    if (last := state_of(directory)) != states[-1]:
        states.append(last)


def torn(states: list[State]) -> Iterator[State]:
    """Yield the states, and between two of them those in which an append was cut in the middle."""
    for before, after in pairwise(states):
        yield before
        for name, content in after.items():
            old = before.get(name)
            if content and old is not None and content != old and content.startswith(old):
                yield {**before, name: content[: (len(old) + len(content)) // 2]}
    yield states[-1]


def put(state: State, parent: Path) -> None:
    for name, content in state.items():
        if content is None:
            (parent / name).mkdir()
        else:
            (parent / name).write_bytes(content)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder of a few images of 4 x 4 pixels."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in "ab":
            (folder / part / label).mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{i}.png")
    return str(folder)


Command = Callable[[Path], Any]


def train(images: str) -> Command:
    return lambda out: isnas.train(data=images, out=out, search_epochs=2, epochs=1, **TINY)


def search(images: str) -> Command:
    options = {"epochs": 1, "evaluation_epochs": 1, "random_architectures": 1}
    return lambda out: isnas.search(
        data=images, out=out, evaluation_batch_size=4, **options, **TINY
    )


def evaluate(images: str) -> Command:
    return lambda out: isnas.evaluate(GENOTYPE, data=images, out=out, epochs=2, **TINY)


RUNS = {"train": train, "search": search, "evaluate": evaluate}


def accepted(directory: Path, command: Command) -> None:
    """Check that a run directory can be gone on with, without doing it."""
    if (directory / "config.json").exists():
        assert isnas.RunRecord(directory).status in ("broken off", "finished")
        run, _ = Run.reopen(directory)
        run.close()
    else:
        if directory.exists() and any(directory.iterdir()):
            with pytest.raises(isnas.UserError, match="start it again by the same command"):
                isnas.resume(directory)
        Run.create(directory, "train", Schema({}).compose()).close()
    assert not list(directory.rglob(".*"))
    for name in ("metrics.jsonl", "times.jsonl"):
        for line in (directory / name).read_bytes().splitlines():
            json.loads(line)


def finished(directory: Path, command: Command, reference: State) -> None:
    """Go on with a run, and check that it ends as the one that was not interrupted."""
    if (directory / "config.json").exists():
        isnas.resume(directory)
    else:
        command(directory)
    found = state_of(directory)
    name = f"{directory.name}/metrics.jsonl"
    assert set(found) == set(reference)
    assert found[name] == reference[name]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "evaluate")) for name in RUNS]
)
def test_a_run_killed_anywhere_is_accepted(
    name: str, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = RUNS[name](images)
    (tmp_path / "made").mkdir()
    with watched(tmp_path / "made" / "run", monkeypatch) as states:
        command(tmp_path / "made" / "run")
    assert len(states) > 30
    every = list(torn(states))
    for number, state in enumerate(every):
        parent = tmp_path / str(number)
        parent.mkdir()
        put(state, parent)
        try:
            accepted(parent / "run", command)
        except Exception as error:
            raise AssertionError(f"after {number} of {len(every)} operations: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(
    name: str, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = RUNS[name](images)
    (tmp_path / "made").mkdir()
    with watched(tmp_path / "made" / "run", monkeypatch) as states:
        command(tmp_path / "made" / "run")
    every = list(torn(states))
    for number in range(0, len(every), 5 if name == "train" else 11):
        parent = tmp_path / str(number)
        parent.mkdir()
        put(every[number], parent)
        finished(parent / "run", command, states[-1])


def test_a_resumed_run_killed_anywhere_is_accepted(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = evaluate(images)
    (tmp_path / "made").mkdir()
    run = tmp_path / "made" / "run"
    with watched(run, monkeypatch) as states:
        command(run)
    # in the middle of an epoch's line, with a file that was being written
    state = [s for s in torn(states) if "run/checkpoints/00000001.pt" in s][3]
    (tmp_path / "cut").mkdir()
    put({**state, "run/.metrics.jsonl.tmp": b"half"}, tmp_path / "cut")
    with watched(tmp_path / "cut" / "run", monkeypatch) as again:
        isnas.resume(tmp_path / "cut" / "run")
    assert set(again[-1]) == set(states[-1])
    assert again[-1]["run/metrics.jsonl"] == states[-1]["run/metrics.jsonl"]
    for number, state in enumerate(torn(again)):
        parent = tmp_path / str(number)
        parent.mkdir()
        put(state, parent)
        accepted(parent / "run", command)


def test_a_mistake_that_shows_late_leaves_what_the_same_command_takes(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is killed while it removes what it has written."""

    def fail(*_: Any, **__: Any) -> None:
        raise isnas.UserError("a mistake that shows late")

    monkeypatch.setattr(import_module("isnas.commands.evaluate"), "from_scratch", fail)
    (tmp_path / "made").mkdir()
    with (
        watched(tmp_path / "made" / "run", monkeypatch) as states,
        pytest.raises(isnas.UserError, match="shows late"),
    ):
        evaluate(images)(tmp_path / "made" / "run")
    assert states[-1] == {}
    assert len(states) > 10
    for number, state in enumerate(states):
        parent = tmp_path / str(number)
        parent.mkdir()
        put(state, parent)
        accepted(parent / "run", evaluate(images))


def test_a_comparison_killed_anywhere_goes_on_by_the_same_command(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def trial(method: str, seed: int, *_: Any) -> dict[str, Any]:
        done.append(seed)
        return {"method": method, "seed": seed, "error": "it did not learn"}

    monkeypatch.setattr("isnas.comparison.compare.run_trial", trial)

    def command(out: Path) -> isnas.Comparison:
        return isnas.compare(
            methods=("random",), seeds=2, sampled=0, hand_made=False, budget="2epochs", data=images,
            out=out,
            channels=2, cells=3, batch_size=4, device="cpu", evaluation_batch_size=4,
        )  # fmt: skip

    (tmp_path / "made").mkdir()
    with watched(tmp_path / "made" / "run", monkeypatch) as states:
        command(tmp_path / "made" / "run")
    assert len(states) > 10
    for number, state in enumerate(torn(states)):
        parent = tmp_path / str(number)
        parent.mkdir()
        put(state, parent)
        done.clear()
        whole = (state.get("run/rows.jsonl") or b"").count(b"\n")
        result = command(parent / "run")
        assert len(result.rows) == len(read_rows(parent / "run")) == 2
        assert len(done) == 2 - whole
        assert set(state_of(parent / "run")) == set(states[-1])
        assert "it did not learn" in (parent / "run" / "table.md").read_text()
