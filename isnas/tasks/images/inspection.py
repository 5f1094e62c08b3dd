"""Inspection of a folder of images before a training: every file is read, and nothing is trained."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...runtime.errors import UserError
from .decoding import (
    Colour,
    UnreadableImage,
    converted,
    processors,
    read_pixels,
    shape_of,
    turn_of,
    upright,
)
from .folders import (
    HELD_OUT_FOLDERS,
    LeftOut,
    Split,
    counted,
    find_images,
    is_hidden,
    left_out_of,
    listed,
    printable,
    scan,
)
from .sources import MEMORY_BUDGET, NAMES, default_size, folder_named, is_lazy

SHOWN = 20
"""Number of duplicates that the text names; JSON has them all."""

IMBALANCED = 3
"""A largest class of so many times the images of the smallest is mentioned."""


class Facts(NamedTuple):
    """The facts of one image file before it is made square."""

    mode: str
    """Pillow's, such as RGB, L (grey), P (palette), RGBA, I;16."""
    format: str
    width: int
    height: int
    """Height of the upright image in pixels."""
    turned: bool
    """Whether its orientation tag turns or mirrors it."""
    transparent: bool
    animated: bool
    pixels: bytes
    """Hash of the upright, converted image: the same for the same picture in another lossless file."""


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read."""

    path: str
    reason: str
    of_system: bool
    """Whether the system cannot read the file; such files are not left out by ``corrupt="skip"``."""


@dataclass(frozen=True)
class Duplicate:
    """Two files that show the same picture."""

    one: str
    other: str
    same_bytes: bool
    """Whether the files are the same byte for byte; otherwise their decoded pixels are."""
    classes: tuple[str, str]

    def __str__(self) -> str:
        """Return a line for people."""
        what = "same file" if self.same_bytes else "same pixels"
        text = f"{printable(self.one)} = {printable(self.other)} ({what}"
        if self.classes[0] != self.classes[1]:
            text += f", classes {printable(self.classes[0])} and {printable(self.classes[1])}"
        return text + ")"


@dataclass
class SplitFacts:
    """The facts of the files of one split.

    Attributes
    ----------
    place : str
        The folder that holds the classes' folders.
    counts : dict of str to int
        Files by class.
    readable : dict of str to int
        Number of these that can be read.
    sides : (int, int) or None
        Least and largest shorter side of the readable ones, in pixels; None where there is none.
    smallest, largest : (int, int) or None
        Width and height of the image with the fewest and the most pixels.
    modes, formats : Counter of str
    turned, transparent, animated : int
        Images that their orientation tag turns; with transparency; of which only the first picture is taken.
    enlarged : int
        Images whose shorter side is below the side that they are resized to.
    unreadable : list of Unreadable
    """

    place: str
    counts: dict[str, int]
    readable: dict[str, int]
    sides: tuple[int, int] | None = None
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    turned: int = 0
    transparent: int = 0
    animated: int = 0
    enlarged: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            **plain,
            "modes": dict(self.modes),
            "formats": dict(self.formats),
            "unreadable": [asdict(each) for each in self.unreadable],
        }

    def add(self, facts: Facts, image_size: int | None) -> None:
        """Take one readable image into account."""
        size, side = (facts.width, facts.height), min(facts.width, facts.height)
        least, most = self.sides or (side, side)
        self.sides = min(least, side), max(most, side)
        area = size[0] * size[1]
        if self.smallest is None or area < self.smallest[0] * self.smallest[1]:
            self.smallest = size
        if self.largest is None or area > self.largest[0] * self.largest[1]:
            self.largest = size
        self.modes[facts.mode] += 1
        self.formats[facts.format] += 1
        self.turned += facts.turned
        self.transparent += facts.transparent
        self.animated += facts.animated
        self.enlarged += image_size is not None and side < image_size


@dataclass(frozen=True)
class FolderInspection:
    """Result of `inspect_folder`.

    Attributes
    ----------
    name : str
        The folder.
    splits : dict of str to SplitFacts
        By ``train`` and ``test``; those that were found.
    problems : list of str
        The problems that would stop a training; empty where there are none.
    remarks : list of str
        Remarks on what a training takes as it is, and its user may not want.
    left_out : LeftOut
        Entries that are not used.
    shared : list of Duplicate
        Test images that are training images, too.
    repeated : list of Duplicate
        Images that are twice in the training data, or twice in the test data.
    prepared : dict
        How images would be prepared: the values of the options, given or by default.
    """

    name: str
    splits: dict[str, SplitFacts]
    problems: list[str]
    remarks: list[str]
    left_out: LeftOut
    shared: list[Duplicate]
    repeated: list[Duplicate]
    prepared: dict[str, Any]

    @property
    def amount(self) -> int:
        """Number of readable images to train on."""
        return sum(self.splits["train"].readable.values()) if "train" in self.splits else 0

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            "data": self.name,
            "splits": {name: split.to_json() for name, split in self.splits.items()},
            "classes": len(next(iter(self.splits.values())).counts) if self.splits else 0,
            "left_out": {
                "hidden": self.left_out.hidden,
                "kinds": dict(self.left_out.kinds),
                "outside": self.left_out.outside,
                "links": self.left_out.links,
            },
            "in_train_and_test": [asdict(each) for each in self.shared],
            "repeated": [asdict(each) for each in self.repeated],
            "prepared": self.prepared,
            "remarks": self.remarks,
            "problems": self.problems,
        }

    def lines(self) -> list[str]:
        """Return it as lines for people."""
        found = [
            f"{name}: {counted(sum(split.counts.values()), 'image')} in {printable(split.place)}"
            + (f", {len(split.unreadable):,} of them unreadable" if split.unreadable else "")
            for name, split in self.splits.items()
        ]
        found += ["", *self._classes()] if self.splits else []
        for name, split in self.splits.items():
            found += ["", *_seen(name, split)]
        unreadable = [each for split in self.splits.values() for each in split.unreadable]
        if unreadable:
            found += ["", f"unreadable: {counted(len(unreadable), 'image')}"]
            found += [f"  {printable(u.path)} ({printable(u.reason)})" for u in unreadable]
        for title, duplicates in (
            ("in the training and the test data", self.shared),
            ("repeated in one of them", self.repeated),
        ):
            if duplicates:
                found += ["", f"{title}: {counted(len(duplicates), 'image')}"]
                found += [f"  {each}" for each in duplicates[:SHOWN]]
                if len(duplicates) > SHOWN:
                    found.append(f"  and {len(duplicates) - SHOWN:,} more (--json names all)")
        if self.left_out:
            found += ["", f"left out: {self.left_out}"]
        if self.prepared:
            found += ["", "prepared as:"]
            found += [
                f"  {name.replace('_', ' ')}: {_plain(v)}" for name, v in self.prepared.items()
            ]
        for title, texts in (("remarks", self.remarks), ("would stop a training", self.problems)):
            if texts:
                found += ["", f"{title}:", *(f"  {text}" for text in texts)]
        return found

    def _classes(self) -> Iterator[str]:
        """Yield the table of classes and their numbers of files."""
        names = list(dict.fromkeys(c for split in self.splits.values() for c in split.counts))
        width = max(len("class"), *(_columns_of(printable(name)) for name in names))
        columns = {name: max(len(name), 9) for name in self.splits}
        yield "  ".join(["class".ljust(width), *(n.rjust(w) for n, w in columns.items())])
        for name in names:
            cells = [
                (f"{split.counts[name]:,}" if name in split.counts else "-").rjust(columns[each])
                for each, split in self.splits.items()
            ]
            padding = " " * (width - _columns_of(printable(name)))
            yield "  ".join([printable(name) + padding, *cells])


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: East Asian characters take two each."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _seen(name: str, split: SplitFacts) -> Iterator[str]:
    """Yield lines on the sizes and kinds of a split's images."""
    if split.sides is None or split.smallest is None or split.largest is None:
        yield f"{name}: no readable image"
        return
    (w, h), (W, H) = split.smallest, split.largest
    sizes = f"{w} x {h} pixels" if (w, h) == (W, H) else f"{w} x {h} to {W} x {H} pixels"
    low, high = split.sides
    yield f"{name}: {sizes}, shorter sides {low}" + (f" to {high}" if high > low else "")
    kinds = [f"{n:,} {mode}" for mode, n in split.modes.most_common()]
    yield f"  modes: {', '.join(kinds)}"
    yield f"  formats: {', '.join(f'{n:,} {kind}' for kind, n in split.formats.most_common())}"
    for number, text in (
        (split.turned, "turned upright as the orientation tag says"),
        (split.transparent, "with transparency, which becomes white"),
        (split.animated, "with several pictures, of which the first one counts"),
        (split.enlarged, "smaller than what they are resized to"),
    ):
        if number:
            yield f"  {number:,} {text}"


def inspect_folder(
    name: str,
    *,
    image_size: int | None = None,
    crop: str = "pad",
    colour: Colour = "rgb",
    flip: bool = True,
    corrupt: str = "refuse",
    split: float | None = None,
    split_seed: int = 0,
    memory_budget: int = MEMORY_BUDGET,
    step: Callable[[int, int], None] | None = None,
) -> FolderInspection:
    """Read every image of a folder, and say what a training would find, see `load_dataset` for the arguments.

    Parameters
    ----------
    step : callable, optional
        Called now and then with how many images are read, and of how many.

    Raises
    ------
    UserError
        When there is no such folder. What else would stop a training is among the `problems`.
    """
    if name in NAMES:
        raise UserError(f"{name} is a data set whose content is known: give a folder of images")
    place = folder_named(name)
    problems: list[str] = []
    remarks: list[str] = []
    try:
        train, test = find_images(place, split=split, seed=split_seed)
        found = {"train": train, "test": test}
    except UserError as error:
        problems.append(str(error))
        found = _what_is_there(place, problems)
    size = image_size
    if size is None and "train" in found:
        try:
            size = default_size(found["train"].paths)
        except UserError as error:
            problems.append(str(error))
    total, done = sum(len(each.paths) for each in found.values()), 0
    splits: dict[str, SplitFacts] = {}
    seen: dict[bytes, list[tuple[str, str, str]]] = {}  # (split, class, path) by the hash of pixels
    for which, each in found.items():
        counts = dict(zip(each.classes, each.counts, strict=True))
        facts = SplitFacts(str(each.place), counts, dict.fromkeys(counts, 0))
        labels = each.labels.tolist()
        for i, read in enumerate(_read_all(each, colour)):
            label = each.classes[labels[i]]
            if isinstance(read, Unreadable):
                facts.unreadable.append(read)
            else:
                facts.add(read, size)
                facts.readable[label] += 1
                seen.setdefault(read.pixels, []).append((which, label, each.paths[i]))
            done += 1
            if step is not None:
                step(done, total)
        splits[which] = facts
    problems += _unreadable_problems(splits, corrupt)
    shared, repeated = _duplicates(seen)
    remarks += _remarks(splits, shared, repeated)
    prepared: dict[str, Any] = {}
    if size is not None:
        lazy = is_lazy(total, size, colour, crop, memory_budget)
        megabytes = total * int(np.prod(shape_of(size, colour))) / 2**20
        prepared = {
            "image_size": size,
            "crop": crop,
            "colour": colour,
            "flip": flip,
            "cutout": 0 if crop == "resized" else size // 2,
            "corrupt": corrupt,
            "split": split,
            "kept": "decoded batch by batch" if lazy else f"in memory, {megabytes:,.1f} MB",
        }
    left_out = left_out_of(*found.values())
    return FolderInspection(name, splits, problems, remarks, left_out, shared, repeated, prepared)


def _what_is_there(place: Path, problems: list[str]) -> dict[str, Split]:
    """Return those splits of a folder that can be scanned by themselves; add what else is wrong to the problems."""
    places = {"train": place / "train"}
    held_out = next((each for each in HELD_OUT_FOLDERS if (place / each).is_dir()), None)
    if held_out is not None:
        places["test"] = place / held_out
    elif not places["train"].is_dir():
        places["train"] = place
    found = {}
    for which, folder in places.items():
        try:
            if folder.is_dir() and any(not is_hidden(each.name) for each in folder.iterdir()):
                found[which] = scan(folder)
        except (UserError, OSError) as error:
            if str(error) not in problems:
                problems.append(str(error))
    return found


def _read_all(split: Split, colour: Colour) -> Iterator[Facts | Unreadable]:
    """Yield what is seen of each file, in order, read by all processors."""

    def facts_of(i: int) -> Facts | Unreadable:
        path = split.paths[i]
        try:
            return facts(path, colour)
        except UnreadableImage as error:
            return Unreadable(path, error.reason, error.of_system)

    # a few hundred at a time, so that an interruption need not wait for all
    with ThreadPoolExecutor(min(32, processors())) as pool:
        for start in range(0, len(split.paths), 256):
            yield from pool.map(facts_of, range(start, min(start + 256, len(split.paths))))


def facts(path: str, colour: Colour = "rgb") -> Facts:
    """Return what is seen of an image file.

    Raises
    ------
    UnreadableImage
        When a training could not read it.
    """
    before: list[Any] = []

    def frame(image: Image.Image) -> Image.Image:
        before[:] = [
            image.mode,
            image.format or "?",
            turn_of(image) is not None,
            image.has_transparency_data,
            bool(getattr(image, "is_animated", False)),
        ]
        return converted(upright(image), colour)

    pixels = read_pixels(path, frame)
    mode, kind, turned, transparent, animated = before
    height, width, _ = pixels.shape
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    return Facts(mode, kind, width, height, turned, transparent, animated, digest.digest())


def _unreadable_problems(splits: dict[str, SplitFacts], corrupt: str) -> Iterator[str]:
    unreadable = [each for split in splits.values() for each in split.unreadable]
    of_system = sum(each.of_system for each in unreadable)
    if of_system:
        yield f"the system cannot read {counted(of_system, 'file')}"
    elif unreadable and corrupt == "refuse":
        yield (
            f"{counted(len(unreadable), 'image is', 'images are')} not readable; --corrupt skip does "
            f"without"
        )
    for split in splits.values():
        for name, number in split.readable.items():
            if number == 0:
                yield f"no readable images in {printable(Path(split.place) / name)}"


def _duplicates(
    seen: dict[bytes, list[tuple[str, str, str]]],
) -> tuple[list[Duplicate], list[Duplicate]]:
    """Return the test images that are training images, too, and the images that are twice in one of the two."""
    shared, repeated = [], []
    for same in seen.values():
        first: dict[str, tuple[str, str]] = {}
        for which, label, path in same:
            if which in first:
                repeated.append(_duplicate(first[which], (label, path)))
            elif first:
                shared.append(_duplicate(next(iter(first.values())), (label, path)))
            first.setdefault(which, (label, path))
        # every further test image of the kind is a training image, too
        if len(first) > 1:
            others = [(label, path) for which, label, path in same if which == "test"][1:]
            shared += [_duplicate(first["train"], each) for each in others]
    return shared, repeated


def _duplicate(one: tuple[str, str], other: tuple[str, str]) -> Duplicate:
    return Duplicate(one[1], other[1], _same_bytes(one[1], other[1]), (one[0], other[0]))


def _same_bytes(one: str, other: str) -> bool:
    try:
        return Path(one).read_bytes() == Path(other).read_bytes()
    except OSError:
        return False


def _remarks(
    splits: dict[str, SplitFacts], shared: Sequence[Duplicate], repeated: Sequence[Duplicate]
) -> Iterator[str]:
    if shared:
        yield (
            f"{counted(len(shared), 'test image is a training image', 'test images are training images')}, "
            f"too: the test will look better than the network is"
        )
    torn = [each for each in (*shared, *repeated) if each.classes[0] != each.classes[1]]
    if torn:
        yield f"{counted(len(torn), 'picture is', 'pictures are')} in two classes"
    counts = splits["train"].readable if "train" in splits else {}
    if len(counts) > 1 and min(counts.values()) > 0:
        most, least = (by(counts, key=counts.__getitem__) for by in (max, min))
        ratio = counts[most] / counts[least]
        if ratio >= IMBALANCED:
            text = (
                f"classes are imbalanced: {printable(most)} has {ratio:.1f} times the training "
                f"images of {printable(least)}"
            )
            tested = splits["test"].readable if "test" in splits else {}
            if sum(tested.values()):
                share = 100 * tested.get(most, 0) / sum(tested.values())
                text += f"; always answering {printable(most)} would be right in {share:.0f} % of the test"
            yield text
    for which, split in splits.items():
        single = [printable(name) for name, number in split.readable.items() if number == 1]
        if single:
            yield f"one {which} image only: {listed(single)}"
