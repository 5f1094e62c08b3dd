"""Devices: which one is used, whether it can compile, and how many CPU threads work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import UserError, printable, short
from .processes import local_rank, processes

DEVICES = "auto, cpu, cuda, cuda:N or mps"


def resolve_device(name: str | torch.device) -> torch.device:
    """Return the device, or that of this name; ``auto`` is CUDA, else MPS, else the CPU.

    Where several processes work together ``cuda`` is for each the one of its number on its machine.

    Raises
    ------
    UserError
        When there is no such device here.
    """
    if isinstance(name, torch.device):
        name = str(name)
    if not isinstance(name, str):
        raise UserError(f"device must be one of {DEVICES}, got {short(name)}")
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available() and processes() == 1
            else "cpu"
        )
    if processes() > 1 and name.startswith(("cuda:", "mps")):
        raise UserError(f"device {name!r} is one for all processes; expected auto, cpu or cuda")
    if processes() > 1 and name == "cuda":
        name = f"cuda:{local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device {name!r} cannot be used here: {_why_not(name, error)}; expected {DEVICES}"
        ) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device must be one of {DEVICES}, got {name!r}")
    return device


def _why_not(name: str, error: Exception) -> str:
    """Return why a device cannot be used."""
    kind = name.partition(":")[0]
    if kind == "cuda":
        if not torch.backends.cuda.is_built():
            return "this PyTorch is built without CUDA"
        count = torch.cuda.device_count()
        if not count:
            return "PyTorch finds no GPU with a driver for CUDA"
        if name.partition(":")[2].isdecimal() and int(name.partition(":")[2]) >= count:
            return f"the GPUs here are cuda:0 to cuda:{count - 1}"
    if kind == "mps":
        if not torch.backends.mps.is_built():
            return "this PyTorch is built without MPS"
        if not torch.backends.mps.is_available():
            return "MPS is for Macs with a GPU of Apple's and macOS 12.3 or newer"
    if kind not in ("cpu", "cuda", "mps"):
        return "there is no such device"
    return printable(str(error).partition("\n")[0], 150)


def check_compiler(device: torch.device) -> None:
    """Raise a `UserError` unless torch.compile works for this device; what it needs differs from machine to machine."""
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except Exception as error:  # of many kinds
        raise UserError(
            f"compile: torch.compile does not work here: {str(error).strip().splitlines()[0]}"
        ) from None


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Use so many threads inside the block. Sums, and so all results, depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
