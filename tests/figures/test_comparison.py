"""The figure of a comparison, from rows whose numbers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from figures import compare
from isnas import METHODS
from isnas.runtime.errors import UserError


def row(method: str, seed: int, accuracy: float, **others: Any) -> dict[str, Any]:
    base = {"method": method, "seed": seed, "test_accuracy": accuracy, "parameters": 5000}
    return {**base, "seconds": 30.0, "epochs": 20.0, **others}


def write(directory: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(each) + "\n" for each in rows)
    (directory / "rows.jsonl").write_text(text)
    (directory / "about.json").write_text(
        json.dumps({"settings": {"task": "images"}, "launches": []})
    )
    return directory


def test_rows_become_results() -> None:
    drawn = {"method": "random architectures", "seed": 0, "test_accuracy": 0.5, "parameters": 7}
    rows = [
        drawn,
        row("enas", 1, 0.8),
        row("enas", 0, 0.7, seconds=40.0),
        {"method": "darts-1", "seed": 0, "seconds": 1.0, "error": "diverged"},
        {"method": "short training", "seed": 0, "scores": [0.1]},
        row("ista-two-stage", 0, 0.9, parameters=80_000),
    ]
    found = compare.results_of_rows(rows)
    # in the order of the methods and seeds, however trials ended
    assert list(found) == ["ista-two-stage", "enas", "random architectures"]
    assert found["enas"] == [
        compare.Result(70.0, 40.0, 5000.0, 20.0),
        compare.Result(80.0, 30.0, 5000.0, 20.0),
    ]
    assert found["random architectures"] == [compare.Result(50.0, 0.0, 7.0, 0.0)]
    with pytest.raises(UserError, match="none of the rows has been tested yet"):
        compare.results_of_rows(rows[3:5])


def test_pareto_front_is_what_nothing_beats() -> None:
    """The front follows its definition over all pairs; points have ties in x, in y and in both."""
    random = np.random.default_rng(0)
    for higher in (True, False):
        for _ in range(50):
            points = [tuple(map(float, pair)) for pair in random.integers(0, 6, size=(8, 2))]
            sign = 1 if higher else -1

            def beaten(
                point: tuple[float, float], by: tuple[float, float], sign: int = sign
            ) -> bool:
                return by != point and by[0] <= point[0] and sign * by[1] >= sign * point[1]

            expected = {p for p in points if not any(beaten(p, q) for q in points)}
            front = compare.pareto_front(points, higher)
            assert set(front) == expected and front == sorted(front)
            assert len(front) == len(expected)


def test_all_methods_can_be_told_apart(tmp_path: Path) -> None:
    rows = [
        row(method, seed, 0.4 + 0.02 * i, seconds=10.0 + i, parameters=5000 * (1 + i))
        for i, method in enumerate(METHODS)
        for seed in range(2)
    ]
    figure = compare.make_comparison_figure(write(tmp_path, rows))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    methods = [f"{method} (2 runs)" for method in METHODS]
    assert labels == [*methods, "Pareto front of the means"]
    looks = {
        (line.get_color(), line.get_marker())
        for line in figure.axes[0].lines
        if line.get_markersize() == 5
    }
    assert len(looks) == len(METHODS)
    texts = [ax.get_xlabel() for ax in figure.axes]
    assert texts == [
        "search cost (seconds)",
        "passes of the search (epochs)",
        "parameters (thousands)",
    ]
    assert [ax.get_xscale() for ax in figure.axes] == ["linear", "linear", "log"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "made").mkdir()
    made = write(tmp_path / "made", [row("enas", 0, 0.7)])
    out = tmp_path / "figure.svg"
    assert compare.main([str(made), "-o", str(out)]) == 0
    assert "enas" in out.read_text()
    assert compare.main([str(made), str(made), "-o", str(out)]) == 2
    assert "is a comparison: it is drawn by itself" in capsys.readouterr().err
