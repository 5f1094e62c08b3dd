"""Going on with a run that was broken off."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import spaces
from ..runs.directory import Run, versions
from ..runs.evaluation import evaluation_schema
from ..runs.loop import Part
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError
from ..runtime.forms import Record, Text, check
from ..runtime.processes import joined, processes, together
from ..runtime.progress import Progress
from ..searches.registry import method_named
from ..spaces.genotype import Genotype
from ..tasks.registry import task_of
from .evaluate import evaluation_job
from .run import FORMAT, Job, RunResult, carry_out, finished, in_words, of_first, opened
from .search import search_job

_COMMAND = Record({"command": Text(choices=("search", "evaluate"))})
"""The commands whose runs go on."""


def resume(
    directory: str | Path,
    *,
    device: str | None = None,
    epochs: int | None = None,
    progress: Progress | None = None,
    parts: Callable[..., list[Part]] | None = None,
) -> RunResult:
    """Go on with a run that was broken off, exactly as it would have gone on.

    Parameters
    ----------
    directory : path
        The run directory.
    device : str, optional
        Go on on another device. One of another type draws other random numbers for augmentation and drop path.
    epochs : int, optional
        Train for more epochs than the run was begun with; the schedule is stretched from here on.
    progress : Progress, optional
    parts : callable, optional
        Makes the run's parts, where these are not the command's own, see `isnas.commands.run.Job`.

    Raises
    ------
    UserError
        When the directory holds no run, or one of an earlier version; when its checkpoints are damaged, or a change is
        not possible; when the run was begun with another number of processes.
    """
    with joined():
        run, checkpoint = opened(lambda: Run.reopen(directory))
        with run:
            return _resume(run, checkpoint, device, epochs, of_first(progress), parts)


def job_of(run: Run, options: dict[str, Any] | None = None) -> Job:
    """Return the job of a run's record; with the options of another record of the same run, if given."""
    config = run.config
    if config.get("format") != FORMAT:
        raise UserError(
            f"{run.directory} is a run of another version of isnas and cannot go on in this one; "
            f"networks that it has saved can still be used"
        )
    try:
        space = spaces.from_json(config["space"])
        flat = config["options"] if options is None else options
        check({"command": config["command"]}, _COMMAND, f"{run.directory}/config.json")
        if config["command"] == "search":
            schema = method_named(config["method"], space).schema(space)
        else:
            schema = evaluation_schema(space)
        composition = task_of(space).located(schema.from_json(flat), config.get("data") or {})
        if config["command"] == "search":
            return search_job(config["method"], space, composition)
        genotype = Genotype.from_json(config["genotype"])
        network = Path(config["network"]) if "network" in config else None
        return evaluation_job(genotype, composition, network)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{run.directory}/config.json is not that of a run: {error!r} is missing or unknown"
        ) from None


def _resume(
    run: Run,
    checkpoint: dict[str, Any] | None,
    device: str | None,
    epochs: int | None,
    progress: Progress,
    parts: Callable[..., list[Part]] | None,
) -> RunResult:
    job = job_of(run)
    options = job.options
    begun_with = run.config.get("processes", 1)
    if begun_with != processes():
        raise UserError(
            f"{run.directory} was begun with {in_words(begun_with)} and goes on with as many only, "
            f"not with {in_words(processes())}"
        )
    if checkpoint is not None:
        before = job_of(run, checkpoint["options"]).options.to_json()
        different = [
            f"{name} {before[name]!r} -> {value!r}"
            for name, value in options.to_json().items()
            if value != before[name] and name not in ("device", "epochs")
        ]
        if different:
            raise UserError(
                f"{run.directory}/config.json was changed since the last checkpoint "
                f"({', '.join(different)}): only device and epochs can change, as arguments of resume"
            )
    changes: dict[str, Any] = {}
    if device is not None and device != options.runtime.device:
        resolve_device(device)
        changes["device"] = device
    planned = options.optimizer.epochs
    if epochs is not None and epochs != planned:
        if epochs < planned:
            raise UserError(f"epochs can be raised only: the run has {planned}, got {epochs}")
        method = run.config.get("method")
        if method is not None and not method_named(method, job.space).search.extensible:
            raise UserError(f"a search by {method} cannot be given more epochs once it has begun")
        first = run.config.get("parts", [""])[0]
        if first in run.results:
            raise UserError(
                f"the {first} of {run.directory} is finished: more epochs would change nothing"
            )
        changes["epochs"] = epochs
    flat = options.to_json()
    for name, value in changes.items():
        progress.say(f"changed: {name} {flat[name]} -> {value}")
    if run.results and set(run.config.get("parts", ())) <= set(run.results):
        with together():
            run.write_results()  # a process that was killed after its last checkpoint may not have
        progress.say(f"{run.directory} is finished: nothing is left to do")
        return finished(run, run.results)
    begun_by = run.config.get("versions", {})
    if begun_by != versions():
        warnings.warn(
            f"the run was begun with {begun_by}, now it is {versions()}: results may differ in rounding",
            UserWarning,
            stacklevel=2,
        )
    if changes:
        run.config["options"] = {**flat, **changes}
        run.config.setdefault("changes", []).append(changes)
        with together():
            run.write_config()
        job = job_of(run)
    where = "the beginning"
    if checkpoint is not None:
        where = f"checkpoint {checkpoint['number']}"
    progress.say(f"going on with {run.directory} from {where}")
    if parts is not None:
        job = replace(job, parts=parts)
    return carry_out(job, run, checkpoint, progress)
