"""Sizes of networks."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .genotype import Genotype
from .network import Network, NetworkOptions, build_network
from .space import DARTS_SPACE, Space


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, without the auxiliary head's: it is not part of the network that is used."""
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if not name.startswith("auxiliary_head.")
    )


def count_multiply_adds(network: Network, size: tuple[int, int] = (32, 32)) -> int:
    """Return the multiply-adds for one image of `size` (H, W) pixels.

    Counting rule: convolutions and the classifier, nothing else (no pooling, batch norm, activation or addition).
    """
    shape = copy.deepcopy(network).to("meta").eval()
    image = torch.empty(1, network.options.in_channels, *size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shape(image)
    return counter.get_total_flops() // 2  # a multiply-add counts as two operations there


def genotype_parameters(
    genotype: Genotype, options: NetworkOptions, space: Space = DARTS_SPACE
) -> int:
    """Return the parameters of a genotype's discrete network, without building its weights."""
    with torch.device("meta"):
        network = build_network(genotype, **dataclasses.asdict(options), space=space)
    return count_parameters(network)
