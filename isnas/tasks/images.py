"""Data sets of images, and their mini-batches.

Images stay uint8 in memory, on any device; a batch is varied and normalised only when it is used.
Folders whose decoded images do not fit the memory are decoded batch by batch.
"""

from __future__ import annotations

import math
import os
import random
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from isnas.runtime.errors import UserError
from isnas.runtime.processes import check_batch_size, part_of, processes, rank
from isnas.runtime.randomness import generator, seed_of
from isnas.tasks.augmentation import Augmentation, jittered, normalise, random_part

NAMES = ("digits", "cifar10", "cifar100")
HELD_OUT_FOLDERS = ("test", "val", "validation", "valid")
CROPS = ("pad", "resized")
CORRUPT = ("refuse", "skip")
DRAFT_MARGIN = 2
"""A JPEG decoder may shrink an image itself while this many times the pixels wanted remain along each side."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Images(Protocol):
    """A store of N images: a uint8 tensor (N, C, H, W), or what decodes them when asked."""

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` ((B,) int64) as uint8 (B, C, H, W)."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images for training, and others held out for the test.

    Attributes
    ----------
    name : str
    train_images, test_images : Images, (N, C, H, W) uint8
    train_labels, test_labels : Tensor, (N,) int64
        Positions in `classes`.
    classes : tuple of str
    mean, std : tuple of float, one per channel
        Of the training images, with pixel values between 0 and 1.
    flip : bool
        Whether a mirrored image still belongs to its class.
    cutout : int
        Side of the cut-out square that suits these images, in pixels; 0: none.
    crop : {"pad", "resized"}
        How training images are cropped, see `load_dataset`.
    colour_jitter : float
        How much their colours are varied, see `load_dataset`.
    """

    name: str
    train_images: Images
    train_labels: Tensor
    test_images: Images
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True
    cutout: int = 0
    crop: str = "pad"
    colour_jitter: float = 0.0

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return self.train_images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.train_images.shape[2], self.train_images.shape[3]

    def augmentation(self, cutout: int | None = None) -> Augmentation:
        """Return the usual augmentation of these images.

        Padded crops come from an eighth of the height as padding: 4 pixels for 32 x 32. `cutout`
        replaces the data set's own side of the square.
        """
        resized = self.crop == "resized"
        return Augmentation(
            padding=0 if resized else self.size[0] // 8,
            flip=self.flip,
            cutout=self.cutout if cutout is None else cutout,
            resized=resized,
            colour_jitter=self.colour_jitter,
        )

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with labels and images on `device`.

        Images that are decoded when asked stay where they are.
        """
        stores = {
            name: store.to(device)
            for name in ("train_images", "test_images")
            if isinstance(store := getattr(self, name), Tensor)
        }
        return replace(
            self,
            **stores,
            train_labels=self.train_labels.to(device),
            test_labels=self.test_labels.to(device),
        )


def load_dataset(
    name: str,
    *,
    root: str | Path = "data",
    download: bool = False,
    image_size: int | None = None,
    memory_budget: int = 4 * 2**30,
    crop: str = "pad",
    colour_jitter: float = 0.0,
    corrupt: str = "refuse",
    test_only: bool = False,
) -> Dataset:
    """Load a data set by name, or a folder of images.

    Parameters
    ----------
    name : str
        "digits" (scikit-learn's 8 x 8 handwritten digits, part of that package: 1,437 to train,
        360 to test, always the same ones), "cifar10", "cifar100", or the path of a directory in
        torchvision's ImageFolder layout. That is `train/CLASS/*` with the held-out images in
        `test/CLASS/*` or, where there is no `test`, in `val`, `validation` or `valid`. Where both
        are there, `test` is the test data and the validation folder is left alone.
    root : str or Path
        Where CIFAR is kept, as torchvision keeps it.
    download : bool
        Whether to fetch CIFAR if it is not there.
    image_size : int, optional
        Side of the square images that are made of a folder's: RGB, the centred square of each,
        resized by antialiased bilinear interpolation unless it has that size already. The default
        is the median shorter side of some of the training images, but at most 64. Orientation
        tags are not applied.
    memory_budget : int
        In bytes. A folder that would take more, decoded, is decoded batch by batch instead.
    crop : {"pad", "resized"}
        How a folder's images become squares. "pad" is as said under `image_size`, and training
        crops them after padding (CIFAR's way). "resized" is ImageNet's way: training takes random
        parts of the original images, resized (`isnas.tasks.augmentation.random_part`), the test their
        centre: 7/8 of the shorter side. Then all images are decoded batch by batch, and there is
        no cut-out unless asked for.
    colour_jitter : float
        Largest relative change of brightness, contrast and saturation in training; that of the
        hue is half as much, in turns of the colour circle. 0: none. It needs crop="resized".
    corrupt : {"refuse", "skip"}
        What to do with a folder's images that cannot be decoded. "skip" warns of each once, by its
        path, and leaves it out; where images are decoded batch by batch, the next readable one of
        its class (the first after the last) stands in for it. Files that the system cannot read
        are refused in either case.
    test_only : bool
        Whether only the test images are wanted. Then a folder's training images are not looked
        for, but for their size where `image_size` is not given: there are none in the data set,
        and its mean is 0 and its standard deviation 1.

    Returns
    -------
    Dataset
        On the CPU.

    Raises
    ------
    UserError
        If there is no such data set; CIFAR is missing, damaged or cannot be fetched; or the folder
        is not as described: a split or its classes missing, a class empty, a single class, classes
        that differ between the splits, an image that cannot be read. A folder that is decoded
        batch by batch shows the last of these only when the image is used.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size must be 1 or more pixels, got {image_size}")
    for option, value, allowed in (("crop", crop, CROPS), ("corrupt", corrupt, CORRUPT)):
        if value not in allowed:
            raise UserError(f"{option} must be one of {', '.join(allowed)}, got {value!r}")
    if colour_jitter and crop != "resized":
        raise UserError(f"colour_jitter={colour_jitter} needs crop='resized', got crop={crop!r}")
    if name in NAMES:
        if crop != "pad":
            raise UserError(f"crop {crop!r} is for folders of images, got {name}")
        dataset = _digits() if name == "digits" else _cifar(name, Path(root), download)
        if image_size not in (None, dataset.size[0]):
            raise UserError(
                f"image_size is for folders of images: those of {name} are "
                f"{dataset.size[0]} x {dataset.size[1]}, got {image_size}"
            )
        return dataset
    return _folder(
        name, image_size, memory_budget, crop, colour_jitter, corrupt == "skip", test_only
    )


def split_indices(n: int, fraction: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Divide `range(n)` at random, for instance in one half for weights and one for the code.

    Parameters
    ----------
    n : int
        Number of training images.
    fraction : float
        Share of the first part.
    seed : int

    Returns
    -------
    two Tensors, int64
        Disjoint, together everything, each in ascending order; round(fraction * n) in the first.

    Raises
    ------
    UserError
        If one part would be empty.
    """
    first = round(fraction * n)
    if not 0 < first < n:
        raise UserError(f"cannot split {n} images: a part of {fraction:g} leaves one part empty")
    order = torch.randperm(n, generator=generator(seed, "split"))
    return order[:first].sort().values, order[first:].sort().values


class Batches:
    """Mini-batches as a function of (seed, stream, epoch, step, part) and of nothing else.

    So a resumed run needs no state of its loader, and two streams do not disturb each other. On
    CUDA nothing waits for the device. Move the data set to the device first (`Dataset.to`), and
    only indices are sent; otherwise each batch is, as uint8.

    Where several processes work together each gets its part of every batch, image for image as it
    is in the whole one.

    Parameters
    ----------
    dataset : Dataset
    split : {"train", "test"}
    batch_size : int
        Images of all parts together.
    indices : Tensor, (n,) int64, optional
        Use these images of the split only, such as a part from `split_indices`.
    seed : int
    stream : str
        Name of this stream of random numbers.
    augment : bool or Augmentation, optional
        Whether, or how, images are varied. True is `dataset.augmentation(cutout)`.
        By default True for "train" and False for "test".
    cutout : int, optional
        Side of the cut-out square instead of the data set's, in pixels.
    device : torch.device or str, optional
        Of the batches; by default where the labels are.
    shuffle : bool, optional
        Whether each epoch has its own random order. By default for "train" only.
    drop_last : bool, optional
        Whether to leave out the incomplete batch at the end. With fewer images than `batch_size`
        the one batch has them all. By default for "train" only.
    part : (int, int), optional
        Yield the part of this process, counted from 0, of so many: the images of all of them, in
        order, are the batch. By default what this process has to do, see `isnas.runtime.processes`.

    Raises
    ------
    UserError
        If an argument is out of its range, or `cutout` is given without `augment=True`; if parts of
        batches would differ in size, other than those of an incomplete batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str = "train",
        *,
        batch_size: int,
        indices: Tensor | None = None,
        seed: int = 0,
        stream: str = "train",
        augment: bool | Augmentation | None = None,
        cutout: int | None = None,
        device: torch.device | str | None = None,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        part: tuple[int, int] | None = None,
    ) -> None:
        if split not in ("train", "test"):
            raise UserError(f"split must be 'train' or 'test', got {split!r}")
        if batch_size < 1:
            raise UserError(f"batch_size must be 1 or more, got {batch_size}")
        training = split == "train"
        augment = training if augment is None else augment
        if cutout is not None and augment is not True:
            raise UserError(f"cutout={cutout} needs augment=True, got augment={augment}")
        self._images = dataset.train_images if training else dataset.test_images
        labels = dataset.train_labels if training else dataset.test_labels
        self.indices = _checked_indices(indices, len(labels))
        self.device = torch.device(labels.device if device is None else device)
        self.batch_size = batch_size
        self.seed = seed
        self.stream = stream
        self.shuffle = training if shuffle is None else shuffle
        self.augmentation = dataset.augmentation(cutout) if augment is True else augment or None
        if self._resized and isinstance(self._images, Tensor):
            raise UserError("random parts, resized, need images that are decoded batch by batch")
        drop_last = training if drop_last is None else drop_last
        complete, rest = divmod(len(self.indices), batch_size)
        self._steps = complete + (rest > 0 and (complete == 0 or not drop_last))
        self.part = (rank(), processes()) if part is None else part
        if drop_last:
            check_batch_size(min(batch_size, len(self.indices)), self.part[1])
        # Labels are kept beside the images, so that the same indices serve for both.
        self._source = self._images.device if isinstance(self._images, Tensor) else "cpu"
        self._labels = labels.to(self._source)
        self._mean, self._std = (
            torch.tensor(each, dtype=torch.float32, device=self.device)[:, None, None]  # (C, 1, 1)
            for each in (dataset.mean, dataset.std)
        )

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of an epoch, from step `start` on.

        Parameters
        ----------
        epoch : int
        start : int
            Steps to leave out; the others are as if these had been drawn.

        Returns
        -------
        iterator of (x, y)
            x (B, C, H, W) float32, normalised; y (B,) int64; on `device`.

        Raises
        ------
        UserError
            If `start` is not between 0 and the number of steps.
        """
        if not 0 <= start <= len(self):
            raise UserError(f"start must be 0 to {len(self)}, the steps of an epoch; got {start}")
        return self._iterate(epoch, range(start, len(self)))

    def _iterate(self, epoch: int, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.indices
        if self.shuffle:
            # Always drawn on the CPU: the order is the same on every device.
            drawn = generator(self.seed, self.stream, "order", epoch)
            order = order[torch.randperm(len(order), generator=drawn)]
        fetch = partial(self._fetch, epoch, _sent(order, self._source))
        in_memory = isinstance(self._images, Tensor)
        fetched = map(fetch, steps) if in_memory else _one_ahead(fetch, steps)
        for step, (images, labels) in zip(steps, fetched, strict=True):
            yield self._varied(_sent(images, self.device), epoch, step), _sent(labels, self.device)

    @property
    def _resized(self) -> bool:
        return self.augmentation is not None and self.augmentation.resized

    def _fetch(self, epoch: int, order: Tensor, step: int) -> tuple[Tensor, Tensor]:
        indices = order[step * self.batch_size : (step + 1) * self.batch_size]
        indices = indices[part_of(len(indices), *self.part)]
        if isinstance(self._images, Tensor):
            # Copies whole images: on a CPU ten times as fast as general indexing.
            return self._images.index_select(0, indices), self._labels.index_select(0, indices)
        if self._resized:
            names = (self.seed, self.stream, "resized crop", epoch)
            images = self._images.parts(indices, self.augmentation.colour_jitter, *names)
        else:
            images = self._images[indices]
        return images, self._labels.index_select(0, indices)

    def _varied(self, images: Tensor, epoch: int, step: int) -> Tensor:
        if self.augmentation is None:
            return normalise(images, self._mean, self._std)
        drawn = generator(self.seed, self.stream, "augment", epoch, step, device=images.device)
        whole = min(self.batch_size, len(self.indices) - step * self.batch_size)
        part = part_of(whole, *self.part)
        return self.augmentation(images, drawn, self._mean, self._std, whole=whole, part=part)


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


class UnreadableImage(UserError):
    """A file that is no image, or a damaged one. Files that the system cannot read are none of these."""


@dataclass(frozen=True)
class LazyImages:
    """Image files that are decoded each time they are asked for.

    Attributes
    ----------
    paths : sequence of str
    image_size : int
        Side of the square RGB images.
    crop : {"pad", "resized"}
        How they become squares, see `load_dataset`.
    starts : tuple of int, optional
        Where the classes begin among the paths. If given, the next readable image of its class
        stands in for one that cannot be decoded, with one warning; otherwise it is refused.
    """

    paths: Sequence[str]
    image_size: int
    crop: str = "pad"
    starts: tuple[int, ...] | None = None
    _corrupt: dict[int, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def shape(self) -> torch.Size:
        """(N, 3, H, W)."""
        return torch.Size((len(self.paths), 3, self.image_size, self.image_size))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (B, 3, H, W); UserError if one is unreadable."""
        frame = _square if self.crop == "pad" else _centre
        return self._decoded(indices, lambda i: partial(frame, size=self.image_size))

    def parts(self, indices: Tensor, colour_jitter: float, seed: int, *names: str | int) -> Tensor:
        """Return random parts of the images, resized, as uint8 (B, 3, H, W).

        Each is a function of the seed, the names and the image's position among all, and of
        nothing else: neither of the other images of the batch nor of its place there.
        """

        def frame(i: int) -> Callable[[Image.Image], Image.Image]:
            drawn = random.Random(seed_of(seed, *names, i))
            return partial(
                _random_part, size=self.image_size, drawn=drawn, colour_jitter=colour_jitter
            )

        return self._decoded(indices, frame)

    def _decoded(
        self, indices: Tensor, frame: Callable[[int], Callable[[Image.Image], Image.Image]]
    ) -> Tensor:
        """Return the images as `frame` of their position makes them squares."""
        wanted = indices.tolist()
        found: list[str] = []

        def pixels(k: int) -> np.ndarray:
            i = wanted[k]
            for j in self._in_turn(i):
                try:
                    return _pixels(self.paths[j], frame(i))
                except UnreadableImage as error:
                    if self.starts is None:
                        raise
                    message = str(error)
                    # Also where several threads come upon it, one of them has its message kept.
                    if self._corrupt.setdefault(j, message) is message:
                        found.append(message)
            raise UserError(f"no readable image of its class stands in for {self.paths[i]}")

        images = _filled(len(wanted), self.image_size, pixels)
        for message in sorted(found):
            warnings.warn(f"{message}: another of its class stands in for it", stacklevel=3)
        return images

    def _in_turn(self, i: int) -> Iterator[int]:
        """Yield the position `i`, and then those that may stand in for it."""
        if self.starts is None:
            yield i
            return
        label = bisect_right(self.starts, i) - 1
        first = self.starts[label]
        end = self.starts[label + 1] if label + 1 < len(self.starts) else len(self)
        for j in chain(range(i, end), range(first, i)):
            if j not in self._corrupt:
                yield j


def decode(paths: Sequence[str], image_size: int) -> Tensor:
    """Decode image files with all processors.

    Parameters
    ----------
    paths : sequence of str
    image_size : int
        Side of the square images; see `load_dataset`.

    Returns
    -------
    Tensor, (N, 3, image_size, image_size) uint8

    Raises
    ------
    UserError
        If an image cannot be read; it names the first such file.
    """
    frame = partial(_square, size=image_size)
    return _filled(len(paths), image_size, lambda i: _pixels(paths[i], frame))


def decode_readable(paths: Sequence[str], image_size: int) -> tuple[Tensor, Tensor]:
    """Decode image files with all processors; warn of those that cannot be decoded, and leave them out.

    Parameters
    ----------
    paths, image_size
        As in `decode`.

    Returns
    -------
    images : Tensor, (K, 3, image_size, image_size) uint8
    kept : Tensor, (K,) int64
        Their positions among the paths, ascending.
    """
    frame = partial(_square, size=image_size)
    corrupt: dict[int, str] = {}

    def pixels(i: int) -> np.ndarray:
        try:
            return _pixels(paths[i], frame)
        except UnreadableImage as error:
            corrupt[i] = str(error)
            return np.zeros((image_size, image_size, 3), dtype=np.uint8)

    images = _filled(len(paths), image_size, pixels)
    for i in sorted(corrupt):
        warnings.warn(f"{corrupt[i]}: left out", stacklevel=2)
    kept = torch.tensor([i for i in range(len(paths)) if i not in corrupt], dtype=torch.int64)
    return (images[kept] if corrupt else images), kept


def _filled(n: int, size: int, pixels: Callable[[int], np.ndarray]) -> Tensor:
    """Return (n, 3, size, size) uint8 of what `pixels` makes of 0 to n - 1, with all processors."""
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    target = images.numpy()
    # Threads, not processes: Pillow releases the interpreter while it decodes, and the result need
    # not be copied (benchmarks/loading.py). A chunk is long enough to make the cost of handing it
    # over negligible, and short enough that no thread waits long for the others at the end.
    workers = min(32, _processors())
    chunk = max(1, min(64, n // (16 * workers)))

    def fill(start: int) -> None:
        for i in range(start, min(start + chunk, n)):
            target[i] = pixels(i).transpose(2, 0, 1)

    pool = ThreadPoolExecutor(workers)
    try:
        for _ in pool.map(fill, range(0, n, chunk)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return images


def _processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pixels(path: str, frame: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Return an image file as the square RGB image that `frame` makes of it, (size, size, 3) uint8."""
    try:
        with Image.open(path) as image:
            return np.asarray(frame(image))
    except UnidentifiedImageError:
        raise UnreadableImage(f"not a readable image: {path} (unknown format)") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        # An error with a number is the system's: the file is missing, forbidden or on a bad disk.
        of_system = getattr(error, "errno", None) is not None or isinstance(error, MemoryError)
        kind = UserError if of_system else UnreadableImage
        raise kind(f"not a readable image: {path} ({reason})") from error


def _square(image: Image.Image, size: int) -> Image.Image:
    """Return the centred square of the image, resized unless it has that size already."""
    picture = _rgb(image)
    if picture.size == (size, size):
        return picture
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    # Pillow's bilinear filter widens when it shrinks: that is the antialiasing.
    return picture.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )


def _centre(image: Image.Image, size: int) -> Image.Image:
    """Return what resizing the shorter side to 8/7 `size` and then cropping the centre return.

    That is 256 and 224 pixels, as usual for ImageNet. Only the pixels that are kept are computed.
    """
    width, height = image.size
    shorter, resized = min(width, height), round(size * 8 / 7)
    # As torchvision rounds: so the result is that of its Resize and CenterCrop, to a level of 255.
    new = [int(resized * side / shorter) for side in (width, height)]
    left, top = (round((side - size) / 2) for side in new)
    x, y = width / new[0], height / new[1]
    box = _drafted(image, (left * x, top * y, (left + size) * x, (top + size) * y), size)
    return _rgb(image).resize((size, size), Image.Resampling.BILINEAR, box=box)


def _random_part(
    image: Image.Image, size: int, drawn: random.Random, colour_jitter: float
) -> Image.Image:
    """Return a random part of the image, resized, its colours varied."""
    left, top, width, height = random_part(*image.size, drawn)
    whole = image.size
    box = _drafted(image, (left, top, left + width, top + height), size)
    if image.size == whole:
        # Cropped first, as torchvision does it: beyond its edges the part knows nothing.
        picture = _rgb(image.crop(box)).resize((size, size), Image.Resampling.BILINEAR)
    else:
        picture = _rgb(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return jittered(picture, colour_jitter, drawn) if colour_jitter else picture


def _drafted(
    image: Image.Image, box: tuple[float, float, float, float], size: int
) -> tuple[float, float, float, float]:
    """Let a JPEG's decoder halve the image (2, 4 or 8 times less), as far as the box keeps enough pixels.

    Returns
    -------
    tuple
        The box in the image as it will be decoded.
    """
    width, height = image.size
    shrink = min(box[2] - box[0], box[3] - box[1]) / (DRAFT_MARGIN * size)
    if shrink >= 2:
        image.draft(None, (math.ceil(width / shrink), math.ceil(height / shrink)))
    x, y = image.width / width, image.height / height
    if (x, y) == (1, 1):
        return box
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _rgb(image: Image.Image) -> Image.Image:
    """Return the image with three channels of 8 bits; transparency is dropped."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        # 16-bit greyscale; Pillow's own conversion would clip at 255 instead of scaling.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels of more than 16 bits")
        image = Image.fromarray((values // 256).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way.
    return image.convert("RGB")


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
    mean, std = _statistics(train_x)
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
    mean, std = _statistics(train_x)
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
    image_size: int | None,
    memory_budget: int,
    crop: str,
    colour_jitter: float,
    skip: bool,
    test_only: bool,
) -> Dataset:
    place = Path(name).expanduser()
    layout = f"train/CLASS/* and {'/, '.join(HELD_OUT_FOLDERS[:-1])}/ or {HELD_OUT_FOLDERS[-1]}/"
    if not place.is_dir():
        problem = "not a directory" if place.exists() else "no such data set or directory"
        raise UserError(
            f"{problem}: {name}; expected {', '.join(NAMES)} or a directory with {layout}"
        )
    needs_train = not test_only or image_size is None
    if needs_train and not (place / "train").is_dir():
        raise UserError(f"no folder {place / 'train'}: expected {layout} under {place}")
    held_out = next((each for each in HELD_OUT_FOLDERS if (place / each).is_dir()), None)
    if held_out is None:
        raise UserError(f"no held-out images in {place}: expected {layout} there")
    test = _scanned(place / held_out)
    train = _scanned(place / "train") if needs_train else test
    if train.classes != test.classes:
        different = sorted(set(train.classes) ^ set(test.classes))
        shown = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
        raise UserError(
            f"{place / 'train'} and {place / held_out} must have the same classes; "
            f"in one only: {shown}"
        )
    if len(train.classes) < 2:
        raise UserError(
            f"{train.place} has one class only ({train.classes[0]}): expected 2 or more"
        )
    if image_size is None:
        image_size = min(64, _median_side(train.paths, skip))
    if test_only:
        train = replace(train, paths=Paths(place), counts=(0,) * len(train.classes))
    images = len(train.paths) + len(test.paths)
    lazy = crop == "resized" or images * 3 * image_size**2 > memory_budget
    (train_images, train_labels), (test_images, test_labels) = (
        _read(split, image_size, crop, lazy, skip) for split in (train, test)
    )
    mean, std = ((0.0,) * 3, (1.0,) * 3) if test_only else _statistics(train_images)
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
    )


@dataclass(frozen=True)
class _Split:
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


def _scanned(split: Path) -> _Split:
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
    return _Split(split, tuple(classes), paths, tuple(counts))


def _read(
    split: _Split, image_size: int, crop: str, lazy: bool, skip: bool
) -> tuple[Images, Tensor]:
    """Return a split's images and labels."""
    counts = torch.tensor(split.counts)
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    if lazy:
        starts = tuple((counts.cumsum(0) - counts).tolist()) if skip else None
        return LazyImages(split.paths, image_size, crop, starts), labels
    if not skip:
        return decode(split.paths, image_size), labels
    images, kept = decode_readable(split.paths, image_size)
    labels = labels[kept]
    left = labels.bincount(minlength=len(counts))
    for each, before, after in zip(split.classes, split.counts, left.tolist(), strict=True):
        if before and not after:
            raise UserError(f"no readable images in {split.place / each}")
    return images, labels


def _median_side(paths: Sequence[str], skip: bool) -> int:
    """Return the median shorter side of up to 100 of the images, taken at even distances."""
    sides = []
    for i in _spread(len(paths), 100).tolist():
        try:
            with Image.open(paths[i]) as image:  # reads no more than the header
                sides.append(min(image.size))
        except Exception as error:
            if not skip:
                raise UserError(f"not a readable image: {paths[i]}") from error
    if not sides:
        raise UserError(f"none of the images that were tried can be read, {paths[0]} among them")
    return sorted(sides)[len(sides) // 2]


def _statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of pixel values between 0 and 1.

    Of all images in memory, or of 2,000 at even distances of those that have to be decoded.
    A constant channel gets the standard deviation 1, so that dividing by it is harmless.
    """
    pixels = images if isinstance(images, Tensor) else images[_spread(len(images), 2000)]
    mean, std = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in pixels.unbind(1):
        # Counts are exact, need no float copy of the images, and any device gives the same.
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        centre = (share * values).sum()
        deviation = (share * (values - centre).square()).sum().sqrt()
        mean.append(float(centre))
        std.append(float(deviation) if deviation > 0 else 1.0)
    return tuple(mean), tuple(std)


def _spread(n: int, most: int) -> Tensor:
    """Return up to `most` positions of `range(n)` at even distances."""
    count = min(n, most)
    return torch.arange(count) * n // count


def _checked_indices(indices: Tensor | None, n: int) -> Tensor:
    """Return the indices on the CPU, by default all `n`; UserError if one is not in range(n)."""
    if indices is None:
        return torch.arange(n)
    indices = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
    if indices.ndim != 1 or len(indices) == 0:
        raise UserError(f"indices must be a list of one or more, got shape {tuple(indices.shape)}")
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= n:
        raise UserError(f"indices must be 0 to {n - 1}, got {low} to {high}")
    return indices


def _sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return the tensor on `device`, without waiting for a CUDA device."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _one_ahead(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Like `map`, but a thread is at the next item while the caller uses this one's result."""
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for item in items:
            following = pool.submit(function, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
