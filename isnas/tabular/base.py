"""Tables of known results: what is known of every architecture of a space, read from a CSV and looked up."""

from __future__ import annotations

import csv
import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import UserError
from ..runtime.files import write_atomically
from ..spaces.base import Space
from ..spaces.genotype import Genotype

if TYPE_CHECKING:
    from typing_extensions import Self

Rows = Iterable[tuple[str, Any, Iterable[Any]]]
"""A row: its position, its architecture's text, its numbers."""

Architecture = str | Genotype
"""An architecture as its space writes it, or as a genotype."""

MOST_LETTERS, MOST_LINES = 100_000, 100_000
"""Letters of a line, and lines, of a table that is read: many times as many as there can be."""


@dataclass(frozen=True, eq=False)
class Table(ABC):
    """The known results of all architectures of a space.

    Parameters
    ----------
    values : ndarray, (architectures, columns) float64
        Rows as in `architectures`, columns as in `columns`. It is copied, and cannot be changed.

    Class attributes
    ----------------
    space : Space
    columns : tuple of str
        The numbers that are known, in order; in a file `arch` stands before them.
    what : str
        The word for an architecture of the space.
    """

    values: NDArray[np.float64]

    space: ClassVar[Space]
    columns: ClassVar[tuple[str, ...]]
    what: ClassVar[str]

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        expected = (len(self.architectures()), len(self.columns))
        if values.shape != expected:
            raise ValueError(f"values have the shape {values.shape}; expected {expected}")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @classmethod
    @abstractmethod
    def architectures(cls) -> tuple[str, ...]:
        """Return the texts of all architectures, in the order of the rows."""

    @classmethod
    def number(cls, value: Any, column: str, where: str) -> float:
        """Return a value of a column as a number; by default an accuracy.

        Raises
        ------
        UserError
            When it is none; `where` says where it stands.
        """
        return percentage(value, column, where)

    @classmethod
    def expected(cls) -> str:
        """Return what a file should be, for messages."""
        return f"expected a CSV with the columns {', '.join(('arch', *cls.columns))}"

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a CSV, plain or compressed with gzip.

        Its first line names the columns, among them `arch` and `columns` in any order; each architecture stands in one
        line.

        Raises
        ------
        UserError
            When the file is missing, truncated or not such a table: it names the path, the line, and what was
            expected.
        """
        path = Path(path)
        try:
            with _open(path) as file:
                reader = csv.reader(cls._lines(str(path), file), strict=True)
                try:
                    return cls.assembled(str(path), cls._rows_in(str(path), reader))
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    raise UserError(
                        f"{path}, after line {reader.line_num}: the compressed file is truncated or "
                        f"damaged ({error}); {cls.expected()}"
                    ) from None
                except UnicodeDecodeError:
                    raise UserError(
                        f"{path}, after line {reader.line_num}: this is no text; {cls.expected()}"
                    ) from None
                except csv.Error as error:
                    raise UserError(
                        f"{path}, line {reader.line_num}: {error}; {cls.expected()}"
                    ) from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None

    def write(self, path: str | Path) -> None:
        """Write the table as a CSV that `read` reads, compressed when the name ends in ``.gz``.

        Raises
        ------
        UserError
            When it cannot be written.
        """
        lines = [",".join(("arch", *self.columns))]
        for arch, values in zip(self.architectures(), self.values.tolist(), strict=True):
            lines.append(",".join((arch, *map(str, values))))
        content = ("\n".join(lines) + "\n").encode()
        packed = Path(path).suffix == ".gz"
        # without the time of writing: the same table gives the same bytes
        write_atomically(path, gzip.compress(content, mtime=0) if packed else content)

    @classmethod
    def position(cls, architecture: Architecture) -> int:
        """Return in which row an architecture stands, which a `UserError` names when it is not one of the space."""
        text = architecture
        if isinstance(architecture, Genotype):
            text = cls.space.format(architecture)
        known = _positions(cls)
        found = known.get(text) if isinstance(text, str) else None
        # every text that can be read is one of all: here the reader says what is wrong
        return known[cls.space.format(cls.space.parse(text))] if found is None else found

    @classmethod
    def assembled(cls, name: str, rows: Rows) -> Self:
        """Return the table of these rows, which must be of every architecture once; `name` says where they are from.

        Raises
        ------
        UserError
            When they are not.
        """
        every = cls.architectures()
        values = np.full((len(every), len(cls.columns)), np.nan)
        found: dict[int, str] = {}
        where = "line 1"
        for where, arch, numbers in rows:
            try:
                position = cls.position(arch)
            except UserError as error:
                raise UserError(f"{name}, {where}: {error}") from None
            if position in found:
                raise UserError(
                    f"{name}, {where}: the {cls.what} {arch} stands in {found[position]} already; "
                    f"expected each {cls.what} once"
                )
            found[position] = where
            values[position] = [
                cls.number(number, column, f"{name}, {where}")
                for column, number in zip(cls.columns, numbers, strict=True)
            ]
        missing = [arch for position, arch in enumerate(every) if position not in found]
        if missing:
            raise UserError(
                f"{name} ends after {where} with {len(found)} of the {len(every)} {cls.what}s; "
                f"expected all, also {missing[0]}"
            )
        return cls(values)

    @classmethod
    def _rows_in(cls, path: str, reader: Any) -> Iterator[tuple[str, str, list[str]]]:
        header = next(reader, [])
        wrong = [name for name in ("arch", *cls.columns) if header.count(name) != 1]
        if wrong:
            number = "more than one" if wrong[0] in header else "no"
            raise UserError(
                f"{path}, line 1: there is {number} column {wrong[0]}; {cls.expected()}"
            )
        arch, *numbers = (header.index(name) for name in ("arch", *cls.columns))
        for row in reader:
            if not row:  # an empty line, as at the end
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: there are {len(row)} values; "
                    f"expected {len(header)}, one for each column"
                )
            yield f"line {reader.line_num}", row[arch], [row[i] for i in numbers]

    @classmethod
    def _lines(cls, path: str, file: TextIO) -> Iterator[str]:
        """Yield the lines of a table; a small compressed file may unpack to gigabytes of what is none."""
        number = 0
        while line := file.readline(MOST_LETTERS + 1):
            number += 1
            if len(line) > MOST_LETTERS:
                raise UserError(
                    f"{path}, line {number} is longer than {MOST_LETTERS:,} letters; {cls.expected()}"
                )
            if number > MOST_LINES:
                raise UserError(f"{path} has more than {MOST_LINES:,} lines; {cls.expected()}")
            yield line


def rank(column: NDArray[np.float64], position: int) -> int:
    """Return the rank of an entry among all of a column: 1 is the largest, and entries that tie share the better."""
    return 1 + int(np.count_nonzero(column > column[position]))


def percentage(number: Any, column: str, where: str) -> float:
    """Return an accuracy in per cent; raise a `UserError` where it is none."""
    value = _number(number)
    if not 0 <= value <= 100:
        raise UserError(
            f"{where}: {column} is {number!r:.40}; expected an accuracy in per cent, 0 to 100"
        )
    return value


def count(number: Any, column: str, where: str) -> float:
    """Return a whole number of at least 0; raise a `UserError` where it is none."""
    value = _number(number)
    if not (value >= 0 and value.is_integer()):
        raise UserError(f"{where}: {column} is {number!r:.40}; expected a whole number")
    return value


def _number(number: Any) -> float:
    try:
        return float(number)
    except (TypeError, ValueError):
        return float("nan")


def _open(path: Path) -> TextIO:
    """Open a text, compressed or not: what the content says, not the name."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig", newline="")


@cache
def _positions(table: type[Table]) -> dict[str, int]:
    return {text: position for position, text in enumerate(table.architectures())}
