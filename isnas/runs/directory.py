"""The run directory: what a command that trains writes, such that it can be followed, trusted and taken up again.

    config.json        command, options, versions, device, data
    metrics.jsonl      a line for every step and epoch, flushed as they happen; the same bits whenever a run is repeated
    times.jsonl        seconds of every epoch: kept apart, for they are never the same
    codes/             NNNNNN.npz: the sparse codes at every recovery; matrices.npz: the measurement matrices
    checkpoints/       NNNNNNNN.pt: the last two
    results.json       results of the stages that are done, and of the run
    examination-*.json what the test of a part's network shows beside its measure
    genotype.json, network.pt (a state dict), network.json (how to build it), cells.svg

What each file holds is in `isnas.runs.content`; `isnas.runs.records` reads them. A directory may come from elsewhere:
no symbolic link in it is followed, and what is read is compared with its form.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..codes.sparse import NodeRecovery, SparseCode
from ..runtime.errors import FileError, UserError, short
from ..runtime.files import TEMPORARY, Folder, as_path
from ..runtime.forms import check
from ..runtime.options import Composition
from ..runtime.processes import processes
from .content import CHECKPOINT, CONFIG

CHECKPOINTS_KEPT = 2
CONFIG_FILE, RESULTS_FILE, LOCK = "config.json", "results.json", "lock"
"""Names of files; the writing process has the lock."""

LINES = {"metrics": "metrics.jsonl", "times": "times.jsonl"}
"""Names of the files that grow line by line."""

EXAMINATION = "examination-"
"""Beginning of the name of a file with exhibits of a part's test."""

_CHECKPOINT_NAME, _RECOVERY_NAME = r"\d{8,12}\.pt", r"\d{6,12}\.npz"

_WITHOUT_TRAINING = {
    LOCK,
    *LINES.values(),
    "codes",
    "checkpoints",
    "genotype.json",
    "cells.svg",
    "tensorboard",
}
"""The names that can be left when a run was killed before it had begun, or while it was discarded."""


def checkpoint_names(folder: Folder) -> list[str]:
    """Return the names of a run's checkpoints, oldest first."""
    return folder.names("checkpoints", _CHECKPOINT_NAME)


def recovery_names(folder: Folder) -> list[str]:
    """Return the names of the files of a run's recoveries, in order."""
    return folder.names("codes", _RECOVERY_NAME)


def check_is_run(folder: Folder) -> None:
    """Raise a `UserError` unless a directory holds a run."""
    if folder.size(CONFIG_FILE) is not None:
        return
    if folder.names() and has_not_begun(folder):
        raise UserError(
            f"{folder.path} holds no run: one was stopped before it had begun; start it again by the "
            f"same command, with --out {shlex.quote(str(folder.path))}"
        )
    raise UserError(f"{folder.path} holds no run: there is no {CONFIG_FILE} in it")


def has_not_begun(folder: Folder) -> bool:
    """Return whether a run here was killed before it had a config.json: there is nothing of worth in its directory."""
    names = {name for name in folder.names() if not re.fullmatch(TEMPORARY, name)}
    locked = LOCK in names and names <= _WITHOUT_TRAINING
    made = names <= {"codes", "checkpoints"} and not folder.names("codes")
    return (locked or made) and not folder.size(LINES["metrics"]) and not checkpoint_names(folder)


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {
        "isnas": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def default_directory(command: str) -> Path:
    """Return ``runs/<date>-<command>``, with a number where there is one already."""
    stem = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{command}"
    directory, i = stem, 1
    while directory.exists():
        i += 1
        directory = Path(f"{stem}-{i}")
    return directory


class Run:
    """Writer of a run directory. Use `Run.create` or `Run.reopen`; close it, or use it in a `with` statement.

    While it is open no other process can write there.

    Parameters
    ----------
    directory : Path
    config : dict
        The content of config.json.
    """

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self.directory = directory
        self.folder = Folder(directory)
        self.config = config
        self._lock = self.folder.lock(LOCK)
        if self._lock is None:
            raise UserError(f"{directory} is being written by another process")
        self.results: dict[str, Any] = {}
        self._recoveries = 0
        self._saved = 0
        self._events: Any = None

    def __enter__(self) -> Run:
        """Return the run."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the run."""
        self.close()

    def close(self) -> None:
        """Let others write there."""
        if self._events is not None:
            self._events.close()
        self._lock.close()

    @classmethod
    def create(
        cls,
        directory: str | Path | None,
        command: str,
        options: Composition,
        extra: dict[str, Any] | None = None,
    ) -> Run:
        """Make a new run directory, by default ``runs/<date>-<command>``.

        Raises
        ------
        UserError
            When the directory holds a run already or cannot be written.
        """
        directory = default_directory(command) if directory is None else as_path(directory)
        folder = Folder(directory)
        folder.make()
        _check_free(folder)
        config = {
            "command": command,
            "options": options.to_json(),
            **(extra or {}),
            "processes": processes(),
            "versions": versions(),
            "started": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}",
        }
        run = cls(directory, config)
        try:
            _check_free(folder)  # nobody else has taken it meanwhile
            folder.make("codes", "checkpoints")
            run._go_back_to(None)
            run.write_config()
        except BaseException:
            run.close()
            raise
        return run

    def discard(self) -> None:
        """Close the run and remove its directory, unless a step has been done in it."""
        self.close()
        if self.folder.size(LINES["metrics"]) == 0:
            # first what makes it a run, last the lock: killed in between, it is one that has not begun
            self.folder.remove(CONFIG_FILE)
            place = os.path.realpath(self.directory)
            for name in self.folder.names():
                if name != LOCK:
                    shutil.rmtree(os.path.join(place, name), ignore_errors=True)
                    with suppress(UserError):
                        self.folder.remove(name)
            shutil.rmtree(place, ignore_errors=True)

    @classmethod
    def reopen(cls, directory: str | Path) -> tuple[Run, dict[str, Any] | None]:
        """Open a broken-off run: return it and its newest sound checkpoint, None where there is none yet.

        What was written after that checkpoint is taken back, so that no line is doubled or missing.

        Raises
        ------
        UserError
            When the directory holds no run, or all its checkpoints are damaged.
        """
        folder = Folder(directory)
        check_is_run(folder)
        run = cls(folder.path, folder.read_json(CONFIG_FILE, CONFIG))
        try:
            folder.make("codes", "checkpoints")
            checkpoint = run._newest_checkpoint()
            run._go_back_to(checkpoint)
        except BaseException:
            run.close()
            raise
        return run, checkpoint

    def _go_back_to(self, checkpoint: dict[str, Any] | None) -> None:
        """Take back what was written after a checkpoint."""
        sizes = dict.fromkeys(LINES, 0)
        if checkpoint is not None:
            self.results = checkpoint["results"]
            self._recoveries = checkpoint["recoveries"]
            self._saved = checkpoint["number"]
            sizes = checkpoint["sizes"]
        for name, size in sizes.items():
            there = self.folder.size(LINES[name]) or 0
            if there < size:
                raise FileError(
                    f"{self.directory / LINES[name]} is shorter than its checkpoint says: {there} instead "
                    f"of {size} bytes"
                )
            self.folder.truncate(LINES[name], size)
        for name in recovery_names(self.folder):
            if int(Path(name).stem) >= self._recoveries:
                self.folder.remove(name)
        self.folder.tidy("codes", "checkpoints")
        self._drop_old_checkpoints()

    def _drop_old_checkpoints(self) -> None:
        for old in checkpoint_names(self.folder)[:-CHECKPOINTS_KEPT]:
            self.folder.remove(old)

    def _newest_checkpoint(self) -> dict[str, Any] | None:
        problems = []
        for name in reversed(checkpoint_names(self.folder)):
            try:
                checkpoint = self._checkpoint(name)
            except UserError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(
                    f"{problem}; going on from {self.directory / name}", UserWarning, stacklevel=3
                )
            return checkpoint
        if problems:
            raise UserError("no checkpoint can be read: " + "; ".join(problems))
        return None

    def _checkpoint(self, name: str) -> dict[str, Any]:
        """Return a checkpoint that can be one of this run."""
        path = self.directory / name
        checkpoint = check(self.folder.read_tensors(name), CHECKPOINT, str(path))
        stage, parts = checkpoint["stage"], self.config.get("parts", [])
        if checkpoint["number"] != int(path.stem):
            raise FileError(f"{path} is not number {path.stem}: it says {checkpoint['number']}")
        if stage is not None and (
            stage not in parts or set(checkpoint["state"]) != {"stage", "sums"}
        ):
            raise FileError(f"{path} is of no part of this run: its stage is {short(stage)}")
        if unknown := set(checkpoint["results"]) - set(parts):
            raise FileError(f"{path} has results of {short(min(unknown))}, no part of this run")
        return checkpoint

    def write_config(self) -> None:
        """Write config.json."""
        self.folder.write_json(CONFIG_FILE, self.config)

    def open_tensorboard(self) -> None:
        """Write TensorBoard events of all metrics from now on.

        Raises
        ------
        UserError
            When TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tensorboard is not installed: pip install tensorboard, or leave --tensorboard out"
            ) from None
        self.folder.make("tensorboard")
        self._events = SummaryWriter(str(self.directory / "tensorboard"))

    def write_metrics(self, lines: Sequence[dict[str, Any]], steps: int) -> None:
        """Append lines to metrics.jsonl. They must not hold times or anything else that differs from run to run.

        Parameters
        ----------
        lines : sequence of dict
            Each with its `part` and `epoch`, and its `step` unless it is of the epoch.
        steps : int
            Steps of an epoch.
        """
        self._append("metrics", lines)
        if self._events is not None:
            for line in lines:
                of_step = "step" in line
                at = line["epoch"] * steps + line["step"] if of_step else line["epoch"]
                for name, value in line.items():
                    if isinstance(value, float):
                        level = "step" if of_step else "epoch"
                        self._events.add_scalar(f"{line['part']}/{name}/{level}", value, at)
            self._events.flush()

    def write_time(self, line: dict[str, Any]) -> None:
        """Append a line to times.jsonl."""
        self._append("times", [line])

    def _append(self, name: str, lines: Sequence[dict[str, Any]]) -> None:
        self.folder.append(LINES[name], "".join(json.dumps(line) + "\n" for line in lines))

    def write_matrices(self, code: SparseCode) -> None:
        """Write the measurement matrices."""
        arrays = {choice.key: A.numpy() for choice, A in zip(code.choices, code.A, strict=True)}
        self.folder.write_arrays("codes/matrices.npz", arrays)

    def write_recovery(
        self, recovery: Sequence[NodeRecovery], frozen: Sequence[bool], refused: bool = False
    ) -> None:
        """Write what one recovery found, see `isnas.runs.records.Trajectory` for the arrays.

        Parameters
        ----------
        recovery : sequence of NodeRecovery
        frozen : sequence of bool
            Which nodes are frozen now.
        refused : bool
            Whether what was found was not taken.
        """
        arrays: dict[str, Any] = {}
        for node in recovery:
            name = node.key
            arrays[f"{name}.b"] = node.b.numpy()
            arrays[f"{name}.z"] = node.z.numpy()
            arrays[f"{name}.support"] = np.array(node.support, dtype=np.int64)
            arrays[f"{name}.coefficients"] = node.coefficients.numpy()
        for name in RECOVERY_SCALARS:
            arrays[name] = np.array([getattr(node, name) for node in recovery])
        arrays["frozen"] = np.array(frozen)
        arrays["refused"] = np.array(refused)
        self.folder.write_arrays(f"codes/{self._recoveries:06d}.npz", arrays)
        self._recoveries += 1

    def save_checkpoint(
        self, stage: str | None, state: dict[str, Any], seconds: float = 0.0
    ) -> Path:
        """Write a checkpoint and keep the last two.

        Parameters
        ----------
        stage : str or None
            The stage under way; None between stages.
        state : dict
            Its state: tensors and plain data.
        seconds : float
            Spent in the present epoch.
        """
        # what the checkpoint counts on must be on the disk before it is
        for name in LINES.values():
            self.folder.sync(name)
        self._saved += 1
        name = f"checkpoints/{self._saved:08d}.pt"
        self.folder.write_tensors(
            name,
            {
                "number": self._saved,
                "stage": stage,
                "state": state,
                "seconds": seconds,
                "options": self.config["options"],
                "results": self.results,
                "recoveries": self._recoveries,
                "sizes": {kind: self.folder.size(file) for kind, file in LINES.items()},
            },
        )
        self._drop_old_checkpoints()
        return self.directory / name

    def write_results(self) -> None:
        """Write results.json."""
        self.folder.write_json(RESULTS_FILE, self.results)


class Follower(Run):
    """A run that another process writes: it has the same content, and writes nothing.

    Parameters
    ----------
    directory : Path
        On the machine that writes.
    config, results : dict
        Contents of the run's files.
    """

    def __init__(self, directory: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
        self.directory = directory
        self.folder = Folder(directory)
        self.config = config
        self.results = results

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Write nothing."""

    close = discard = open_tensorboard = _nothing
    write_config = write_metrics = write_time = write_results = _nothing
    write_matrices = write_recovery = save_checkpoint = _nothing


def _check_free(folder: Folder) -> None:
    """Raise a `UserError` unless a new run can be made in a directory."""
    if folder.size(CONFIG_FILE) is not None:
        raise UserError(
            f"{folder.path} holds a run already: go on with it "
            f"(isnas resume {shlex.quote(str(folder.path))}) or choose another --out"
        )
    if set(folder.names()) - {LOCK} and not has_not_begun(folder):
        raise UserError(f"{folder.path} is not empty: choose another --out")


RECOVERY_SCALARS = (
    "residual",
    "residual_cut",
    "gap",
    "iterations",
    "nonzeros",
    "moved",
    "changed",
)
"""Attributes of `NodeRecovery` that are written as one array over the nodes."""
