"""The task of telling what is on an image: classification by cross-entropy, measured by accuracy."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..networks.core import Coefficients, drop_path
from ..networks.hand_made import HAND_MADE
from ..networks.images import ImageNetwork, drop_skips
from ..networks.operations import kept_statistics
from ..runtime.errors import UserError, short
from ..runtime.forms import Form, List, Number, Text, Whole
from ..runtime.options import BaseOptions, Composition
from ..runtime.processes import all_reduce_sum, share_state
from ..runtime.randomness import generator
from .base import Measure, OptimizerOptions, Run, Task
from .exhibits import Exhibit
from .images import Batches, Dataset, LazyImages, check_batches, load_dataset, split_indices
from .images.examination import Examination
from .images.inspection import FolderInspection, inspect_folder
from .images.sources import NAMES

TINY_SIDE = 16
"""Side in pixels up to which one CPU thread is as fast as several, and does not suffer from a busy machine."""

Batch = tuple[Tensor, Tensor]
"""Images, (B, C, H, W), and labels, (B,)."""


@dataclass(frozen=True)
class ImageOptions(BaseOptions):
    """Options that name images and say how they are prepared.

    Parameters
    ----------
    data : str
        Images: digits, cifar10, cifar100, or a directory with train/CLASS/ and test/CLASS/ (or val/CLASS/) in it.
    data_root : str
        Where cifar10 and cifar100 are looked for and downloaded to.
    download : bool
        Whether to download cifar10 or cifar100 when it is not there.
    image_size : int or None
        Side that images are resized and cropped to; by default a directory's median shorter side, at most 64.
    crop : {"pad", "resized"}
        How training images are cropped: padded (CIFAR), or random parts of a directory's original images, resized, and
        the centre of test images (ImageNet).
    colour_jitter : float
        Largest relative change of brightness, contrast and saturation, half of it of hue; with --crop resized only.
    corrupt : {"refuse", "skip"}
        What to do with a directory's images that cannot be decoded; skip warns of each and uses others instead.
    colour : {"rgb", "grey"}
        Whether a directory's images have three channels, or one of grey.
    flip : bool
        Whether training images are mirrored at random; mirrored text, arrows or digits are other things.
    split : float or None
        Share of a directory's images to train on, in each class, where it holds none out for the test: --split 0.8.
    validate : float
        Share of each class's training images that nothing is trained on, and a network being trained is tested on after
        every epoch; always the same images; 0: none.
    """

    least: ClassVar[dict[str, float]] = {"image_size": 4, "colour_jitter": 0, "validate": 0}
    above_zero: ClassVar[tuple[str, ...]] = ("split",)
    below_one: ClassVar[tuple[str, ...]] = ("colour_jitter", "split", "validate")
    incidental: ClassVar[tuple[str, ...]] = ("data_root", "download")

    data: str = "digits"
    data_root: str = "data"
    download: bool = False
    image_size: int | None = None
    crop: Literal["pad", "resized"] = "pad"
    colour_jitter: float = 0.0
    corrupt: Literal["refuse", "skip"] = "refuse"
    colour: Literal["rgb", "grey"] = "rgb"
    flip: bool = True
    split: float | None = None
    validate: float = 0.0


@dataclass(frozen=True)
class ImageRegularizationOptions(BaseOptions):
    """Options that keep a network of images from learning its training data by heart.

    Parameters
    ----------
    cutout : int or None
        Side in pixels of the square cut out of training images; by default the data set's (16 for CIFAR).
    drop_path : float
        Probability of dropping an operation at the end of training; it rises linearly from 0. Stride-1 skips stay.
    drop_skips : bool
        Whether drop path drops stride-1 skips, too: as in the published one-stage code, where a batch norm follows.
    auxiliary_weight : float
        Weight of the auxiliary head's loss; 0: no such head.
    dropout : float
        Probability of dropping a feature that the classifier reads.
    """

    least: ClassVar[dict[str, float]] = {
        "cutout": 0,
        "drop_path": 0,
        "auxiliary_weight": 0,
        "dropout": 0,
    }
    below_one: ClassVar[tuple[str, ...]] = ("drop_path", "dropout")

    cutout: int | None = None
    drop_path: float = 0.0
    drop_skips: bool = False
    auxiliary_weight: float = 0.0
    dropout: float = 0.0


def _places(options: ImageOptions) -> dict[str, str]:
    """Return where the images are, to be found from every directory."""
    if options.data in NAMES:
        kept = {} if options.data == "digits" else {"root": os.path.abspath(options.data_root)}
        return {"source": options.data, **kept}
    return {"source": os.path.abspath(os.path.expanduser(options.data))}


class ImageTask(Task):
    """Classification of images."""

    name = "images"
    unit = "images"
    measure = Measure("accuracy", "%", 100.0, largest=1.0)
    hand_made = HAND_MADE
    description: ClassVar[Mapping[str, Form]] = {
        "size": List(Whole(1), least=1, most=4),
        "classes": List(Text(longest=1000), most=1_000_000),
        "mean": List(Number(), most=1000),
        "std": List(Number(), most=1000),
        "crop": Text(choices=("pad", "resized")),
    }
    data_options = ImageOptions
    regularization_options = ImageRegularizationOptions

    def load(
        self, options: ImageOptions, *, test_only: bool = False, download: bool | None = None
    ) -> Dataset:
        return load_dataset(
            options.data,
            root=options.data_root,
            download=options.download if download is None else download,
            image_size=options.image_size,
            crop=options.crop,
            colour_jitter=options.colour_jitter,
            corrupt=options.corrupt,
            colour=options.colour,
            flip=options.flip,
            split=options.split,
            validate=options.validate,
            test_only=test_only,
        )

    def inspect(
        self, options: ImageOptions, step: Callable[[int, int], None] | None = None
    ) -> FolderInspection:
        return inspect_folder(
            options.data,
            image_size=options.image_size,
            crop=options.crop,
            colour=options.colour,
            flip=options.flip,
            corrupt=options.corrupt,
            split=options.split,
            step=step,
        )

    def describe(self, data: Dataset, options: ImageOptions) -> dict[str, Any]:
        return {
            "task": self.name,
            **_places(options),
            "train": len(data.train_labels),
            "test": len(data.test_labels),
            "size": list(data.size),
            "classes": list(data.classes),
            "mean": list(data.mean),
            "std": list(data.std),
            "fingerprint": data.fingerprint(),
            **({} if data.crop == "pad" else {"crop": data.crop}),
            **({} if options.colour == "rgb" else {"colour": options.colour}),
            **({} if options.split is None else {"split": options.split}),
            **self._held_out(data, options),
        }

    def located(self, options: Composition, saved: dict[str, Any]) -> Composition:
        own = options.data
        if own.data in NAMES:
            place = os.path.isdir(own.data_root) or "root" not in saved
            return options if place else options.replace(data_root=saved["root"])
        source = saved.get("source", "")
        if os.path.isdir(os.path.expanduser(own.data)) or not os.path.isdir(source):
            return options
        return options.replace(data=source)

    @staticmethod
    def _held_out(data: Dataset, options: ImageOptions) -> dict[str, Any]:
        if data.valid_labels is None:
            return {}
        return {"validate": options.validate, "valid": len(data.valid_labels)}

    def to(self, data: Dataset, device: torch.device) -> Dataset:
        return data.to(device)

    def test_amount(self, data: Dataset) -> int:
        return len(data.test_labels)

    def options_of_saved(self, saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        source = saved.get("source")
        if "data" not in given and source:
            found["data"] = source
            if source not in NAMES:
                if not os.path.isdir(source):
                    raise UserError(
                        f"the images that the network was trained on are not there any more, or are on another "
                        f"machine: {short(source, 150)} is no directory; say where such images are by --data"
                    )
                found["image_size"] = saved["size"][0]  # named data sets have their own
            elif "root" in saved:
                found["data_root"] = saved["root"]
        others = ("crop", "colour") if "data" in given else ("crop", "colour", "split")
        return {**found, **{name: saved[name] for name in others if name in saved}}

    def prepared_as(self, data: Dataset, saved: dict[str, Any], path: Any) -> Dataset:
        if saved.get("classes", list(data.classes)) != list(data.classes):
            raise UserError(
                f"the network in {path} was trained on other classes than {data.name}'s"
            )
        if "mean" not in saved:
            return data
        for name in ("mean", "std"):
            values = saved.get(name)
            if (
                not isinstance(values, list)
                or len(values) != data.channels
                or not all(type(value) in (int, float) for value in values)
            ):
                raise UserError(
                    f"{Path(path).with_suffix('.json')}: {name} must be a list of "
                    f"{data.channels} numbers, got {values!r:.60}"
                )
        if not min(saved["std"]) > 0:
            raise UserError(
                f"{Path(path).with_suffix('.json')}: std must be above 0, got {saved['std']!r:.60}"
            )
        return dataclasses.replace(data, mean=tuple(saved["mean"]), std=tuple(saved["std"]))

    def in_words(self, data: Dataset) -> str:
        valid = "" if data.valid_labels is None else f", {len(data.valid_labels)} validation"
        amounts = (
            f"{len(data.train_labels)} training{valid} and {len(data.test_labels)} test images"
        )
        size = f"{data.size[0]}x{data.size[1]} pixels"
        return f"{data.name}: {amounts} of {size}, {len(data.classes)} classes"

    def shape(self, data: Dataset) -> dict[str, Any]:
        return {"classes": len(data.classes), "in_channels": data.channels}

    def network_needs(self, regularization: ImageRegularizationOptions) -> dict[str, Any]:
        return {"auxiliary": True} if regularization.auxiliary_weight > 0 else {}

    def example(self, data: Dataset) -> tuple[int, ...]:
        return data.size

    def amount(self, data: Dataset) -> int:
        return len(data.train_labels)

    def tiny(self, data: Dataset) -> bool:
        return max(data.size) <= TINY_SIDE

    def without_test(self, data: Dataset) -> Dataset:
        images = data.test_images
        none: Any = (
            dataclasses.replace(images, paths=()) if isinstance(images, LazyImages) else images[:0]
        )
        return dataclasses.replace(
            data, test_images=none, test_labels=data.test_labels[:0], test_paths=None
        )

    def check_fits(self, network: ImageNetwork, data: Dataset) -> None:
        wanted = (network.options.in_channels, network.options.classes)
        given = (data.channels, len(data.classes))
        if wanted != given:
            raise UserError(
                f"the network is for images of {wanted[0]} channels and {wanted[1]} classes; "
                f"{data.name} has {given[0]} channels and {given[1]} classes"
            )

    def check_feed(self, network: ImageNetwork, feed: Batches, data: Dataset) -> None:
        auxiliary = getattr(network.options, "auxiliary", False)
        check_batches(feed, network, data.size, **({"auxiliary": True} if auxiliary else {}))

    def training_feed(
        self,
        data: Dataset,
        optimizer: OptimizerOptions,
        *,
        seed: int,
        stream: str,
        device: torch.device,
        part: Literal["all", "weights"] = "all",
        regularization: ImageRegularizationOptions | None = None,
    ) -> Batches:
        # a search sees whole images: a cut-out square would be one more difference between its steps
        cutout = 0 if regularization is None else regularization.cutout
        return Batches(
            data,
            batch_size=optimizer.batch_size,
            indices=None if part == "all" else self._halves(data, seed)[0],
            seed=seed,
            stream=stream,
            augment=data.augmentation(cutout),
            device=device,
        )

    def code_feed(
        self,
        data: Dataset,
        optimizer: OptimizerOptions,
        *,
        seed: int,
        stream: str,
        device: torch.device,
        vary: bool = True,
    ) -> Batches:
        return Batches(
            data,
            batch_size=optimizer.batch_size,
            indices=self._halves(data, seed)[1],
            seed=seed,
            stream=stream,
            augment=data.augmentation(0) if vary else False,
            device=device,
        )

    def scoring_feed(
        self,
        data: Dataset,
        optimizer: OptimizerOptions,
        *,
        seed: int,
        device: torch.device,
        amount: int | None = None,
        name: str = "scoring images",
        whole: bool = False,
    ) -> Batches:
        half = self._halves(data, seed)[1]
        if whole:
            size = 4 * optimizer.batch_size
            return Batches(
                data,
                batch_size=size,
                indices=half,
                augment=False,
                shuffle=False,
                drop_last=False,
                device=device,
            )
        # Mixed first: folders are read class by class, and batches of one class would have its statistics. An
        # incomplete batch is left out unless it is the only one: few images make poor statistics.
        order = torch.randperm(len(half), generator=generator(seed, name))
        return Batches(
            data,
            batch_size=optimizer.batch_size,
            indices=half[order[:amount]],
            augment=False,
            shuffle=False,
            drop_last=True,
            device=device,
        )

    def test_feed(
        self, data: Dataset, optimizer: OptimizerOptions, device: torch.device
    ) -> Batches:
        return Batches(data, "test", batch_size=4 * optimizer.batch_size, device=device)

    def validation_feed(
        self, data: Dataset, optimizer: OptimizerOptions, device: torch.device
    ) -> Batches | None:
        if data.valid_labels is None:
            return None
        return Batches(data, "valid", batch_size=4 * optimizer.batch_size, device=device)

    @staticmethod
    def _halves(data: Dataset, seed: int) -> tuple[Tensor, Tensor]:
        return split_indices(len(data.train_labels), 0.5, seed)

    def regularize(
        self,
        network: ImageNetwork,
        batch: Batch,
        options: ImageRegularizationOptions,
        done: float | None,
        coefficients: Mapping[str, Coefficients] | None,
        random: torch.Generator,
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"auxiliary_weight": options.auxiliary_weight}
        if options.drop_path > 0 and done is not None:
            active = network.active(coefficients)
            found["drop_path_mask"] = drop_path(
                active, len(batch[0]), options.drop_path * done, random
            )
        if options.dropout > 0:  # drawn as drop path is: a row for each feature
            dropped = drop_path(network.features, len(batch[0]), options.dropout, random)
            found["dropout"] = dropped.T
        return found

    def prepare(self, network: ImageNetwork, regularization: ImageRegularizationOptions) -> None:
        if regularization.drop_skips:
            drop_skips(network)

    def loss(
        self,
        run: Run,
        batch: Batch,
        coefficients: Mapping[str, Coefficients] | None = None,
        *,
        optimizer: OptimizerOptions,
        auxiliary_weight: float = 0.0,
        **of_network: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch

        def cross_entropy(logits: Tensor) -> Tensor:
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return F.cross_entropy(logits, y, label_smoothing=optimizer.label_smoothing)

        if auxiliary_weight == 0:
            logits = run(x, coefficients, **of_network)
            loss = cross_entropy(logits)
        else:
            logits, side = run(x, coefficients, auxiliary=True, **of_network)
            loss = cross_entropy(logits) + auxiliary_weight * cross_entropy(side)
        return loss, {"loss": loss.detach(), "accuracy": accuracy(logits, y)}

    def outputs(
        self,
        network: ImageNetwork,
        batch: Batch,
        coefficients: Mapping[str, Coefficients] | None = None,
    ) -> Tensor:
        return network(batch[0], coefficients)

    def test(self, network: ImageNetwork, feed: Batches) -> dict[str, float]:
        return self._tested(network, feed)

    def examine(
        self, network: ImageNetwork, data: Dataset, feed: Batches
    ) -> tuple[dict[str, float], tuple[Exhibit, ...]]:
        examination = Examination(data)
        found = self._tested(network, feed, examination)
        return found, examination.exhibits()

    @torch.no_grad()
    def _tested(
        self, network: ImageNetwork, feed: Batches, examination: Examination | None = None
    ) -> dict[str, float]:
        """Return what the test gives; let an examination see the answers, too."""
        share_state(network)  # statistics that each process has gathered for itself
        was_training = network.training
        network.eval()
        right = loss = torch.zeros((), device=feed.device)
        for step, (x, y) in enumerate(feed.epoch(0)):
            if len(y) == 0:  # fewer images than processes
                continue
            logits = network(x)
            if examination is not None:
                examination.add(logits, y, feed.positions(step))
            right = right + (logits.argmax(1) == y).sum()
            loss = loss + F.cross_entropy(logits, y, reduction="sum")
        network.train(was_training)
        n = len(feed.indices)
        return {
            "test_accuracy": float(all_reduce_sum(right)) / n,
            "test_loss": float(all_reduce_sum(loss)) / n,
        }

    @torch.no_grad()
    def shared_score(
        self,
        network: ImageNetwork,
        coefficients: Mapping[str, Coefficients],
        batches: Iterable[Batch],
    ) -> float:
        """Return the accuracy, 0 to 1, of one architecture with a super-net's weights on some batches.

        Batch norm takes the statistics of the batch, as usual for shared weights: those gathered in training are a
        mixture over architectures. The network is left in training mode, its gathered statistics as they were.

        Raises
        ------
        ValueError
            When there is no batch.
        """
        network.train()
        right = torch.zeros((), device=next(network.parameters()).device)
        images = 0
        with kept_statistics(network):
            for x, y in batches:
                right += (network(x, coefficients).argmax(1) == y).sum()
                images += len(y)
        if images == 0:
            raise ValueError("accuracy needs at least one batch, got none")
        right, number = all_reduce_sum(torch.stack([right, right.new_tensor(images)])).tolist()
        return right / number


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right answers, a 0-d tensor."""
    return (logits.argmax(1) == labels).float().mean()
