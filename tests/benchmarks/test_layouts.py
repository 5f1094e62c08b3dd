"""The benchmarks of layouts run, at the smallest size, and find nothing wrong with our convolutions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run_benchmark(name: str, *words: str) -> str:
    """Return what a benchmark prints: in a process of its own, for one of them forks."""
    result = subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", *words],
        cwd=TOP,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of all rows of Markdown tables."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_convolutions() -> None:
    rows = rows_of(run_benchmark("convolutions", "--kernels", "1", "2", "--channels", "3", "8"))
    kinds = ["1x1", "1x1 stride 2", "2x2", "1x1 stride 2 (PyTorch's)"]
    assert [row[0] for row in rows if row[0] in kinds][:4] == kinds
    failures = [row for row in rows if len(row) == 6]
    assert {row[0] for row in failures} <= {"convolution", "1x1 stride 2 (PyTorch's)"}


def test_rounding() -> None:
    size = ("--channels", "2", "--cells", "3", "--batch-size", "256")
    shortest = ("--seeds", "1", "--search-epochs", "2", "--epochs", "1", "--networks", "1")
    rows = {tuple(row[:2]): row[2:] for row in rows_of(run_benchmark("rounding", *size, *shortest))}
    size_of_norm = "256 x 32 x 32"
    contiguous, last = (
        float(rows[name, size_of_norm][0]) for name in ("contiguous", "channels last")
    )
    assert contiguous < 1e-6 < last < 1e-3
    noise = rows["float64, another batch", "(8, 4, 64, 8)"]
    assert all(float(each) > 0.1 for each in noise)
