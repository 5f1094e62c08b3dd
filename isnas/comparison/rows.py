"""What experiments share: rows that survive an interruption, the record of how they were made, Markdown tables.

about.json   settings, and for every launch its command, versions and machine
rows.jsonl   a row for every finished trial, on the disk as soon as it is finished
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from ..runs.directory import versions
from ..runtime.errors import UserError
from ..runtime.files import lock, read_json, write_json

ABOUT, ROWS = "about.json", "rows.jsonl"


class Rows:
    """The rows of an experiment in a directory; no other process can write there while they are open.

    Parameters
    ----------
    directory : Path
        Made when it is not there.
    key : tuple of str
        What tells trials apart.
    settings : dict
        What all rows of the directory have in common, as plain data.
    launch : dict
        The record of this launch, see `launch_record`.
    defaults : dict, optional
        Settings that rows of an older version, which knows no such setting, were made with.

    Attributes
    ----------
    rows : list of dict

    Raises
    ------
    UserError
        When the directory cannot be written, another process writes there, or it has rows of other settings.
    """

    def __init__(
        self,
        directory: Path,
        key: tuple[str, ...],
        settings: dict[str, Any],
        launch: dict[str, Any],
        defaults: dict[str, Any] | None = None,
    ) -> None:
        self.path = directory / ROWS
        self.key = key
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = lock(directory / "lock")
        except OSError as error:
            raise UserError(f"{directory} cannot be written: {error.strerror}") from None
        if self._lock is None:
            raise UserError(f"{directory} is being written by another process")
        try:
            plain = (json.loads(json.dumps(each)) for each in (settings, defaults or {}))
            self._begin(directory / ABOUT, *plain, launch)
            self.rows = self._whole_rows()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Rows:
        """Return the rows."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let others write there."""
        self._lock.close()

    def _begin(
        self,
        path: Path,
        settings: dict[str, Any],
        defaults: dict[str, Any],
        launch: dict[str, Any],
    ) -> None:
        about = {"settings": settings, "launches": []}
        if path.exists():
            about = read_json(path)
            known = {name: value for name, value in defaults.items() if name in settings}
            about["settings"] = {**known, **about["settings"]}
            for name in sorted({*settings, *about["settings"]}):
                old, new = about["settings"].get(name), settings.get(name)
                if old != new:
                    raise UserError(
                        f"{path.parent} has rows with {name} = {old!r}, not {new!r}: go on with the same "
                        f"settings or choose another directory"
                    )
        about["launches"].append(launch)
        write_json(path, about)

    def _whole_rows(self) -> list[dict[str, Any]]:
        """Return the rows that are there; one that a crash cut short is taken back."""
        try:
            with open(self.path, "a+b") as file:
                file.seek(0)
                content = file.read()
                whole = content[: content.rfind(b"\n") + 1]
                file.truncate(len(whole))
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from None
        return _parsed(self.path, whole.decode())

    def has(self, *key: Any) -> bool:
        """Whether there is a row of this trial."""
        return any(tuple(row[name] for name in self.key) == key for row in self.rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on the disk when this returns."""
        try:
            with open(self.path, "ab") as file:
                file.write((json.dumps(row) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}") from None
        self.rows.append(row)


def read_rows(directory: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a directory, also while they are being written.

    Raises
    ------
    UserError
        When there are none, or the file is damaged.
    """
    path = Path(directory) / ROWS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    rows = _parsed(path, content[: content.rfind(b"\n") + 1].decode())
    if not rows:
        raise UserError(f"{path} has no rows yet")
    return rows


def read_about(directory: str | Path) -> dict[str, Any]:
    """Return the content of a directory's about.json."""
    return read_json(Path(directory) / ABOUT)


def _parsed(path: Path, text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number} is no valid JSON: {error}") from None
    return rows


def launch_record(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what launched an experiment: command, versions, machine, time.

    Of paths only the last part is kept: where they are says something of the machine, not of the experiment.
    """
    words = [Path(word).name if os.sep in word else word for word in arguments]
    quoted = [f"'{word}'" if " " in word else word for word in words]
    libraries = {name: version(name) for name in ("scipy", "scikit-learn", "joblib")}
    return {
        "command": " ".join(["python -m", module, *quoted]),
        "versions": {**versions(), **libraries},
        "machine": machine(),
        "started": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}",
    }


def machine() -> dict[str, Any]:
    """Return what the machine is: system, processor, cores, gpu (None where there is none)."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux only
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": platform.system(),
        "processor": processor,
        "cores": os.cpu_count(),
        "gpu": gpu,
    }


def mean_and_deviation(values: Sequence[float], digits: int = 2) -> str:
    """Return the mean and the sample's standard deviation as text; one value stands alone.

    Examples
    --------
    >>> mean_and_deviation([1.0, 3.0])
    '2.00 ± 1.41'
    """
    mean = f"{fmean(values):,.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):,.{digits}f}"


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))
