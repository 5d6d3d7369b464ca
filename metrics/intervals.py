"""Means and ratios with bootstrap intervals; the resampling unit is the image."""

import warnings

import numpy as np
from pydantic import BaseModel
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2_000


class Estimate(BaseModel):
    """A figure with its interval.

    Attributes:
        value: the point estimate, None when nothing was measured.
        low, high: 95 % bootstrap interval (BCa; percentile where BCa is undefined), None below 2 samples
            or without variance.
        n: samples it rests on.
        unit: "1" for a plain number.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = "1"


def mean_estimate(values: np.ndarray, generator: np.random.Generator, unit: str = "1") -> Estimate:
    """Mean of (N,) values; NaN entries (failed samples) are left out and `n` says how many remained."""
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    if len(kept) == 0:
        return Estimate(value=None, unit=unit)
    if len(kept) < 2 or np.ptp(kept) == 0:
        return Estimate(value=float(kept.mean()), n=len(kept), unit=unit)
    low, high = _interval((kept,), lambda x, axis: x.mean(axis=axis), generator, paired=False)
    return Estimate(value=float(kept.mean()), low=low, high=high, n=len(kept), unit=unit)


def rate_estimate(flags: np.ndarray) -> Estimate:
    """Share of true flags among (N,) with a Wilson interval, which is honest at 0 and 100 % too."""
    flags = np.asarray(flags, dtype=bool)
    if len(flags) == 0:
        return Estimate(value=None, unit="fraction")
    interval = stats.binomtest(int(flags.sum()), len(flags)).proportion_ci(LEVEL, method="wilson")
    return Estimate(value=float(flags.mean()), low=interval.low, high=interval.high, n=len(flags), unit="fraction")


def ratio_estimate(top: np.ndarray, bottom: np.ndarray, generator: np.random.Generator, unit: str) -> Estimate:
    """sum(top) / sum(bottom) over the same samples, for example valid counterfactuals over seconds."""
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    if bottom.sum() <= 0:
        return Estimate(value=None, unit=unit)
    value = float(top.sum() / bottom.sum())
    if len(top) < 2:
        return Estimate(value=value, n=len(top), unit=unit)

    def ratio(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.sum(axis=axis) / b.sum(axis=axis)

    low, high = _interval((top, bottom), ratio, generator, paired=True)
    return Estimate(value=value, low=low, high=high, n=len(top), unit=unit)


def _interval(
    data: tuple[np.ndarray, ...], statistic: object, generator: np.random.Generator, paired: bool
) -> tuple[float | None, float | None]:
    for method in ("BCa", "percentile"):
        # A resample without variance is told by NaN limits, which are dealt with below.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            result = stats.bootstrap(
                data, statistic, paired=paired, vectorized=True, n_resamples=RESAMPLES, batch=256,
                confidence_level=LEVEL, method=method, rng=generator,
            )  # fmt: skip
        low, high = result.confidence_interval
        if np.isfinite(low) and np.isfinite(high):
            return float(low), float(high)
    return None, None
