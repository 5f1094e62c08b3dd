"""Folders of images: which files there are, class by class."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtime.errors import UserError

HELD_OUT_FOLDERS = ("test", "val", "validation", "valid")


class Paths(Sequence[str]):
    """Paths of files below a folder, kept as one string: those of ImageNet take 50 MB, not 150."""

    def __init__(self, root: str | Path, names: Iterable[str] = ()) -> None:
        self._root = os.fspath(root)
        self._names = bytearray()
        self._ends = array("Q", [0])
        self.extend(names)

    def extend(self, names: Iterable[str]) -> None:
        """Append paths relative to the folder."""
        for name in names:
            self._names += os.fsencode(name)
            self._ends.append(len(self._names))

    def __len__(self) -> int:
        """Return the number of paths."""
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        """Return the path at position `i`, 0 or more."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        name = bytes(self._names[self._ends[i] : self._ends[i + 1]])
        return os.path.join(self._root, os.fsdecode(name))


@dataclass(frozen=True)
class Split:
    """A split's files, class by class.

    Attributes
    ----------
    place : Path
    classes : tuple of str
    paths : Paths
    counts : tuple of int
        Files of each class.
    """

    place: Path
    classes: tuple[str, ...]
    paths: Paths
    counts: tuple[int, ...]


def scan(split: Path) -> Split:
    """Return a split's files and classes, as torchvision's ImageFolder orders them; no class is empty."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset  # as above

    paths, counts = Paths(split), []
    root = os.path.join(split, "")
    try:
        if not any(entry.is_dir() for entry in split.iterdir()):
            raise UserError(f"no classes in {split}: expected one folder of images for each")
        classes, _ = find_classes(split)
        for each in classes:  # one at a time: a list of all files would take four times the memory
            found = make_dataset(split, {each: 0}, IMG_EXTENSIONS, allow_empty=True)
            if not found:
                endings = " ".join(IMG_EXTENSIONS)
                raise UserError(f"no images in {split / each}: expected files ending in {endings}")
            paths.extend(path.removeprefix(root) for path, _ in found)
            counts.append(len(found))
    except OSError as error:
        raise UserError(f"cannot read the folder {split}: {error.strerror or error}") from error
    return Split(split, tuple(classes), paths, tuple(counts))
