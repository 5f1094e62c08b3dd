"""Folders of images: which files there are, class by class, and which of them are held out for the test."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...runtime.errors import UserError

HELD_OUT_FOLDERS = ("test", "val", "validation", "valid")
LAYOUT = f"train/CLASS/* and {'/, '.join(HELD_OUT_FOLDERS[:-1])}/ or {HELD_OUT_FOLDERS[-1]}/"

KINDS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Endings of the files that are read; of those that hold several pictures the first one counts."""

SYSTEM_ENTRIES = {
    *("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir"),
    *("Thumbs.db", "desktop.ini"),
}
"""Files that operating systems leave in folders under names that are not hidden."""


def is_hidden(name: str) -> bool:
    """Return whether an entry of a folder is hidden, or an operating system's own."""
    return name.startswith(".") or name in SYSTEM_ENTRIES


def kind_of(name: str) -> str:
    """Return the ending of a file's name, in small letters: ``.jpg``, or nothing."""
    return os.path.splitext(name)[1].lower()


def printable(text: str | Path) -> str:
    """Return a name as one line for people: what cannot be printed is written as an escape."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


def listed(items: Sequence[str], most: int = 10) -> str:
    """Return up to `most` items in a row, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 file``, ``2 files``."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


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
        return os.path.join(self._root, os.fsdecode(self.name(i)))

    def name(self, i: int) -> bytes:
        """Return the path at position `i`, 0 or more, relative to the folder."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        return bytes(self._names[self._ends[i] : self._ends[i + 1]])

    def select(self, positions: Iterable[int]) -> Paths:
        """Return the paths at these positions."""
        return Paths(self._root, (os.fsdecode(self.name(i)) for i in positions))


@dataclass
class LeftOut:
    """Counts of what lies in folders and is not used.

    Attributes
    ----------
    hidden : int
        Hidden and system entries; a folder is one.
    kinds : Counter of str
        Files that are not read, by ending.
    outside : int
        Images that are in no class's folder.
    links : int
        Links to what is counted already, or back to a folder that they are in.
    """

    hidden: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    outside: int = 0
    links: int = 0

    def __bool__(self) -> bool:
        """Return whether anything was left out."""
        return bool(self.hidden or self.kinds or self.outside or self.links)

    def __add__(self, other: LeftOut) -> LeftOut:
        """Return the counts of both."""
        return LeftOut(
            self.hidden + other.hidden,
            self.kinds + other.kinds,
            self.outside + other.outside,
            self.links + other.links,
        )

    def __str__(self) -> str:
        """Return the counts in words."""
        parts = []
        if self.hidden:
            parts.append(counted(self.hidden, "hidden or system entry", "hidden or system entries"))
        if self.kinds:
            found = [f"{n:,} {kind or 'without an ending'}" for kind, n in self.kinds.most_common()]
            files = counted(self.kinds.total(), "file of another kind", "files of other kinds")
            parts.append(f"{files} ({printable(listed(found))})")
        if self.outside:
            parts.append(f"{counted(self.outside, 'image')} outside the classes' folders")
        if self.links:
            parts.append(
                counted(
                    self.links, "link to what is there already", "links to what is there already"
                )
            )
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Split:
    """The files of training or test, class by class.

    Attributes
    ----------
    place : Path
        The folder that holds the classes' folders.
    classes : tuple of str
    paths : Paths
    counts : tuple of int
        Number of files of each class.
    left_out : LeftOut
        The other entries.
    identities : array of int
        One number for each file, the same for the same file under two paths.
    linked : bool
        Whether any path leads through a symbolic link.
    """

    place: Path
    classes: tuple[str, ...]
    paths: Paths
    counts: tuple[int, ...]
    left_out: LeftOut = field(default_factory=LeftOut)
    identities: array[int] = field(default_factory=lambda: array("q"), repr=False)
    linked: bool = False

    @property
    def labels(self) -> np.ndarray:
        """The position of each file's class, shape (N,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def select(self, positions: np.ndarray) -> Split:
        """Return the split with the files at these positions, ascending, only."""
        counts = np.bincount(self.labels[positions], minlength=len(self.counts))
        identities = np.asarray(self.identities)[positions]
        return replace(
            self,
            paths=self.paths.select(positions.tolist()),
            counts=tuple(counts.tolist()),
            identities=array("q", identities.tobytes()),
        )

    def empty(self) -> Split:
        """Return the split without its files."""
        return self.select(np.arange(0))


def find_images(
    place: Path, *, split: float | None = None, seed: int = 0, needs_train: bool = True
) -> tuple[Split, Split]:
    """Find the files to train on and those to test on.

    Parameters
    ----------
    place : Path
        A folder, see `isnas.tasks.images.load_dataset` for what is in it.
    split : float, optional
        Share of the training images, where none are held out for the test in a folder of their own.
    seed : int
        Which images these are.
    needs_train : bool
        Whether the training images are needed. Otherwise the test images stand in their place.

    Returns
    -------
    train, test : Split
        With the same classes, two or more.

    Raises
    ------
    UserError
        If the folder is not as described.
    """
    try:
        has_train = (place / "train").is_dir()
        held_out = next((each for each in HELD_OUT_FOLDERS if (place / each).is_dir()), None)
        has_folders = any(not is_hidden(each.name) and each.is_dir() for each in place.iterdir())
    except OSError as error:
        raise UserError(f"cannot read the folder {place}: {error.strerror or error}") from error
    if split is not None:
        if held_out is not None:
            raise UserError(
                f"split={split:g} is for folders without test images, but there is "
                f"{place / held_out}: leave one of them out"
            )
        whole = scan(place / "train" if has_train else place)
        train, test = divide(whole, split, seed)
    else:
        way_out = "; split=0.8 (--split 0.8) trains on 80 % of the images and holds out the others"
        if needs_train and not has_train:
            flat = way_out if held_out is None and has_folders else ""
            raise UserError(f"no folder {place / 'train'}: expected {LAYOUT} under {place}{flat}")
        if held_out is None:
            raise UserError(f"no held-out images in {place}: expected {LAYOUT} there{way_out}")
        test = scan(place / held_out)
        train = scan(place / "train") if needs_train else test
        if needs_train:
            _check_same_classes(train, test)
    if len(train.classes) < 2:
        raise UserError(
            f"{train.place} has one class only ({printable(train.classes[0])}): expected 2 or more"
        )
    return train, test


def left_out_of(*splits: Split) -> LeftOut:
    """Return what was left out of the folders of some splits; parts of one folder have that in common."""
    each = {id(split.left_out): split.left_out for split in splits}
    return sum(each.values(), start=LeftOut())


def warn_of_oddities(name: str, train: Split, test: Split) -> None:
    """Warn of what was left out of a folder, and of test images that links bring into the training data."""
    left_out = left_out_of(train, test)
    if left_out:
        read = f"; files that are read end in {' '.join(KINDS)}" if left_out.kinds else ""
        warnings.warn(f"{printable(name)}: left out {left_out}{read}", stacklevel=3)
    if train is test or not (train.linked or test.linked):
        return
    sides = [np.asarray(each.identities) for each in (train, test)]
    _, of_train, of_test = np.intersect1d(*sides, return_indices=True)
    if len(of_test):
        one, other = train.paths[int(of_train[0])], test.paths[int(of_test[0])]
        warnings.warn(
            f"{len(of_test):,} of {counted(len(test.paths), 'test image')} are training images, too, "
            f"by links, such as {printable(other)} and {printable(one)}",
            stacklevel=3,
        )


def divide(whole: Split, fraction: float, seed: int = 0) -> tuple[Split, Split]:
    """Divide the files of each class at random.

    Which part an image goes to depends on the seed and on its path below the folder: neither on where the folder
    lies, nor on the order in which the system lists it.

    Parameters
    ----------
    whole : Split
    fraction : float
        Share of the first part, between 0 and 1. Each class has at least one image in either part.
    seed : int

    Returns
    -------
    two Splits

    Raises
    ------
    UserError
        If a class has one image only, or `fraction` is out of its range.
    """
    if not 0 < fraction < 1:
        raise UserError(f"split must be between 0 and 1, the share to train on, got {fraction:g}")
    first = np.zeros(len(whole.paths), dtype=bool)
    start = 0
    for name, n in zip(whole.classes, whole.counts, strict=True):
        if n < 2:
            raise UserError(
                f"class {printable(name)} of {whole.place} has one image only: to be divided by "
                f"split={fraction:g}, it needs 2 or more"
            )
        order = sorted(range(start, start + n), key=lambda i: _drawn(whole.paths.name(i), seed))
        first[order[: min(max(int(fraction * n + 0.5), 1), n - 1)]] = True
        start += n
    return whole.select(np.flatnonzero(first)), whole.select(np.flatnonzero(~first))


def _drawn(name: bytes, seed: int) -> bytes:
    text = b"%d/split/%s" % (seed, name.replace(os.sep.encode(), b"/"))
    return hashlib.blake2b(text, digest_size=8).digest()


def scan(place: Path) -> Split:
    """Return the images of a folder that holds a folder for each class, in torchvision's order (`ImageFolder`).

    Links are followed, but none that leads back to a folder that it is in. A file that is reached in several ways
    counts once. Hidden and system entries are left alone.

    Raises
    ------
    UserError
        If a folder cannot be read; if there is no class, or a class without images; if links are broken, or bring one
        file into two classes; if the names of two classes look the same.
    """
    walk = _Walk(place)
    classes, paths, identities, counts = [], Paths(place), array("q"), []
    try:
        for entry, what in walk.entries(str(place)):
            if what == "folder" and entry.is_symlink():
                walk.linked = True
            if what == "folder" and _holds(os.path.realpath(entry.path), os.path.realpath(place)):
                walk.left_out.links += 1
            elif what == "folder":
                classes.append(entry.name)
            elif what == "broken":
                walk.broken.append(entry.path)
            else:
                walk.leave_out(entry.name, outside=True)
        if not classes and not walk.broken:
            raise UserError(f"no classes in {place}: expected one folder of images for each")
        _check_normalisation(place, classes)
        for name in classes:
            before = walk.left_out.kinds.copy()
            found = walk.images(name)
            if not found and not walk.broken:
                there = walk.left_out.kinds - before
                but = f", found {LeftOut(kinds=there)}" if there else ""
                raise UserError(
                    f"no images in {printable(place / name)}: expected files ending in "
                    f"{' '.join(KINDS)}{but}"
                )
            paths.extend(path for path, _ in found)
            identities.extend(hash(real) for _, real in found)
            counts.append(len(found))
    except OSError as error:
        raise UserError(
            f"cannot read the folder {printable(error.filename or place)}: {error.strerror or error}"
        ) from error
    if walk.broken:
        links = [f"{printable(each)} (to {printable(os.readlink(each))})" for each in walk.broken]
        number = counted(len(links), "broken link")
        raise UserError(f"{number} in {place}: {listed(links)}")
    whole = Split(
        place, tuple(classes), paths, tuple(counts), walk.left_out, identities, walk.linked
    )
    return _each_file_once(whole) if walk.linked else whole


def images_below(folder: str) -> tuple[list[str], list[str], LeftOut]:
    """Return the paths of the images in a folder, at any depth; broken links; and what else is there.

    Entries and links are taken as `scan` takes those of a class.

    Raises
    ------
    UserError
        If a folder cannot be read.
    """
    walk = _Walk(Path(folder))
    try:
        found = walk.images("")
    except OSError as error:
        raise UserError(
            f"cannot read the folder {printable(error.filename or folder)}: {error.strerror or error}"
        ) from error
    return [os.path.join(folder, path) for path, _ in found], sorted(walk.broken), walk.left_out


class _Walk:
    """A walk through the folders of a split."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self.left_out = LeftOut()
        self.broken: list[str] = []
        self.linked = False

    def entries(self, folder: str) -> Iterator[tuple[os.DirEntry[str], str]]:
        """Yield the entries of a folder that are not hidden, by name, and whether each is a folder, file, broken."""
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            if is_hidden(entry.name):
                self.left_out.hidden += 1
                continue
            try:
                what = "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
            except OSError:  # links in a circle
                what = "other"
            if what == "other" and entry.is_symlink() and not _is_there(entry.path):
                what = "broken"
            yield entry, what

    def leave_out(self, name: str, *, outside: bool = False) -> None:
        """Count a file that is not used."""
        kind = kind_of(name)
        if outside and kind in KINDS:
            self.left_out.outside += 1
        else:
            self.left_out.kinds[kind] += 1

    def images(self, name: str) -> list[tuple[str, str]]:
        """Return the images of a class: path below the split, and real path."""
        top = os.path.join(self.place, name)
        real = os.path.realpath(top)
        seen = {real}
        # with the real folders that the path has come through: what holds one of them is a loop
        pending = [(top, real, (os.path.realpath(self.place), real))]
        folders = []
        while pending:
            folder, real, through = pending.pop()
            images = []
            for entry, what in self.entries(folder):
                target, link = os.path.join(real, entry.name), entry.is_symlink()
                if link:
                    target, self.linked = os.path.realpath(entry.path), True
                if what == "folder":
                    loop = link and any(_holds(target, each) for each in (*through, real))
                    if loop or target in seen:
                        self.left_out.links += 1
                        continue
                    seen.add(target)
                    pending.append((entry.path, target, (*through, target) if link else through))
                elif what == "file" and kind_of(entry.name) in KINDS:
                    images.append((entry.path.removeprefix(os.path.join(self.place, "")), target))
                elif what == "broken" and kind_of(entry.name) in ("", *KINDS):
                    self.broken.append(entry.path)
                else:
                    self.leave_out(entry.name)
            folders.append((folder, images))
        return [image for _, images in sorted(folders) for image in images]


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def _holds(folder: str, path: str) -> bool:
    """Return whether a folder is `path` or one of the folders that this is in; both are real paths."""
    return path == folder or path.startswith(os.path.join(folder, ""))


def _each_file_once(split: Split) -> Split:
    """Return the split with each real file once."""
    numbers = np.asarray(split.identities)
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    position, labels = np.arange(len(numbers)), split.labels
    keep = np.ones(len(numbers), dtype=bool)
    for i in np.flatnonzero(first[inverse] != position).tolist():
        j = int(first[inverse[i]])
        one, other = split.paths[j], split.paths[i]
        if os.path.realpath(one) != os.path.realpath(other):
            continue  # different files whose numbers happen to be equal
        if labels[i] != labels[j]:
            names = " and ".join(printable(split.classes[labels[k]]) for k in (j, i))
            raise UserError(
                f"{printable(one)} and {printable(other)} are one file, by links, and it cannot be in "
                f"two classes, {names}"
            )
        keep[i] = False
    split.left_out.links += int((~keep).sum())
    return split.select(np.flatnonzero(keep))


def _check_normalisation(place: Path, classes: Iterable[str]) -> None:
    """Check that no two names of classes look the same: characters can be written in several ways in Unicode."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise UserError(
                f"two classes of {place} have names that look the same and differ in Unicode "
                f"normalisation: {other!a} and {name!a}; join them or rename one"
            )


def _check_same_classes(train: Split, test: Split) -> None:
    lacking = {
        split: sorted(set(other.classes) - set(split.classes))
        for split, other in ((test, train), (train, test))
        if set(other.classes) - set(split.classes)
    }
    if not lacking:
        return
    problem = f"{train.place} and {test.place} must have the same classes"
    if len(lacking) == 2:
        of_train = {unicodedata.normalize("NFC", name): name for name in lacking[test]}
        for name in lacking[train]:
            other = of_train.get(unicodedata.normalize("NFC", name))
            if other is not None:
                raise UserError(
                    f"{problem}: {other!a} of {train.place.name} and {name!a} of {test.place.name} look "
                    f"the same and differ in Unicode normalisation; rename one"
                )
    which = "; ".join(
        f"{split.place.name} lacks {printable(listed(names, 5))}"
        for split, names in lacking.items()
    )
    raise UserError(f"{problem}: {which}")
