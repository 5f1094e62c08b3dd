"""The experiments with recurrent cells run at the smallest scale, and their excerpts are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import ptb_recurrent, wikitext2_transfer
from experiments._texts import Excerpt, first_lines
from isnas.comparison.rows import read_rows
from isnas.tasks.language import load_text


def test_an_excerpt_is_whole_lines(tmp_path: Path) -> None:
    folder = Path(Excerpt("text", 300, 100, 100).prepare(tmp_path, "text", ""))
    whole, cut = load_text("text", least_count=1), load_text(str(folder), least_count=1)
    for split, words in cut.tokens.items():
        assert words == whole.tokens[split][: len(words)]
        assert words[-1] == "<eos>"
    assert 300 <= len(cut.tokens["train"]) < 350
    assert Excerpt("text", 300, 100, 100).prepare(tmp_path, "text", "") == str(folder)
    assert Excerpt("text").prepare(tmp_path, "text", "") == "text"
    assert first_lines(("a", "b", "<eos>", "c", "<eos>"), 2) == "a b\n"
    assert first_lines(("a", "b", "<eos>", "c", "<eos>"), None) == "a b\nc\n"


@pytest.mark.slow
def test_transfer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    words = ["--scale", "smoke", "--genotype", "DARTS_V1", "--out", out]
    assert wikitext2_transfer.main(words) == 0
    rows = read_rows(tmp_path / "out")
    assert [row["name"] for row in rows] == ["DARTS_V1", "random cell"]
    assert "test perplexity" in capsys.readouterr().out
    # more genotypes in the same directory
    assert wikitext2_transfer.main([*words[:2], "--genotype", "ENAS_LM", "--out", out]) == 0
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_searches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ptb_recurrent.main(["--scale", "smoke", "--out", str(tmp_path / "out")]) == 0
    rows = read_rows(tmp_path / "out")
    assert [row["method"] for row in rows] == [*ptb_recurrent.METHODS, ptb_recurrent.RANDOM]
    assert len({row["parameters"] for row in rows}) == 1
    assert "Test perplexity minus the mean of the 1 random cells" in capsys.readouterr().out


def test_scales_are_the_published_ones() -> None:
    paper = ptb_recurrent.SCALES["paper"]
    search = paper.search("darts-1")
    assert (search.network.width, search.optimizer.batch_size, search.optimizer.bptt) == (
        300,
        256,
        35,
    )
    recipe = paper.recipe()
    assert (recipe.network.width, recipe.optimizer.nonmonotone) == (850, 5)
    assert recipe.optimizer.weight_decay == 8e-7
    transfer = wikitext2_transfer.SCALES["paper"].options
    assert (transfer.network.width, transfer.network.dropout_hidden) == (700, 0.15)
