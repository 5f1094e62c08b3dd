"""The space of DARTS's and ISTA-NAS's experiments on images: normal and reduction cells with two inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .base import Space
from .genotype import CellGenotype, Edge, Genotype

PRIMITIVES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""The candidate operations of the method: those of DARTS without `none`."""


@dataclass(frozen=True)
class DartsSpace(Space):
    """Cells of four nodes that read the two previous cells and each other, by default through seven operations."""

    primitives: tuple[str, ...] = PRIMITIVES
    nodes: int = 4
    inputs: int = 2
    kinds: tuple[str, ...] = ("normal", "reduction")

    name: ClassVar[str] = "darts"
    network: ClassVar[str] = "darts"

    def state_label(self, state: int) -> str:
        back = self.inputs - state
        return f"$c_{{k-{back}}}$" if back > 0 else str(-back)

    @property
    def output_label(self) -> str:
        return "$c_{k}$"

    @property
    def published(self) -> Mapping[str, Genotype]:
        return GENOTYPES if self == DARTS_SPACE else {}


DARTS_SPACE = DartsSpace()
"""The space of the method's experiments: normal and reduction cells of four nodes, seven operations."""


def _published(normal: str, reduction: str) -> Genotype:
    def cell(text: str) -> CellGenotype:
        edges = [Edge(word.split("<")[0], int(word.split("<")[1])) for word in text.split()]
        nodes = tuple(tuple(edges[i : i + 2]) for i in range(0, len(edges), 2))
        return CellGenotype(nodes, tuple(range(2, 2 + len(nodes))))

    return Genotype(DARTS_SPACE, (("normal", cell(normal)), ("reduction", cell(reduction))))


GENOTYPES: dict[str, Genotype] = {
    # ISTA-NAS, Yang et al., NeurIPS 2020: found by the two-stage search on CIFAR-10 (2.54 % test error, 3.32 M)
    "ISTA_twostage": _published(
        "skip_connect<0 dil_conv_3x3<1 sep_conv_5x5<0 dil_conv_3x3<2 "
        "dil_conv_3x3<1 sep_conv_3x3<0 sep_conv_3x3<2 skip_connect<0",
        "avg_pool_3x3<0 sep_conv_5x5<1 dil_conv_5x5<2 max_pool_3x3<1 "
        "dil_conv_5x5<3 sep_conv_3x3<1 dil_conv_5x5<4 sep_conv_5x5<1",
    ),
    # the same, one-stage on CIFAR-10 (2.36 %, 3.37 M)
    "ISTA_onestage": _published(
        "skip_connect<0 dil_conv_3x3<1 sep_conv_3x3<1 dil_conv_5x5<2 "
        "avg_pool_3x3<3 sep_conv_3x3<1 sep_conv_5x5<1 sep_conv_3x3<2",
        "avg_pool_3x3<0 max_pool_3x3<1 skip_connect<0 max_pool_3x3<1 "
        "sep_conv_5x5<1 avg_pool_3x3<0 max_pool_3x3<0 dil_conv_5x5<2",
    ),
    # the same, one-stage on ImageNet (24.0 % top-1, 5.65 M)
    "ISTA_ImageNet": _published(
        "sep_conv_3x3<1 sep_conv_3x3<0 sep_conv_3x3<1 skip_connect<2 "
        "sep_conv_3x3<1 sep_conv_3x3<0 sep_conv_3x3<1 dil_conv_5x5<4",
        "skip_connect<0 sep_conv_3x3<1 dil_conv_5x5<2 sep_conv_3x3<0 "
        "sep_conv_3x3<0 skip_connect<2 sep_conv_3x3<2 skip_connect<3",
    ),
    # DARTS, Liu et al., ICLR 2019: second order on CIFAR-10 (2.76 %, 3.3 M)
    "DARTS_V2": _published(
        "sep_conv_3x3<0 sep_conv_3x3<1 sep_conv_3x3<0 sep_conv_3x3<1 "
        "sep_conv_3x3<1 skip_connect<0 skip_connect<0 dil_conv_3x3<2",
        "max_pool_3x3<0 max_pool_3x3<1 skip_connect<2 max_pool_3x3<1 "
        "max_pool_3x3<0 skip_connect<2 skip_connect<2 max_pool_3x3<1",
    ),
}
"""Published architectures by name."""
"""Published architectures of this space by name."""
