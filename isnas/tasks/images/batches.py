"""Mini-batches of images, and the division of a data set at random."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...networks.images import ImageNetwork
from ...networks.operations import BatchNorm
from ...runtime.errors import UserError
from ...runtime.processes import check_batch_size, part_of, processes, rank
from ...runtime.randomness import generator
from .augmentation import Augmentation, normalise
from .dataset import Dataset
from .folders import counted

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def split_indices(n: int, fraction: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Divide `range(n)` at random, for instance in one half for weights and one for the code.

    Parameters
    ----------
    n : int
        Number of training images.
    fraction : float
        Share of the first part.
    seed : int

    Returns
    -------
    two Tensors, int64
        Disjoint, together everything, each in ascending order; round(fraction * n) in the first.

    Raises
    ------
    UserError
        If one part would be empty.
    """
    first = round(fraction * n)
    if not 0 < first < n:
        raise UserError(f"cannot split {n} images: a part of {fraction:g} leaves one part empty")
    order = torch.randperm(n, generator=generator(seed, "split"))
    return order[:first].sort().values, order[first:].sort().values


class Batches:
    """Mini-batches as a function of (seed, stream, epoch, step, part) and of nothing else.

    So a resumed run needs no state of its loader, and two streams do not disturb each other. On
    CUDA nothing waits for the device. Move the data set to the device first (`Dataset.to`), and
    only indices are sent; otherwise each batch is, as uint8.

    Where several processes work together each gets its part of every batch, image for image as it
    is in the whole one.

    Parameters
    ----------
    dataset : Dataset
    split : {"train", "test", "valid"}
    batch_size : int
        Images of all parts together.
    indices : Tensor, (n,) int64, optional
        Use these images of the split only, such as a part from `split_indices`.
    seed : int
    stream : str
        Name of this stream of random numbers.
    augment : bool or Augmentation, optional
        Whether, or how, images are varied. True is `dataset.augmentation(cutout)`.
        By default True for "train" only.
    cutout : int, optional
        Side of the cut-out square instead of the data set's, in pixels.
    device : torch.device or str, optional
        Device of the batches; by default that of the labels.
    shuffle : bool, optional
        Whether each epoch has its own random order. By default for "train" only.
    drop_last : bool, optional
        Whether to leave out the incomplete batch at the end. With fewer images than `batch_size`
        the one batch has them all. By default for "train" only.
    part : (int, int), optional
        Yield the part of this process, counted from 0, of so many: the images of all of them, in
        order, are the batch. By default what this process has to do, see `isnas.runtime.processes`.

    Raises
    ------
    UserError
        If an argument is out of its range, or `cutout` is given without `augment=True`; if parts of
        batches would differ in size, other than those of an incomplete batch.

    Warns
    -----
    UserWarning
        If there are fewer images to draw from than `batch_size`.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str = "train",
        *,
        batch_size: int,
        indices: Tensor | None = None,
        seed: int = 0,
        stream: str = "train",
        augment: bool | Augmentation | None = None,
        cutout: int | None = None,
        device: torch.device | str | None = None,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        part: tuple[int, int] | None = None,
    ) -> None:
        stores = {
            "train": (dataset.train_images, dataset.train_labels),
            "test": (dataset.test_images, dataset.test_labels),
        }
        if dataset.valid_images is not None:
            stores["valid"] = (dataset.valid_images, dataset.valid_labels)
        if split not in stores:
            raise UserError(f"split must be one of {', '.join(stores)}, got {split!r}")
        if batch_size < 1:
            raise UserError(f"batch_size must be 1 or more, got {batch_size}")
        training = split == "train"
        augment = training if augment is None else augment
        if cutout is not None and augment is not True:
            raise UserError(f"cutout={cutout} needs augment=True, got augment={augment}")
        self._images, labels = stores[split]
        self.indices = _checked_indices(indices, len(labels))
        self.device = torch.device(labels.device if device is None else device)
        self.batch_size = batch_size
        self.seed = seed
        self.stream = stream
        self.shuffle = training if shuffle is None else shuffle
        self.augmentation = dataset.augmentation(cutout) if augment is True else augment or None
        if self._resized and isinstance(self._images, Tensor):
            raise UserError("random parts, resized, need images that are decoded batch by batch")
        n = len(self.indices)
        if self.shuffle and batch_size > n:
            warnings.warn(
                f"batch_size {batch_size} is larger than the {n} images to draw from: each step takes all {n}",
                stacklevel=2,
            )
        drop_last = training if drop_last is None else drop_last
        complete, rest = divmod(n, batch_size)
        self._steps = complete + (rest > 0 and (complete == 0 or not drop_last))
        self.part = (rank(), processes()) if part is None else part
        if drop_last:
            check_batch_size(min(batch_size, n), self.part[1])
        # Labels are kept beside the images, so that the same indices serve for both.
        self._source = self._images.device if isinstance(self._images, Tensor) else "cpu"
        self._labels = labels.to(self._source)
        self._mean, self._std = (
            torch.tensor(each, dtype=torch.float32, device=self.device)[:, None, None]  # (C, 1, 1)
            for each in (dataset.mean, dataset.std)
        )

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._steps

    @property
    def fewest(self) -> int:
        """Number of images in the smallest batch, of all parts together."""
        return min(self.batch_size, len(self.indices) - (self._steps - 1) * self.batch_size)

    def positions(self, step: int) -> Tensor:
        """Return which images of the split this process gets in a step, where they are not shuffled: (B,) int64."""
        if self.shuffle:
            raise ValueError("shuffled images have other positions in each epoch")
        indices = self.indices[step * self.batch_size : (step + 1) * self.batch_size]
        return indices[part_of(len(indices), *self.part)]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of an epoch, from step `start` on.

        Parameters
        ----------
        epoch : int
        start : int
            Steps to leave out; the others are as if these had been drawn.

        Returns
        -------
        iterator of (x, y)
            x (B, C, H, W) float32, normalised; y (B,) int64; on `device`.

        Raises
        ------
        UserError
            If `start` is not between 0 and the number of steps.
        """
        if not 0 <= start <= len(self):
            raise UserError(f"start must be 0 to {len(self)}, the steps of an epoch; got {start}")
        return self._iterate(epoch, range(start, len(self)))

    def _iterate(self, epoch: int, steps: range) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.indices
        if self.shuffle:
            # Always drawn on the CPU: the order is the same on every device.
            drawn = generator(self.seed, self.stream, "order", epoch)
            order = order[torch.randperm(len(order), generator=drawn)]
        fetch = partial(self._fetch, epoch, _to_device(order, self._source))
        in_memory = isinstance(self._images, Tensor)
        fetched = map(fetch, steps) if in_memory else _one_ahead(fetch, steps)
        for step, (images, labels) in zip(steps, fetched, strict=True):
            yield (
                self._varied(_to_device(images, self.device), epoch, step),
                _to_device(labels, self.device),
            )

    @property
    def _resized(self) -> bool:
        return self.augmentation is not None and self.augmentation.resized

    def _fetch(self, epoch: int, order: Tensor, step: int) -> tuple[Tensor, Tensor]:
        indices = order[step * self.batch_size : (step + 1) * self.batch_size]
        indices = indices[part_of(len(indices), *self.part)]
        if isinstance(self._images, Tensor):
            # Copies whole images: on a CPU ten times as fast as general indexing.
            return self._images.index_select(0, indices), self._labels.index_select(0, indices)
        if self._resized:
            names = (self.seed, self.stream, "resized crop", epoch)
            images = self._images.parts(indices, self.augmentation.colour_jitter, *names)
        else:
            images = self._images[indices]
        return images, self._labels.index_select(0, indices)

    def _varied(self, images: Tensor, epoch: int, step: int) -> Tensor:
        if self.augmentation is None:
            return normalise(images, self._mean, self._std)
        drawn = generator(self.seed, self.stream, "augment", epoch, step, device=images.device)
        whole = min(self.batch_size, len(self.indices) - step * self.batch_size)
        part = part_of(whole, *self.part)
        return self.augmentation(images, drawn, self._mean, self._std, whole=whole, part=part)


def check_batches(
    batches: Batches, network: ImageNetwork, size: tuple[int, int], **options: Any
) -> None:
    """Check that training on these batches gives every batch norm more than one value of a channel.

    The variance of a single value says nothing, and PyTorch refuses to take it. It is one where a batch, or a process's
    part of it, is one image and feature maps are one pixel.

    Parameters
    ----------
    batches : Batches
    network : ImageNetwork
        With all operations that may run.
    size : (int, int)
        Height and width of an image, in pixels.
    **options
        Options of the network's forward pass in training, such as ``auxiliary=True``.

    Raises
    ------
    UserError
        When a norm would get one value.
    """
    parts = batches.part[1]
    norms = [each for each in network.modules() if isinstance(each, BatchNorm)]
    if any(norm.synchronised for norm in norms):
        parts = 1
    if batches.fewest // parts != 1 or _smallest_map(network, size, options) != 1:
        return
    to = f"each of {parts} processes" if parts > 1 else "a step"
    raise UserError(
        f"batch norm would get one value of a channel: batch_size {batches.batch_size} gives {to} one "
        f"of the {counted(len(batches.indices), 'image')}, and the feature maps of its "
        f"{size[0]} x {size[1]} pixels shrink to 1 x 1; choose another batch_size or a larger image_size"
    )


@torch.no_grad()
def _smallest_map(network: ImageNetwork, size: tuple[int, int], options: dict[str, Any]) -> int:
    """Return the number of pixels of the smallest feature map that a batch norm gets; 2 where there is no norm."""
    shapes = copy.deepcopy(network).to("meta").eval()  # no memory, nothing computed
    pixels = [2]
    for norm in shapes.modules():
        if isinstance(norm, BatchNorm):
            norm.register_forward_pre_hook(
                lambda _, inputs: pixels.append(inputs[0].shape[2:].numel())
            )
    shapes(shapes.example(size, "meta"), **options)
    return min(pixels)


def _checked_indices(indices: Tensor | None, n: int) -> Tensor:
    """Return the indices on the CPU, by default all `n`; UserError if one is not in range(n)."""
    if indices is None:
        return torch.arange(n)
    indices = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
    if indices.ndim != 1 or len(indices) == 0:
        raise UserError(f"indices must be a list of one or more, got shape {tuple(indices.shape)}")
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= n:
        raise UserError(f"indices must be 0 to {n - 1}, got {low} to {high}")
    return indices


def _to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return the tensor on `device`, without waiting for a CUDA device."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _one_ahead(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Like `map`, but a thread is at the next item while the caller uses this one's result."""
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for item in items:
            following = pool.submit(function, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
