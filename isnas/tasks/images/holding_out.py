"""Images held out of the training data, to be tested after every epoch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...runtime.errors import UserError
from ...runtime.randomness import generator
from .dataset import Dataset
from .decoding import Images, LazyImages
from .statistics import channel_statistics


def hold_out(dataset: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """Return the data set with some of the training images of each class held out for validation.

    Parameters
    ----------
    dataset : Dataset
    fraction : float
        Share of each class that is held out, above 0 and below 1: at least one image of a class with two or more, and
        never all of it.
    seed : int
        Which images these are.

    Returns
    -------
    Dataset
        Mean and standard deviation are those of the images that are left.

    Raises
    ------
    UserError
        When `fraction` is out of its range, or every class has one image only.
    """
    if not 0 < fraction < 1:
        raise UserError(f"validate must be 0 or more and below 1, got {fraction:g}")
    labels = dataset.train_labels.cpu()
    held = torch.zeros(len(labels), dtype=torch.bool)
    for number in range(len(dataset.classes)):
        own = (labels == number).nonzero()[:, 0]
        n = len(own)
        amount = min(max(int(fraction * n + 0.5), 1), n - 1)
        if amount > 0:
            order = torch.randperm(n, generator=generator(seed, "validation images", number))
            held[own[order[:amount]]] = True
    if not held.any():
        raise UserError(
            f"validate={fraction:g}: no class of {dataset.name} has an image to spare for validation"
        )
    kept_images, kept_labels = _selected(dataset.train_images, labels, ~held)
    valid_images, valid_labels = _selected(dataset.train_images, labels, held)
    mean, std = channel_statistics(kept_images)
    return replace(
        dataset,
        train_images=kept_images,
        train_labels=kept_labels,
        valid_images=valid_images,
        valid_labels=valid_labels,
        mean=mean,
        std=std,
    )


def _selected(images: Images, labels: Tensor, which: Tensor) -> tuple[Images, Tensor]:
    """Return the images and labels at the places that are marked."""
    positions = which.nonzero()[:, 0]
    left = labels[positions]
    if not isinstance(images, LazyImages):
        return images[positions], left
    starts = images.starts
    if starts is not None:
        counts = left.bincount(minlength=len(starts))
        starts = tuple((counts.cumsum(0) - counts).tolist())
    return replace(images, paths=images.paths.select(positions.tolist()), starts=starts), left
