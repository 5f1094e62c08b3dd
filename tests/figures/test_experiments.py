"""The figures of experiments, of invented rows of the sizes that real ones have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import ablation, correlation, efficiency
from experiments._searches import DARTS, ONE_STAGE, SEARCHES, SHARING
from figures import experiments as figures

Rows = list[dict[str, Any]]


def two_stage_rows() -> Rows:
    random = np.random.default_rng(0)
    return [
        {"seed": seed, "error": 40 + random.normal(), "random_errors": [41 + random.normal()]}
        for seed in range(6)
    ]


def one_stage_rows() -> Rows:
    random = np.random.default_rng(0)
    names = ("one_stage", "retrained", "retrained_longer")
    return [
        {"seed": s, "errors": {name: 40 - i + random.normal() for i, name in enumerate(names)}}
        for s in range(5)
    ]


def correlation_rows() -> Rows:
    random = np.random.default_rng(0)
    worth = random.normal(size=24)
    rows: Rows = [
        {
            "method": correlation.ALONE,
            "number": i,
            "seed": seed,
            "test_accuracy": 0.55 + 0.02 * worth[i] + 0.01 * random.normal(),
        }
        for i in range(24)
        for seed in range(2)
    ]
    for method in SEARCHES:
        for seed in range(2):
            noise = random.normal(size=24)
            scores = (0.3 + 0.05 * worth + 0.05 * noise).tolist()
            rows.append({"method": method, "number": -1, "seed": seed, "scores": scores})
    return rows


def efficiency_rows() -> Rows:
    random = np.random.default_rng(0)
    rows: Rows = []
    for i, method in enumerate(efficiency.STEPS):
        for size in (8, 16, 32, 64):
            times = (14 if method == DARTS else 1 + i / 20) * size
            step = {"kind": "step", "method": method, "number": size, "batches": 1, "peak": None}
            rows.append({**step, "seconds": times / 500, "saved": 2**20 * times})
    rows[-1] |= {"seconds": None, "saved": None}  # too large for the memory
    for i, method in enumerate((efficiency.RANDOM, *SEARCHES)):
        for seed in range(3):
            spent = {efficiency.RANDOM: 0.0, DARTS: 900.0}.get(method, 60.0 + 5 * i)
            validated = [0.2 + 0.03 * j + 0.01 * random.normal() for j in range(10)]
            if method == SHARING:
                validated = [None] * 9 + [0.4]
            curve = [[spent * (j + 1) / 10, 2048 * (j + 1), validated[j]] for j in range(10)]
            rows.append(
                {
                    "kind": "search",
                    "method": method,
                    "number": seed,
                    "curve": [] if method in (efficiency.RANDOM, ONE_STAGE) else curve,
                    "search_seconds": spent,
                    "test_accuracy": 0.5 + 0.02 * random.normal(),
                }
            )
    return rows


def ablation_rows(names: tuple[str, ...] = tuple(ablation.SETTINGS)) -> Rows:
    random = np.random.default_rng(0)
    rows: Rows = []
    for name in names:
        for seed in range(3):
            row = {"setting": name, "seed": seed, "accuracy": 50 + random.normal()}
            for quantity in ablation.QUANTITIES:
                row[quantity] = None if name == ablation.RANDOM else float(random.uniform())
            rows.append(row)
    return rows


ROWS: dict[str, Callable[[], Rows]] = {
    "two_stage": two_stage_rows,
    "one_stage": one_stage_rows,
    "correlation": correlation_rows,
    "efficiency": efficiency_rows,
    "steps": efficiency_rows,
    "ablation": ablation_rows,
}


def written(directory: Path, rows: Rows) -> Path:
    """Return the directory with these rows in it."""
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("two_stage", ["found", "random", "test error"]),
        ("one_stage", ["single run", "retrained as long"]),
        ("correlation", ["sparse code, two-stage, 2 super-nets", "DARTS", "noise ceiling"]),
        ("efficiency", ["images passed in search", "random architecture", "trained alone"]),
        ("steps", ["batch size", "discrete network", "MiB saved"]),
        ("ablation", [*ablation.SETTINGS, "minus the centre", "start"]),
    ],
)
def test_figures(name: str, texts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    arguments = [name, str(written(tmp_path, ROWS[name]())), "-o", str(path)]
    assert figures.main(arguments) == 0
    content = path.read_text()
    for text in texts:
        assert text in content


@pytest.mark.parametrize("name", ROWS)
def test_figures_of_few_rows(name: str, tmp_path: Path) -> None:
    """The rows that are there can be drawn before all are."""
    rows = ROWS[name]()
    if name == "efficiency":
        rows = [row for row in rows if row["kind"] == "search"]
    few = rows[:4] if name == "correlation" else rows[:1]
    out = tmp_path / "figure.svg"
    assert figures.main([name, str(written(tmp_path, few)), "-o", str(out)]) == 0


def test_what_cannot_be_drawn_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["-o", str(tmp_path / "figure.svg")]
    written(tmp_path, correlation_rows()[:1])
    assert figures.main(["correlation", str(tmp_path), *out]) == 2
    assert figures.main(["steps", str(tmp_path), *out]) == 2
    assert figures.main(["ablation", str(tmp_path / "missing"), *out]) == 2
    written(tmp_path, efficiency_rows()[:1])
    assert figures.main(["efficiency", str(tmp_path), *out]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "fewer than two" in lines[0] and "'kind' is missing" in lines[1]
    assert "no search is finished" in lines[3]
