"""Common parts of experiments: rows that survive an interruption, the record of how they were made, Markdown tables.

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
from ..runtime.errors import FileError, UserError, short
from ..runtime.files import Folder
from ..runtime.forms import (
    ANYTHING,
    OBJECT,
    PLAIN,
    Both,
    Chosen,
    Form,
    List,
    Mapping,
    Optional,
    Record,
    Text,
    Whole,
)

ABOUT, ROWS, LOCK = "about.json", "rows.jsonl", "lock"

_LAUNCH = Record(
    known={
        "command": Text(),
        "versions": Mapping(Text(longest=200)),
        "machine": Record(
            known={
                "system": Text(longest=200),
                "processor": Text(longest=200),
                "cores": Optional(Whole()),
                "gpu": Optional(Text(longest=200)),
            },
            others=ANYTHING,
        ),
        "started": Text(longest=200),
    },
    others=ANYTHING,
)

DIED = "died"
"""The name in rows.jsonl, beside a trial's key, of the reason why its process died."""

_DEATH = Record({DIED: Text(longest=1000)}, others=PLAIN)

ABOUT_FORM = Record(
    needed={"settings": OBJECT, "launches": List(_LAUNCH)},
    others=ANYTHING,
)
"""about.json"""


class Rows:
    """The rows of an experiment in a directory; no other process can write there while they are open.

    Parameters
    ----------
    directory : Path
        Made when it is not there.
    key : tuple of str
        The names that tell trials apart.
    settings : dict
        The settings that all rows of the directory have in common, as plain data.
    launch : dict
        The record of this launch, see `launch_record`.
    defaults : dict, optional
        Settings that rows of an older version, which knows no such setting, were made with.
    form : Form
        The form of a row; by default any object.

    Attributes
    ----------
    rows : list of dict
    died : list of dict
        Trials whose process died, which have no row: their keys, and the reason.

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
        form: Form = OBJECT,
    ) -> None:
        self.folder = Folder(directory)
        self.path = directory / ROWS
        self.key = key
        self.folder.make()
        self._lock = self.folder.lock(LOCK)
        if self._lock is None:
            raise UserError(f"{directory} is being written by another process")
        try:
            self.folder.tidy()
            plain = (json.loads(json.dumps(each)) for each in (settings, defaults or {}))
            self._begin(*plain, launch)
            # a row that a crash cut short is taken back
            whole = sum(len(line) + 1 for _, line in self.folder.lines(ROWS))
            self.folder.truncate(ROWS, whole)
            self.rows, self.died = _read(self.folder, _with_key(key, form))
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
        self, settings: dict[str, Any], defaults: dict[str, Any], launch: dict[str, Any]
    ) -> None:
        about = {"settings": settings, "launches": []}
        if self.folder.size(ABOUT) is not None:
            about = self.folder.read_json(ABOUT, ABOUT_FORM)
            known = {name: value for name, value in defaults.items() if name in settings}
            about["settings"] = {**known, **about["settings"]}
            for name in sorted({*settings, *about["settings"]}):
                old, new = about["settings"].get(name), settings.get(name)
                if old != new:
                    raise UserError(
                        f"{self.folder.path} has rows with {name} = {short(old)}, not {short(new)}: go on with the "
                        f"same settings or choose another directory"
                    )
        about["launches"].append(launch)
        self.folder.write_json(ABOUT, about)

    def has(self, *key: Any) -> bool:
        """Return whether there is a row of this trial."""
        return any(tuple(row[name] for name in self.key) == key for row in self.rows)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on the disk when this returns."""
        self.folder.append(ROWS, json.dumps(row) + "\n", sync=True)
        self.rows.append(row)

    def append_death(self, key: Sequence[Any], reason: str) -> None:
        """Add that the process of a trial died. It has no row then: the same command tries it again."""
        row = {**dict(zip(self.key, key, strict=True)), DIED: reason}
        self.folder.append(ROWS, json.dumps(row) + "\n", sync=True)
        self.died.append(row)


def read_rows(directory: str | Path, form: Form = OBJECT) -> list[dict[str, Any]]:
    """Return the rows of a directory, also while they are being written.

    Parameters
    ----------
    directory : path
    form : Form
        The form of a row; by default any object.

    Raises
    ------
    UserError
        When there are none, or the file is damaged.
    """
    folder = Folder(directory)
    if folder.size(ROWS) is None:
        raise FileError(f"{folder.path / ROWS} cannot be read: there is no such file")
    rows, _ = _read(folder, form)
    if not rows:
        raise UserError(f"{folder.path / ROWS} has no rows yet")
    return rows


def read_about(directory: str | Path) -> dict[str, Any]:
    """Return the content of a directory's about.json."""
    return Folder(directory).read_json(ABOUT, ABOUT_FORM)


def _read(folder: Folder, form: Form) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of a directory, and the trials whose process died and that have no row since."""
    rows, died = [], []
    for _, row in folder.json_lines(ROWS, Chosen(lambda row: _DEATH if DIED in row else form)):
        (died if DIED in row else rows).append(row)
    last = {tuple(row[name] for name in row if name != DIED): row for row in died}
    return rows, [
        row
        for key, row in last.items()
        if not any(tuple(r.get(name) for name in row if name != DIED) == key for r in rows)
    ]


def _with_key(key: Sequence[str], form: Form) -> Form:
    """Return the form of rows that have a key, too."""
    return Both((Record(dict.fromkeys(key, PLAIN), others=ANYTHING), form))


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
