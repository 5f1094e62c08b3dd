"""Tiny real runs, made once, for the tests of what reads them. They must not be changed: copy them first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import isnas

TINY = {"channels": 2, "cells": 3, "batch_size": 256, "device": "cpu"}


@pytest.fixture(scope="session")
def train_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a one-stage run: 4 epochs of search, 1 of training."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "train"
    options = dict(
        **TINY,
        search_epochs=4,
        epochs=1,
        code_learning_rate=0.01,
        freeze_threshold=0.05,
        freeze_floor=0.1,
    )
    isnas.train(out=out, **options)
    return out


@pytest.fixture(scope="session")
def search_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a two-stage search: 3 epochs, then 1 for what was found and 2 random architectures."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "search"
    options = dict(
        **TINY, epochs=3, evaluation_epochs=1, random_architectures=2, code_learning_rate=0.01
    )
    isnas.search(out=out, **options)
    return out


@pytest.fixture
def broken_off(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a run as it was after some recoveries, in the middle of writing a line."""

    def cut(run: Path, recoveries: int) -> Path:
        copy = tmp_path / f"cut-{recoveries}"
        shutil.copytree(run, copy)
        for name in ("results.json", "genotype.json", "cells.svg", "network.pt", "network.json"):
            (copy / name).unlink()
        for path in copy.glob("codes/[0-9]*.npz"):
            if int(path.stem) >= recoveries:
                path.unlink()
        epochs = max(recoveries - 1, 0)
        for name in ("metrics.jsonl", "times.jsonl"):
            kept = []
            for line in (copy / name).read_text().splitlines(keepends=True):
                if f'"epoch": {epochs}' in line:
                    kept.append(line[:20])
                    break
                kept.append(line)
            (copy / name).write_text("".join(kept))
        return copy

    return cut
