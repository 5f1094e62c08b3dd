"""The s largest entries of a vector."""

import numpy as np

from ._convert import Groups, Tensors, check_size, read_alone, read_groups
from ._groups import first_largest
from ._result import SparseResult


def truncate(z: Tensors, s: int, groups: Groups | None = None) -> SparseResult:
    """Keep the s entries of largest magnitude; with `groups` at most one of each group.

    The nearest vector with at most s non-zeros: the answer of `best_subset` for A = I, b = z.
    Of equal magnitudes the lowest index is taken. Not differentiable.

    Parameters
    ----------
    z : Tensor of shape (..., n), or sequence of Tensors of shape (n_i,)
    s : int
        Entries to keep, 1 <= s <= n, or at most the number of groups.
    groups : sequence of int of length n, or sequence of such of lengths n_i, optional
        The group of each entry, any numbers; a batch given as a tensor shares one sequence.

    Returns
    -------
    SparseResult
        `z` holds the kept entries unchanged, `residual` is the norm of the others. `support`
        always has s indices, even where an entry happens to be zero.

    Raises
    ------
    TypeError
        If z holds something else than tensors, or groups something else than ints.
    ValueError
        If shapes do not fit, something is empty, NaN or infinite, or s is out of range.
    """
    vectors = read_alone(z)
    labels = read_groups(vectors, groups)
    check_size(vectors, s, labels)
    size = np.abs(vectors.z)
    for row, n in zip(size, vectors.columns, strict=True):
        row[n:] = -1  # padding comes last
    if labels is not None:
        size[~first_largest(size, labels)] = -1
    support = np.sort(np.argsort(-size, axis=1, kind="stable")[:, :s], axis=1)
    kept = np.zeros_like(vectors.z)
    np.put_along_axis(kept, support, np.take_along_axis(vectors.z, support, 1), 1)
    return SparseResult(
        z=vectors.vectors(kept),
        support=vectors.per_problem([tuple(row) for row in support.tolist()]),
        residual=vectors.scalars(np.linalg.norm(vectors.z - kept, axis=1)),
    )
