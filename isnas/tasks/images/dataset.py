"""A data set of labelled images, as training and tests take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .augmentation import Augmentation
from .decoding import Images
from .fingerprint import fingerprint_of
from .folders import Paths


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
        Statistics of the training images, with pixel values between 0 and 1.
    flip : bool
        Whether a mirrored image still belongs to its class.
    cutout : int
        Side of the cut-out square that suits these images, in pixels; 0: none.
    crop : {"pad", "resized", "whole"}
        How training images are cropped, see `load_dataset`; whole: not at all.
    colour_jitter : float
        How much their colours are varied, see `load_dataset`.
    valid_images, valid_labels : Images and Tensor, or None
        Images that are held out of the training data and tested after every epoch, see `hold_out`.
    test_paths : Paths or None
        The files of the test images; None where they come from no folder.
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
    test_paths: Paths | None = None
    valid_images: Images | None = None
    valid_labels: Tensor | None = None

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return self.train_images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        return self.train_images.shape[2], self.train_images.shape[3]

    def augmentation(self, cutout: int | None = None, flip: bool = True) -> Augmentation:
        """Return the usual augmentation of these images.

        Padded crops come from an eighth of the height as padding: 4 pixels for 32 x 32.

        Parameters
        ----------
        cutout : int, optional
            Side of the square instead of the data set's own, in pixels; 0: none.
        flip : bool
            Whether images may be mirrored, where the data set allows it.
        """
        resized = self.crop == "resized"
        return Augmentation(
            padding=self.size[0] // 8 if self.crop == "pad" else 0,
            flip=self.flip and flip,
            cutout=self.cutout if cutout is None else cutout,
            resized=resized,
            colour_jitter=self.colour_jitter,
        )

    def fingerprint(self) -> str:
        """Return a short text that differs where the data do: 16 hexadecimal digits, computed once.

        It is a hash of the names of the classes, of the labels, and of all pixels of images in memory. Of images that
        are decoded when asked, it takes their paths below the folder, their sizes and some bytes of up to 100,000
        files. It depends neither on where a folder lies nor on the times of its files.

        Raises
        ------
        UserError
            If a file cannot be read.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_of(self)

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with labels and images on `device`.

        Images that are decoded when asked stay where they are.
        """
        stores = {
            name: store.to(device)
            for name in ("train_images", "test_images", "valid_images", "valid_labels")
            if isinstance(store := getattr(self, name), Tensor)
        }
        return replace(
            self,
            **stores,
            train_labels=self.train_labels.to(device),
            test_labels=self.test_labels.to(device),
        )
