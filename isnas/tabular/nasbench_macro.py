"""The table of NAS-Bench-Macro: how well each network of the space `chain` does once trained, and its size.

References
----------
Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021, and the authors' data,
xiusu/NAS-Bench-Macro.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..spaces.chain import CHAIN_SPACE, all_networks
from . import base

SIZES = ("parameters", "multiply_adds")


@dataclass(frozen=True)
class Row:
    """An entry of the table for one network.

    Test accuracies on CIFAR-10 in per cent of three trainings from scratch, each the best of its 50 epochs (the
    authors' code, ``train/train.py``); parameters, and multiply-adds for an image of 32 x 32 pixels.
    """

    arch: str
    cifar10_test_1: float
    cifar10_test_2: float
    cifar10_test_3: float
    parameters: int
    multiply_adds: int

    @property
    def accuracy(self) -> float:
        """The mean of the three accuracies."""
        return (self.cifar10_test_1 + self.cifar10_test_2 + self.cifar10_test_3) / 3


COLUMNS = tuple(field.name for field in fields(Row))[1:]
"""The table's columns, in order; before them stands `arch`."""

TRAININGS = tuple(name for name in COLUMNS if name not in SIZES)
"""The columns of accuracies: one for each training."""


@dataclass(frozen=True, eq=False)
class MacroTable(base.Table):
    """The accuracies and sizes of all networks.

    Parameters
    ----------
    values : ndarray, (6561, 5) float64
        Rows as in `all_networks`, columns as in `COLUMNS`. It is copied, and cannot be changed.

    Examples
    --------
    >>> table = MacroTable.read("nas-bench-macro.csv.gz")  # doctest: +SKIP
    >>> round(table.best().accuracy, 2)  # doctest: +SKIP
    93.13
    """

    space: ClassVar = CHAIN_SPACE
    columns: ClassVar = COLUMNS
    what: ClassVar = "network"

    @classmethod
    def architectures(cls) -> tuple[str, ...]:
        return all_networks()

    @classmethod
    def number(cls, value: Any, column: str, where: str) -> float:
        return (base.count if column in SIZES else base.percentage)(value, column, where)

    def __getitem__(self, network: base.Architecture) -> Row:
        """Return all that is known of a network, which a `UserError` names when it is not one of this space."""
        return self._row(self.position(network))

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a column, (6561,), in the order of `all_networks`; read only. `name` is one of `COLUMNS`."""
        return self.values[:, COLUMNS.index(name)]

    @property
    def trainings(self) -> NDArray[np.float64]:
        """The accuracies of the three trainings, (3, 6561) in per cent."""
        return self.values[:, [COLUMNS.index(name) for name in TRAININGS]].T

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """The mean accuracies of the three trainings, (6561,) in per cent."""
        return self.trainings.mean(axis=0)

    def accuracy(self, network: base.Architecture) -> float:
        """Return the mean accuracy of a network, in per cent."""
        return float(self.accuracies[self.position(network)])

    def rank(self, network: base.Architecture) -> int:
        """Return a network's rank by mean accuracy: 1 is the best, and networks that tie share the better rank."""
        return base.rank(self.accuracies, self.position(network))

    def best(self) -> Row:
        """Return the row of the most accurate network; of those that tie, the first in the order of `all_networks`."""
        return self._row(int(np.argmax(self.accuracies)))

    def _row(self, position: int) -> Row:
        *accuracies, parameters, multiply_adds = self.values[position].tolist()
        return Row(all_networks()[position], *accuracies, int(parameters), int(multiply_adds))
