"""Differences of means on paired samples, with bootstrap intervals."""

import math

import numpy as np
from scipy import stats

from metrics.equivalence import LEVEL, MIN_PAIRS, RESAMPLES


def paired_difference(
    candidate: np.ndarray, reference: np.ndarray, generator: np.random.Generator, level: float = LEVEL
) -> tuple[float | None, float | None, float | None]:
    """mean(candidate) - mean(reference) over the same images, with a bootstrap interval; the image is resampled.

    The percentile interval, expanded as for a t-interval (Hesterberg 2015, The American Statistician 69).

    Args:
        candidate, reference: finite, (N,), in the same order.

    Returns:
        (value, low, high); None for no images, limits None for fewer than `MIN_PAIRS`.
    """
    difference = np.asarray(candidate, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    n = len(difference)
    if n == 0:
        return None, None, None
    value = float(difference.mean())
    if n < MIN_PAIRS:
        return value, None, None
    means = [difference[generator.integers(0, n, n)].mean() for _ in range(RESAMPLES)]
    tail = stats.norm.cdf(stats.t.ppf((1 - level) / 2, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return value, float(low), float(high)
