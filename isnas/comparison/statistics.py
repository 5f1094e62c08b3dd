"""Statistics that tables and experiments share."""

from __future__ import annotations

from collections.abc import Sequence


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of two sequences; None where it is not defined, as when all values are the same."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(one, other).statistic)
    return None if tau != tau else tau
