"""Records: what was written is read back, of runs in every state; nothing is written; damage is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isnas import DARTS_SPACE
from isnas.runs.records import RunRecord
from isnas.runtime.errors import UserError
from isnas.spaces.genotype import Genotype

BrokenOff = Callable[..., Path]


def copied(run: Path, tmp_path: Path) -> Path:
    """Return a copy that may be damaged."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


def contents(directory: Path) -> dict[Path, bytes]:
    """Return all files with their contents."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_finished_run(train_run: Path) -> None:
    run = RunRecord(train_run)
    assert (run.command, run.status, run.parts) == ("search", "finished", ("search",))
    assert run.options["search_epochs"] == 4
    assert run.results["search"]["parameters"] > 0
    assert [path.suffix for path in run.checkpoints] == [".pt", ".pt"]
    assert str(run.genotype) == run.results["search"]["genotype"]


def test_metrics_are_those_of_the_file(search_run: Path) -> None:
    run = RunRecord(search_run)
    assert run.parts == ("search", "found", "random-1", "random-2")
    lines = [json.loads(line) for line in (search_run / "metrics.jsonl").read_text().splitlines()]
    for part in run.parts:
        own = [line for line in lines if line["part"] == part]
        steps, epochs = run.steps(part), run.epochs(part)
        assert steps["train_loss"].tolist() == [x["train_loss"] for x in own if "step" in x]
        assert steps["step"].dtype == epochs["epoch"].dtype == np.int64
        assert epochs["train_accuracy"].tolist() == [
            x["train_accuracy"] for x in own if "step" not in x
        ]
        # what an epoch says is the mean of its steps
        for epoch, loss in zip(epochs["epoch"], epochs["train_loss"], strict=True):
            assert loss == pytest.approx(steps["train_loss"][steps["epoch"] == epoch].mean())
        assert run.seconds(part).shape == epochs["epoch"].shape
        assert (run.seconds(part) > 0).all()
    assert run.steps("nothing") == run.epochs("nothing") == {}


def test_values_that_epochs_lack(train_run: Path) -> None:
    epochs = RunRecord(train_run).epochs("search")
    searched = (epochs["phase"] == "search").sum()
    assert 0 < searched < len(epochs["phase"])
    assert np.isnan(epochs["frozen"][searched:]).all()
    assert (epochs["genotype"][searched:] == "").all()


def test_trajectories(train_run: Path) -> None:
    run = RunRecord(train_run)
    assert list(run.trajectories) == [
        (kind, node) for kind in DARTS_SPACE.kinds for node in range(DARTS_SPACE.nodes)
    ]
    for (kind, node), code in run.trajectories.items():
        R, n = code.z.shape
        assert (code.kind, code.node, len(code)) == (kind, node, R)
        assert code.places == DARTS_SPACE.candidates(node)
        assert len(code.labels) == n == 7 * (node + 2)
        assert code.labels[0] == "max_pool_3x3<0"
        assert code.A.shape == (7, n)
        assert code.b.shape == (R, 7)
        assert code.support.shape == code.coefficients.shape == (R, 2)
        for name in ("residual", "residual_cut", "gap", "iterations", "nonzeros", "moved"):
            assert getattr(code, name).shape == (R,)
        assert code.changed.dtype == code.frozen.dtype == code.refused.dtype == bool
        assert code.moved[0] == np.inf
        assert not code.refused.any()
        # until it is frozen a node is recovered from its b: what is said of it can be computed again
        end = R if code.frozen_at is None else code.frozen_at + 1
        z, b = code.z[:end], code.b[:end]
        np.testing.assert_allclose(code.residual[:end], np.linalg.norm(z @ code.A.T - b, axis=1))
        assert code.nonzeros[:end].tolist() == (z != 0).sum(1).tolist()
        cut = np.zeros_like(z)
        np.put_along_axis(cut, code.support[:end], np.take_along_axis(z, code.support[:end], 1), 1)
        np.testing.assert_allclose(
            code.residual_cut[:end], np.linalg.norm(cut @ code.A.T - b, axis=1)
        )
        np.testing.assert_allclose(
            code.moved[1:end], np.linalg.norm(np.diff(z, axis=0), axis=1), atol=1e-15
        )
        share = np.abs(cut).sum(1) / np.abs(z).sum(1)
        np.testing.assert_allclose(code.concentration[:end], share)
        assert ((code.replaced > 0)[1:] == code.changed[1:]).all()
        assert code.frozen_at is not None  # the search has ended
        assert code.frozen[code.frozen_at :].all()
        assert not code.frozen[: code.frozen_at].any()


def test_genotypes_are_those_of_the_supports(train_run: Path) -> None:
    run = RunRecord(train_run)
    found = run.genotypes("search")
    assert list(found) == list(range(run.results["search"]["search_epochs"]))
    for epoch, genotype in found.items():
        places = {kind: [] for kind in DARTS_SPACE.kinds}
        for (kind, _), code in run.trajectories.items():
            places[kind] += [code.places[i] for i in code.support[epoch + 1]]
        assert genotype == Genotype.from_places(places, DARTS_SPACE)
    assert RunRecord(train_run).genotypes("nothing") == {}


def test_refused_recoveries(train_run: Path, tmp_path: Path) -> None:
    directory = copied(train_run, tmp_path)
    last = sorted(directory.glob("codes/[0-9]*.npz"))[-1]
    with np.load(last) as archive:
        np.savez(last, **{**archive, "refused": np.array(True)})
    (directory / "genotype.json").unlink()
    run = RunRecord(directory)
    code = run.trajectories["normal", 0]
    assert code.refused.tolist() == [False] * (len(code) - 1) + [True]
    assert code.taken == len(code) - 2
    assert run.genotype == run.genotypes("search")[code.taken - 1]


@pytest.mark.parametrize("recoveries", [0, 1, 2])
def test_run_that_goes_on_or_was_broken_off(
    train_run: Path, broken_off: BrokenOff, recoveries: int
) -> None:
    directory = broken_off(train_run, recoveries)
    before = contents(directory)
    run = RunRecord(directory)
    assert run.status == "broken off"
    assert run.results == {}
    epochs = max(recoveries - 1, 0)
    assert len(run.epochs("search").get("epoch", ())) == len(run.seconds("search")) == epochs
    if recoveries:
        assert all(len(code) == recoveries for code in run.trajectories.values())
        assert isinstance(run.genotype, Genotype)
        if epochs:
            assert run.genotype == run.genotypes("search")[epochs - 1]
    else:
        assert run.trajectories == {}
        assert run.genotype is None
    assert contents(directory) == before


def test_search_is_finished_with_its_last_random_architecture(
    search_run: Path, tmp_path: Path
) -> None:
    directory = copied(search_run, tmp_path)
    assert RunRecord(directory).status == "finished"
    results = json.loads((directory / "results.json").read_text())
    del results["random-2"]
    (directory / "results.json").write_text(json.dumps(results))
    assert RunRecord(directory).status == "broken off"


def test_unfinished_line_is_left_out_wherever_it_ends(train_run: Path, tmp_path: Path) -> None:
    directory = copied(train_run, tmp_path)
    path = directory / "metrics.jsonl"
    content = path.read_bytes()
    whole = content.count(b"\n")
    last = len(content) - content.rstrip(b"\n").rfind(b"\n") - 1
    for missing in range(1, last):
        path.write_bytes(content[:-missing])
        run = RunRecord(directory)
        assert len(run.steps("search")["step"]) + len(run.epochs("search")["epoch"]) == whole - 1


def test_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"holds no run: there is no config\.json"):
            RunRecord(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"command": "train", "options": 3}'])
def test_damaged_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        RunRecord(tmp_path)


@pytest.mark.parametrize("line", ["{", "3", "[]", "{}", '{"part": 1, "epoch": 0}', "\x00"])
def test_damaged_line_is_named(train_run: Path, tmp_path: Path, line: str) -> None:
    directory = copied(train_run, tmp_path)
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        RunRecord(directory).epochs("search")


def test_damaged_results(train_run: Path, tmp_path: Path) -> None:
    directory = copied(train_run, tmp_path)
    for text in ("{", "[]", '{"train": 3}'):
        (directory / "results.json").write_text(text)
        with pytest.raises(UserError, match=r"results\.json"):
            _ = RunRecord(directory).status


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_codes(train_run: Path, tmp_path: Path, keep: float) -> None:
    directory = copied(train_run, tmp_path)
    path = directory / "codes" / "000001.npz"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"000001\.npz"):
        _ = RunRecord(directory).trajectories


def test_codes_that_do_not_belong_together(train_run: Path, tmp_path: Path) -> None:
    directory = copied(train_run, tmp_path)
    path = directory / "codes" / "000001.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    for change, message in (
        ({"normal.0.z": np.zeros(3)}, "normal.0.z"),
        ({"normal.0.z": arrays["normal.0.z"] > 0}, "normal.0.z"),
        ({"moved": np.zeros(2)}, "moved"),
        ({"normal.0.support": np.array([0, 99])}, "places that do not exist"),
        ({"normal.9.z": np.zeros(3)}, "normal.9.z"),
    ):
        np.savez(path, **{**arrays, **change})
        with pytest.raises(UserError, match=rf"000001\.npz: .*{message}"):
            _ = RunRecord(directory).trajectories
    path.unlink()
    with pytest.raises(UserError, match=r"000001\.npz is missing"):
        _ = RunRecord(directory).trajectories
    np.savez(path, **arrays)
    assert RunRecord(directory).trajectories
    (directory / "codes" / "matrices.npz").unlink()
    with pytest.raises(UserError, match=r"matrices\.npz cannot be read"):
        _ = RunRecord(directory).trajectories


def test_pickles_in_codes_are_not_executed(train_run: Path, tmp_path: Path) -> None:
    directory = copied(train_run, tmp_path)
    np.savez(directory / "codes" / "000000.npz", z=np.array([object()], dtype=object))
    with pytest.raises(UserError, match="damaged"):
        _ = RunRecord(directory).trajectories
