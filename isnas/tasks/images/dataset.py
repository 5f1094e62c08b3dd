"""A data set of labelled images, as training and tests take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .augmentation import Augmentation


class Images(Protocol):
    """A store of N images: a uint8 tensor (N, C, H, W), or what decodes them when asked."""

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` ((B,) int64) as uint8 (B, C, H, W)."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images for training, and others held out for the test.

    Attributes
    ----------
    name : str
    train_images, test_images : Images, (N, C, H, W) uint8
    train_labels, test_labels : Tensor, (N,) int64
        Positions in `classes`.
    classes : tuple of str
    mean, std : tuple of float, one per channel
        Of the training images, with pixel values between 0 and 1.
    flip : bool
        Whether a mirrored image still belongs to its class.
    cutout : int
        Side of the cut-out square that suits these images, in pixels; 0: none.
    crop : {"pad", "resized"}
        How training images are cropped, see `load_dataset`.
    colour_jitter : float
        How much their colours are varied, see `load_dataset`.
    """

    name: str
    train_images: Images
    train_labels: Tensor
    test_images: Images
    test_labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True
    cutout: int = 0
    crop: str = "pad"
    colour_jitter: float = 0.0

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return self.train_images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.train_images.shape[2], self.train_images.shape[3]

    def augmentation(self, cutout: int | None = None) -> Augmentation:
        """Return the usual augmentation of these images.

        Padded crops come from an eighth of the height as padding: 4 pixels for 32 x 32. `cutout`
        replaces the data set's own side of the square.
        """
        resized = self.crop == "resized"
        return Augmentation(
            padding=0 if resized else self.size[0] // 8,
            flip=self.flip,
            cutout=self.cutout if cutout is None else cutout,
            resized=resized,
            colour_jitter=self.colour_jitter,
        )

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with labels and images on `device`.

        Images that are decoded when asked stay where they are.
        """
        stores = {
            name: store.to(device)
            for name in ("train_images", "test_images")
            if isinstance(store := getattr(self, name), Tensor)
        }
        return replace(
            self,
            **stores,
            train_labels=self.train_labels.to(device),
            test_labels=self.test_labels.to(device),
        )
