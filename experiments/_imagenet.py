"""Common parts of the two experiments on ImageNet: sizes, errors, the published results."""

from __future__ import annotations

import torch

from isnas.commands.run import RunResult
from isnas.runtime.devices import resolve_device
from isnas.runtime.options import Composition
from isnas.tasks.registry import task_of

from ._images import Subset

IMAGES = {
    "smoke": Subset("digits", 64, 40, size=32),
    "small": Subset("cifar10", 4_096, 5_000, size=64),
    "paper": Subset("imagenet"),
}
"""Images by scale. Those of the smaller scales are enlarged: the stem reduces their resolution eight times."""

SMOKE = {"channels": 2, "cells": 3, "batch_size": 32, "epochs": 1, "threads": 1}
SMALL = {"channels": 8, "cells": 8, "batch_size": 64, "epochs": 20, "threads": 1}
COMMON = {
    "stem": "imagenet",
    "crop": "resized",
    "colour_jitter": 0.4,
    "cutout": 0,
    "schedule": "linear",
    "warm_up_epochs": 1,
    "label_smoothing": 0.1,
    "auxiliary_weight": 0.4,
}
"""Options that the smaller scales take over from the preset `imagenet`: all but the sizes."""

PUBLISHED = (
    ("ISTA-NAS, one-stage", "24.0", "7.1", "5.65 M", "638 M", "33.6 GPU-days, all"),
    ("DARTS, second order, found on CIFAR-10", "26.7", "8.7", "4.7 M", "574 M", ""),
    ("DrNAS (mobile)", "23.7", "", "", "", ""),
)
"""Errors on ImageNet in the mobile setting in per cent, as quoted by their authors or by third parties."""


@torch.no_grad()
def errors(result: RunResult, options: Composition) -> dict[str, float]:
    """Return the top-1 and top-5 errors of a run's trained network on the test images, in per cent."""
    device = resolve_device(options.runtime.device)
    task = task_of(result.genotype.space)
    dataset = task.to(task.load(options.data), device)
    network = result.network.to(device).eval()
    right = torch.zeros(2, dtype=torch.int64, device=device)
    for x, y in task.test_feed(dataset, options.optimizer, device).epoch(0):
        best = network(x).topk(5).indices == y[:, None]
        right += torch.stack([best[:, 0].sum(), best.any(1).sum()])
    shares = right.cpu().double() / task.test_amount(dataset)
    return {"top1": 100 * float(1 - shares[0]), "top5": 100 * float(1 - shares[1])}
