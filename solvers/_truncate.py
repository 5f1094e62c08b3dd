"""The s largest entries of a vector."""

import numpy as np

from ._convert import Groups, Sizes, Tensors, read_alone, read_groups, read_sizes, read_vectors
from ._groups import first_largest
from ._problem import exponent, times_power
from ._result import SparseResult


def truncate(
    z: Tensors,
    s: Sizes,
    groups: Groups | None = None,
    *,
    signed: bool = False,
    ties: Tensors | None = None,
) -> SparseResult:
    """Keep the s entries of largest magnitude; with `groups` at most one of each group.

    The nearest vector with at most s non-zeros: the answer of `best_subset` for A = I, b = z.
    Of equal magnitudes the one of larger `ties` is taken, then the lowest index. Not
    differentiable.

    With `signed` the largest entries are kept, not those of largest magnitude: a negative entry
    only where there are not enough others. Entries above zero come first, by value; of equal ones
    that of larger `ties`. The others follow by `ties`, then by value. For a LASSO solution
    `ties = A'(b - A z)` is the natural choice: of two columns at zero, a larger one would become
    positive at a larger penalty.

    Parameters
    ----------
    z : Tensor of shape (..., n), or sequence of Tensors of shape (..., n_i)
    s : int, or sequence of int for a sequence of vectors
        Entries to keep, 1 <= s <= n, or at most the number of groups.
    groups : sequence of int of length n, or sequence of such of lengths n_i, optional
        The group of each entry, any numbers; a batch given as a tensor shares one sequence.
    signed : bool
        Whether to go by value instead of magnitude.
    ties : like z, optional
        Decides where z does not.

    Returns
    -------
    SparseResult
        `z` holds the kept entries unchanged, `residual` is the norm of the others. `support`
        always has s indices, even where an entry happens to be zero.

    Raises
    ------
    TypeError
        If z or ties hold something else than tensors or arrays, or groups something else than ints.
    ValueError
        If shapes do not fit, something is empty, NaN or infinite, or s is out of range.
    """
    vectors = read_alone(z)
    labels = read_groups(vectors, groups)
    sizes = read_sizes(vectors, s, labels)
    p, n = vectors.z.shape
    beyond = np.arange(n) >= np.array(vectors.columns)[:, None]  # padding
    by_ties = np.zeros((p, n)) if ties is None else -read_vectors(vectors, ties, "ties", "z")
    by_size = -np.maximum(vectors.z, 0) if signed else -np.abs(vectors.z)
    # The last key is the first to decide, and what is equal in all keeps its order.
    order = np.lexsort((-vectors.z * signed, by_ties, by_size, beyond), axis=1)
    rank = np.argsort(order, axis=1)
    if labels is not None:
        rank[~first_largest(n - rank, labels)] += n
    place = np.argsort(np.argsort(rank, axis=1), axis=1)
    chosen = place < sizes[:, None]
    kept = np.where(chosen, vectors.z, 0)
    rest = vectors.z - kept
    unit = exponent(np.abs(rest).max(1))
    cut = np.linalg.norm(times_power(rest, -unit[:, None]), axis=1)
    return SparseResult(
        z=vectors.vectors(kept),
        support=vectors.per_problem([tuple(np.flatnonzero(row).tolist()) for row in chosen]),
        residual=vectors.scalars(times_power(cut, unit)),
    )
