"""Files that were damaged, or made to do harm, are read as what they are or refused in one line; nothing else happens.

Every file that isnas reads is altered in many ways, by seed: values too large, of other types, of other lengths, names
missing or unknown, text that is not UTF-8, nests of 100,000 levels, bits and ends. ISNAS_FUZZ=TIMES in the environment
tries so many times as many.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import shutil
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import isnas
from figures import compare as compare_figure
from figures import report
from isnas.comparison.judging import row_form
from isnas.comparison.rows import Rows, read_about, read_rows
from isnas.comparison.table import in_a_line, table_text
from isnas.runs.directory import Run
from isnas.runs.saved import saved_data
from isnas.runtime.errors import UserError
from isnas.tasks.registry import TASKS

TIMES = float(os.environ.get("ISNAS_FUZZ", "1"))
DEEP = "@deep@"
"""Stands for a nest of 100,000 levels in data that are written as JSON."""

SPACE = isnas.DARTS_SPACE


# --- Alterations -----------------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    0.5,
    -1e308,
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\x1b[2J\n\u202e",
    "\ud800",
    "a\0b",
    "y" * 100_000,
    [],
    [1, "a", None],
    {},
    {"a": {"b": [1]}},
    DEEP,
)


def places(data: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in data."""
    yield at
    if isinstance(data, dict):
        for name in data:
            yield from places(data[name], (*at, name))
    elif isinstance(data, (list, tuple)):
        for i in range(min(len(data), 3)):
            yield from places(data[i], (*at, i))


def altered(data: Any, draw: random.Random) -> tuple[str, Any]:
    """Return what was done to data, and the data after it."""
    data = copy.deepcopy(data)
    at = draw.choice([p for p in places(data) if p] or [()])
    if not at:
        return "the whole", draw.choice(VALUES)
    inside = data
    for name in at[:-1]:
        inside = inside[name]
    if isinstance(inside, tuple):
        return "the whole", draw.choice(VALUES)
    last, what = at[-1], draw.choice(("value", "value", "value", "missing", "more", "twice"))
    if what == "missing":
        del inside[last]
    elif what == "more" and isinstance(inside, dict):
        last = draw.choice(("more", "\x1b[31mred\n", "", "z" * 1000))
        inside[last] = draw.choice(VALUES)
    elif what == "twice" and isinstance(inside, list):
        inside.insert(last, inside[last])
    else:
        inside[last] = draw.choice(VALUES)
    return f"{what} at {'.'.join(map(str, at))[:60]}", data


def as_json(data: Any) -> bytes:
    nest = "[" * 100_000 + "]" * 100_000
    return json.dumps(data).replace(json.dumps(DEEP), nest).encode()


def bytes_altered(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return what was done to a file, and its content after it."""
    what = draw.choice(("cut", "bit", "not UTF-8", "empty", "zeros", "twice", "junk"))
    place = draw.randrange(max(len(content), 1))
    if what == "cut":
        return what, content[:place]
    if what == "bit":
        bit = bytes([content[place] ^ (1 << draw.randrange(8))]) if content else b""
        return what, content[:place] + bit + content[place + 1 :]
    if what == "not UTF-8":
        return what, content[:place] + b"\xff\xfe" + content[place:]
    if what == "zeros":
        return what, content[:place] + bytes(50) + content[place:]
    if what == "twice":
        return what, content + content
    return what, b"" if what == "empty" else draw.randbytes(200)


def json_altered(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    if draw.random() < 0.2:
        return bytes_altered(content, draw)
    what, data = altered(json.loads(content), draw)
    return what, as_json(data)


def lines_altered(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    if draw.random() < 0.15:
        return bytes_altered(content, draw)
    lines = content.splitlines(keepends=True)
    i = draw.randrange(len(lines))
    what, data = altered(json.loads(lines[i]), draw)
    lines[i] = as_json(data) + b"\n"
    return f"line {i}: {what}", b"".join(lines)


def arrays_altered(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    if draw.random() < 0.3:
        return bytes_altered(content, draw)
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    name = draw.choice(list(arrays))
    array = arrays[name]
    changes: dict[str, Callable[[], Any]] = {
        "missing": lambda: None,
        "longer": lambda: np.concatenate([np.atleast_1d(array)] * 2),
        "flat": lambda: array.reshape(-1)[:1],
        "deeper": lambda: array[None],
        "empty": lambda: array.reshape(-1)[:0],
        "whole": lambda: np.nan_to_num(array).astype(np.int64),
        "real": lambda: array.astype(float),
        "truth": lambda: array.astype(bool),
        "text": lambda: array.astype(str),
        "complex": lambda: array.astype(complex),
        "negative": lambda: -1 - array.astype(np.int64, casting="unsafe"),
        "huge": lambda: np.full_like(array, 1e300 if array.dtype.kind == "f" else 1),
        "nan": lambda: np.full_like(array, np.nan if array.dtype.kind == "f" else 0),
        "objects": lambda: np.array([{}], dtype=object),
        "other name": lambda: array,
    }
    what = draw.choice(list(changes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = changes[what]()
    del arrays[name]
    if changed is not None:
        arrays["other.z" if what == "other name" else name] = changed
    save = np.savez_compressed if draw.random() < 0.1 else np.savez
    found = io.BytesIO()
    save(found, **arrays)
    return f"{what} {name}", found.getvalue()


class Executed:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def tensors_altered(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    if draw.random() < 0.3:
        return bytes_altered(content, draw)
    data = torch.load(io.BytesIO(content), weights_only=True)
    at = draw.choice([p for p in places(data) if p])
    inside = data
    for name in at[:-1]:
        inside = inside[name]
    value = inside[at[-1]]
    others: list[Any] = [v for v in VALUES if v not in (DEEP, "\ud800")]
    others += [torch.zeros(1).expand(10**6), torch.zeros(2, 3), torch.tensor(5), {1: 2}, Executed()]
    if isinstance(value, torch.Tensor) and draw.random() < 0.7:
        others = [value.flatten()[:1], value[None], value.double(), value.bool(), value.to_sparse()]
    what = "value"
    if draw.random() < 0.2 and isinstance(inside, dict):
        what = "missing"
        del inside[at[-1]]
    elif isinstance(inside, (dict, list)):
        inside[at[-1]] = draw.choice(others)
    found = io.BytesIO()
    torch.save(data, found)
    made = found.getvalue()
    if draw.random() < 0.1:
        what, packed = "compressed", io.BytesIO()
        with (
            zipfile.ZipFile(found) as old,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                new.writestr(name, old.read(name))
        made = packed.getvalue()
    return f"{what} at {'.'.join(map(str, at))[:80]}", made


# --- Readings --------------------------------------------------------------------------------------------------------


def read_record(directory: Path) -> None:
    """Read all that there is to read of a run, but draw nothing."""
    run = isnas.RunRecord(directory)
    assert run.status in ("finished", "running", "broken off")
    _ = run.method, run.measure, run.space, run.genotype, run.checkpoints, run.results
    for part in run.parts:
        run.steps(part)
        run.epochs(part)
        run.genotypes(part)
        assert run.seconds(part).dtype == float
    for code in run.trajectories.values():
        _ = code.concentration, code.replaced, code.frozen_at, code.taken
    report.commands_of(run)


def draw_record(directory: Path) -> None:
    """Make the page of a run."""
    report.page(isnas.RunRecord(directory)).encode(errors="backslashreplace")


def resume(directory: Path) -> None:
    isnas.resume(directory)


def reopen(directory: Path) -> None:
    run, _ = Run.reopen(directory)
    run.close()


def read_network(directory: Path) -> None:
    isnas.load_network(directory / "network.pt")
    data = saved_data(directory / "network.pt")
    TASKS["images"].options_of_saved(data, {})


def read_genotype(directory: Path) -> None:
    isnas.Genotype.load(directory / "genotype.json")


def read_comparison(directory: Path) -> None:
    """Read the rows of a comparison, and make its table."""
    about = read_about(directory)
    assert isinstance(about["settings"], dict)
    with open_rows(directory) as rows:
        table_text(rows.rows, read_about(directory))
        for row in rows.rows:
            in_a_line(row, TASKS["images"])
            assert rows.has(row["method"], row["seed"])


def open_rows(directory: Path) -> Rows:
    launch = json.loads((directory.parent / "launch.json").read_text())
    form = row_form(TASKS["images"].measure)
    return Rows(directory, ("method", "seed"), SETTINGS, launch, form=form)


SETTINGS: dict[str, Any] = {}


def draw_comparison(directory: Path) -> None:
    compare_figure.make_comparison_figure(directory)


def read_other_rows(directory: Path) -> None:
    read_rows(directory)
    read_about(directory)


Reading = Callable[[Path], None]
Alteration = Callable[[bytes, random.Random], tuple[str, bytes]]

RUN_FILES: dict[str, tuple[Alteration, tuple[Reading, ...], int]] = {
    "config.json": (json_altered, (read_record, reopen, resume, draw_record), 40),
    "results.json": (json_altered, (read_record, draw_record, resume), 20),
    "metrics.jsonl": (lines_altered, (read_record, draw_record, reopen), 20),
    "times.jsonl": (lines_altered, (read_record, reopen), 10),
    "codes/000001.npz": (arrays_altered, (read_record, draw_record), 20),
    "codes/matrices.npz": (arrays_altered, (read_record,), 10),
    "genotype.json": (json_altered, (read_record, read_genotype, resume), 20),
    "network.json": (json_altered, (read_network, resume), 30),
    "network.pt": (tensors_altered, (read_network,), 20),
    "checkpoint": (tensors_altered, (reopen,), 30),
}
"""By file of a run: how it is altered, who reads it, and how many alterations are tried."""

COMPARISON_FILES: dict[str, tuple[Alteration, tuple[Reading, ...], int]] = {
    "rows.jsonl": (lines_altered, (read_comparison, read_other_rows, draw_comparison), 30),
    "about.json": (json_altered, (read_comparison, read_other_rows, draw_comparison), 20),
}

SLOW = (draw_record, draw_comparison, resume)
"""Readings of a second, of which fewer are done."""

WRITING = (reopen, resume, read_comparison)
"""Readings that also write."""


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a comparison with a row of each kind; its launch is beside it."""
    directory = tmp_path_factory.mktemp("comparison") / "made"
    done = isnas.compare(
        methods=("random",),
        seeds=1,
        budget="1epochs",
        sampled=3,
        channels=2,
        cells=3,
        evaluation_epochs=1,
        child_epochs=1,
        batch_size=256,
        evaluation_batch_size=256,
        device="cpu",
        out=directory,
    )
    row = {**done.rows[0], "method": "darts-1", "error": "train_loss is not a number"}
    with open(directory / "rows.jsonl", "a") as file:
        file.write(json.dumps({name: row[name] for name in ("method", "seed", "error")}) + "\n")
    about = json.loads((directory / "about.json").read_text())
    (directory.parent / "launch.json").write_text(json.dumps(about["launches"][0]))
    SETTINGS.update(about["settings"])
    return directory


def outcome_of(reading: Reading, directory: Path) -> str:
    """Return what is wrong with how a file was read; nothing where it was read or refused as it should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # what is said when a checkpoint is damaged and another is there, or versions differ
        warnings.filterwarnings("ignore", message=".*going on from|the run was begun with")
        try:
            reading(directory)
        except UserError as error:
            text = str(error)
            if not text.isprintable():
                return f"not printable: {text!r}"
            if len(text) > 300:
                return f"{len(text)} letters: {text[:100]}"
            if "weights_only" in text or "unsafe" in text:
                return f"advice: {text}"
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__}: {str(error)[:150]!r} ({Path(frame.filename).name}:{frame.lineno})"
    return ""


def fuzz(
    name: str,
    original: Path,
    path: str,
    how: tuple[Alteration, tuple[Reading, ...], int],
    tmp_path: Path,
) -> tuple[int, list[str]]:
    """Alter a file again and again; return how often it was read, and what went wrong."""
    alter, readings, number = how
    draw = random.Random(f"{name} {path}")
    content = (original / path).read_bytes()
    copied = tmp_path / "copy"
    tried, wrong, fresh = 0, [], False
    for _ in range(round(TIMES * number)):
        what, changed = alter(content, draw)
        for reading in readings:
            if reading in SLOW and draw.random() > 0.05:
                continue
            if not fresh:
                shutil.rmtree(tmp_path, ignore_errors=True)
                shutil.copytree(original.parent, tmp_path)
                (tmp_path / original.name).rename(copied)
            fresh = reading not in WRITING
            (copied / path).write_bytes(changed)
            tried += 1
            if problem := outcome_of(reading, copied):
                wrong.append(f"{path}, {what}, {reading.__name__}: {problem}")
    shutil.rmtree(tmp_path)
    return tried, wrong


def test_altered_files_are_read_or_refused(
    train_run: Path,
    search_run: Path,
    comparison: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    work = [(name, train_run, how) for name, how in RUN_FILES.items()]
    work += [(name, comparison, how) for name, how in COMPARISON_FILES.items()]
    tried: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    everything: list[str] = []
    for name, original, how in work:
        path = name
        if name == "checkpoint":
            path = str(sorted((original / "checkpoints").iterdir())[-1].relative_to(original))
        tried[name], wrong = fuzz(name, original, path, how, tmp_path / "work")
        failed[name] = len(wrong)
        everything += wrong
    print(
        f"{sum(failed.values())} of {sum(tried.values())} readings of altered files failed: "
        + ", ".join(f"{name} {failed[name]} of {tried[name]}" for name in tried)
    )
    assert not (tmp_path / "executed").exists()
    assert not everything, "\n".join(everything[:40])


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "times.jsonl", "lock", "config.json", "codes", "checkpoints"]
)
def test_links_in_a_run_are_not_followed(name: str, train_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(train_run, tmp_path / "run")
    outside = tmp_path / "outside"
    shutil.copytree(run, outside)
    path = run / name
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.symlink_to(outside / name)
    before = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="symbolic link") as caught:
        isnas.resume(run)
    assert name in str(caught.value)
    assert {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()} == before


WRONG: dict[str, dict[str, tuple[Any, ...]]] = {
    "config.json": {
        "command": (3, [], None, ""),
        "options": ([], "x", None),
        "format": ("2", [2], -1),
        "method": (3, []),
        "space": ("darts", []),
        "data": ("digits", [1]),
        "data.train": (-1, 1.5, "8"),
        "data.classes": ("ab", [1]),
        "data.mean": (0.5, ["a"]),
        "data.size": ([], [0, 1, 1], "8"),
        "parts": ("found", [1]),
        "processes": (0, True, "1"),
        "threads": (0, 1.0),
        "versions": ([], {"torch": 2}),
        "started": (3,),
    },
    "results.json": {
        "": ([], None, 3),
        "search": ([], None, 3),
        "search.test_accuracy": ([0.5], "0.5", 1.5, -0.1, None, True),
        "search.parameters": (1.5, "8", -1),
        "search.multiply_adds": ([], True),
        "search.genotype": ([], 3),
    },
    "metrics.jsonl": {
        "part": (3, "", None),
        "epoch": (0.5, "0", -1, True),
        "step": (0.5, [0]),
        "train_loss": ([1.0], "1", 1e300),
        "train_accuracy": (1.5, [0.5], {"a": 1}),
    },
    "times.jsonl": {"part": (3,), "epoch": ("0",), "seconds": ("1", -1, [1])},
    "network.json": {"genotype": ("x", []), "options": ([],), "data": ([],), "data.std": ("x",)},
    "genotype.json": {"space": (3, {"name": 3}), "cells": (3, [], {"normal": 3})},
    "checkpoint": {
        "stage": (-1, "", "other", []),
        "number": (0, "1", 7),
        "seconds": ("1", -1, []),
        "results": ([], {"other": {}}, {"search": []}),
        "recoveries": (-1, 0.5),
        "sizes": ({}, {"metrics": -1, "times": 0}),
        "state": ([], {"stage": {}, "sums": {}}),
    },
    "rows.jsonl": {
        "method": (3, "", None),
        "seed": ("0", 0.5, -1),
        "test_accuracy": ([0.5], "0.5", 1.5, True),
        "parameters": ("8", -1),
        "seconds": ([], -1, "1"),
    },
    "about.json": {
        "settings": ([], None),
        "launches": ({}, [3]),
        "launches.0.command": (3, []),
        "launches.0.versions": ([], {"torch": 2}),
        "launches.0.machine": ([],),
    },
}
"""By file and place in it, values of another type or size than they can be."""

READERS: dict[str, Reading] = {
    "network.json": read_network,
    "checkpoint": reopen,
    "genotype.json": read_genotype,
    "rows.jsonl": lambda directory: open_rows(directory).__exit__(),
    "about.json": read_other_rows,
}


@pytest.mark.parametrize("name", WRONG)
def test_values_of_wrong_types_are_refused(
    name: str, train_run: Path, comparison: Path, tmp_path: Path
) -> None:
    original = comparison if name in COMPARISON_FILES else train_run
    shutil.copytree(original.parent, tmp_path / "all")
    directory = tmp_path / "all" / original.name
    path = directory / name
    if name == "checkpoint":
        path, *others = sorted((directory / "checkpoints").iterdir(), reverse=True)
        for other in others:
            other.unlink()
    content = path.read_bytes()
    accepted = []
    for place, values in WRONG[name].items():
        for value in values:
            path.write_bytes(with_value(name, content, place, value))
            try:
                READERS.get(name, read_record)(directory)
            except UserError as error:
                assert str(error).isprintable() and len(str(error)) <= 300
            else:
                accepted.append(f"{place} = {value!r}")
    assert not accepted, f"{name}: {', '.join(accepted)}"


def with_value(name: str, content: bytes, place: str, value: Any) -> bytes:
    """Return a file with a value in a place; of lines, the last that has it."""
    lines: list[Any] = []
    if name == "checkpoint":
        whole = torch.load(io.BytesIO(content), weights_only=True)
    elif name.endswith("jsonl"):
        lines = [json.loads(line) for line in content.splitlines()]
        whole = next(line for line in reversed(lines) if place in line)
    else:
        whole = json.loads(content)
    inside, names = whole, [int(n) if n.isdecimal() else n for n in place.split(".") if n]
    for each in names[:-1]:
        inside = inside[each]
    if names:
        inside[names[-1]] = value
    else:
        whole = value
    if name == "checkpoint":
        found = io.BytesIO()
        torch.save(whole, found)
        return found.getvalue()
    return b"".join(as_json(each) + b"\n" for each in lines or [whole])
