"""Runs and comparisons of language models are shown with perplexity, which is better the lower it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import isnas
from figures import compare as compare_figure
from figures.report import commands_of, write_report
from isnas import RunRecord, get_space

SPACE = get_space("recurrent", nodes=2)
TINY = {"width": 4, "batch_size": 4, "bptt": 8, "threads": 1, "device": "cpu"}
DRAWN = {"dropout": 0.0, "dropout_embedding": 0.0, "dropout_input": 0.0, "dropout_hidden": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of short lines."""
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("text")
    for split, lines in (("train", 40), ("valid", 12), ("test", 12)):
        (made / f"{split}.txt").write_text("one two , three one two\n" * lines)
    return made


@pytest.mark.slow
def test_a_report_shows_perplexity_and_how_to_do_it_again(folder: Path, tmp_path: Path) -> None:
    options = {**TINY, **DRAWN, "data": str(folder)}
    isnas.search(
        "ista-two-stage",
        SPACE,
        out=tmp_path / "run",
        epochs=2,
        evaluation_epochs=2,
        random_architectures=1,
        **options,
    )
    write_report(tmp_path / "run", tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert "ista-two-stage in the space recurrent" in page
    assert "test perplexity" in page
    assert "accuracy" not in page
    record = RunRecord(tmp_path / "run")
    shown = f"{record.results['found']['test_perplexity']:.2f}"
    assert re.search(rf"<td[^>]*>{shown}</td>", page)
    (again, *_) = commands_of(record)
    assert "--space recurrent" in again and "--nodes 2" in again and "--bptt 8" in again
    assert record.measure.name == "perplexity"


@pytest.mark.slow
def test_a_comparison_is_of_perplexities(folder: Path, tmp_path: Path) -> None:
    options = {**TINY, **DRAWN, "data": str(folder)}
    result = isnas.compare(
        SPACE,
        out=tmp_path / "compare",
        methods=("ista-two-stage", "random"),
        seeds=1,
        sampled=3,
        budget="2epochs",
        child_epochs=1,
        evaluation_epochs=1,
        evaluation_batch_size=4,
        evaluation_bptt=8,
        **{name: value for name, value in options.items() if name != "bptt"},
    )
    assert "test perplexity" in result.table
    assert "tokens trained on" in result.table
    assert "failed" not in result.table
    assert {row["method"] for row in result.rows} >= {"ista-two-stage", "random"}
    picture = compare_figure.write_figure(tmp_path / "compare")
    assert "lower is better" in picture.read_text()
