"""Trials: what is missing is run, each row is written at once, runs go on in their directories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import isnas
from isnas.comparison.rows import Rows, read_rows
from isnas.comparison.trials import run_or_resume, run_trials
from isnas.runs.loop import Part, Stage
from isnas.runs.records import RunRecord
from isnas.runtime.errors import UserError


def squared(name: str, number: int, factor: int) -> dict[str, Any]:
    return {"name": name, "number": number, "value": factor * number**2}


def failing(name: str, number: int, factor: int) -> dict[str, Any]:
    if number > 1:
        raise KeyboardInterrupt
    return squared(name, number, factor)


def table(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    return f"{about['settings']['unit']}: {sorted(row['value'] for row in rows)}"


def opened(directory: Path) -> Rows:
    return Rows(directory, ("name", "number"), {"unit": "m"}, {"command": "toy"})


TRIALS = [("a", number, 10) for number in range(4)]


def test_rows_and_table_grow_with_each_trial(tmp_path: Path) -> None:
    said: list[str] = []

    class Shown(isnas.Progress):
        def say(self, text: str) -> None:
            said.append(f"{text} | {(tmp_path / 'table.md').read_text()}")

    with opened(tmp_path) as rows:
        run_trials(
            rows,
            squared,
            TRIALS[:2],
            table=table,
            finish=lambda row: {**row, "value": row["value"] + 1},
            describe=lambda row: f"number {row['number']}",
            progress=Shown(),
        )
    assert said == ["1/2  number 0 | m: [1]", "2/2  number 1 | m: [1, 11]"]
    assert [row["value"] for row in read_rows(tmp_path)] == [1, 11]


def test_only_what_is_missing_is_run(tmp_path: Path) -> None:
    with opened(tmp_path) as rows, pytest.raises(KeyboardInterrupt):
        run_trials(rows, failing, TRIALS, table=table)
    assert (tmp_path / "table.md").read_text() == "m: [0, 10]"
    with opened(tmp_path) as rows:
        run_trials(rows, squared, TRIALS, table=table)
    assert [row["number"] for row in read_rows(tmp_path)] == [0, 1, 2, 3]
    (tmp_path / "table.md").write_text("an older text")
    with opened(tmp_path) as rows:
        run_trials(rows, failing, TRIALS, table=table)
    assert (tmp_path / "table.md").read_text() == "m: [0, 10, 40, 90]"


@pytest.mark.slow
def test_trials_side_by_side(tmp_path: Path) -> None:
    with opened(tmp_path) as rows:
        run_trials(rows, squared, TRIALS, table=table, jobs=2)
    assert sorted(row["value"] for row in read_rows(tmp_path)) == [0, 10, 40, 90]


OPTIONS = EvaluateOptions(channels=2, cells=3, batch_size=512, epochs=2, device="cpu", threads=1)


class Counting(Stage):
    """Counts its steps; stops in the third when told to."""

    breaking = False

    def __init__(self) -> None:
        super().__init__()
        self.count = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.count.weight)

    @property
    def epochs(self) -> int:
        return 3

    @property
    def steps(self) -> int:
        return 2

    def batches(self, epoch: int, start: int) -> Any:
        return iter(range(start, 2))

    def train_step(self, batch: int) -> dict[str, torch.Tensor]:
        if self.breaking and self.epoch == 1:
            raise KeyboardInterrupt
        with torch.no_grad():
            self.count.weight += 1
        return {"train_loss": torch.zeros(()), "train_accuracy": torch.zeros(())}

    def stateful(self) -> dict[str, Any]:
        return {"count": self.count}


def test_a_part_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Counting] = []

    def build(results: dict[str, Any]) -> Counting:
        built.append(Counting())
        return built[-1]

    part = Part("search", build, lambda stage: {"count": stage.count.weight.item()})
    out = tmp_path / "run"
    monkeypatch.setattr(Counting, "breaking", True)
    with pytest.raises(isnas.Interrupted):
        run_part(OPTIONS, part, out, command="search")
    monkeypatch.undo()
    assert RunRecord(out).status == "broken off"
    assert run_part(OPTIONS, part, out, command="search") == {"count": 6.0}
    assert RunRecord(out).status == "finished"
    assert len(built) == 2 and built[1].epoch == 3
    assert run_part(OPTIONS, part, out, command="search") == {"count": 6.0}
    assert len(built) == 2
    assert RunRecord(out).epochs("search")["epoch"].tolist() == [0, 1, 2]


def test_a_run_is_started_read_or_refused(tmp_path: Path) -> None:
    genotype = isnas.GENOTYPES["DARTS_V2"]
    out = tmp_path / "run"
    (out / "codes").mkdir(parents=True)  # killed before it had begun
    first = run_or_resume(isnas.evaluate, genotype, OPTIONS, out=out)
    metrics = (out / "metrics.jsonl").read_bytes()
    again = run_or_resume(isnas.evaluate, genotype, OPTIONS, out=out)
    assert again.results == first.results
    assert (out / "metrics.jsonl").read_bytes() == metrics
    with pytest.raises(UserError, match="holds a run with epochs = 2, not 3"):
        run_or_resume(isnas.evaluate, genotype, replace(OPTIONS, epochs=3), out=out)
