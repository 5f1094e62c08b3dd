"""Predictions of a trained network for files of images: which files these are, and how the results are written."""

from __future__ import annotations

import csv
import glob
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from ..deployment.classifier import Prediction, load_classifier
from ..runtime.errors import UserError
from ..runtime.files import write_atomically
from ..runtime.progress import Progress
from ..tasks.images.folders import counted, images_below, printable

FORMATS = ("lines", "csv", "json")


def predict(
    network: str | Path,
    images: Sequence[str],
    write: Callable[[str], object],
    *,
    top: int = 1,
    format: Literal["lines", "csv", "json"] = "lines",
    out: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress,
    complain: Callable[[str], object],
) -> int:
    """Predict what is on images, and write it.

    Parameters
    ----------
    network : path
        See `load_classifier`.
    images : sequence of str
        Files; folders, whose images are taken at any depth; patterns such as ``photos/*.jpg``.
    write : callable
        Takes the text, as it comes, where `out` is not given.
    top : int
        How many classes to name for each image.
    format : {"lines", "csv", "json"}
        A line for people, a row of a table, or an object of a JSON array for each image.
    out : path, optional
        File to write to, at the end.
    device : str
    batch_size : int
    progress : Progress
    complain : callable
        Takes a line about each image that cannot be read.

    Returns
    -------
    int
        Number of images that could not be read; names that stand for no image count, too.

    Raises
    ------
    UserError
        When the network cannot be loaded, or `out` cannot be written.
    """
    if top < 1:
        raise UserError(f"top must be at least 1, got {top}")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    classifier = load_classifier(network, device)
    top = min(top, len(classifier.classes))
    if out is not None:
        _check_writable(Path(out))
    found, wrong, left_out = find(images)
    if left_out:
        progress.say(left_out)
    for problem in wrong:
        complain(problem)
    pieces: list[str] = []
    put = pieces.append if out is not None else write
    failed = len(wrong)

    def predictions() -> Iterator[tuple[str, Prediction]]:
        nonlocal failed
        if out is not None:  # a bar among the results would spoil them
            progress.begin("images", 0, len(found))
        each = zip(found, classifier.iterate(found, batch_size), strict=True)
        for i, (path, prediction) in enumerate(each):
            progress.step(i + 1, len(found))
            if isinstance(prediction, UserError):
                failed += 1
                complain(str(prediction))
            else:
                yield path, prediction

    try:
        for text in _WRITERS[format](predictions(), top):
            put(text)
    finally:
        progress.end()
    if out is not None:
        write_atomically(out, "".join(pieces))
        progress.say(f"written to {out}")
    if failed:
        complain(f"{failed:,} of {counted(len(found) + len(wrong), 'image')} could not be read")
    return failed


def find(images: Iterable[str]) -> tuple[list[str], list[str], str]:
    """Find the files that names of files and folders, and patterns, stand for.

    Returns
    -------
    paths : list of str
        In the order of the names, those of a folder or a pattern by name; each once.
    wrong : list of str
        A line about each name that stands for none.
    left_out : str
        A line about what lies in the folders and is no image; empty where there is nothing.
    """
    paths: dict[str, None] = {}
    wrong: list[str] = []
    left_out = None
    for name in images:
        names = [name]
        if not os.path.lexists(name) and glob.has_magic(name):
            names = sorted(glob.glob(name, recursive=True))
            if not names:
                wrong.append(f"no file matches {printable(name)}")
        for each in names:
            if not os.path.isdir(each):
                paths[each] = None
                continue
            try:
                below, broken, more = images_below(each)
            except UserError as error:
                wrong.append(str(error))
                continue
            paths.update(dict.fromkeys([*below, *broken]))
            left_out = more if left_out is None else left_out + more
            if not below and not broken:
                wrong.append(f"no images in {printable(each)}")
    return list(paths), wrong, f"left out {left_out}" if left_out else ""


def _check_writable(out: Path) -> None:
    """Raise a `UserError` where a file cannot be written, before it is worked for."""
    if out.is_dir():
        raise UserError(f"{out} cannot be written: it is a directory")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from None


def _lines(predictions: Iterable[tuple[str, Prediction]], top: int) -> Iterator[str]:
    for path, prediction in predictions:
        named = (f"{printable(name)} {100 * p:.2f} %" for name, p in prediction.top(top))
        yield f"{printable(path)}: {', '.join(named)}\n"


def _csv(predictions: Iterable[tuple[str, Prediction]], top: int) -> Iterator[str]:
    def row(*values: object) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()

    ranks = [("class", "probability")]
    ranks += [(f"class_{k}", f"probability_{k}") for k in range(2, top + 1)]
    yield row("path", *itertools.chain.from_iterable(ranks))
    for path, prediction in predictions:
        named = [(_encodable(name), f"{p:.6g}") for name, p in prediction.top(top)]
        yield row(_encodable(path), *itertools.chain.from_iterable(named))


def _json(predictions: Iterable[tuple[str, Prediction]], top: int) -> Iterator[str]:
    before = "["
    for path, prediction in predictions:
        named = prediction.top(top)
        found = {"path": path, "class": named[0][0], "probability": named[0][1]}
        if top > 1:
            found["top"] = [{"class": name, "probability": p} for name, p in named]
        yield f"{before}\n{json.dumps(found)}"
        before = ","
    yield "\n]\n" if before == "," else "[]\n"


def _encodable(text: str) -> str:
    """Return a text that UTF-8 can hold: itself, unless it is a name that the system has in no encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return printable(text)
    return text


_WRITERS = {"lines": _lines, "csv": _csv, "json": _json}
