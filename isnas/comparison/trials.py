"""Trials of an experiment: what has no row yet is run, side by side if wanted, and recorded as soon as it is done.

    with Rows(out, ("method", "seed"), settings, launch) as rows:
        run_trials(rows, run_trial, [("darts", 0, options), ...], table=table_text, jobs=2)

Trials run where joblib would run them: inside `joblib.parallel_config` with the backend of Dask or Ray, on a cluster.
A trial that is a whole run has a run directory of its own, and goes on in it (`run_or_resume`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..commands import RunResult, resume
from ..commands.resume import job_of
from ..commands.run import Job, start
from ..runs.content import CONFIG
from ..runs.directory import CONFIG_FILE, Follower
from ..runtime.errors import UserError
from ..runtime.files import Folder
from ..runtime.progress import Progress
from .clusters import WorkerDied, active_pool
from .rows import DIED, Rows, read_about

TABLE = "table.md"

Row = dict[str, Any]
TableText = Callable[[Sequence[Row], dict[str, Any]], str]


def run_trials(
    rows: Rows,
    function: Callable[..., Row],
    trials: Sequence[tuple[Any, ...]],
    *,
    table: TableText,
    finish: Callable[[Row], Row] | None = None,
    describe: Callable[[Row], str] | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> None:
    """Run the trials that have no row yet, and write table.md after every row.

    Parameters
    ----------
    rows : Rows
        Open.
    function : callable
        Runs a trial in whatever process and returns its row. It must be found by name in its module.
    trials : sequence of tuple
        The arguments of `function`; the first ones are the trial's key, in the order of ``rows.key``.
    table : callable
        Makes the text of table.md from the rows and the content of about.json.
    finish : callable, optional
        Completes a row, in this process.
    describe : callable, optional
        Says in a line what a row shows.
    jobs : int
        Trials at a time.
    progress : Progress, optional
    """
    progress = progress or Progress(quiet=True)
    about = read_about(rows.folder.path)
    width = len(rows.key)
    missing = [trial for trial in trials if not rows.has(*trial[:width])]
    if len(missing) < len(trials):
        progress.say(f"{len(trials) - len(missing)} of {len(trials)} trials are done already")
    for done, result in enumerate(side_by_side(function, missing, jobs), 1):
        if isinstance(result, Death):
            rows.append_death(result.trial[:width], result.reason)
            said = _of_death(rows.died[-1])
        else:
            row = result if finish is None else finish(result)
            rows.append(row)
            said = describe(row) if describe is not None else ""
        rows.folder.write(TABLE, table_of(rows, table, about))
        if said:
            progress.say(f"{done}/{len(missing)}  {said}")
    if rows.rows and not missing:  # the text may be another than when the rows were written
        rows.folder.write(TABLE, table_of(rows, table, about))


def table_of(rows: Rows, table: TableText, about: dict[str, Any] | None = None) -> str:
    """Return the text of table.md: the table of the rows, and the trials whose process died.

    Parameters
    ----------
    rows : Rows
    table : callable
        Makes the table from the rows and the content of about.json.
    about : dict, optional
        That content; by default it is read.
    """
    about = read_about(rows.folder.path) if about is None else about
    died = {tuple(row[name] for name in rows.key): row for row in rows.died}
    lines = [f"- {_of_death(row)}\n" for key, row in died.items() if not rows.has(*key)]
    text = table(rows.rows, about) if rows.rows else ""
    if not lines:
        return text
    head = "Trials whose process died (the same command tries them again):\n\n"
    return f"{text}\n{head}{''.join(lines)}"


def _of_death(row: Row) -> str:
    key = ", ".join(f"{name} {value}" for name, value in row.items() if name != DIED)
    return f"{key}: {row[DIED]}"


@dataclass(frozen=True)
class Death:
    """The process of a trial died before it had a result.

    Parameters
    ----------
    trial : tuple
    reason : str
    """

    trial: tuple[Any, ...]
    reason: str


def side_by_side(
    function: Callable[..., Row], trials: Iterable[tuple[Any, ...]], jobs: int
) -> Iterator[Row | Death]:
    """Yield the rows as they are done, and a `Death` for each trial whose process or worker died.

    A trial is taken from `trials` when there is a place for it, not before: they can come to an end early.

    Raises
    ------
    UserError
        When a cluster is gone.
    """
    pool = active_pool(jobs)
    if pool is None:
        yield from (function(*trial) for trial in trials)
        return
    waiting = iter(trials)
    running: dict[Future[Row], tuple[Any, ...]] = {}
    with pool:
        while True:
            for trial in itertools.islice(waiting, max(pool.places() - len(running), 0)):
                running[pool.submit(function, *trial)] = trial
            if not running:
                return
            done, _ = wait(running, timeout=pool.interval, return_when=FIRST_COMPLETED)
            for future in done:
                trial = running.pop(future)
                try:
                    yield pool.result(future)
                except WorkerDied as error:
                    yield Death(trial, str(error))


def run_or_resume(job: Job, out: str | Path, progress: Progress | None = None) -> RunResult:
    """Start a job in `out`, or go on with the run that is there; one that is finished is only read.

    Parameters
    ----------
    job : Job
        See `isnas.commands.search.search_job` and `isnas.commands.evaluate.evaluation_job`.
    out : path
        The run directory; also one that a run has left which was killed before it had begun.
    progress : Progress, optional

    Raises
    ------
    UserError
        When the run that is there has other options.
    """
    folder = Folder(out)
    if folder.size(CONFIG_FILE) is None:
        return start(job, out, progress)
    check_same(job, out)
    return resume(out, device=job.options.runtime.device, progress=progress, parts=job.parts)


def check_same(job: Job, out: str | Path) -> None:
    """Raise a `UserError` when there is a run in `out` that is not this job's."""
    folder = Folder(out)
    if folder.size(CONFIG_FILE) is None:
        return
    there = job_of(Follower(folder.path, folder.read_json(CONFIG_FILE, CONFIG), {}))
    for name, wanted, found in (
        ("command", job.command, there.command),
        ("space", job.space, there.space),
        *((name, job.record.get(name), there.record.get(name)) for name in job.record),
        *((name, None, there.record[name]) for name in there.record if name not in job.record),
    ):
        if found != wanted:
            raise UserError(
                f"{out} holds a run of another {name}: move it away, or choose another directory"
            )
    wanted, found = job.options.to_json(), there.options.to_json()
    incidental = job.options.incidental()
    for name, value in wanted.items():
        if name not in incidental and not _same(found.get(name), value):
            raise UserError(
                f"{out} holds a run with {name} = {found.get(name)!r}, not {value!r}: move it away, or choose another "
                f"directory"
            )


def _same(one: Any, other: Any) -> bool:
    """Return whether two values of an option are equal, or name one file or folder in two ways."""
    if one == other:
        return True
    try:
        return os.path.samefile(*(os.path.expanduser(value) for value in (one, other)))
    except (TypeError, ValueError, OSError):
        return False
