"""Files of images that tests make, and small data sets."""

import numpy as np
import pytest
import torch
from PIL import Image

from isnas.runtime.errors import UserError
from isnas.tasks.images import Dataset, load_dataset


def picture(seed, size=(8, 8), mode="RGB"):
    drawn = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(drawn).convert(mode)


def make_folder(root, *, splits=("train", "test"), classes=("cat", "dog"), each=3, size=(8, 8)):
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                picture(100 * s + 10 * c + i, size).save(root / split / name / f"{i}.png")
    return root


def photograph(seed, size):
    """Return an image that is smooth as photographs are, so that its JPEG is like theirs."""
    small = picture(seed, (max(2, size[0] // 16), max(2, size[1] // 16)))
    return small.resize(size, Image.Resampling.BICUBIC)


def photograph_folder(root, sizes, format="png", classes=("cat", "dog")):
    for split in ("train", "val"):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i, size in enumerate(sizes):
                photograph(10 * c + i, size).save(root / split / name / f"{i}.{format}")
    return root


def damage(path):
    path.write_bytes(path.read_bytes()[:90])
    return path


def small_dataset(n=10, channels=1):
    # Each image is filled with its own number, so that it can be recognised in a batch.
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].repeat(1, channels, 8, 8)
    return Dataset(
        name="numbers",
        train_images=images,
        train_labels=torch.arange(n),
        test_images=images[: n // 2],
        test_labels=torch.arange(n // 2),
        classes=tuple(map(str, range(n))),
        mean=(0.25,) * channels,
        std=(0.5,) * channels,
    )


def refusal(name, **options):
    """Return the message of the UserError; it has one line."""
    with pytest.raises(UserError) as caught:
        load_dataset(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
