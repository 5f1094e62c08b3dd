"""Convolutions are those of PyTorch in value, and never in the shape that PyTorch's own CPU code cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from isnas import DARTS_SPACE, GENOTYPES, NASBENCH201_SPACE, build_network, build_supernet
from isnas.networks.operations import BYPASS, OPERATIONS, StridedPointwise, bypassing, convolution


class Convolutions(TorchDispatchMode):
    """Collects (kernel, stride) of all convolutions that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.run: set[tuple[int, int]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.run.add((args[1].shape[2], args[3][0]))
        return func(*args, **(kwargs or {}))


def gradients(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Any:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = function(x, weight)
    random = torch.Generator().manual_seed(out.numel())
    upstream = torch.randn(out.shape, generator=random, dtype=out.dtype)
    return out, *torch.autograd.grad(out, (x, weight), upstream)


class TestStridedPointwise:
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 8), (1, 1), (2, 1), (3, 6)])
    @pytest.mark.parametrize(("c_in", "c_out", "groups"), [(1, 3, 1), (6, 4, 1), (4, 4, 4)])
    @pytest.mark.parametrize("step", [2, 3])
    def test_is_pytorchs_convolution(
        self,
        layout: torch.memory_format,
        size: tuple[int, int],
        c_in: int,
        c_out: int,
        groups: int,
        step: int,
    ) -> None:
        """Value and gradients, in float64."""
        random = torch.Generator().manual_seed(3)
        x = torch.randn(3, c_in, *size, generator=random, dtype=torch.float64)
        conv = convolution(c_in, c_out, 1, stride=step, groups=groups).double()
        weight = conv.weight.detach()
        expected = gradients(lambda x, w: F.conv2d(x, w, None, step, groups=groups), x, weight)
        conv.to(memory_format=layout)
        found = gradients(
            lambda x, w: torch.func.functional_call(conv, {"weight": w}, (x,)),
            x.contiguous(memory_format=layout),
            weight.contiguous(memory_format=layout),
        )
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-13)

    def test_has_the_weights_of_pytorchs_convolution(self) -> None:
        states = []
        for build in (
            lambda: convolution(5, 3, 1, stride=2),
            lambda: nn.Conv2d(5, 3, 1, stride=2, bias=False),
        ):
            torch.manual_seed(1)
            states.append(build().state_dict())
        assert list(states[0]) == list(states[1]) == ["weight"]
        assert torch.equal(states[0]["weight"], states[1]["weight"])

    def test_padding_is_refused(self) -> None:
        with pytest.raises(ValueError, match="padding"):
            convolution(2, 2, 1, stride=2, padding=1)

    def test_can_be_exported_and_compiled(self) -> None:
        conv, x = StridedPointwise(3, 4, 2), torch.randn(2, 3, 7, 6)
        expected = F.conv2d(x, conv.weight, stride=2)
        exported = torch.export.export(conv, (x,)).module()(x)
        compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)(x)
        torch.testing.assert_close(exported, expected)
        torch.testing.assert_close(compiled, expected)


class TestTheShapeThatCorruptsMemory:
    """Channels last, kernel 1, stride 2, 1 to 7 input channels: PyTorch's backward pass overwrites memory."""

    def test_is_run_by_our_operations_in_a_process_that_ends_well(self) -> None:
        program = """
import torch
from isnas.networks.operations import FactorizedReduce, OPERATIONS, convolution
last = torch.channels_last
for c in range(1, 8):
    for build in (
        lambda: convolution(c, 2, 1, stride=2),
        lambda: FactorizedReduce(c, 4),
        lambda: OPERATIONS["skip_connect"](c + 1, 2, "all"),
        lambda: OPERATIONS["nor_conv_1x1"](c, 2, "all"),
    ):
        operation = build().to(memory_format=last)
        channels = next(operation.parameters()).shape[1]
        for _ in range(3):
            x = torch.randn(16, channels, 32, 32).contiguous(memory_format=last).requires_grad_()
            operation(x).sum().backward()
print("done")
"""
        # oneDNN runs the code at fault on a CPU that has AVX2 and no more; this lets a newer one run it, too
        limit = {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | limit,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (result.returncode, result.stdout.strip()) == (0, "done"), result.stderr[-500:]

    @pytest.mark.parametrize("stem", ["cifar", "imagenet"])
    @pytest.mark.parametrize("closing_norm", ["none", "all"])
    def test_is_in_no_network_of_darts(self, stem: str, closing_norm: str) -> None:
        shape: dict[str, Any] = {"channels": 4, "classes": 4, "stem": stem}
        closed = {**shape, "cells": 3, "closing_norm": closing_norm}
        for network in (
            build_supernet(DARTS_SPACE, **closed, auxiliary=True),
            build_network(GENOTYPES["ISTA_onestage"], **shape, cells=6, auxiliary=True),
            build_supernet(bypassing(DARTS_SPACE), **closed, partial=2),
        ):
            with Convolutions() as convolutions:
                network(torch.randn(2, 3, 64, 64), auxiliary=network.options.auxiliary)
            assert (1, 1) in convolutions.run
            assert (1, 2) not in convolutions.run

    def test_is_in_no_network_of_nasbench201(self) -> None:
        network = build_supernet(NASBENCH201_SPACE, channels=4, cells=1)
        with Convolutions() as convolutions:
            network(torch.randn(2, 3, 16, 16))
        assert (1, 2) not in convolutions.run

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_is_in_no_operation(self, name: str) -> None:
        with Convolutions() as convolutions:
            OPERATIONS[name](4, 2, "all")(torch.randn(2, 4, 8, 8))
        assert (1, 2) not in convolutions.run


def test_every_primitive_is_known() -> None:
    """The test of operations above has seen all that a space can name."""
    assert {*DARTS_SPACE.primitives, *NASBENCH201_SPACE.primitives, BYPASS} <= {*OPERATIONS, "none"}


@pytest.mark.parametrize("side", [8, 9])
def test_multiply_adds_are_those_of_pytorchs_convolution(side: int) -> None:
    counts = []
    for conv in (convolution(4, 6, 1, stride=2), nn.Conv2d(4, 6, 1, stride=2, bias=False)):
        with FlopCounterMode(display=False) as counter:
            conv.to("meta")(torch.empty(1, 4, side, side, device="meta"))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 4 * 6 * (-(-side // 2)) ** 2
