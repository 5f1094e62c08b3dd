"""Searches with a super-net side by side, each with its options at a scale and in a run directory of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isnas import DARTS_SPACE, METHODS
from isnas.commands.run import Job, write_genotype
from isnas.comparison.trials import run_or_resume
from isnas.runs.loop import Part
from isnas.runtime.errors import UserError
from isnas.runtime.options import Composition
from isnas.searches.base import Search, Setting
from isnas.searches.one_stage import OneStageTraining
from isnas.searches.registry import search_options as options_of
from isnas.tasks.images import Dataset, split_indices
from isnas.tasks.registry import task_of

TWO_STAGE, ONE_STAGE, DARTS, SHARING = (
    "ista-two-stage",
    "ista-one-stage",
    "darts-1",
    "random-sharing",
)

SEARCHES = (TWO_STAGE, ONE_STAGE, DARTS, SHARING)
"""The searches that are compared, by their names in `isnas.METHODS`."""


class OneStageSearch(OneStageTraining):
    """The search phase of one-stage training by itself: it ends where the normal schedule would begin."""

    title = "one-stage search"

    @property
    def epochs(self) -> int:
        return self.options.method.search_epochs if self.searched is None else self.searched


def search_options(method: str, preset: str, changes: dict[str, Any], **own: Any) -> Composition:
    """Return a method's options: a preset's with changes, of which ``epochs`` are those of the search."""
    changes = {**changes, **own}
    if method == ONE_STAGE and "epochs" in changes:
        changes["search_epochs"] = changes.pop("epochs")
    return options_of(method, DARTS_SPACE, preset, **changes)


def build_search(
    method: str, options: Composition, dataset: Dataset, device: torch.device
) -> Search:
    """Return the stage of a search in the space of DARTS.

    The weights of all learn from the same half of the training data, those of one-stage training, too.

    Parameters
    ----------
    method : str
    options : Composition
        Options of the method.
    dataset : Dataset
        On the device.
    device : torch.device

    Raises
    ------
    UserError
        When the images do not fit the memory, in one-stage training.
    """
    task = task_of(DARTS_SPACE)
    if method != ONE_STAGE:
        return METHODS[method].create(Setting(DARTS_SPACE, task, dataset, device, options))
    if not isinstance(dataset.train_images, Tensor):
        raise UserError("one-stage search on half of the images needs images that fit the memory")
    half = split_indices(len(dataset.train_labels), 0.5, options.runtime.seed)[0].to(device)
    images, labels = dataset.train_images[half], dataset.train_labels[half]
    dataset = replace(dataset, train_images=images, train_labels=labels)
    return OneStageSearch.create(Setting(DARTS_SPACE, task, dataset, device, options))


def run_search(
    method: str, options: Composition, out: Path, finish: Callable[[Search], dict[str, Any]]
) -> dict[str, Any]:
    """Search in a run directory, or go on there, and return what `finish` makes of the search that has ended."""

    def parts(job: Job, run: Any, data: Dataset, device: torch.device) -> list[Part]:
        def ended(search: Search) -> dict[str, Any]:
            write_genotype(run, search.genotype())
            return finish(search)

        return [Part("search", lambda results: build_search(method, options, data, device), ended)]

    job = Job("search", DARTS_SPACE, task_of(DARTS_SPACE), options, {"method": method}, parts)
    return run_or_resume(job, out).results["search"]
