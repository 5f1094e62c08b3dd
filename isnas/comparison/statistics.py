"""Statistics that tables and experiments share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None]:
    """Return the mean, and half the width of its confidence interval; None for that of a single value.

    The interval is Student's (Biometrika 6, 1908): t s / sqrt(n) either way, with the sample's standard deviation s and
    the quantile t of the t distribution with n - 1 degrees of freedom.
    """
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return fmean(values), None
    quantile = float(t.ppf((1 + confidence) / 2, n - 1))
    return fmean(values), quantile * stdev(values) / math.sqrt(n)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of two sequences; None where it is not defined, as when all values are the same."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(one, other).statistic)
    return None if tau != tau else tau
