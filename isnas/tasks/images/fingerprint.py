"""Fingerprints of data sets: short texts that differ where the data do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...runtime.errors import UserError
from .decoding import LazyImages
from .folders import Paths, printable
from .statistics import spread

if TYPE_CHECKING:
    from .dataset import Dataset

SAMPLED_FILES = 100_000
"""Bytes are read of at most this number of files, at even distances; of the other files only the size counts."""

SAMPLED_BYTES = 1024
"""Number of bytes that are read at the beginning, in the middle and at the end of a file each."""


def fingerprint_of(dataset: Dataset) -> str:
    """Return 16 hexadecimal digits, a hash (BLAKE2b) of classes, labels and images; see `Dataset.fingerprint`."""
    digest = hashlib.blake2b(digest_size=8)

    def add(*parts: bytes | memoryview) -> None:
        for part in parts:  # with its length: no two lists of parts give the same bytes
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)

    add(*(os.fsencode(name) for name in dataset.classes))
    stores = [
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ]
    if dataset.valid_images is not None and dataset.valid_labels is not None:
        stores.append((dataset.valid_images, dataset.valid_labels))
    for images, labels in stores:
        add(repr(tuple(images.shape)).encode(), labels.cpu().numpy().tobytes())
        if isinstance(images, LazyImages):
            add(*_facts(images.paths))
        else:
            add(*_pixels(images))
    return digest.hexdigest()


def _pixels(images: Any) -> Iterator[memoryview]:
    """Yield the pixels of all images, in parts of some megabytes."""
    if not isinstance(images, Tensor):
        images = images[spread(len(images), len(images))]
    for part in images.split(max(1, 2**24 // max(1, images[:1].numel()))):
        yield memoryview(part.cpu().contiguous().numpy()).cast("B")


def _facts(paths: Paths) -> Iterator[bytes]:
    """Yield each file's path below the folder, its size and some of its bytes."""
    sampled = set(spread(len(paths), SAMPLED_FILES).tolist())

    def fact(i: int) -> bytes:
        try:
            if i not in sampled:
                return os.stat(paths[i]).st_size.to_bytes(8, "little")
            with open(paths[i], "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                found = size.to_bytes(8, "little")
                for start in (0, size // 2, max(0, size - SAMPLED_BYTES)):
                    file.seek(start)
                    found += file.read(SAMPLED_BYTES)
            return found
        except OSError as error:
            raise UserError(
                f"cannot read {printable(paths[i])}: {error.strerror or error}"
            ) from error

    # threads for disks that take long to answer; a few thousand at a time, so that little is kept
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(paths), 4096):
            block = range(start, min(start + 4096, len(paths)))
            for i, found in zip(block, pool.map(fact, block, chunksize=64), strict=True):
                yield paths.name(i).replace(os.sep.encode(), b"/")
                yield found
