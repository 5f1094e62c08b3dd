"""Figures of runs: legible, not empty, of finished and broken-off runs; they show what the run did."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from figures import cells, compare, freezing, sparsity, training
from figures._node_code import draw_heat_map
from figures._node_code import shares as shares_of
from figures._runs import group_runs, open_groups
from isnas import GENOTYPES
from isnas.runs.records import RunRecord
from isnas.runtime.errors import UserError

Check = Callable[[Figure], list[str]]
BrokenOff = Callable[..., Path]


@pytest.fixture(params=["train", "search"])
def run(request: pytest.FixtureRequest) -> RunRecord:
    """Return each of the tiny runs."""
    return RunRecord(request.getfixturevalue(f"{request.param}_run"))


@pytest.mark.parametrize("module", [sparsity, freezing])
def test_code_figures(module: object, run: RunRecord, check_figure: Check) -> None:
    texts = check_figure(module.make_figure(run))
    assert "Normal cell" in texts
    assert "Reduction cell" in texts
    assert any(text.startswith("node 3") for text in texts)


@pytest.mark.parametrize("module", [sparsity, freezing])
@pytest.mark.parametrize("recoveries", [1, 2])
def test_code_figures_of_a_run_that_goes_on(
    module: object, recoveries: int, train_run: Path, broken_off: BrokenOff, check_figure: Check
) -> None:
    check_figure(module.make_figure(RunRecord(broken_off(train_run, recoveries))))


@pytest.mark.parametrize("module", [sparsity, freezing])
def test_no_codes_yet(module: object, train_run: Path, broken_off: BrokenOff) -> None:
    with pytest.raises(UserError, match="holds no sparse codes"):
        module.make_figure(RunRecord(broken_off(train_run, 0)))


def test_sparsity_frames_the_active_places(run: RunRecord) -> None:
    code = run.trajectories["reduction", 2]
    ax = Figure().subplots()
    draw_heat_map(code, ax)
    framed = np.zeros((len(code), len(code.places)), dtype=bool)
    for patch in ax.patches:
        assert isinstance(patch, Rectangle)
        first, place = round(patch.get_x() + 0.5), round(patch.get_y() + 0.5)
        framed[first : first + round(patch.get_width()), place] = True
    active = np.zeros_like(framed)
    np.put_along_axis(active, code.support, True, axis=1)
    assert (framed == active).all()


def test_sparsity_shows_z_until_the_node_is_frozen(train_run: Path) -> None:
    for code in RunRecord(train_run).trajectories.values():
        shares = shares_of(code)
        end = code.frozen_at + 1
        np.testing.assert_allclose(np.abs(shares[:end]).sum(1), 1)
        assert (np.sign(shares[:end]) == np.sign(code.z[:end])).all()
        assert np.isnan(shares[end:]).all()


def test_sparsity_of_one_kind(run: RunRecord, check_figure: Check) -> None:
    texts = check_figure(sparsity.make_figure(run, ["reduction"]))
    assert "Normal cell" not in texts
    assert texts.count("sep_conv_5x5") == 5  # once for each state that the last node can read
    with pytest.raises(UserError, match="'recurrent'"):
        sparsity.make_figure(run, ["recurrent"])


def test_freezing_shows_movements_and_the_threshold(train_run: Path) -> None:
    run = RunRecord(train_run)
    code = run.trajectories["normal", 1]
    ax = Figure().subplots()
    freezing.draw_freezing([code], ax, threshold=0.05)
    line = ax.lines[0]
    assert line.get_ydata().tolist() == code.moved[1 : code.frozen_at + 1].tolist()
    assert line.get_label() == f"node 1: frozen after {code.frozen_at}"
    assert any(list(line.get_ydata()) == [0.05, 0.05] for line in ax.lines)
    assert ax.get_yscale() == "log"


def test_cells_have_the_coefficients_of_the_last_recovery(run: RunRecord) -> None:
    found = cells.coefficients_of(run)
    for (kind, node), code in run.trajectories.items():
        values = [value for (j, _), value in found[kind].items() if j == node]
        assert sorted(values) == sorted(code.coefficients[-1].tolist())
    assert cells.make_figure(run).axes


def test_cells_without_fitting_coefficients(run: RunRecord, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(run.directory, tmp_path / "copy"))
    GENOTYPES["DARTS_V2"].save(directory / "genotype.json")
    assert cells.coefficients_of(RunRecord(directory)) is None
    assert cells.make_figure(RunRecord(directory)).axes


def test_training_of_one_run(run: RunRecord, check_figure: Check) -> None:
    figure = training.make_figure({"mine": [run]})
    texts = check_figure(figure)
    assert "mine" in texts
    assert "test, at the end" in texts
    part = run.parts[0]
    shown = figure.axes[0].lines[0].get_ydata()
    assert list(shown) == run.epochs(part)["train_loss"].tolist()


def test_training_of_several_seeds(train_run: Path, tmp_path: Path, check_figure: Check) -> None:
    other = Path(shutil.copytree(train_run, tmp_path / "other"))
    text = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(text.replace('"train_loss": ', '"train_loss": 1'))
    runs = [RunRecord(train_run), RunRecord(other)]
    figure = training.make_figure({"two seeds": runs})
    check_figure(figure)
    losses = [run.epochs("search")["train_loss"] for run in runs]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx(np.mean(losses, axis=0))
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((np.min(losses), np.max(losses)))


def test_training_without_an_epoch(train_run: Path, broken_off: BrokenOff) -> None:
    with pytest.raises(UserError, match="no epoch is finished yet"):
        training.make_figure({"new": [RunRecord(broken_off(train_run, 1))]})


def test_training_of_a_run_that_goes_on(
    train_run: Path, broken_off: BrokenOff, check_figure: Check
) -> None:
    check_figure(training.make_figure({"going on": [RunRecord(broken_off(train_run, 2))]}))


def test_comparison(search_run: Path, train_run: Path, check_figure: Check) -> None:
    groups = open_groups([str(search_run), f"mine={train_run}"])
    results = compare.results_of(groups)
    assert list(results) == ["ista-two-stage", "random architectures", "mine"]
    assert len(results["random architectures"]) == 2
    assert all(row.cost == 0 for row in results["random architectures"])
    found = RunRecord(search_run)
    assert results["ista-two-stage"][0].cost == pytest.approx(found.seconds("search").sum())
    assert results["ista-two-stage"][0].parameters == found.results["found"]["parameters"]
    searched = RunRecord(train_run).results["search"]["search_epochs"]
    seconds = RunRecord(train_run).seconds("search")
    assert results["mine"][0].cost == pytest.approx(seconds[:searched].sum())
    texts = check_figure(compare.make_figure(groups))
    assert "random architectures (2 runs)" in texts


def test_comparison_without_results(train_run: Path, broken_off: BrokenOff) -> None:
    with pytest.raises(UserError, match="none of the runs has been tested yet"):
        compare.make_figure({"new": [RunRecord(broken_off(train_run, 2))]})


def test_groups(train_run: Path, search_run: Path, tmp_path: Path) -> None:
    copies = []
    for name, old, new in (
        ("seed", '"seed": 0', '"seed": 1'),
        ("rule", '"rule": "truncate"', '"rule": "path"'),
    ):
        copy = Path(shutil.copytree(train_run, tmp_path / name))
        text = (copy / "config.json").read_text()
        assert old in text
        (copy / "config.json").write_text(text.replace(old, new))
        copies.append(copy)
    runs = [("", RunRecord(path)) for path in (train_run, *copies, search_run)]
    groups = group_runs(runs)
    assert {label: len(members) for label, members in groups.items()} == {
        "ista-one-stage, rule truncate": 2,
        "ista-one-stage, rule path": 1,
        "ista-two-stage": 1,
    }
    assert list(group_runs([("a", runs[0][1]), ("a", runs[3][1])])) == ["a"]
