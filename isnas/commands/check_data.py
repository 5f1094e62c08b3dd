"""A look at the user's own data before anything is trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import spaces
from ..runtime.options import Schema
from ..runtime.progress import Progress
from ..searches.registry import method_named
from ..spaces.base import Space
from ..tasks.base import Inspection
from ..tasks.registry import task_of
from .search import TWO_STAGE

IRRELEVANT = ("data_root", "download", "colour_jitter", "validate")
"""Options of data that are for named data sets only, or that leave what is found as it is."""


@dataclass(frozen=True)
class DataCheck:
    """Result of `check_data`.

    Parameters
    ----------
    inspection : Inspection
        The findings about the data.
    trained : dict
        The defaults of a search that depend on how much there is, by name.
    """

    inspection: Inspection
    trained: dict[str, Any]

    @property
    def problems(self) -> list[str]:
        """The problems that would stop a training; empty where there are none."""
        return self.inspection.problems

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {**self.inspection.to_json(), "trained": self.trained, "fine": not self.problems}

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        found = list(self.inspection.lines())
        if self.trained:
            found += ["", "trained by default as:"]
            found += [f"  {name.replace('_', ' ')}: {v}" for name, v in self.trained.items()]
        return found


def check_schema(space: Space) -> Schema:
    """Return the options of a check: those of the data."""
    return Schema({"data": task_of(space).data_options})


def check_data(
    place: str | Path,
    space: str | Space = "darts",
    *,
    progress: Progress | None = None,
    **values: Any,
) -> DataCheck:
    """Read all of one's own data, and say what a training would find and what would stop it.

    Parameters
    ----------
    place : path
        The data, such as a folder of images.
    space : str or Space
        The search space, or its name: its networks say what kind of data these are.
    progress : Progress, optional
        By default nothing is shown.
    **values
        Options of the data by the names that the commands have, such as ``split=0.8``.

    Raises
    ------
    UserError
        When there are no such data, or an option is not usable.
    """
    space = spaces.get(space) if isinstance(space, str) else space
    progress = progress or Progress(quiet=True)
    task = task_of(space)
    options = check_schema(space).compose(data=str(place), **values)
    # what nobody sees is not announced
    begun = False

    def step(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            progress.begin(f"reading {task.unit}", 0, total)
            begun = True
        progress.step(done, total)

    try:
        inspection = task.inspect(options.data, step)
    finally:
        progress.end()
    trained: dict[str, Any] = {}
    if inspection.amount:
        defaults = method_named(TWO_STAGE, space).schema(space).compose()
        optimizer = defaults.optimizer
        half = inspection.amount // 2
        trained = {
            "method": f"{TWO_STAGE} in the space {space.name}",
            "batch_size": optimizer.batch_size,
            "epochs": optimizer.epochs,
            "steps_of_an_epoch": max(half // optimizer.batch_size, 1),
            "to_train_weights": inspection.amount - half,
            "to_train_the_code": half,
            "network": ", ".join(
                f"{name.replace('_', ' ')} {getattr(defaults.network, name)}"
                for name, field in defaults.schema.fields.items()
                if field.part == "network"
            ),
        }
    return DataCheck(inspection, trained)
