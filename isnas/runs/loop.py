"""The loop that all training shares: stages made of epochs and steps, recorded, checkpointed, interruptible.

A stage knows what a step is; the loop knows nothing of networks. All that a stage needs to go on is in its state, and
all randomness is named by epoch and step (`isnas.runtime.randomness`), so a run that was interrupted and taken up again does
exactly what it would have done.
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
from typing import Any

import torch
from torch import Tensor

from ..runtime.processes import any_of, processes, summed, together
from ..runtime.errors import UserError
from ..runtime.progress import Progress
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


def _diverged(metric: str, where: str) -> Diverged:
    return Diverged(
        f"{metric} is not a number in {where}: training has diverged; lower the learning rate"
    )


class Stage(ABC):
    """Some epochs of training.

    Attributes
    ----------
    epoch, step : int
        Where it stands: the epoch, and the next step in it.
    """

    title = "training"

    def __init__(self) -> None:
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
        parts = [f"epoch {metrics['epoch'] + 1}/{self.epochs}"]
        for name in ("train", "valid"):
            if f"{name}_loss" in metrics:
                parts.append(
                    f"{name} loss {metrics[f'{name}_loss']:.3f} "
                    f"accuracy {100 * metrics[f'{name}_accuracy']:.1f} %"
                )
        return "  ".join(parts)

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


def drive(stage: Stage) -> Iterator[dict[str, float]]:
    """Run a stage without a run directory; after every epoch yield the means of its steps' metrics.

    It does just what `execute` does, but writes nothing and cannot be resumed.

    Raises
    ------
    Diverged
        At the end of an epoch.
    """
    run = NoRun()
    if (stage.epoch, stage.step) == (0, 0):
        stage.begin(run)
    while stage.epoch < stage.epochs:
        sums: dict[str, Tensor] = {}
        for batch in stage.batches(stage.epoch, stage.step):
            for name, value in stage.train_step(batch).items():
                sums[name] = sums.get(name, 0.0) + value.float()
            stage.step += 1
        means = {name: float(value) / stage.steps for name, value in sums.items()}
        for name, mean in means.items():
            if mean != mean:
                raise _diverged(name, f"epoch {stage.epoch}")
        stage.end_epoch(run)
        stage.epoch, stage.step = stage.epoch + 1, 0
        yield means


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
        What `Run.reopen` returned, to go on from it.
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
            try:
                _drive(run, part.name, stage, sums, spent, stop, checkpoint_steps, progress)
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


def _drive(
    run: Run,
    name: str,
    stage: Stage,
    sums: dict[str, float],
    spent: float,
    stop: StopRequest,
    checkpoint_steps: int,
    progress: Progress,
) -> None:
    def done() -> int:
        return stage.epoch * stage.steps + stage.step

    def total() -> int:
        return stage.epochs * stage.steps

    def save(seconds: float) -> None:
        state = {"stage": stage.state_dict(), "sums": sums}
        with together():
            run.save_checkpoint(name, state, seconds)

    progress.begin(f"{name} ({stage.title})", done(), total())
    while stage.epoch < stage.epochs:
        begun = time.monotonic() - spent
        pending: list[dict[str, Tensor]] = []

        def flush(pending: list[dict[str, Tensor]] = pending) -> None:
            start = stage.step - len(pending)
            _write_steps(run, name, stage, start, pending, sums)
            pending.clear()

        for batch in stage.batches(stage.epoch, stage.step):
            pending.append(stage.train_step(batch))
            stage.step += 1
            progress.step(done(), total())
            stopping = any_of(stop.requested)  # all processes stop after the same step
            if len(pending) >= FLUSH_STEPS or stopping:
                flush()
            due = checkpoint_steps and stage.step % checkpoint_steps == 0
            if stage.step < stage.steps and (due or stopping):
                flush()
                save(time.monotonic() - begun)
            if stopping and stage.step < stage.steps:
                raise Interrupted(run.directory)
        flush()
        means = {metric: value / stage.steps for metric, value in sums.items()}
        with together():
            metrics = {"part": name, "epoch": stage.epoch, **means, **stage.end_epoch(run)}
            run.write_metrics([metrics], stage.steps)
            run.write_time(
                {
                    "part": name,
                    "epoch": stage.epoch,
                    "seconds": round(time.monotonic() - begun, 3),
                }
            )
        stage.epoch, stage.step = stage.epoch + 1, 0
        sums.clear()
        spent = 0.0
        progress.epoch(stage.describe(metrics), done(), total())
        save(0.0)
        if any_of(stop.requested):
            raise Interrupted(run.directory)


def _write_steps(
    run: Run,
    name: str,
    stage: Stage,
    start: int,
    pending: list[dict[str, Tensor]],
    sums: dict[str, float],
) -> None:
    """Read the metrics of some steps off the device, all at once, and write them: the means of all processes."""
    if not pending:
        return
    names = list(pending[0])
    table = torch.stack([torch.stack([m[k].float() for k in names]) for m in pending])
    table = summed(table) / processes()
    lines = []
    for i, row in enumerate(table.tolist()):
        values = dict(zip(names, row, strict=True))
        for metric, value in values.items():
            if value != value:
                raise _diverged(metric, f"step {start + i} of epoch {stage.epoch}")
            sums[metric] = sums.get(metric, 0.0) + value
        lines.append({"part": name, "epoch": stage.epoch, "step": start + i, **values})
    with together():
        run.write_metrics(lines, stage.steps)
