"""Searches with a super-net side by side, each with its options at a scale and in a run directory of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isnas.commands import load
from isnas.comparison.methods import METHODS
from isnas.comparison.trials import run_part
from isnas.networks.darts import build_supernet
from isnas.runs.loop import Part, Stage
from isnas.runs.options import RunOptions
from isnas.runs.training import network_options, resolve_device
from isnas.runtime.errors import UserError
from isnas.searches.one_stage import OneStageTraining
from isnas.spaces.base import DARTS_SPACE
from isnas.tasks.images import Dataset, split_indices

TWO_STAGE, ONE_STAGE, DARTS, SHARING = (
    "ista-two-stage",
    "ista-one-stage",
    "darts-1",
    "random-sharing",
)

SEARCHES = (TWO_STAGE, ONE_STAGE, DARTS, SHARING)
"""The searches that are compared, by their names in `isnas.comparison.methods`."""


class OneStageSearch(OneStageTraining):
    """The search phase of one-stage training by itself: it ends where the normal schedule would begin."""

    title = "one-stage search"

    @property
    def epochs(self) -> int:
        return self.options.search_epochs if self.searched is None else self.searched


def search_options(method: str, preset: str, changes: dict[str, Any], **own: Any) -> RunOptions:
    """Return a method's options: a preset's with changes, of which ``epochs`` are those of the search."""
    changes = {**changes, **METHODS[method].fixed, **own}
    if method == ONE_STAGE and "epochs" in changes:
        changes["search_epochs"] = changes.pop("epochs")
    return METHODS[method].options.preset(preset, **changes)


def halves(dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """Return the images that the searches' weights learn from, and the others."""
    return split_indices(len(dataset.train_labels), 0.5, seed)


def build_search(method: str, options: RunOptions, dataset: Dataset, device: torch.device) -> Stage:
    """Return the stage of a search in the space of DARTS.

    The weights of all learn from the same half of the training data, those of one-stage training, too.

    Parameters
    ----------
    method : str
    options : RunOptions
        Of the method's class.
    dataset : Dataset
        On the device.
    device : torch.device

    Raises
    ------
    UserError
        When the images do not fit the memory, in one-stage training.
    """
    stage = METHODS[method].stage
    if method == ONE_STAGE:
        stage = OneStageSearch
        if not isinstance(dataset.train_images, Tensor):
            raise UserError(
                "one-stage search on half of the images needs images that fit the memory"
            )
        half = halves(dataset, options.seed)[0].to(device)
        images, labels = dataset.train_images[half], dataset.train_labels[half]
        dataset = replace(dataset, train_images=images, train_labels=labels)
    shape = replace(network_options(options, dataset), **stage.network_changes(options))
    space = stage.supernet_space(DARTS_SPACE, options)
    return stage(build_supernet(shape, space, seed=options.seed), options, dataset, device)


def run_search(
    method: str,
    options: RunOptions,
    out: Path,
    finish: Callable[[Stage, Dataset], dict[str, Any]],
) -> dict[str, Any]:
    """Search in a run directory, or go on there, and return what `finish` makes of the stage that has ended.

    Parameters
    ----------
    method : str
    options : RunOptions
    out : Path
    finish : callable
        Gets the stage and the data, on its device.
    """
    device = resolve_device(options.device)
    dataset = load(options).to(device)
    part = Part(
        "search",
        lambda results: build_search(method, options, dataset, device),
        lambda stage: finish(stage, dataset),
    )
    return run_part(options, part, out, command="search")
