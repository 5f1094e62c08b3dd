"""Comparison of methods: the same data, space, sizes and budget for all, and one referee.

A trial is one search with one seed, judged at once: what it found is trained from scratch by a recipe that all have in
common, and tested. Two more kinds of trial serve all methods: random architectures trained by the same recipe, which
say what a search is worth, and what is known of these before their training by the short training of searches that
train every architecture by itself. A row is written for each trial; started again, a comparison does what is missing.

    rows.jsonl   a row for each trial
    about.json   settings, and for every launch its command, versions and machine
    table.md     what the rows come to
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import joblib
import torch
from scipy.stats import kendalltau

from ..commands import (
    SPACE,
    TINY_IMAGES,
    describe,
    evaluation_recipe,
    from_scratch,
    held_out_batches,
    load,
    sizes,
)
from ..runs.directory import default_directory
from ..runs.loop import Diverged, drive
from ..runs.options import BaseOptions, EvaluateOptions, OptionField, option_fields
from ..runs.training import Training, cpu_threads, resolve_device, score
from ..runtime.errors import UserError
from ..runtime.progress import Progress
from ..runtime.randomness import generator
from ..spaces.genotype import Genotype, random_genotype
from ..tasks.images import Dataset, LazyImages
from .methods import METHODS, Asking, S, Setting, child_accuracy, chosen
from .referee import Budget, Meter
from .rows import Rows, launch_record, markdown_table, mean_and_deviation, read_about
from .trials import run_trials

SAMPLED = "random architectures"
"""The trials that train a random architecture by the common recipe; their seed is its number."""

CHILDREN = "short training"
"""The trials that train all of these as searches that train every architecture by itself do."""

DECIDED = {
    "data",
    "data_root",
    "download",
    "image_size",
    "crop",
    "colour_jitter",
    "corrupt",
    "seed",
    "device",
    "threads",
    "channels",
    "cells",
    "stem",
    "epochs",
    "search_epochs",
    "s",
    "checkpoint_steps",
    "tensorboard",
    "sync_batch_norm",
    "precision",
    "compile",
    "evaluation_preset",
    "evaluation_epochs",
    "evaluation_channels",
    "evaluation_cells",
    "random_architectures",
}
"""Options of methods that are the same for all, or follow from the budget."""

Backend = Literal["loky", "dask", "ray"]
"""Where joblib runs trials: processes of this machine, or the workers of a cluster."""


@dataclass(frozen=True)
class CompareOptions(BaseOptions):
    """Options of a comparison.

    Parameters
    ----------
    methods : tuple of str
        Methods by name or by its beginning; all: every one.
    seeds : int
        Searches of each method, with the seeds 0, 1, ...
    budget : str
        Of one search: an amount and a unit, epochs, seconds or images, such as 20epochs. Images are sample passes; an
        epoch is as many of them as there are training images.
    method_preset : {"quick", "paper"}
        Constants of the methods: quick ones, or each paper's.
    set : tuple of str
        Other constants of single methods: METHOD.OPTION=VALUE, such as evolution.population=20.
    data : str
        Images: digits, cifar10, cifar100, or a directory with train/CLASS/ and test/CLASS/ (or val/CLASS/) in it.
    data_root : str
        Where cifar10 and cifar100 are looked for and downloaded to.
    download : bool
        Whether to download cifar10 or cifar100 when it is not there.
    image_size : int or None
        Side that a directory's images are resized and cropped to; by default the median shorter side, at most 64.
    device : str
        auto, cpu, cuda, cuda:N or mps; auto takes an accelerator where there is one.
    threads : int
        CPU threads of a trial; 0: PyTorch's number, but 1 for images as tiny as digits and where trials run side by
        side.
    channels : int
        Channels of the first cells in searches.
    cells : int
        Cells in the stack in searches.
    stem : {"cifar", "imagenet"}
        What stands before the cells: one convolution, or three that reduce the resolution eight times.
    batch_size : int or None
        Images in a step of all searches; by default each method's own.
    learning_rate : float or None
        Of the weights in all searches; by default each method's own.
    child_epochs : int
        Epochs of training one architecture in the searches that train each by itself.
    evaluation_preset : {"quick", "paper"}
        Recipe of training what was found from scratch: a preset of `isnas evaluate`.
    evaluation_epochs : int
        Epochs of that.
    evaluation_channels : int or None
        Channels of the found networks; by default the searches'.
    evaluation_cells : int or None
        Cells of the found networks; by default the searches'.
    sampled : int
        Random architectures that are trained by the same recipe, and scored by every search for Kendall's tau.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {},
        # the searches' and the evaluation's constants are those of DARTS (ICLR 2019); its first order takes 50 epochs
        "paper": {
            "seeds": 4,
            "budget": "50epochs",
            "method_preset": "paper",
            "data": "cifar10",
            "channels": 16,
            "cells": 8,
            "child_epochs": 5,
            "evaluation_preset": "paper",
            "evaluation_epochs": 600,
            "evaluation_channels": 36,
            "evaluation_cells": 20,
        },
    }
    least: ClassVar[dict[str, float]] = {
        "seeds": 1,
        "image_size": 4,
        "threads": 0,
        "channels": 2,
        "cells": 3,
        "batch_size": 2,
        "learning_rate": 0,
        "child_epochs": 1,
        "evaluation_epochs": 1,
        "evaluation_channels": 2,
        "evaluation_cells": 3,
        "sampled": 0,
    }

    methods: tuple[str, ...] = ("all",)
    seeds: int = 3
    budget: str = "20epochs"
    method_preset: Literal["quick", "paper"] = "quick"
    set: tuple[str, ...] = ()
    data: str = "digits"
    data_root: str = "data"
    download: bool = False
    image_size: int | None = None
    device: str = "auto"
    threads: int = 0
    channels: int = 8
    cells: int = 4
    stem: Literal["cifar", "imagenet"] = "cifar"
    batch_size: int | None = None
    learning_rate: float | None = None
    child_epochs: int = 3
    evaluation_preset: Literal["quick", "paper"] = "quick"
    evaluation_epochs: int = 10
    evaluation_channels: int | None = None
    evaluation_cells: int | None = None
    sampled: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        Budget.parse(self.budget)
        chosen(self.methods)
        changes_of(self.set)

    def shared(self) -> dict[str, Any]:
        """Return the options that all searches with shared weights have alike."""
        names = ("data", "data_root", "image_size", "device", "channels", "cells", "stem")
        return {**{name: getattr(self, name) for name in names}, **self._given()}

    def _given(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in ("batch_size", "learning_rate")}
        return {name: value for name, value in values.items() if value is not None}

    def child(self) -> EvaluateOptions:
        """Return how a search that trains every architecture by itself does it: plainly, in the searches' size."""
        plain = {"drop_path": 0.0, "auxiliary_weight": 0.0}
        changes = {**self.shared(), **plain, "epochs": self.child_epochs}
        return EvaluateOptions.preset(self.method_preset, **changes)

    def setting(self, dataset: Dataset, device: torch.device) -> Setting:
        """Return what the methods get to know."""
        return Setting(
            dataset=without_test(dataset),
            device=device,
            space=SPACE,
            budget=Budget.parse(self.budget),
            preset=self.method_preset,
            shared=self.shared(),
            child=self.child(),
        )


@dataclass(frozen=True)
class Comparison:
    """What a comparison came to.

    Parameters
    ----------
    directory : Path
    rows : list of dict
        One for each trial.
    table : str
        In Markdown.
    """

    directory: Path
    rows: list[dict[str, Any]]
    table: str


def changes_of(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the changes of each method's options that texts like ``evolution.population=20`` say.

    Raises
    ------
    UserError
        When a text is not of that form, there is no such method or option, the value is not one of it, or the
        comparison decides on the option.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, option = name.partition(".")
        if not (equals and dot and option):
            raise UserError(f"set must be METHOD.OPTION=VALUE, got {text!r}")
        if method not in METHODS:
            raise UserError(
                f"set {text}: no method is called {method!r}; there are {', '.join(METHODS)}"
            )
        if option in DECIDED or option in METHODS[method].fixed:
            raise UserError(f"set {text}: the comparison decides on {option} of {method}")
        fields = {field.name: field for field in option_fields(METHODS[method].options)}
        if option not in fields:
            own = sorted(set(fields) - DECIDED - set(METHODS[method].fixed))
            raise UserError(
                f"set {text}: {method} has no option {option!r}; it has {', '.join(own)}"
            )
        try:
            found.setdefault(method, {})[option] = _value(fields[option], value)
        except ValueError:
            kind = "true or false" if fields[option].type is bool else fields[option].type.__name__
            raise UserError(f"set {text}: {value!r} is not of the type {kind}") from None
    return found


def _value(field: OptionField, text: str) -> Any:
    if field.optional and text.lower() == "none":
        return None
    if field.several:
        return tuple(field.type(part) for part in text.split(",") if part)
    if field.type is tuple:
        numbers = tuple(int(part) for part in text.split(","))
        return numbers[0] if len(numbers) == 1 else numbers
    if field.type is bool:
        if text not in ("true", "false"):
            raise ValueError
        return text == "true"
    return field.type(text)


def without_test(dataset: Dataset) -> Dataset:
    """Return the data set without its test images."""
    images = dataset.test_images
    none = dataclasses.replace(images, paths=()) if isinstance(images, LazyImages) else images[:0]
    return dataclasses.replace(dataset, test_images=none, test_labels=dataset.test_labels[:0])


# Trials


def compare(
    options: CompareOptions | None = None,
    out: str | Path | None = None,
    *,
    jobs: int = 1,
    backend: Backend = "loky",
    scheduler: str | None = None,
    progress: Progress | None = None,
    words: Sequence[str] = (),
) -> Comparison:
    """Compare methods: run the trials that have no row yet, and write the table.

    Parameters
    ----------
    options : CompareOptions, optional
    out : path, optional
        The directory; by default ``runs/<date>-compare``. With one that has rows of the same settings it goes on.
    jobs : int
        Trials at a time, each with one CPU thread where there are several. On a cluster that is there already:
        its workers.
    backend : {"loky", "dask", "ray"}
        joblib's: processes of this machine, or the workers of a Dask or Ray cluster, which is started on this machine
        for the time of the comparison when no `scheduler` is named. Workers load the data themselves.
    scheduler : str, optional
        Address of a cluster that is there already.
    progress : Progress, optional
        By default nothing is shown.
    words : sequence of str
        The command line, for the record.

    Raises
    ------
    UserError
        When the options, the data or the directory are not usable, or a backend is not installed.
    """
    options = options or CompareOptions()
    progress = progress or Progress(quiet=True)
    device = resolve_device(options.device)
    dataset = _dataset(options)
    setting = options.setting(dataset, device)
    evaluation_recipe(options, 0)
    methods = chosen(options.methods)
    changes = changes_of(options.set)
    for method in methods:  # a mistake shows now, not after hours
        METHODS[method].check(setting, changes.get(method, {}))
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, got {jobs}")
    directory = default_directory("compare") if out is None else Path(out)
    threads = options.threads
    if not threads:
        alone = max(dataset.size) > TINY_IMAGES and jobs == 1 and backend == "loky"
        threads = torch.get_num_threads() if alone else 1
    launch = launch_record("isnas", words)
    settings = _settings(options, dataset)
    with (
        _workers(jobs, backend, scheduler),
        Rows(directory, ("method", "seed"), settings, launch, CompareOptions().to_json()) as rows,
    ):
        progress.say(f"writing to {directory}")
        # workers find what was downloaded here
        remote = dataclasses.replace(options, download=False)
        run_trials(
            rows,
            run_trial,
            [(*key, remote, threads) for key in _trials(methods, options)],
            table=table_text,
            describe=_in_a_line,
            jobs=jobs,
            progress=progress,
        )
        return Comparison(directory, rows.rows, table_text(rows.rows, read_about(directory)))


def _settings(options: CompareOptions, dataset: Dataset) -> dict[str, Any]:
    """Return what all rows of a directory have in common. Where the data are says something of the machine only."""
    kept = options.to_json()
    for name in ("methods", "seeds", "data_root", "download"):
        del kept[name]
    described = describe(dataset, Path(options.data).name)
    return {
        **kept,
        "data": Path(options.data).name,
        "budget": str(Budget.parse(options.budget)),
        "set": sorted(options.set),
        "images": {name: described[name] for name in ("train", "test", "size", "mean", "std")},
        "classes": len(dataset.classes),
    }


def _trials(methods: Sequence[str], options: CompareOptions) -> Iterator[tuple[str, int]]:
    """Yield all trials, one seed of all methods after the other: whenever it stops, all have had the same."""
    for seed in range(options.seeds):
        for method in methods:
            yield method, seed
        if options.sampled and any(isinstance(METHODS[method], Asking) for method in methods):
            yield CHILDREN, seed
        for i in range(options.sampled):
            if i * options.seeds // options.sampled == seed:
                yield SAMPLED, i


@contextmanager
def _workers(jobs: int, backend: Backend, scheduler: str | None) -> Iterator[None]:
    """Make joblib use the backend inside the block."""
    if backend == "loky":
        if scheduler is not None:
            raise UserError("scheduler is the address of a cluster: choose backend dask or ray")
        with joblib.parallel_config("loky", n_jobs=jobs):
            yield
        return
    try:
        if backend == "dask":
            from distributed import Client, LocalCluster
        else:
            import ray
            from ray.util.joblib import register_ray
    except ImportError:
        raise UserError(
            f"backend {backend} needs more packages: pip install 'isnas[{backend}]'"
        ) from None
    if backend == "dask":
        try:
            # a process for each: seconds and memory are measured of processes
            cluster = scheduler or LocalCluster(
                n_workers=jobs, threads_per_worker=1, processes=True, dashboard_address=None
            )
            client = Client(cluster)
        except (OSError, TimeoutError, ValueError) as error:
            raise UserError(f"no Dask scheduler at {scheduler}: {error}") from None
        try:
            with joblib.parallel_config("dask", n_jobs=jobs):
                yield
        finally:
            client.close()
            if scheduler is None:
                cluster.close()
        return
    try:
        address = {"address": scheduler} if scheduler else {"num_cpus": jobs}
        ray.init(**address, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster at {scheduler}: {error}") from None
    try:
        register_ray()
        with joblib.parallel_config("ray", n_jobs=jobs):
            yield
    finally:
        ray.shutdown()


def _dataset(options: CompareOptions) -> Dataset:
    return _loaded(options.data, options.data_root, options.download, options.image_size)


@lru_cache(maxsize=1)
def _loaded(data: str, data_root: str, download: bool, image_size: int | None) -> Dataset:
    """Return the data; a process that runs several trials loads them once."""
    return load(
        EvaluateOptions(data=data, data_root=data_root, download=download, image_size=image_size)
    )


def run_trial(method: str, seed: int, options: CompareOptions, threads: int = 1) -> dict[str, Any]:
    """Run one trial, in whatever process.

    Returns
    -------
    dict
        ``method``, ``seed``; ``genotype`` and what judging it came to: ``test_accuracy`` (0 to 1), ``test_loss``,
        ``parameters``, ``multiply_adds``, ``skips``; of a search also ``trained`` and ``evaluated`` images,
        ``passes``, ``epochs`` (passes in epochs), ``seconds``, ``peak_memory`` (bytes), its ``schedule`` in epochs or
        the architectures ``asked`` for, ``own_accuracy`` of its own network, and ``scores`` of the sampled
        architectures. What is not known is None. A search that diverged has an ``error`` instead.
    """
    with cpu_threads(threads):
        row: dict[str, Any] = {"method": method, "seed": seed, "threads": threads}
        try:
            for part in _parts(method, seed, options):
                row |= part
        except Diverged as error:
            row["error"] = str(error)
        return row


def _parts(method: str, seed: int, options: CompareOptions) -> Iterator[dict[str, Any]]:
    """Yield what is known of a trial, part by part."""
    device = resolve_device(options.device)
    dataset = _dataset(options).to(device)
    if method == SAMPLED:
        yield judged(sampled(seed), seed, options, dataset, device)
        return
    setting = options.setting(dataset, device)
    if method == CHILDREN:
        indices = range(options.sampled)
        yield {"scores": [child_accuracy(sampled(i), setting, seed) for i in indices]}
        return
    meter = Meter(device, memory=True)
    changes = changes_of(options.set).get(method, {})
    try:
        found = METHODS[method].run(setting, seed, changes, meter)
    except Diverged:
        yield _spent(meter, setting.images)
        raise
    yield _spent(meter, setting.images)
    own = None
    if found.network is not None:  # before anything else passes it
        batches = held_out_batches(dataset, evaluation_recipe(options, seed), device)
        own = score(found.network, batches)["test_accuracy"]
    yield {"schedule": found.epochs, "asked": found.asked, "own_accuracy": own, "scores": None}
    if found.signal is not None:
        yield {"scores": [found.signal(sampled(i)) for i in range(options.sampled)]}
    yield judged(found.genotype, seed, options, dataset, device)


def sampled(i: int) -> Genotype:
    """Return the random architecture of number `i`: the same in all comparisons."""
    return random_genotype(SPACE, generator(0, "sampled", i), S)


def _spent(meter: Meter, images: int) -> dict[str, Any]:
    spent = meter.spent()
    return {
        "trained": spent.trained,
        "evaluated": spent.evaluated,
        "passes": spent.passes,
        "epochs": spent.amount("epochs", images),
        "seconds": round(spent.seconds, 3),
        "peak_memory": meter.peak,
    }


def judged(
    genotype: Genotype, seed: int, options: CompareOptions, dataset: Dataset, device: torch.device
) -> dict[str, Any]:
    """Train an architecture from scratch by the common recipe, and return what it came to."""
    begun = time.perf_counter()
    recipe = evaluation_recipe(options, seed)
    training = Training(from_scratch(genotype, recipe, dataset), recipe, dataset, device)
    for _ in drive(training):
        pass
    edges = [edge for _, cell in genotype.cells for node in cell.nodes for edge in node]
    return {
        "genotype": str(genotype),
        "skips": sum(edge.operation == "skip_connect" for edge in edges),
        **sizes(training.network, dataset),
        **score(training.network, held_out_batches(dataset, recipe, device)),
        "evaluation_seconds": round(time.perf_counter() - begun, 3),
    }


# The table


def kendall(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> float | None:
    """Return Kendall's tau between what a search thought of the sampled architectures and what they came to.

    None where either is not known of two or more, or all are the same.
    """
    scores = row.get("scores")
    if "asked" in row and row["asked"] is not None:
        children = [
            r["scores"] for r in rows if (r["method"], r["seed"]) == (CHILDREN, row["seed"])
        ]
        scores = children[0] if children else None
    truth = {
        r["seed"]: r["test_accuracy"] for r in rows if r["method"] == SAMPLED and "error" not in r
    }
    pairs = [(score, truth[i]) for i, score in enumerate(scores or ()) if i in truth]
    if len(pairs) < 2:
        return None
    tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return None if tau != tau else tau


_HEADER = (
    "method",
    "seeds",
    "test accuracy %",
    "own network's %",
    "parameters",
    "multiply-adds",
    "skips",
    "search seconds",
    "sample passes in epochs",
    "images trained on",
    "images evaluated",
    "peak memory MiB",
    "Kendall's tau",
)


def table_text(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Return the results in Markdown, with what the numbers mean."""
    settings, last = about["settings"], about["launches"][-1]

    def column(
        some: Sequence[dict[str, Any]], name: str, unit: float = 1.0, digits: int = 2
    ) -> str:
        values = [row[name] / unit for row in some if row.get(name) is not None]
        return mean_and_deviation(values, digits) if values else ""

    lines, failures = [], []
    for method in (*METHODS, SAMPLED):
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        failed = [row for row in of_method if "error" in row]
        failures += [f"- {method}, seed {row['seed']}: {row['error']}" for row in failed]
        good = [row for row in of_method if "error" not in row]
        taus = [tau for row in good if (tau := kendall(row, rows)) is not None]
        number = f"{len(of_method)}" + (f" ({len(failed)} failed)" if failed else "")
        lines.append(
            (
                method,
                number,
                column(good, "test_accuracy", 0.01),
                column(good, "own_accuracy", 0.01),
                column(good, "parameters", 1, 0),
                column(good, "multiply_adds", 1, 0),
                column(good, "skips", 1, 1),
                column(of_method, "seconds", 1, 1),
                column(of_method, "epochs"),
                column(of_method, "trained", 1, 0),
                column(of_method, "evaluated", 1, 0),
                column(of_method, "peak_memory", 2**20, 0),
                mean_and_deviation(taus) if method != SAMPLED and taus else "",
            )
        )
    machine = last["machine"]
    budget = Budget.parse(settings["budget"])
    text = (
        f"# Methods compared on {settings['data']}, {budget.amount:g} {budget.unit} of search each\n\n"
        f"{markdown_table(_HEADER, lines)}\n"
        f"{_meaning(settings)}\n\n"
    )
    if failures:
        text += "Searches that failed:\n\n" + "\n".join(failures) + "\n\n"
    return text + (
        f"`{last['command']}`, {machine['processor']}, {machine['cores']} cores"
        f"{', ' + machine['gpu'] if machine['gpu'] else ''}; torch {last['versions']['torch']}.\n"
    )


def _meaning(settings: dict[str, Any]) -> str:
    channels = settings["evaluation_channels"] or settings["channels"]
    cells = settings["evaluation_cells"] or settings["cells"]
    images = settings["images"]
    text = (
        "Mean ± standard deviation over seeds. *Test accuracy*: of what was found, trained from scratch on all "
        f"{images['train']:,} training images by the recipe `{settings['evaluation_preset']}`, "
        f"epochs: {settings['evaluation_epochs']}, {channels} channels and {cells} cells, the same for all; "
        f"{images['test']:,} test images, which no search sees. *Own network's*: of the network that the search itself "
        "has trained, where it ends with one; its size is that of the searches, "
        f"{settings['channels']} channels and {settings['cells']} cells. *Parameters* and *multiply-adds* (of "
        "convolutions and the classifier) of the network trained from scratch; *skips*: its skip connections, in one "
        "cell of each kind together.\n\n"
        "*Sample passes* are images forwarded and backwarded, and a third of those forwarded only, for a forward pass "
        "is about a third of both; an epoch is as many as there are training images. The costs are those that were "
        "counted, of the search alone: a budget is turned into a whole number of epochs beforehand, from what a few "
        "steps cost, and a search that trains architectures one by one stops before it would exceed it, but trains one "
        "at least. The seconds depend on what else the machine did; a network for search and one for a single "
        "architecture take different times for a pass. *Peak memory* is what the search took besides what its process "
        "had. One-stage ISTA-NAS and HM-NAS search and train their own network within the budget, and use all training "
        "images; the others search with one half and choose by the other."
    )
    if not settings["sampled"]:
        return text
    return text + (
        "\n\n"
        f"*Kendall's tau* compares, for the same {settings['sampled']} random architectures, what a search thinks of "
        "them at its end (accuracy on the second half of the training images, with shared weights or after "
        f"training on the first half, epochs: {settings['child_epochs']}) with their test accuracy after the common "
        "recipe. So few architectures, trained once, make it coarse. *Random architectures* are these; a search that "
        "is not better than they are has found nothing."
    )


def _in_a_line(row: dict[str, Any]) -> str:
    text = f"{row['method']}, {'number' if row['method'] == SAMPLED else 'seed'} {row['seed']}"
    if "error" in row:
        return f"{text}: {row['error']}"
    if "test_accuracy" in row:
        text += f": {100 * row['test_accuracy']:.2f} %"
    if "seconds" in row:
        text += f", search of {row['seconds']:.0f} s, {row['epochs']:.1f} epochs"
    return text
