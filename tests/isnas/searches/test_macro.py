"""Every method of the registry in ENAS's macro space: whole runs, going on after an interruption, comparison."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from making import IMAGES, search_with

import isnas
from figures.report import commands_of, page
from isnas import Genotype, UserError, build_supernet
from isnas.runs.evaluation import evaluation_schema, from_scratch
from isnas.runs.records import RunRecord
from isnas.runs.saved import load_network
from isnas.runtime.files import read_tensors
from isnas.runtime.progress import Progress
from isnas.searches.registry import METHODS, chosen, search_options
from isnas.spaces import from_json
from isnas.spaces.base import Space
from isnas.spaces.macro import KIND, MacroSpace

SPACE = MacroSpace(layers=3)
TINY = {"channels": 2, "batch_size": 360, "device": "cpu"}
FOLLOW = {"evaluation_epochs": 1, "random_architectures": 1}
CHILDREN = {"architectures": 3, "epochs": 1}
HALVING = ("successive-halving", "hyperband", "asha")
RANKERS = ("parameters", "multiply-adds", "naswot", "az-nas")
REFUSED = {"pc-darts": "no channels of which", "hm-nas": "its masks leave any number"}

OPTIONS: dict[str, dict[str, Any]] = {
    "ista-two-stage": {"epochs": 2},
    "ista-finalists": {"epochs": 1, "finalists": 3},
    "ista-one-stage": {"epochs": 1, "search_epochs": 1, "dropout": 0.5, "drop_path": 0.2},
    "darts-1": {"epochs": 1},
    "darts-2": {"epochs": 1},
    "gdas": {"epochs": 2},
    "enas": {"epochs": 1, "controller_steps": 2, "samples": 2, "final_samples": 3},
    "random-sharing": {"epochs": 1, "candidates": 4},
    "random": CHILDREN,
    "grid": CHILDREN,
    "evolution": {**CHILDREN, "population": 2, "sample": 2},
    "generational": {**CHILDREN, "population": 2, "parents": 2, "children": 1},
    "reinforce": CHILDREN,
    **{method: {"architectures": 3, "epochs": 3} for method in HALVING},
    **{f"training-free-{ranker}": {"architectures": 3} for ranker in RANKERS},
    "zero-cost-pt": {"proposals": 1, "validation_batches": 1},
}


def test_methods() -> None:
    """All serve the space, but for two that say why not."""
    assert set(OPTIONS) | set(REFUSED) == set(METHODS)
    assert chosen(["all"], SPACE) == tuple(OPTIONS)
    for method, reason in REFUSED.items():
        with pytest.raises(UserError, match=f"{method} cannot search the space macro: .*{reason}"):
            isnas.search(method, SPACE)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_run_by_every_method(method: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = isnas.search(method, SPACE, out=out, **TINY, **FOLLOW, **OPTIONS[method])
    assert result.genotype.space == SPACE
    assert Genotype.load(out / "genotype.json") == result.genotype
    assert result.results["found"]["genotype"] == str(result.genotype)
    assert 0 <= result.results["random-1"]["test_accuracy"] <= 1
    own = load_network(out / "network.pt")
    assert Genotype.of(own) == result.genotype
    assert own.options.form == "concatenation"
    assert (out / "cells.svg").stat().st_size > 1000
    if method == "ista-one-stage":
        assert result.results["search"]["folding_error"] < 1e-5


class At(Progress):
    """Asks for an interruption at the n-th step that it hears of."""

    def __init__(self, n: int) -> None:
        super().__init__(quiet=True)
        self.left = n

    def step(self, done: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("ista-two-stage", {"sparsity": "lam", "lam": 1e-4, "init_scale": 0.01}),
        ("ista-one-stage", {}),
        ("enas", {}),
        ("evolution", {}),
    ],
)
def test_an_interrupted_run_ends_as_the_uninterrupted_one(
    method: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    options = {**TINY, **FOLLOW, **OPTIONS[method], **changes, "checkpoint_steps": 1}
    whole, run = tmp_path / "whole", tmp_path / "run"
    isnas.search(method, SPACE, out=whole, **options)
    with pytest.raises(isnas.Interrupted):
        isnas.search(method, SPACE, out=run, progress=At(3), **options)
    with pytest.raises(isnas.Interrupted):
        isnas.resume(run, progress=At(4))
    isnas.resume(run)
    for name in ("metrics.jsonl", "genotype.json", "results.json", "network.json", "cells.svg"):
        assert (whole / name).read_bytes() == (run / name).read_bytes(), name
    states = [read_tensors(directory / "network.pt") for directory in (whole, run)]
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


def test_a_number_of_skips_chosen_by_lam_in_records_and_report(tmp_path: Path) -> None:
    out = tmp_path / "run"
    space = MacroSpace(layers=5)
    options = {"sparsity": "lam", "lam": 2e-3, "init_scale": 0.01, "epochs": 3}
    isnas.search("ista-two-stage", space, out=out, evaluation_epochs=0, **TINY, **options)
    record = RunRecord(out)
    numbers = set()
    for (kind, _, name), code in record.trajectories.items():
        assert kind == KIND
        active = (code.support >= 0).sum(1)
        if name == "operation":
            assert (active == 1).all()
        else:
            assert (active == code.nonzeros).all()
            numbers |= set(active.tolist())
        assert ((code.replaced >= 0) & (code.replaced <= len(code.places))).all()
        share = code.concentration
        assert ((share[share == share] > 0) & (share[share == share] <= 1 + 1e-12)).all()
    assert len(numbers) > 1
    text = page(record)
    assert str(record.genotype) in text
    (command,) = commands_of(record)
    assert "--space macro" in command and "--layers 5" in command and "--sparsity lam" in command


def test_comparison(tmp_path: Path) -> None:
    compared = isnas.compare(
        SPACE,
        out=tmp_path,
        methods=("ista-two-stage", "random"),
        seeds=1,
        budget="2epochs",
        child_epochs=1,
        sampled=2,
        evaluation_epochs=1,
        channels=2,
        batch_size=360,
        device="cpu",
    )
    assert {row["method"] for row in compared.rows} >= {"ista-two-stage", "random"}
    about = json.loads((tmp_path / "about.json").read_text())
    assert from_json(about["settings"]["space"]) == SPACE
    for row in compared.rows:
        if "genotype" in row:
            assert Genotype.parse(row["genotype"], SPACE).skips == row["skips"]


def steps_of(search: Any, epochs: int) -> None:
    for epoch in range(epochs):
        search.epoch = epoch
        for step, batch in enumerate(search.batches(epoch, 0)):
            search.step = step
            search.train_step(batch)


@pytest.mark.parametrize("method", ["ista-two-stage", "gdas", "random-sharing"])
def test_the_search_runs_one_operation_a_layer(method: str, toy_data: Any) -> None:
    space: Space = MacroSpace(layers=4)
    data = toy_data(n=24)
    supernet = build_supernet(space, channels=2, classes=4, in_channels=1, form="sum")
    search = search_with(supernet, method, data, epochs=1, batch_size=4)
    ran: list[tuple[int, int]] = []
    calls = [0]
    for place in space.places():
        if place.source == place.node:
            (operation,) = supernet.operations_at(KIND, [place])
            operation.register_forward_hook(lambda *_, place=place: ran.append(place[:2]))
    supernet.stem.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    steps_of(search, 1)
    assert calls[0] >= 3
    for layer in range(4):
        assert ran.count((layer, layer)) == calls[0]


def test_the_published_recipes() -> None:
    """The network of the released code, trained by its recipe; and the constants of its search."""
    space = Genotype.load("ENAS_macro").space
    recipe = evaluation_schema(space).compose("paper")
    assert (recipe.network.channels, recipe.optimizer.batch_size) == (96, 100)
    assert recipe.regularization.dropout == 0.5
    options = search_options("enas", space, "paper")
    assert (options.network.channels, options.method.tanh_constant) == (36, 1.5)
    assert (options.method.skip_target, options.method.skip_weight) == (0.4, 0.8)


def test_what_its_networks_do_not_have_is_refused(toy_data: Any) -> None:
    recipe = evaluation_schema(SPACE).compose(auxiliary_weight=0.4)
    with pytest.raises(UserError, match="networks of this space have no auxiliary"):
        from_scratch(Genotype.parse("0 1 1 2 0 1"), recipe, IMAGES, toy_data())
