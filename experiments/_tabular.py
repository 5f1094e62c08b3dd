"""Common parts of the experiments on tables of known accuracies: images, a search as a trial, comparisons of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from isnas.codes.choices import Choices
from isnas.comparison.referee import Meter
from isnas.comparison.rows import Rows, launch_record, markdown_table
from isnas.comparison.trials import Row, run_trials
from isnas.runs.loop import drive
from isnas.runtime.devices import resolve_device
from isnas.runtime.errors import UserError
from isnas.runtime.files import read_tensors, write_tensors
from isnas.runtime.randomness import generator
from isnas.searches.base import Search, SupernetSearch
from isnas.searches.black_box import (
    BlackBoxOptions,
    EvolutionOptions,
    Proposer,
    ageing_evolution,
    best_of,
    random_search,
    reinforce,
)
from isnas.searches.finalists import FinalistsSearch
from isnas.searches.path_search import PathSearch
from isnas.searches.registry import search_options
from isnas.spaces.base import Space
from isnas.spaces.genotype import Genotype
from isnas.spaces.nasbench201 import NASBENCH201_SPACE
from isnas.tasks.images import Dataset, load_dataset

from ._command import Launch
from ._statistics import interval_text, mean_interval

# Searches that train each architecture by itself


def _policy(preset: str) -> BlackBoxOptions:
    return search_options("reinforce", NASBENCH201_SPACE, preset).method


BY_TABLE: dict[str, tuple[Callable[..., Proposer], BlackBoxOptions]] = {
    "random search": (random_search, BlackBoxOptions()),
    # population and sample of NAS-Bench-201's own scripts, for budgets like ours
    "evolution": (ageing_evolution, EvolutionOptions(population=10, sample=3)),
    # that benchmark's, with the rate of its own script and with that of its successor, NATS-Bench
    "reinforce 0.5": (reinforce, _policy("paper")),
    "reinforce 0.01": (reinforce, _policy("nats-bench")),
}
"""The searches that ask the table, with their constants (Dong & Yang, ICLR 2020)."""


def ask(
    method: str, seed: int, asked: int, space: Space, signal: Callable[[Genotype], float]
) -> Genotype:
    """Return the architecture that a method of `BY_TABLE` finds when it may ask for so many.

    Parameters
    ----------
    method : str
    seed : int
    asked : int
    space : Space
    signal : callable
        The value that it sees of an architecture; higher is better.
    """
    search, options = BY_TABLE[method]
    proposer = search(
        Choices(space), generator(seed, method), replace(options, architectures=asked)
    )
    return best_of(proposer, signal)


# Searches with a super-net


@lru_cache(maxsize=1)
def dataset_at(path: Path) -> Dataset:
    """Read what `prepare_images` wrote."""
    return Dataset(**read_tensors(path))


def prepare_images(
    path: Path, data: str, images: int | None, root: str, size: int | None = None
) -> None:
    """Write the training images that all trials use, once. A search has no business with test images: there are none.

    With `size` they are shrunk to so many pixels a side, each of them the mean of what it covers.

    Raises
    ------
    UserError
        When the data cannot be loaded or are too few.
    """
    if path.exists():
        return
    whole = load_dataset(data, root=root)
    n = len(whole.train_labels)
    if images is not None and images > n:
        raise UserError(f"{data} has {n} training images; this scale needs {images}")
    kept = torch.randperm(n, generator=generator(0, "images"))[: images or n].sort().values
    pictures, cutout = whole.train_images[kept], whole.cutout
    if size is not None:
        cutout = cutout * size // pictures.shape[-1]  # the same part of a picture
        pictures = F.interpolate(pictures.float(), size, mode="area").round().to(torch.uint8)
    subset = replace(
        whole,
        name=Path(data).name,
        train_images=pictures,
        train_labels=whole.train_labels[kept],
        cutout=cutout,
        # copies: of a part the whole would be written
        test_images=whole.test_images[:0].clone(),
        test_labels=whole.test_labels[:0].clone(),
        test_paths=None,
    )
    write_tensors(path, vars(subset))


def carry_out(
    create: Callable[[Dataset, torch.device], Search], images: Path, device: str
) -> tuple[Search, Dataset, dict[str, Any]]:
    """Carry out a search, and return it, its data, and what there is to say of it.

    Returns
    -------
    search, dataset
    dict
        ``found``, the architecture's text; ``trajectory``, the architectures that the search held at the beginning and
        after each epoch, if it holds any before its end; images ``trained`` on (passed forwards and backwards) and
        ``evaluated`` (forwards only); ``seconds`` and ``processor_seconds``.
    """
    torch.set_num_threads(1)  # trials run side by side
    where = resolve_device(device)
    dataset = dataset_at(images).to(where)
    used = time.process_time()
    meter = Meter(where)
    trajectory = []
    with meter.counting():
        search = create(dataset, where)
        # others choose in the end only, or as soon as they see
        holding = (SupernetSearch, FinalistsSearch)
        holds_one = isinstance(search, holding) and not isinstance(search, PathSearch)
        if holds_one:
            trajectory.append(str(search.genotype()))
        for _ in drive(search):
            if holds_one:
                trajectory.append(str(search.genotype()))
        found = str(search.genotype())
    trained, evaluated, seconds = meter.spent()
    return (
        search,
        dataset,
        {
            "found": found,
            "trajectory": trajectory,
            "trained": trained,
            "evaluated": evaluated,
            "seconds": round(seconds, 2),
            "processor_seconds": round(time.process_time() - used, 2),
        },
    )


def scores_of(
    search: Search, draw: Callable[[torch.Generator], Genotype], number: int, images: int
) -> dict[str, float]:
    """Return the accuracy, in per cent, of random architectures with a search's shared weights on validation images.

    The coefficients are 1, also in a super-net trained with a sparse code, which has none for other architectures. A
    search without training has scores of its own.

    Parameters
    ----------
    search : Search
    draw : callable
        Draws an architecture; one drawn twice is scored once.
    number : int
        Number of different architectures.
    images : int
    """
    shared = isinstance(search, SupernetSearch)
    batches = list(search.scoring_feed(images).epoch(0)) if shared else None
    random = generator(search.seed, "scored cells")
    found: dict[str, float] = {}
    while len(found) < number:
        genotype = draw(random)
        if str(genotype) not in found:
            found[str(genotype)] = (
                100 * search.score(genotype, batches) if shared else search.score(genotype)
            )
    return found


def run_searches(
    launch: Launch,
    size: Any,
    data: str,
    trials: Sequence[tuple[Any, ...]],
    run_trial: Callable[..., Row],
    *,
    module: str,
    settings: dict[str, Any],
    judged: Callable[[Row], Row],
    table_text: Callable[..., str],
    describe: Callable[[Row], str],
) -> None:
    """Run the trials that have no row yet, and write what they share: images.pt, rows.jsonl, table.md, about.json.

    Parameters
    ----------
    launch : Launch
    size
        With the `images` and their `size` that the searches see.
    data : str
    trials : sequence of tuple
        Method, seed, and what else `run_trial` takes.
    run_trial, judged, table_text, describe : callable
        See `isnas.comparison.trials.run_trials`: `judged` completes a row.
    module : str
        The experiment's ``__name__``.
    settings : dict
        The values that rows must have in common.
    """
    with Rows(
        launch.out, ("method", "seed"), settings, launch_record(module, launch.arguments)
    ) as rows:
        if any(
            method not in BY_TABLE and not rows.has(method, seed) for method, seed, *_ in trials
        ):
            prepare_images(images_of(launch), data, size.images, launch.data_root, size.size)
        run_trials(
            rows,
            run_trial,
            trials,
            table=table_text,
            finish=judged,
            describe=describe,
            jobs=launch.jobs,
            progress=launch.progress,
        )


def images_of(launch: Launch) -> Path:
    """Return where the images are that all trials of a launch share."""
    return launch.out / "images.pt"


# Names and comparisons


def chosen_of(names: Sequence[str], methods: Sequence[str]) -> tuple[str, ...]:
    """Return the methods that these names mean: a method's own, or words that some begin with.

    Raises
    ------
    UserError
        When a name means none.
    """
    found: set[str] = set()
    for name in names:
        meant = {method for method in methods if f"{method} ".startswith(f"{name} ")}
        # a whole name means that method alone, though others go on from it
        found |= {name} if name in methods else meant
        if not meant:
            raise UserError(f"no method is called {name!r}; there are {', '.join(methods)}")
    return tuple(method for method in methods if method in found)


def above_table(
    found: Mapping[str, Mapping[int, float]],
    methods: Collection[str],
    levels: Mapping[str, float],
    first: str,
) -> str:
    """Return how far methods are above known levels, and one method above the others, as a table in Markdown.

    Means with 95 % intervals by Student's t; empty where no method has two seeds.

    Parameters
    ----------
    found : mapping of method to mapping of seed to accuracy
    methods : collection of str
        In the order of the table.
    levels : mapping of str to accuracy
        By the column's title.
    first : str
        The method that is compared with the others, paired by seed.
    """
    lines = []
    for method in methods:
        values = found.get(method, {})
        if len(values) < 2:
            continue
        above = [
            interval_text(mean_interval([v - level for v in values.values()]), sign=True)
            for level in levels.values()
        ]
        paired = ""
        if method != first and first in found:
            seeds = sorted(set(values) & set(found[first]))
            differences = [found[first][seed] - values[seed] for seed in seeds]
            if len(differences) > 1:
                paired = interval_text(mean_interval(differences), sign=True)
        lines.append((method, *above, paired))
    if not lines:
        return ""
    return markdown_table(("method", *levels, f"{first} above it, paired by seed"), lines)
