"""One run with several seeds: a run directory for each, side by side if wanted, and what they come to together.

    DIR/seed-0, seed-1, ...   run directories
    DIR/seeds.json            what the runs came to, means and intervals
    DIR/table.md              the same for people

The run directories are the record: the same command in the same directory goes on where it stopped, and tries again
what failed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..commands.resume import job_of
from ..commands.run import FORMAT, Job, load_in_turn
from ..runs.directory import CONFIG_FILE, LOCK, Follower, default_directory
from ..runs.loop import Interrupted, StopRequest
from ..runs.records import RunRecord
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError, short
from ..runtime.files import Folder, read_json
from ..runtime.processes import processes
from ..runtime.progress import Progress
from ..tasks.base import Measure
from ..tasks.registry import TASKS
from .rows import markdown_table
from .statistics import mean_interval
from .trials import TABLE, Death, check_same, run_or_resume, side_by_side

MOST = 10_000
"""Seeds at most: the options of each are made before any begins."""

SEEDS = "seeds.json"

RANDOM = "random architectures"
"""The label of the random architectures of a search; each run counts with the mean of its own."""


@dataclass(frozen=True)
class Repeated:
    """Result of a run with several seeds.

    Parameters
    ----------
    directory : Path
    summary : dict
        As in seeds.json: ``runs`` by seed, and ``means`` of tests, parameters and multiply-adds by part.
    table : str
        In Markdown.
    """

    directory: Path
    summary: dict[str, Any]
    table: str

    @property
    def failed(self) -> dict[str, str]:
        """The errors by seed; empty where there were none."""
        runs = self.summary["runs"]
        return {seed: run["problem"] for seed, run in runs.items() if run["state"] == "failed"}


def repeat(
    job: Job,
    seeds: int,
    out: str | Path | None = None,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Repeated:
    """Do a job with several seeds: that of its options and those that follow.

    A run that fails is reported, and the others go on.

    Parameters
    ----------
    job : Job
        See `isnas.commands.search.search_job` and `isnas.commands.evaluate.evaluation_job`.
    seeds : int
        How many.
    out : path, optional
        The directory, by default ``runs/<date>-<command>``. In one with runs of the same job it goes on.
    jobs : int
        Runs at a time.
    progress : Progress, optional
        By default nothing is shown.

    Raises
    ------
    UserError
        When the options, the data or the directory are not usable, or the directory has runs of another job.
    isnas.runs.loop.Interrupted
        When a signal stopped it.
    """
    for name, value in (("seeds", seeds), ("jobs", jobs)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
        if value > MOST:
            raise UserError(f"{name} must be at most {MOST}, got {short(value)}")
    if processes() > 1:
        raise UserError("several seeds are not for torchrun: --jobs runs them side by side")
    progress = progress or Progress(quiet=True)
    directory = default_directory(job.command) if out is None else Path(out)
    if Folder(directory).size(CONFIG_FILE) is not None:
        raise UserError(f"{directory} holds a single run: choose another --out")
    first = job.options.runtime.seed
    each = {seed: job.options.replace(seed=seed) for seed in range(first, first + seeds)}
    # a mistake shows now, not once for each seed
    resolve_device(job.options.runtime.device)
    job.check(job, load_in_turn(job.task, job.options.data))
    configs = {
        seed: {
            "format": FORMAT,
            "command": job.command,
            "space": job.space.to_json(),
            "options": options.to_json(),
            **job.record,
        }
        for seed, options in each.items()
    }
    for seed, config in configs.items():
        check_same(_job(config), directory / f"seed-{seed}")
    folder = Folder(directory)
    folder.make()
    held = folder.lock(LOCK)
    if held is None:
        raise UserError(f"{directory} is being written by another process")
    with held:
        progress.say(f"writing to {directory}")
        problems = _run_all(configs, directory, jobs, progress)
        summary = summarised(directory, list(each), problems)
        folder.write_json(SEEDS, summary)
        table = table_text(summary)
        folder.write(TABLE, table)
    return Repeated(directory, summary, table)


def _run_all(
    configs: Mapping[int, dict[str, Any]], directory: Path, jobs: int, progress: Progress
) -> dict[int, str]:
    """Run the seeds that are not finished and return what went wrong, by seed."""
    missing = [seed for seed in configs if not _is_finished(directory / f"seed-{seed}")]
    if len(missing) < len(configs):
        progress.say(f"{len(configs) - len(missing)} of {len(configs)} seeds are done already")
    # what several show at once nobody can read
    shown = progress if jobs == 1 else None
    problems: dict[int, str] = {}
    with StopRequest().listening() as stop:
        trials = (
            (seed, configs[seed], str(directory / f"seed-{seed}"), shown)
            for seed in missing
            if not stop.requested
        )
        try:
            for done, row in enumerate(side_by_side(run_seed, trials, jobs), 1):
                if isinstance(row, Death):
                    row = _row(row.trial[0], problem=row.reason)
                stop.requested = stop.requested or row["interrupted"]
                if row["problem"]:
                    problems[row["seed"]] = row["problem"]
                for message in row["warnings"]:
                    warnings.warn(f"seed {row['seed']}: {message}", stacklevel=2)
                text = row["problem"] or ("interrupted" if row["interrupted"] else "finished")
                progress.say(f"{done}/{len(missing)}  seed {row['seed']}: {text}")
        except KeyboardInterrupt:  # the second signal
            raise Interrupted(directory) from None
        if stop.requested:
            raise Interrupted(directory)
    return problems


def _is_finished(out: Path) -> bool:
    try:
        return Folder(out).size(CONFIG_FILE) is not None and RunRecord(out).status == "finished"
    except UserError:  # who goes on with it says what is damaged
        return False


def _job(config: dict[str, Any]) -> Job:
    return job_of(Follower(Path("."), config, {}))


def run_seed(
    seed: int, config: dict[str, Any], out: str, progress: Progress | None
) -> dict[str, Any]:
    """Run one seed, in whatever process; without a `progress` warnings are returned, too, and not shown.

    Returns
    -------
    dict
        ``seed``; ``problem``: what went wrong, or nothing; ``interrupted``: whether a signal stopped it;
        ``warnings``: a list of texts.
    """
    if progress is None:
        with warnings.catch_warnings(record=True) as caught:
            row = run_seed(seed, config, out, Progress(quiet=True))
        return {**row, "warnings": list(dict.fromkeys(str(each.message) for each in caught))}
    problem, interrupted = "", False
    try:
        progress.say(f"seed {seed}")
        run_or_resume(_job(config), out, progress)
    except Interrupted:
        interrupted = True
    except UserError as error:
        problem = str(error)
    except Exception as error:  # such as too little memory: the others go on
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return _row(seed, problem, interrupted)


def _row(seed: int, problem: str = "", interrupted: bool = False) -> dict[str, Any]:
    return {"seed": seed, "problem": problem, "interrupted": interrupted, "warnings": []}


def summarised(
    directory: Path, seeds: Sequence[int], problems: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """Return what runs with these seeds came to, as plain data, and the means over those that are finished."""
    problems = problems or {}
    runs: dict[str, Any] = {}
    values: dict[str, dict[str, dict[str, float]]] = {}
    task = measure = None
    for seed in seeds:
        found: dict[str, dict[str, float]] = {}
        state, problem = "missing", problems.get(seed, "")
        try:
            record = RunRecord(directory / f"seed-{seed}")
            state = "finished" if record.status == "finished" else "interrupted"
            measure, task = record.measure, record.task.name
            found = _numbers(record.results, measure)
        except UserError as error:
            problem = problem or str(error)
        if problem:
            state = "failed"
        run: dict[str, Any] = {"state": state, "problem": problem, "results": found}
        runs[str(seed)] = run
        if state == "finished":
            for part, numbers in found.items():
                for name, value in numbers.items():
                    values.setdefault(part, {}).setdefault(name, {})[str(seed)] = value
    means = {
        part: {name: _mean(list(of.values())) for name, of in numbers.items()}
        for part, numbers in values.items()
    }
    return {
        "task": task,
        "measure": None if measure is None else measure.name,
        "runs": runs,
        "means": means,
    }


def _numbers(
    results: Mapping[str, Mapping[str, Any]], measure: Measure
) -> dict[str, dict[str, float]]:
    """Return the numbers of each part that tested a network."""
    names = (f"test_{measure.name}", "test_loss", "parameters", "multiply_adds")
    found: dict[str, dict[str, float]] = {}
    drawn: dict[str, list[float]] = {}
    for part, result in results.items():
        if names[0] not in result:
            continue
        own = {name: result[name] for name in names if name in result}
        if part.startswith("random-"):
            for name, value in own.items():
                drawn.setdefault(name, []).append(value)
        else:
            found[part] = own
    if drawn:
        found[RANDOM] = {name: fmean(of) for name, of in drawn.items()}
    return found


def _mean(values: Sequence[float]) -> dict[str, float | int | None]:
    mean, half = mean_interval(values)
    return {"mean": mean, "interval": half, "runs": len(values)}


def measure_of(summary: Mapping[str, Any]) -> Measure | None:
    """Return the measure of a summary; None where no run has got so far."""
    task = summary.get("task")
    return TASKS[task].measure if task in TASKS else None


def read_summary(directory: str | Path) -> dict[str, Any]:
    """Return the content of a directory's seeds.json.

    Raises
    ------
    UserError
        When it is not there or damaged.
    """
    path = Path(directory) / SEEDS
    found = read_json(path)
    try:
        for run in found["runs"].values():
            for numbers in run["results"].values():
                if not all(isinstance(value, (int, float)) for value in numbers.values()):
                    raise ValueError("a result that is no number")
            str(run["state"]), str(run["problem"])
        dict(found["means"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no summary of runs with several seeds: {error}") from None
    return found


def table_text(summary: Mapping[str, Any]) -> str:
    """Return a table in Markdown: a line for each seed, and the means with their 95 % intervals."""
    measure = measure_of(summary)
    if measure is None:
        lines = [(seed, run["problem"] or run["state"]) for seed, run in summary["runs"].items()]
        return markdown_table(("seed", "state"), lines)
    test = f"test_{measure.name}"
    unit = f" ({measure.unit})" if measure.unit else ""
    parts = list(dict.fromkeys(part for run in summary["runs"].values() for part in run["results"]))
    header = ["seed", "state"]
    for part in parts:
        header += [f"{part}: test {measure.name}{unit}", f"{part}: parameters"]
    lines = []
    for seed, run in summary["runs"].items():
        line = [seed, run["state"]]
        for part in parts:
            numbers = run["results"].get(part, {})
            line.append(f"{measure.scale * numbers[test]:.2f}" if test in numbers else "")
            line.append(f"{numbers['parameters']:,.0f}" if "parameters" in numbers else "")
        lines.append(line)
    mean = ["mean ± 95 %", ""]
    for part in parts:
        means = summary["means"].get(part, {})
        for name, scale, digits in ((test, measure.scale, 2), ("parameters", 1.0, 0)):
            mean.append(_with_interval(means[name], scale, digits) if name in means else "")
    text = markdown_table(header, [*lines, mean])
    failed = [(s, r["problem"]) for s, r in summary["runs"].items() if r["state"] == "failed"]
    return text + "".join(f"\nseed {seed} failed: {problem}\n" for seed, problem in failed)


def _with_interval(of: Mapping[str, Any], scale: float, digits: int) -> str:
    text = f"{scale * of['mean']:,.{digits}f}"
    return text if of["interval"] is None else f"{text} ± {scale * of['interval']:,.{digits}f}"
