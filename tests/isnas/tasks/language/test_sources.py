"""Text is read from where people have it, its vocabulary is that of its training part, and mistakes take one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from isnas import UserError
from isnas.tasks.language import load_text
from isnas.tasks.language.sources import END, UNKNOWN


def write(folder: Path, form: str, **texts: str) -> Path:
    for split, text in texts.items():
        (folder / form.format(split)).write_text(text, encoding="utf-8")
    return folder


def test_a_prepared_folder_keeps_its_words(tmp_path: Path) -> None:
    """As Penn Treebank and WikiText: words between white space, one end for each line, blank ones, too."""
    write(
        tmp_path,
        "wiki.{}.tokens",
        train=" = A = \n\n the @-@ <unk> cat 's \n",
        valid=" the dog \n",
        test=" cat \n",
    )
    text = load_text(str(tmp_path))
    assert text.tokens["train"] == (
        *("=", "A", "=", END, END),
        *("the", "@-@", UNKNOWN, "cat", "'s", END),
    )
    assert set(text.vocabulary) == {"=", "A", "the", "@-@", UNKNOWN, "cat", "'s", END}
    # validation words that training has not are unknown
    valid = [text.vocabulary[i] for i in text.ids["valid"].tolist()]
    assert valid == ["the", UNKNOWN, END]


def test_raw_text_has_words_and_signs_and_rare_words_are_unknown(tmp_path: Path) -> None:
    line = 'The cat -- it\'s "Tom" -- sat.\n'
    write(tmp_path, "{}.txt", train=line * 3 + "A dog sat.\n", valid=line, test=line)
    text = load_text(str(tmp_path))
    first = ("The", "cat", "--", "it", "'", "s", '"', "Tom", '"', "--", "sat", ".", END)
    assert text.tokens["train"][: len(first)] == first
    assert "dog" not in text.vocabulary
    assert load_text(str(tmp_path), least_count=1).vocabulary.count("dog") == 1
    # the most frequent ones, with the unknown one and the end
    assert load_text(str(tmp_path), vocabulary=4).vocabulary == (UNKNOWN, END, "--", '"')


def test_characters(tmp_path: Path) -> None:
    write(tmp_path, "ptb.{}.txt", train="abc\n", valid="abd\n", test="c\n")
    text = load_text(str(tmp_path), level="character")
    assert text.vocabulary == (UNKNOWN, "a", "b", "c", "\n")
    assert text.ids["valid"].tolist() == [1, 2, 0, 4]


def test_one_file_is_divided_by_lines(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("".join(f"line{i}\r\n" for i in range(20)))
    text = load_text(str(file), least_count=1)
    assert text.tokens["valid"] == ("line16", END, "line17", END)
    assert text.tokens["test"] == ("line18", END, "line19", END)
    assert len(text.tokens["train"]) == 32


def test_the_embedded_text_needs_no_file() -> None:
    text = load_text("text")
    parts = {split: len(tokens) for split, tokens in text.tokens.items()}
    whole = sum(parts.values())
    assert whole > 50_000
    assert abs(parts["train"] / whole - 0.8) < 0.1
    assert min(parts.values()) > 0.04 * whole
    assert text.fingerprint() == load_text("text").fingerprint()
    assert text.fingerprint() != load_text("text", level="character").fingerprint()


def test_another_vocabulary_finds_words_that_the_own_one_has_not(tmp_path: Path) -> None:
    write(tmp_path, "{}.txt", train="a a a\n", valid="b\n", test="b c\n")
    text = load_text(str(tmp_path)).with_vocabulary((UNKNOWN, END, "b"))
    assert text.ids["test"].tolist() == [2, 0, 1]
    assert text.ids["train"].tolist() == [0, 0, 0, 1]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    def message(name: Path | str, **options: object) -> str:
        with pytest.raises(UserError) as caught:
            load_text(str(name), **options)
        text = str(caught.value)
        assert "\n" not in text
        return text

    assert "no such file or folder" in message("nowhere")
    assert "ptb.train.txt" in message(tmp_path)
    write(tmp_path, "{}.txt", train="a\n", test="a\n")
    assert "valid.txt cannot be read" in message(tmp_path)
    write(tmp_path, "{}.txt", valid="\n \n")
    assert "the valid part is empty" in message(tmp_path)
    (tmp_path / "valid.txt").write_bytes(b"a\xff\n")
    assert "not UTF-8 text: byte 1" in message(tmp_path)
    (tmp_path / "one").write_text("a single line\n")
    assert "the valid part is empty" in message(tmp_path / "one")
    write(tmp_path, "{}.txt", valid="a\n")
    assert "vocabulary must be at least 2" in message(tmp_path, vocabulary=1)
