"""Convolutions that crash, hang or compute wrong gradients on this CPU, among those that our networks can make.

    python -m benchmarks.convolutions | tee benchmarks/results/convolutions.txt
    python -m benchmarks.convolutions --threads 2

Each kind of convolution, as `isnas.networks.operations.convolution` makes it, is run forward and backward with many
numbers of channels, batch sizes and image sizes, odd ones too. Value and gradients are compared with those in float64
of the same numbers. PyTorch leaves most of it to oneDNN, which has code for each generation of processors, so each is
tried with the instructions of this machine ("ALL") and with those of older ones. The last row is the one that our
networks do not run, a strided 1x1 convolution as PyTorch runs it, see `isnas.networks.operations.StridedPointwise`.

What belongs to one layout, one precision and one set of instructions runs in a process of its own with a time limit, so
that memory overwritten there harms nothing else; where that fails, each number of input channels does. The script ends
with status 1 where anything but the last row fails.

Layouts: "contiguous"; "last", channels last; "mixed", weights with channels last and a contiguous image, as in a
network's first convolution.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import math
import multiprocessing
import os
import signal
from collections.abc import Collection, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from experiments._command import positive
from isnas.comparison.rows import markdown_table
from isnas.networks.operations import convolution

from ._measure import origin, run

CHANNELS = (*range(1, 17), 24, 36, 64)
CHANNELS_OUT = (1, 3, 8, 16, 36)  # of a convolution that is not depthwise
IMAGES = ((1, 1), (1, 8), (2, 2), (3, 5), (16, 9), (4, 16), (2, 32))  # batch, side
INSTRUCTIONS = ("AVX2", "AVX512_CORE", "ALL")
LAYOUTS = ("contiguous", "last", "mixed")
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest error of a value or gradient that is no fault, relative to its size (see `Problem.scales`)."""


class Kind(NamedTuple):
    """A kind of convolution."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    ours: bool = True
    """Whether it is made as in our networks; or else as in PyTorch."""

    def __str__(self) -> str:
        words = [f"{self.kernel}x{self.kernel}"]
        words += [f"stride {self.stride}"] * (self.stride > 1)
        words += [f"dilation {self.dilation}"] * (self.dilation > 1)
        words += ["depthwise"] * self.depthwise + ["(PyTorch's)"] * (not self.ours)
        return " ".join(words)

    @property
    def padding(self) -> int:
        """The padding that keeps the size at stride 1; none for an even kernel."""
        return self.dilation * (self.kernel // 2) if self.kernel % 2 else 0

    def build(self, c_in: int, c_out: int) -> nn.Module:
        """Return the convolution."""
        groups = c_in if self.depthwise else 1
        options = {"padding": self.padding, "dilation": self.dilation, "groups": groups}
        if self.ours:
            return convolution(c_in, c_out, self.kernel, stride=self.stride, **options)
        return nn.Conv2d(c_in, c_out, self.kernel, self.stride, bias=False, **options)


KINDS = (
    *(Kind(1, stride) for stride in (1, 2)),
    Kind(2),  # of the auxiliary head
    *(Kind(kernel, stride) for kernel in (3, 5) for stride in (1, 2)),
    *(
        Kind(kernel, stride, dilation, depthwise=True)
        for kernel in (3, 5, 7)
        for stride in (1, 2)
        for dilation in (1, 2)
    ),
    Kind(1, 2, ours=False),
)


class Variant(NamedTuple):
    """A way to run a convolution."""

    dtype: torch.dtype
    layout: str
    instructions: str
    """The largest instruction set that oneDNN may use, see its ``ONEDNN_MAX_CPU_ISA``."""
    threads: int


class Problem(NamedTuple):
    """Numbers for a convolution and what comes of them, all in float64."""

    x: Tensor
    weight: Tensor
    upstream: Tensor
    """Gradient of the value."""
    solution: tuple[Tensor, ...]
    """Value, gradient of x, gradient of the weight."""
    scales: tuple[float, ...]
    """Size of each: the largest root of a sum of squares where it has a sum."""


def problems(kind: Kind, c_in: int, dtype: torch.dtype) -> list[Problem]:
    """Return problems for one number of input channels, of numbers that `dtype` has."""
    generator = torch.Generator().manual_seed(c_in)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).double()

    groups = c_in if kind.depthwise else 1
    options = (kind.stride, kind.padding, kind.dilation, groups)

    def solve(x: Tensor, weight: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
        # without autograd, which would not work in forked processes any more
        return (
            F.conv2d(x, weight, None, *options),
            nn.grad.conv2d_input(x.shape, weight, upstream, *options),
            nn.grad.conv2d_weight(x, weight.shape, upstream, *options),
        )

    made = []
    outs = (c_in,) if kind.depthwise else CHANNELS_OUT
    for c_out, (batch, side) in itertools.product(outs, IMAGES):
        if side < kind.kernel and not kind.padding:
            continue
        x = drawn(batch, c_in, side, side)
        weight = drawn(c_out, c_in // groups, kind.kernel, kind.kernel)
        like = F.conv2d(x, weight, None, *options)
        upstream = drawn(*like.shape)
        if len(made) % 2:  # as the backward pass of a mean makes it: one number, expanded
            upstream = drawn(1, 1, 1, 1).expand_as(like)
        squares = solve(x**2, weight**2, upstream**2)
        scales = tuple(float(each.max().sqrt()) for each in squares)
        made.append(Problem(x, weight, upstream, solve(x, weight, upstream), scales))
    return made


def largest_error(kind: Kind, problem: Problem, variant: Variant) -> float:
    """Return the largest error of value and gradients, each relative to its size; infinite for nan."""
    last, contiguous = torch.channels_last, torch.contiguous_format
    of_image, of_weight = {
        "contiguous": (contiguous, contiguous),
        "last": (last, last),
        "mixed": (contiguous, last),
    }[variant.layout]
    c_in, c_out = problem.x.shape[1], problem.weight.shape[0]
    conv = kind.build(c_in, c_out).to(variant.dtype)
    with torch.no_grad():
        conv.weight.copy_(problem.weight)
    conv = conv.to(memory_format=of_weight)
    x = problem.x.to(variant.dtype).contiguous(memory_format=of_image).requires_grad_()
    upstream = problem.upstream.to(variant.dtype)
    if upstream.is_contiguous():
        upstream = upstream.contiguous(memory_format=of_image)
    value = conv(x)
    found = (value.detach(), *torch.autograd.grad(value, (x, conv.weight), upstream))
    errors = [
        float((mine.double() - right).abs().max()) / scale
        for mine, right, scale in zip(found, problem.solution, problem.scales, strict=True)
    ]
    return max(math.inf if math.isnan(each) else each for each in errors)


Errors = dict[int, float]
"""The largest error by the number of input channels."""


def spoil_memory() -> None:
    """Let the C library fill memory that it hands out with huge numbers, so that reading it too early shows."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc's, with the numbers of its malloc.h
        perturb, mmap_threshold = -6, -3
        library.mallopt(
            perturb, 0x80
        )  # filled with the complement: 3.4e38 in float32 and in bfloat16
        library.mallopt(mmap_threshold, 1 << 25)  # memory from elsewhere would be zero


def attempt(
    sender: Connection, kind: Kind, given: Mapping[int, list[Problem]], variant: Variant
) -> None:
    """Send the largest errors, from a process that may not live to do so."""
    os.environ["ONEDNN_MAX_CPU_ISA"] = variant.instructions
    torch.set_num_threads(variant.threads)
    spoil_memory()
    try:
        errors = {
            channels: max(largest_error(kind, problem, variant) for problem in some)
            for channels, some in given.items()
        }
    except RuntimeError as refusal:
        sender.send(f"refused ({str(refusal).splitlines()[0]})")
    else:
        sender.send(errors)


def outcome(
    kind: Kind, given: Mapping[int, list[Problem]], variant: Variant, seconds: float
) -> Errors | str:
    """Return the largest errors, or how the process that was to find them ended."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=attempt, args=(sender, kind, given, variant))
    process.start()
    sender.close()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return f"not done after {seconds:.0f} s"
    if process.exitcode < 0:
        return signal.Signals(-process.exitcode).name
    return receiver.recv() if process.exitcode == 0 else f"status {process.exitcode}"


def outcomes(
    kind: Kind, given: Mapping[int, list[Problem]], variant: Variant, seconds: float
) -> dict[int, float | str]:
    """Return the largest error, or the end, by the number of input channels.

    All in one process, which is quick; if that ends badly, in one for each.
    """
    together = outcome(kind, given, variant, seconds)
    if not isinstance(together, str):
        return dict(together)
    found: dict[int, float | str] = {}
    for channels, some in given.items():
        alone = outcome(kind, {channels: some}, variant, seconds)
        found[channels] = alone if isinstance(alone, str) else alone[channels]
    if not any(isinstance(each, str) for each in found.values()):
        return dict.fromkeys(found, f"{together}, together only")
    return found


def ranges(some: Collection[int], among: Sequence[int]) -> str:
    """Return in few words which of increasing numbers are given: "1 to 7, 9"."""
    words = []
    for given, numbers in itertools.groupby(among, some.__contains__):
        if given:
            first, *rest = numbers
            words.append(f"{first} to {rest[-1]}" if rest else str(first))
    return ", ".join(words)


def main() -> None:
    """Print a row for each kind of convolution, and what failed of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--seconds", type=positive, default=60, help="limit of a process")
    parser.add_argument("--channels", type=positive, nargs="+", default=CHANNELS)
    parser.add_argument("--kernels", type=positive, nargs="+", help="by default all")
    parser.add_argument("--instructions", nargs="+", choices=INSTRUCTIONS, default=INSTRUCTIONS)
    given = parser.parse_args()
    channels = sorted(set(given.channels))
    torch.set_num_threads(1)  # forked processes could not use this one's threads
    tried = [kind for kind in KINDS if not given.kernels or kind.kernel in given.kernels]
    columns = list(itertools.product(TOLERANCES, LAYOUTS))
    lines, failures, ours_failed = [], [], False
    for kind in tqdm(tried, disable=None):
        worst = dict.fromkeys(columns, 0.0)
        ends: dict[tuple[str, Variant], list[int]] = {}
        for dtype in TOLERANCES:
            made = {c_in: problems(kind, c_in, dtype) for c_in in channels}
            for layout, instructions in itertools.product(LAYOUTS, given.instructions):
                variant = Variant(dtype, layout, instructions, given.threads)
                for c_in, found in outcomes(kind, made, variant, given.seconds).items():
                    if isinstance(found, float):
                        worst[dtype, layout] = max(worst[dtype, layout], found)
                    if isinstance(found, str) or found > TOLERANCES[dtype]:
                        end = found if isinstance(found, str) else "wrong"
                        ends.setdefault((end, variant), []).append(c_in)
        ours_failed = ours_failed or (kind.ours and bool(ends))
        lines.append((str(kind), *(f"{error:.0e}" for error in worst.values())))
        for (end, variant), some in ends.items():
            precision = str(variant.dtype).removeprefix("torch.")
            failures.append(
                (
                    str(kind),
                    precision,
                    variant.layout,
                    variant.instructions,
                    ranges(some, channels),
                    end,
                )
            )
    print(origin("convolutions"))
    print("Largest error of value and gradients, relative to their size, of all that ended:\n")
    names = [f"{str(dtype).removeprefix('torch.')}, {layout}" for dtype, layout in columns]
    print(markdown_table(("convolution", *names), lines))
    print("Failures:\n" if failures else "No failures.")
    if failures:
        header = ("convolution", "precision", "layout", "instructions", "input channels", "end")
        print(markdown_table(header, failures))
    raise SystemExit(int(ours_failed))


if __name__ == "__main__":
    run(main)
