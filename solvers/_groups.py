"""At most one column of each group: the supports that this leaves, and the column that stands for each group.

Groups are numbered from 0 up, as `read_groups` returns them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from ._convert import Array


def first_largest(size: Array, groups: Array, margin: Array | float = 0.0) -> Array:
    """Mark the largest entry of each group; of equal ones the first.

    Parameters
    ----------
    size : array of shape (p, n)
        Magnitudes; an entry below 0 is never marked.
    groups : array of shape (p, n)
        -1 for entries without a group, which are never marked either.
    margin : float, or array of shape (p, 1)
        Entries this close to their group's largest count as equal to it.

    Returns
    -------
    bool array of shape (p, n)
    """
    p, n = size.shape
    row, column = np.indices((p, n))
    peak = np.full((p, n + 1), -1.0)  # the last place of a row is for entries without a group
    np.maximum.at(peak, (row, groups), size)
    candidate = (size >= 0) & (groups >= 0) & (size >= peak[row, groups] - margin)
    first = np.full((p, n + 1), n)
    np.minimum.at(first, (row, groups), np.where(candidate, column, n))
    return candidate & (first[row, groups] == column)


def count_supports(groups: Sequence[int], s: int) -> int:
    """Return how many supports of s columns have at most one column of each group.

    The elementary symmetric polynomial of degree s in the groups' sizes.
    """
    ways = [1] + [0] * s
    for size in Counter(groups).values():
        for k in range(s, 0, -1):
            ways[k] += ways[k - 1] * size
    return ways[s]


def admissible_supports(groups: Sequence[int], s: int, size: int) -> Iterator[Array]:
    """Return all supports of s columns with at most one of each group, in lexicographic order.

    Returns
    -------
    iterator of arrays of shape (c, s)
        With c at most `size`, or n where that is larger.
    """
    labels = np.asarray(groups)
    # (g, n): whether a group has a column here or later.
    member = labels == np.arange(labels.max() + 1)[:, None]
    later = np.logical_or.accumulate(member[:, ::-1], axis=1)[:, ::-1]
    return _grown(np.zeros((1, 0), dtype=np.int64), labels, later.astype(np.int64), s, size)


def _grown(chosen: Array, labels: Array, later: Array, s: int, size: int) -> Iterator[Array]:
    """Return the supports that begin with the rows of chosen, which hold k columns each.

    Grows all of them by one column at a time. A beginning that cannot be completed is not made:
    as many unused groups as columns are wanted must have a column here or later.
    """
    g, n = later.shape
    k = chosen.shape[1]
    if k == s:
        yield chosen
        return
    step = max(1, size // n)
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        unused = np.ones((len(part), g), dtype=bool)
        np.put_along_axis(unused, labels[part], False, 1)
        last = part.max(1, keepdims=True, initial=-1)
        fits = unused[:, labels] & (np.arange(n) > last) & (unused @ later >= s - k)
        row, column = fits.nonzero()
        yield from _grown(np.column_stack((part[row], column)), labels, later, s, size)
