"""Random measurement matrices, and what makes one good."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ._convert import Tensors, read_matrices

KINDS = ("gaussian", "normalised", "uniform", "orthogonal", "balanced")


def measurement_matrix(
    m: int,
    n: int,
    kind: str = "gaussian",
    *,
    groups: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Draw a random m x n measurement matrix.

    Parameters
    ----------
    m, n : int
        Rows (measurements) and columns (unknowns), each at least 1.
    kind : {"gaussian", "normalised", "uniform", "orthogonal", "balanced"}
        "gaussian": independent N(0, 1/m) entries, whose columns have unit norm on average; with
        high probability such a matrix has the restricted isometry property (Candes and Tao,
        "Decoding by linear programming", 2005). "normalised": the same, and then columns of unit
        norm: for m of at least 2 each is a corner of the convex hull of all of them and their
        negatives, so that the l1 solution for A z = a_i is the single place i. "uniform":
        independent entries on [0, 1), as in the code published with ISTA-NAS; their mean makes the
        columns nearly parallel.
        "orthogonal": for m <= n orthonormal rows times sqrt(n/m), whose squared column norms have
        mean 1; for m > n orthonormal columns; the row or column space is uniformly distributed.
        "balanced": orthonormal rows, a random m-dimensional part of the space of vectors that sum
        to zero over each group, and then columns of unit norm. Before they get it the columns of
        a group sum to zero: what is common to a group's entries of z does not show in A z, so one
        entry gains what its rivals lose. m is at most n minus the number of groups.
    groups : sequence of int of length n, optional
        The group of each column, for "balanced".
    generator : torch.Generator, optional
        Source of randomness; the matrix lives on its device. Without one torch's default is used.
    dtype : torch.dtype
        A floating-point type.

    Returns
    -------
    Tensor of shape (m, n)

    Raises
    ------
    ValueError
        If m or n is not a positive integer, `kind` is unknown, or `dtype` not floating-point; for
        "balanced" if there are no groups, or m is too large for them.
    """
    for name, value in (("m", m), ("n", n)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    device = torch.device("cpu") if generator is None else generator.device
    if kind == "uniform":
        return torch.rand(m, n, generator=generator, dtype=dtype, device=device)
    if kind in ("gaussian", "normalised"):
        drawn = torch.randn(m, n, generator=generator, dtype=dtype, device=device)
        return drawn / (math.sqrt(m) if kind == "gaussian" else drawn.norm(dim=0))
    if kind == "balanced":
        return _balanced(m, n, groups, generator).to(dtype).to(device)
    tall = torch.randn(max(m, n), min(m, n), generator=generator, dtype=dtype, device=device)
    # QR alone is not uniform: its signs follow LAPACK's convention. Multiplying by the signs of
    # R's diagonal makes it so (Mezzadri, "How to generate random matrices ...", 2007).
    q, r = torch.linalg.qr(tall.cpu().double())
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    matrix = q.T * math.sqrt(n / m) if m <= n else q
    return matrix.contiguous().to(dtype).to(device)


def _balanced(
    m: int, n: int, groups: Sequence[int] | None, generator: torch.Generator | None
) -> Tensor:
    if groups is None or len(groups) != n:
        raise ValueError(f"a balanced matrix needs the group of each of {n} columns, got {groups}")
    same = torch.tensor([[float(a == b) for b in groups] for a in groups], dtype=torch.float64)
    means = same / same.sum(1, keepdim=True)
    most = n - len(set(groups))
    if m > most:
        raise ValueError(f"m must be at most {most}, the columns less the groups, got {m}")
    drawn = torch.randn(m, n, generator=generator, dtype=torch.float64).cpu()
    rows = torch.linalg.svd(
        drawn @ (torch.eye(n, dtype=torch.float64) - means), full_matrices=False
    )[2]
    return (rows / rows.norm(dim=0)).contiguous()


def mutual_coherence(A: Tensors) -> Tensor:
    """Largest absolute cosine between two different columns.

    Zero columns are ignored; with fewer than two others the coherence is 0. A vector with fewer
    than (1 + 1/coherence)/2 non-zeros is recovered exactly from A z by l1 minimisation (Donoho
    and Elad, 2003).

    Parameters
    ----------
    A : Tensor of shape (..., m, n), or sequence of Tensors of shape (m_i, n_i)

    Returns
    -------
    Tensor of shape (...)
        In [0, 1], in A's dtype and on its device.

    Raises
    ------
    TypeError
        If A holds something else than tensors or arrays.
    ValueError
        If something is not a matrix or a batch of them, is empty, not floating-point or not finite.
    """
    matrices = read_matrices(A)
    # Dividing by the largest entry first keeps tiny and huge columns from under- or overflowing.
    peak = np.abs(matrices.A).max(1, keepdims=True)
    unit = matrices.A / np.where(peak == 0, 1, peak)
    norm = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = unit / np.where(norm == 0, 1, norm)
    cosine = np.abs(unit.transpose(0, 2, 1) @ unit)
    diagonal = np.arange(cosine.shape[-1])
    cosine[:, diagonal, diagonal] = 0
    return matrices.scalars(np.minimum(cosine.max((1, 2)), 1.0))
