"""The one loop that all training shares: stages made of epochs and steps, recorded, checkpointed, interruptible.

A stage knows what a step is. The loop knows nothing of networks; it yields what happens to those who observe it. All
that a stage needs to go on is in its state, and all randomness is named by epoch and step (`isnas.runtime.randomness`):
a run that was interrupted and taken up again does exactly what it would have done.
"""

from __future__ import annotations

import contextlib
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..runtime.errors import UserError
from ..runtime.processes import all_reduce_sum, any_of, processes, together
from ..runtime.progress import Progress
from ..tasks.base import Task
from .directory import Run

FLUSH_STEPS = 20
"""Metrics are read off the device and written together for so many steps."""


class Interrupted(Exception):
    """The run was asked to stop, and has written a checkpoint (unless it was asked twice).

    Parameters
    ----------
    directory : Path
        The run directory, to resume.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(f"interrupted; the run in {directory} can be resumed")
        self.directory = directory


class Diverged(UserError):
    """A loss is not a number any more."""


class Stage(ABC):
    """Some epochs of training.

    Attributes
    ----------
    epoch, step : int
        Where it stands: the epoch, and the next step in it.
    """

    title = "training"

    def __init__(self, task: Task) -> None:
        self.task = task
        self.epoch = 0
        self.step = 0

    @property
    @abstractmethod
    def epochs(self) -> int:
        """Epochs in all; may change while it runs."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps of an epoch."""

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Return what the steps of an epoch need, from step `start` on."""

    @abstractmethod
    def train_step(self, batch: Any) -> dict[str, Tensor]:
        """Do a step and return its metrics: 0-d tensors, left on the device."""

    def begin(self, run: Run) -> None:
        """Do what comes before the first step, once in a run."""

    def end_epoch(self, run: Run) -> dict[str, Any]:
        """Do what comes after an epoch and return metrics of it: plain data."""
        return {}

    def describe(self, metrics: dict[str, Any]) -> str:
        """Return an epoch's metrics as a line for people."""
        text = f"epoch {metrics['epoch'] + 1}/{self.epochs}"
        return "  ".join(filter(None, [text, self.task.describe_metrics(metrics)]))

    @abstractmethod
    def stateful(self) -> dict[str, Any]:
        """Return what has a state: objects with `state_dict` and `load_state_dict`, by name."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that the stage needs to go on."""
        state = {name: part.state_dict() for name, part in self.stateful().items()}
        return {"epoch": self.epoch, "step": self.step, **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.epoch, self.step = state["epoch"], state["step"]
        for name, part in self.stateful().items():
            part.load_state_dict(state[name])


@dataclass(frozen=True)
class Part:
    """One part of a command's work.

    Parameters
    ----------
    name : str
        Its name in records and results.
    build : callable
        Makes the stage, given the results of the parts before.
    finish : callable
        Makes the part's results (plain data) from the finished stage; it may write files.
    """

    name: str
    build: Callable[[dict[str, Any]], Stage]
    finish: Callable[[Stage], dict[str, Any]]


class NoRun:
    """Stands where a stage expects a run directory; keeps nothing."""

    def write_matrices(self, *_: Any) -> None:
        """Write nothing."""

    def write_recovery(self, *_: Any, **__: Any) -> None:
        """Write nothing."""


class StepDone(NamedTuple):
    """A step has been done."""

    done: int
    """Steps that are done, of all epochs."""
    total: int


class StepsRead(NamedTuple):
    """The metrics of some steps have been read off the device: the means of all processes."""

    epoch: int
    start: int
    """The first of these steps."""
    metrics: list[dict[str, float]]


class EpochDone(NamedTuple):
    """An epoch has ended."""

    epoch: int
    means: dict[str, float]
    """The means of the metrics of its steps."""
    metrics: dict[str, Any]
    """The stage's metrics of the epoch."""


class CheckpointDue(NamedTuple):
    """A request to write the stage's state now; the stage stands where it would go on."""

    sums: dict[str, float]
    """Sums of the metrics of the present epoch's steps: a part of the state."""
    in_epoch: bool
    """Whether it is in the middle of an epoch."""


class Stopped(NamedTuple):
    """The loop has been asked to stop, and has; a checkpoint was due before."""


Event = StepDone | StepsRead | EpochDone | CheckpointDue | Stopped


def loop(
    stage: Stage,
    run: Any = None,
    *,
    sums: dict[str, float] | None = None,
    flush_steps: int = 0,
    checkpoint_steps: int = 0,
    stopping: Callable[[], bool] = bool,
) -> Iterator[Event]:
    """Run a stage from where it stands to its end, and yield what happens; whoever wants to know observes it.

    Parameters
    ----------
    stage : Stage
    run : Run or NoRun, optional
        The run that the stage writes its own records to at the end of an epoch.
    sums : dict, optional
        Sums of a `CheckpointDue` to go on from.
    flush_steps : int
        Read metrics off the device after so many steps; 0: at the end of an epoch only.
    checkpoint_steps : int
        Let a checkpoint be due after so many steps, too; 0: at the ends of epochs only.
    stopping : callable
        Whether to stop after the present step. All processes must get the same answer.

    Raises
    ------
    Diverged
        When a metric is not a number.
    """
    run = NoRun() if run is None else run
    sums = {} if sums is None else sums
    while stage.epoch < stage.epochs:
        pending: list[dict[str, Tensor]] = []
        for batch in stage.batches(stage.epoch, stage.step):
            pending.append(stage.train_step(batch))
            stage.step += 1
            yield StepDone(
                stage.epoch * stage.steps + stage.step, max(stage.epochs, 1) * stage.steps
            )
            stop = stopping()
            within = stage.step < stage.steps
            due = within and (stop or bool(checkpoint_steps and stage.step % checkpoint_steps == 0))
            if due or (flush_steps and len(pending) >= flush_steps):
                yield _read(stage, pending, sums)
            if due:
                yield CheckpointDue(dict(sums), in_epoch=True)
            if stop and within:
                yield Stopped()
                return
        if pending:
            yield _read(stage, pending, sums)
        means = {metric: value / stage.steps for metric, value in sums.items()}
        means = stage.task.epoch_metrics(means)
        with together():
            metrics = stage.end_epoch(run)
        yield EpochDone(stage.epoch, means, metrics)
        stage.epoch, stage.step = stage.epoch + 1, 0
        sums.clear()
        yield CheckpointDue({}, in_epoch=False)
        if stopping():
            yield Stopped()
            return


def _read(stage: Stage, pending: list[dict[str, Tensor]], sums: dict[str, float]) -> StepsRead:
    """Read the metrics of some steps off the device, all at once, and add them to the sums."""
    start = stage.step - len(pending)
    names = list(pending[0])
    table = torch.stack([torch.stack([m[k].float() for k in names]) for m in pending])
    table = all_reduce_sum(table) / processes()
    lines = []
    for i, row in enumerate(table.tolist()):
        values = dict(zip(names, row, strict=True))
        for metric, value in values.items():
            if value != value:
                raise Diverged(
                    f"{metric} is not a number in step {start + i} of epoch {stage.epoch}: training "
                    f"has diverged; lower the learning rate"
                )
            sums[metric] = sums.get(metric, 0.0) + value
        lines.append(values)
    pending.clear()
    return StepsRead(stage.epoch, start, lines)


def drive(stage: Stage) -> Iterator[dict[str, float]]:
    """Run a stage without a run directory; after every epoch yield the means of its steps' metrics.

    Raises
    ------
    Diverged
        At the end of an epoch.
    """
    if (stage.epoch, stage.step) == (0, 0):
        stage.begin(NoRun())
    for event in loop(stage):
        if isinstance(event, EpochDone):
            yield event.means


# the last: the terminal was closed (not on Windows)
_SIGNALS = [signal.SIGINT, signal.SIGTERM, *filter(None, [getattr(signal, "SIGHUP", None)])]


class StopRequest:
    """Turns SIGINT, SIGTERM and SIGHUP into a request to stop after the present step; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Listen for the signals inside the block (in the main thread; elsewhere signals cannot be caught)."""
        before = {}
        try:
            with contextlib.suppress(ValueError):
                for number in _SIGNALS:
                    before[number] = signal.signal(number, self._request)
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Recorder:
    """Writes what happens in a stage to the run directory: metrics, times and checkpoints.

    Parameters
    ----------
    run : Run
    name : str
        Name of the part.
    stage : Stage
    spent : float
        Seconds that the present epoch took before it was interrupted.
    """

    def __init__(self, run: Run, name: str, stage: Stage, spent: float) -> None:
        self.run, self.name, self.stage = run, name, stage
        self._begun = time.monotonic() - spent

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, StepsRead):
            lines = [
                {"part": self.name, "epoch": event.epoch, "step": event.start + i, **values}
                for i, values in enumerate(event.metrics)
            ]
            with together():
                self.run.write_metrics(lines, self.stage.steps)
        elif isinstance(event, EpochDone):
            line = {"part": self.name, "epoch": event.epoch}
            seconds = round(time.monotonic() - self._begun, 3)
            with together():
                self.run.write_metrics([{**line, **event.means, **event.metrics}], self.stage.steps)
                self.run.write_time({**line, "seconds": seconds})
            self._begun = time.monotonic()
        elif isinstance(event, CheckpointDue):
            state = {"stage": self.stage.state_dict(), "sums": event.sums}
            seconds = time.monotonic() - self._begun if event.in_epoch else 0.0
            with together():
                self.run.save_checkpoint(self.name, state, seconds)


class Reporter:
    """Shows people what happens in a stage.

    Parameters
    ----------
    name : str
        Name of the part.
    stage : Stage
    progress : Progress
    """

    def __init__(self, name: str, stage: Stage, progress: Progress) -> None:
        self.stage, self.progress = stage, progress
        progress.begin(
            f"{name} ({stage.title})",
            stage.epoch * stage.steps + stage.step,
            stage.epochs * stage.steps,
        )

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, StepDone):
            self.progress.step(event.done, event.total)
        elif isinstance(event, EpochDone):
            metrics = {"epoch": event.epoch, **event.means, **event.metrics}
            steps = self.stage.steps
            done, total = (event.epoch + 1) * steps, self.stage.epochs * steps
            self.progress.epoch(self.stage.describe(metrics), done, total)


def execute(
    run: Run,
    parts: list[Part],
    *,
    checkpoint: dict[str, Any] | None = None,
    checkpoint_steps: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Do the parts of a run in order and return their results by name.

    Parameters
    ----------
    run : Run
    parts : list of Part
        Parts with results in `run.results` are done already.
    checkpoint : dict, optional
        The result of `Run.reopen`, to go on from it.
    checkpoint_steps : int
        Write a checkpoint every so many steps; 0: at the ends of epochs only.
    progress : Progress, optional

    Raises
    ------
    Interrupted
        When a signal asked to stop; a checkpoint has been written.
    UserError
        When the checkpoint does not fit the run, training diverges or nothing more can be written.
    """
    progress = progress or Progress(quiet=True)
    if run.results:  # a process that was killed after its checkpoint may not have written them
        with together():
            run.write_results()
    with StopRequest().listening() as stop:
        for part in parts:
            if part.name in run.results:
                continue
            stage = part.build(run.results)
            sums: dict[str, float] = {}
            spent = 0.0
            if checkpoint is not None and checkpoint["stage"] == part.name:
                try:
                    stage.load_state_dict(checkpoint["state"]["stage"])
                    sums = dict(checkpoint["state"]["sums"])
                    spent = float(checkpoint["seconds"])
                except (KeyError, TypeError, ValueError, RuntimeError) as error:
                    raise UserError(
                        f"the checkpoint does not fit this run: {str(error).splitlines()[0]}"
                    ) from None
            else:
                with together():
                    stage.begin(run)
            observers = (
                Recorder(run, part.name, stage, spent),
                Reporter(part.name, stage, progress),
            )
            try:
                for event in loop(
                    stage,
                    run,
                    sums=sums,
                    flush_steps=FLUSH_STEPS,
                    checkpoint_steps=checkpoint_steps,
                    stopping=lambda: any_of(stop.requested),
                ):
                    for observe in observers:
                        observe(event)
                    if isinstance(event, Stopped):
                        raise Interrupted(run.directory)
            except KeyboardInterrupt:  # the second signal: no checkpoint now
                raise Interrupted(run.directory) from None
            finally:
                progress.end()
            run.results[part.name] = part.finish(stage)
            with together():
                run.save_checkpoint(None, {})
                run.write_results()
            # a request while the part was finished: what comes next may be another run
            if any_of(stop.requested):
                raise Interrupted(run.directory)
    return run.results
