"""What a search had reached after some budget: iterations or seconds of every sample, last values carried forward.

A sample's course is (times, values): values[i] was known at times[i]. Before its first time a sample stands at its
first value, where the search starts; after its last time it stays at its last value, because it is done.
The unit of all intervals is the image: rows of one image (several reference values) count as one.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from metrics.intervals import LEVEL

RESAMPLES = 1_000
POINTS = 60
"""Of a curve; budgets are spaced evenly on a logarithmic axis, where methods that differ tenfold can be told apart."""


class Band(NamedTuple):
    """A curve with its pointwise 95 % interval, float64 (G,) each; NaN where there is nothing to say."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def iteration_grid(last: int, points: int = POINTS) -> np.ndarray:
    """Whole numbers from 1 to `last`, at most `points`: all of them where they fit, else evenly on a log axis."""
    if last < 1:
        raise ValueError(f"a search has at least one iteration, not {last}")
    if last <= points:
        return np.arange(1, last + 1, dtype=np.float64)
    return np.unique(np.geomspace(1, last, points).round())


def seconds_grid(first: float, last: float, points: int = POINTS) -> np.ndarray:
    """`points` times from `first` to `last` in seconds, evenly on a log axis; one where they are equal."""
    if not 0 < first <= last:
        raise ValueError(f"times have to be positive and in order, not {first} and {last}")
    return np.array([last]) if first == last else np.geomspace(first, last, points)


def carry_forward(times: np.ndarray, values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The value that was last known at every budget.

    Args:
        times: (K,) in rising order, K >= 1.
        values: (K,), known from the time beside it.
        grid: (G,) budgets, in the unit of the times.

    Returns:
        float64 (G,); the first value before the first time.
    """
    places = np.searchsorted(times, grid, side="right") - 1
    return np.asarray(values, dtype=np.float64)[np.maximum(places, 0)]


def mean_band(values: np.ndarray, units: np.ndarray, generator: np.random.Generator) -> Band:
    """Mean over samples at every budget, with a percentile bootstrap over images.

    Args:
        values: (N, G); NaN entries are left out.
        units: (N,), the image that each row belongs to: any labels.

    Returns:
        Low and high are NaN below two images; all are NaN where every entry of a column is.
    """
    finite = np.isfinite(values)
    _, unit = np.unique(units, return_inverse=True)
    count = int(unit.max()) + 1 if len(unit) else 0
    totals, present = np.zeros((2, count, values.shape[1]))
    np.add.at(totals, unit, np.where(finite, values, 0.0))
    np.add.at(present, unit, finite)
    with np.errstate(invalid="ignore"):
        mean = totals.sum(0) / present.sum(0)
        if count < 2:
            return Band(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
        means = (drawn @ totals) / (drawn @ present)
    # A resample without any finite entry says nothing; columns that have none at all stay NaN.
    low, high = np.full((2, values.shape[1]), np.nan)
    known = np.isfinite(means).any(0)
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    if known.any():
        low[known], high[known] = np.nanquantile(means[:, known], tails, axis=0)
    return Band(mean, low, high)


def share_band(flags: np.ndarray, units: np.ndarray) -> Band:
    """Share of samples at every budget, with Wilson's interval (1927), which is honest at 0 and 100 % too.

    Args:
        flags: bool (N, G), N >= 1.
        units: (N,), the image of each row; the interval is that of as many samples as there are images, since
            rows of one image tend to agree: never too narrow.
    """
    mean = np.asarray(flags, dtype=np.float64).mean(0)
    count = len(np.unique(units))
    z = stats.norm.ppf((1 + LEVEL) / 2)
    centre = (mean + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(mean * (1 - mean) / count + z**2 / (4 * count**2))
    return Band(mean, np.clip(centre - reach, 0, mean), np.clip(centre + reach, mean, 1))
