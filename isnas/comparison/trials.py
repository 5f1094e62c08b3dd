"""Trials of an experiment: what has no row yet is run, side by side if wanted, and recorded as soon as it is done.

    with Rows(out, ("method", "seed"), settings, launch) as rows:
        run_trials(rows, run_trial, [("darts", 0, options), ...], table=table_text, jobs=2)

Trials go through joblib; inside `joblib.parallel_config` another backend, such as Ray's or Dask's, takes them to a
cluster. A trial that is a whole run has a run directory of its own, and goes on in it (`run_or_resume`, `run_part`).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib

from ..commands import SPACE, RunResult, resume
from ..runs.directory import Run
from ..runs.loop import Part, execute
from ..runs.options import RunOptions
from ..runs.records import RunRecord
from ..runs.training import cpu_threads
from ..runtime.errors import UserError
from ..runtime.files import write_atomically
from ..runtime.progress import Progress
from .rows import Rows, read_about

TABLE = "table.md"

Row = dict[str, Any]

# what does not make it another run
_INCIDENTAL = ("device", "data_root", "download", "tensorboard", "checkpoint_steps")


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
    for done, result in enumerate(_results(function, missing, jobs), 1):
        row = result if finish is None else finish(result)
        rows.append(row)
        write_atomically(directory / TABLE, table(rows.rows, about))
        if describe is not None:
            progress.say(f"{done}/{len(missing)}  {describe(row)}")
    if rows.rows and not missing:  # the text may be another than when the rows were written
        write_atomically(directory / TABLE, table(rows.rows, about))


def _results(
    function: Callable[..., Row], trials: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[Row]:
    """Yield the rows as they are done; where joblib's backend cannot (Ray's), those of `jobs` trials together."""
    calls = [joblib.delayed(function)(*trial) for trial in trials]
    backend, _ = joblib.parallel.get_active_backend()
    if backend.supports_return_generator:
        yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(
            calls
        )
        return
    for start in range(0, len(calls), jobs):
        yield from joblib.Parallel(n_jobs=jobs, batch_size=1)(calls[start : start + jobs])


def run_or_resume(start: Callable[..., RunResult], *arguments: Any, out: str | Path) -> RunResult:
    """Start a run in `out`, or go on with the one that is there; one that is finished is only read.

    Parameters
    ----------
    start : callable
        `isnas.search`, `isnas.train` or `isnas.evaluate`.
    *arguments
        Its arguments but for ``out``, the options among them.
    out : path
        The run directory. One in which no run has begun yet is made anew.

    Raises
    ------
    UserError
        When the run that is there has other options.
    """
    out = Path(out)
    if (out / "config.json").exists():
        options = next(each for each in arguments if isinstance(each, RunOptions))
        _check_same(RunRecord(out), options)
        return resume(out, device=options.device)
    shutil.rmtree(out, ignore_errors=True)
    return start(*arguments, out=out)


def run_part(options: RunOptions, part: Part, out: str | Path, *, command: str) -> dict[str, Any]:
    """Do one part of work in a run directory, or go on with it there, and return its results.

    It is for stages that no command has: searches beside that of `isnas.search`, or with other data.

    Parameters
    ----------
    options : RunOptions
        Kept in the record; ``threads`` are used, 0 as 1.
    part : Part
    out : path
        The run directory. One in which no run has begun yet is made anew.
    command : str
        What the record calls this.

    Raises
    ------
    UserError
        When the run that is there has other options.
    """
    out = Path(out)
    if (out / "config.json").exists():
        _check_same(RunRecord(out), options)
        run, checkpoint = Run.reopen(out)
    else:
        shutil.rmtree(out, ignore_errors=True)
        extra = {"space": dataclasses.asdict(SPACE), "parts": [part.name]}
        run, checkpoint = Run.create(out, command, options, extra), None
    with run, cpu_threads(options.threads or 1):
        results = execute(
            run, [part], checkpoint=checkpoint, checkpoint_steps=options.checkpoint_steps
        )
    return results[part.name]


def _check_same(record: RunRecord, options: RunOptions) -> None:
    wanted = json.loads(json.dumps(options.to_json()))
    for name, value in wanted.items():
        if name not in _INCIDENTAL and record.options.get(name) != value:
            raise UserError(
                f"{record.directory} holds a run with {name} = {record.options.get(name)!r}, not {value!r}: move it "
                f"away, or choose another directory"
            )
