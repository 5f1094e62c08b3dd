"""Networks that nobody searched: what a search must beat to be of use. Their width is free: sizes can be alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .counting import count_parameters
from .operations import BatchNorm, conv_norm, convolution

LARGE = 64
"""Side in pixels above which images are large: MobileNetV2 then has ImageNet's strides."""

WIDEST = 1024
"""Widths are looked for up to this number of steps."""


@dataclass(frozen=True)
class HandMadeOptions:
    """The facts of the data that shape a network.

    Parameters
    ----------
    classes, in_channels : int
    """

    classes: int
    in_channels: int


class HandMade(nn.Module):
    """A network without cells, called as those of cells are, so that the same stage trains it.

    Parameters
    ----------
    body : nn.Module
        (B, in_channels, H, W) -> (B, classes).
    options : HandMadeOptions
    """

    def __init__(self, body: nn.Module, options: HandMadeOptions) -> None:
        super().__init__()
        self.body = body
        self.options = options

    def forward(
        self, x: Tensor, coefficients: None = None, *, drop_path_mask: None = None
    ) -> Tensor:
        """Map (B, in_channels, H, W) to (B, classes); there are no operations to choose or to drop."""
        return self.body(x)

    def example(self, size: tuple[int, ...], device: torch.device | str) -> Tensor:
        """Return an image of some size, without content, as `ImageNetwork.example` does."""
        return torch.empty(1, self.options.in_channels, *size, device=device)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (He et al., CVPR 2016, figure 2 and option A)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(c_in, c_out, 3, stride=stride)
        self.second = conv_norm(c_out, c_out, 3)
        self.added = c_out - c_in
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, ceil(H / stride), ceil(W / stride))."""
        y = self.second(F.relu(self.first(x)))
        # every other pixel, the new channels zero
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(y + shortcut)


def resnet_20(width: int, options: HandMadeOptions, side: int = 32) -> HandMade:
    """Return ResNet-20 for small images: stem, three stages of three blocks, pooling, linear classifier.

    He, Zhang, Ren & Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2, with 16 channels at
    the beginning, which double twice: 0.27 M parameters.

    Parameters
    ----------
    width : int
        Channels at the beginning.
    options : HandMadeOptions
    side : int
        Side of the images in pixels; it changes nothing.
    """
    stages = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
    blocks = [
        BasicBlock(c_in if i == 0 else c_out, c_out, stride if i == 0 else 1)
        for c_in, c_out, stride in stages
        for i in range(3)
    ]
    body = nn.Sequential(
        *conv_norm(options.in_channels, width, 3),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, options.classes),
    )
    return HandMade(body, options)


def mobilenet_v2(width: int, options: HandMadeOptions, side: int = 32) -> HandMade:
    """Return torchvision's MobileNetV2 (Sandler et al., CVPR 2018), with a width multiplier of so many hundredths.

    For images of up to `LARGE` pixels a side three of its five strides are 1, as is usual for CIFAR: with all of them
    little would be left to see. Channels are not rounded to multiples of 8, and there is no dropout.

    Parameters
    ----------
    width : int
        100 is the published network.
    options : HandMadeOptions
    side : int
        Side of the images in pixels.
    """
    from torchvision.models import MobileNetV2  # takes seconds to import: only where it is used

    small = side <= LARGE
    # expansion, channels, blocks and stride of the first block, the published table 2
    setting = [
        [1, 16, 1, 1],
        [6, 24, 2, 1 if small else 2],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    body = MobileNetV2(
        options.classes,
        dropout=0.0,  # its masks would come from no named stream
        width_mult=width / 100,
        inverted_residual_setting=setting,
        round_nearest=1,
        norm_layer=BatchNorm,
    )
    stem = body.features[0][0]
    stride = 1 if small else 2
    body.features[0][0] = convolution(
        options.in_channels, stem.out_channels, 3, stride=stride, padding=1
    )
    return HandMade(body, options)


HAND_MADE: dict[str, Callable[..., HandMade]] = {
    "ResNet-20": resnet_20,
    "MobileNetV2": mobilenet_v2,
}
"""Builders by name: (width, options, side of the images in pixels) -> network."""


def width_for(name: str, parameters: int, **shape: Any) -> int:
    """Return the width with which a hand-made network has as near to so many parameters as can be.

    Parameters
    ----------
    name : str
    parameters : int
    **shape
        `options` and `side` of the builder.
    """

    def size(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(HAND_MADE[name](width, **shape))

    low, high = 1, WIDEST  # sizes rise with the width
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if size(middle) < parameters else (low, middle)
    return min((max(low - 1, 1), low), key=lambda width: abs(size(width) - parameters))
