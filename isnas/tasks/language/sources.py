"""Sources of text, and the way it becomes numbers.

A text has three parts: to train on, to choose by (validation) and to test on. The vocabulary is that of the training
part alone.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...runtime.errors import UserError

Level = Literal["word", "character"]

EMBEDDED = "text"
"""Name of the text that needs no file: the language reference that is part of Python's standard library."""

UNKNOWN, END = "<unk>", "<eos>"
"""The marks for words that are not in the vocabulary, and for the end of a line: those of Penn Treebank's and
WikiText's files."""

SPLITS = ("train", "valid", "test")

FILES = ("ptb.{}.txt", "wiki.{}.tokens", "{}.txt")
"""The files of a folder, of Penn Treebank, WikiText, and others."""

SHARES = (0.8, 0.1)
"""Shares of one text: the part to train on, at its beginning, then the validation part; the rest is for the test."""

_WORDS = re.compile(r"<\w+>|\w+|([^\w\s])\1*")
"""Words and punctuation; a run of one sign is one."""


@dataclass(frozen=True, eq=False)
class Text:
    """A text in three parts.

    Parameters
    ----------
    name : str
    level : {"word", "character"}
    tokens : mapping of str to tuple of str
        The words or characters of each part.
    vocabulary : tuple of str
        All that can be told apart, `UNKNOWN` among them.
    ids : mapping of str to Tensor, shapes (n,), int64
        The numbers of the tokens of each part.
    """

    name: str
    level: Level
    tokens: Mapping[str, tuple[str, ...]]
    vocabulary: tuple[str, ...]
    ids: Mapping[str, Tensor]

    def with_vocabulary(self, vocabulary: Sequence[str]) -> Text:
        """Return the same text in the numbers of another vocabulary."""
        number = {token: i for i, token in enumerate(vocabulary)}
        unknown = number[UNKNOWN]
        ids = {
            split: torch.tensor([number.get(token, unknown) for token in tokens])
            for split, tokens in self.tokens.items()
        }
        return replace(self, vocabulary=tuple(vocabulary), ids=ids)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that differ where texts or levels do."""
        digest = hashlib.sha256(self.level.encode())
        for split in SPLITS:
            for token in (split, *self.tokens[split]):
                digest.update(token.encode())
                digest.update(b"\0")
        return digest.hexdigest()[:16]


def load_text(
    name: str,
    *,
    level: Level = "word",
    vocabulary: int | None = None,
    least_count: int = 3,
) -> Text:
    """Load a text.

    Every line ends with `END`, or at the level of characters with a line feed. A text whose training part has the word
    `UNKNOWN` in it has been prepared, as Penn Treebank and WikiText have been: its words stand between white space, and
    all of its training words are the vocabulary. Of any other text the words are runs of letters and digits, and signs
    of punctuation (a run of one sign is one word); training words that are rarer than `least_count` are unknown
    (WikiText's rule). Characters are those of the training part.

    Parameters
    ----------
    name : str
        "text" (``pydoc_data.topics`` of Python's standard library, divided by topic in an order that a hash of their
        names gives), a folder with three files named as in `FILES` (``train``, ``valid`` and ``test``), or one file,
        whose first lines are to train on, and whose last are to test on (`SHARES`). Files are UTF-8.
    level : {"word", "character"}
    vocabulary : int, optional
        Keep so many of the most frequent words, or characters, at most (of ties the first in the text); with `UNKNOWN`.
    least_count : int
        See above.

    Raises
    ------
    UserError
        When there is no such text, a file is not UTF-8, or a part is empty.
    """
    if name == EMBEDDED:
        texts = _embedded()
    elif Path(name).is_dir():
        texts = _folder(Path(name))
    elif Path(name).is_file():
        texts = dict(zip(SPLITS, _divided(_lines(_read(Path(name)))), strict=True))
    else:
        raise UserError(
            f"data {name!r}: there is no such file or folder; expected {EMBEDDED} (embedded), a folder with "
            f"{', '.join(form.format('train') for form in FILES)} ..., or a UTF-8 file"
        )
    for split, text in texts.items():
        if not text.strip():
            raise UserError(f"data {name!r}: the {split} part is empty")
    prepared = UNKNOWN in texts["train"].split()
    tokens = {split: tuple(_tokens(text, level, prepared)) for split, text in texts.items()}
    keep_all = level == "character" or prepared
    known = _vocabulary(tokens["train"], 1 if keep_all else least_count, vocabulary)
    return Text(Path(name).name, level, tokens, (), {}).with_vocabulary(known)


def python_version() -> str:
    """Return the version of Python, on which the embedded text depends."""
    return platform.python_version()


def words_of(text: str) -> tuple[str, ...]:
    """Return the words and signs of a text that has not been prepared, line by line, with the ends of lines between."""
    return tuple(_tokens(text, "word", prepared=False))[:-1]


def _tokens(text: str, level: Level, prepared: bool) -> Iterable[str]:
    if level == "character":
        yield from text
        return
    for line in _lines(text):
        yield from line.split() if prepared else (found[0] for found in _WORDS.finditer(line))
        yield END


def _vocabulary(tokens: Sequence[str], least_count: int, most: int | None) -> list[str]:
    counts = Counter(tokens)  # in the order of the text
    del counts[UNKNOWN]  # it is always in the vocabulary
    kept = [token for token, count in counts.items() if count >= least_count or token == END]
    if most is not None:
        if most < 2:
            raise UserError(f"vocabulary must be at least 2, got {most}")
        # a stable sort; the end of a line is always kept
        kept.sort(key=lambda token: (token != END, -counts[token]))
        kept = kept[: most - 1]
    return [UNKNOWN, *kept]


def _lines(text: str) -> list[str]:
    """Return the lines of a text, without their ends; not those that a form feed or the like would end."""
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _divided(lines: Sequence[str]) -> Iterable[str]:
    """Return the three parts of a text's lines."""
    first = round(SHARES[0] * len(lines))
    second = first + round(SHARES[1] * len(lines))
    for part in (lines[:first], lines[first:second], lines[second:]):
        yield "".join(f"{line}\n" for line in part)


def _embedded() -> dict[str, str]:
    from pydoc_data.topics import topics

    def order(topic: str) -> bytes:
        return hashlib.blake2b(topic.encode(), digest_size=8).digest()

    whole = sum(map(len, topics.values()))
    texts = dict.fromkeys(SPLITS, "")
    done = 0
    for topic in sorted(topics, key=order):
        share = done / whole
        split = SPLITS[(share >= SHARES[0]) + (share >= sum(SHARES))]
        texts[split] += topics[topic].rstrip("\n") + "\n"
        done += len(topics[topic])
    return texts


def _folder(folder: Path) -> dict[str, str]:
    for form in FILES:
        paths = {split: folder / form.format(split) for split in SPLITS}
        if paths["train"].is_file():
            return {split: _read(path) for split, path in paths.items()}
    raise UserError(
        f"data {str(folder)!r}: expected {' or '.join(form.format('train') for form in FILES)} in it, "
        f"with valid and test beside it"
    )


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: byte {error.start} is no part of it") from None
