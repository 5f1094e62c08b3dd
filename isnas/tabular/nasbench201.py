"""The table of NAS-Bench-201: how well each cell of its space does once trained.

References
----------
Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020.
Dong, Liu, Musial & Gabrys, "NATS-Bench", TPAMI 2021: the archive of the results and its package `nats_bench`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import UserError
from ..spaces.nasbench201 import NASBENCH201_SPACE, Cell, all_cells
from . import base

DATASETS = ("cifar10", "cifar100", "imagenet16")
"""CIFAR-10, CIFAR-100 and ImageNet-16-120, as the table's columns name them."""

MEASURES = ("val_12", "test_12", "test_200")
"""Validation and test accuracy after 12 epochs of training, test accuracy after 200."""


@dataclass(frozen=True)
class Row:
    """An entry of the table for one cell: accuracies in per cent, after so many epochs of training from scratch.

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


@dataclass(frozen=True, eq=False)
class Table(base.Table):
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

    space: ClassVar = NASBENCH201_SPACE
    columns: ClassVar = COLUMNS
    what: ClassVar = "cell"

    @classmethod
    def architectures(cls) -> tuple[str, ...]:
        return all_cells()

    def __getitem__(self, cell: Cell) -> Row:
        """Return all that is known of a cell, which a `UserError` names when it is not one of this space."""
        return self._row(self.position(cell))

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
        return float(self.column(dataset, what)[self.position(cell)])

    def rank(self, cell: Cell, dataset: str, what: str = "test_200") -> int:
        """Return a cell's rank among all cells: 1 is the best, and cells that tie share the better rank."""
        return base.rank(self.column(dataset, what), self.position(cell))

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
        return Table.assembled(str(path), _rows_of_archive(archive))
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
