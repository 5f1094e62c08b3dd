"""The candidate operations of networks of images: a body, often with a closing batch norm, see `isnas.networks.core`.

Shapes: (B, channels, H, W) in, (B, channels, ceil(H / stride), ceil(W / stride)) out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.processes import synchronised_batch_norm
from ..spaces.base import Space
from .core import Affine, Closed, Factor, Norm

ClosingNorm = Literal["none", "pooling", "all"]
"""Which operations that hold no convolution are closed by a batch norm, too: none (DARTS's and the two-stage evaluation
network), those that pool (the two-stage search), or pooling and stride-1 skips (one-stage: needed to fold)."""

BYPASS = "bypass"
"""The primitive that carries the channels which an edge's operations leave out, where they are given a part of them
only (PC-DARTS, arXiv 1907.05737): as they are, or max-pooled 2x2 where the stride is 2. No genotype has it."""


class BatchNorm(nn.BatchNorm2d, Norm):
    """Batch norm that can be run with another affine part than its own.

    Where it is `synchronised`, its statistics in training are those of all processes' images.
    """

    synchronised = False

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        # the count of batches serves no purpose at a fixed momentum, and costs a kernel and a tensor to save
        self.register_buffer("num_batches_tracked", None)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        # without PyTorch's upgrade of old states, which would look for that count
        nn.Module._load_from_state_dict(self, *arguments)

    def forward(self, x: Tensor, affine: Affine | None = None) -> Tensor:
        """Return batch_norm(x), with its own affine part by default."""
        weight, bias = (self.weight, self.bias) if affine is None else affine
        if self.synchronised and self.training:
            buffers = (self.running_mean, self.running_var)
            return synchronised_batch_norm(x, *buffers, weight, bias, self.momentum, self.eps)
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            weight,
            bias,
            self.training,
            self.momentum,
            self.eps,
        )


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the batch norms' gathered statistics as they are inside the block, in training mode, too."""
    norms = [(each, each.momentum) for each in network.modules() if isinstance(each, BatchNorm)]
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum


def synchronise(network: nn.Module) -> None:
    """Let all batch norms of a network take the statistics of all processes' images."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.synchronised = True


class Operation(Closed):
    """A body and its closing batch norm, if it has one.

    Parameters
    ----------
    body : nn.Module
    norm : BatchNorm or None
    droppable : bool
        Whether drop path may silence it: all operations but the stride-1 skip (as in DARTS).
    """

    def __init__(self, body: nn.Module, norm: BatchNorm | None, droppable: bool = True) -> None:
        super().__init__()
        self.body = body
        self.norm = norm
        self.droppable = droppable

    def forward(self, x: Tensor, factor: Factor = None) -> Tensor:
        """Return the operation's output, multiplied."""
        x = self.body(x)
        if self.norm is not None:
            return self.norm(x, factor)
        return x if factor is None else factor * x


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution with a stride, run as one with stride 1 on the pixels that it reads.

    Its value is that of ``nn.Conv2d(c_in, c_out, 1, stride=step, bias=False)``; so is its weight. With channels last
    and fewer input channels than a vector register has numbers (8 with AVX2), the backward pass of that one writes past
    oneDNN's workspace (https://github.com/uxlfoundation/oneDNN/issues/6035; ``benchmarks/convolutions.py``). Average
    pooling over single pixels takes the pixels: one kernel each way, where the index ``[:, :, ::step, ::step]`` is
    several in the backward pass.

    Parameters
    ----------
    c_in, c_out : int
        Channels.
    step : int
        The stride.
    groups : int
        As in `torch.nn.Conv2d`.
    """

    def __init__(self, c_in: int, c_out: int, step: int, groups: int = 1) -> None:
        super().__init__(c_in, c_out, 1, groups=groups, bias=False)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, ceil(H / step), ceil(W / step))."""
        return super().forward(F.avg_pool2d(x, 1, self.step))


def convolution(
    c_in: int,
    c_out: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """Return a convolution without bias: a batch norm follows.

    All convolutions of the networks are made here, see `StridedPointwise`.
    """
    if kernel == 1 and stride > 1:
        if padding:
            raise ValueError(f"a 1x1 convolution takes no padding, got {padding}")
        return StridedPointwise(c_in, c_out, stride, groups)
    return nn.Conv2d(
        c_in, c_out, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
    )


def conv_norm(c_in: int, c_out: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    return nn.Sequential(
        convolution(c_in, c_out, kernel, stride=stride, padding=kernel // 2), BatchNorm(c_out)
    )


def relu_conv_norm(c_in: int, c_out: int) -> nn.Sequential:
    """Return ReLU, 1x1 convolution and batch norm: they bring a cell's input to the cell's number of channels."""
    return nn.Sequential(nn.ReLU(), *conv_norm(c_in, c_out, 1))


class FactorizedReduce(nn.Module):
    """Halve the resolution: two 1x1 convolutions with stride 2, the second one shifted by a pixel, concatenated.

    Before them, if `activated`, a ReLU.
    """

    def __init__(self, c_in: int, c_out: int, activated: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU() if activated else nn.Identity()
        self.conv_1 = convolution(c_in, c_out // 2, 1, stride=2)
        self.conv_2 = convolution(c_in, c_out - c_out // 2, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, ceil(H / 2), ceil(W / 2))."""
        x = self.relu(x)
        # odd sizes: a row or column of zeros, so that both halves have the same shape
        shifted = F.pad(x, (-1, x.shape[3] % 2, -1, x.shape[2] % 2))
        return torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1)


def reduce_norm(c_in: int, c_out: int, activated: bool = True) -> nn.Sequential:
    """Return `FactorizedReduce` and batch norm."""
    return nn.Sequential(FactorizedReduce(c_in, c_out, activated), BatchNorm(c_out))


def _depthwise_separable(c: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        convolution(c, c, kernel, stride=stride, padding=padding, dilation=dilation, groups=c),
        convolution(c, c, 1),
    ]


def _separable(kernel: int) -> Callable[[int, int, ClosingNorm], Operation]:
    def build(c: int, stride: int, closing_norm: ClosingNorm) -> Operation:
        first = _depthwise_separable(c, kernel, stride, 1)
        second = _depthwise_separable(c, kernel, 1, 1)
        return Operation(nn.Sequential(*first, BatchNorm(c), *second), BatchNorm(c))

    return build


def _dilated(kernel: int) -> Callable[[int, int, ClosingNorm], Operation]:
    def build(c: int, stride: int, closing_norm: ClosingNorm) -> Operation:
        return Operation(nn.Sequential(*_depthwise_separable(c, kernel, stride, 2)), BatchNorm(c))

    return build


def _pooling(body: Callable[[int], nn.Module]) -> Callable[[int, int, ClosingNorm], Operation]:
    def build(c: int, stride: int, closing_norm: ClosingNorm) -> Operation:
        return Operation(body(stride), None if closing_norm == "none" else BatchNorm(c))

    return build


def _skip(c: int, stride: int, closing_norm: ClosingNorm) -> Operation:
    if stride == 2:
        return Operation(FactorizedReduce(c, c), BatchNorm(c))
    norm = BatchNorm(c) if closing_norm == "all" else None
    return Operation(nn.Identity(), norm, droppable=False)


def _plain(kernel: int) -> Callable[[int, int, ClosingNorm], Operation]:
    def build(c: int, stride: int, closing_norm: ClosingNorm) -> Operation:
        conv = convolution(c, c, kernel, stride=stride, padding=kernel // 2)
        return Operation(nn.Sequential(nn.ReLU(), conv), BatchNorm(c))

    return build


def _bypass(c: int, stride: int, closing_norm: ClosingNorm) -> Operation:
    body = nn.Identity() if stride == 1 else nn.MaxPool2d(stride, ceil_mode=True)
    return Operation(body, None, droppable=False)


def bypassing(space: Space) -> Space:
    """Return the space whose edges have a bypass, too: that of a super-net with partial channels."""
    return dataclasses.replace(space, primitives=(*space.primitives, BYPASS))


def without_bypass(space: Space) -> Space:
    """Return the space of the networks that a super-net of `space` stands for."""
    real = tuple(name for name in space.primitives if name != BYPASS)
    return dataclasses.replace(space, primitives=real)


def shuffled(worked: Tensor, passed: Tensor, partial: int) -> Tensor:
    """Return the two, joined and shuffled: one channel of `worked`, then partial - 1 of `passed`, and again.

    So that other channels come first, and are worked on, at the next node: the channel shuffle of PC-DARTS, in
    ``partial`` groups. One copy, which keeps the layout of `worked`.

    Parameters
    ----------
    worked : Tensor, shape (B, c, H, W)
    passed : Tensor, shape (B, (partial - 1) * c, H, W)

    Returns
    -------
    Tensor, shape (B, partial * c, H, W)
    """
    groups = (worked, *passed.chunk(partial - 1, dim=1))
    if layout(worked) is torch.channels_last:
        rows = [group.permute(0, 2, 3, 1) for group in groups]
        return torch.stack(rows, dim=-1).flatten(3).permute(0, 3, 1, 2)
    return torch.stack(groups, dim=2).flatten(1, 2)


def layout(x: Tensor) -> torch.memory_format:
    """Return whether a dense x has its channels last in memory."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


OPERATIONS: dict[str, Callable[[int, int, ClosingNorm], Operation]] = {
    "max_pool_3x3": _pooling(lambda stride: nn.MaxPool2d(3, stride, 1)),
    "avg_pool_3x3": _pooling(lambda stride: nn.AvgPool2d(3, stride, 1, count_include_pad=False)),
    "skip_connect": _skip,
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    "nor_conv_1x1": _plain(1),
    "nor_conv_3x3": _plain(3),
    BYPASS: _bypass,
}
"""Builders by primitive: (channels, stride, closing norm) -> operation. As in DARTS and, `nor_conv`, NAS-Bench-201."""
