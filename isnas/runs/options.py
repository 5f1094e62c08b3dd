"""Options of how a run is carried out, whatever it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..runtime.options import BaseOptions


@dataclass(frozen=True)
class RuntimeOptions(BaseOptions):
    """Options of carrying out a run.

    Parameters
    ----------
    seed : int
        Seed of everything random.
    device : str
        auto, cpu, cuda, cuda:N or mps; auto takes an accelerator where there is one.
    threads : int
        CPU threads; 0: PyTorch's number, but 1 for samples as tiny as digits, where threads only wait for each other.
    sync_batch_norm : bool
        Whether batch norm takes the statistics of all processes' samples, where several train together (torchrun).
    precision : {"float32", "bfloat16"}
        Number format of convolutions and products while training; weights, statistics, codes and tests stay float32.
        bfloat16 is for GPUs: feature maps take half the memory. On a CPU it can be slower than float32. In float32 a
        GPU's convolutions may round their factors to TF32, PyTorch's default.
    layout : {"fastest", "channels-last", "contiguous"}
        How weights of convolutions lie in memory, which feature maps follow. fastest: channels last on a CPU, as they
        are elsewhere. On a CPU channels last rounds more in float32, see docs/method.md.
    compile : bool
        Whether to compile a network once its architecture is fixed (torch.compile). That takes minutes, and makes every
        step shorter: for long training. It needs a C++ compiler on a CPU.
    checkpoint_steps : int
        Write a checkpoint every so many steps, besides those at the ends of epochs; 0: none.
    tensorboard : bool
        Whether to write TensorBoard events into the run directory, too.
    """

    least: ClassVar[dict[str, float]] = {"seed": 0, "threads": 0, "checkpoint_steps": 0}
    incidental: ClassVar[tuple[str, ...]] = ("device", "checkpoint_steps", "tensorboard")

    seed: int = 0
    device: str = "auto"
    threads: int = 0
    sync_batch_norm: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    layout: Literal["fastest", "channels-last", "contiguous"] = "fastest"
    compile: bool = False
    checkpoint_steps: int = 0
    tensorboard: bool = False
