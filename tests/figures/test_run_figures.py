"""Figures of runs: legible, not empty, of finished and broken-off runs; they show what the run did."""

from __future__ import annotations

import itertools
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
from figures._style import look, reach
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
def test_code_figures(
    module: object, train_run: Path, search_run: Path, check_figure: Check
) -> None:
    for directory in (train_run, search_run) if module is sparsity else (train_run,):
        texts = check_figure(module.make_figure(RunRecord(directory)))
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
    freezing.draw_freezing([code], ax, freezing.Freezing(0.05))
    line = ax.lines[0]
    assert line.get_ydata().tolist() == code.moved[1 : code.frozen_at + 1].tolist()
    assert line.get_label() == f"node 1: settled after {code.frozen_at}"
    assert any(list(line.get_ydata()) == [0.05, 0.05] for line in ax.lines)
    assert ax.get_yscale() == "log"


def test_freezing_tells_what_settled_from_what_was_cut_off(train_run: Path) -> None:
    run = RunRecord(train_run)
    rule = freezing.Freezing.of(run)
    assert (rule.threshold, rule.limit, rule.by_cut) == (0.05, 4, False)
    for code in run.trajectories.values():
        at = code.frozen_at
        z = np.linalg.norm(code.z[at] - code.z[at - 1])
        assert z == pytest.approx(rule.movement(code)[at])
        settled = z <= 0.05 and np.linalg.norm(code.z[at]) >= 0.1 * 0.05
        assert rule.cut_off(code) == (not settled)
        assert at == 4 or settled
        # with no threshold nothing settles; with a huge one all does
        for threshold, expected in ((0.0, at == 4), (1e9, False)):
            other = freezing.Freezing(threshold, 4)
            assert other.cut_off(code) == expected
        ax = Figure().subplots()
        freezing.draw_freezing([code], ax, freezing.Freezing(0.0, at))
        labels = ax.get_legend_handles_labels()[1]
        assert f"node {code.node}: cut off after {at}" in labels
        assert "cut off" in labels


def test_freezing_by_the_cut_shows_its_movement(train_run: Path) -> None:
    code = RunRecord(train_run).trajectories["normal", 1]
    cut = np.zeros_like(code.z)
    for r, support in enumerate(code.support):
        cut[r, support] = code.z[r, support]
    expected = [np.linalg.norm(b - a) for a, b in itertools.pairwise(cut)]
    found = freezing.Freezing(0.05, by_cut=True).movement(code)
    assert found[1:] == pytest.approx(expected) and found[0] == np.inf


def test_data_sets_are_named_where_there_are_several(
    train_run: Path, search_run: Path, tmp_path: Path, check_figure: Check
) -> None:
    """Not of one colour, whatever the label, and neither are the random architectures of both."""
    copies = []
    for run in (train_run, search_run):
        copy = Path(shutil.copytree(run, tmp_path / run.name))
        text = (copy / "config.json").read_text()
        (copy / "config.json").write_text(text.replace('"digits"', '"folder/letters"'))
        copies.append(copy)
    runs = [RunRecord(path) for path in (train_run, copies[0])]
    assert list(group_runs([("a", run) for run in runs])) == ["a on digits", "a on letters"]
    assert list(group_runs([("", runs[0]), ("", RunRecord(copies[1]))])) == [
        "ista-one-stage on digits",
        "ista-two-stage on letters",
    ]
    groups = open_groups([str(search_run), str(copies[1])])
    results = compare.results_of(groups)
    assert {"random architectures on digits", "random architectures on letters"} <= set(results)
    texts = check_figure(compare.make_figure(groups))
    assert compare.BARS in texts


def test_many_methods_are_told_apart() -> None:
    looks = {tuple(sorted(look(i).items())) for i in range(20)}
    assert len(looks) == 20


def test_intervals_of_two_seeds_leave_the_values_their_room() -> None:
    """The values' range takes at least a third of the axis, whatever the intervals."""
    low, high = reach([0.0, 1.0, 3.0], [(-500.0, 400.0), (float("nan"), float("nan"))])
    assert low <= -3 and high >= 6 and high - low < 10
    low, high = reach([0.0, 3.0], [(-0.5, 3.2)])
    assert -1 < low < -0.5 and 3.2 < high < 3.5
    assert reach([1.0], []) == pytest.approx((0.95, 1.05))


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
