"""Problems of the method's sizes, and the optimality conditions written out."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from solvers import measurement_matrix

SIZES = (14, 21, 28, 35)  # connections into the four nodes of a cell


@pytest.fixture
def recovery() -> Callable[[str, float, int], tuple[list[Tensor], list[Tensor]]]:
    """The eight problems of one recovery: A (7, n) of a kind, b (7,) with entries ~ scale."""

    def draw(kind: str, scale: float, seed: int) -> tuple[list[Tensor], list[Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        A = [measurement_matrix(7, n, kind, generator=generator) for n in SIZES * 2]
        b = [scale * torch.randn(7, generator=generator, dtype=torch.float64) for _ in A]
        return A, b

    return draw


@pytest.fixture
def violation() -> Callable[[Tensor, Tensor, float, Tensor], float]:
    """Return how far z is from optimal: the largest violation of the conditions, relative to lam.

    z minimises the LASSO exactly if a_j'(b - A z) is lam sign(z_j) where z_j != 0, and within
    [-lam, lam] elsewhere.
    """

    def measure(A: Tensor, b: Tensor, lam: float, z: Tensor) -> float:
        A_, b_, z_ = (np.asarray(x.double()) for x in (A, b, z))
        c = A_.T @ (b_ - A_ @ z_)
        active = np.abs(c - lam * np.sign(z_))
        inactive = np.maximum(np.abs(c) - lam, 0)
        return float(np.where(z_ != 0, active, inactive).max() / lam)

    return measure
