"""Mean and standard deviation of images."""

from __future__ import annotations

import torch
from torch import Tensor

from .dataset import Images


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of pixel values between 0 and 1.

    Of all images in memory, or of 2,000 at even distances of those that have to be decoded.
    A constant channel gets the standard deviation 1, so that dividing by it is harmless.
    """
    pixels = images if isinstance(images, Tensor) else images[spread(len(images), 2000)]
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


def spread(n: int, most: int) -> Tensor:
    """Return up to `most` positions of `range(n)` at even distances."""
    count = min(n, most)
    return torch.arange(count) * n // count
