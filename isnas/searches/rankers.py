"""Scores of untrained networks, which tell good architectures from bad ones without any training.

Each score is a function of a network and of some inputs. None of them sees a label.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..networks.images import ImageNetwork
from ..networks.operations import kept_statistics
from ..runtime.randomness import seeded

WORST = -1e6
"""Stands for minus infinity, which is no number in a record: lower than any score of a network that works."""

SMALLEST = 1e-8
"""Is added to a share whose logarithm is taken, as the authors of AZ-NAS do."""

_RECTIFIERS = (F.relu, F.relu_, F.relu6, F.hardtanh, torch.relu, torch.relu_, Tensor.relu)


class Agreement(TorchFunctionMode):
    """Counts, inside its block, for each pair of inputs how many rectified units treat both alike.

    Attributes
    ----------
    kernel : Tensor, shape (images, images), float64
        The sum over all ReLUs, as modules or as functions, of ``X X' + (1 - X)(1 - X)'``; X has a row for each image
        and a column for each unit, 1 where what the ReLU gets is positive, else 0.

    Parameters
    ----------
    images : int
        Images that pass.
    device : torch.device or str
    """

    def __init__(self, images: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.kernel = torch.zeros(images, images, dtype=torch.float64, device=device)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look at what a ReLU gets."""
        if func in _RECTIFIERS:
            units = args[0].detach().flatten(1)
            # X X' + (1 - X)(1 - X)' = (units + S S') / 2 for the signs S = 2 X - 1: one product for two
            signs = (units > 0).float().mul_(2).sub_(1)
            self.kernel += (units.shape[1] + (signs @ signs.T).double()) / 2
        return func(*args, **(kwargs or {}))


def log_determinant(kernel: Tensor) -> float:
    """Return log |det kernel|, or `WORST` where it is singular: two inputs are then told apart by no unit."""
    value = float(torch.linalg.slogdet(kernel).logabsdet)
    return value if math.isfinite(value) else WORST


@torch.no_grad()
def naswot(network: nn.Module, images: Tensor, *arguments: Any) -> float:
    """Return NASWOT's score: how differently the ReLUs of an untrained network treat the images of a batch.

    The score is log |det K|, K as in `Agreement` (Mellor, Turner, Storkey & Crowley, "Neural architecture search
    without training", ICML 2021). Higher is better.

    Parameters
    ----------
    network : nn.Module
        With its initial weights, in training mode: its batch norms take the batch's statistics. What they have gathered
        stays as it was.
    images : Tensor, shape (B, C, H, W)
    *arguments
        Further arguments of the network's forward pass, such as a super-net's coefficients.
    """
    with kept_statistics(network), Agreement(len(images), images.device) as agreement:
        network(images, *arguments)
    return log_determinant(agreement.kernel)


def features_of(network: ImageNetwork, images: Tensor) -> list[Tensor]:
    """Run the network and return what its blocks (`ImageNetwork.blocks`) give, in order, shapes (B, C, H, W).

    All of them have gradients: what a block that reads nothing gives is a leaf.
    """
    found: list[Tensor] = []

    def keep(block: nn.Module, inputs: Any, output: Tensor) -> None:
        found.append(output if output.requires_grad else output.requires_grad_())

    with ExitStack() as hooks:
        for block in network.blocks():
            hooks.callback(block.register_forward_hook(keep).remove)
        network(images)
    return found


def entropy_of_components(features: Tensor) -> float:
    """Return the entropy, in nats, of the shares of variance along the principal components of the channels.

    Parameters
    ----------
    features : Tensor, shape (B, C, H, W)
        Every pixel is a sample of C values. Where nothing varies the entropy is 0.
    """
    samples = features.detach().movedim(1, -1).flatten(0, -2).double()
    samples = samples - samples.mean(0)
    variances = torch.linalg.eigvalsh(samples.T @ samples / len(samples)).clamp_min(0)
    if not variances.sum() > 0:
        return 0.0
    shares = variances / variances.sum()
    return float(-(shares * (shares + SMALLEST).log()).sum())


def trainability_of(before: Tensor, after: Tensor, random: torch.Generator) -> float:
    """Return how well a block passes gradients on: ``2 - s - 1/s``, at most 0, which it is for s = 1.

    s is the largest singular value of ``E[g_in g_out']``, an estimate of the block's Jacobian: g_out has random signs,
    g_in is what the block makes of it on its way back, and the mean is over images and pixels. Where the block reduces
    the resolution, the pixels of a window are channels of one pixel.

    Parameters
    ----------
    before, after : Tensor, shapes (B, C, H, W) and (B, C', H', W')
        Input and output of the block; `after` was computed from `before`.
    random : torch.Generator
        On the CPU.

    Returns
    -------
    float
        `WORST` for a block that passes its input on as it is.
    """
    signs = torch.randint(2, after.shape, generator=random).to(after.device, after.dtype) * 2 - 1
    (back,) = torch.autograd.grad(after, before, signs, retain_graph=True, allow_unused=True)
    back = torch.zeros_like(before) if back is None else back
    if back.shape == signs.shape and bool((back == signs).all()):
        return WORST
    if back.shape[2:] != signs.shape[2:]:
        step = -(-back.shape[2] // signs.shape[2])
        # odd sizes: what is missing of the last windows is zero
        height, width = (step * length for length in signs.shape[2:])
        back = F.pad(back, (0, width - back.shape[3], 0, height - back.shape[2]))
        back = F.pixel_unshuffle(back, step)
    g_in, g_out = (each.movedim(1, -1).flatten(0, -2).double() for each in (back, signs))
    largest = float(torch.linalg.matrix_norm(g_in.T @ g_out / len(g_out), 2))
    value = 2 - largest - 1 / (largest + 1e-6)
    return value if math.isfinite(value) else WORST


def az_nas(network: ImageNetwork, images: Tensor, *, seed: int) -> dict[str, float]:
    """Return three of AZ-NAS's four scores; the fourth is the number of multiply-adds.

    With h_1 .. h_l the `entropy_of_components` of the stem and of the blocks behind it: *expressivity* is the sum of
    the h_i, *progressivity* the smallest h_(i+1) - h_i, *trainability* the mean of the blocks' `trainability_of` (Lee &
    Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR 2024, and the authors' code).

    Parameters
    ----------
    network : ImageNetwork
        In training mode. Its weights are drawn anew, as by the authors: normal, with the variance 2 / fan-in; its
        batch norms' affine parts become 1 and 0.
    images : Tensor, shape (B, C, H, W)
        The authors' are random: independent, standard normal.
    seed : int

    Returns
    -------
    dict
        ``expressivity``, ``progressivity`` and ``trainability``; higher is better.
    """
    with seeded(seed, "az-nas weights"):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
    random = torch.Generator().manual_seed(seed)
    with kept_statistics(network), torch.enable_grad():
        features = features_of(network, images)
    entropies = [entropy_of_components(each) for each in features]
    pairs = list(itertools.pairwise(features))
    rises = [b - a for a, b in itertools.pairwise(entropies)]
    # from the last one back, as gradients go; the signs of a block do not depend on the others
    passed = [trainability_of(before, after, random) for before, after in reversed(pairs)]
    return {
        "expressivity": sum(entropies),
        "progressivity": min(rises),
        "trainability": WORST if WORST in passed else sum(passed) / len(passed),
    }


def log_ranks(marks: Sequence[Mapping[str, float]]) -> list[float]:
    """Return for each of some architectures the sum over its scores of log(rank / number); 0 is the best.

    The lowest score has rank 1, equal ones the mean of theirs (AZ-NAS, equation 10: a bad rank in one score weighs more
    than good ones in the others).

    Parameters
    ----------
    marks : sequence of mapping
        The scores of each architecture by name; all have the same names.
    """
    sums = [0.0] * len(marks)
    for name in marks[0] if marks else ():
        ranks = rankdata([mark[name] for mark in marks])
        sums = [
            total + math.log(rank / len(marks)) for total, rank in zip(sums, ranks, strict=True)
        ]
    return sums
