"""Common parts of all commands that write a run directory: how a run begins, goes on and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..networks.core import CellNetwork
from ..runs.directory import EXAMINATION, Follower, Run
from ..runs.loop import Part, execute
from ..runs.records import read_genotype
from ..runs.saved import FILE, load_network, save_in
from ..runtime.devices import check_compiler, cpu_threads, resolve_device
from ..runtime.errors import UserError
from ..runtime.options import Composition, Schema
from ..runtime.processes import (
    broadcast,
    check_batch_size,
    is_first,
    joined,
    local_rank,
    on_first,
    processes,
    together,
)
from ..runtime.progress import Progress
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks import exhibits
from ..tasks.base import Task
from ..tasks.exhibits import Exhibit

FORMAT = 2
"""Version of what is written into a run directory; it changes when older runs cannot go on."""


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Parameters
    ----------
    directory : Path
        Where everything was written.
    genotype : Genotype
        The architecture found, or evaluated.
    network : CellNetwork or None
        The trained discrete network; None when none was trained.
    results : dict
        Results of the run's parts by name, as in results.json.
    """

    directory: Path
    genotype: Genotype
    network: CellNetwork | None
    results: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """The work of a run.

    Parameters
    ----------
    command : str
    space : Space
    task : Task
    options : Composition
    record : dict
        Further content of config.json: with it `isnas.commands.resume` makes the job again.
    parts : callable
        Returns the parts, given the job, the run, the data set and the device.
    """

    command: str
    space: Space
    task: Task
    options: Composition
    record: dict[str, Any]
    parts: Callable[[Job, Run, Any, torch.device], list[Part]]
    check: Callable[[Job, Any], None] = lambda job, data: None
    """Raises a `UserError` where options and data do not go together, before anything is written."""


def start(job: Job, out: str | Path | None, progress: Progress | None) -> RunResult:
    """Carry out a job in a new run directory, see `isnas.search` for the arguments and errors."""
    with joined():
        progress = of_first(progress)
        options = job.options
        with together():
            resolve_device(options.runtime.device)
            check_batch_size(options.optimizer.batch_size, processes())
        data = load_in_turn(job.task, options.data)
        job.check(job, data)
        record = {
            "format": FORMAT,
            "space": job.space.to_json(),
            "data": job.task.describe(data, options.data),
            **job.record,
        }
        run, _ = opened(lambda: (Run.create(out, job.command, options, record), None))
        progress.say(f"writing to {run.directory}")
        with run:
            try:
                return carry_out(job, run, None, progress, data)
            except UserError:  # a mistake that showed late: the next try may have the same --out
                run.discard()
                raise


def opened(
    open_run: Callable[[], tuple[Run, dict[str, Any] | None]],
) -> tuple[Run, dict[str, Any] | None]:
    """Open a run and return it and its checkpoint; where several processes work together, the first one writes it."""
    if processes() == 1:
        return open_run()
    mine: list[Run] = []

    def content() -> tuple[Any, ...]:
        run, checkpoint = open_run()
        mine.append(run)
        return run.directory, run.config, run.results, checkpoint

    directory, config, results, checkpoint = broadcast(content)
    return (mine[0] if mine else Follower(directory, config, results)), checkpoint


def of_first(progress: Progress | None) -> Progress:
    """Return the progress to show: the first process's."""
    return progress if progress is not None and is_first() else Progress(quiet=True)


def load_in_turn(task: Task, options: Any) -> Any:
    """Return the data; one process of each machine downloads them, the others wait for it."""
    data = None
    for turn in (True, False) if options.download else (None,):
        with together():
            if turn is None or turn == (local_rank() == 0):
                data = task.load(options)
    return data


def carry_out(
    job: Job,
    run: Run,
    checkpoint: dict[str, Any] | None,
    progress: Progress,
    data: Any = None,
) -> RunResult:
    """Do the parts of a job that have no results yet, and return what the run directory holds then."""
    task, runtime = job.task, job.options.runtime
    device = resolve_device(runtime.device)
    data = load_in_turn(task, job.options.data) if data is None else data
    with together():
        _check_same_data(run, task, task.describe(data, job.options.data))
        if runtime.tensorboard:
            run.open_tensorboard()
        if runtime.compile:
            if not task.compilable:
                raise UserError(f"compile: networks of the task {task.name} cannot be compiled")
            check_compiler(device)
    data = task.to(data, device)
    among = f"; {in_words(processes())}" if processes() > 1 else ""
    progress.say(f"{task.in_words(data)}; device {device}{among}")
    new = "parts" not in run.config
    if new:
        run.config["threads"] = broadcast(
            lambda: runtime.threads or (1 if task.tiny(data) else torch.get_num_threads())
        )
    with cpu_threads(run.config["threads"]):
        parts = job.parts(job, run, data, device)
        if new:
            run.config["parts"] = [part.name for part in parts]
            with together():
                run.write_config()
        results = execute(
            run,
            parts,
            checkpoint=checkpoint,
            checkpoint_steps=runtime.checkpoint_steps,
            progress=progress,
        )

    return finished(run, results)


def finished(run: Run, results: dict[str, Any]) -> RunResult:
    """Return the result of a run of which all parts are done."""

    def written() -> tuple[Genotype, CellNetwork | None]:
        network = None if run.folder.size(FILE) is None else load_network(run.directory)
        return read_genotype(run.folder), network

    return RunResult(run.directory, *broadcast(written), results)


def _check_same_data(run: Run, task: Task, now: Mapping[str, Any]) -> None:
    recorded = run.config.get("data") or {}
    names = {*now, *recorded} - {*task.places}
    if different := sorted(name for name in names if now.get(name) != recorded.get(name)):
        raise UserError(f"the data are not those of the run: {', '.join(different)} differ")


def in_words(processes: int) -> str:
    """Return a number of processes in words."""
    return "1 process" if processes == 1 else f"{processes} processes"


def write_genotype(run: Run, genotype: Genotype) -> None:
    """Write an architecture to the run directory, and a picture of it."""

    def write() -> None:
        from ..drawing import draw_cells, figure_content  # its library takes a second to import

        run.folder.write_json("genotype.json", genotype.to_json())
        run.folder.write("cells.svg", figure_content(draw_cells(genotype), "svg"))

    on_first(write)


def write_network(run: Run, network: CellNetwork, name: str = FILE) -> None:
    """Write a network to the run directory, see `isnas.save_network`."""
    on_first(lambda: save_in(run.folder, network, run.config["data"], name))


def keeper(run: Run, part: str) -> Callable[[tuple[Exhibit, ...]], None]:
    """Return what writes to the run directory what the test of a part's network shows beside its measure."""

    def keep(shown: tuple[Exhibit, ...]) -> None:
        if shown:
            name = f"{EXAMINATION}{part}.json"
            on_first(lambda: run.folder.write_json(name, exhibits.to_json(shown)))

    return keep


def composed(
    schema: Schema, preset: str, options: Composition | None, values: Mapping[str, Any]
) -> Composition:
    """Return options that were given whole, or a preset's with values by name."""
    if options is None:
        return schema.compose(preset, **values)
    if values:
        raise UserError(f"give either options or {', '.join(values)}, not both")
    return options
