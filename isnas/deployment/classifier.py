"""A trained network together with the preparation of its images and the names of its classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..networks.images import ImageNetwork
from ..runs.saved import load_network, network_file, saved_data
from ..runtime.devices import resolve_device
from ..runtime.errors import UserError
from ..tasks.image_task import ImageTask
from ..tasks.images import Preparation
from ..tasks.images.preparation import Picture, as_list, refusal
from ..tasks.registry import task_of


@dataclass(frozen=True, eq=False)
class Prediction:
    """A network's prediction for one image.

    Parameters
    ----------
    classes : tuple of str
        All classes.
    probabilities : ndarray, (len(classes),) float64
        The softmax of the network's scores, in the order of `classes`.
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray

    @property
    def index(self) -> int:
        """Position of the most probable class among `classes`; of equal ones the first."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.classes[self.index]

    @property
    def probability(self) -> float:
        """Probability of the most probable class, 0 to 1."""
        return float(self.probabilities[self.index])

    def top(self, k: int) -> list[tuple[str, float]]:
        """Return the `k` most probable classes, or all if there are fewer, with their probabilities; the best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]

    def __repr__(self) -> str:
        """Return the most probable class with its probability."""
        return f"Prediction({self.label!r}, {self.probability:.4f})"


class Classifier:
    """Tells what is on images: prepares them as the network's training recorded it, and runs the network.

    Use `load_classifier`.

    Parameters
    ----------
    network : ImageNetwork
        In evaluation mode.
    classes : tuple of str
    preprocess : Preparation
        Makes images into what the network takes: ``preprocess(images)`` is (B, C, H, W) float32, on the CPU.

    Raises
    ------
    UserError
        When the classes or the channels of images are not those of the network.
    """

    def __init__(
        self, network: ImageNetwork, classes: tuple[str, ...], preprocess: Preparation
    ) -> None:
        if len(classes) != network.options.classes:
            raise UserError(
                f"the network is for {network.options.classes} classes, got {len(classes)} names"
            )
        if preprocess.channels != network.options.in_channels:
            raise UserError(
                f"the network is for images of {network.options.in_channels} channels, they are "
                f"prepared with {preprocess.channels}"
            )
        self.network = network
        self.classes = classes
        self.preprocess = preprocess

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training images' pixels, 0 to 1, by channel: it is subtracted."""
        return self.preprocess.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training images' pixels, by channel: what is left is divided by it."""
        return self.preprocess.std

    def __call__(self, images: Picture | Iterable[Picture]) -> Any:
        """Return what the network says of images.

        Parameters
        ----------
        images
            A path, a Pillow image, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W), of uint8 or of
            floating point from 0 to 1. Or several of them: in an iterable, or as an array (B, H, W, C) or a tensor
            (B, C, H, W).

        Returns
        -------
        Prediction, or a list of one for each image where several are given

        Raises
        ------
        UserError
            When images cannot be read: it names them all, up to ten. See `iterate` to go on without them.
        """
        pictures, single = as_list(images)
        found = list(self.iterate(pictures))
        failures = {i: each for i, each in enumerate(found) if isinstance(each, UserError)}
        if failures:
            raise refusal(failures)
        return found[0] if single else found

    def iterate(
        self, images: Iterable[Picture], batch_size: int = 64
    ) -> Iterator[Prediction | UserError]:
        """Yield for each image what the network says of it, or the error that names it where it cannot be read.

        Images are read and forgotten batch by batch, so there may be any number of them.

        Parameters
        ----------
        images : iterable
            Each as calling takes one image.
        batch_size : int
            Images that the network gets at a time.

        Raises
        ------
        UserError
            When the network gives no finite scores.
        """
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        rest = iter(images)
        while batch := list(itertools.islice(rest, batch_size)):
            pixels, failures = self.preprocess.pixels(batch)
            good = [i for i in range(len(batch)) if i not in failures]
            rows = iter(self._probabilities(pixels[good]))
            for i in range(len(batch)):
                yield failures[i] if i in failures else Prediction(self.classes, next(rows))

    @torch.no_grad()
    def _probabilities(self, pixels: Tensor) -> np.ndarray:
        """Return the probabilities of all classes, (B, classes) float64, for pixels, (B, C, H, W) uint8."""
        if len(pixels) == 0:
            return np.empty((0, len(self.classes)))
        device = next(self.network.parameters()).device
        logits = self.network(self.preprocess.normalised(pixels.to(device)))
        if not logits.isfinite().all():
            raise UserError("the network gives no finite scores: its weights are not usable")
        # in float64, where the softmax makes no two different scores equal
        return logits.cpu().double().softmax(1).numpy()

    def __repr__(self) -> str:
        """Return what it is for."""
        size = self.preprocess.size
        return f"Classifier({len(self.classes)} classes, {size}x{size} pixels)"


def load_classifier(path: str | Path, device: str = "cpu") -> Classifier:
    """Load a trained network with the preparation of its images.

    Parameters
    ----------
    path : path
        A network.pt, the network.json beside it, or the directory of a run that has written them; also an earlier
        version's.
    device : str
        auto, cpu, cuda, cuda:N or mps.

    Raises
    ------
    UserError
        When a file is missing or damaged, the network is not one of images, or it is not known how its images are to be
        prepared.

    Examples
    --------
    >>> classifier = isnas.load_classifier("runs/mine")  # doctest: +SKIP
    >>> classifier("cat.jpg").label  # doctest: +SKIP
    'cat'
    """
    file = network_file(path)
    network, saved = load_network(file), saved_data(file)
    task = task_of(network.space)
    if not isinstance(task, ImageTask):
        raise UserError(f"the network in {file} is not one of images, but of the task {task.name}")
    described = file.with_suffix(".json")
    if not saved:
        raise UserError(
            f"{described} does not say how images are prepared for the network: it has no data; "
            f"isnas.save_network(network, path, data) writes them"
        )
    classes = saved.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{described}: classes must be a list of names")
    preprocess = Preparation.recorded(saved, described)
    try:
        classifier = Classifier(network, tuple(classes), preprocess)
    except UserError as error:
        raise UserError(f"{described}: {error}") from None
    network.to(resolve_device(device))
    return classifier
