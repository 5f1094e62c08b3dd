"""Data sets of images, and their mini-batches.

Images stay uint8 in memory, on any device; a batch is varied and normalised only when it is used.
Folders whose decoded images do not fit the memory are decoded batch by batch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from isnas.augmentation import Augmentation, normalise
from isnas.errors import UserError
from isnas.randomness import generator

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

NAMES = ("digits", "cifar10", "cifar100")
HELD_OUT_FOLDERS = ("test", "val", "validation", "valid")

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

        Crops come from an eighth of the height as padding: 4 pixels for 32 x 32. `cutout`
        replaces the data set's own side of the square.
        """
        return Augmentation(
            padding=self.size[0] // 8,
            flip=self.flip,
            cutout=self.cutout if cutout is None else cutout,
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
    if name in NAMES:
        dataset = _digits() if name == "digits" else _cifar(name, Path(root), download)
        if image_size not in (None, dataset.size[0]):
            raise UserError(
                f"image_size is for folders of images: those of {name} are "
                f"{dataset.size[0]} x {dataset.size[1]}, got {image_size}"
            )
        return dataset
    return _folder(name, image_size, memory_budget)


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
    """Mini-batches as a function of (seed, stream, epoch, step) and of nothing else.

    So a resumed run needs no state of its loader, and two streams do not disturb each other. On
    CUDA nothing waits for the device. Move the data set to the device first (`Dataset.to`), and
    only indices are sent; otherwise each batch is, as uint8.

    Parameters
    ----------
    dataset : Dataset
    split : {"train", "test"}
    batch_size : int
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

    Raises
    ------
    UserError
        If an argument is out of its range, or `cutout` is given without `augment=True`.
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
        drop_last = training if drop_last is None else drop_last
        complete, rest = divmod(len(self.indices), batch_size)
        self._steps = complete + (rest > 0 and (complete == 0 or not drop_last))
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
        fetch = partial(self._fetch, _sent(order, self._source))
        in_memory = isinstance(self._images, Tensor)
        fetched = map(fetch, steps) if in_memory else _one_ahead(fetch, steps)
        for step, (images, labels) in zip(steps, fetched, strict=True):
            yield self._varied(_sent(images, self.device), epoch, step), _sent(labels, self.device)

    def _fetch(self, order: Tensor, step: int) -> tuple[Tensor, Tensor]:
        indices = order[step * self.batch_size : (step + 1) * self.batch_size]
        if isinstance(self._images, Tensor):
            # Copies whole images: on a CPU ten times as fast as general indexing.
            return self._images.index_select(0, indices), self._labels.index_select(0, indices)
        return self._images[indices], self._labels.index_select(0, indices)

    def _varied(self, images: Tensor, epoch: int, step: int) -> Tensor:
        if self.augmentation is None:
            return normalise(images, self._mean, self._std)
        drawn = generator(self.seed, self.stream, "augment", epoch, step, device=images.device)
        return self.augmentation(images, drawn, self._mean, self._std)


@dataclass(frozen=True)
class LazyImages:
    """Image files that are decoded each time they are asked for.

    Attributes
    ----------
    paths : tuple of str
    image_size : int
        Side of the square RGB images.
    """

    paths: tuple[str, ...]
    image_size: int

    @property
    def shape(self) -> torch.Size:
        """(N, 3, H, W)."""
        return torch.Size((len(self.paths), 3, self.image_size, self.image_size))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (B, 3, H, W); UserError if one is unreadable."""
        return decode([self.paths[i] for i in indices.tolist()], self.image_size)


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
    images = torch.empty(len(paths), 3, image_size, image_size, dtype=torch.uint8)
    target = images.numpy()
    # Threads, not processes: Pillow releases the interpreter while it decodes, and the result
    # need not be copied. A chunk is long enough to make the cost of handing it over negligible.
    workers = min(32, os.cpu_count() or 1)
    chunk = max(1, min(64, len(paths) // (4 * workers)))

    def fill(start: int) -> None:
        for i, path in enumerate(paths[start : start + chunk], start):
            target[i] = _pixels(path, image_size).transpose(2, 0, 1)

    pool = ThreadPoolExecutor(workers)
    try:
        for _ in pool.map(fill, range(0, len(paths), chunk)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return images


def _pixels(path: str, size: int) -> np.ndarray:
    """Return an image file as RGB, (size, size, 3) uint8."""
    try:
        with Image.open(path) as image:
            picture = _rgb(image)
            if picture.size != (size, size):
                side = min(picture.size)
                left, top = (picture.width - side) // 2, (picture.height - side) // 2
                # Pillow's bilinear filter widens when it shrinks: that is the antialiasing.
                picture = picture.resize(
                    (size, size),
                    Image.Resampling.BILINEAR,
                    box=(left, top, left + side, top + side),
                )
            return np.asarray(picture)
    except UnidentifiedImageError:
        raise UserError(f"not a readable image: {path} (unknown format)") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"not a readable image: {path} ({reason})") from error


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


def _folder(name: str, image_size: int | None, memory_budget: int) -> Dataset:
    place = Path(name).expanduser()
    layout = f"train/CLASS/* and {'/, '.join(HELD_OUT_FOLDERS[:-1])}/ or {HELD_OUT_FOLDERS[-1]}/"
    if not place.is_dir():
        problem = "not a directory" if place.exists() else "no such data set or directory"
        raise UserError(
            f"{problem}: {name}; expected {', '.join(NAMES)} or a directory with {layout}"
        )
    if not (place / "train").is_dir():
        raise UserError(f"no folder {place / 'train'}: expected {layout} under {place}")
    held_out = next((each for each in HELD_OUT_FOLDERS if (place / each).is_dir()), None)
    if held_out is None:
        raise UserError(f"no held-out images in {place}: expected {layout} there")
    train, test = _scanned(place / "train"), _scanned(place / held_out)
    if train.classes != test.classes:
        different = sorted(set(train.classes) ^ set(test.classes))
        shown = ", ".join(different[:5]) + (", ..." if len(different) > 5 else "")
        raise UserError(
            f"{place / 'train'} and {place / held_out} must have the same classes; "
            f"in one only: {shown}"
        )
    if len(train.classes) < 2:
        raise UserError(
            f"{place / 'train'} has one class only ({train.classes[0]}): expected 2 or more"
        )
    train_paths, test_paths = (tuple(path for path, _ in part.samples) for part in (train, test))
    if image_size is None:
        image_size = min(64, _median_side(train_paths))
    lazy = (len(train_paths) + len(test_paths)) * 3 * image_size**2 > memory_budget
    load = LazyImages if lazy else decode
    train_images, test_images = load(train_paths, image_size), load(test_paths, image_size)
    mean, std = _statistics(train_images)
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=torch.tensor(train.targets),
        test_images=test_images,
        test_labels=torch.tensor(test.targets),
        classes=tuple(train.classes),
        mean=mean,
        std=std,
        flip=True,
        cutout=image_size // 2,
    )


def _scanned(split: Path) -> ImageFolder:
    """Return the list of a split's files and classes; each class has at least one image."""
    from torchvision.datasets import ImageFolder  # as above
    from torchvision.datasets.folder import IMG_EXTENSIONS

    try:
        if not any(entry.is_dir() for entry in split.iterdir()):
            raise UserError(f"no classes in {split}: expected one folder of images for each")
        folder = ImageFolder(split, allow_empty=True)
    except OSError as error:
        raise UserError(f"cannot read the folder {split}: {error.strerror or error}") from error
    filled = set(folder.targets)
    for label, each in enumerate(folder.classes):
        if label not in filled:
            endings = " ".join(IMG_EXTENSIONS)
            raise UserError(f"no images in {split / each}: expected files ending in {endings}")
    return folder


def _median_side(paths: Sequence[str]) -> int:
    """Return the median shorter side of up to 100 of the images, taken at even distances."""
    sides = []
    for i in _spread(len(paths), 100).tolist():
        try:
            with Image.open(paths[i]) as image:  # reads no more than the header
                sides.append(min(image.size))
        except Exception as error:
            raise UserError(f"not a readable image: {paths[i]}") from error
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
