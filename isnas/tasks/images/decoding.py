"""Image files become square arrays of pixels."""

from __future__ import annotations

import math
import os
import random
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ...runtime.errors import UserError
from ...runtime.randomness import seed_of
from .augmentation import jittered, random_part

DRAFT_MARGIN = 2
"""A JPEG decoder may shrink an image itself while this many times the pixels wanted remain along each side."""


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
        frame = square if self.crop == "pad" else centre
        return self._decoded(indices, lambda i: partial(frame, size=self.image_size))

    def parts(self, indices: Tensor, colour_jitter: float, seed: int, *names: str | int) -> Tensor:
        """Return random parts of the images, resized, as uint8 (B, 3, H, W).

        Each is a function of the seed, the names and the image's position among all, and of
        nothing else: neither of the other images of the batch nor of its place there.
        """

        def frame(i: int) -> Callable[[Image.Image], Image.Image]:
            drawn = random.Random(seed_of(seed, *names, i))
            return partial(
                random_crop, size=self.image_size, drawn=drawn, colour_jitter=colour_jitter
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
                    return read_pixels(self.paths[j], frame(i))
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
    frame = partial(square, size=image_size)
    return _filled(len(paths), image_size, lambda i: read_pixels(paths[i], frame))


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
    frame = partial(square, size=image_size)
    corrupt: dict[int, str] = {}

    def pixels(i: int) -> np.ndarray:
        try:
            return read_pixels(paths[i], frame)
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


def read_pixels(path: str, frame: Callable[[Image.Image], Image.Image]) -> np.ndarray:
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


def square(image: Image.Image, size: int) -> Image.Image:
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


def centre(image: Image.Image, size: int) -> Image.Image:
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


def random_crop(
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
