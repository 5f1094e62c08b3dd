"""Every method finds a recurrent cell in a run of its own, and one that is killed goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import isnas
from isnas import Genotype, UserError, get_space
from isnas.runs.saved import load_network
from isnas.runtime import files
from isnas.runtime.progress import Progress
from isnas.searches.base import Setting
from isnas.searches.registry import METHODS, method_named, search_options
from isnas.tasks.registry import TASKS

TINY: dict[str, Any] = {
    "width": 4,
    "batch_size": 4,
    "bptt": 6,
    "epochs": 2,
    "learning_rate": 1.0,
    "device": "cpu",
    "threads": 1,
    "evaluation_epochs": 0,
    "random_architectures": 0,
    "checkpoint_steps": 3,
}
SAMPLED = {"validation_amount": 60}
CHILDREN = {"architectures": 3, "epochs": 1}
OWN: dict[str, dict[str, Any]] = {
    "ista-two-stage": {"code_learning_rate": 0.3},
    "ista-finalists": {"code_learning_rate": 0.3, "finalists": 3, "finalist_epochs": 1},
    "ista-one-stage": {"search_epochs": 2, "epochs": 1, "code_learning_rate": 0.3},
    "darts-1": {},
    "darts-2": {},
    "gdas": {},
    "enas": {**SAMPLED, "controller_steps": 2, "samples": 2, "final_samples": 3},
    "random-sharing": {**SAMPLED, "candidates": 4, "finalists": 2},
    "random": CHILDREN,
    "grid": CHILDREN,
    "evolution": {**CHILDREN, "population": 2, "sample": 2},
    "generational": {**CHILDREN, "population": 2, "parents": 2, "children": 1},
    "reinforce": CHILDREN,
    "successive-halving": {"architectures": 3, "epochs": 3},
    "hyperband": {"epochs": 3},
    "asha": {"architectures": 3, "epochs": 3},
}
SPACE = get_space("recurrent", nodes=3)
NOT_HERE = {"pc-darts", "hm-nas", "zero-cost-pt"} | {
    f"training-free-{ranker}" for ranker in ("parameters", "multiply-adds", "naswot", "az-nas")
}


class Killed(Exception):
    """Stands for a crash."""


class KilledAt(Progress):
    """Crashes at a step."""

    def __init__(self, step: int) -> None:
        super().__init__(quiet=True)
        self.left = step

    def step(self, done: int, total: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of text in which a word says much of the next one."""
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    made = tmp_path_factory.mktemp("text")
    for split, lines in (("train", 30), ("valid", 15), ("test", 15)):
        starts = torch.randint(6, (lines,), generator=random).tolist()
        text = "".join(
            " ".join(f"w{(start + k * k) % 6}" for k in range(7)) + "\n" for start in starts
        )
        (made / f"{split}.txt").write_text(text)
    return made


@pytest.mark.parametrize("method", OWN)
def test_a_search_is_killed_and_goes_on(method: str, folder: Path, tmp_path: Path) -> None:
    options = {**TINY, **OWN[method], "data": str(folder)}
    whole = isnas.search(method, SPACE, out=tmp_path / "whole", **options)
    assert whole.genotype.space == SPACE
    with pytest.raises(Killed):
        # in the middle of the second epoch, or of the second architecture
        isnas.search(method, SPACE, out=tmp_path / "killed", progress=KilledAt(15), **options)
    again = isnas.resume(tmp_path / "killed")
    assert again.genotype == whole.genotype
    assert again.results == whole.results
    for name in ("metrics.jsonl", "genotype.json"):
        assert (again.directory / name).read_bytes() == (whole.directory / name).read_bytes()
    if whole.network is not None:
        one, two = (files.read_tensors(each.directory / "network.pt") for each in (whole, again))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_there_is_no_other_method() -> None:
    assert set(METHODS) == set(OWN) | NOT_HERE
    for method in NOT_HERE:
        with pytest.raises(UserError, match=f"{method} cannot search the space recurrent"):
            method_named(method, get_space("recurrent"))


def test_what_was_found_is_trained_beside_random_cells(folder: Path, tmp_path: Path) -> None:
    options = {
        **TINY,
        "data": str(folder),
        "evaluation_epochs": 3,
        "evaluation_nonmonotone": 1,
        "evaluation_learning_rate": 30.0,
        "evaluation_vary_length": "normal",
        "random_architectures": 1,
    }
    whole = isnas.search("ista-two-stage", SPACE, out=tmp_path / "whole", **options)
    assert set(whole.results) == {"search", "found", "random-1"}
    steps = len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
    with pytest.raises(Killed):
        isnas.search(
            "ista-two-stage",
            SPACE,
            out=tmp_path / "killed",
            progress=KilledAt(steps // 2 + 4),
            **options,
        )
    again = isnas.resume(tmp_path / "killed")
    assert again.results == whole.results
    # the weights that are kept are those of the best validation loss
    record = isnas.RunRecord(tmp_path / "whole")
    assert len(record.epochs("found")["valid_perplexity"]) == 3
    found = whole.results["found"]["test_perplexity"]
    assert 1 < found < 10
    network = load_network(tmp_path / "whole" / "network.pt")
    assert network.options.closing_norm == "none"
    from isnas.commands import test_saved

    assert test_saved(tmp_path / "whole" / "network.pt")["test_perplexity"] == pytest.approx(found)


def test_one_stage_folds_its_cell(folder: Path, tmp_path: Path) -> None:
    options = {**TINY, **OWN["ista-one-stage"], "data": str(folder)}
    result = isnas.search("ista-one-stage", SPACE, out=tmp_path / "run", **options)
    assert result.results["search"]["folding_error"] < 1e-5
    assert Genotype.of(result.network) == result.genotype
    assert len(result.network.places["recurrent"]) == 3


def test_a_number_of_places_that_a_cell_cannot_have_is_one_line(
    folder: Path, tmp_path: Path
) -> None:
    for method in ("ista-two-stage", "darts-1", "gdas"):
        with pytest.raises(UserError, match="s must be ") as caught:
            isnas.search(method, SPACE, out=tmp_path / method, **{**TINY, "data": str(folder)}, s=2)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / method).exists()


def test_what_cannot_be_compiled_is_said(folder: Path, tmp_path: Path) -> None:
    options = {**TINY, "data": str(folder), "compile": True}
    with pytest.raises(UserError, match="networks of the task language cannot be compiled"):
        isnas.search("ista-two-stage", SPACE, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_the_code_gets_a_gradient_for_every_node(folder: Path) -> None:
    space, task = get_space("recurrent"), TASKS["language"]
    options = search_options("ista-two-stage", space, **{**TINY, "data": str(folder)})
    data = task.load(options.data)
    setting = Setting(space, task, data, torch.device("cpu"), options)
    search = METHODS["ista-two-stage"].create(setting)
    _, valid = next(search.batches(0, 0))
    loss, _ = search.weights.loss(valid, search.code.coefficients())
    loss.backward()
    assert all(float(b.grad.norm()) > 1e-7 for b in search.code.b)
    # m shorter than each node's vector
    assert [A.shape for A in search.code.A] == [(min(7, 4 * n - 1), 4 * n) for n in range(1, 9)]
    assert all(
        torch.allclose(A.norm(dim=0), torch.ones(A.shape[1]).double()) for A in search.code.A
    )
