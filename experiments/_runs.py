"""Readings that the experiments take from their runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from isnas import DARTS_SPACE
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.records import RunRecord
from isnas.runtime.options import Composition


def seconds(record: RunRecord, part: str, phase: str | None = None) -> float:
    """Return the seconds that a part of a run took, or the epochs of one phase of it."""
    return round(float(np.nansum(record.seconds(part)[_epochs_of(record, part, phase)])), 2)


def images(
    record: RunRecord, part: str, *, available: int, streams: int = 1, phase: str | None = None
) -> int:
    """Return how many images a part passed forwards and backwards, each as often as it was passed.

    Parameters
    ----------
    record : RunRecord
    part : str
    available : int
        Images of a stream: a batch has no more.
    streams : int
        Batches of a step.
    phase : str, optional
        Count the epochs of this phase only.
    """
    epochs = record.epochs(part)["epoch"][_epochs_of(record, part, phase)]
    steps = int(np.isin(record.steps(part)["epoch"], epochs).sum())
    return steps * min(record.options["batch_size"], available) * streams


def _epochs_of(record: RunRecord, part: str, phase: str | None) -> np.ndarray:
    columns = record.epochs(part)
    return columns["phase"] == phase if phase else np.ones(len(columns["epoch"]), dtype=bool)


def last(record: RunRecord, part: str, name: str) -> float | None:
    """Return a metric of a part's last epoch; None where it has none."""
    values = record.epochs(part).get(name)
    return None if values is None or np.isnan(values[-1]) else float(values[-1])


def error(result: dict[str, Any]) -> float:
    """Return the test error of a part's result, in per cent."""
    return 100 * (1 - result["test_accuracy"])


def evaluation_of(options: Composition, **changes: Any) -> Composition:
    """Return the options of training a network alone that `options` have, too, with changes."""
    schema = evaluation_schema(DARTS_SPACE)
    shared = {name: value for name, value in options.to_json().items() if name in schema.fields}
    return schema.compose(**{**shared, **changes})
