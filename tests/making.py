"""Makers for tests: networks by their shape, and searches by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from isnas import DARTS_SPACE, NASBENCH201_SPACE, CellNetwork, Dataset, Genotype, Place, Space
from isnas.networks.darts import NetworkOptions
from isnas.networks.nasbench201 import NASBench201Options
from isnas.networks.registry import family
from isnas.runs.evaluation import evaluation_schema, from_scratch
from isnas.runs.options import RuntimeOptions
from isnas.runs.training import Training, WeightTrainer
from isnas.searches.base import Search, Setting
from isnas.searches.registry import METHODS, search_options
from isnas.tasks.base import OptimizerOptions
from isnas.tasks.registry import TASKS

IMAGES = TASKS["images"]


def build_supernet(shape: Any, space: Space = DARTS_SPACE, *, seed: int = 0) -> CellNetwork:
    """Return the super-net of a shape."""
    return family(space).build_supernet(space, shape, seed=seed)


def build_network(
    genotype: Genotype,
    channels: int = 36,
    cells: int = 20,
    classes: int = 10,
    *,
    seed: int = 0,
    **shape: Any,
) -> CellNetwork:
    """Return a discrete network of DARTS's family."""
    options = NetworkOptions(channels, cells, classes, **shape)
    return family(genotype.space).build_network(genotype, options, seed=seed)


def build_nasbench201_supernet(
    shape: NASBench201Options | None = None, space: Space = NASBENCH201_SPACE, *, seed: int = 0
) -> CellNetwork:
    """Return the super-net of NAS-Bench-201 of a shape, by default the benchmark's."""
    return build_supernet(shape or NASBench201Options(), space, seed=seed)


def build_nasbench201_network(
    genotype: Genotype, shape: NASBench201Options | None = None, *, seed: int = 0
) -> CellNetwork:
    """Return the discrete network of a cell."""
    return family(genotype.space).build_network(genotype, shape or NASBench201Options(), seed=seed)


def shape_for(data: Dataset, channels: int = 2, cells: int = 3, **shape: Any) -> NetworkOptions:
    """Return the shape of a network of DARTS's family for some images."""
    return NetworkOptions(channels, cells, len(data.classes), data.channels, **shape)


def nodes_of(code: Any) -> list[tuple[str, int]]:
    """Return the (kind, node) of each of a code's choices."""
    return [(choice.kind, choice.node) for choice in code.choices]


def edges_of(code: Any) -> list[tuple[int, int]]:
    """Return the (node, source) of each row of softmax weights."""
    return [(row[0].node, row[0].source) for row in code.rows]


def random_genotype(
    space: Space, generator: torch.Generator, s: int | Sequence[int] = 2
) -> Genotype:
    """Draw a genotype with `s` places of every node, or s[node], also none: every set of so many equally likely."""
    sizes = [s] * space.nodes if isinstance(s, int) else s
    places: dict[str, list[Place]] = {kind: [] for kind in space.kinds}
    for choice in space.choices:
        order = torch.randperm(len(choice.candidates), generator=generator).tolist()
        if choice.groups is not None:  # the first of each group in this order
            order = list({choice.groups[i]: i for i in reversed(order)}.values())[::-1]
        places[choice.kind] += [choice.candidates[i] for i in order[: sizes[choice.node]]]
    return Genotype.from_places(places, space)


def trainer_of(network: CellNetwork, **options: Any) -> WeightTrainer:
    """Return what trains a network of images."""
    return WeightTrainer(network, IMAGES, OptimizerOptions(**options), RuntimeOptions())


def training_of(
    network: CellNetwork | Genotype, data: Dataset, device: str = "cpu", **options: Any
) -> Training:
    """Return the training of a network, or of a genotype's, by a recipe with these options."""
    recipe = evaluation_schema(network.space).compose(**options)
    if isinstance(network, Genotype):
        network = from_scratch(network, recipe, IMAGES, data)
    return Training(network, recipe, IMAGES, data, torch.device(device))


def search_with(
    supernet: CellNetwork, method: str, data: Dataset, preset: str = "quick", **options: Any
) -> Search:
    """Return a search with a super-net that is there already."""
    space = supernet.space
    setting = Setting(
        space, IMAGES, data, torch.device("cpu"), search_options(method, space, preset, **options)
    )
    return METHODS[method].search(supernet, setting)
