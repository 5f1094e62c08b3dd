"""Random changes of training images: crop, mirror and cut out, per image, a whole batch at once.

The recipe and its order are those of the CIFAR experiments of DARTS (Liu et al., ICLR 2019): zero
padding and a random crop, a mirror image every second time, normalisation, then a square set to
zero (cut-out: DeVries and Taylor, arXiv 1708.04552). Everything happens on the device where the
batch is, and nothing reads a value back from it.

ImageNet's recipe is torchvision's: a random part of the original image, resized, and a change of
its colours. These two are for one image, while it is decoded.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...runtime.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Random variation of training images.

    Attributes
    ----------
    padding : int
        Zeros added on each side before a crop of the original size, in pixels. 0: no crop.
    flip : bool
        Whether half of the images, chosen at random, are mirrored left to right.
    cutout : int
        Side of the square that is set to zero (the mean colour), in pixels. Its centre is uniform
        over the image, so that part of it may lie outside. 0: none.
    resized : bool
        Whether the images are to be random parts (`random_part`), resized. For images that are
        decoded batch by batch; that is where it happens.
    colour_jitter : float
        How much the colours of such parts are varied, see `jittered`. 0: not at all.

    Raises
    ------
    UserError
        If `padding` or `cutout` is negative, or `colour_jitter` not between 0 and 1 or not 0 while
        `resized` is false.
    """

    padding: int = 0
    flip: bool = False
    cutout: int = 0
    resized: bool = False
    colour_jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.colour_jitter < 1:
            raise UserError(
                f"colour_jitter must be 0 or more and below 1, got {self.colour_jitter}"
            )
        if self.colour_jitter and not self.resized:
            raise UserError(
                f"colour_jitter={self.colour_jitter} needs images that are resized parts"
            )
        for name in ("padding", "cutout"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more pixels, got {getattr(self, name)}")

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator,
        mean: Tensor,
        std: Tensor,
        *,
        whole: int | None = None,
        part: slice = slice(None),
    ) -> Tensor:
        """Return the varied and normalised batch.

        Parameters
        ----------
        images : Tensor, (B, C, H, W) uint8
        generator : torch.Generator
            On the device of `images`.
        mean, std : Tensor, (C, 1, 1) float32
            As in `normalise`, on the device of `images`.
        whole : int, optional
            Number of images of the batch that these are a part of; they are varied as in it.
        part : slice
            Which of them these are.

        Returns
        -------
        Tensor, (B, C, H, W) float32
        """
        _, _, height, width = images.shape
        batch = len(images) if whole is None else whole
        device = images.device
        shifts = torch.zeros(2, batch, dtype=torch.int64, device=device)
        if self.padding:
            shifts.random_(0, 2 * self.padding + 1, generator=generator)
        mirrored = torch.zeros(batch, dtype=torch.bool, device=device)
        if self.flip:
            mirrored = torch.rand(batch, generator=generator, device=device) < 0.5
        if self.padding or self.flip:
            top, left = shifts[:, part]
            images = crop(images, top, left, mirrored[part], padding=self.padding)
        x = normalise(images, mean, std)
        if self.cutout:
            rows = torch.randint(height, (batch,), generator=generator, device=device)
            columns = torch.randint(width, (batch,), generator=generator, device=device)
            x = cut_out(x, rows[part], columns[part], side=self.cutout)
        return x


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return `(images / 255 - mean) / std` in float32.

    Parameters
    ----------
    images : Tensor, (B, C, H, W) uint8
    mean, std : Tensor, (C, 1, 1) float32
        Mean and standard deviation of pixel values between 0 and 1.

    Returns
    -------
    Tensor, (B, C, H, W) float32
    """
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def crop(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, *, padding: int) -> Tensor:
    """Pad with zeros, cut each image out at its own place, and mirror the marked ones.

    Parameters
    ----------
    images : Tensor, (B, C, H, W)
    top, left : Tensor, (B,) int64
        First row and column of each crop in the padded image, 0 to 2 * padding.
    mirrored : Tensor, (B,) bool
    padding : int
        Zeros on each side.

    Returns
    -------
    Tensor, (B, C, H, W)
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding, padding, padding, padding)).flatten(2)  # (B, C, Hp*Wp)
    rows = top[:, None] + torch.arange(height, device=images.device)  # (B, H)
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns + left[:, None]  # (B, W)
    # One gather with flat positions: four times as fast on a CPU as indexing rows and columns.
    places = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]  # (B, H, W)
    places = places.view(batch, 1, height * width).expand(-1, channels, -1)
    return padded.gather(2, places).view(batch, channels, height, width)


def cut_out(x: Tensor, rows: Tensor, columns: Tensor, *, side: int) -> Tensor:
    """Set a square of each image to zero; what of it lies outside the image is lost.

    Parameters
    ----------
    x : Tensor, (B, C, H, W)
    rows, columns : Tensor, (B,) int64
        Centre of each square. It covers rows `centre - side // 2` to
        `centre - side // 2 + side - 1`, and columns likewise.
    side : int

    Returns
    -------
    Tensor, (B, C, H, W)
    """
    height, width = x.shape[2:]
    from_top = torch.arange(height, device=x.device) - (rows[:, None] - side // 2)  # (B, H)
    from_left = torch.arange(width, device=x.device) - (columns[:, None] - side // 2)  # (B, W)
    inside_rows = (from_top >= 0) & (from_top < side)
    inside_columns = (from_left >= 0) & (from_left < side)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]  # (B, 1, H, W)
    return x.masked_fill(inside, 0)


def random_part(width: int, height: int, drawn: random.Random) -> tuple[int, int, int, int]:
    """Draw a part of an image as torchvision's RandomResizedCrop does.

    Its area is uniform between 8 % and 100 % of the image's, the logarithm of its width by its
    height between those of 3/4 and 4/3. What does not fit is drawn again; after ten times it is
    the centre, with the nearest of these ratios.

    Parameters
    ----------
    width, height : int
        Size of the image.
    drawn : random.Random

    Returns
    -------
    left, top, width, height : int
        Position and size of the part.
    """
    for _ in range(10):
        area = width * height * (0.08 + 0.92 * drawn.random())
        ratio = (3 / 4) ** (1 - 2 * drawn.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int((width - w + 1) * drawn.random())
            return left, int((height - h + 1) * drawn.random()), w, h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width / (3 / 4)))
    return (width - w) // 2, (height - h) // 2, w, h


def jittered(picture: Image.Image, strength: float, drawn: random.Random) -> Image.Image:
    """Vary the colours as torchvision's ColorJitter does, in a random order.

    Brightness, contrast and saturation are multiplied by factors uniform between 1 - `strength` and
    1 + `strength`; the hue moves by up to half of `strength` either way, in turns of the colour
    circle. With 0.4 that is the recipe of DARTS for ImageNet.

    Parameters
    ----------
    picture : Image
        RGB.
    strength : float
        0 to 1.
    drawn : random.Random

    Returns
    -------
    Image
    """
    from torchvision.transforms import functional  # takes seconds to import: only where it is used

    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    amounts = [strength * (2 * drawn.random() - 1) for _ in changes]
    for i in sorted(range(4), key=lambda _: drawn.random()):
        picture = changes[i](picture, amounts[i] / 2 if i == 3 else 1 + amounts[i])
    return picture
