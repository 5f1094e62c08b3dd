"""A classifier of images as scikit-learn knows classifiers: `fit`, `predict`, `predict_proba`, `score`.

It searches an architecture (or takes one that is given), trains it from scratch, and keeps the network. It writes
nothing to the disk: for runs that are recorded and can be resumed there is `isnas.search`.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from . import spaces
from .networks.core import CellNetwork
from .networks.registry import family
from .runs.evaluation import evaluation_schema, from_scratch
from .runs.loop import drive
from .runs.training import Training
from .runtime.devices import resolve_device
from .runtime.errors import UserError, short
from .searches.base import Setting
from .searches.registry import method_named
from .spaces.base import Space
from .spaces.genotype import Genotype
from .tasks.images import Dataset
from .tasks.images.augmentation import normalise
from .tasks.images.statistics import channel_statistics
from .tasks.registry import task_of

SMALLEST = 4
"""Least side of an image that networks are made for, in pixels; smaller ones get a black margin."""


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """Classifier of images whose architecture is searched.

    Images are arrays (N, H, W) of grey values or (N, H, W, C) with one or three channels; rows (N, H * W) of a matrix
    are taken as square grey images, filled up with zeros where their length is no square number. uint8 values are taken
    as they are; others are scaled such that the training images' least value is black and the largest is white, and
    rounded to 256 levels.

    Parameters
    ----------
    method : str
        Method of the search, see `isnas.METHODS`.
    space : str
        Search space.
    genotype : str or None
        A genotype, or the name of a published one, to train without a search; then `method` has no meaning.
    search_epochs, epochs : int
        Epochs of the search, and of the training from scratch.
    batch_size : int
        Images in a step; at most half of the training images in a search.
    channels, cells : int or None
        Width and depth of the network; by default the space's quick ones.
    learning_rate : float
        Learning rate of the weights at the beginning.
    flip : bool
        Whether training images are mirrored at random.
    padding : bool
        Whether training images are moved at random, by up to an eighth of their height.
    device : str
        auto, cpu, cuda, ...
    random_state : int or None
        Seed of everything random; None: 0, so that the same call gives the same network.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    n_features_in_ : int
        Length of rows, or height of images.
    image_shape_ : tuple of int
        (C, H, W).
    genotype_ : str
        The architecture.
    network_ : CellNetwork
        On the CPU, in evaluation mode.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> digits = load_digits()
    >>> model = isnas.ImageClassifier(genotype="ISTA_onestage", flip=False)  # doctest: +SKIP
    >>> model.fit(digits.images[:1000], digits.target[:1000])  # doctest: +SKIP
    >>> model.score(digits.images[1000:], digits.target[1000:])  # doctest: +SKIP
    """

    def __init__(
        self,
        method: str = "ista-two-stage",
        space: str = "darts",
        *,
        genotype: str | None = None,
        search_epochs: int = 15,
        epochs: int = 15,
        batch_size: int = 64,
        channels: int | None = None,
        cells: int | None = None,
        learning_rate: float = 0.05,
        flip: bool = True,
        padding: bool = True,
        device: str = "auto",
        random_state: int | None = None,
    ) -> None:
        self.method = method
        self.space = space
        self.genotype = genotype
        self.search_epochs = search_epochs
        self.epochs = epochs
        self.batch_size = batch_size
        self.channels = channels
        self.cells = cells
        self.learning_rate = learning_rate
        self.flip = flip
        self.padding = padding
        self.device = device
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn is to know: images are arrays of more than two dimensions, rows are taken, too."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags

    def fit(self, X: Any, y: Any) -> ImageClassifier:
        """Search and train on images.

        Parameters
        ----------
        X : array, (N, H, W), (N, H, W, C) or (N, H * W)
        y : array, (N,)
            Labels of any kind.

        Raises
        ------
        UserError
            A ValueError: when an argument is not usable.
        """
        X, y = validate_data(self, X, y, allow_nd=True, dtype=None, y_numeric=False)
        check_classification_targets(y)
        if 0 in X.shape:
            raise UserError(f"images must have pixels, got an array of the shape {X.shape}")
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError("ImageClassifier needs two or more classes, but y has one class")
        X = _numbers(X)
        self.range_ = _range_of(X)
        self.shape_given_ = X.shape[1:]
        images = self._images(X)
        self.image_shape_ = tuple(images.shape[1:])
        mean, std = channel_statistics(images)
        self.mean_, self.std_ = mean, std
        data = Dataset(
            name="images of fit",
            train_images=images,
            train_labels=torch.from_numpy(labels.astype(np.int64)),
            test_images=images[:0],
            test_labels=torch.empty(0, dtype=torch.int64),
            classes=tuple(map(str, self.classes_)),
            mean=mean,
            std=std,
            flip=self.flip,
            crop="pad" if self.padding else "whole",
        )
        network = self._trained(data)
        self.genotype_ = str(Genotype.of(network))
        self.network_ = network.cpu().eval()
        return self

    def _trained(self, data: Dataset) -> CellNetwork:
        """Return a network, searched where no genotype is given, and trained."""
        self._check_kinds()
        device = resolve_device(self.device)
        shape = {"channels": self.channels, "cells": self.cells}
        # a smaller set is taken whole in every step
        n = len(data.train_labels)
        common = {
            **{name: value for name, value in shape.items() if value is not None},
            "learning_rate": self.learning_rate,
            "seed": self._seed(),
            "device": self.device,
        }
        if self.genotype is None:
            space = _of_images(spaces.get(self.space))
            method = method_named(self.method, space)
            size = min(self.batch_size, max(n // 2, 2))
            options = method.schema(space).compose(
                **common, epochs=self.search_epochs, batch_size=size, evaluation_epochs=0
            )
            setting = Setting(space, task_of(space), data, device, options)
            method.search.check(setting)
            search = method.create(setting)
            for _ in drive(search):
                pass
            genotype = search.genotype()
        else:
            genotype = Genotype.meant(self.genotype)
            _of_images(genotype.space)
        recipe = evaluation_schema(genotype.space).compose(
            **common, epochs=self.epochs, batch_size=min(self.batch_size, n), cutout=0
        )
        task = task_of(genotype.space)
        network = from_scratch(genotype, recipe, task, data)
        training = Training(network, recipe, task, data, device)
        for _ in drive(training):
            pass
        return training.network

    def _check_kinds(self) -> None:
        """Raise a `UserError` for arguments that are used before options check theirs, or are no options."""
        if not isinstance(self.batch_size, Integral):
            raise UserError(f"batch_size must be a whole number, got {short(self.batch_size)}")
        for name in ("flip", "padding"):
            if not isinstance(value := getattr(self, name), (bool, np.bool_)):
                raise UserError(f"{name} must be true or false, got {short(value)}")

    def _seed(self) -> int:
        state = self.random_state
        if state is None:
            return 0
        if isinstance(state, Integral):
            return int(state)
        if isinstance(state, np.random.RandomState):
            return int(state.randint(2**31 - 1))
        if isinstance(state, np.random.Generator):
            return int(state.integers(2**31 - 1))
        raise UserError(
            f"random_state must be a whole number, a generator of NumPy or None, got {short(state)}"
        )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (N, classes), in the order of `classes_`."""
        return self._logits(X).softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the label of the highest probability of each image, (N,)."""
        answers = self._logits(X).argmax(1).numpy()  # says so when nothing is fitted yet
        return self.classes_[answers]

    @torch.no_grad()
    def _logits(self, X: Any) -> Tensor:
        check_is_fitted(self)
        X = _numbers(validate_data(self, X, allow_nd=True, dtype=None, reset=False))
        if X.shape[1:] != self.shape_given_:
            raise UserError(f"images have the shape {X.shape[1:]}, but fit saw {self.shape_given_}")
        images = self._images(X)
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean_, self.std_))
        # in parts: feature maps of many images need much memory
        parts = [self.network_(normalise(part, mean, std)) for part in images.split(256)]
        return torch.cat(parts).double()

    def _images(self, X: np.ndarray) -> Tensor:
        """Return what was given as images, (N, C, H, W) uint8."""
        if X.ndim == 2:
            side = math.isqrt(X.shape[1] - 1) + 1
            rows = np.zeros((len(X), side * side), dtype=X.dtype)
            rows[:, : X.shape[1]] = X
            X = rows.reshape(-1, side, side)
        if X.ndim == 3:
            X = X[..., None]
        if X.ndim != 4 or X.shape[3] not in (1, 3):
            raise UserError(
                f"images must have the shape (N, H, W) or (N, H, W, C) with C 1 or 3, got {X.shape}"
            )
        if X.dtype != np.uint8:
            low, high = self.range_
            # halves first: the difference of large numbers of opposite signs may overflow
            share = (X / 2 - low / 2) / (high / 2 - low / 2)
            X = np.rint(255 * share.clip(0, 1)).astype(np.uint8)
        images = torch.from_numpy(np.ascontiguousarray(X)).permute(0, 3, 1, 2).contiguous()
        missing = [max(SMALLEST - side, 0) for side in images.shape[2:]]
        if any(missing):
            images = torch.nn.functional.pad(images, (0, missing[1], 0, missing[0]))
        return images

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without live modules: the network as its shape and its weights in arrays."""
        state = dict(super().__getstate__())
        network = state.pop("network_", None)
        if network is not None:
            state["weights_"] = {
                name: value.numpy().copy() for name, value in network.state_dict().items()
            }
            state["network_options_"] = network.options
            state["genotype_json_"] = Genotype.of(network).to_json()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the network anew from its shape and its weights."""
        state = dict(state)
        weights = state.pop("weights_", None)
        options, data = state.pop("network_options_", None), state.pop("genotype_json_", None)
        super().__setstate__(state)
        if weights is None:
            return
        genotype = Genotype.from_json(data)
        network = family(genotype.space).build_network(genotype, options)
        network.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in weights.items()})
        self.network_ = network.eval()


def _of_images(space: Space) -> Space:
    """Return a space whose networks are for images; raise a `UserError` for another one."""
    if space.task != "images":
        raise UserError(f"ImageClassifier needs a space of images, but {space.name} is not one")
    return space


def _numbers(X: np.ndarray) -> np.ndarray:
    """Return an array of uint8 as it is, and others in float64."""
    return X if X.dtype == np.uint8 else X.astype(np.float64)


def _range_of(X: np.ndarray) -> tuple[float, float]:
    """Return the values that become black and white; a range without width gets one."""
    if X.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(X.min()), float(X.max())
    return (low, high) if high > low else (low, low + 1.0)
