"""Images per second in the training of a found network, beside a plain PyTorch loop.

    python -m benchmarks.training | tee benchmarks/results/training.txt
    python -m benchmarks.training --channels 36 --cells 20 --batch-size 96 --workers 8      # on a GPU

The network, the recipe (SGD, clipping, auxiliary head, drop path) and the images are the same:

    isnas      `isnas evaluate`'s step and batches: images kept as uint8, varied in whole batches
    plain      what a training script usually does: DataLoader over a torchvision data set with its transforms (padded
               crop, mirror image, normalisation, cut-out), weights as PyTorch lays them out, a loss read at every step

Both, the plain loop with isnas's batches, and the batches alone take turns, an epoch each; ratios are medians of ratios
within a round. On the CPU a second is one of processor time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import median

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from experiments._command import positive
from experiments.efficiency import random_images
from isnas import DARTS_SPACE, GENOTYPES
from isnas.networks.core import CellNetwork, drop_path
from isnas.networks.registry import build_network
from isnas.runs.evaluation import evaluation_schema
from isnas.runs.training import Training
from isnas.runtime.devices import cpu_threads, resolve_device
from isnas.tasks.images import Dataset as Images
from isnas.tasks.registry import task_of

from ._measure import in_turn, origin, ratio, run, size_parser

PRESET = evaluation_schema(DARTS_SPACE).compose("paper")
DROP_PATH = 0.1
"""Halfway through the published schedule."""


class Cutout:
    """Set a square of an image to zero, wherever its centre falls."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Tensor) -> Tensor:
        row, column = (int(torch.randint(length, ())) for length in image.shape[1:])
        half = self.side // 2
        image[:, max(0, row - half) : row + half, max(0, column - half) : column + half] = 0
        return image


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR-10 has them: an array, from which pictures are made one by one."""

    def __init__(self, images: Images) -> None:
        self.pixels = images.train_images.permute(0, 2, 3, 1).cpu().numpy()
        self.labels = images.train_labels.tolist()
        side = images.size[0]
        self.vary = transforms.Compose(
            [
                transforms.RandomCrop(side, padding=side // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(images.mean, images.std),
                Cutout(side // 2),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.vary(Image.fromarray(self.pixels[i])), self.labels[i]


def plain_step(network: CellNetwork, device: torch.device) -> Callable[[Tensor, Tensor], float]:
    """Return the step of a usual training script; it returns the loss."""
    network = network.to(device).train()
    random = torch.Generator(device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=PRESET.optimizer.learning_rate,
        momentum=PRESET.optimizer.momentum,
        weight_decay=PRESET.optimizer.weight_decay,
    )

    def step(x: Tensor, y: Tensor) -> float:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        optimizer.zero_grad()
        mask = drop_path(network.active(), len(x), DROP_PATH, random)
        logits, side = network(x, auxiliary=True, drop_path_mask=mask)
        loss = F.cross_entropy(
            logits, y
        ) + PRESET.regularization.auxiliary_weight * F.cross_entropy(side, y)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), PRESET.optimizer.clip)
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    """Print the table."""
    parser = size_parser(__doc__, 16, 8, 96, 5)
    parser.add_argument("--steps", type=positive, default=3, help="of an epoch")
    parser.add_argument("--workers", type=int, default=0, help="processes of the DataLoader")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    device = resolve_device(given.device)
    images = replace(
        random_images(given.steps * given.batch_size, given.side), cutout=given.side // 2
    )

    def network() -> CellNetwork:
        genotype = GENOTYPES["ISTA_twostage"]
        return build_network(genotype, channels=given.channels, cells=given.cells, auxiliary=True)

    options = PRESET.replace(
        batch_size=given.batch_size, precision=given.precision, drop_path=DROP_PATH
    )
    ours = Training(network(), options, task_of(DARTS_SPACE), images.to(device), device)
    ours.epoch = ours.epochs - 1  # where drop path has its full rate
    step = plain_step(network(), device)
    loader = DataLoader(
        Pictures(images),
        given.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=given.workers,
        persistent_workers=given.workers > 0,
        pin_memory=device.type == "cuda",
    )

    def input_only(batches: Iterable[object]) -> None:
        for _ in batches:
            pass

    def epoch(step: Callable[[Tensor, Tensor], object], batches: Iterable[object]) -> None:
        for x, y in batches:
            step(x, y)

    def our_step(x: Tensor, y: Tensor) -> object:
        return ours.train_step((x, y))

    ways = {
        "isnas": lambda: epoch(our_step, ours.batches(0, 0)),
        "plain": lambda: epoch(step, loader),
        "plain, with isnas's batches": lambda: epoch(step, ours.batches(0, 0)),
        "isnas's batches alone": lambda: input_only(ours.batches(0, 0)),
        "plain batches alone": lambda: input_only(loader),
    }
    print(origin("training"))
    with cpu_threads(given.threads):
        spent = in_turn(ways, given.rounds, device, warm_up=1)
    print(" x plain  images/s  way")
    for name, seconds in spent.items():
        faster = ratio(spent["plain"], seconds)
        rate = given.steps * given.batch_size / median(seconds)
        print(f"{faster:8.2f}  {rate:8.0f}  {name}")


if __name__ == "__main__":
    run(main)
