"""Reading a run directory: of a run that is finished, going on or broken off. Nothing is ever written.

    run = RunRecord("runs/20260101-120000-train")
    run.epochs("train")["train_loss"]        # (epochs,)
    run.trajectories["normal", 0].z          # (recoveries, n)

What is in the directory is described in `isnas.runs.directory`, which writes it. Figures and comparisons read runs
through this module only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..runtime.errors import FileError, UserError, short
from ..runtime.files import Folder
from ..runtime.forms import ANYTHING, OBJECT, Array, check_arrays
from ..spaces import from_json
from ..spaces.base import Place, Space
from ..spaces.genotype import Genotype
from ..tasks import exhibits
from ..tasks.base import Measure, Task
from ..tasks.exhibits import Exhibit
from ..tasks.registry import FIRST, task_named
from .content import CONFIG, METRICS, RESULTS, TIMES
from .directory import (
    CONFIG_FILE,
    EXAMINATION,
    LINES,
    LOCK,
    RECOVERY_SCALARS,
    RESULTS_FILE,
    check_is_run,
    checkpoint_names,
    recovery_names,
)

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
        Indices of the active candidates, ascending; s is their largest number, and -1 stands where there are fewer.
    coefficients : ndarray, shape (R, s)
        The coefficients that the network ran right after the recovery; nan where there are fewer.
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
        chosen = np.take_along_axis(size, self.support, 1).sum(1, where=self.support >= 0)
        return np.divide(chosen, total, out=np.full(len(self), np.nan), where=total > 0)

    @property
    def replaced(self) -> np.ndarray:
        """Number of places of the support that were not in the one before, shape (R,); 0 at the first recovery."""
        found = [0]
        for before, now in zip(self.support[:-1], self.support[1:], strict=True):
            found.append(len(set(now.tolist()) - set(before.tolist()) - {-1}))
        return np.array(found)

    @property
    def active(self) -> dict[Place, float]:
        """The places that the network runs with the last recovery that it took, with their coefficients."""
        pairs = zip(self.support[self.taken], self.coefficients[self.taken], strict=True)
        return {self.places[i]: float(value) for i, value in pairs if i >= 0}

    @property
    def frozen_at(self) -> int | None:
        """The recovery at which the node was frozen; None when it was not."""
        return int(self.frozen.argmax()) if self.frozen.any() else None

    @property
    def taken(self) -> int:
        """The last recovery that the network ran."""
        return int(np.flatnonzero(~self.refused)[-1])


class RunRecord:
    """The record of a run so far. Files are read when they are asked for, once: open it again to see more.

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
        self.folder = Folder(directory)
        self.directory = self.folder.path
        check_is_run(self.folder)
        self.config = self.folder.read_json(CONFIG_FILE, CONFIG)
        self.command: str = self.config["command"]
        self.options: dict[str, Any] = self.config["options"]

    @cached_property
    def space(self) -> Space:
        """The search space."""
        try:
            return from_json(self.config.get("space"))
        except UserError as error:
            raise FileError(f"{self.directory / CONFIG_FILE}: {error}") from None

    @property
    def method(self) -> str:
        """The method of a search; of other commands their name."""
        return self.config.get("method", self.command)

    @property
    def task(self) -> Task:
        """The task of this run."""
        return task_named((self.config.get("data") or {}).get("task", FIRST))

    @property
    def measure(self) -> Measure:
        """The measure of how good a network of this run is."""
        return self.task.measure

    @property
    def status(self) -> Literal["finished", "running", "broken off"]:
        """State of the run: finished when all parts have results, else running or broken off."""
        expected = self.config.get("parts")
        if expected is not None and set(expected) <= set(self.results):
            return "finished"
        return "running" if self.folder.is_locked(LOCK) else "broken off"

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """Results of the parts that are done, by name."""
        if self.folder.size(RESULTS_FILE) is None:
            return {}
        return self.folder.read_json(RESULTS_FILE, RESULTS)

    @cached_property
    def exhibits(self) -> dict[str, tuple[Exhibit, ...]]:
        """Exhibits of the tests beside their measures, by part; a part whose task shows nothing is not there."""
        found = {}
        for part in self.results:
            name = f"{EXAMINATION}{part}.json"
            if "/" in part or self.folder.size(name) is None:
                continue
            try:
                found[part] = exhibits.from_json(self.folder.read_json(name, ANYTHING))
            except FileError:
                raise
            except UserError as error:
                raise FileError(f"{self.directory / name}: {error}") from None
        return found

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The checkpoints that are there, oldest first."""
        return tuple(self.directory / name for name in checkpoint_names(self.folder))

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
        if self.folder.size("genotype.json") is not None:
            return read_genotype(self.folder, self.space)
        if not self.trajectories:
            return None
        places: dict[str, list[Place]] = {kind: [] for kind in self.space.kinds}
        for trajectory in self.trajectories.values():
            places[trajectory.kind] += trajectory.active
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
        names = recovery_names(self.folder)
        for number, name in enumerate(names):
            if name != (expected := f"codes/{number:06d}.npz"):
                raise FileError(f"{self.directory / expected} is missing")
        return _trajectories(self.folder, names, self.space) if names else {}

    @cached_property
    def _metrics(self) -> dict[str, list[dict[str, Any]]]:
        """The lines of metrics.jsonl by part."""
        lines: dict[str, list[dict[str, Any]]] = {}
        for _, line in self.folder.json_lines(LINES["metrics"], METRICS):
            lines.setdefault(line["part"], []).append(line)
        return lines

    @cached_property
    def _times(self) -> list[dict[str, Any]]:
        return [line for _, line in self.folder.json_lines(LINES["times"], TIMES)]


def read_genotype(folder: Folder, space: Space | None = None) -> Genotype:
    """Return the architecture in a run directory's genotype.json; `space` is its space in files of earlier versions."""
    try:
        return Genotype.from_json(folder.read_json("genotype.json", OBJECT), space)
    except FileError:
        raise
    except UserError as error:
        raise FileError(f"{folder.path / 'genotype.json'}: {error}") from None


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


_MATRICES = "codes/matrices.npz"

_KINDS = {"iterations": "i", "nonzeros": "i", "changed": "b"}
"""Kinds of the arrays of `RECOVERY_SCALARS` that do not hold floating-point numbers."""


def _joined(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    """Return the arrays of all recoveries as one; numbers of active places may differ, see `Trajectory`."""
    gap = {"support": -1, "coefficients": np.nan}.get(name.rpartition(".")[2])
    if gap is not None and all(array.ndim == 1 for array in arrays):
        most = max(map(len, arrays))
        arrays = [np.pad(a, (0, most - len(a)), constant_values=gap) for a in arrays]
    return np.stack(arrays)


def _trajectories(
    folder: Folder, names: Sequence[str], space: Space
) -> dict[tuple[Any, ...], Trajectory]:
    """Return the trajectories in some files of recoveries, of which all must be of one search in the space."""
    matrices = folder.read_arrays(_MATRICES)
    where = str(folder.path / _MATRICES)
    choices = {choice.key: choice for choice in space.choices}
    for key, A in matrices.items():
        if key not in choices:
            raise FileError(f"{where}: there is no {short(key)} in the space {space.name}")
        check_arrays({key: A}, {key: Array("f", ("m", len(choices[key].candidates)))}, where)
    tables: list[dict[str, np.ndarray]] = []
    for name in names:
        table = folder.read_arrays(name)
        check_arrays(table, _form_of_recovery(matrices), str(folder.path / name))
        for key, A in matrices.items():
            support = table[f"{key}.support"]
            if not ((support >= 0) & (support < A.shape[1])).all():
                raise FileError(f"{folder.path / name}: {key}.support has places that do not exist")
        tables.append(table)
    if all(table["refused"] for table in tables):
        raise FileError(f"{folder.path / names[0]}: refused cannot be true of all recoveries")
    arrays = {name: _joined(name, [table[name] for table in tables]) for name in tables[0]}
    found: dict[tuple[Any, ...], Trajectory] = {}
    for i, key in enumerate(matrices):
        choice = choices[key]
        place = (
            (choice.kind, choice.node, choice.name) if choice.name else (choice.kind, choice.node)
        )
        found[place] = Trajectory(
            kind=choice.kind,
            node=choice.node,
            name=choice.name,
            places=choice.candidates,
            labels=tuple(space.label(place) for place in choice.candidates),
            A=matrices[key],
            **{name: arrays[f"{key}.{name}"] for name in ("b", "z", "support", "coefficients")},
            frozen=arrays["frozen"][:, i],
            refused=arrays["refused"],
            **{scalar: arrays[scalar][:, i] for scalar in RECOVERY_SCALARS},
        )
    return found


def _form_of_recovery(matrices: dict[str, np.ndarray]) -> dict[str, Array]:
    """Return the arrays of a recovery of these matrices; how many places are active may differ from others."""
    form: dict[str, Array] = {}
    for key, A in matrices.items():
        s = f"s of {key}"
        form[f"{key}.b"] = Array("f", (A.shape[0],))
        form[f"{key}.z"] = Array("f", (A.shape[1],))
        form[f"{key}.support"] = Array("i", (s,))
        form[f"{key}.coefficients"] = Array("f", (s,))
    of_each = (len(matrices),)
    form |= {scalar: Array(_KINDS.get(scalar, "f"), of_each) for scalar in RECOVERY_SCALARS}
    return {**form, "frozen": Array("b", of_each), "refused": Array("b", ())}
