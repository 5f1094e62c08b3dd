"""Training the network of a fixed architecture from scratch: its options, the network, its sizes and its test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from ..networks.core import CellNetwork
from ..networks.counting import count_multiply_adds, count_parameters
from ..networks.registry import family, reshaped
from ..runtime.errors import UserError
from ..runtime.options import Composition, Schema
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.base import Task
from ..tasks.exhibits import Exhibit
from ..tasks.registry import task_of
from .options import RuntimeOptions

EVALUATION_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        # DARTS's (arXiv 1806.09055), with ISTA-NAS's drop path
        "darts": {
            "data": "cifar10",
            "channels": 36,
            "cells": 20,
            "batch_size": 96,
            "epochs": 600,
            "learning_rate": 0.025,
            "drop_path": 0.2,
            "auxiliary_weight": 0.4,
        },
        # ENAS's (scripts/cifar10_macro_final.sh) with one cosine instead of restarts, and momentum that is not
        # Nesterov's; the weight decay is twice its factor of the sum of squares
        "macro": {
            "data": "cifar10",
            "channels": 96,
            "batch_size": 100,
            "epochs": 310,
            "learning_rate": 0.05,
            "min_learning_rate": 0.001,
            "weight_decay": 4e-4,
            "clip": 0.0,
            "cutout": 0,
            "dropout": 0.5,
        },
        # the benchmark's training of all its cells (Dong & Yang, ICLR 2020)
        "nasbench201": {
            "data": "cifar10",
            "channels": 16,
            "cells": 5,
            "batch_size": 256,
            "epochs": 200,
            "learning_rate": 0.1,
            "nesterov": True,
            "weight_decay": 5e-4,
            "clip": 0.0,
            "cutout": 0,
        },
        # the benchmark's training of all its networks (Su et al., CVPR 2021: train/train.py of its code)
        "chain": {
            "data": "cifar10",
            "channels": 32,
            "features": 1280,
            "batch_size": 256,
            "epochs": 50,
            "learning_rate": 0.1,
            "weight_decay": 5e-4,
            "clip": 0.0,
            "cutout": 0,
        },
        # DARTS's on Penn Treebank: until it has converged, some thousand epochs
        "recurrent": {
            "width": 850,
            "dropout": 0.75,
            "dropout_words": 0.1,
            "dropout_embedding": 0.2,
            "dropout_input": 0.75,
            "dropout_hidden": 0.25,
            "batch_size": 64,
            "epochs": 8000,
            "learning_rate": 20.0,
            "min_learning_rate": 20.0,
            "weight_decay": 8e-7,
            "vary_length": "normal",
            "nonmonotone": 5,
            "test_streams": 1,
        },
    },
    "wikitext2": {
        # the same as far as it is for WikiText-2
        "recurrent": {
            "width": 700,
            "dropout": 0.75,
            "dropout_words": 0.1,
            "dropout_embedding": 0.2,
            "dropout_input": 0.75,
            "dropout_hidden": 0.15,
            "batch_size": 64,
            "epochs": 8000,
            "learning_rate": 20.0,
            "min_learning_rate": 20.0,
            "weight_decay": 5e-7,
            "vary_length": "normal",
            "nonmonotone": 5,
            "test_streams": 1,
        },
    },
    "imagenet": {
        # the mobile setting; the colours' variation is DARTS's
        "darts": {
            "stem": "imagenet",
            "image_size": 224,
            "crop": "resized",
            "colour_jitter": 0.4,
            "cutout": 0,
            "channels": 48,
            "cells": 14,
            "batch_size": 1024,
            "epochs": 250,
            "learning_rate": 0.5,
            "schedule": "linear-tail",
            "warm_up_epochs": 5,
            "weight_decay": 3e-5,
            "label_smoothing": 0.1,
            "auxiliary_weight": 0.4,
        },
    },
}
"""Recipes by name and by the space that they are for."""


def presets_for(
    presets: Mapping[str, Mapping[str, Mapping[str, Any]]], space: Space
) -> dict[str, Mapping[str, Any]]:
    """Return the presets that there are for a space; those under the name "" are for all."""
    return {
        name: {**of.get("", {}), **of.get(space.name, {})}
        for name, of in presets.items()
        if "" in of or space.name in of
    }


@cache
def evaluation_schema(space: Space) -> Schema:
    """Return the options of training a network of this space from scratch."""
    task = task_of(space)
    return Schema(
        {
            "data": task.data_options,
            "network": family(space).options,
            "optimizer": task.optimizer_options,
            "regularization": task.regularization_options,
            "runtime": RuntimeOptions,
        },
        defaults=family(space).quick,
        presets=presets_for(EVALUATION_PRESETS, space),
    )


def from_scratch(genotype: Genotype, recipe: Composition, task: Task, data: Any) -> CellNetwork:
    """Return the network of a genotype, not trained yet, for a recipe and the data.

    Parameters
    ----------
    genotype : Genotype
    recipe : Composition
        Options with the parts `network`, `regularization` and `runtime`.
    task : Task
    data
        The task's data set.
    """
    needs = task.network_needs(recipe.regularization)
    shape = reshaped(recipe.network, **task.shape(data), **needs)
    return family(genotype.space).build_network(genotype, shape, seed=recipe.runtime.seed)


def sizes(network: CellNetwork, task: Task, data: Any) -> dict[str, int]:
    """Return ``parameters`` and ``multiply_adds`` of a network for samples of these data."""
    return {
        "parameters": count_parameters(network),
        "multiply_adds": count_multiply_adds(network, task.example(data)),
    }


def tested(
    network: CellNetwork,
    task: Task,
    data: Any,
    recipe: Composition,
    device: torch.device,
    keep: Callable[[tuple[Exhibit, ...]], None] | None = None,
) -> dict[str, Any]:
    """Return the sizes of a network and what its test gives; `keep`, if given, gets what else the test shows."""
    feed = task.test_feed(data, recipe.optimizer, device)
    if keep is None:
        found = task.test(network, feed)
    else:
        found, exhibits = task.examine(network, data, feed)
        keep(exhibits)
    return {**sizes(network, task, data), **found}


def check_auxiliary(network: CellNetwork, recipe: Composition, path: Any) -> None:
    """Raise a `UserError` when a recipe wants an auxiliary head's loss of a network without such a head."""
    needs = getattr(recipe.regularization, "auxiliary_weight", 0.0) > 0
    if needs and not getattr(network.options, "auxiliary", False):
        raise UserError(f"auxiliary_weight: the network in {path} has no auxiliary head")
