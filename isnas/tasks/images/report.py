"""What a folder of images holds, and what would be made of it: a report before anything is trained."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ...runtime.errors import UserError
from .decoding import (
    UnreadableImage,
    processors,
    read_pixels,
    square,
    turn_of,
    upright_size,
    with_alpha,
)
from .folders import (
    HELD_OUT_FOLDERS,
    KINDS,
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
from .sources import default_size, folder_named, is_lazy

SHOWN = 20
"""Most lines of a kind in the text of a report."""


@dataclass(frozen=True)
class FolderReport:
    """What a folder of images holds.

    Attributes
    ----------
    path : str
    counts : dict of str to dict of str to int
        Images of each class in the training and the test data, which are called as their folders are; where a folder is
        divided, "train" and "test"; "all" where it would have to be divided.
    sizes : Counter of (int, int)
        Images by width and height, in pixels, upright.
    modes : Counter of str
        Images by Pillow's name of their channels and bits, such as RGB, L (grey) or RGBA.
    grey : int
        Number of images without any colour, also of those with three channels.
    turned : int
        Number of images that their orientation tag turns.
    transparent : int
        Number of images with transparent parts, which become white.
    unreadable : dict of str to str
        Reasons by path.
    shared : tuple of (str, str)
        Training and test images with the same content, byte for byte.
    contradictory : tuple of (str, str)
        Images of two classes with the same content.
    left_out : LeftOut
        What else is in the folders.
    unused : tuple of str
        Folders beside those of the training and test data.
    problems : tuple of str
        Why the folder cannot be trained on as it is, one line each.
    defaults : dict
        What `isnas.tasks.images.load_dataset` chooses: ``image_size``, ``crop``, ``colour``, ``flip``, ``cutout`` and
        ``lazy``, whether images are decoded batch by batch.
    """

    path: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    grey: int = 0
    turned: int = 0
    transparent: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    shared: tuple[tuple[str, str], ...] = ()
    contradictory: tuple[tuple[str, str], ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)
    unused: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether the folder can be trained on as it is."""
        return not self.problems and not self.unreadable

    def __str__(self) -> str:
        """Return the report as lines for people."""
        lines = [printable(self.path), *self._classes(), *self._images()]
        for where, pairs in (
            ("the training and the test data", self.shared),
            ("two classes", self.contradictory),
        ):
            if pairs:
                title = f"{counted(len(pairs), 'image')} with the same content in {where}"
                lines += _section(title, [f"{one} = {other}" for one, other in pairs])
        if self.unreadable:
            title = counted(len(self.unreadable), "unreadable image")
            named = [f"{path} ({reason})" for path, reason in self.unreadable.items()]
            lines += _section(f"{title}; --corrupt skip does without damaged ones", named)
        if self.left_out:
            lines.append(f"left out: {self.left_out}")
        if self.left_out.kinds:
            lines.append(f"  files that are read end in {' '.join(KINDS)}")
        if self.unused:
            lines.append(f"folders that are not used: {printable(listed(self.unused, SHOWN))}")
        if self.defaults:
            lines += ["by default", *(f"  {line}" for line in self._defaults())]
        if self.problems:
            lines += ["it cannot be trained on as it is", *(f"  {each}" for each in self.problems)]
        return "\n".join(lines)

    def _classes(self) -> list[str]:
        """Return a table of the numbers of images."""
        if not self.counts:
            return []
        names = list(dict.fromkeys(name for of in self.counts.values() for name in of))
        rows = [("", *self.counts)]
        rows += [
            (printable(name), *(f"{of.get(name, 0):,}" for of in self.counts.values()))
            for name in names[:SHOWN]
        ]
        if len(names) > SHOWN:
            rest = [sum(of.get(name, 0) for name in names[SHOWN:]) for of in self.counts.values()]
            rows.append((f"{len(names) - SHOWN:,} more", *(f"{n:,}" for n in rest)))
        totals = [f"{sum(of.values()):,}" for of in self.counts.values()]
        rows.append((counted(len(names), "class", "classes"), *totals))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]

    def _images(self) -> list[str]:
        """Return lines on the images themselves."""
        number = self.sizes.total()
        if not number:
            return []
        ordered = sorted(self.sizes.elements(), key=lambda size: (min(size), max(size)))
        least, median, most = (
            f"{width} x {height}"
            for width, height in (ordered[0], ordered[number // 2], ordered[-1])
        )
        pixels = f"all {least}" if len(self.sizes) == 1 else f"{least} to {most}, median {median}"
        modes = ", ".join(f"{n:,} {mode}" for mode, n in self.modes.most_common())
        lines = [f"pixels: {pixels}", f"channels: {modes}; {self.grey:,} without colour"]
        for n, what in (
            (self.turned, "turned as their orientation tag says"),
            (self.transparent, "with transparent parts, which become white"),
        ):
            if n:
                lines.append(f"{counted(n, 'image')} {what}")
        return lines

    def _defaults(self) -> list[str]:
        """Return lines on what would be chosen."""
        values = self.defaults
        lines = [f"image size {values['image_size']}"]
        lines.append("decoded batch by batch" if values["lazy"] else "decoded once, kept in memory")
        colour = "three channels"
        if self.grey == self.sizes.total() > 0:
            colour += " (--colour grey: one, as no image has colour)"
        lines.append(colour)
        lines.append("mirrored at random in training (--no-flip where left and right matter)")
        lines.append(f"squares of {values['cutout']} pixels cut out in training (--cutout 0: none)")
        return lines


def _section(title: str, items: Sequence[str]) -> list[str]:
    more = [f"  and {len(items) - SHOWN:,} more"] if len(items) > SHOWN else []
    return [title, *(f"  {printable(item)}" for item in items[:SHOWN]), *more]


def inspect_folder(
    path: str | Path,
    *,
    image_size: int | None = None,
    split: float | None = None,
    split_seed: int = 0,
    memory_budget: int = 4 * 2**30,
) -> FolderReport:
    """Look at a folder of images before it is trained on. Every image is decoded.

    Parameters
    ----------
    path : str or Path
    image_size, split, split_seed, memory_budget
        As in `isnas.tasks.images.load_dataset`.

    Returns
    -------
    FolderReport

    Raises
    ------
    UserError
        If there is no such folder. What is wrong in it is in the report.
    """
    place = folder_named(str(path))
    splits, problems = _found(place, split, split_seed)
    images = {name: _facts(each, image_size) for name, each in splits.items()}
    every = [fact for facts in images.values() for fact in facts]
    readable = [fact for fact in every if not fact.problem]
    for name, facts in images.items():
        for label in splits[name].classes:
            if facts and all(fact.problem for fact in facts if fact.label == label):
                problems.append(f"no readable images in {printable(splits[name].place / label)}")
    defaults = {}
    try:
        if readable:
            side = image_size or default_size(next(iter(splits.values())).paths)
            defaults = {
                "image_size": side,
                "crop": "pad",
                "colour": "rgb",
                "flip": True,
                "cutout": side // 2,
                "lazy": is_lazy(len(every), side, "rgb", "pad", memory_budget),
            }
    except UserError as error:
        problems.append(str(error))
    by_class: dict[str, list[_Fact]] = {}
    for fact in every:
        by_class.setdefault(fact.label, []).append(fact)
    return FolderReport(
        path=str(path),
        counts={name: dict(zip(of.classes, of.counts, strict=True)) for name, of in splits.items()},
        sizes=Counter(fact.size for fact in readable),
        modes=Counter(fact.mode for fact in readable),
        grey=sum(fact.grey for fact in readable),
        turned=sum(fact.turned for fact in readable),
        transparent=sum(fact.transparent for fact in readable),
        unreadable={fact.path: fact.problem for fact in every if fact.problem},
        shared=_same_content(images.values()),
        contradictory=_same_content(by_class.values()),
        left_out=left_out_of(*splits.values()),
        unused=_unused(place, splits.values()),
        problems=tuple(problems),
        defaults=defaults,
    )


def _found(place: Path, split: float | None, split_seed: int) -> tuple[dict[str, Split], list[str]]:
    """Return the training and the test data by name, or what there is of them, and what is wrong."""
    try:
        train, test = find_images(place, split=split, seed=split_seed)
    except UserError as error:
        problems = [str(error)]
    else:
        names = ("train", "test") if split is not None else (train.place.name, test.place.name)
        return dict(zip(names, (train, test), strict=True)), []
    held_out = next((name for name in HELD_OUT_FOLDERS if (place / name).is_dir()), "")
    folders = [place / name for name in ("train", held_out) if name and (place / name).is_dir()]
    found = {}
    for folder in folders or [place]:
        try:
            found[folder.name if folders else "all"] = scan(folder)
        except UserError as error:
            problems.append(str(error))
    return found, list(dict.fromkeys(problems))


class _Fact(NamedTuple):
    """Facts on an image file."""

    path: str
    label: str
    problem: str = ""
    content: bytes = b""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    grey: bool = False
    turned: bool = False
    transparent: bool = False


def _facts(split: Split, image_size: int | None) -> list[_Fact]:
    """Return facts on all images of a split."""
    side = 64 if image_size is None else image_size

    def of(i: int) -> _Fact:
        path, label = split.paths[i], split.classes[labels[i]]
        found: dict[str, Any] = {}

        def look(image: Image.Image) -> Image.Image:
            found["size"], found["mode"] = upright_size(image), image.mode
            found["turned"] = turn_of(image) is not None
            found["transparent"] = _has_transparent_parts(image)
            return square(image, side)

        try:
            pixels = read_pixels(path, look)
            content = Path(path).read_bytes()
            found["content"] = hashlib.blake2b(content, digest_size=16).digest()
        except UnreadableImage as error:
            return _Fact(path, label, problem=error.reason)
        except OSError as error:
            return _Fact(path, label, problem=error.strerror or str(error))
        return _Fact(path, label, grey=bool((pixels == pixels[..., :1]).all()), **found)

    labels = split.labels
    with ThreadPoolExecutor(processors()) as pool:
        return list(pool.map(of, range(len(split.paths))))


def _has_transparent_parts(image: Image.Image) -> bool:
    return image.has_transparency_data and with_alpha(image).getchannel("A").getextrema()[0] < 255


def _same_content(groups: Iterable[Sequence[_Fact]]) -> tuple[tuple[str, str], ...]:
    """Return the paths of each file whose content is that of a file in an earlier group, after that file's path."""
    before: dict[bytes, str] = {}
    pairs = []
    for group in groups:
        new: dict[bytes, str] = {}
        for fact in group:
            if fact.content:
                if fact.content in before:
                    pairs.append((before[fact.content], fact.path))
                new.setdefault(fact.content, fact.path)
        for content, path in new.items():
            before.setdefault(content, path)
    return tuple(pairs)


def _unused(place: Path, splits: Iterable[Split]) -> tuple[str, ...]:
    """Return the names of the folders in a folder that no split is in."""
    used = {each.place for each in splits}
    if place in used:
        return ()
    return tuple(
        sorted(
            each.name
            for each in place.iterdir()
            if each.is_dir() and not is_hidden(each.name) and each not in used
        )
    )
