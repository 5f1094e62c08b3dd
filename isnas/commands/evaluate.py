"""Training of a given architecture from scratch, and tests of saved networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..runs.directory import Run
from ..runs.evaluation import check_auxiliary, evaluation_schema, from_scratch, sizes, tested
from ..runs.loop import Part, Stage
from ..runs.saved import load_network, network_file, saved_data
from ..runs.training import Training
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError
from ..runtime.options import Composition
from ..runtime.processes import joined
from ..runtime.progress import Progress
from ..spaces.genotype import Genotype
from ..tasks.registry import task_of
from .run import Job, RunResult, composed, keeper, of_first, start, write_genotype, write_network


def evaluate(
    genotype: Genotype | str | Path,
    *,
    preset: str = "quick",
    out: str | Path | None = None,
    progress: Progress | None = None,
    options: Composition | None = None,
    **values: Any,
) -> RunResult:
    """Train the network of a genotype from scratch and test it; see `isnas.search` for the other arguments.

    Parameters
    ----------
    genotype : Genotype, str or path
        An architecture, the name of a published one, or a file with one.
    """
    genotype = Genotype.meant(genotype)
    schema = evaluation_schema(genotype.space)
    return start(evaluation_job(genotype, composed(schema, preset, options, values)), out, progress)


def train_further(
    path: str | Path,
    *,
    preset: str = "quick",
    out: str | Path | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> RunResult:
    """Train a saved network further and test it; its shape is its own. See `isnas.search` for the other arguments."""
    return start(further_job(path, preset, values), out, progress)


def further_job(path: str | Path, preset: str, values: Mapping[str, Any]) -> Job:
    """Return the job of training a saved network further, with a preset's options and values by name."""
    network = load_network(path)
    genotype = Genotype.of(network)
    schema = evaluation_schema(genotype.space)
    own = {
        name: getattr(network.options, name)
        for name, field in schema.fields.items()
        if field.part == "network"
    }
    if given := set(own) & set(values):
        raise UserError(f"{min(given)} is the network's own: leave it out")
    options = schema.compose(preset, **{**values, **own})
    check_auxiliary(network, options, path)
    return evaluation_job(genotype, options, network_file(path).resolve())


def evaluation_job(genotype: Genotype, options: Composition, network: Path | None = None) -> Job:
    """Return the job of training the network of a genotype, or a saved one further."""
    space = genotype.space
    record: dict[str, Any] = {"genotype": genotype.to_json()}
    if network is not None:
        record["network"] = str(network)
    return Job("evaluate", space, task_of(space), options, record, _parts)


def _parts(job: Job, run: Run, data: Any, device: torch.device) -> list[Part]:
    genotype = Genotype.from_json(job.record["genotype"])
    write_genotype(run, genotype)
    recipe, task = job.options, job.task

    def begin(results: dict[str, Any]) -> Stage:
        if "network" not in job.record:
            network = from_scratch(genotype, recipe, task, data)
        else:
            network = load_network(job.record["network"])
            task.check_fits(network, data)
        return Training(network, recipe, task, data, device)

    def finish(stage: Training) -> dict[str, Any]:
        write_network(run, stage.network)
        keep = keeper(run, "evaluate")
        found = tested(stage.network, task, data, recipe, device, keep)
        return {"genotype": str(genotype), **found}

    return [Part("evaluate", begin, finish)]


def test_saved(
    path: str | Path, progress: Progress | None = None, **values: Any
) -> dict[str, float]:
    """Test a saved network on what is held out of the data, prepared as its training data were.

    Parameters
    ----------
    path : path
        A network.pt, or a run directory that has one.
    progress : Progress, optional
    **values
        Options of `isnas.evaluate` by name; by default the data that the network was trained on.

    Returns
    -------
    dict
        ``test_<measure>``, ``test_loss``, the amount that was tested on by the task's unit (such as ``images``),
        ``parameters``, ``multiply_adds``.

    Raises
    ------
    UserError
        When a file is missing or damaged, or the data do not fit the network.
    """
    with joined():
        path = network_file(path)
        network, saved = load_network(path), saved_data(path)
        task = task_of(network.space)
        schema = evaluation_schema(Genotype.of(network).space)
        options = schema.compose(**{**task.options_of_saved(saved, values), **values})
        device = resolve_device(options.runtime.device)
        data = task.load(options.data, test_only=bool(saved))
        task.check_fits(network, data)
        data = task.prepared_as(data, saved, path)
        of_first(progress).say(f"{task.in_words(data)}; device {device}")
        feed = task.test_feed(task.to(data, device), options.optimizer, device)
        found = task.test(network.to(device), feed)
        if not math.isfinite(found["test_loss"]):
            raise UserError(
                f"the network in {path} gives no finite loss: its weights are not usable"
            )
        return {**found, task.unit: task.test_amount(data), **sizes(network, task, data)}
