"""Trials of an experiment: what has no row yet is run, side by side if wanted, and recorded as soon as it is done.

    with Rows(out, ("method", "seed"), settings, launch) as rows:
        run_trials(rows, run_trial, [("darts", 0, options), ...], table=table_text, jobs=2)

Trials go through joblib; inside `joblib.parallel_config` another backend, such as Ray's or Dask's, takes them to a
cluster. A trial that is a whole run has a run directory of its own, and goes on in it (`run_or_resume`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..commands import RunResult, resume
from ..commands.resume import job_of
from ..commands.run import Job, start
from ..runs.directory import Follower
from ..runtime.errors import UserError
from ..runtime.files import read_json, write_atomically
from ..runtime.progress import Progress
from .rows import Rows, read_about

TABLE = "table.md"

Row = dict[str, Any]


def run_trials(
    rows: Rows,
    function: Callable[..., Row],
    trials: Sequence[tuple[Any, ...]],
    *,
    table: Callable[[Sequence[Row], dict[str, Any]], str],
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
    directory = rows.path.parent
    about = read_about(directory)
    width = len(rows.key)
    missing = [trial for trial in trials if not rows.has(*trial[:width])]
    if len(missing) < len(trials):
        progress.say(f"{len(trials) - len(missing)} of {len(trials)} trials are done already")
    for done, result in enumerate(side_by_side(function, missing, jobs), 1):
        row = result if finish is None else finish(result)
        rows.append(row)
        write_atomically(directory / TABLE, table(rows.rows, about))
        if describe is not None:
            progress.say(f"{done}/{len(missing)}  {describe(row)}")
    if rows.rows and not missing:  # the text may be another than when the rows were written
        write_atomically(directory / TABLE, table(rows.rows, about))


def side_by_side(
    function: Callable[..., Row], trials: Iterable[tuple[Any, ...]], jobs: int
) -> Iterator[Row]:
    """Yield the rows as they are done; where joblib's backend cannot (Ray's), those of `jobs` trials together.

    A trial is taken from `trials` when there is a place for it, not before: they can come to an end early.
    """
    import joblib

    calls = (joblib.delayed(function)(*trial) for trial in trials)
    backend, _ = joblib.parallel.get_active_backend()
    if backend.supports_return_generator:
        yield from joblib.Parallel(
            n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch=jobs
        )(calls)
        return
    calls = list(calls)
    for first in range(0, len(calls), jobs):
        yield from joblib.Parallel(n_jobs=jobs, batch_size=1)(calls[first : first + jobs])


def run_or_resume(job: Job, out: str | Path, progress: Progress | None = None) -> RunResult:
    """Start a job in `out`, or go on with the run that is there; one that is finished is only read.

    Parameters
    ----------
    job : Job
        See `isnas.commands.search.search_job` and `isnas.commands.evaluate.evaluation_job`.
    out : path
        The run directory. One in which no run has begun yet is made anew.
    progress : Progress, optional

    Raises
    ------
    UserError
        When the run that is there has other options.
    """
    out = Path(out)
    if not (out / "config.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        return start(job, out, progress)
    check_same(job, out)
    return resume(out, device=job.options.runtime.device, progress=progress, parts=job.parts)


def check_same(job: Job, out: Path) -> None:
    """Raise a `UserError` when there is a run in `out` that is not this job's."""
    if not (out / "config.json").exists():
        return
    there = job_of(Follower(out, read_json(out / "config.json"), {}))
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
        if name not in incidental and found.get(name) != value:
            raise UserError(
                f"{out} holds a run with {name} = {found.get(name)!r}, not {value!r}: move it away, or choose another "
                f"directory"
            )
