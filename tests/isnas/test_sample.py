"""`isnas sample` writes what the network has learnt, always the same for a seed, and says what is wrong in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

import isnas
from isnas import UserError
from isnas.cli import main

TINY = {
    "width": 8,
    "batch_size": 4,
    "bptt": 8,
    "epochs": 3,
    "device": "cpu",
    "threads": 1,
    "dropout": 0.0,
    "dropout_embedding": 0.0,
    "dropout_input": 0.0,
    "dropout_hidden": 0.0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose network has read one line again and again."""
    folder = tmp_path_factory.mktemp("sample")
    for split, lines in (("train", 120), ("valid", 10), ("test", 10)):
        (folder / f"{split}.txt").write_text("one two , three\n" * lines)
    text = "Genotype(recurrent=[('tanh', 0), ('relu', 1)], concat=range(1, 3))"
    genotype = isnas.Genotype.parse(text)
    isnas.evaluate(genotype, out=folder / "run", data=str(folder), **TINY)
    return folder / "run"


def test_a_learnt_line_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--length", "9", "--start", "one two", "--temperature", "0"]
    assert main(["sample", str(run), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["one two , three", "one two , three"]


def test_a_seed_says_what_is_written(run: Path) -> None:
    texts = [isnas.sample(run / "network.pt", temperature=3.0, seed=s) for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0].replace("\n", " \n ").split(" ")) >= 100
    assert "<unk>" not in texts[0] and "<eos>" not in texts[0]


def test_mistakes_are_one_line(run: Path, tmp_path: Path) -> None:
    for given, message in (
        ({"start": "four"}, "does not know the word 'four'"),
        ({"length": 0}, "length must be at least 1"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
    ):
        with pytest.raises(UserError, match=message):
            isnas.sample(run, **given)
    with pytest.raises(UserError, match=r"holds no network\.pt"):
        isnas.sample(tmp_path)
    genotype = isnas.GENOTYPES["DARTS_V2"]
    network = isnas.build_network(genotype, channels=2, cells=3)
    isnas.save_network(network, tmp_path / "network.pt")
    with pytest.raises(UserError, match="networks of the task images write no text"):
        isnas.sample(tmp_path)
