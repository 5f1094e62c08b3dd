"""Sources of images: digits, CIFAR, folders."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...runtime.errors import UserError, suggestion
from .dataset import Dataset
from .decoding import MODES, Colour, Images, LazyImages, decode, shape_of
from .folders import LAYOUT, Paths, Split, find_images, printable, warn_of_oddities
from .holding_out import hold_out
from .statistics import channel_statistics, spread

NAMES = ("digits", "cifar10", "cifar100")
CROPS = ("pad", "resized")
CORRUPT = ("refuse", "skip")
LARGEST_DEFAULT_SIZE = 64
"""Largest side in pixels that a folder's images get where none is given."""
MEMORY_BUDGET = 4 * 2**30
"""Bytes that a folder's decoded images may take by default."""


def load_dataset(
    name: str,
    *,
    root: str | Path = "data",
    download: bool = False,
    image_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
    crop: str = "pad",
    colour: Colour = "rgb",
    colour_jitter: float = 0.0,
    flip: bool = True,
    corrupt: str = "refuse",
    split: float | None = None,
    split_seed: int = 0,
    validate: float = 0.0,
    test_only: bool = False,
) -> Dataset:
    """Load a data set by name, or a folder of images.

    A folder has torchvision's ImageFolder layout. That is `train/CLASS/*` with the held-out images
    in `test/CLASS/*` or, where there is no `test`, in `val`, `validation` or `valid`. Where both
    are there, `test` is the test data and the validation folder is left alone. Where none is, or
    the folder holds the classes' folders itself (`CLASS/*`), `split` divides the images.

    Files are images by their endings (`isnas.tasks.images.folders.KINDS`), at any depth in a
    class's folder. Others are left out, and so are hidden and system entries (`.name`,
    `__MACOSX`); one warning says how many. Links are followed; a file that is reached in several
    ways counts once. Of an animation the first picture is taken. Images are turned as their
    orientation tags say. What is transparent becomes white.

    Parameters
    ----------
    name : str
        "digits" (scikit-learn's 8 x 8 handwritten digits, part of that package: 1,437 to train,
        360 to test, always the same ones), "cifar10", "cifar100", or the path of a folder.
    root : str or Path
        Where CIFAR is kept, as torchvision keeps it.
    download : bool
        Whether to fetch CIFAR if it is not there.
    image_size : int, optional
        Side of the square images that are made of a folder's: the centred square of each, resized
        by antialiased bilinear interpolation unless it has that size already. The default is the
        median shorter side of some of the training images, but at most 64.
    memory_budget : int
        In bytes. A folder that would take more, decoded, is decoded batch by batch instead.
    crop : {"pad", "resized"}
        How a folder's images become squares. "pad" is as said under `image_size`, and training
        crops them after padding (CIFAR's way). "resized" is ImageNet's way: training takes random
        parts of the original images, resized (`isnas.tasks.images.augmentation.random_part`), the
        test their centre: 7/8 of the shorter side. Then all images are decoded batch by batch, and
        there is no cut-out unless asked for.
    colour : {"rgb", "grey"}
        Whether a folder's images have three channels, or one of grey (luma, ITU-R BT.601).
    colour_jitter : float
        Largest relative change of brightness, contrast and saturation in training; that of the
        hue is half as much, in turns of the colour circle. 0: none. It needs crop="resized". Grey
        images have no saturation and hue.
    flip : bool
        Whether training images may be mirrored left to right, half of them at random. Mirrored
        text, arrows or digits are other things: digits are never mirrored.
    corrupt : {"refuse", "skip"}
        What to do with a folder's images that cannot be decoded. "skip" warns of each once, by its
        path, and leaves it out; where images are decoded batch by batch, the next readable one of
        its class (the first after the last) stands in for it. Files that the system cannot read
        are refused in either case.
    split : float, optional
        Share of the images to train on, between 0 and 1, in each class, where a folder holds none
        out for the test; the others are held out. Which ones these are depends on `split_seed` and
        on the files' paths below the folder.
    split_seed : int
        Also of `validate`.
    validate : float
        Share of each class's training images that are held out of the training, to be tested after
        every epoch (`isnas.tasks.images.holding_out`); 0: none.
    test_only : bool
        Whether only the test images are wanted. Then a folder's training images are not looked
        for, but for their size where `image_size` is not given: there are none in the data set,
        and its mean is 0 and its standard deviation 1.

    Returns
    -------
    Dataset
        On the CPU. The cut-out square (`Dataset.augmentation`) of a folder's images has half their
        side, where they are not cropped by "resized".

    Raises
    ------
    UserError
        If there is no such data set; CIFAR is missing, damaged or cannot be fetched; or the folder
        is not as described: a split or its classes missing, a class empty, a single class, classes
        that differ between the splits, a file that is in two classes by links, broken links,
        images that cannot be read. A folder that is decoded batch by batch shows the last of these
        only when the image is used.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size must be 1 or more pixels, got {image_size}")
    for option, value, allowed in (
        ("crop", crop, CROPS),
        ("corrupt", corrupt, CORRUPT),
        ("colour", colour, tuple(MODES)),
    ):
        if value not in allowed:
            raise UserError(f"{option} must be one of {', '.join(allowed)}, got {value!r}")
    if colour_jitter and crop != "resized":
        raise UserError(f"colour_jitter={colour_jitter} needs crop='resized', got crop={crop!r}")
    if name in NAMES:
        for option, value, default in (
            ("crop", crop, "pad"),
            ("colour", colour, "rgb"),
            ("split", split, None),
        ):
            if value != default:
                raise UserError(f"{option} {value!r} is for folders of images, got {name}")
        dataset = _digits() if name == "digits" else _cifar(name, Path(root), download)
        if image_size not in (None, dataset.size[0]):
            raise UserError(
                f"image_size is for folders of images: those of {name} are "
                f"{dataset.size[0]} x {dataset.size[1]}, got {image_size}"
            )
    else:
        dataset = _folder(
            name,
            image_size=image_size,
            memory_budget=memory_budget,
            crop=crop,
            colour=colour,
            colour_jitter=colour_jitter,
            skip=corrupt == "skip",
            split=split,
            split_seed=split_seed,
            test_only=test_only,
        )
    if validate and not test_only:
        dataset = hold_out(dataset, validate, split_seed)
    return replace(dataset, flip=dataset.flip and flip)


def _digits() -> Dataset:
    # Imported here: scikit-learn takes a second, and only these need it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    pixels = np.rint(loaded.images * (255 / 16)).astype(np.uint8)[:, None]  # values are 0 to 16
    train_x, test_x, train_y, test_y = (
        torch.from_numpy(part)
        for part in train_test_split(
            pixels,
            loaded.target.astype(np.int64),
            test_size=360,
            stratify=loaded.target,
            random_state=0,
        )
    )
    mean, std = channel_statistics(train_x)
    return Dataset(
        name="digits",
        train_images=train_x,
        train_labels=train_y,
        test_images=test_x,
        test_labels=test_y,
        classes=tuple(map(str, range(10))),
        mean=mean,
        std=std,
        flip=False,
        cutout=0,
    )


def _cifar(name: str, root: Path, download: bool) -> Dataset:
    from torchvision import datasets  # takes seconds to import: only where it is used

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    place = root / kind.base_folder
    try:
        with warnings.catch_warnings():
            # NumPy 2.4 deprecates how these old files spell a dtype (pytorch/vision issue 9340).
            warnings.filterwarnings("ignore", message=r"dtype\(\): align")
            train = kind(root, train=True, download=download)
            test = kind(root, train=False)
    except Exception as error:  # Network, disk, archive and checksum each have errors of their own.
        if download:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"could not download {name} to {place}: {reason}") from error
        if isinstance(error, RuntimeError):  # torchvision's word for missing or damaged
            state = "is damaged or incomplete" if place.exists() else "is not there"
            raise UserError(f"{name}: {place} {state}; --download fetches it") from error
        raise UserError(f"{name}: cannot read {place}: {error}") from error
    train_x, test_x = (
        torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)
    )
    mean, std = channel_statistics(train_x)
    return Dataset(
        name=name,
        train_images=train_x,
        train_labels=torch.tensor(train.targets),
        test_images=test_x,
        test_labels=torch.tensor(test.targets),
        classes=tuple(train.classes),
        mean=mean,
        std=std,
        flip=True,
        cutout=16,
    )


def _folder(
    name: str,
    *,
    image_size: int | None,
    memory_budget: int,
    crop: str,
    colour: Colour,
    colour_jitter: float,
    skip: bool,
    split: float | None,
    split_seed: int,
    test_only: bool,
) -> Dataset:
    place = folder_named(name)
    train, test = find_images(
        place, split=split, seed=split_seed, needs_train=not test_only or image_size is None
    )
    warn_of_oddities(name, train, test)
    if image_size is None:
        image_size = default_size(train.paths)
    if test_only:
        train = train.empty()
    lazy = is_lazy(len(train.paths) + len(test.paths), image_size, colour, crop, memory_budget)
    (train_images, train_labels, _), (test_images, test_labels, test_paths) = (
        _read(part, image_size, crop, colour, lazy, skip) for part in (train, test)
    )
    channels = train_images.shape[1]
    none = (0.0,) * channels, (1.0,) * channels
    mean, std = none if test_only else channel_statistics(train_images)
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=train.classes,
        mean=mean,
        std=std,
        flip=True,
        cutout=0 if crop == "resized" else image_size // 2,
        crop=crop,
        colour_jitter=colour_jitter,
        test_paths=test_paths,
    )


def folder_named(name: str) -> Path:
    """Return the folder of this path; UserError where there is none."""
    place = Path(os.path.expanduser(name))
    if not os.path.isdir(place):
        problem = "not a directory" if os.path.exists(place) else "no such data set or directory"
        raise UserError(
            f"{problem}: {name}{suggestion(name, NAMES)}; expected {', '.join(NAMES)} or a directory with {LAYOUT}"
        )
    return place


def is_lazy(images: int, size: int, colour: Colour, crop: str, memory_budget: int) -> bool:
    """Return whether so many images are decoded batch by batch."""
    decoded = images * math.prod(shape_of(size, colour))
    return crop == "resized" or decoded > memory_budget


def default_size(paths: Sequence[str]) -> int:
    """Return the median shorter side of up to 100 readable images, taken at even distances, but at most 64."""
    sides = []
    for i in spread(len(paths), 100).tolist():
        try:
            with Image.open(paths[i]) as image:  # reads no more than the header
                sides.append(min(image.size))
        except Exception:  # who decodes it says what is wrong with it, and with all others
            continue
    if not sides:
        raise UserError(
            f"none of the images that were tried can be read, {printable(paths[0])} among them"
        )
    return min(LARGEST_DEFAULT_SIZE, sorted(sides)[len(sides) // 2])


def _read(
    split: Split, image_size: int, crop: str, colour: Colour, lazy: bool, skip: bool
) -> tuple[Images, Tensor, Paths]:
    """Return a split's images, their labels and their files."""
    counts = torch.tensor(split.counts)
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    if lazy:
        starts = tuple((counts.cumsum(0) - counts).tolist()) if skip else None
        return LazyImages(split.paths, image_size, crop, starts, colour), labels, split.paths
    images, kept = decode(split.paths, image_size, colour=colour, skip=skip)
    labels = labels[kept]
    left = labels.bincount(minlength=len(counts))
    for each, before, after in zip(split.classes, split.counts, left.tolist(), strict=True):
        if before and not after:
            raise UserError(f"no readable images in {printable(split.place / each)}")
    left_out = len(kept) < len(split.paths)
    return images, labels, split.paths.select(kept.tolist()) if left_out else split.paths
