"""Image files become square arrays of pixels.

An image is turned upright as its orientation tag says, and what is transparent becomes white.
"""

from __future__ import annotations

import math
import os
import random
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from ...runtime.errors import UserError
from ...runtime.randomness import seed_of
from .augmentation import jittered, random_part
from .folders import listed, printable

DRAFT_MARGIN = 2
"""A JPEG decoder may shrink an image itself while this many times the pixels wanted remain along each side."""

Colour = Literal["rgb", "grey"]
"""Whether images have three channels or one."""

MODES = {"rgb": "RGB", "grey": "L"}
"""Pillow's mode of each."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turns that make an image upright, by its orientation tag (EXIF 2.3, tag 0x0112); Pillow turns counter-clockwise."""

SIDEWAYS = {TURNS[tag] for tag in (5, 6, 7, 8)}
"""Those that exchange width and height."""

WHITE_16 = 65535
"""White among 16 bits."""


class Images(Protocol):
    """A store of N images: a uint8 tensor (N, C, H, W), or what decodes them when asked."""

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` ((B,) int64) as uint8 (B, C, H, W)."""


class UnreadableImage(UserError):
    """An image that cannot be read.

    Parameters
    ----------
    path : str
    reason : str
    of_system : bool
        Whether the system cannot read the file: it is missing, forbidden, or on a disk that fails. Otherwise it is no
        image, or a damaged one.
    """

    def __init__(self, path: str, reason: str, of_system: bool = False) -> None:
        super().__init__(f"not a readable image: {printable(path)} ({printable(reason)})")
        self.path = path
        self.reason = reason
        self.of_system = of_system


@dataclass(frozen=True)
class LazyImages:
    """Image files that are decoded each time they are asked for.

    Attributes
    ----------
    paths : sequence of str
    image_size : int
        Side of the square images.
    crop : {"pad", "resized"}
        How they become squares, see `isnas.tasks.images.load_dataset`.
    starts : tuple of int, optional
        Where the classes begin among the paths. If given, the next readable image of its class
        stands in for one that cannot be decoded, with one warning; otherwise it is refused.
    colour : {"rgb", "grey"}
        Whether they have three channels or one.
    """

    paths: Sequence[str]
    image_size: int
    crop: str = "pad"
    starts: tuple[int, ...] | None = None
    colour: Colour = "rgb"
    _corrupt: dict[int, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self.paths), *shape_of(self.image_size, self.colour)))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (B, C, H, W); UserError if one is unreadable."""
        frame = square if self.crop == "pad" else centre
        return self._decoded(
            indices, lambda i: partial(frame, size=self.image_size, colour=self.colour)
        )

    def parts(self, indices: Tensor, colour_jitter: float, seed: int, *names: str | int) -> Tensor:
        """Return random parts of the images, resized, as uint8 (B, C, H, W).

        Each is a function of the seed, the names and the image's position among all, and of
        nothing else: neither of the other images of the batch nor of its place there.
        """

        def frame(i: int) -> Callable[[Image.Image], Image.Image]:
            return partial(
                random_crop,
                size=self.image_size,
                drawn=random.Random(seed_of(seed, *names, i)),
                colour_jitter=colour_jitter,
                colour=self.colour,
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
                    if error.of_system or self.starts is None:
                        raise
                    problem = str(error)
                    # Also where several threads come upon it, one of them has its message kept.
                    if self._corrupt.setdefault(j, problem) is problem:
                        found.append(problem)
            raise UserError(
                f"no readable image of its class stands in for {printable(self.paths[i])}"
            )

        images, failures = filled(len(wanted), self.image_size, self.colour, pixels)
        if failures:
            raise _refusal(failures)
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


def decode(
    paths: Sequence[str], image_size: int, *, colour: Colour = "rgb", skip: bool = False
) -> tuple[Tensor, Tensor]:
    """Decode image files with all processors.

    Parameters
    ----------
    paths : sequence of str
    image_size : int
        Side of the square images; see `isnas.tasks.images.load_dataset`.
    colour : {"rgb", "grey"}
        Whether the images have three channels or one.
    skip : bool
        Whether to leave out images that cannot be decoded, with a warning of each.

    Returns
    -------
    images : Tensor, (K, C, image_size, image_size) uint8
    kept : Tensor, (K,) int64
        Their positions among the paths, ascending.

    Raises
    ------
    UserError
        If images cannot be read, or, where those are left out, the system cannot read files; it
        names them all, up to ten.
    """
    frame = partial(square, size=image_size, colour=colour)
    images, failures = filled(
        len(paths), image_size, colour, lambda i: read_pixels(paths[i], frame)
    )
    refused = {i: error for i, error in failures.items() if not skip or error.of_system}
    if refused:
        raise _refusal(refused)
    for i in sorted(failures):
        warnings.warn(f"{failures[i]}: left out", stacklevel=2)
    kept = torch.tensor([i for i in range(len(paths)) if i not in failures], dtype=torch.int64)
    return (images[kept] if failures else images), kept


def shape_of(image_size: int, colour: Colour) -> tuple[int, int, int]:
    """Return (C, H, W) of square images."""
    return 3 if colour == "rgb" else 1, image_size, image_size


def _refusal(failures: Mapping[int, UserError]) -> UserError:
    """Return the error that names all these images, and what to do."""
    errors = [failures[i] for i in sorted(failures)]
    for error in errors:
        if not isinstance(error, UnreadableImage):
            return error
    can_skip = not any(error.of_system for error in errors)
    way_out = "; corrupt='skip' (--corrupt skip) does without" if can_skip else ""
    if len(errors) == 1:
        return UserError(f"{errors[0]}{way_out}")
    each = [f"{printable(error.path)} ({printable(error.reason)})" for error in errors]
    return UserError(f"{len(errors):,} images are not readable: {listed(each)}{way_out}")


def filled(
    n: int, size: int, colour: Colour, pixels: Callable[[int], np.ndarray]
) -> tuple[Tensor, dict[int, UserError]]:
    """Make images of 0 to n - 1 with all processors.

    Returns
    -------
    images : Tensor, (n, C, size, size) uint8
    failures : dict of int to UserError
        The errors of those for which `pixels` has raised one.
    """
    images = torch.empty(n, *shape_of(size, colour), dtype=torch.uint8)
    target = images.numpy()
    failures: dict[int, UserError] = {}
    # Threads, not processes: Pillow releases the interpreter while it decodes, and the result need
    # not be copied (benchmarks/loading.py). A chunk is long enough to make the cost of handing it
    # over negligible, and short enough that no thread waits long for the others at the end.
    workers = min(32, processors())
    chunk = max(1, min(64, n // (16 * workers)))

    def fill(start: int) -> None:
        for i in range(start, min(start + chunk, n)):
            try:
                target[i] = pixels(i).transpose(2, 0, 1)
            except UserError as error:
                failures[i] = error

    pool = ThreadPoolExecutor(workers)
    try:
        for _ in pool.map(fill, range(0, n, chunk)):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return images, failures


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_pixels(path: str, frame: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Return an image file as the square image that `frame` makes of it, (size, size, C) uint8.

    Raises
    ------
    UnreadableImage
        If it is no image, is damaged, or cannot be had.
    """
    try:
        with Image.open(path) as image:
            return np.atleast_3d(np.asarray(frame(image)))
    except UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        raise UnreadableImage(path, "empty file" if empty else "unknown format") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        # An error with a number is the system's: the file is missing, forbidden or on a bad disk.
        numbered = getattr(error, "errno", None) is not None
        reason = (numbered and error.strerror) or reason
        raise UnreadableImage(path, reason, numbered or isinstance(error, MemoryError)) from error


def square(image: Image.Image, size: int, colour: Colour = "rgb") -> Image.Image:
    """Return the centred square of the image, resized unless it has that size already."""
    picture = converted(upright(image), colour)
    if picture.size == (size, size):
        return picture
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    # Pillow's bilinear filter widens when it shrinks: that is the antialiasing.
    return picture.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )


def centre(image: Image.Image, size: int, colour: Colour = "rgb") -> Image.Image:
    """Return what resizing the shorter side to 8/7 `size` and then cropping the centre return.

    That is 256 and 224 pixels, as usual for ImageNet. Only the pixels that are kept are computed.
    """
    width, height = upright_size(image)
    shorter, resized = min(width, height), round(size * 8 / 7)
    # As torchvision rounds: so the result is that of its Resize and CenterCrop, to a level of 255.
    new = [int(resized * side / shorter) for side in (width, height)]
    left, top = (round((side - size) / 2) for side in new)
    x, y = width / new[0], height / new[1]
    picture, box = _drafted(image, (left * x, top * y, (left + size) * x, (top + size) * y), size)
    return converted(picture, colour).resize((size, size), Image.Resampling.BILINEAR, box=box)


def random_crop(
    image: Image.Image,
    size: int,
    drawn: random.Random,
    colour_jitter: float,
    colour: Colour = "rgb",
) -> Image.Image:
    """Return a random part of the image, resized, its colours varied."""
    whole = upright_size(image)
    left, top, width, height = random_part(*whole, drawn)
    picture, box = _drafted(image, (left, top, left + width, top + height), size)
    if picture.size == whole:
        # Cropped first, as torchvision does it: beyond its edges the part knows nothing.
        part = converted(picture.crop(box), colour)
        part = part.resize((size, size), Image.Resampling.BILINEAR)
    else:
        part = converted(picture, colour)
        part = part.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return jittered(part, colour_jitter, drawn) if colour_jitter else part


def _drafted(
    image: Image.Image, box: tuple[float, float, float, float], size: int
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """Let a JPEG's decoder halve the image (2, 4 or 8 times less), as far as the box keeps enough pixels.

    Returns
    -------
    image : Image
        Upright, decoded with so many pixels.
    box : tuple
        The box there.
    """
    width, height = upright_size(image)
    shrink = min(box[2] - box[0], box[3] - box[1]) / (DRAFT_MARGIN * size)
    if shrink >= 2:
        image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
    picture = upright(image)
    x, y = picture.width / width, picture.height / height
    if (x, y) == (1, 1):
        return picture, box
    return picture, (box[0] * x, box[1] * y, box[2] * x, box[3] * y)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return what makes an opened image upright; None where it is upright, or does not say so."""
    if image.format not in ("JPEG", "MPO"):
        image.load()  # other formats tell it behind the pixels, or turn the image themselves
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged tags raise almost anything, and the pixels are as they are
        return None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened image when it is upright."""
    return image.size[::-1] if turn_of(image) in SIDEWAYS else image.size


def upright(image: Image.Image) -> Image.Image:
    """Return an opened image as its orientation tag says."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def converted(image: Image.Image, colour: Colour = "rgb") -> Image.Image:
    """Return the image with three channels of 8 bits, or one of grey; what is transparent becomes white."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        # 16-bit greyscale; Pillow's own conversion would clip at 255 instead of scaling.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > WHITE_16:
            raise ValueError("pixels of more than 16 bits")
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            values = np.where(values == transparent, WHITE_16, values)
        return Image.fromarray((values // 256).astype(np.uint8)).convert(MODES[colour])
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha(image))
    return image.convert(MODES[colour])


def with_alpha(image: Image.Image) -> Image.Image:
    """Return an image that has transparency with three channels of colour and one of opacity."""
    if image.mode == "La":
        image = image.convert("LA")  # Pillow has no direct way.
    return image.convert("RGBA")
