"""Preparation of images for a trained network: as its test saw them, bit for bit."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...runtime.errors import UserError
from .augmentation import normalise
from .decoding import Colour, centre, filled, read_pixels, square
from .folders import printable

Picture = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
"""One image: a file, a Pillow image, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W).

One channel is grey, two are grey and opacity, three colours, four colours and opacity. Values are of uint8, or of
floating point from 0 to 1, which are rounded to 256 levels as files have them.
"""

LARGEST_SIDE = 4096
"""Largest side of prepared images, in pixels, that is believed."""


@dataclass(frozen=True)
class Preparation:
    """Makes images into what a network takes, exactly as the test at the end of its training did.

    An image is turned upright as its orientation tag says; what is transparent becomes white; it gets three channels or
    one of grey; its centred square is resized; and its pixels are normalised, ``(pixel / 255 - mean) / std``.

    Parameters
    ----------
    size : int
        Side of the square, in pixels.
    crop : {"pad", "resized"}
        Whether the whole centred square is taken, or seven eighths of it (ImageNet's way), see
        `isnas.tasks.images.load_dataset`.
    colour : {"rgb", "grey"}
    mean, std : tuple of float, one per channel
        Mean and standard deviation of pixel values between 0 and 1.
    """

    size: int
    crop: str
    colour: Colour
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def recorded(cls, saved: Mapping[str, Any], path: Any) -> Preparation:
        """Return the preparation that stands beside a saved network.

        Parameters
        ----------
        saved : mapping
            The result of `ImageTask.describe`, read from a file; an earlier version's has no crop.
        path : path
            The file, for messages.

        Raises
        ------
        UserError
            When it does not say how images were prepared.
        """

        def wrong(name: str, expected: str) -> UserError:
            shown = printable(f"{saved.get(name)!r:.60}")
            return UserError(f"{path}: {name} must be {expected}, got {shown}")

        size, crop = saved.get("size"), saved.get("crop", "pad")
        side = size[0] if isinstance(size, list) and len(size) == 2 else None
        if type(side) is not int or not 1 <= side <= LARGEST_SIDE or size[1] != side:
            raise wrong("size", f"[side, side] with 1 to {LARGEST_SIDE} pixels")
        if crop not in ("pad", "resized"):
            raise wrong("crop", "pad or resized")
        for name in ("mean", "std"):
            values = saved.get(name)
            if not isinstance(values, list) or len(values) not in (1, 3):
                raise wrong(name, "a list of 1 or 3 numbers")
            if not all(type(v) in (int, float) and math.isfinite(v) for v in values):
                raise wrong(name, "a list of finite numbers")
        if len(saved["std"]) != len(saved["mean"]) or min(saved["std"]) <= 0:
            raise wrong("std", "a number above 0 for each of mean")
        colour: Colour = "rgb" if len(saved["mean"]) == 3 else "grey"
        return cls(side, crop, colour, *(tuple(map(float, saved[n])) for n in ("mean", "std")))

    @property
    def channels(self) -> int:
        """Number of channels of a prepared image."""
        return len(self.mean)

    def __call__(self, images: Picture | Iterable[Picture]) -> Tensor:
        """Return images as a network takes them.

        Parameters
        ----------
        images
            One or several, see `as_list`.

        Returns
        -------
        Tensor, (B, channels, size, size) float32
            Also for one image: then B is 1.

        Raises
        ------
        UserError
            When images cannot be read: it names them all, up to ten.
        """
        pictures, _ = as_list(images)
        pixels, failures = self.pixels(pictures)
        if failures:
            raise refusal(failures)
        return self.normalised(pixels)

    def pixels(self, pictures: Sequence[Picture]) -> tuple[Tensor, dict[int, UserError]]:
        """Return images before they are normalised.

        Returns
        -------
        pixels : Tensor, (B, channels, size, size) uint8
            Undefined for images that cannot be read.
        failures : dict of int to UserError
            The errors of these, by their positions.
        """
        return filled(
            len(pictures), self.size, self.colour, lambda i: self._read(pictures[i], f"image {i}")
        )

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels, (B, channels, size, size), normalised, in float32."""
        mean, std = (
            torch.tensor(each, dtype=torch.float32, device=pixels.device)[:, None, None]
            for each in (self.mean, self.std)
        )
        return normalise(pixels, mean, std)

    def _read(self, picture: Picture, name: str) -> np.ndarray:
        frame = partial(
            square if self.crop == "pad" else centre, size=self.size, colour=self.colour
        )
        if isinstance(picture, str | os.PathLike):
            return read_pixels(os.fspath(picture), frame)
        try:
            image = _opened(picture)
            image.load()  # so that no decoder shrinks the caller's own image
            return np.atleast_3d(np.asarray(frame(image)))
        except Exception as error:  # Pillow's decoders raise almost anything on damaged files.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{name}: {printable(reason)}") from error


def as_list(images: Picture | Iterable[Picture]) -> tuple[list[Picture], bool]:
    """Return images one by one, and whether it is a single one that was given as such.

    Parameters
    ----------
    images
        A file, a Pillow image, an array or a tensor; or several: in an iterable, or as an array (B, H, W, C) or a
        tensor (B, C, H, W).

    Raises
    ------
    UserError
        When it is something else.
    """
    if isinstance(images, np.ndarray | Tensor):
        if images.ndim == 4:
            return list(images), False
        return [images], True
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images], True
    if not isinstance(images, Iterable):
        raise UserError(
            f"expected paths, Pillow images, arrays or tensors, got {type(images).__name__}"
        )
    return list(images), False


def refusal(failures: Mapping[int, UserError]) -> UserError:
    """Return the error that names all images that failed, up to ten."""
    errors = [str(failures[i]) for i in sorted(failures)]
    if len(errors) == 1:
        return failures[min(failures)]
    more = f"; and {len(errors) - 10} more" if len(errors) > 10 else ""
    return UserError(f"{len(errors)} images failed: {'; '.join(errors[:10])}{more}")


def _opened(picture: Any) -> Image.Image:
    """Return what is no file as a Pillow image; UserError where it is no image."""
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, Tensor):
        tensor = picture.detach().cpu()
        array, shapes = tensor.numpy(), "(H, W) or (C, H, W)"
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    elif isinstance(picture, np.ndarray):
        array, shapes = picture, "(H, W) or (H, W, C)"
    else:
        raise UserError(
            f"expected a path, a Pillow image, an array or a tensor, got {type(picture).__name__}"
        )
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or 0 in array.shape or channels > 4:
        raise UserError(f"expected the shape {shapes}, C from 1 to 4, got {tuple(picture.shape)}")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # NaN, too
            raise UserError(
                f"expected floating-point values from 0 to 1, not normalised; got "
                f"{array.min():g} to {array.max():g}"
            )
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(f"expected values of type uint8 or floating point, got {array.dtype}")
    array = array[..., 0] if array.ndim == 3 and channels == 1 else array
    return Image.fromarray(np.ascontiguousarray(array))
