"""The table of NAS-Bench-201: how well each cell of its space does once trained.

References
----------
Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020.
Dong, Liu, Musial & Gabrys, "NATS-Bench", TPAMI 2021: the archive of the results and its package `nats_bench`.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import UserError
from ..runtime.files import write_atomically
from ..spaces.genotype import Genotype
from ..spaces.nasbench201 import Cell, all_cells, parse_string, to_string

DATASETS = ("cifar10", "cifar100", "imagenet16")
"""CIFAR-10, CIFAR-100 and ImageNet-16-120, as the table's columns name them."""

MEASURES = ("val_12", "test_12", "test_200")
"""Validation and test accuracy after 12 epochs of training, test accuracy after 200."""

_Rows = Iterable[tuple[str, Any, Iterable[Any]]]  # where it stands, the cell, its accuracies


@dataclass(frozen=True)
class Row:
    """What the table says of a cell: accuracies in per cent, after so many epochs of training from scratch.

    On CIFAR-10 the validation accuracy is of networks trained on half of the training images, the test accuracy of
    others trained on all of them.
    """

    arch: str
    cifar10_val_12: float
    cifar10_test_12: float
    cifar100_val_12: float
    cifar100_test_12: float
    imagenet16_val_12: float
    imagenet16_test_12: float
    cifar10_test_200: float
    cifar100_test_200: float
    imagenet16_test_200: float


COLUMNS = tuple(field.name for field in fields(Row))[1:]
"""The table's columns of accuracies, in order; before them stands `arch`."""

MOST_LETTERS, MOST_LINES = 100_000, 100_000
"""Letters of a line, and lines, of a table that is read: many times as many as there can be."""

_EXPECTED = f"expected a CSV with the columns {', '.join(('arch', *COLUMNS))}"


@dataclass(frozen=True, eq=False)
class Table:
    """The accuracies of all cells.

    Parameters
    ----------
    values : ndarray, (15625, 9) float64
        In per cent; rows as in `all_cells`, columns as in `COLUMNS`. It is copied, and cannot be changed.

    Examples
    --------
    >>> table = Table.read("nasbench201.csv.gz")  # doctest: +SKIP
    >>> table.best("cifar10").cifar10_test_200  # doctest: +SKIP
    94.373
    """

    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        if values.shape != (len(all_cells()), len(COLUMNS)):
            raise ValueError(
                f"values have the shape {values.shape}; expected {(len(all_cells()), len(COLUMNS))}"
            )
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    @classmethod
    def read(cls, path: str | Path) -> Table:
        """Read a CSV, plain or compressed with gzip.

        Its first line names the columns, among them `arch` and `COLUMNS` in any order; each cell stands in one line.

        Raises
        ------
        UserError
            When the file is missing, truncated or not such a table: it names the path, the line, and what was
            expected.
        """
        path = Path(path)
        try:
            with _open(path) as file:
                reader = csv.reader(_lines(str(path), file), strict=True)
                try:
                    return _assembled(str(path), _rows_in(str(path), reader))
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    raise UserError(
                        f"{path}, after line {reader.line_num}: the compressed file is truncated or "
                        f"damaged ({error}); {_EXPECTED}"
                    ) from None
                except UnicodeDecodeError:
                    raise UserError(
                        f"{path}, after line {reader.line_num}: this is no text; {_EXPECTED}"
                    ) from None
                except csv.Error as error:
                    raise UserError(
                        f"{path}, line {reader.line_num}: {error}; {_EXPECTED}"
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
        lines = [",".join(("arch", *COLUMNS))]
        for arch, values in zip(all_cells(), self.values.tolist(), strict=True):
            lines.append(",".join((arch, *map(str, values))))
        content = ("\n".join(lines) + "\n").encode()
        packed = Path(path).suffix == ".gz"
        # without the time of writing: the same table gives the same bytes
        write_atomically(path, gzip.compress(content, mtime=0) if packed else content)

    def __getitem__(self, cell: Cell) -> Row:
        """Return all that is known of a cell, which a `UserError` names when it is not one of this space."""
        return self._row(_position(cell))

    def column(self, dataset: str, what: str = "test_200") -> NDArray[np.float64]:
        """Return the accuracies of all cells, (15625,) in per cent, in the order of `all_cells`; read only.

        Raises
        ------
        UserError
            When there is no such column.
        """
        name = f"{dataset}_{what}"
        if dataset not in DATASETS or what not in MEASURES or name not in COLUMNS:
            raise UserError(
                f"the table has no {what!r} of {dataset!r}; it has {', '.join(MEASURES)} "
                f"of {', '.join(DATASETS)}"
            )
        return self.values[:, COLUMNS.index(name)]

    def accuracy(self, cell: Cell, dataset: str, what: str = "test_200") -> float:
        """Return an accuracy of a cell, in per cent; errors as in `column` and for what is no cell of this space."""
        return float(self.column(dataset, what)[_position(cell)])

    def rank(self, cell: Cell, dataset: str, what: str = "test_200") -> int:
        """Return a cell's rank among all cells: 1 is the best, and cells that tie share the better rank."""
        column = self.column(dataset, what)
        return 1 + int(np.count_nonzero(column > column[_position(cell)]))

    def best(self, dataset: str, what: str = "test_200") -> Row:
        """Return the row of the most accurate cell; of cells that tie, the first in the order of `all_cells`."""
        return self._row(int(np.argmax(self.column(dataset, what))))

    def mean(self, dataset: str, what: str = "test_200") -> float:
        """Return the mean accuracy of all cells, in per cent: what a cell drawn at random has on average."""
        return float(self.column(dataset, what).mean())

    def _row(self, position: int) -> Row:
        return Row(all_cells()[position], *self.values[position].tolist())


def read_natsbench(path: str | Path) -> Table:
    """Read the table from the official archive of NATS-Bench, by its package `nats_bench` (extra ``[natsbench]``).

    This takes minutes and gigabytes of memory: keep the result with `Table.write`. The archive consists of pickles,
    which can execute anything: read none that you do not trust.

    Parameters
    ----------
    path : str or Path
        The directory ``NATS-tss-v1_0-3ffb9-simple``, or the single file ``NATS-tss-v1_0-3ffb9.pickle.pbz2``.

    Returns
    -------
    Table
        Means over the runs that the archive has of a cell (``is_random=False``).

    Raises
    ------
    UserError
        When the package is not installed, or the archive is missing, damaged or incomplete.
    """
    try:
        import nats_bench
    except ImportError as error:
        raise UserError(
            f"the archive of NATS-Bench is read by the package nats_bench, which cannot be imported "
            f"({error}): pip install 'isnas[natsbench]'"
        ) from None
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"{path} cannot be read: there is no such file; expected the archive of NATS-Bench, "
            f"NATS-tss-v1_0-3ffb9-simple or NATS-tss-v1_0-3ffb9.pickle.pbz2"
        )
    try:
        # the directory has a file for each cell, opened when asked for: the package's fast mode
        archive = nats_bench.create(str(path), "tss", fast_mode=path.is_dir(), verbose=False)
        return _assembled(str(path), _rows_of_archive(archive))
    except UserError:
        raise
    except Exception as error:  # whatever the package makes of a damaged or foreign file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    raise UserError(
        f"{path} is damaged or no archive of NATS-Bench's topology space: {reason:.200}"
    )


# The package's data set, epochs and result for each column. Its "cifar10-valid" is CIFAR-10 with half of the training
# images for training and half for validation; its "cifar10" trains on all of them and has no validation.
_ARCHIVED = {
    "cifar10_val_12": ("cifar10-valid", "12", "valid-accuracy"),
    "cifar10_test_12": ("cifar10", "12", "test-accuracy"),
    "cifar100_val_12": ("cifar100", "12", "valid-accuracy"),
    "cifar100_test_12": ("cifar100", "12", "test-accuracy"),
    "imagenet16_val_12": ("ImageNet16-120", "12", "valid-accuracy"),
    "imagenet16_test_12": ("ImageNet16-120", "12", "test-accuracy"),
    "cifar10_test_200": ("cifar10", "200", "test-accuracy"),
    "cifar100_test_200": ("cifar100", "200", "test-accuracy"),
    "imagenet16_test_200": ("ImageNet16-120", "200", "test-accuracy"),
}


def _rows_of_archive(archive: Any) -> Iterator[tuple[str, str, list[float | None]]]:
    for index in range(len(archive)):
        infos = {
            (dataset, epochs): archive.get_more_info(index, dataset, hp=epochs, is_random=False)
            for dataset, epochs in dict.fromkeys(key[:2] for key in _ARCHIVED.values())
        }
        numbers = [infos[dataset, epochs].get(name) for dataset, epochs, name in _ARCHIVED.values()]
        yield f"cell {index}", archive.arch(index), numbers


def _open(path: Path) -> TextIO:
    """Open a text, compressed or not: what the content says, not the name."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig", newline="")


def _lines(path: str, file: TextIO) -> Iterator[str]:
    """Yield the lines of a table; a small compressed file may unpack to gigabytes of what is none."""
    number = 0
    while line := file.readline(MOST_LETTERS + 1):
        number += 1
        if len(line) > MOST_LETTERS:
            raise UserError(
                f"{path}, line {number} is longer than {MOST_LETTERS:,} letters; {_EXPECTED}"
            )
        if number > MOST_LINES:
            raise UserError(f"{path} has more than {MOST_LINES:,} lines; {_EXPECTED}")
        yield line


def _rows_in(path: str, reader: Any) -> Iterator[tuple[str, str, list[str]]]:
    header = next(reader, [])
    wrong = [name for name in ("arch", *COLUMNS) if header.count(name) != 1]
    if wrong:
        number = "more than one" if wrong[0] in header else "no"
        raise UserError(f"{path}, line 1: there is {number} column {wrong[0]}; {_EXPECTED}")
    arch, *accuracies = (header.index(name) for name in ("arch", *COLUMNS))
    for row in reader:
        if not row:  # an empty line, as at the end
            continue
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {reader.line_num}: there are {len(row)} values; "
                f"expected {len(header)}, one for each column"
            )
        yield f"line {reader.line_num}", row[arch], [row[i] for i in accuracies]


def _assembled(name: str, rows: _Rows) -> Table:
    """Return the table of these rows, which must be of every cell once."""
    values = np.full((len(all_cells()), len(COLUMNS)), np.nan)
    found: dict[int, str] = {}
    where = "line 1"
    for where, arch, numbers in rows:
        try:
            position = _position(arch)
        except UserError as error:
            raise UserError(f"{name}, {where}: {error}") from None
        if position in found:
            raise UserError(
                f"{name}, {where}: the cell {arch} stands in {found[position]} already; "
                f"expected each cell once"
            )
        found[position] = where
        values[position] = [
            _percentage(number, column, f"{name}, {where}")
            for column, number in zip(COLUMNS, numbers, strict=True)
        ]
    missing = [cell for position, cell in enumerate(all_cells()) if position not in found]
    if missing:
        raise UserError(
            f"{name} ends after {where} with {len(found)} of the {len(all_cells())} cells; "
            f"expected all, also {missing[0]}"
        )
    return Table(values)


def _percentage(number: Any, column: str, where: str) -> float:
    try:
        value = float(number)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value <= 100:
        raise UserError(
            f"{where}: {column} is {number!r:.40}; expected an accuracy in per cent, 0 to 100"
        )
    return value


def _position(cell: Cell) -> int:
    """Return where a cell stands in `all_cells`."""
    text = to_string(cell) if isinstance(cell, Genotype) else cell
    position = _positions().get(text) if isinstance(text, str) else None
    # every text that can be read is one of `all_cells`: here the reader says what is wrong
    return _positions()[to_string(parse_string(text))] if position is None else position


@cache
def _positions() -> dict[str, int]:
    return {cell: position for position, cell in enumerate(all_cells())}
