"""The run directory: what a command that trains writes, such that it can be followed, trusted and taken up again.

    config.json        command, options, versions, device, data
    metrics.jsonl      a line for every step and epoch, flushed as they happen; the same bits whenever a run is repeated
    times.jsonl        seconds of every epoch: kept apart, for they are never the same
    codes/             NNNNNN.npz: the sparse codes at every recovery; matrices.npz: the measurement matrices
    checkpoints/       NNNNNNNN.pt: the last two
    results.json       results of the stages that are done, and of the run
    examination-*.json what the test of a part's network shows beside its measure
    genotype.json, network.pt (a state dict), network.json (how to build it), cells.svg

`isnas.runs.records` reads it.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shlex
import shutil
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..codes.sparse import NodeRecovery, SparseCode
from ..runtime.errors import UserError
from ..runtime.files import (
    lock,
    read_json,
    read_tensors,
    write_atomically,
    write_json,
    write_tensors,
)
from ..runtime.options import Composition
from ..runtime.processes import processes

CHECKPOINTS_KEPT = 2
EXAMINATION = "examination-"
"""What the name of a file with exhibits of a part's test begins with."""
LOCK = "lock"
"""Name of the file whose lock the writing process has."""


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
        self.config = config
        try:
            self._lock = lock(directory / LOCK)
        except OSError as error:
            raise UserError(f"{directory} cannot be written: {error.strerror}") from None
        if self._lock is None:
            raise UserError(f"{directory} is being written by another process")
        self.results: dict[str, Any] = {}
        self._recoveries = 0
        self._saved = 0
        self._events: Any = None
        self._files = {name: directory / f"{name}.jsonl" for name in ("metrics", "times")}

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
        directory = default_directory(command) if directory is None else Path(directory)
        if (directory / "config.json").exists():
            raise UserError(
                f"{directory} holds a run already: go on with it "
                f"(isnas resume {shlex.quote(str(directory))}) or choose another --out"
            )
        if directory.is_dir() and any(directory.iterdir()):
            raise UserError(f"{directory} is not empty: choose another --out")
        config = {
            "command": command,
            "options": options.to_json(),
            **(extra or {}),
            "processes": processes(),
            "versions": versions(),
            "started": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}",
        }
        try:
            (directory / "codes").mkdir(parents=True, exist_ok=True)
            (directory / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{directory} cannot be written: {error.strerror}") from None
        run = cls(directory, config)
        try:
            run.write_config()
            for path in run._files.values():
                write_atomically(path, b"")
        except BaseException:
            run.close()
            raise
        return run

    def discard(self) -> None:
        """Close the run and remove its directory, unless a step has been done in it."""
        self.close()
        if self._files["metrics"].exists() and self._files["metrics"].stat().st_size == 0:
            shutil.rmtree(self.directory, ignore_errors=True)

    @classmethod
    def reopen(cls, directory: str | Path) -> tuple[Run, dict[str, Any] | None]:
        """Open a broken-off run: return it and its newest sound checkpoint, None where there is none yet.

        What was written after that checkpoint is taken back, so that no line is doubled or missing.

        Raises
        ------
        UserError
            When the directory holds no run, or all its checkpoints are damaged.
        """
        directory = Path(directory)
        if not (directory / "config.json").is_file():
            raise UserError(f"{directory} holds no run: there is no config.json in it")
        run = cls(directory, read_json(directory / "config.json"))
        try:
            checkpoint = run._newest_checkpoint()
            run._go_back_to(checkpoint)
        except BaseException:
            run.close()
            raise
        return run, checkpoint

    def _go_back_to(self, checkpoint: dict[str, Any] | None) -> None:
        """Take back what was written after a checkpoint."""
        sizes = {"metrics": 0, "times": 0}
        if checkpoint is not None:
            self.results = checkpoint["results"]
            self._recoveries = checkpoint["recoveries"]
            self._saved = checkpoint["number"]
            sizes = checkpoint["sizes"]
        try:
            for name, size in sizes.items():
                with open(self._files[name], "ab") as file:
                    if file.tell() < size:
                        raise UserError(
                            f"{self._files[name]} is shorter than its checkpoint says: "
                            f"{file.tell()} instead of {size} bytes"
                        )
                    file.truncate(size)
            for path in self.directory.glob("codes/[0-9]*.npz"):
                if int(path.stem) >= self._recoveries:
                    path.unlink()
        except OSError as error:
            raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None

    def _newest_checkpoint(self) -> dict[str, Any] | None:
        paths = sorted(self.directory.glob("checkpoints/[0-9]*.pt"), reverse=True)
        problems = []
        for path in paths:
            try:
                checkpoint = read_tensors(path)
                if not isinstance(checkpoint, dict) or set(checkpoint) != _CHECKPOINT_KEYS:
                    raise UserError(f"{path} is no checkpoint of a run")
            except UserError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem}; going on from {path}", UserWarning, stacklevel=3)
            return checkpoint
        if problems:
            raise UserError("no checkpoint can be read: " + "; ".join(problems))
        return None

    def write_config(self) -> None:
        """Write config.json."""
        write_json(self.directory / "config.json", self.config)

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
        text = "".join(json.dumps(line) + "\n" for line in lines)
        try:
            with open(self._files[name], "ab") as file:
                file.write(text.encode())
        except OSError as error:
            raise UserError(f"{self._files[name]} cannot be written: {error.strerror}") from None

    def write_matrices(self, code: SparseCode) -> None:
        """Write the measurement matrices."""
        arrays = {choice.key: A.numpy() for choice, A in zip(code.choices, code.A, strict=True)}
        self._write_arrays("matrices", arrays)

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
        arrays: dict[str, np.ndarray] = {}
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
        self._write_arrays(f"{self._recoveries:06d}", arrays)
        self._recoveries += 1

    def _write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(self.directory / "codes" / f"{name}.npz", buffer.getvalue())

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
        for path in self._files.values():
            try:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise UserError(f"{path} cannot be written: {error.strerror}") from None
        self._saved += 1
        path = self.directory / "checkpoints" / f"{self._saved:08d}.pt"
        write_tensors(
            path,
            {
                "number": self._saved,
                "stage": stage,
                "state": state,
                "seconds": seconds,
                "options": self.config["options"],
                "results": self.results,
                "recoveries": self._recoveries,
                "sizes": {name: file.stat().st_size for name, file in self._files.items()},
            },
        )
        for old in sorted(self.directory.glob("checkpoints/[0-9]*.pt"))[:-CHECKPOINTS_KEPT]:
            old.unlink()
        return path

    def write_results(self) -> None:
        """Write results.json."""
        write_json(self.directory / "results.json", self.results)


class Follower(Run):
    """A run that another process writes: it has the same content, and writes nothing.

    Parameters
    ----------
    directory : Path
        On the machine that writes.
    config, results : dict
        Of the run.
    """

    def __init__(self, directory: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
        self.directory = directory
        self.config = config
        self.results = results

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Write nothing."""

    close = discard = open_tensorboard = _nothing
    write_config = write_metrics = write_time = write_results = _nothing
    write_matrices = write_recovery = save_checkpoint = _nothing


_CHECKPOINT_KEYS = {
    "number",
    "stage",
    "state",
    "seconds",
    "options",
    "results",
    "recoveries",
    "sizes",
}

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
