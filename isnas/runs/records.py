"""Reading a run directory: of a run that is finished, going on or broken off. Nothing is ever written.

    run = RunRecord("runs/20260101-120000-train")
    run.epochs("train")["train_loss"]        # (epochs,)
    run.trajectories["normal", 0].z          # (recoveries, n)

What is in the directory is described in `isnas.runs.directory`, which writes it. Figures and
comparisons read runs through this module only.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..runtime.errors import UserError
from ..runtime.files import is_locked, read_json
from ..spaces import from_json
from ..spaces.base import Place, Space
from ..spaces.genotype import Genotype
from ..tasks.base import Measure
from ..tasks.registry import TASKS
from .directory import LOCK, RECOVERY_SCALARS

Columns = dict[str, np.ndarray]
"""A table by columns, all of one length."""


@dataclass(frozen=True)
class Trajectory:
    """The sparse code of one node over R recoveries; recovery r was made when r epochs of search were done.

    Parameters
    ----------
    kind, node : str, int
        Which node.
    places : tuple of Place, length n
        Its candidates.
    labels : tuple of str, length n
        The candidates in words.
    A : ndarray, shape (m, n)
        The measurement matrix.
    b : ndarray, shape (R, m)
        The code that z was recovered from.
    z : ndarray, shape (R, n)
        The recovered vector before the cut. A frozen node is not recovered: its entries repeat those it was frozen
        with.
    support : ndarray of int, shape (R, s)
        Indices of the active candidates, ascending.
    coefficients : ndarray, shape (R, s)
        What the network really ran right after the recovery.
    residual, residual_cut : ndarray, shape (R,)
        ||A z - b|| and ||A z_S - b||.
    gap : ndarray, shape (R,)
        Relative duality gap of z; nan where the LASSO was not solved.
    iterations, nonzeros : ndarray of int, shape (R,)
        Iterations of the LASSO's method; non-zeros of z.
    moved : ndarray, shape (R,)
        ||z - (z of the recovery before)||, of whole solutions; inf at the first.
    changed, frozen : ndarray of bool, shape (R,)
        Whether the support is another than before; whether the node was frozen then or earlier.
    refused : ndarray of bool, shape (R,)
        Whether the recovery was not taken (all nodes alike): the network went on with the one before.
    name : str
        Which choice of the node, where it has several.
    """

    kind: str
    node: int
    places: tuple[Place, ...]
    labels: tuple[str, ...]
    A: np.ndarray
    b: np.ndarray
    z: np.ndarray
    support: np.ndarray
    coefficients: np.ndarray
    residual: np.ndarray
    residual_cut: np.ndarray
    gap: np.ndarray
    iterations: np.ndarray
    nonzeros: np.ndarray
    moved: np.ndarray
    changed: np.ndarray
    frozen: np.ndarray
    refused: np.ndarray
    name: str = ""

    def __len__(self) -> int:
        """Return R, the number of recoveries."""
        return len(self.z)

    @property
    def concentration(self) -> np.ndarray:
        """The share of ||z||_1 in the support, shape (R,); nan where z = 0."""
        size = np.abs(self.z)
        total = size.sum(1)
        chosen = np.take_along_axis(size, self.support, 1).sum(1)
        return np.divide(chosen, total, out=np.full(len(self), np.nan), where=total > 0)

    @property
    def replaced(self) -> np.ndarray:
        """How many places of the support were not in the one before, shape (R,); 0 at the first recovery."""
        found = [0]
        for before, now in zip(self.support[:-1], self.support[1:], strict=True):
            found.append(len(set(now.tolist()) - set(before.tolist())))
        return np.array(found)

    @property
    def frozen_at(self) -> int | None:
        """The recovery at which the node was frozen; None when it was not."""
        return int(self.frozen.argmax()) if self.frozen.any() else None

    @property
    def taken(self) -> int:
        """The last recovery that the network ran."""
        return int(np.flatnonzero(~self.refused)[-1])


class RunRecord:
    """What a run has written so far. Files are read when they are asked for, once: open it again to see more.

    Parameters
    ----------
    directory : path
        The run directory.

    Attributes
    ----------
    directory : Path
    config : dict
        The content of config.json.
    command : str
        The command: search, train or evaluate.
    options : dict
        Its options, as plain data.

    Raises
    ------
    UserError
        When the directory holds no run; from all properties and methods, when a file is damaged.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not (self.directory / "config.json").is_file():
            raise UserError(f"{directory} holds no run: there is no config.json in it")
        self.config = read_json(self.directory / "config.json")
        try:
            self.command = str(self.config["command"])
            self.options = dict(self.config["options"])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{directory}/config.json is not that of a run: it has no command and options"
            ) from None

    @cached_property
    def space(self) -> Space:
        """The search space."""
        try:
            return from_json(self.config["space"])
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{self.directory}/config.json: no search space: {error}") from None

    @property
    def method(self) -> str:
        """The method of a search; of other commands their name."""
        return str(self.config.get("method", self.command))

    @property
    def measure(self) -> Measure:
        """What says how good a network of this run is."""
        data = self.config.get("data")
        name = data.get("task", "images") if isinstance(data, dict) else "images"
        if name not in TASKS:
            raise UserError(f"{self.directory}/config.json: there is no task {name!r:.60}")
        return TASKS[name].measure

    @property
    def status(self) -> Literal["finished", "running", "broken off"]:
        """Whether all parts have results; if not, whether a process on this machine is writing them."""
        expected = self.config.get("parts")
        if expected is not None and set(expected) <= set(self.results):
            return "finished"
        return "running" if is_locked(self.directory / LOCK) else "broken off"

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """Results of the parts that are done, by name."""
        path = self.directory / "results.json"
        if not path.exists():
            return {}
        results = read_json(path)
        if not isinstance(results, dict) or not all(isinstance(r, dict) for r in results.values()):
            raise UserError(f"{path} does not hold results by the names of parts")
        return results

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The checkpoints that are there, oldest first."""
        return tuple(sorted(self.directory.glob("checkpoints/[0-9]*.pt")))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that have begun to write metrics, in order."""
        return tuple(self._metrics)

    def steps(self, part: str) -> Columns:
        """Return the metrics of each step of a part as arrays: epoch, step, train_loss, ...

        Empty when the part has recorded none.
        """
        return _columns([line for line in self._metrics.get(part, ()) if "step" in line])

    def epochs(self, part: str) -> Columns:
        """Return the metrics of each finished epoch of a part as arrays: epoch, train_loss, ...

        Numbers are nan and texts empty where an epoch lacks them. Empty when the part has recorded none.
        """
        return _columns([line for line in self._metrics.get(part, ()) if "step" not in line])

    def seconds(self, part: str) -> np.ndarray:
        """Return the seconds that each epoch in `epochs` took; nan where they are not recorded.

        What was lost to interruptions, between the last checkpoint and the end of the process, is not counted.
        """
        spent = {line["epoch"]: line.get("seconds") for line in self._times if line["part"] == part}
        epochs = self.epochs(part).get("epoch", ())
        return np.array([spent.get(int(epoch), np.nan) for epoch in epochs], dtype=float)

    @cached_property
    def genotype(self) -> Genotype | None:
        """The architecture found or evaluated; of a search that is not finished the present one, None before it."""
        path = self.directory / "genotype.json"
        if path.exists():
            return Genotype.load(path, self.space)
        if not self.trajectories:
            return None
        places: dict[str, list[Place]] = {kind: [] for kind in self.space.kinds}
        for trajectory in self.trajectories.values():
            active = trajectory.support[trajectory.taken]
            places[trajectory.kind] += [trajectory.places[i] for i in active]
        return Genotype.from_places(places, self.space)

    def genotypes(self, part: str) -> dict[int, Genotype]:
        """Return the architecture at the end of each epoch of a part, by epoch; empty when it did not search."""
        columns = self.epochs(part)
        if "genotype" not in columns:
            return {}
        return {
            int(epoch): Genotype.parse(str(text), self.space)
            for epoch, text in zip(columns["epoch"], columns["genotype"], strict=True)
            if text
        }

    @cached_property
    def trajectories(self) -> dict[tuple[Any, ...], Trajectory]:
        """The sparse codes by (kind, node), and the choice's name where a node has several; in the order of the space.

        Empty when there are none (yet).
        """
        paths = sorted(self.directory.glob("codes/[0-9]*.npz"))
        if not paths:
            return {}
        for number, path in enumerate(paths):
            if path.name != f"{number:06d}.npz":
                raise UserError(f"{path.with_name(f'{number:06d}.npz')} is missing")
        matrices = _read_arrays(self.directory / "codes" / "matrices.npz")
        tables = [_read_arrays(path) for path in paths]
        try:
            joined = {name: np.stack([table[name] for table in tables]) for name in tables[0]}
            return _trajectories(joined, matrices, self.space)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.directory}/codes does not hold recoveries of one search: {error}"
            ) from None

    @cached_property
    def _metrics(self) -> dict[str, list[dict[str, Any]]]:
        """The lines of metrics.jsonl by part."""
        lines: dict[str, list[dict[str, Any]]] = {}
        for line in _read_lines(self.directory / "metrics.jsonl"):
            lines.setdefault(line["part"], []).append(line)
        return lines

    @cached_property
    def _times(self) -> list[dict[str, Any]]:
        return _read_lines(self.directory / "times.jsonl")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a .jsonl file of parts and epochs; a last line without an end is still being written and left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    lines = []
    for number, text in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
            whole = isinstance(line["part"], str) and type(line["epoch"]) is int
        except (KeyError, TypeError, ValueError, RecursionError):
            whole = False
        if not whole:
            raise UserError(
                f"{path}, line {number} is damaged: it is no record of an epoch or step"
            )
        lines.append(line)
    return lines


def _columns(lines: Sequence[dict[str, Any]]) -> Columns:
    names = dict.fromkeys(name for line in lines for name in line if name != "part")
    return {name: _column([line.get(name) for line in lines]) for name in names}


def _column(values: list[Any]) -> np.ndarray:
    known = [value for value in values if value is not None]
    if any(isinstance(value, (str, list, dict)) for value in known):
        return np.array(["" if value is None else str(value) for value in values])
    if len(known) == len(values) and all(isinstance(value, int) for value in known):
        return np.array(values, dtype=np.int64)
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def _trajectories(
    arrays: dict[str, np.ndarray], matrices: dict[str, np.ndarray], space: Space
) -> dict[tuple[Any, ...], Trajectory]:
    found = {}
    choices = {choice.key: choice for choice in space.choices}
    names = [name.removesuffix(".z") for name in arrays if name.endswith(".z")]
    for i, name in enumerate(names):
        choice = choices[name]
        places = choice.candidates
        A, z = matrices[name], arrays[f"{name}.z"]
        if A.shape[1] != len(places) or z.shape[1] != len(places):
            raise ValueError(f"{name} has {z.shape[1]} candidates, expected {len(places)}")
        support = arrays[f"{name}.support"]
        if not ((support >= 0) & (support < len(places))).all():
            raise ValueError(f"{name} has active candidates that do not exist")
        key = (choice.kind, choice.node, choice.name) if choice.name else (choice.kind, choice.node)
        found[key] = Trajectory(
            kind=choice.kind,
            node=choice.node,
            name=choice.name,
            places=places,
            labels=tuple(space.label(place) for place in places),
            A=A,
            z=z,
            support=support,
            b=arrays[f"{name}.b"],
            coefficients=arrays[f"{name}.coefficients"],
            frozen=arrays["frozen"][:, i],
            refused=arrays["refused"],
            **{scalar: arrays[scalar][:, i] for scalar in RECOVERY_SCALARS},
        )
    return found
