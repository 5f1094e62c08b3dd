"""The text of an experiment: a text as it is, or the first lines of its parts in a folder that all trials read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from isnas.runtime.errors import UserError
from isnas.tasks.language import load_text
from isnas.tasks.language.sources import END, SPLITS


@dataclass(frozen=True)
class Excerpt:
    """The part of a text that an experiment uses.

    Parameters
    ----------
    data : str
        The default of ``--data``.
    train, valid, test : int or None
        Words of the first lines of each part, about; None: all.
    """

    data: str
    train: int | None = None
    valid: int | None = None
    test: int | None = None

    def prepare(self, out: Path, data: str, root: str) -> str:
        """Return what a run is to use as its ``data``: `data` itself or, where less is asked for, a folder in `out`.

        The folder is written once: whole lines, their words as they are read.

        Raises
        ------
        UserError
            When the text cannot be loaded, or the folder not be written.
        """
        limits = dict(zip(SPLITS, (self.train, self.valid, self.test), strict=True))
        if set(limits.values()) == {None}:
            return data
        folder = out / "text"
        if folder.exists():
            return str(folder)
        whole = load_text(data, least_count=1)
        unfinished = out / ".text"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            for split, words in whole.tokens.items():
                text = first_lines(words, limits[split])
                (unfinished / f"{split}.txt").write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{unfinished} cannot be written: {error.strerror}") from None
        unfinished.rename(folder)
        return str(folder)


def first_lines(words: tuple[str, ...], most: int | None) -> str:
    """Return the first lines of a text, given as words, up to the end of the line that has the word number `most`."""
    lines: list[str] = []
    line: list[str] = []
    for number, word in enumerate(words, 1):
        if word != END:
            line.append(word)
            continue
        lines.append(" ".join(line) + "\n")
        line = []
        if most is not None and number >= most:
            break
    return "".join(lines)
