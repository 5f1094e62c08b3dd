"""Several processes that train one network together, as torchrun starts them: one for each device, on any machines.

    torchrun --nproc-per-node 2 -m isnas train --sync-batch-norm

Every process has the whole network and works on its part of each batch; then the gradients are averaged. All draws are
those of the whole batch (order, augmentation, dropped paths), of which a process takes its part. So where batch norm is
synchronised, a step does what one process does with the whole batch, up to rounding.

PyTorch's DistributedDataParallel is not used. It registers all parameters once and sends them all: with a super-net, of
which a step runs s operations per node, it would fill with zeros and send the gradients of every candidate, or have to
be made anew after each recovery. Here the gradients that are there are sent, in a few flat buckets after the backward
pass. They are the same on all processes, for the recovery is computed by the first one and shared. What is lost is that
sending does not overlap with the backward pass.

A process that works alone has nothing to do with all this: every function returns at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .errors import UserError
from .parent import stop_with_parent

T = TypeVar("T")

ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""The environment variables by which torchrun informs its processes."""

BUCKET_BYTES = 25 * 2**20
"""Gradients are sent in buckets of this size, as DistributedDataParallel does."""

_store: dist.Store | None = None
_joins = 0


@contextmanager
def joined() -> Iterator[None]:
    """Work together with the other processes that torchrun has started, inside the block.

    Nothing happens where there are none, or in a block within the block. Tensors on CUDA go through NCCL, those on the
    CPU through gloo.

    Raises
    ------
    UserError
        When the others cannot be reached.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    here = dist.is_available() and set(ENVIRONMENT) <= set(os.environ)
    if alone or not here or dist.is_initialized():
        yield
        return
    global _store, _joins
    # Its functions' default is the group that exists when it is first imported, which optimizers do. That one would
    # never end, nor would its threads, and a process that leaves with threads of C++ may abort.
    import torch.distributed.nn

    stop_with_parent()
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    if cuda and local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    try:
        with _reported():
            if _store is None:
                _store, _, _ = next(dist.rendezvous("env://"))
            _joins += 1
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                # of its own: what an earlier block has left there must not be taken for this one's
                store=dist.PrefixStore(f"isnas/{_joins}", _store),
                rank=int(os.environ["RANK"]),
                world_size=int(os.environ["WORLD_SIZE"]),
            )
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def processes() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def is_first() -> bool:
    """Return whether this process is the one that writes and prints."""
    return rank() == 0


def local_rank() -> int:
    """Return the number of this process among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def part_of(number: int, rank: int, processes: int) -> slice:
    """Return which of `number` things in a row belong to a process; as many for each as can be.

    Examples
    --------
    >>> [part_of(10, rank, 3) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    return slice(number * rank // processes, number * (rank + 1) // processes)


def check_batch_size(number: int, processes: int) -> None:
    """Check that a batch of so many images can be divided among so many processes.

    Raises
    ------
    UserError
        When it cannot: the mean of the parts' gradients would not be the gradient of the whole.
    """
    if number % processes:
        raise UserError(
            f"a batch of {number} images cannot be divided among {processes} processes: choose "
            f"another batch_size"
        )


@contextmanager
def together() -> Iterator[None]:
    """Raise a `UserError` on all processes when one has raised it in the block, so that none waits for it.

    All processes must come to the block; a process may fail in it only after what communication there is in it.
    """
    if processes() == 1:
        yield
        return
    problem = None
    try:
        yield
    except UserError as error:
        problem = error
    problems: list[str | None] = [None] * processes()
    with _reported():
        dist.all_gather_object(problems, None if problem is None else str(problem))
    if problem is not None:
        raise problem
    for text in problems:
        if text is not None:
            raise UserError(text)


def broadcast(function: Callable[[], T]) -> T:
    """Call a function on the first process only and return what it returned, plain data or tensors, on all of them."""
    if processes() == 1:
        return function()
    box: list[Any] = [None]
    with together():
        if is_first():
            box = [function()]
    with _reported():
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def on_first(function: Callable[[], Any]) -> None:
    """Call a function, which writes, on the first process only."""
    with together():
        if is_first():
            function()


def any_of(flag: bool) -> bool:
    """Return whether the flag is true on any process."""
    if processes() == 1:
        return flag
    value = torch.tensor(int(flag))
    with _reported():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Return the sum of the processes' tensors; alone, the tensor itself."""
    if processes() == 1:
        return tensor
    total = tensor.clone(memory_format=torch.contiguous_format)
    with _reported():
        dist.all_reduce(total)
    return total


@torch.no_grad()
def share_state(module: nn.Module) -> None:
    """Give all processes the first one's parameters and buffers: other machines may have drawn other last digits."""
    if processes() == 1:
        return
    with _reported():
        for bucket in _buckets([*module.parameters(), *module.buffers()]):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.broadcast(flat, src=0)
            _put(flat, bucket)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients that are there by their means over the processes.

    Parameters
    ----------
    parameters : iterable of Tensor
        On every process the same ones have gradients.
    """
    number = processes()
    if number == 1:
        return
    with _reported():
        sent = []
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in sent:
            work.wait()
            _put(flat.div_(number), bucket)


def averaging(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer average its parameters' gradients over the processes before every step."""
    if processes() > 1:
        optimizer.register_step_pre_hook(
            lambda *_: average_gradients(p for g in optimizer.param_groups for p in g["params"])
        )


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in groups of one type, each of about `BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size >= BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


def _put(flat: Tensor, bucket: list[Tensor]) -> None:
    """Put the pieces of a flat tensor back where they came from."""
    pieces = flat.split([tensor.numel() for tensor in bucket])
    for tensor, piece in zip(bucket, pieces, strict=True):
        tensor.copy_(piece.view(tensor.shape))


def once(text: str) -> bool:
    """Return whether this process is the first of all to say this text: a text that all would print is printed once."""
    if processes() == 1:
        return True
    if _store is None:
        return is_first()
    key = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    try:
        return _store.add(f"isnas said {key}", 1) == 1
    except RuntimeError:  # who kept the store has ended
        return True


@contextmanager
def _reported() -> Iterator[None]:
    """Turn the errors of a lost connection into one that says what it means."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"another process of this run has stopped or cannot be reached: {reason}"
        ) from error


def synchronised_batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """Batch norm in training with the statistics of all processes' images; the parameters are `F.batch_norm`'s.

    For any device (PyTorch's own, `nn.SyncBatchNorm`, needs CUDA). As there, a gradient is that of the sum of all
    processes' losses, so that parameters' gradients are right once they are averaged. One message each way: mean,
    variance and number in the forward pass, two sums per channel in the backward pass.
    """
    return _SynchronisedNorm.apply(x, weight, bias, running_mean, running_var, momentum, eps)


_IMAGES = (0, 2, 3)


class _SynchronisedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        channels = x.shape[1]
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        own_var, own_mean = torch.var_mean(exact, _IMAGES, correction=0)
        own = torch.cat([own_mean, own_var, own_mean.new_full((1,), x.numel() // channels)])
        every = own.new_empty(processes() * len(own))
        with _reported():
            # the same by its new name, where there is one
            gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
            gather(every, own)
        means, variances, counts = every.view(processes(), -1).split([channels, channels, 1], 1)
        n = counts.sum()
        mean = (counts * means).sum(0) / n
        var = (counts * (variances + (means - mean).square())).sum(0) / n
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (n / (n - 1)), momentum)
        ctx.save_for_backward(x, weight, mean, var, n)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, n = ctx.saved_tensors
        needed = ctx.needs_input_grad[0]
        # the gradients as if the statistics were constants, and then what comes through these
        unused = mean.new_empty(0)  # not None: CUDA's kernels want tensors
        lower, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            upper, x, weight, mean, var, unused, unused, False, ctx.eps, [needed, True, True]
        )
        if needed:
            sums = all_reduce_sum(torch.cat([of_weight, of_bias])) / n
            mean_product, mean_upper = sums.chunk(2)
            scale = (var + ctx.eps).rsqrt()
            slope, offset = weight * scale.square() * mean_product, weight * scale * mean_upper
            through = (x - mean[:, None, None]).mul_(slope[:, None, None])
            lower.sub_(through.add_(offset[:, None, None]))
        return lower, of_weight, of_bias, None, None, None, None
