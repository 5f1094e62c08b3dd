"""Do worker processes read images faster than threads? Prints images per second of several ways to read a folder.

    python -m benchmarks.loading | tee benchmarks/results/loading.txt

Folders of JPEG files are made, of ImageNet's usual size and of CIFAR's, with a spectrum like that of photographs. Every
way reads them in shuffled batches, varied and normalised as for training:

    threads                 isnas: `Batches`, whose images are decoded by threads
    processes, same work    the same functions for every image, in worker processes of PyTorch's DataLoader
    processes, torchvision  PyTorch's DataLoader over torchvision's ImageFolder and transforms

The ways alternate, and medians are printed: of their ratios to threads, for other work on the machine slows all of
them; of images per second; of the processor time of an image (main process and workers), which depends on it less.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from isnas.runtime.randomness import seed_of
from isnas.tasks.images import Batches, decoding, load_dataset
from isnas.tasks.images import Dataset as Images

CLASSES = 10
SETTINGS = (
    ("500 x 375, random parts of 224 x 224", (500, 375), 224, "resized", 800, 64),
    ("500 x 375, random parts of 64 x 64", (500, 375), 64, "resized", 800, 64),
    ("1500 x 1125, random parts of 224 x 224", (1500, 1125), 224, "resized", 200, 32),
    ("32 x 32, padded and cropped", (32, 32), 32, "pad", 16_000, 128),
)


def photograph(random: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Return a JPEG file: noise of all scales, about as large as a photograph of this size and quality."""
    pixels = np.zeros((size[1], size[0], 3))
    for scale in (4, 8, 16, 32, 64, 128, 256):
        grid = [max(2, side * scale // 500) for side in size]
        for channel in range(3):
            noise = Image.fromarray(random.standard_normal(grid[::-1]).astype(np.float32))
            smooth = noise.resize(size, Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(smooth) * scale**-0.45
    pixels = 128 + 55 * (pixels - pixels.mean()) / pixels.std()
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_folder(place: Path, size: tuple[int, int], n: int) -> float:
    """Write n training files, of 100 different images, and one to test for each class; return their mean KB."""
    random = np.random.default_rng(0)
    files = [photograph(random, size) for _ in range(min(n, 100))]
    for split, each in (("train", n // CLASSES), ("val", 1)):
        for c in range(CLASSES):
            (place / split / f"{c}").mkdir(parents=True)
            for i in range(each):
                content = files[(c * each + i) % len(files)]
                (place / split / f"{c}" / f"{i}.jpg").write_bytes(content)
    return statistics.mean(map(len, files)) / 1000


class Same(Dataset[tuple[Tensor, int]]):
    """The images of our data set one by one, decoded by the same functions."""

    def __init__(self, dataset: Images) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset.train_labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        images = self.dataset.train_images
        frame = partial(decoding.square, size=images.image_size)
        if self.dataset.crop == "resized":
            drawn = Random(seed_of(0, "train", "resized crop", 0, i))
            frame = partial(
                decoding.random_crop, size=images.image_size, drawn=drawn, colour_jitter=0.0
            )
        pixels = decoding.read_pixels(images.paths[i], frame).transpose(2, 0, 1)
        return torch.from_numpy(pixels.copy()), int(self.dataset.train_labels[i])


def cpu_time() -> float:
    """Return the processor time of this process and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def ways(
    place: Path, side: int, crop: str, batch: int, workers: int
) -> dict[str, Callable[[], Iterable[object]]]:
    """Return functions that make what yields an epoch's batches, by name."""
    dataset = load_dataset(str(place), image_size=side, crop=crop, memory_budget=0)
    mean, std = (torch.tensor(each)[:, None, None] for each in (dataset.mean, dataset.std))
    vary = dataset.augmentation(cutout=0)
    options = {"batch_size": batch, "shuffle": True, "num_workers": workers, "drop_last": True}

    def same() -> Iterable[object]:
        for x, y in DataLoader(Same(dataset), **options):
            yield vary(x, torch.Generator().manual_seed(0), mean, std), y

    first = (
        transforms.RandomResizedCrop(side)
        if crop == "resized"
        else transforms.RandomCrop(side, padding=side // 8)
    )
    usual = transforms.Compose(
        [
            first,
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(dataset.mean, dataset.std),
        ]
    )
    folder = torchvision.datasets.ImageFolder(place / "train", usual)
    return {
        "threads": lambda: Batches(dataset, batch_size=batch, augment=vary).epoch(0),
        "processes, same work": same,
        "processes, torchvision": lambda: DataLoader(folder, **options),
    }


def main() -> None:
    """Print a table for every setting and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of the images")
    given = parser.parse_args()
    torch.set_num_threads(1)
    processors = decoding.processors()
    print(
        f"{platform.processor() or platform.machine()}, {processors} processors; Python "
        f"{platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, Pillow {PIL.__version__}\n--share {given.share:g} --repeats "
        f"{given.repeats}; load of the machine before: {os.getloadavg()[0]:.1f}"
    )
    for title, size, side, crop, n, batch in SETTINGS:
        n = max(2 * batch, round(n * given.share)) // CLASSES * CLASSES
        with tempfile.TemporaryDirectory() as name:
            kilobytes = make_folder(Path(name), size, n)
            print(f"\n{title}: {n} files of {kilobytes:.0f} KB, batches of {batch}", flush=True)
            print("  x threads  images/s  ms of processor  workers  way")
            for workers in sorted({1, processors}):
                decoding.processors = lambda workers=workers: workers
                makers = ways(Path(name), side, crop, batch, workers)
                walls: dict[str, list[float]] = {way: [] for way in makers}
                used: dict[str, list[float]] = {way: [] for way in makers}
                for _ in range(given.repeats):
                    for way, make in makers.items():
                        busy, begun = cpu_time(), time.perf_counter()
                        images = sum(len(y) for _, y in make())
                        walls[way].append((time.perf_counter() - begun) / images)
                        used[way].append((cpu_time() - busy) / images)
                for way in makers:
                    pairs = zip(walls["threads"], walls[way], strict=True)
                    ratio = statistics.median(mine / other for mine, other in pairs)
                    rate = 1 / statistics.median(walls[way])
                    busy = 1000 * statistics.median(used[way])
                    print(
                        f"  {ratio:9.2f}  {rate:8.0f}  {busy:15.2f}  {workers:7}  {way}", flush=True
                    )


if __name__ == "__main__":
    main()
