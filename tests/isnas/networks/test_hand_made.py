"""Hand-made networks: their published sizes, their shapes, widths that are nearest to a size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isnas.networks.counting import count_multiply_adds, count_parameters
from isnas.networks.hand_made import HAND_MADE, HandMadeOptions, mobilenet_v2, resnet_20, width_for
from isnas.networks.operations import BatchNorm

CIFAR, IMAGENET = HandMadeOptions(10, 3), HandMadeOptions(1000, 3)


def test_resnet_20_has_the_published_size() -> None:
    """0.27 M parameters: 19 convolutions, each with a norm, and a classifier, counted by hand; 41 M multiply-adds."""
    network = resnet_20(16, CIFAR)
    channels = [(3, 16), *[(16, 16)] * 6, (16, 32), *[(32, 32)] * 5, (32, 64), *[(64, 64)] * 5]
    by_hand = sum(9 * c_in * c_out + 2 * c_out for c_in, c_out in channels) + 65 * 10
    assert count_parameters(network) == by_hand == 269_722
    assert round(count_multiply_adds(network, (32, 32)) / 1e6) == 41


def test_resnets_shortcut_is_every_other_pixel() -> None:
    """With convolutions of zero a block of stride 2 gives its positive input, and channels of zero."""
    block = resnet_20(4, CIFAR).body[6]
    assert block.stride == 2
    nn.init.zeros_(block.second[0].weight)
    x = torch.rand(2, 4, 7, 7)
    y = block.eval()(x)
    assert torch.equal(y[:, :4], x[:, :, ::2, ::2])
    assert y.shape == (2, 8, 4, 4) and not y[:, 4:].any()


def test_mobilenet_is_torchvisions() -> None:
    """The published 3.4 M parameters and 300 M multiply-adds at 224 pixels; small images keep more of their size."""
    network = mobilenet_v2(100, IMAGENET, 224)
    assert count_parameters(network) == 3_504_872
    assert round(count_multiply_adds(network, (224, 224)) / 1e6) == 301
    assert not [
        m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and type(m) is not BatchNorm
    ]
    small = mobilenet_v2(100, CIFAR, 32)
    assert small.body.features(torch.zeros(1, 3, 32, 32)).shape[2:] == (4, 4)


@pytest.mark.parametrize("name", HAND_MADE)
def test_shapes(name: str) -> None:
    for channels, side in ((1, 8), (3, 13)):
        network = HAND_MADE[name](8, HandMadeOptions(7, channels), side)
        x = torch.rand(2, channels, side, side)
        assert network(x).shape == (2, 7)
        assert network(x, None, drop_path_mask=None).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "parameters"), [("ResNet-20", 269_000), ("ResNet-20", 1), ("MobileNetV2", 300_000)]
)
def test_width_is_the_nearest(name: str, parameters: int) -> None:
    shape = {"options": CIFAR, "side": 32}
    width = width_for(name, parameters, **shape)
    sizes = {
        w: count_parameters(HAND_MADE[name](w, **shape))
        for w in range(max(1, width - 1), width + 2)
    }
    assert min(sizes, key=lambda w: abs(sizes[w] - parameters)) == width
