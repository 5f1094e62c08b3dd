"""The experiments of the paper's tables and figures: end to end at the smallest scale, and what they compute."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, ttest_1samp, ttest_ind

from experiments import (
    _command,
    _statistics,
    ablation,
    cifar10_two_stage,
    correlation,
    efficiency,
)
from experiments._command import Launch, settings_of
from experiments._images import Subset, balanced, prepare_images
from experiments._searches import DARTS, ONE_STAGE, SEARCHES, SHARING, TWO_STAGE
from experiments._statistics import ceiling, interval_text, mean_interval, mean_tau
from figures import experiments as figures
from isnas import GENOTYPES, search
from isnas.codes.sparse import NodeRecovery, SparseCode
from isnas.comparison.rows import mean_and_deviation, read_about, read_rows
from isnas.runs.records import RunRecord
from isnas.runs.training import Training
from isnas.runtime.errors import UserError
from isnas.tasks.images import load_dataset

ROOT = Path(__file__).parents[2]

COMMANDS: dict[str, tuple[str, ...]] = {
    "cifar10_two_stage": (),
    "cifar10_one_stage": (),
    "imagenet_one_stage": (),
    "imagenet_transfer": ("--genotype", "ISTA_twostage"),
    "correlation": (),
    "efficiency": (),
    "ablation": ("--factors", "matrix", "m", "freezing"),
}
"""The experiments, and what they are given besides."""

DRAWN = {
    "cifar10_two_stage": ("two_stage",),
    "cifar10_one_stage": ("one_stage",),
    "correlation": ("correlation",),
    "efficiency": ("efficiency", "steps"),
    "ablation": ("ablation",),
}


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"experiments.{name}")


def launch(name: str, out: Path, *arguments: str) -> int:
    """Run an experiment's command at the smallest scale in this process."""
    words = ["--scale", "smoke", "--out", str(out), "--device", "cpu", *COMMANDS[name], *arguments]
    return module_of(name).main(words)


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows
    ]


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a Markdown text: lines of cells."""
    found: list[list[list[str]]] = []
    for block in text.split("\n\n"):
        if block.startswith("| "):
            lines = block.strip().splitlines()
            found.append([[cell.strip() for cell in line.strip("|").split("|")] for line in lines])
    return found


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the directories of finished experiments, by name; they are filled when they are asked for."""
    return {name: tmp_path_factory.mktemp(name) / "out" for name in COMMANDS}


@pytest.fixture
def finished(outs: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    """Return the directory of the finished experiment that the parameter names."""
    out = outs[request.param]
    if not (out / "table.md").exists():
        assert launch(request.param, out) == 0
    return out


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("finished", [name], indirect=True)


@pytest.mark.slow
@pytest.mark.parametrize("finished", COMMANDS, indirect=True)
def test_end_to_end(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows, a table that parses, a record without places of the machine, figures; and nothing is done twice."""
    name = finished.parent.name.rstrip("0123456789")
    module = module_of(name)
    rows, about = read_rows(finished), read_about(finished)
    text = (finished / "table.md").read_text()
    assert text == module.table_text(rows, about)
    for table in tables(text):
        assert len({len(line) for line in table}) == 1
        assert len(table) > 2
    assert "scale smoke" in text and f"python -m experiments.{name} --scale smoke" in text
    assert str(finished.parent) not in text + (finished / "about.json").read_text()
    assert about["settings"]["data"] == "digits"
    assert about["launches"][0]["machine"]["cores"]
    for figure in DRAWN.get(name, ()):
        assert figures.main([figure, str(finished), "-o", str(tmp_path / "figure.svg")]) == 0
    before = (finished / "rows.jsonl").read_bytes()
    assert launch(name, finished) == 0
    assert (finished / "rows.jsonl").read_bytes() == before
    assert launch(name, finished, "--data", "cifar10") == 2
    assert "has rows with data = 'digits', not 'cifar10'" in capsys.readouterr().err


@pytest.mark.slow
@of("cifar10_two_stage")
def test_two_stage_rows(finished: Path) -> None:
    for row in read_rows(finished):
        record = RunRecord(finished / "runs" / str(row["seed"]))
        assert record.status == "finished"
        assert row["error"] == 100 - 100 * record.results["found"]["test_accuracy"]
        # 2 epochs of 2 steps on two batches of 32
        assert row["search_images"] == 256
        assert len(row["random_errors"]) == 1
        assert row["genotype"] == str(record.genotype)
    assert (
        sum("*published" in line[0] for line in tables((finished / "table.md").read_text())[0]) == 6
    )


def test_finalists_beside_the_random_architectures_of_another_scale() -> None:
    """The intervals in the documents are those of the recorded rows."""
    results = ROOT / "experiments" / "results"
    found, ranks = (
        {row["seed"]: row for row in read_rows(results / f"cifar10-two-stage-{scale}")}
        for scale in ("finalists", "ranks")
    )
    errors = {seed: row["error"] for seed, row in found.items()}
    chance = {seed: fmean(ranks[seed]["random_errors"]) for seed in found}
    before = {seed: ranks[seed]["error"] for seed in found}
    text = " ".join((results / "README.md").read_text().split())
    for base in (chance, before):
        difference = mean_interval([errors[seed] - base[seed] for seed in found])
        assert interval_text(difference, sign=True) in text
    drawn = [error for row in ranks.values() for error in row["random_errors"]]
    values = list(errors.values())
    low, high = ttest_ind(values, drawn, equal_var=False).confidence_interval()
    assert interval_text((fmean(values) - fmean(drawn), low, high), sign=True) in text


@pytest.mark.slow
def test_images_of_a_search_with_finalists(tmp_path: Path) -> None:
    """The search's steps have two batches, its finalists' one."""
    options = {"channels": 2, "cells": 3, "batch_size": 256, "epochs": 1, "device": "cpu"}
    few = {"finalists": 2, "finalist_epochs": 1, "evaluation_epochs": 0}
    search("ista-finalists", "darts", out=tmp_path / "run", **options, **few)
    record = RunRecord(tmp_path / "run")
    half = record.config["data"]["train"] // 2
    steps = half // 256
    searched = module_of("cifar10_two_stage").searched_images(record, half)
    assert searched == (1 * 2 + 2 * 1) * steps * 256


@pytest.mark.slow
@of("cifar10_one_stage")
def test_one_stage_rows(finished: Path) -> None:
    for row in read_rows(finished):
        runs = {
            name: RunRecord(finished / "runs" / f"{row['seed']}-{name}")
            for name in ("one-stage", "retrained", "retrained-longer", "random")
        }
        drawn = runs.pop("random")
        assert len({str(run.genotype) for run in runs.values()}) == 1
        assert drawn.genotype != runs["one-stage"].genotype
        assert drawn.options["epochs"] == runs["retrained-longer"].options["epochs"]
        assert runs["retrained"].options["epochs"] == 1
        assert runs["retrained-longer"].options["epochs"] == 1 + row["search_epochs"] == 2
        assert row["search_images"] == 128
        assert row["folding_error"] < 1e-5


@pytest.mark.slow
def test_one_stage_beside_a_random_one_only(tmp_path: Path) -> None:
    assert launch("cifar10_one_stage", tmp_path, "--networks", "random", "--seeds", "2") == 0
    rows = read_rows(tmp_path)
    assert [set(row["errors"]) for row in rows] == [{"one_stage", "random"}] * 2
    lines = tables((tmp_path / "table.md").read_text())[0]
    assert sum("from scratch" in line[0] for line in lines) == 1
    figure = figures.draw_one_stage(rows)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["single run", "random as long\nas all of it"]


@pytest.mark.slow
@of("correlation")
def test_correlation_rows(finished: Path) -> None:
    rows = read_rows(finished)
    numbers, accuracies, scores = correlation.measured(rows)
    assert numbers == [0, 1, 2, 3] and accuracies.shape == (2, 4)
    assert set(scores) == set(SEARCHES)
    assert all(values.shape == (1, 4) for values in scores.values())
    alone = [row for row in rows if row["method"] == correlation.ALONE]
    given = {str(genotype) for genotype in correlation.architectures(4)}
    assert {row["genotype"] for row in alone} == given


@pytest.mark.slow
@of("efficiency")
def test_efficiency_rows(finished: Path) -> None:
    rows = read_rows(finished)
    steps = {(row["method"], row["number"]): row for row in rows if row["kind"] == "step"}
    assert set(steps) == {(method, n) for method in efficiency.STEPS for n in (2, 4)}
    for n in (2, 4):
        discrete = steps[efficiency.DISCRETE, n]["saved"]
        # a step runs what the discrete network runs, DARTS all seven operations of every edge
        assert discrete <= steps[TWO_STAGE, n]["saved"] < 1.5 * discrete
        assert steps[DARTS, n]["saved"] > 4 * discrete
        assert [steps[name, n]["batches"] for name in efficiency.STEPS] == [1, 2, 1, 1, 2]
    searches = {row["method"]: row for row in rows if row["kind"] == "search"}
    assert set(searches) == {efficiency.RANDOM, *SEARCHES}
    # halves of 48 images in batches of 24, 2 epochs
    assert searches[TWO_STAGE]["search_images"] == searches[DARTS]["search_images"] == 192
    assert searches[ONE_STAGE]["search_images"] == 192
    assert searches[SHARING]["search_images"] == 96 and searches[SHARING]["evaluated"] > 0
    assert searches[efficiency.RANDOM]["search_seconds"] == 0
    assert [point[1] for point in searches[TWO_STAGE]["curve"]] == [96, 192]


@pytest.mark.slow
@of("ablation")
def test_ablation_rows(finished: Path) -> None:
    rows = {row["setting"]: row for row in read_rows(finished)}
    wanted = {
        name
        for name, setting in ablation.SETTINGS.items()
        if setting.factor in ("random", "centre", "matrix", "m", "freezing")
    }
    assert set(rows) == wanted
    assert rows[ablation.RANDOM]["flipped"] is None and rows[ablation.RANDOM]["search_seconds"] == 0
    assert all(0 <= rows[name]["flipped"] <= 1 for name in wanted - {ablation.RANDOM})
    record = RunRecord(finished / "runs" / "uniform-m-10-0")
    assert (record.options["m"], record.options["matrix"]) == (10, "uniform")


def test_interrupted_between_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is there, and only what is missing is done afterwards."""
    name = "imagenet_transfer"
    module = module_of(name)
    arguments = ("--genotype", "ISTA_twostage", "DARTS_V2")
    done: list[str] = []
    real = module.run_trial

    def breaking(text: str, *rest: Any) -> dict[str, Any]:
        if done:
            raise KeyboardInterrupt
        done.append(text)
        return real(text, *rest)

    monkeypatch.setattr(module, "run_trial", breaking)
    assert launch(name, tmp_path, *arguments) == 130
    assert f"the same command goes on in {tmp_path}" in capsys.readouterr().err
    assert len(tables((tmp_path / "table.md").read_text())[0]) == 2 + 1 + 3
    seen: list[str] = []

    def counting(text: str, *rest: Any) -> dict[str, Any]:
        seen.append(text)
        return real(text, *rest)

    monkeypatch.setattr(module, "run_trial", counting)
    assert launch(name, tmp_path, *arguments) == 0
    assert seen == [str(GENOTYPES["DARTS_V2"])]
    assert [row["genotype"] for row in read_rows(tmp_path)] == done + seen


@pytest.mark.slow
def test_interrupted_within_a_run(
    outs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was broken off ends as one that was not: its search is not done again."""
    name = "cifar10_two_stage"
    if not (outs[name] / "table.md").exists():
        assert launch(name, outs[name]) == 0
    real = Training.train_step

    def breaking(stage: Training, batch: Any) -> Any:
        if stage.step == 1:
            raise KeyboardInterrupt
        return real(stage, batch)

    monkeypatch.setattr(Training, "train_step", breaking)
    assert launch(name, tmp_path) == 130
    monkeypatch.undo()
    assert not (tmp_path / "rows.jsonl").read_bytes()
    assert set(RunRecord(tmp_path / "runs" / "0").results) == {"search"}
    times = (tmp_path / "runs" / "0" / "times.jsonl").read_text()
    assert launch(name, tmp_path) == 0
    assert (tmp_path / "runs" / "0" / "times.jsonl").read_text().startswith(times)
    assert without_times(read_rows(tmp_path)) == without_times(read_rows(outs[name]))


@pytest.mark.slow
def test_two_processes_give_the_same_rows(outs: dict[str, Path], tmp_path: Path) -> None:
    """The experiment runs as a command, whose processes must be able to import what they run."""
    name = "cifar10_two_stage"
    if not (outs[name] / "table.md").exists():
        assert launch(name, outs[name]) == 0
    words = ["--scale", "smoke", "--out", tmp_path, "--device", "cpu", "--jobs", "2"]
    command = [sys.executable, "-m", f"experiments.{name}", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (tmp_path / "table.md").read_text().strip()

    def sorted_rows(directory: Path) -> list[dict[str, Any]]:
        return sorted(without_times(read_rows(directory)), key=lambda row: row["seed"])

    assert sorted_rows(tmp_path) == sorted_rows(outs[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_scales_and_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = module_of(name)
    more = {
        "cifar10_two_stage": ["ranks", "finalists"],
        "cifar10_one_stage": ["ranks", "short"],
    }.get(name, [])
    assert list(module.SCALES) == ["smoke", "small", *more, "paper"]
    for size in module.SCALES.values():
        json.dumps(settings_of(size))
    for scale in module.SCALES:
        assert f"--scale {scale}" in module.__doc__
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    with pytest.raises(SystemExit) as stopped:
        module.main(["--scale", "huge"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_short_searches_in_one_stage() -> None:
    """What the documents say of them is in the rows; random networks are those beside the longer searches."""
    results = ROOT / "experiments" / "results"
    short, ranks = (
        {row["seed"]: row["errors"] for row in read_rows(results / f"cifar10-one-stage-{scale}")}
        for scale in ("short", "ranks")
    )
    expected = [mean_and_deviation([each["one_stage"] for each in short.values()])]
    for name in ("one_stage", "random"):
        differences = [short[seed]["one_stage"] - ranks[seed][name] for seed in short]
        expected.append(interval_text(mean_interval(differences), sign=True))
    for document in (ROOT / "docs" / "method.md", results / "README.md"):
        text = " ".join(document.read_text().split())
        assert all(figure in text for figure in expected)


def test_paper_scales_have_the_published_settings() -> None:
    options = module_of("imagenet_one_stage").SCALES["paper"].options
    network, optimizer = options.network, options.optimizer
    assert (network.cells, network.channels, options.data.image_size) == (14, 48, 224)
    assert (optimizer.batch_size, optimizer.epochs, optimizer.warm_up_epochs) == (1024, 250, 5)
    assert (optimizer.learning_rate, optimizer.schedule) == (0.5, "linear-tail")
    assert (optimizer.weight_decay, network.stem) == (3e-5, "imagenet")
    assert optimizer.label_smoothing == 0.1
    values = options.to_json()
    other = module_of("imagenet_transfer").SCALES["paper"].options.to_json()
    assert {**other, **values} == {**values, "closing_norm": "none"}
    values = module_of("cifar10_two_stage").SCALES["paper"].options.to_json()
    assert (values["matrix"], values["epochs"], values["evaluation_epochs"]) == ("uniform", 50, 600)
    values = module_of("cifar10_one_stage").SCALES["paper"].options.to_json()
    assert list(values["limit"]) == ["parameters=3.7M"]


def test_settings_say_what_not_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has the constants of the scale; what may differ between launches is in the options of trials only."""
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        _command, "run_trials", lambda rows, function, trials, **_: given.extend(trials)
    )
    first = Launch("smoke", tmp_path, device="cpu")
    other = replace(first, data=str(tmp_path / "digits"), data_root="elsewhere", seeds=3, jobs=2)
    for launched in (first, other):
        cifar10_two_stage.run(launched)
    size = cifar10_two_stage.SCALES["smoke"]
    options = size.options.to_json()
    for name in ("seed", "device", "data", "data_root", "download"):
        del options[name]
    settings = {
        "scale": "smoke",
        "data": "digits",
        "images.train": 128,
        "images.test": 64,
        "images.size": None,
        **{f"options.{name}": value for name, value in options.items()},
    }
    assert read_about(tmp_path)["settings"] == json.loads(json.dumps(settings))
    place = {"data": str(tmp_path / "images"), "device": "cpu"}
    assert given == [
        (seed, size.options.replace(**place, data_root=root, seed=seed), tmp_path / f"runs/{seed}")
        for root, seeds in (("data", 2), ("elsewhere", 3))
        for seed in range(seeds)
    ]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch("ablation", tmp_path / "a", "--factors", "colour") == 2
    assert launch("imagenet_transfer", tmp_path / "b", "--genotype", "nothing") == 2
    assert launch("cifar10_one_stage", tmp_path / "c", "--data", "nowhere") == 2
    assert launch("cifar10_one_stage", tmp_path / "d", "--networks", "randon") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "factors must be of rule, matrix, m, s, lam, freezing, got colour" in lines[0]
    assert "genotype 'nothing' cannot be read" in lines[1]
    assert "nowhere" in lines[2]
    assert "networks must be of retrained, retrained_longer, random, got randon" in lines[3]


# Images


def test_balanced_indices() -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 30)
    found = balanced(labels, 20, torch.Generator().manual_seed(0))
    assert found.tolist() == sorted(set(found.tolist()))
    counts = torch.bincount(labels[found]).tolist()
    assert sorted(counts) == [6, 7, 7]
    assert torch.bincount(labels[balanced(labels, 40, torch.Generator())]).tolist()[1] == 7
    assert balanced(labels, None, torch.Generator()).tolist() == list(range(87))


def test_prepared_images_are_the_original_ones(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    folder = prepare_images(tmp_path, Subset("digits", 40, 20), "digits", "data")
    found = load_dataset(folder)
    assert (len(found.train_labels), len(found.test_labels)) == (40, 20)
    assert torch.bincount(found.test_labels).tolist() == [2] * 10
    originals = {
        image.numpy().tobytes(): int(y)
        for image, y in zip(digits.train_images, digits.train_labels, strict=True)
    }
    for image, label in zip(found.train_images, found.train_labels, strict=True):
        assert originals[image[:1].numpy().tobytes()] == int(label)
    assert prepare_images(tmp_path, Subset("digits", 40, 20), "digits", "data") == folder
    assert prepare_images(tmp_path, Subset("digits"), "digits", "data") == "digits"
    larger = prepare_images(tmp_path / "b", Subset("digits", 10, 10, size=16), "digits", "data")
    assert load_dataset(larger).size == (16, 16)
    with pytest.raises(UserError, match="360 test images; this scale needs 361"):
        prepare_images(tmp_path / "c", Subset("digits", 10, 361), "digits", "data")


# Statistics


def test_kendall_is_scipys() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.integers(5, size=(2, 12))
        assert mean_tau(a[None], b[None])[0] == pytest.approx(kendalltau(a, b).statistic)
    assert np.isnan(mean_tau(np.ones((1, 4)), np.arange(4.0)[None])[0])


def test_interval_of_tau_is_that_of_resampled_architectures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The intervals are scipy's on each resample: the mean over all pairs of a score and a training."""
    monkeypatch.setattr(_statistics, "RESAMPLES", 200)
    random = np.random.default_rng(1)
    worth = random.normal(size=15)
    scores = worth + random.normal(size=(2, 15))
    accuracies = worth + random.normal(size=(3, 15))
    mean, low, high = mean_tau(scores, accuracies)

    def average(chosen: np.ndarray) -> float:
        taus = [kendalltau(a[chosen], b[chosen]).statistic for a in scores for b in accuracies]
        return float(np.mean(taus))

    assert mean == pytest.approx(average(np.arange(15)))
    drawn = np.random.default_rng(0).integers(15, size=(200, 15))
    expected = np.quantile([average(chosen) for chosen in drawn], (0.025, 0.975))
    assert (low, high) == pytest.approx(tuple(expected))
    pairs = [(0, 1), (0, 2), (1, 2)]
    taus = [kendalltau(accuracies[i], accuracies[j]).statistic for i, j in pairs]
    assert ceiling(accuracies)[0] == pytest.approx(np.mean(taus))


def test_intervals_cover_the_truth() -> None:
    """An interval covers the truth about 95 of 100 times, for the correlation that normal noise leaves."""
    random = np.random.default_rng(2)
    truth = 2 / np.pi * np.arcsin(0.5)  # of normal variables whose correlation is 1/2
    covered = 0
    for _ in range(60):
        a, noise = random.normal(size=(2, 60))
        _, low, high = mean_tau(a[None], (0.5 * a + 0.75**0.5 * noise)[None])
        covered += low <= truth <= high
    assert covered >= 52


def test_constant_scores_have_no_tau() -> None:
    found = mean_tau(np.ones((1, 5)), np.arange(5.0)[None])
    assert np.isnan(found).all() and interval_text(found) == "not defined"


def test_interval_of_means_is_students() -> None:
    values = [1.0, 2.5, -0.5, 3.0]
    mean, low, high = mean_interval(values)
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((1.5, interval.low, interval.high))
    assert interval_text(mean_interval([1.0]), sign=True) == "+1.00"
    assert interval_text((1.0, -0.5, 2.0), 1) == "1.0 [-0.5, 2.0]"


# Ablation


def test_settings_differ_from_their_centre_by_one_factor() -> None:
    for setting in ablation.SETTINGS.values():
        assert setting.centre is None or setting.centre in ablation.SETTINGS
        if setting.centre is not None and setting.factor in ("m", "s", "lam"):
            centre = ablation.SETTINGS[setting.centre].changes
            assert set(setting.changes.items()) - set(centre.items()) == {
                (setting.factor, setting.changes[setting.factor])
            }


def test_crossed_comparisons_pair_what_agrees() -> None:
    """Effects that are put in come out: re-encoding +2, path +1, best_subset +3, Gaussian +5, and one for each seed."""
    rows = []
    for name, (factor, _, changes) in ablation.SETTINGS.items():
        if factor in ("centre", "rule"):
            rule = {"path": 1.0, "best_subset": 3.0}.get(changes.get("rule"), 0.0)
            value = (
                2.0 * changes.get("reencode", False)
                + rule
                + 5.0 * (changes["matrix"] == "gaussian")
            )
            rows += [{"setting": name, "seed": s, "accuracy": value + 10 * s} for s in range(3)]
    rows[0]["accuracy"] += 6.0  # gaussian, truncate, seed 0
    rows.remove(rows[-1])  # of the last seed, which does not count any more
    assert dict(ablation.crossed(rows)) == {
        "re-encoded minus not, over all rules and matrices": pytest.approx([1.0, 2.0]),
        "re-encoded minus not, truncate only": pytest.approx([-1.0, 2.0]),
        "path minus truncate": pytest.approx([-0.5, 1.0]),
        "best_subset minus truncate": pytest.approx([1.5, 3.0]),
        "best_subset minus path": pytest.approx([2.0, 2.0]),
        "gaussian minus uniform": pytest.approx([6.0, 5.0]),
    }


@pytest.mark.parametrize("reencode", [False, True])
def test_behaviour_is_what_the_code_did(
    reencode: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the coefficients that the network ran right after each recovery and right before the next."""
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    flips: list[list[bool]] = []
    real = SparseCode.recover

    def values(code: SparseCode) -> np.ndarray:
        return torch.cat([c.values.detach() for c in code.coefficients().values()]).double().numpy()

    def recover(code: SparseCode) -> list[NodeRecovery]:
        if code.last_recovery:
            before.append(values(code))
        found = real(code)
        after.append(values(code))
        z = np.concatenate([z[list(s)].numpy() for z, s in zip(code.z, code.support, strict=True)])
        flips.append((after[-1] * z < 0).reshape(-1, 2).any(1).tolist())
        return found

    monkeypatch.setattr(SparseCode, "recover", recover)
    options = cifar10_two_stage.SCALES["smoke"].options.replace(
        data=prepare_images(tmp_path, Subset("digits", 64, 20), "digits", "data"),
        matrix="uniform",
        reencode=reencode,
        code_learning_rate=0.1,
        epochs=4,
        batch_size=8,
        evaluation_epochs=0,
        device="cpu",
    )
    search(options=options, out=tmp_path / "run")
    found = ablation.behaviour(list(RunRecord(tmp_path / "run").trajectories.values()))
    flipped = [np.sign(a) != np.sign(b) for a, b in zip(after, before, strict=False)]
    assert found["flipped"] == pytest.approx(np.mean(flipped)) and found["flipped"] > 0
    assert found["started_flipped"] == pytest.approx(np.mean(flips))
    assert (found["started_flipped"] == 0) == reencode
    assert found["left"] > 0 and 0 <= found["changed_late"] <= 1
