"""The images of an experiment: a data set as it is, or some of its images in a folder that all trials read."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from isnas.runtime.errors import UserError
from isnas.runtime.randomness import generator
from isnas.tasks.images import Images, load_dataset


@dataclass(frozen=True)
class Subset:
    """The images that an experiment uses.

    Parameters
    ----------
    data : str
        The default of ``--data``.
    train, test : int or None
        Numbers of training and test images, drawn at random, the same ones in all trials, as many of each class as can
        be; None: all.
    size : int or None
        Side in pixels that they are resized to; None: as they are.
    """

    data: str
    train: int | None = None
    test: int | None = None
    size: int | None = None

    def prepare(self, out: Path, data: str, root: str) -> str:
        """Return what a run is to use as its ``data``, see `prepare_images`."""
        return prepare_images(out, self, data, root)


def prepare_images(out: Path, subset: Subset, data: str, root: str) -> str:
    """Return what a run is to use as its ``data``: `data` itself or, where `subset` asks for less, a folder in `out`.

    The folder is written once, in the layout of `isnas.load_dataset`, as PNG.

    Raises
    ------
    UserError
        When the data cannot be loaded or are too few.
    """
    if (subset.train, subset.test, subset.size) == (None, None, None):
        return data
    folder = out / "images"
    if folder.exists():
        return str(folder)
    whole = load_dataset(data, root=root)
    unfinished = out / ".images"
    shutil.rmtree(unfinished, ignore_errors=True)
    for split, images, labels, wanted in (
        ("train", whole.train_images, whole.train_labels, subset.train),
        ("test", whole.test_images, whole.test_labels, subset.test),
    ):
        if wanted is not None and wanted > len(labels):
            raise UserError(f"{data} has {len(labels)} {split} images; this scale needs {wanted}")
        kept = balanced(labels, wanted, generator(0, "images", split))
        try:
            _write(unfinished / split, images, labels, kept, whole.classes, subset.size)
        except OSError as error:
            raise UserError(f"{unfinished / split} cannot be written: {error.strerror}") from None
    unfinished.rename(folder)
    return str(folder)


def balanced(labels: Tensor, number: int | None, random: torch.Generator) -> Tensor:
    """Return the indices of `number` random images, ascending, as many of each class as can be; None: of all."""
    order = torch.randperm(len(labels), generator=random)
    drawn = labels[order]
    rank = torch.empty_like(order)  # of an image among those of its class
    for label in drawn.unique():
        of_class = (drawn == label).nonzero().flatten()
        rank[of_class] = torch.arange(len(of_class))
    return order[rank.argsort(stable=True)][:number].sort().values


def _write(
    folder: Path,
    images: Images,
    labels: Tensor,
    kept: Tensor,
    classes: tuple[str, ...],
    size: int | None,
) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for part in kept.split(1000):
        for i, pixels in zip(part.tolist(), images[part], strict=True):
            rows = pixels.permute(1, 2, 0).numpy()
            picture = Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows)
            if size is not None:
                picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            picture.save(folder / classes[labels[i]] / f"{i:06d}.png")
