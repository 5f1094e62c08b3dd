"""Exhibits of the test of a classifier of images: confusions, accuracy by class, and the surest wrong answers."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...runtime.processes import all_reduce_sum, processes, rank
from ..exhibits import Exhibit, Matrix, Pictures, Table
from .dataset import Dataset
from .folders import Paths, printable

MOST_CLASSES = 40
"""All classes are shown up to this number; of more, those with the lowest accuracy and the most frequent confusions."""

WRONG = 12
"""Wrong answers that are shown."""

LARGEST_PICTURE = 96
"""Side in pixels that a larger picture is shrunk to: the file is to stay small."""


class Examination:
    """Gathers the answers of a test, batch by batch; several processes each gather theirs.

    Parameters
    ----------
    data : Dataset
    """

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self._classes = len(data.classes)
        self._counts = torch.zeros(self._classes**2, dtype=torch.int64)
        # probability, position of the image, its class, the answer
        self._wrong = torch.empty(0, 4, dtype=torch.float64)

    def add(self, logits: Tensor, labels: Tensor, positions: Tensor) -> None:
        """Take a batch into account.

        Parameters
        ----------
        logits : Tensor, (B, classes)
        labels, positions : Tensor, (B,) int64
            Classes of the images, and where they are among the test images.
        """
        labels = labels.cpu()
        probability, answer = logits.cpu().double().softmax(1).max(1)
        pairs = labels * self._classes + answer
        self._counts += torch.bincount(pairs, minlength=self._classes**2)
        columns = (probability, positions, labels, answer)
        found = torch.stack([each.double() for each in columns], 1)[answer != labels]
        self._wrong = _surest(torch.cat([self._wrong, found]))

    def exhibits(self) -> tuple[Exhibit, ...]:
        """Return what all processes have gathered, in forms for a report."""
        counts = all_reduce_sum(self._counts).view(self._classes, self._classes).numpy()
        surest = self._surest(self._gathered())
        return (*self._by_confusion(counts), self._by_class(counts), *surest)

    def _gathered(self) -> Tensor:
        """Return the surest wrong answers of all processes."""
        slots = self._wrong.new_full((processes(), WRONG, 4), -1.0)
        slots[rank(), : len(self._wrong)] = self._wrong
        if processes() > 1:
            mine = torch.zeros_like(slots)
            mine[rank()] = slots[rank()]
            slots = all_reduce_sum(mine)
        rows = slots.flatten(0, 1)
        return _surest(rows[rows[:, 0] >= 0])

    @property
    def _names(self) -> list[str]:
        return [printable(name) for name in self.data.classes]

    def _by_confusion(self, counts: np.ndarray) -> Iterator[Exhibit]:
        names = self._names
        if self._classes <= MOST_CLASSES:
            yield Matrix(
                "Confusion matrix",
                "How many test images of each class got each answer.",
                "class",
                "answer",
                tuple(names),
                tuple(names),
                tuple(map(tuple, counts.tolist())),
            )
            return
        wrong = counts * (1 - np.eye(self._classes, dtype=counts.dtype))
        order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CLASSES]
        pairs = [divmod(int(i), self._classes) for i in order if wrong.flat[i]]
        yield Table(
            "Most frequent confusions",
            f"Of {self._classes} classes, the pairs that were confused most often.",
            ("class", "answer", "images"),
            tuple((names[i], names[j], f"{wrong[i, j]:,}") for i, j in pairs),
        )

    def _by_class(self, counts: np.ndarray) -> Exhibit:
        total, right = counts.sum(1), counts.diagonal()
        # a class without test images stands last
        share = np.divide(right, total, out=np.full(len(total), 2.0), where=total > 0)
        shown = range(self._classes)
        caption = "Share of each class's test images that got the right answer."
        if self._classes > MOST_CLASSES:
            shown = np.argsort(share, kind="stable")[:MOST_CLASSES].tolist()
            caption = f"The {MOST_CLASSES} of {self._classes} classes with the lowest accuracy."
        rows = []
        for i in shown:
            others = counts[i].copy()
            others[i] = 0
            rows.append(
                (
                    self._names[i],
                    f"{total[i]:,}",
                    f"{right[i]:,}",
                    f"{100 * share[i]:.1f} %" if total[i] else "",
                    self._names[int(others.argmax())] if others.any() else "",
                )
            )
        header = ("class", "images", "right", "accuracy", "most often taken for")
        return Table("Accuracy by class", caption, header, tuple(rows))

    def _surest(self, wrong: Tensor) -> Iterator[Exhibit]:
        if len(wrong) == 0:
            return
        positions = wrong[:, 1].long()
        images = self.data.test_images
        pictures = images[positions.to(images.device) if isinstance(images, Tensor) else positions]
        items = []
        for picture, (probability, i, label, answer) in zip(
            pictures.cpu(), wrong.tolist(), strict=True
        ):
            said = self._names[int(answer)]
            text = f"{self._names[int(label)]}, taken for {said} ({100 * probability:.1f} %)"
            paths = self.data.test_paths
            if isinstance(paths, Paths):
                text += f": {printable(os.fsdecode(paths.name(int(i))))}"
            items.append((png_of(picture), text))
        yield Pictures(
            "Surest wrong answers",
            "Test images as the network sees them, before they are normalised; wrong answers with "
            "the highest probability first. Wrong labels are often among them.",
            tuple(items),
        )


def _surest(wrong: Tensor) -> Tensor:
    """Return up to `WRONG` rows of the highest probability; of equal ones, the image that comes first."""
    wrong = wrong[wrong[:, 1].argsort(stable=True)]
    return wrong[wrong[:, 0].argsort(descending=True, stable=True)][:WRONG]


def png_of(picture: Tensor) -> bytes:
    """Return a picture, (C, H, W) uint8 with one channel or three, as the content of a small PNG file."""
    pixels = picture.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
