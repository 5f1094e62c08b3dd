"""Ground truth: what do searches find, where the accuracy of every cell is known?

NAS-Bench-201 has the test accuracy of each of its 15,625 cells after 200 epochs of training, so a search can be judged
the moment it ends.

Varied: the method. Of sparse coding the recovery rule (``truncate``, ``path``, ``best_subset``), the measurement matrix
(Gaussian, uniform) and re-encoding; against it stand

- ``random sparse``: random search with shared weights. A random cell is trained in each step; then random cells are
  scored on validation images and the best is taken.
- ``random search``, ``evolution``, ``reinforce``: these train each cell that they ask for by itself. Their signal is
  the table's validation accuracy on CIFAR-10 after 12 epochs; what that training would have cost is counted: 12 epochs
  of 25,000 images for each cell asked, whether or not it was asked before.

The three nodes of a cell have 1, 2 and 3 edges with four operations each, n = 4, 8, 12 candidate places. The code keeps
s = 1, 2, 3 of them, one for each edge, so every edge has an operation; ``none`` would only be found with a smaller s.
Codes of m = 3, 5, 7 are shorter than n, as the method wants, and long enough for such a z: of random ones with Gaussian
non-zeros, one for each edge, the best subset recovered all, the cut LASSO 70 to 95 per cent (150 draws for each node).

    python -m experiments.nasbench201 --scale smoke --table TABLE
    python -m experiments.nasbench201 --scale small --table TABLE --data FOLDER --jobs 2
    python -m experiments.nasbench201 --scale paper --table TABLE --data cifar10

TABLE is a CSV as `isnas.nasbench201.Table.read` reads it. ``smoke`` takes seconds on digits; ``small`` takes 20 seconds
of a core for a search on 2,048 images, 45 minutes in all; ``paper`` has the benchmark's setting of search and wants a
GPU. Started again, it goes on. Trials go through joblib; inside `joblib.parallel_config` another backend takes them to
a cluster.

Written to DIR: rows.jsonl (a row for every trial), table.md, about.json (settings, command, versions, machine), and
images.pt, the images that the trials share. ``python -m figures.nasbench201`` draws the rows.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import joblib
import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor

from isnas.data import Batches, Dataset, load_dataset, split_indices
from isnas.engine import Stage
from isnas.errors import UserError
from isnas.files import read_tensors, write_atomically, write_tensors
from isnas.nasbench201 import (
    DATASETS,
    NASBENCH201_SPACE,
    NONE,
    PRIMITIVES,
    Table,
    all_cells,
    parse_string,
    random_cell,
    to_string,
)
from isnas.nasbench201_network import NASBench201Options, build_nasbench201_supernet
from isnas.options import SearchOptions
from isnas.progress import Progress
from isnas.randomness import generator
from isnas.rows import Rows, launch_record, markdown_table, mean_and_deviation
from isnas.supernet import CellNetwork, Coefficients, train_affine
from isnas.training import Weights, hits, resolve_device, send
from isnas.two_stage import TwoStageSearch

SPARSE: dict[str, dict[str, Any]] = {
    f"sparse {rule} {matrix}{' reencoded' if reencode else ''}": {
        "rule": rule,
        "matrix": matrix,
        "reencode": reencode,
    }
    for rule in ("truncate", "path", "best_subset")
    for matrix in ("gaussian", "uniform")
    for reencode in (False, True)
}
"""The variants of sparse coding by name."""

RANDOM_SPARSE = "random sparse"
RANKED = "sparse truncate gaussian"
"""The variant whose super-net scores random cells, too: how well does it rank them?"""

S, M = (1, 2, 3), (3, 5, 7)
"""Active places and length of the code, for each node."""

FULL_EPOCHS, FULL_IMAGES = 12, 25_000
"""What training a cell for the table's ``val_12`` takes; as many images validate it."""


@dataclass(frozen=True)
class Scale:
    """The size of an experiment.

    Parameters
    ----------
    data : str
        The default of ``--data``.
    images : int or None
        Training images, the same random ones in all trials; None: all.
    channels, cells : int
        Of the super-net: channels of its first stage, cells of each stage.
    epochs, batch_size, learning_rate, code_learning_rate
        Of the search, see `isnas.SearchOptions`.
    seeds : int
        The default of ``--seeds``.
    asked : int
        Cells that a method that trains each by itself may ask for.
    scored, scoring_images : int
        Random cells that a super-net scores, and on how many validation images.
    """

    data: str
    images: int | None
    channels: int
    cells: int
    epochs: int
    batch_size: int
    learning_rate: float
    code_learning_rate: float
    seeds: int
    asked: int
    scored: int
    scoring_images: int


SCALES = {
    "smoke": Scale("digits", 192, 2, 1, 2, 32, 0.05, 6e-3, 2, 20, 20, 32),
    # the code must get as far in 160 steps as in the published 19,550: its rate is raised as in the preset quick
    "small": Scale("cifar10", 2048, 4, 1, 10, 64, 0.05, 6e-3, 10, 100, 200, 256),
    "paper": Scale("cifar10", None, 16, 5, 50, 64, 0.025, 6e-4, 10, 100, 200, 5_120),
}

RANKED_SEEDS = 2
"""`RANKED` is measured with so many seeds only: it is no part of its search, and takes about as long."""

WEIGHT_DECAY = 5e-4  # of the benchmark's searches; momentum, clipping and the cosine's end are our defaults and theirs

PUBLISHED = (
    ("DARTS, both orders: all skips", 54.30, None, "a third party's table"),
    ("ENAS", 54.30, None, "a third party's table"),
    ("random search with shared weights (RSPS)", 87.66, 1.69, "a third party's table"),
    ("GDAS", 93.61, 0.09, "a third party's table"),
    ("random search", 93.70, 0.36, "a third party's text"),
    ("REINFORCE", 93.85, 0.37, "a third party's table"),
    ("regularised evolution", 93.92, 0.30, "unverified"),
)
"""Results on CIFAR-10 of Dong & Yang (ICLR 2020; Dong et al., TPAMI 2021), and where we have seen them quoted."""


# Searches that train each cell by itself

Ask = Callable[[str], float]
"""Returns the signal of a cell, in per cent."""

_OPERATIONS = (NONE, *PRIMITIVES)
_EDGES = 6
_SHAPE = (len(_OPERATIONS),) * _EDGES


@cache
def _positions() -> dict[str, int]:
    return {cell: position for position, cell in enumerate(all_cells())}


def operations_of(cell: str) -> list[int]:
    """Return the operation of each of the six edges of a cell: 0 is none, then come the primitives."""
    return [int(i) for i in np.unravel_index(_positions()[cell], _SHAPE)]


def cell_of(operations: Sequence[int]) -> str:
    """Return the cell with these operations; the inverse of `operations_of`."""
    return all_cells()[int(np.ravel_multi_index(tuple(operations), _SHAPE))]


def _below(n: int, random: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=random))


def random_search(ask: Ask, budget: int, random: torch.Generator) -> str:
    """Return the best of `budget` random cells; of ties the first."""
    return max((to_string(random_cell(random)) for _ in range(budget)), key=ask)


def mutate(cell: str, random: torch.Generator) -> str:
    """Return a cell that differs from this one in the operation of one edge."""
    operations = operations_of(cell)
    edge = _below(_EDGES, random)
    operations[edge] = (operations[edge] + 1 + _below(len(_OPERATIONS) - 1, random)) % len(
        _OPERATIONS
    )
    return cell_of(operations)


def evolution(
    ask: Ask, budget: int, random: torch.Generator, population: int = 10, sample: int = 3
) -> str:
    """Return the best cell that ageing evolution (Real et al., AAAI 2019) asks for.

    The best of a random sample has a child with one mutation; the oldest dies. Population and sample are those of the
    benchmark's own scripts, for budgets like ours.
    """
    history: list[tuple[float, str]] = []
    living: deque[tuple[float, str]] = deque(maxlen=population)
    for _ in range(budget):
        if len(living) < population:
            cell = to_string(random_cell(random))
        else:
            drawn = torch.randperm(population, generator=random)[:sample].tolist()
            cell = mutate(max((living[i] for i in drawn), key=lambda entry: entry[0])[1], random)
        living.append((ask(cell), cell))  # and drops the oldest
        history.append(living[-1])
    return max(history, key=lambda entry: entry[0])[1]


def reinforce(
    ask: Ask,
    budget: int,
    random: torch.Generator,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
) -> str:
    """Return the best cell that a policy asks for while REINFORCE trains it.

    The policy is a softmax over the operations for each edge, trained by Adam on the accuracy above a moving average:
    the benchmark's baseline, with its constants. The average begins with the first accuracy.
    """
    logits = torch.zeros(_EDGES, len(_OPERATIONS), requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    baseline: float | None = None
    history: list[tuple[float, str]] = []
    for _ in range(budget):
        log = logits.log_softmax(1)
        drawn = torch.multinomial(log.detach().exp(), 1, generator=random)
        cell = cell_of(drawn.flatten().tolist())
        reward = ask(cell)
        history.append((reward, cell))
        before = reward if baseline is None else baseline
        baseline = momentum * before + (1 - momentum) * reward
        optimizer.zero_grad()
        (-log.gather(1, drawn).sum() * (reward - baseline)).backward()
        optimizer.step()
    return max(history, key=lambda entry: entry[0])[1]


BY_TABLE = {"random search": random_search, "evolution": evolution, "reinforce": reinforce}

METHODS = (*SPARSE, RANDOM_SPARSE, *BY_TABLE)


# Searches with a super-net


class _NoRun:
    """Stands where a stage expects a run directory; keeps nothing."""

    def write_matrices(self, *_: Any) -> None:
        """Write nothing."""

    def write_recovery(self, *_: Any, **__: Any) -> None:
        """Write nothing."""


def ones(cell: str, device: torch.device) -> dict[str, Coefficients]:
    """Return the coefficients that run a cell alone, all of them 1."""
    places = parse_string(cell).places(NASBENCH201_SPACE)
    return {
        kind: Coefficients(torch.ones(len(active), device=device), active)
        for kind, active in places.items()
    }


class RandomSparse(Stage):
    """Training of shared weights by random cells, one in each step, on the first half of the training data."""

    title = "random cells"

    def __init__(
        self, supernet: CellNetwork, options: SearchOptions, dataset: Dataset, device: torch.device
    ) -> None:
        super().__init__()
        self.options = options
        self.device = device
        self.network = send(supernet, device)
        train_affine(self.network.cells, False)  # as in the search with codes
        self.weights = Weights(self.network, options)
        self.train_batches = Batches(
            dataset,
            batch_size=options.batch_size,
            indices=split_indices(len(dataset.train_labels), 0.5, options.seed)[0],
            seed=options.seed,
            stream="search weights",
            augment=dataset.augmentation(cutout=0),
            device=device,
        )

    @property
    def epochs(self) -> int:
        return self.options.epochs

    @property
    def steps(self) -> int:
        return len(self.train_batches)

    def batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        return self.train_batches.epoch(epoch, start)

    def train_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        self.weights.set_learning_rate(self.epoch / self.epochs)
        random = generator(self.options.seed, "random cell", self.epoch, self.step)
        loss, logits = self.weights.loss(x, y, ones(to_string(random_cell(random)), self.device))
        loss.backward()
        self.weights.update()
        return {"train_loss": loss.detach(), "train_accuracy": hits(logits, y)}

    def stateful(self) -> dict[str, Any]:
        return self.weights.stateful()


def drive(stage: Stage) -> Iterator[None]:
    """Run a stage without a run directory; yield after every epoch."""
    while stage.epoch < stage.epochs:
        for batch in stage.batches(stage.epoch, 0):
            stage.train_step(batch)
            stage.step += 1
        stage.end_epoch(_NoRun())
        stage.epoch, stage.step = stage.epoch + 1, 0
        yield


@torch.no_grad()
def scores(
    network: CellNetwork, scale: Scale, dataset: Dataset, seed: int, device: torch.device
) -> dict[str, float]:
    """Return the accuracy, in per cent, of random cells with a super-net's weights on validation images.

    Batch norm takes the statistics of the batch, as usual for shared weights: those gathered in training are a mixture
    over cells. The coefficients are 1, also in a super-net trained with a sparse code, which has none for other cells.
    """
    half = split_indices(len(dataset.train_labels), 0.5, seed)[1]
    # mixed first: folders are read class by class, and batches of one class would have its statistics
    order = torch.randperm(len(half), generator=generator(seed, "scoring images"))
    batches = Batches(
        dataset,
        batch_size=scale.batch_size,
        indices=half[order[: scale.scoring_images]],
        augment=False,
        shuffle=False,
        drop_last=False,
        device=device,
    )
    images = list(batches.epoch(0))
    random = generator(seed, "scored cells")
    network.train()
    found: dict[str, float] = {}
    while len(found) < scale.scored:
        cell = to_string(random_cell(random))
        if cell not in found:
            coefficients = ones(cell, device)
            right = sum((network(x, coefficients).argmax(1) == y).sum() for x, y in images)
            found[cell] = 100 * int(right) / len(batches.indices)
    return found


# Trials


@lru_cache(maxsize=1)
def _dataset(path: Path) -> Dataset:
    """Read what `prepare_images` wrote."""
    return Dataset(**read_tensors(path))


def prepare_images(path: Path, data: str, images: int | None) -> None:
    """Write the training images that all trials use, once. A search has no business with test images: there are none.

    Raises
    ------
    UserError
        When the data cannot be loaded or are too few.
    """
    if path.exists():
        return
    whole = load_dataset(data)
    n = len(whole.train_labels)
    if images is not None and images > n:
        raise UserError(f"{data} has {n} training images; this scale needs {images}")
    kept = torch.randperm(n, generator=generator(0, "images"))[: images or n].sort().values
    subset = replace(
        whole,
        name=Path(data).name,
        train_images=whole.train_images[kept],
        train_labels=whole.train_labels[kept],
        # copies: of a part the whole would be written
        test_images=whole.test_images[:0].clone(),
        test_labels=whole.test_labels[:0].clone(),
    )
    write_tensors(path, vars(subset))


def run_trial(
    method: str, seed: int, scale: Scale, images: Path, table: Table | None, device: str
) -> dict[str, Any]:
    """Run one search, in whatever process.

    Returns
    -------
    dict
        ``method``, ``seed``; ``cell``, the one found; ``trajectory``, the cells that the search held at the beginning
        and after each epoch; ``scores`` of random cells; images ``trained`` on (passed forwards and backwards) and
        ``evaluated`` (forwards only); ``seconds`` and ``processor_seconds`` of the search.
    """
    torch.set_num_threads(1)  # trials run side by side
    row: dict[str, Any] = {"method": method, "seed": seed, "trajectory": [], "scores": {}}
    if method in BY_TABLE:
        known = table.column("cifar10", "val_12")
        asked: list[str] = []

        def ask(cell: str) -> float:
            asked.append(cell)
            return float(known[_positions()[cell]])

        row["cell"] = BY_TABLE[method](ask, scale.asked, generator(seed, method))
        row["trained"] = FULL_EPOCHS * FULL_IMAGES * len(asked)
        row["evaluated"] = FULL_IMAGES * len(asked)
        # a look into a table: its time says nothing of the search
        return {**row, "seconds": None, "processor_seconds": None}

    where = resolve_device(device)
    dataset = _dataset(images).to(where)
    options = SearchOptions(
        seed=seed,
        batch_size=scale.batch_size,
        epochs=scale.epochs,
        learning_rate=scale.learning_rate,
        code_learning_rate=scale.code_learning_rate,
        weight_decay=WEIGHT_DECAY,
        m=M,
        s=S,
        **SPARSE.get(method, {}),
    )
    shape = NASBench201Options(
        channels=scale.channels,
        cells=scale.cells,
        classes=len(dataset.classes),
        in_channels=dataset.channels,
    )
    begun, used = time.perf_counter(), time.process_time()
    supernet = build_nasbench201_supernet(shape, seed=seed)
    if method == RANDOM_SPARSE:
        stage: Stage = RandomSparse(supernet, options, dataset, where)
        halves = 1
        for _ in drive(stage):
            pass
        row["scores"] = scores(supernet, scale, dataset, seed, where)
        row["cell"] = max(row["scores"], key=row["scores"].get)
    else:
        stage = TwoStageSearch(supernet, options, dataset, where)
        halves = 2
        row["trajectory"].append(to_string(stage.code.genotype()))
        for _ in drive(stage):
            row["trajectory"].append(to_string(stage.code.genotype()))
        row["cell"] = row["trajectory"][-1]
    row["seconds"] = round(time.perf_counter() - begun, 2)
    row["processor_seconds"] = round(time.process_time() - used, 2)
    row["evaluated"] = len(row["scores"]) * scale.scoring_images
    batch = min(scale.batch_size, len(stage.train_batches.indices))
    row["trained"] = stage.epochs * stage.steps * batch * halves
    if method == RANKED and seed < RANKED_SEEDS:
        row["scores"] = scores(supernet, scale, dataset, seed, where)
    return row


def judged(row: dict[str, Any], table: Table) -> dict[str, Any]:
    """Return a trial's row with the truth: accuracies after 200 epochs, ranks, skips, Kendall's tau of the scores."""
    cell = row["cell"]
    truth = [table.accuracy(scored, "cifar10") for scored in row["scores"]]
    tau = float(kendalltau(list(row["scores"].values()), truth).statistic) if truth else None
    return {
        "method": row["method"],
        "seed": row["seed"],
        "cell": cell,
        "accuracy": {name: table.accuracy(cell, name) for name in DATASETS},
        "rank": {name: table.rank(cell, name) for name in DATASETS},
        "skips": cell.count("skip_connect"),
        "tau": None if tau is None or np.isnan(tau) else tau,  # nan: all scores are the same
        "trained": row["trained"],
        "evaluated": row["evaluated"],
        "seconds": row["seconds"],
        "processor_seconds": row["processor_seconds"],
        "trajectory": [[each, table.accuracy(each, "cifar10")] for each in row["trajectory"]],
        "scores": [
            [scored, score, true]
            for (scored, score), true in zip(row["scores"].items(), truth, strict=True)
        ],
    }


# The table


REFERENCES = {
    "optimum": "the optimum of each data set",
    "mean": "the mean of all cells",
    # what a search has for nothing when it can choose no other cells, as our codes
    "full": "the mean of the 4,096 cells without none",
}
"""What the found cells are measured against."""


def references(table: Table) -> dict[str, dict[str, float]]:
    """Return the accuracies of `REFERENCES` for each data set."""
    full = np.array([f"|{NONE}~" not in cell for cell in all_cells()])
    return {
        "optimum": {name: float(table.column(name).max()) for name in DATASETS},
        "mean": {name: table.mean(name) for name in DATASETS},
        "full": {name: float(table.column(name)[full].mean()) for name in DATASETS},
    }


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    settings = about["settings"]
    header = (
        "method",
        "seeds",
        "CIFAR-10",
        "CIFAR-100",
        "ImageNet-16-120",
        "median rank",
        "skips",
        "images trained on",
        "images evaluated",
        "processor seconds",
        "Kendall's tau",
    )
    lines: list[tuple[str, ...]] = []
    for method in METHODS:
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        seconds = [row["processor_seconds"] for row in of_method]
        taus = [row["tau"] for row in of_method if row["tau"] is not None]
        lines.append(
            (
                method,
                str(len(of_method)),
                *(
                    mean_and_deviation([row["accuracy"][name] for row in of_method])
                    for name in DATASETS
                ),
                f"{median(row['rank']['cifar10'] for row in of_method):,g}",
                mean_and_deviation([row["skips"] for row in of_method], 1),
                f"{of_method[0]['trained']:,}",
                f"{of_method[0]['evaluated']:,}",
                "" if None in seconds else mean_and_deviation(seconds, 1),
                f"{mean_and_deviation(taus)} ({len(taus)})" if taus else "",
            )
        )
    empty = ("",) * 6
    for name, text in REFERENCES.items():
        values = (f"{settings['references'][name][each]:.2f}" for each in DATASETS)
        lines.append((f"*reference: {text}*", "", *values, *empty))
    for name, mean, deviation, seen in PUBLISHED:
        value = f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"
        lines.append((f"*reference, published: {name} ({seen})*", "", value, "", "", *empty))
    last = about["launches"][-1]
    machine = last["machine"]
    return (
        f"# Searches on NAS-Bench-201, scale {settings['scale']}\n\n"
        f"{markdown_table(header, lines)}\n"
        "Test accuracy in per cent after 200 epochs, as the benchmark's table has it: mean and standard deviation over "
        "seeds. The rank is on CIFAR-10, of 15,625. Images are counted as often as they pass the network, forwards and "
        "backwards (trained on) or forwards only (evaluated); those of random search, evolution and reinforce pass the "
        f"benchmark's network of 16 channels and 15 cells, those of the others a super-net of "
        f"{settings['channels']} channels and {3 * settings['cells']} cells with {settings['epochs']} epochs. "
        "Kendall's tau compares the super-net's validation accuracy of random cells with the truth on CIFAR-10; in "
        "brackets the number of seeds that it was measured for.\n\n"
        "Published results stand as quoted by others; none was compared with the authors' own text, and the one marked "
        "unverified is from memory. DARTS, ENAS and HM-NAS were not run.\n\n"
        f"`{last['command']}`, {machine['processor']}, {machine['cores']} cores"
        f"{', ' + machine['gpu'] if machine['gpu'] else ''}; torch {last['versions']['torch']}.\n"
    )


# The command


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the methods that these names mean: a method's own, or words that some begin with.

    Raises
    ------
    UserError
        When a name means none.
    """
    found: set[str] = set()
    for name in names:
        meant = {method for method in METHODS if f"{method} ".startswith(f"{name} ")}
        # a whole name means that method alone, though others go on from it
        found |= {name} if name in METHODS else meant
        if not meant:
            raise UserError(f"no method is called {name!r}; there are {', '.join(METHODS)}")
    return tuple(method for method in METHODS if method in found)


def run(
    scale_name: str,
    table: Table,
    out: Path,
    *,
    data: str | None = None,
    methods: Sequence[str] = METHODS,
    seeds: int | None = None,
    jobs: int = 1,
    device: str = "auto",
    arguments: Sequence[str] = (),
    progress: Progress | None = None,
) -> None:
    """Run the trials that are not in `out` yet, and write what this module's docstring says."""
    progress = progress or Progress(quiet=True)
    scale = SCALES[scale_name]
    data = data or scale.data
    settings = {
        "scale": scale_name,
        **asdict(scale),
        "data": Path(data).name,
        "m": M,
        "s": S,
        "references": references(table),
        "table": hashlib.blake2b(table.values.tobytes(), digest_size=8).hexdigest(),
    }
    del settings["seeds"]
    launch = launch_record("experiments.nasbench201", arguments)
    with Rows(out, ("method", "seed"), settings, launch) as rows:
        # one seed of all methods after the other: whenever it stops, all have had the same
        trials = [
            (method, seed)
            for seed in range(scale.seeds if seeds is None else seeds)
            for method in methods
            if not rows.has(method, seed)
        ]
        images = out / "images.pt"
        if any(method not in BY_TABLE for method, _ in trials):
            prepare_images(images, data, scale.images)
        results = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(
            joblib.delayed(run_trial)(
                method, seed, scale, images, table if method in BY_TABLE else None, device
            )
            for method, seed in trials
        )
        about = {"settings": settings, "launches": [launch]}
        try:
            for done, result in enumerate(results, 1):
                row = judged(result, table)
                rows.append(row)
                spent = "" if row["seconds"] is None else f", {row['seconds']:.0f} s"
                progress.say(
                    f"{done}/{len(trials)}  {row['method']}, seed {row['seed']}: "
                    f"{row['accuracy']['cifar10']:.2f} %, rank {row['rank']['cifar10']}{spent}"
                )
        finally:
            write_atomically(out / "table.md", table_text(rows.rows, about))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after a user's mistake, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m experiments.nasbench201",
        description="Searches on NAS-Bench-201, judged by its table.",
        allow_abbrev=False,
    )
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--table", metavar="PATH", required=True, help="the accuracies, a CSV")
    parser.add_argument("--data", metavar="NAME", help="cifar10, digits or a folder of images")
    parser.add_argument(
        "--methods", metavar="NAME", nargs="+", default=METHODS, help="names or their beginnings"
    )
    parser.add_argument("--seeds", metavar="N", type=_positive, help="seeds of each method")
    parser.add_argument("--jobs", metavar="N", type=_positive, default=1, help="trials at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--out", metavar="DIR", default="runs/nasbench201", help="for the results")
    given = parser.parse_args(arguments)
    try:
        run(
            given.scale,
            Table.read(given.table),
            Path(given.out),
            data=given.data,
            methods=chosen(given.methods),
            seeds=given.seeds,
            jobs=given.jobs,
            device=given.device,
            arguments=arguments,
            progress=Progress(),
        )
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on in {given.out}", file=sys.stderr)
        return 130
    print((Path(given.out) / "table.md").read_text())
    return 0


if __name__ == "__main__":
    # processes of joblib are sent functions by name, and can import this module but not "__main__"
    from experiments import nasbench201

    raise SystemExit(nasbench201.main())
