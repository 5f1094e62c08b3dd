"""Memory that a piece of work needs: its peak, and what is kept for the backward pass."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def saved_bytes(forward: Callable[[], Tensor], kept: Iterable[Tensor] = ()) -> int:
    """Return the bytes that autograd keeps for the backward pass: on any device, exactly, each storage once.

    Parameters
    ----------
    forward : callable
        The forward pass; returns a tensor that needs a gradient.
    kept : iterable of Tensor
        Tensors that are in memory anyway, such as weights and images, and do not count.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in kept}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()  # held, so that its address stays its own
        saved[storage.data_ptr()] = storage
        # nothing is kept in its place: an operation that kept its own result would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing):
        result = forward()
    if not result.requires_grad:
        raise ValueError("the forward pass must return a tensor that needs a gradient")
    return sum(storage.nbytes() for place, storage in saved.items() if place not in known)


@dataclass
class Peak:
    """Result of `peak_memory`.

    Parameters
    ----------
    bytes : int or None
        Known when the block has ended; None where it cannot be measured.
    """

    bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the most memory that was in use inside the block above what was in use before it.

    On CUDA that is what PyTorch allocated on the device. On the CPU it is the process's resident memory, as Linux
    counts it, exact to a fraction of a MiB: freed memory is given back first, so that the block cannot hide in it, and
    the kernel's mark of the peak is set back. Pages that stay resident from before and are used again are not seen;
    what other threads of the process do is. Elsewhere nothing is measured.

    Parameters
    ----------
    device : torch.device
        The device that works.

    Yields
    ------
    Peak
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    resident = _reset() if device.type == "cpu" else None
    yield peak
    highest = None if resident is None else _status("VmHWM")
    if highest is not None:
        peak.bytes = max(0, highest - resident)


def _reset() -> int | None:
    """Give freed memory back, set the mark of the peak back, and return the bytes in use; None where not on Linux."""
    with suppress(OSError, AttributeError, TypeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")  # proc(5): resets VmHWM
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    """Return a line of the process's status in bytes."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return 1024 * int(value.split()[0])
    return None
