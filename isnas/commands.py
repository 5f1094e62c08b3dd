"""What the commands do, as functions: search, train, evaluate, resume. Thin: they put stages and records together."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .codes.sparse import SparseCodeOptions
from .drawing import draw_cells
from .networks.counting import count_multiply_adds, count_parameters
from .networks.darts import Network, build_network, build_supernet
from .networks.folding import fold, genotype_of
from .runs.directory import Follower, Run, versions
from .runs.loop import Part, Stage, execute
from .runs.options import BaseOptions, EvaluateOptions, RunOptions, SearchOptions, TrainOptions
from .runs.training import (
    Training,
    check_compiler,
    cpu_threads,
    network_options,
    resolve_device,
    score,
)
from .runtime.errors import UserError
from .runtime.files import read_json, read_tensors, write_json, write_tensors
from .runtime.processes import (
    check_batch_size,
    is_first,
    joined,
    local_rank,
    on_first,
    processes,
    shared,
    together,
)
from .runtime.progress import Progress
from .runtime.randomness import generator
from .searches.one_stage import OneStageTraining
from .searches.two_stage import TwoStageSearch
from .spaces.base import DARTS_SPACE, Space
from .spaces.genotype import Genotype, random_genotype
from .tasks.images import Batches, Dataset, load_dataset

SPACE = DARTS_SPACE
TINY_IMAGES = 16
"""Side in pixels up to which one CPU thread is as fast as several, and does not suffer from a busy machine."""


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Parameters
    ----------
    directory : Path
        Where everything was written.
    genotype : Genotype
        The architecture found, or evaluated.
    network : Network or None
        The trained discrete network; None when none was trained.
    results : dict
        Results of the run's parts by name, as in results.json.
    """

    directory: Path
    genotype: Genotype
    network: Network | None
    results: dict[str, Any]


def search(
    options: SearchOptions | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Search an architecture in two stages, and train it beside random ones by the same recipe.

    Parameters
    ----------
    options : SearchOptions, optional
    out : path, optional
        The run directory; by default ``runs/<date>-search``.
    progress : Progress, optional
        By default nothing is shown.

    Raises
    ------
    UserError
        When the options, the data or the directory are not usable.
    isnas.runs.loop.Interrupted
        When a signal stopped it; `resume` goes on.
    """
    return _start("search", options or SearchOptions(), out, progress)


def train(
    options: TrainOptions | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Search and train in one run (one-stage), and fold the result into a plain network; see `search`."""
    return _start("train", options or TrainOptions(), out, progress)


def evaluate(
    genotype: Genotype,
    options: EvaluateOptions | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Train the discrete network of a genotype from scratch and test it; see `search`."""
    genotype.check(SPACE)
    options = options or EvaluateOptions()
    return _start("evaluate", options, out, progress, genotype=genotype.to_json())


def train_further(
    path: str | Path,
    options: EvaluateOptions,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Train a saved network further and test it; its shape is its own, whatever the options say. See `search`."""
    network = load_network(path)
    options = dataclasses.replace(
        options, **{name: getattr(network.options, name) for name in ("channels", "cells", "stem")}
    )
    if options.auxiliary_weight > 0 and not network.options.auxiliary:
        raise UserError(f"auxiliary_weight: the network in {path} has no auxiliary head")
    extra = {"genotype": genotype_of(network).to_json(), "network": str(Path(path).resolve())}
    return _start("evaluate", options, out, progress, **extra)


def test_saved(
    path: str | Path, options: EvaluateOptions | None = None, progress: Progress | None = None
) -> dict[str, float]:
    """Test a saved network on the test images of ``options.data``, normalised as its training images were.

    Returns
    -------
    dict
        ``test_accuracy`` (0 to 1), ``test_loss``, ``images``, ``parameters``, ``multiply_adds``.

    Raises
    ------
    UserError
        When a file is missing or damaged, or the images have other classes or channels than the network.
    """
    with joined():
        return _test_saved(path, options or EvaluateOptions(), progress)


def _test_saved(
    path: str | Path, options: EvaluateOptions, progress: Progress | None
) -> dict[str, float]:
    network, data = load_network(path), saved_data(path)
    device = resolve_device(options.device)
    dataset = load(options, test_only="mean" in data)
    _check_fits(network, dataset)
    if data.get("classes", list(dataset.classes)) != list(dataset.classes):
        raise UserError(f"the network in {path} was trained on other classes than {dataset.name}'s")
    if "mean" in data:
        for name in ("mean", "std"):
            values = data.get(name)
            if not isinstance(values, list) or len(values) != dataset.channels:
                raise UserError(
                    f"{Path(path).with_suffix('.json')}: {name} must be a list of "
                    f"{dataset.channels} numbers, got {values!r:.60}"
                )
        dataset = dataclasses.replace(dataset, mean=tuple(data["mean"]), std=tuple(data["std"]))
    _of_first(progress).say(
        f"{dataset.name}: {len(dataset.test_labels)} test images of "
        f"{dataset.size[0]}x{dataset.size[1]} pixels; device {device}"
    )
    batches = held_out_batches(dataset.to(device), options, device)
    tested = score(network.to(device), batches)
    if not math.isfinite(tested["test_loss"]):
        raise UserError(f"the network in {path} gives no finite loss: its weights are not usable")
    return {
        **tested,
        "images": len(dataset.test_labels),
        **sizes(network, dataset),
    }


def resume(
    directory: str | Path,
    *,
    device: str | None = None,
    epochs: int | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Go on with a run that was broken off, exactly as it would have gone on.

    Parameters
    ----------
    directory : path
        The run directory.
    device : str, optional
        Go on on another device. One of another type draws other random numbers for augmentation and drop path.
    epochs : int, optional
        Train for more epochs than the run was begun with; the schedule is stretched from here on.
    progress : Progress, optional

    Raises
    ------
    UserError
        When the directory holds no run, its checkpoints are damaged, or a change is not possible; when the run was
        begun with another number of processes.
    """
    with joined():
        run, checkpoint = _opened(lambda: Run.reopen(directory))
        with run:
            return _resume(run, checkpoint, device, epochs, _of_first(progress))


def _opened(
    open_run: Callable[[], tuple[Run, dict[str, Any] | None]],
) -> tuple[Run, dict[str, Any] | None]:
    """Open a run and return it and its checkpoint; where several processes work together, the first one writes it."""
    if processes() == 1:
        return open_run()
    opened: list[Run] = []

    def content() -> tuple[Any, ...]:
        run, checkpoint = open_run()
        opened.append(run)
        return run.directory, run.config, run.results, checkpoint

    directory, config, results, checkpoint = shared(content)
    return (opened[0] if opened else Follower(directory, config, results)), checkpoint


def _of_first(progress: Progress | None) -> Progress:
    """Return the progress to show: the first process's."""
    return progress if progress is not None and is_first() else Progress(quiet=True)


def _resume(
    run: Run,
    checkpoint: dict[str, Any] | None,
    device: str | None,
    epochs: int | None,
    progress: Progress,
) -> RunResult:
    options = _options_of(run)
    begun_with = run.config.get("processes", 1)
    if begun_with != processes():
        raise UserError(
            f"{run.directory} was begun with {in_words(begun_with)} and goes on with as many only, "
            f"not with {in_words(processes())}"
        )
    if checkpoint is not None:
        before = _options_of(run, checkpoint["options"]).to_json()
        different = [
            f"{name} {before[name]!r} -> {value!r}"
            for name, value in options.to_json().items()
            if value != before[name] and name not in SAFE_CHANGES
        ]
        if different:
            raise UserError(
                f"{run.directory}/config.json was changed since the last checkpoint "
                f"({', '.join(different)}): only {' and '.join(SAFE_CHANGES)} can change, "
                f"as arguments of resume"
            )
    changes: dict[str, Any] = {}
    if device is not None and device != options.device:
        resolve_device(device)
        changes["device"] = device
    if epochs is not None and epochs != options.epochs:
        if epochs < options.epochs:
            raise UserError(
                f"epochs can be raised only: the run has {options.epochs}, got {epochs}"
            )
        first = run.config.get("parts", [""])[0]
        if first in run.results:
            raise UserError(
                f"the {first} of {run.directory} is finished: more epochs would change nothing"
            )
        changes["epochs"] = epochs
    for name, value in changes.items():
        progress.say(f"changed: {name} {getattr(options, name)} -> {value}")
    if run.config["versions"] != versions():
        warnings.warn(
            f"the run was begun with {run.config['versions']}, now it is {versions()}: "
            f"results may differ in rounding",
            UserWarning,
            stacklevel=2,
        )
    options = dataclasses.replace(options, **changes)
    if changes:
        run.config["options"] = options.to_json()
        run.config.setdefault("changes", []).append(changes)
        with together():
            run.write_config()
    where = "the beginning"
    if checkpoint is not None:
        where = f"checkpoint {checkpoint['number']}"
    progress.say(f"going on with {run.directory} from {where}")
    return _go_on(run, options, checkpoint, progress)


_OPTIONS: dict[str, type[RunOptions]] = {
    "search": SearchOptions,
    "train": TrainOptions,
    "evaluate": EvaluateOptions,
}


SAFE_CHANGES = ("device", "epochs")
"""Options that `resume` may change."""


def _options_of(run: Run, options: dict[str, Any] | None = None) -> RunOptions:
    """Return the options of a run's record, or of another record of the same command."""
    try:
        return _OPTIONS[run.config["command"]].from_json(options or run.config["options"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{run.directory}/config.json is not that of a run: {error!r} is missing or unknown"
        ) from None


def _start(
    command: str,
    options: RunOptions,
    out: str | Path | None,
    progress: Progress | None,
    **extra: Any,
) -> RunResult:
    with joined():
        return _begin(command, options, out, _of_first(progress), extra)


def _begin(
    command: str,
    options: RunOptions,
    out: str | Path | None,
    progress: Progress,
    extra: dict[str, Any],
) -> RunResult:
    with together():
        resolve_device(options.device)
        check_batch_size(options.batch_size, processes())
        if isinstance(options, SparseCodeOptions):
            for name in ("m", "s"):
                options.per_node(name, SPACE)
    dataset = _load_in_turn(options)
    described = describe(dataset, options.data)
    described = {"space": dataclasses.asdict(SPACE), "data": described}
    run, _ = _opened(lambda: (Run.create(out, command, options, {**described, **extra}), None))
    progress.say(f"writing to {run.directory}")
    with run:
        try:
            return _go_on(run, options, None, progress, dataset)
        except UserError:  # a mistake that showed late: the next try may have the same --out
            run.discard()
            raise


def _load_in_turn(options: RunOptions) -> Dataset:
    """Return the data; one process of each machine downloads them, the others wait for it."""
    dataset = None
    for turn in (True, False) if options.download else (None,):
        with together():
            if turn is None or turn == (local_rank() == 0):
                dataset = load(options)
    return dataset


def load(options: RunOptions, test_only: bool = False) -> Dataset:
    """Return the data that the options name, see `load_dataset`."""
    return load_dataset(
        options.data,
        root=options.data_root,
        download=options.download,
        image_size=options.image_size,
        crop=options.crop,
        colour_jitter=options.colour_jitter,
        corrupt=options.corrupt,
        test_only=test_only,
    )


def describe(dataset: Dataset, source: str) -> dict[str, Any]:
    """Return what a network needs to know of its data, and what a resumed run must find again."""
    return {
        "source": source,
        "train": len(dataset.train_labels),
        "test": len(dataset.test_labels),
        "size": list(dataset.size),
        "classes": list(dataset.classes),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        **({} if dataset.crop == "pad" else {"crop": dataset.crop}),
    }


def _go_on(
    run: Run,
    options: RunOptions,
    checkpoint: dict[str, Any] | None,
    progress: Progress,
    dataset: Dataset | None = None,
) -> RunResult:
    device = resolve_device(options.device)
    dataset = dataset or _load_in_turn(options)
    with together():
        _check_same_data(run, options, dataset)
        if options.tensorboard:
            run.open_tensorboard()
        if options.compile:
            check_compiler(device)
    dataset = dataset.to(device)
    size = f"{dataset.size[0]}x{dataset.size[1]}"
    among = f"; {in_words(processes())}" if processes() > 1 else ""
    progress.say(
        f"{dataset.name}: {len(dataset.train_labels)} training and {len(dataset.test_labels)} test "
        f"images of {size} pixels, {len(dataset.classes)} classes; device {device}{among}"
    )
    builders: dict[str, Callable[..., list[Part]]] = {
        "search": _search_parts,
        "train": _train_parts,
        "evaluate": _evaluate_parts,
    }
    parts = builders[run.config["command"]](run, options, dataset, device)
    if "parts" not in run.config:
        tiny = max(dataset.size) <= TINY_IMAGES
        run.config["parts"] = [part.name for part in parts]
        run.config["threads"] = shared(
            lambda: options.threads or (1 if tiny else torch.get_num_threads())
        )
        with together():
            run.write_config()
    with cpu_threads(run.config["threads"]):
        results = execute(
            run,
            parts,
            checkpoint=checkpoint,
            checkpoint_steps=options.checkpoint_steps,
            progress=progress,
        )

    def written() -> tuple[Genotype, Network | None]:
        saved = run.directory / "network.pt"
        genotype = Genotype.load(run.directory / "genotype.json")
        return genotype, load_network(saved) if saved.exists() else None

    return RunResult(run.directory, *shared(written), results)


def _check_same_data(run: Run, options: RunOptions, dataset: Dataset) -> None:
    if (now := describe(dataset, options.data)) != run.config.get("data"):
        different = [name for name in now if now[name] != run.config.get("data", {}).get(name)]
        raise UserError(f"the data are not those of the run: {', '.join(different)} differ")


def in_words(processes: int) -> str:
    """Return a number of processes in words."""
    return "1 process" if processes == 1 else f"{processes} processes"


def sizes(network: Network, dataset: Dataset) -> dict[str, int]:
    """Return ``parameters`` and ``multiply_adds`` of a network for images of this size."""
    return {
        "parameters": count_parameters(network),
        "multiply_adds": count_multiply_adds(network, dataset.size),
    }


def held_out_batches(dataset: Dataset, options: RunOptions, device: torch.device) -> Batches:
    """Return the test images in batches four times as large as those of training."""
    return Batches(dataset, "test", batch_size=4 * options.batch_size, device=device)


def evaluation_recipe(options: BaseOptions, seed: int) -> EvaluateOptions:
    """Return how a found network is trained from scratch: a preset, with the size and epochs that `options` name.

    Parameters
    ----------
    options : SearchOptions or CompareOptions
    seed : int
    """
    return EvaluateOptions.preset(
        options.evaluation_preset,
        **{name: getattr(options, name) for name in ("data", "data_root", "image_size", "stem")},
        seed=seed,
        channels=options.evaluation_channels or options.channels,
        cells=options.evaluation_cells or options.cells,
        epochs=max(options.evaluation_epochs, 1),
    )


def _search_parts(
    run: Run, options: SearchOptions, dataset: Dataset, device: torch.device
) -> list[Part]:
    recipe = dataclasses.replace(
        evaluation_recipe(options, options.seed),
        sync_batch_norm=options.sync_batch_norm,
        precision=options.precision,
        compile=options.compile,
    )
    if options.evaluation_epochs:
        check_batch_size(recipe.batch_size, processes())

    def found(stage: Stage) -> dict[str, Any]:
        genotype = stage.code.genotype()
        _write_genotype(run, genotype)
        return {"genotype": str(genotype)}

    def trained(stage: Stage) -> dict[str, Any]:
        _write_network(run, stage.network)
        return tested(stage)

    def tested(stage: Stage) -> dict[str, Any]:
        network = stage.network
        return {
            "genotype": str(genotype_of(network)),
            **sizes(network, dataset),
            **score(network, held_out_batches(dataset, recipe, device)),
        }

    def training(genotype: Genotype) -> Stage:
        return Training(from_scratch(genotype, recipe, dataset), recipe, dataset, device)

    def begin(results: dict[str, Any]) -> Stage:
        shape = network_options(options, dataset, closing_norm="pooling")
        supernet = build_supernet(shape, SPACE, seed=options.seed)
        return TwoStageSearch(supernet, options, dataset, device)

    parts = [Part("search", begin, found)]
    if options.evaluation_epochs:
        parts.append(
            Part(
                "found",
                lambda results: training(Genotype.parse(results["search"]["genotype"])),
                trained,
            )
        )
        for i in range(options.random_architectures):
            drawn = random_genotype(
                SPACE, generator(options.seed, "random", i), options.per_node("s", SPACE)
            )
            parts.append(Part(f"random-{i + 1}", lambda results, g=drawn: training(g), tested))
    return parts


def _train_parts(
    run: Run, options: TrainOptions, dataset: Dataset, device: torch.device
) -> list[Part]:
    def finish(stage: Stage) -> dict[str, Any]:
        coefficients = stage.code.coefficients()
        network = fold(stage.network, coefficients)
        _write_genotype(run, genotype_of(network))
        _write_network(run, network)
        batches = held_out_batches(dataset, options, device)
        return {
            "genotype": str(genotype_of(network)),
            **sizes(network, dataset),
            "search_epochs": stage.searched,
            "folding_error": shared(
                lambda: folding_error(stage.network, coefficients, network, batches)
            ),
            **score(network, batches),
        }

    def begin(results: dict[str, Any]) -> Stage:
        shape = network_options(options, dataset, "all", options.auxiliary_weight > 0)
        supernet = build_supernet(shape, SPACE, seed=options.seed)
        return OneStageTraining(supernet, options, dataset, device)

    return [Part("train", begin, finish)]


def _evaluate_parts(
    run: Run, options: EvaluateOptions, dataset: Dataset, device: torch.device
) -> list[Part]:
    genotype = Genotype.from_json(run.config["genotype"])
    _write_genotype(run, genotype)

    def begin(results: dict[str, Any]) -> Stage:
        if "network" not in run.config:
            network = from_scratch(genotype, options, dataset)
        else:
            network = load_network(run.config["network"])
            _check_fits(network, dataset)
        return Training(network, options, dataset, device)

    def finish(stage: Stage) -> dict[str, Any]:
        _write_network(run, stage.network)
        tested = score(stage.network, held_out_batches(dataset, options, device))
        return {"genotype": str(genotype), **sizes(stage.network, dataset), **tested}

    return [Part("evaluate", begin, finish)]


def from_scratch(genotype: Genotype, options: EvaluateOptions, dataset: Dataset) -> Network:
    """Return the network of a genotype, not trained yet, for a recipe and the data."""
    shape = network_options(options, dataset, auxiliary=options.auxiliary_weight > 0)
    return build_network(genotype, **dataclasses.asdict(shape), space=SPACE, seed=options.seed)


def _check_fits(network: Network, dataset: Dataset) -> None:
    wanted = (network.options.in_channels, network.options.classes)
    given = (dataset.channels, len(dataset.classes))
    if wanted != given:
        raise UserError(
            f"the network is for images of {wanted[0]} channels and {wanted[1]} classes; "
            f"{dataset.name} has {given[0]} channels and {given[1]} classes"
        )


@torch.no_grad()
def folding_error(
    supernet: Network, coefficients: dict[str, Any], folded: Network, batches: Batches
) -> float:
    """Return the largest difference of the two networks' scores on a batch, relative to the largest score.

    In evaluation mode; the networks are left as they are.
    """
    x, _ = next(batches.epoch(0))
    modes = [(network, network.training) for network in (supernet, folded)]
    expected = supernet.eval()(x, coefficients)
    error = float((folded.eval()(x) - expected).abs().max() / expected.abs().max())
    for network, training in modes:
        network.train(training)
    return error


def _write_genotype(run: Run, genotype: Genotype) -> None:
    def write() -> None:
        genotype.save(run.directory / "genotype.json")
        draw_cells(genotype, run.directory / "cells.svg")

    on_first(write)


def _write_network(run: Run, network: Network) -> None:
    on_first(lambda: save_network(network, run.directory / "network.pt", run.config["data"]))


def save_network(network: Network, path: str | Path, data: dict[str, Any] | None = None) -> None:
    """Write a discrete network: its state dict to `path`, and how to build it to ``network.json`` beside it.

    Parameters
    ----------
    network : Network
    path : path
    data : dict, optional
        Facts on its data to keep with it: classes, mean and standard deviation per channel.
    """
    description = {
        "genotype": genotype_of(network).to_json(),
        "options": dataclasses.asdict(network.options),
        "space": dataclasses.asdict(network.space),
        "data": data,
    }
    cpu = copy.deepcopy(network).cpu()
    write_tensors(path, cpu.state_dict())
    write_json(Path(path).with_suffix(".json"), description)


def saved_data(path: str | Path) -> dict[str, Any]:
    """Return the facts on its data that `save_network` wrote beside a network; {} where there are none."""
    if not Path(path).is_file():
        raise UserError(f"{path} cannot be read: there is no such file")
    data = read_json(Path(path).with_suffix(".json"))
    return (data.get("data") if isinstance(data, dict) else None) or {}


def load_network(path: str | Path) -> Network:
    """Read a network that `save_network` wrote, in evaluation mode, on the CPU.

    Raises
    ------
    UserError
        When a file is missing or damaged, or the two do not fit each other.
    """
    path = Path(path)
    state = read_tensors(path)
    description = read_json(path.with_suffix(".json"))
    try:
        space = Space.from_json(description["space"])
        genotype = Genotype.from_json(description["genotype"], space)
        network = build_network(genotype, **description["options"], space=space)
        network.load_state_dict(state)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path} is not the state of the network that {path.with_suffix('.json')} describes: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return network.eval()
