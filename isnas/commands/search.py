"""Search by any method, and training of what was found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import spaces
from ..runs.directory import Run
from ..runs.evaluation import from_scratch, tested
from ..runs.loop import Part, Stage
from ..runs.saved import FILE
from ..runs.training import Training
from ..runtime.options import Composition
from ..runtime.processes import check_batch_size, processes
from ..runtime.progress import Progress
from ..runtime.randomness import generator
from ..searches.base import Search, Setting
from ..searches.limits import Limits, choices_within
from ..searches.registry import method_named
from ..spaces.base import Space
from ..spaces.genotype import Genotype
from ..tasks.registry import task_of
from .run import Job, RunResult, composed, keeper, start, write_genotype, write_network

TWO_STAGE, ONE_STAGE = "ista-two-stage", "ista-one-stage"


def search(
    method: str = TWO_STAGE,
    space: str | Space = "darts",
    *,
    preset: str = "quick",
    out: str | Path | None = None,
    progress: Progress | None = None,
    options: Composition | None = None,
    **values: Any,
) -> RunResult:
    """Search an architecture by a method, and train what was found beside random ones by the same recipe.

    Parameters
    ----------
    method : str
        Name of the method, see `isnas.METHODS`.
    space : str or Space
        The search space, or its name.
    preset : str
        Values of all options that are not given.
    out : path, optional
        The run directory; by default ``runs/<date>-search``.
    progress : Progress, optional
        By default nothing is shown.
    options : Composition, optional
        All options, instead of `preset` and `values`.
    **values
        Options by the names that the command has, such as ``epochs`` or ``evaluation_epochs``.

    Raises
    ------
    UserError
        When the options, the data or the directory are not usable, or the method cannot serve the space.
    isnas.runs.loop.Interrupted
        When a signal stopped it; `resume` goes on.

    Examples
    --------
    >>> isnas.search("darts-1", data="digits", epochs=3)  # doctest: +SKIP
    """
    space = spaces.get(space)
    schema = method_named(method, space).schema(space)
    return start(
        search_job(method, space, composed(schema, preset, options, values)), out, progress
    )


def train(
    space: str | Space = "darts",
    *,
    preset: str = "quick",
    out: str | Path | None = None,
    progress: Progress | None = None,
    **values: Any,
) -> RunResult:
    """Search and train in one run (one-stage), and fold the result into a plain network: `search` by ista-one-stage."""
    return search(ONE_STAGE, space, preset=preset, out=out, progress=progress, **values)


def search_job(method: str, space: Space, options: Composition) -> Job:
    """Return the job of a search."""
    return Job("search", space, task_of(space), options, {"method": method}, _parts, _check)


def _setting(job: Job, data: Any, device: torch.device) -> Setting:
    options = job.options
    target = None if options.evaluation is None else options.evaluation.network
    return Setting(job.space, job.task, job.task.without_test(data), device, options, target)


def _check(job: Job, data: Any) -> None:
    method = method_named(job.record["method"], job.space)
    method.search.check(_setting(job, data, torch.device("cpu")))


def _parts(job: Job, run: Run, data: Any, device: torch.device) -> list[Part]:
    options, task = job.options, job.task
    method = method_named(job.record["method"], job.space)
    setting = _setting(job, data, device)
    recipe = options.evaluation
    shapes = {"search": method.search.limits_of(setting)}
    shapes["found"] = shapes["search"] if shapes["search"].shape is None else Limits(setting)
    settings = dict.fromkeys(shapes, setting)
    if "latency" in shapes["search"].bounds:
        # measured once: what goes on goes by the same tables
        if "latencies" not in run.config:
            run.config["latencies"] = {
                name: limits.latencies.to_json(job.space) for name, limits in shapes.items()
            }
        settings = {n: replace(setting, latencies=run.config["latencies"][n]) for n in shapes}
    if recipe is not None:
        check_batch_size(recipe.optimizer.batch_size, processes())

    def found(stage: Search) -> dict[str, Any]:
        genotype = stage.genotype()
        write_genotype(run, genotype)
        results: dict[str, Any] = {"genotype": str(genotype)}
        network = stage.trained_network()
        if network is not None:
            write_network(run, network)
            results |= stage.network_results()
            results |= tested(network, task, data, options, device, keeper(run, "search"))
        return results

    def evaluated(stage: Training, keep: Any = None) -> dict[str, Any]:
        genotype = Genotype.of(stage.network)
        found = tested(stage.network, task, data, recipe, device, keep)
        return {"genotype": str(genotype), **found}

    def trained(stage: Training) -> dict[str, Any]:
        # a search that has trained its own network has written that one
        own = "parameters" in run.results["search"]
        write_network(run, stage.network, "from_scratch.pt" if own else FILE)
        return evaluated(stage, keeper(run, "found"))

    def training(genotype: Genotype) -> Stage:
        return Training(from_scratch(genotype, recipe, task, data), recipe, task, data, device)

    parts = [Part("search", lambda results: method.create(settings["search"]), found)]
    if recipe is not None:

        def begin(results: dict[str, Any]) -> Stage:
            return training(Genotype.parse(results["search"]["genotype"], job.space))

        parts.append(Part("found", begin, trained))
        choices = choices_within(Limits(settings["found"]), options.to_json().get("s"))
        for i in range(options.follow_up.random_architectures):
            drawn = choices.random(generator(options.runtime.seed, "random", i))
            parts.append(
                Part(f"random-{i + 1}", lambda results, drawn=drawn: training(drawn), evaluated)
            )
    return parts
