"""The experiment on NAS-Bench-Macro: a small run that goes on, its table, its references on an invented table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import experiments.nasbench_macro as experiment
from experiments._images import Subset, prepare_images
from experiments.nasbench_macro import METHODS, REFERENCES, main, rankers, references, tau_text
from isnas.comparison.rows import read_about, read_rows
from isnas.spaces.chain import all_networks
from isnas.tabular.nasbench_macro import MacroTable

FEW = ("sparse smoothed", "random sharing", "evolution")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file in which every block brings a point and its kernel a little, with less noise than that."""
    digits = np.array([[int(digit) for digit in text] for text in all_networks()])
    accuracy = 60 + 2.0 * (digits > 0).sum(1) + 0.1 * (digits == 2).sum(1)
    noise = np.random.default_rng(0).uniform(0, 0.05, (len(digits), 3))
    sizes = np.stack([digits.sum(1), 10 * digits.sum(1)], axis=1)
    path = tmp_path_factory.mktemp("table") / "table.csv.gz"
    MacroTable(np.hstack([accuracy[:, None] + noise, sizes])).write(path)
    return path


def launch(table: Path, out: Path, *more: str) -> int:
    words = ["--scale", "smoke", "--table", str(table), "--out", str(out), "--device", "cpu"]
    return main([*words, *more])


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("experiment") / "out"
    assert launch(table, out, "--methods", *FEW, "--seeds", "2") == 0
    return out


def test_rows_say_all(finished: Path, table: Path) -> None:
    rows, known = read_rows(finished), MacroTable.read(table)
    assert [(row["method"], row["seed"]) for row in rows] == [(m, s) for m in FEW for s in (0, 1)]
    for row in rows:
        network = row["network"]
        assert row["accuracy"] == known.accuracy(network)
        assert row["rank"] == known.rank(network)
        assert row["blocks"] == 8 - network.count("0")
        if row["method"] == "evolution":
            assert row["seconds"] is None and row["trained"] == 50 * 50_000 * 20
            assert row["tau"] is None and not row["scores"]
            continue
        # 192 images in halves of 3 batches of 32, 2 epochs
        assert row["trained"] == 192 and row["seconds"] > 0
        assert len(row["scores"]) == 20
        if row["method"] == "sparse smoothed":
            assert len(row["trajectory"]) == 3
            assert row["trajectory"][-1] == [network, row["accuracy"]]


def test_the_table_has_all_methods_and_references(finished: Path) -> None:
    text = (finished / "table.md").read_text()
    for method in FEW:
        assert f"| {method} | 2 |" in text
    assert text.count("*reference") == len(REFERENCES)
    assert "above the largest" in text and "two trainings" in text.lower()
    for part in text.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("| ")]
        assert len({line.count("|") for line in lines}) <= 1
    assert str(finished.parent) not in text + (finished / "about.json").read_text()


def test_references_and_rankers(table: Path) -> None:
    known = MacroTable.read(table)
    found = references(known)
    assert found["optimum"] >= found["largest"] > found["asked"] > found["mean"]
    assert found["largest"] > found["blocks"] > found["mean"]
    assert found["largest"] == known.accuracy("22222222")
    taus = rankers(known)
    assert taus["blocks"] > taus["parameters"] > 0.5
    assert 0.95 < taus["another training"] <= 1


def test_tau_among_networks_with_as_many_blocks() -> None:
    """Scores that know the number of blocks only have none; a tie is none either."""
    networks = [n for n in all_networks()[::50] if n.count("0") < 7]
    truth = {n: 8 - n.count("0") + 0.1 * n.count("2") for n in networks}
    good = {"method": METHODS[0], "seed": 0, "scores": [[n, truth[n], truth[n]] for n in networks]}
    assert "sparse smoothed 1.00" in tau_text([good])
    bad = {**good, "scores": [[n, 8 - n.count("0"), truth[n]] for n in networks]}
    assert tau_text([bad]) == "" == tau_text([{**good, "scores": []}])


def test_it_goes_on(
    finished: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = experiment.run_trial

    def breaking(method: str, seed: int, *rest: object) -> dict:
        if seed == 1:
            raise KeyboardInterrupt
        return real(method, seed, *rest)

    monkeypatch.setattr(experiment, "run_trial", breaking)
    words = ("--methods", FEW[1], "--seeds", "2")
    assert launch(table, tmp_path, *words) == 130
    monkeypatch.undo()
    assert launch(table, tmp_path, *words) == 0
    wanted = [row for row in read_rows(finished) if row["method"] == FEW[1]]
    assert without_times(read_rows(tmp_path)) == without_times(wanted)
    assert len(read_about(tmp_path)["launches"]) == 2


def test_mistakes_are_one_line(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(tmp_path / "none.csv", tmp_path / "out") == 2
    assert launch(table, tmp_path / "out", "--methods", "drats") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "none.csv cannot be read" in first and "no method is called 'drats'" in second


def test_images_of_a_folder(table: Path, tmp_path: Path) -> None:
    """The trials' images come from files, whose names go with those of the test."""
    folder = prepare_images(tmp_path, Subset("digits", 192, 20), "digits", "data")
    out = tmp_path / "out"
    assert launch(table, out, "--data", folder, "--methods", "sparse smoothed", "--seeds", "1") == 0
    assert len(read_rows(out)) == 1
