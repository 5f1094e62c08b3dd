"""The experiment on NAS-Bench-201: its methods on toy tables, a small run that is interrupted, its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import experiments.nasbench201 as experiment
from experiments._statistics import interval_text, mean_interval
from experiments._tabular import dataset_at, prepare_images
from experiments.nasbench201 import (
    BY_TABLE,
    CROSSED,
    FREE,
    METHODS,
    OTHERS,
    PUBLISHED,
    RANKED,
    REFERENCES,
    SHARING,
    SMOOTHED,
    SPARSE,
    ask_table,
    chosen,
    factor_text,
    main,
    scores,
    search_of,
)
from figures import nasbench201 as figures
from isnas.comparison.rows import mean_and_deviation, read_about, read_rows
from isnas.runtime.errors import UserError
from isnas.spaces.nasbench201 import all_cells
from isnas.tabular.nasbench201 import COLUMNS, Table
from isnas.tasks.images import Dataset

ROOT = Path(__file__).parents[2]


def convolutions(cell: str) -> float:
    """Return an accuracy that each 3x3 convolution raises: one optimum, and every step towards it pays."""
    return 10.0 + 15.0 * cell.count("nor_conv_3x3")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of invented accuracies, different in every column."""
    values = np.array([[convolutions(cell)] * len(COLUMNS) for cell in all_cells()])
    noise = np.random.default_rng(0).uniform(-4, 0, values.shape)
    path = tmp_path_factory.mktemp("table") / "table.csv.gz"
    Table((values + noise).round(3)).write(path)
    return path


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run of all methods with two seeds."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert launch(table, out) == 0
    return out


def launch(table: Path, out: Path, *arguments: str) -> int:
    """Run the command at the smallest scale in this process."""
    return main(
        [
            "--scale",
            "smoke",
            "--table",
            str(table),
            "--out",
            str(out),
            "--device",
            "cpu",
            *arguments,
        ]
    )


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows
    ]


@pytest.mark.parametrize("method", BY_TABLE)
def test_an_easy_optimum_is_found_within_the_budget(method: str) -> None:
    """A fifth of the cells is best; whatever is learnt, a hundred draws find one."""
    known = np.array([90.0 if cell.endswith("nor_conv_3x3~2|") else 10.0 for cell in all_cells()])
    assert ask_table(method, 1, 100, known).endswith("nor_conv_3x3~2|")


def test_evolution_climbs() -> None:
    """The search finds the one optimum of 15,625, which random search misses with the same budget."""
    known = np.array([convolutions(cell) for cell in all_cells()])
    for seed in range(3):
        assert ask_table("evolution", seed, 600, known).count("nor_conv_3x3") == 6
        assert ask_table("random search", seed, 600, known).count("nor_conv_3x3") < 6


def test_scores_are_of_all_classes() -> None:
    """Also where the images stand class by class, as in a folder: always answering one class is right for a quarter."""
    labels = torch.arange(400) // 100
    images = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
    dataset = Dataset(
        "sorted", images, labels, images[:0], labels[:0], tuple("abcd"), mean=(0.5,), std=(0.3,)
    )
    scale = replace(experiment.SCALES["smoke"], scored=1, scoring_images=100)
    stage = search_of(RANKED, 0, scale, dataset, torch.device("cpu"))
    # all images are the same, so the network answers one class
    (score,) = scores(stage, scale, dataset, 0).values()
    assert 10 < score < 40


def test_a_scale_may_change_one_search_alone() -> None:
    labels = torch.arange(64) % 4
    images = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)
    dataset = Dataset(
        "equal", images, labels, images[:0], labels[:0], tuple("abcd"), mean=(0.5,), std=(0.3,)
    )
    smoke = experiment.SCALES["smoke"]
    own = {experiment.SMOOTHED: {"warm_up_share": 0.6, "code_batch_size": 7}}
    changed = replace(smoke, options_of=own)

    def options_of(method: str, scale: experiment.Scale) -> dict[str, Any]:
        return search_of(method, 0, scale, dataset, torch.device("cpu")).options.to_json()

    before, after = (options_of(experiment.SMOOTHED, scale) for scale in (smoke, changed))
    assert after == {**before, "warm_up_share": 0.6, "code_batch_size": 7} != before
    assert options_of(RANKED, changed) == options_of(RANKED, smoke)


def test_methods_by_their_beginnings() -> None:
    assert chosen(METHODS) == METHODS
    assert chosen(["random"]) == (SHARING, "random search")
    assert chosen(["evolution", "sparse path"]) == (
        *(name for name in SPARSE if " path " in name),
        "evolution",
    )
    assert chosen([RANKED]) == (RANKED,)
    with pytest.raises(UserError, match="no method is called 'evo'"):
        chosen(["evo"])


def test_rows_say_all(finished: Path, table: Path) -> None:
    rows, known = read_rows(finished), Table.read(table)
    assert [(row["seed"], row["method"]) for row in rows] == [
        (seed, method) for seed in range(2) for method in METHODS
    ]
    for row in rows:
        cell, method = row["cell"], row["method"]
        assert row["accuracy"]["cifar100"] == known.accuracy(cell, "cifar100")
        assert row["rank"]["cifar10"] == known.rank(cell, "cifar10")
        assert row["skips"] == cell.count("skip_connect")
        if method in BY_TABLE:
            assert row["trained"] == 12 * row["evaluated"] == 12 * 25_000 * 20
            assert row["seconds"] is None
        elif method in FREE:
            # a batch for each cell, 20 different ones, if it is looked at: forwards, for AZ-NAS backwards, too; four
            # proposals look at every operation of six edges, and at two batches to choose by
            passes = {"naswot": (0, 20), "az-nas": (20, 0), "zero-cost-pt": (0, 4 * (6 * 4 + 2))}
            trained, evaluated = passes.get(method, (0, 0))
            assert (row["trained"], row["evaluated"]) == (32 * trained, 32 * evaluated)
        else:
            # 192 images in halves of 3 batches of 32, 2 epochs; unrolled, the architecture takes four passes; the three
            # phases of HM-NAS, an epoch each, take all images
            passes = {
                SHARING: 192,
                SMOOTHED: 192,  # the code learns from forward passes
                "enas": 192,
                "darts second order": 192 + 4 * 192,
                "hm-nas": 3 * 192,
            }
            assert row["trained"] == passes.get(method, 384)
            assert row["seconds"] > 0
        holding = method in (*SPARSE, SMOOTHED, "gdas") or method.startswith("darts")
        assert len(row["trajectory"]) == (3 if holding else 4 if method == "hm-nas" else 0)
        if row["trajectory"]:
            assert row["trajectory"][-1] == [cell, row["accuracy"]["cifar10"]]
        if method in SPARSE:
            assert "none" not in cell
        assert (len(row["scores"]) > 0) == (method in (*OTHERS, *FREE) or method == RANKED)
        if method == SHARING:
            best = max(score for _, score, _ in row["scores"])
            assert [cell, best] in [point[:2] for point in row["scores"]]
            assert row["evaluated"] == len(row["scores"]) * 32


def test_the_losses_of_steps_cost_no_passes(table: Path, tmp_path: Path) -> None:
    """As many images are trained on as by pairs of passes, and none is evaluated."""
    asked = ["--methods", SMOOTHED, experiment.OWN_LOSSES, "--seeds", "1"]
    assert launch(table, tmp_path / "out", *asked) == 0
    seen = {r["method"]: (r["trained"], r["evaluated"]) for r in read_rows(tmp_path / "out")}
    assert seen == {SMOOTHED: (192, 192), experiment.OWN_LOSSES: (192, 0)}


def test_searches_that_train_cells_by_themselves(table: Path, tmp_path: Path) -> None:
    """They run when asked for; of 192 images half are trained on, in 3 batches of 32 or one of the recipe's 64."""
    asked = ["--methods", *experiment.TRAINED, "--seeds", "1"]
    assert launch(table, tmp_path / "out", *asked) == 0
    rows = {row["method"]: row for row in read_rows(tmp_path / "out")}
    assert list(rows) == ["sparse finalists", "successive halving"]
    # two epochs of search, then six finalists for an epoch and two of them for two more
    assert rows["sparse finalists"]["trained"] == 2 * 96 + (6 + 2 * 2) * 64
    assert len(rows["sparse finalists"]["trajectory"]) == 1 + 2 + (6 + 2 * 2)
    assert rows["successive halving"]["trained"] == 27 * 2 * 96


def test_shrunk_images_have_as_much_cut_out(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(256, size=(32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    cut = {}
    for size in (None, 16):
        path = tmp_path / f"{size}.pt"
        prepare_images(path, str(tmp_path / "images"), None, "data", size)
        cut[size] = dataset_at(path).cutout
    assert cut == {None: 16, 16: 8}


def test_table_has_all_methods_and_references(finished: Path) -> None:
    text = (finished / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    for method in METHODS:
        assert sum(line.startswith(f"| {method} | 2 |") for line in lines) == 1
    references = sum(line.startswith("| *reference") for line in lines)
    assert references == len(REFERENCES) + len(PUBLISHED)
    assert "unverified" in text
    for table in text.split("\n\n"):
        assert len({line.count("|") for line in table.splitlines() if line.startswith("| ")}) <= 1


def test_factors_are_compared_all_else_being_equal() -> None:
    """Re-encoding brings 2, a Gaussian matrix 1 and the rule path -3 everywhere; the start was 1 lower."""
    rows = []
    for seed in range(3):
        for method, variant in SPARSE.items():
            value = 80 + 2 * variant["reencode"] + (variant["matrix"] == "gaussian") + seed
            value -= 3 * (variant["rule"] == "path")
            row = {"method": method, "seed": seed, "accuracy": {"cifar10": value}}
            rows.append({**row, "trajectory": [["", value - 1.0], ["", value]]})
    text = factor_text(rows)
    for line in (
        "with and without | +2.00 [+2.00, +2.00]",
        "Gaussian and uniform | +1.00",
        "rule path: and truncate | -3.00",
        "rule best_subset: and truncate | +0.00",
        "start of the search | +1.00",
    ):
        assert line in text
    assert factor_text(rows[:-1]).count("(2)") == 1
    assert factor_text(rows[: len(SPARSE)]) == ""


def test_crossed_factors_are_compared_all_else_being_equal() -> None:
    """By value: 1; balanced: 2; perturbed: -1; fair paths: 3; over z >= 0: 4, with fair paths only."""
    rows = []
    for seed in range(2):
        for method, variant in CROSSED.items():
            fair, rule = variant["warm_up_share"] > 0, variant["rule"]
            value = 80 + 2 * (variant["matrix"] == "balanced") - variant["perturbation"] + 3 * fair
            value += (rule == "signed") + 4 * (rule == "non_negative" and fair) + seed
            row = {"method": method, "seed": seed, "accuracy": {"cifar10": value}}
            rows.append({**row, "trajectory": [["", value], ["", value]]})
    text = factor_text(rows)
    for line in (
        "cut: by value and by magnitude | +1.00 [+1.00, +1.00]",
        "over z >= 0 and cut by magnitude | +2.00",
        "balanced and Gaussian | +2.00",
        "perturbation: with and without | -1.00",
        "fair paths: first and never | +4.33",
        "start of the search | +0.00",
    ):
        assert line in text


def test_record_names_no_place_of_the_machine(finished: Path) -> None:
    text = (finished / "about.json").read_text() + (finished / "table.md").read_text()
    assert str(finished.parent) not in text
    launches = json.loads((finished / "about.json").read_text())["launches"]
    assert "--scale smoke --table table.csv.gz --out out" in launches[0]["command"]
    assert {"torch", "scipy", "joblib"} <= set(launches[0]["versions"])


def test_interrupted_run_goes_on(
    finished: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first row, and again in the middle of writing one: the rows are those of a whole run."""
    methods = ("--methods", RANKED, SHARING, "evolution")
    real = experiment.run_trial

    def breaking(method: str, *rest: Any) -> dict[str, Any]:
        if method != RANKED:
            raise KeyboardInterrupt
        return real(method, *rest)

    monkeypatch.setattr(experiment, "run_trial", breaking)
    assert launch(table, tmp_path, *methods) == 130
    monkeypatch.undo()
    assert len(read_rows(tmp_path)) == 1
    assert f"| {RANKED} | 1 |" in (tmp_path / "table.md").read_text()
    with open(tmp_path / "rows.jsonl", "a") as file:
        file.write('{"method": "random sh')
    assert launch(table, tmp_path, *methods) == 0

    wanted = [row for row in read_rows(finished) if row["method"] in methods]
    assert without_times(read_rows(tmp_path)) == without_times(wanted)
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert launch(table, tmp_path, *methods) == 0
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    assert len(json.loads((tmp_path / "about.json").read_text())["launches"]) == 3


@pytest.mark.slow
def test_two_processes_give_the_same_rows(finished: Path, table: Path, tmp_path: Path) -> None:
    """The experiment runs as a command, whose processes must be able to import what they run."""
    methods = ("sparse path uniform", "reinforce 0.5")
    words = ["--scale", "smoke", "--table", table, "--out", tmp_path, "--device", "cpu"]
    words += ["--jobs", "2", "--methods", *methods]
    command = [sys.executable, "-m", "experiments.nasbench201", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    def sorted_rows(directory: Path) -> list[dict[str, Any]]:
        rows = [row for row in read_rows(directory) if row["method"] in methods]
        return sorted(without_times(rows), key=lambda row: (row["method"], row["seed"]))

    assert sorted_rows(tmp_path) == sorted_rows(finished)


def test_other_settings_are_refused(
    finished: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(table, finished, "--data", "cifar100") == 2
    assert "has rows with data = 'digits', not 'cifar100'" in capsys.readouterr().err
    assert launch(tmp_path / "missing.csv", finished) == 2
    assert "missing.csv cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("cost", [*METHODS, "optimum", "search cost"]),
        (
            "trajectory",
            [
                "truncate",
                "best_subset",
                "uniform reencoded",
                "others",
                "hm-nas",
                "epochs of search",
            ],
        ),
        ("scatter", [RANKED, SHARING, "Kendall's tau", "2 seeds"]),
    ],
)
def test_figures(name: str, texts: list[str], finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    assert figures.main([name, str(finished), "-o", str(path)]) == 0
    content = path.read_text()
    assert len(content) > 15_000
    for text in texts:
        assert text in content


def test_figures_of_few_rows(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One seed of one method can be drawn as far as it goes; what cannot is said in one line."""
    (tmp_path / "about.json").write_text((finished / "about.json").read_text())
    with open(tmp_path / "rows.jsonl", "w") as file:
        file.write(json.dumps(read_rows(finished)[METHODS.index("evolution")]) + "\n")
    out = str(tmp_path / "figure.svg")
    assert figures.main(["cost", str(tmp_path), "-o", out]) == 0
    assert figures.main(["trajectory", str(tmp_path), "-o", out]) == 2
    assert figures.main(["scatter", str(tmp_path), "-o", out]) == 2
    assert figures.main(["cost", str(tmp_path / "missing"), "-o", out]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert "there is no trajectory" in errors[0] and "no super-net has scored" in errors[1]


def test_finalists_beside_what_others_found() -> None:
    """The figures in the documents are those of the recorded rows; the wide search is the first 18 epochs."""
    results = ROOT / "experiments" / "results"
    found = {row["seed"]: row for row in read_rows(results / "nasbench201-finalists")}
    others: dict[str, dict[int, float]] = {}
    for row in read_rows(results / "nasbench201-ranks"):
        others.setdefault(row["method"], {})[row["seed"]] = row["accuracy"]["cifar10"]
    best = {seed: row["accuracy"]["cifar10"] for seed, row in found.items()}
    wide = {seed: row["trajectory"][18][1] for seed, row in found.items()}
    fifteen = {seed: row["trajectory"][18 + 15][1] for seed, row in found.items()}
    random = read_about(results / "nasbench201-finalists")["settings"]["references"]["full"]
    differences = [[value - random["cifar10"] for value in best.values()]]
    for one, method in (
        (best, SMOOTHED),
        (wide, SMOOTHED),
        *((best, method) for method in ("darts first order", "gdas", "hm-nas")),
    ):
        seeds = sorted(set(one) & set(others[method]))
        differences.append([one[seed] - others[method][seed] for seed in seeds])
    text = " ".join((results / "README.md").read_text().split())
    for each in differences:
        assert interval_text(mean_interval(each), sign=True) in text
    for each in (best, wide, fifteen):
        assert mean_and_deviation(list(each.values())) in text


def test_steps_beside_passes() -> None:
    """What the documents say of scores without passes is what the recorded rows say."""
    found: dict[str, dict[int, float]] = {SMOOTHED: {}, experiment.OWN_LOSSES: {}}
    for row in read_rows(ROOT / "experiments" / "results" / "nasbench201-ranks"):
        if row["method"] in found:
            found[row["method"]][row["seed"]] = row["accuracy"]["cifar10"]
    passes, steps = found.values()
    assert set(passes) == set(steps)
    difference = mean_interval([steps[seed] - passes[seed] for seed in steps])
    text = " ".join((ROOT / "docs" / "method.md").read_text().split())
    for each in (mean_and_deviation(list(steps.values())), interval_text(difference, sign=True)):
        assert each in text
