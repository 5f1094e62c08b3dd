"""Statistics of the experiments: rank correlation, paired differences, and intervals around them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
from scipy.stats import t

LEVEL = 0.95
"""Confidence level of all intervals."""

RESAMPLES = 2_000


def mean_tau(scores: np.ndarray, accuracies: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of Kendall's tau over all pairs of a row of `scores` and one of `accuracies`, with its interval.

    Parameters
    ----------
    scores : ndarray, shape (k, n)
        Scores of n architectures, by k searches.
    accuracies : ndarray, shape (r, n)
        Accuracies of the same architectures, by r trainings of each.

    Returns
    -------
    mean, low, high : float
        The interval is the percentile bootstrap's over architectures: it says nothing of other searches or trainings.
        nan where all rows of one side are constant.
    """
    pairs = [(_signs(a), _signs(b)) for a in scores for b in accuracies]
    return _with_interval(pairs, scores.shape[1])


def ceiling(accuracies: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of Kendall's tau over all pairs of rows of `accuracies`, shape (r, n), as `mean_tau` does.

    It is what a score could reach that knew all but a training's chance.
    """
    signs = [_signs(row) for row in accuracies]
    pairs = [(signs[i], signs[j]) for i in range(len(signs)) for j in range(i)]
    return _with_interval(pairs, accuracies.shape[1])


def _with_interval(
    pairs: list[tuple[np.ndarray, np.ndarray]], n: int
) -> tuple[float, float, float]:
    if not pairs:
        return (float("nan"),) * 3
    drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    counts = (drawn[:, :, None] == np.arange(n)).sum(1)  # how often each architecture was drawn
    weights = np.vstack([np.ones(n), counts])
    taus = np.stack([_taus(a, b, weights) for a, b in pairs])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mean of nothing
        mean, *others = np.nanmean(taus, axis=0)
    known = np.array(others)[np.isfinite(others)]
    if not len(known):
        return float(mean), float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(mean), float(low), float(high)


def _signs(values: np.ndarray) -> np.ndarray:
    return np.sign(np.subtract.outer(values, values))


def _taus(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return tau-b from the signs of all differences, the cosine between them, for each row of weights of the items."""

    def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ((weights @ (x * y)) * weights).sum(1)

    size = np.sqrt(product(a, a) * product(b, b))
    return np.divide(product(a, b), size, out=np.full(len(size), np.nan), where=size > 0)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its interval by Student's t; the interval of a single value is (nan, nan)."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def interval_text(found: tuple[float, float, float], digits: int = 2, sign: bool = False) -> str:
    """Return a value with its interval as text, e.g. ``0.41 [0.20, 0.59]``; what is not known is left out."""
    form = f"{'+' if sign else ''}.{digits}f"
    value, low, high = found
    if np.isnan(value):
        return "not defined"
    return f"{value:{form}}" + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")
