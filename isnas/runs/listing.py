"""List the runs below a directory: a few small reads for each, and none that a damaged run could stop."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..runtime.errors import UserError
from ..runtime.forms import check
from ..tasks.base import Measure
from .content import METRICS
from .directory import LOCK
from .records import RunRecord

DEEPEST = 4
"""Directories are looked for so many levels below the one given."""

LARGEST = 32 * 2**20
"""Bytes of a JSON file of a run; one that is larger is none of a run's."""

TAIL = 2**16
"""Bytes at the end of metrics.jsonl that are read for the last epoch."""

State = Literal["finished", "interrupted", "running", "damaged"]

LIST_ERRORS = (UserError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""The errors that reading a damaged directory may raise."""


@dataclass(frozen=True)
class Listed:
    """One run, as far as it can be read.

    Attributes
    ----------
    path : str
    state : {"finished", "interrupted", "running", "damaged"}
    command, space, method : str or None
    part : str or None
        The part of the run that last wrote metrics.
    epoch : int or None
        Epochs of this part that are done.
    epochs : int or None
        Epochs that the run was to take, where its options say so of this part.
    result : dict
        Results of tests by part.
    shown : str
        The main one, for people.
    seconds_ago : float
        Since something was last written.
    problem : str
        The damage, if there is any.
    """

    path: str
    state: State
    command: str | None = None
    space: str | None = None
    method: str | None = None
    part: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    result: dict[str, float] | None = None
    shown: str = ""
    seconds_ago: float = 0.0
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def list_runs(directory: str | Path) -> list[Listed]:
    """Return the runs in a directory and below it, the one written to last first.

    Links to directories are not followed. Nothing is written, and no checkpoint or network is opened.

    Raises
    ------
    UserError
        When there is no such directory, or it cannot be read.
    """
    place = Path(directory)
    try:
        with os.scandir(place):
            pass
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}") from None
    now = time.time()
    found = [_listed(path, now) for path in _run_directories(place, DEEPEST)]
    return sorted(found, key=lambda run: (run.seconds_ago, run.path))


def _run_directories(place: Path, levels: int) -> Iterator[Path]:
    """Yield the directories that hold a config.json; what is in these is not looked at."""
    try:
        with os.scandir(place) as entries:
            names = {entry.name: entry for entry in entries}
    except OSError:  # forbidden, or removed meanwhile
        return
    if "config.json" in names:
        yield place
        return
    if levels == 0:
        return
    for name in sorted(names):
        try:
            inside = names[name].is_dir(follow_symlinks=False)
        except OSError:
            continue
        if inside and not name.startswith("."):
            yield from _run_directories(place / name, levels - 1)


def _listed(path: Path, now: float) -> Listed:
    """Return what can be said of a run directory."""
    seconds = max(0.0, now - _last_written(path))
    facts: dict[str, Any] = {}
    try:
        for name in ("config.json", "results.json"):
            _check_plain(path / name, LARGEST)
        run = RunRecord(path)
        facts["command"] = run.command
        facts["method"] = run.method
        facts["space"] = run.space.name
        measure = run.measure
        facts["result"] = _tests(run, measure)
        facts["shown"] = _main_result(facts["result"], measure)
        facts |= _last_epoch(path, run)
        _check_plain(path / LOCK, LARGEST)
        states: dict[str, State] = {"finished": "finished", "running": "running"}
        state = states.get(run.status, "interrupted")
        return Listed(str(path), state, seconds_ago=seconds, **facts)
    except LIST_ERRORS as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        return Listed(str(path), "damaged", seconds_ago=seconds, problem=problem[:300], **facts)


def _check_plain(path: Path, most: int) -> None:
    """Raise a `UserError` unless a file is missing, or an ordinary one of a sensible size: others may never end."""
    try:
        about = os.lstat(path)  # a link leads to what is not the run's
    except FileNotFoundError:
        return
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{path} is no ordinary file")
    if about.st_size > most:
        raise UserError(f"{path} has {about.st_size:,} bytes, too many for a run")


def _last_written(path: Path) -> float:
    """Return when a run last wrote something, in seconds since 1970."""
    times = []
    for name in ("metrics.jsonl", "results.json", "config.json"):
        try:
            times.append(os.stat(path / name).st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def _tests(run: RunRecord, measure: Measure) -> dict[str, float]:
    name = f"test_{measure.name}"
    found = {}
    for part, result in run.results.items():
        value = result.get(name)
        if isinstance(value, (int, float)):
            found[part] = float(value)
    return found


def _main_result(tests: dict[str, float], measure: Measure) -> str:
    """Return the test of what was found or evaluated, as people read it; with how the search's own network did."""
    for part in ("found", "evaluate", "search"):
        if part in tests:
            return f"{measure.name} {measure.show(tests[part])}"
    return ""


def _last_epoch(path: Path, run: RunRecord) -> dict[str, Any]:
    """Return part, epoch and epochs of the last whole line of metrics.jsonl."""
    metrics = path / "metrics.jsonl"
    _check_plain(metrics, 2**60)
    try:
        with open(metrics, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.read(TAIL).split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    if not lines:
        return {}
    where = f"{metrics}, last line"
    try:
        last = json.loads(lines[-1])
    except (ValueError, RecursionError):
        raise UserError(f"{where} is no valid JSON") from None
    check(last, METRICS, where)
    part, epoch = last["part"], last["epoch"]
    done = epoch if "step" in last else epoch + 1
    planned = run.options.get("epochs" if part in ("search", "evaluate") else "evaluation_epochs")
    # a one-stage search goes on with so many epochs once it has found something
    known = isinstance(planned, int) and "search_epochs" not in run.options
    return {"part": part, "epoch": done, "epochs": planned if known else None}


def table_of(runs: list[Listed]) -> list[str]:
    """Return runs as the lines of a table for people."""
    rows = [("run", "state", "command", "space", "method", "epoch", "result", "age")]
    for run in runs:
        epoch = ""
        if run.epoch is not None:
            epoch = f"{run.part} {run.epoch}" + (f"/{run.epochs}" if run.epochs else "")
        rows.append(
            (
                _line(run.path),
                run.state,
                _line(run.command or "?"),
                _line(run.space or "?"),
                _line(run.method or "?"),
                _line(epoch),
                run.shown or (_line(run.problem) if run.problem else ""),
                age(run.seconds_ago),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[6] = min(widths[6], 60)
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _line(text: str) -> str:
    """Return a text without what would break a line or command a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def age(seconds: float) -> str:
    """Return a time as people say it: ``45 s``, ``12 min``, ``3 h``, ``8 days``."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.0f} days"
