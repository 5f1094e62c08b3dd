"""Peak memory against allocations of known size."""

from __future__ import annotations

import sys
import weakref

import pytest
import torch

from isnas.runtime import memory
from isnas.runtime.memory import peak_memory, saved_bytes

CPU = torch.device("cpu")
MIB = 2**20

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's marks are Linux's")


def allocate(mib: int) -> torch.Tensor:
    """Return so much memory, all of it touched."""
    return torch.ones(mib * MIB, dtype=torch.uint8)


def test_saved_bytes_of_known_graphs() -> None:
    x = torch.ones(100, requires_grad=True)
    w = torch.ones(100, requires_grad=True)
    # the product saves both factors, the exponential its result; w is not to be counted
    assert saved_bytes(lambda: (x * w).exp().sum(), [w]) == 4 * (100 + 100)
    assert saved_bytes(lambda: (x * w).sum(), [x, w]) == 0
    assert saved_bytes(lambda: (x.view(10, 10) * x.view(10, 10)).sum()) == 4 * 100
    with pytest.raises(ValueError, match="needs a gradient"):
        saved_bytes(lambda: x.detach().sum())


def test_what_was_saved_is_freed_again() -> None:
    x = torch.ones(100, requires_grad=True)
    freed = []

    def forward() -> torch.Tensor:
        y = x.exp()  # keeps its result
        weakref.finalize(y.untyped_storage(), freed.append, True)
        return y.sum()

    assert saved_bytes(forward) == 400
    assert freed


@linux
def test_known_allocation_is_found_though_it_is_freed() -> None:
    with peak_memory(CPU) as peak:
        assert peak.bytes is None
        held = allocate(96)
        del held
    assert 95 * MIB <= peak.bytes <= 112 * MIB


@linux
def test_peaks_are_of_the_block_alone() -> None:
    """Neither what is held from before counts, nor an earlier, higher peak."""
    before = allocate(64)
    with peak_memory(CPU) as first:
        allocate(128)
    with peak_memory(CPU) as second:
        allocate(32)
    assert 127 * MIB <= first.bytes <= 144 * MIB
    assert 31 * MIB <= second.bytes <= 48 * MIB
    del before


@linux
def test_the_most_at_one_time_counts_not_the_sum() -> None:
    with peak_memory(CPU) as peak:
        for _ in range(4):
            allocate(48)
    assert 47 * MIB <= peak.bytes <= 80 * MIB


def test_where_it_cannot_be_measured_nothing_is_claimed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    with peak_memory(torch.device("mps")) as peak:
        pass
    assert peak.bytes is None
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "missing" / "clear_refs")
    with peak_memory(CPU) as peak:
        pass
    assert peak.bytes is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    device = torch.device("cuda")
    kept = torch.ones(16 * MIB, dtype=torch.uint8, device=device)
    with peak_memory(device) as peak:
        torch.ones(64 * MIB, dtype=torch.uint8, device=device)
    assert 63 * MIB <= peak.bytes <= 68 * MIB
    del kept
