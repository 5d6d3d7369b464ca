"""Is B as good as A? Equivalence tests on paired samples, with margins that were fixed beforehand.

Two one-sided tests (TOST, Schuirmann 1987) at 5 % each: the 90 % interval of the paired difference has to
lie inside the margins. A large p-value of a test for a difference proves nothing and is never used.
Every pair is one image: same target, same noise.
"""

import math
from typing import Literal

import numpy as np
from pydantic import BaseModel
from scipy import optimize, stats

LEVEL = 0.90
"""Of the two-sided interval; 5 % on each side."""
POWER = 0.9
"""Aimed at where the number of images that would decide is estimated."""
RESAMPLES = 4_000
MIN_PAIRS = 10
"""A bootstrap of fewer images is not trusted: no interval, hence no decision."""

_CHUNK = 2_000_000
Verdict = Literal["equivalent", "different", "inconclusive"]
Change = Literal["regressed", "ok", "improved", "inconclusive"]


class Equivalence(BaseModel):
    """One equivalence test.

    Attributes:
        value: the measured difference (rates) or ratio (means), None where it is not defined.
        low, high: its 90 % interval, None where there is none.
        allowed_low, allowed_high: the interval that counts as equal.
        n: pairs it rests on.
        needed: roughly how many images would decide, where these did not; None where nothing can be said.
    """

    verdict: Verdict
    value: float | None
    low: float | None = None
    high: float | None = None
    allowed_low: float
    allowed_high: float
    n: int
    needed: int | None = None


def decide(low: float | None, high: float | None, allowed_low: float, allowed_high: float) -> Verdict:
    """Inside the allowed interval: equivalent; wholly outside: different; otherwise inconclusive."""
    if low is None or high is None:
        return "inconclusive"
    if allowed_low <= low and high <= allowed_high:
        return "equivalent"
    return "different" if low > allowed_high or high < allowed_low else "inconclusive"


def change(low: float | None, high: float | None, worse: float, better: float) -> Change:
    """What an interval of a lower-is-better figure says of a change.

    Args:
        worse, better: a value above `worse` is a regression, one below `better` an improvement.

    Returns:
        "regressed" and "improved" only where the whole interval lies beyond its limit, "ok" where a
        regression is excluded, "inconclusive" otherwise.
    """
    if low is None or high is None:
        return "inconclusive"
    if low > worse:
        return "regressed"
    if high < better:
        return "improved"
    return "ok" if high <= worse else "inconclusive"


def rate_equivalence(reference: np.ndarray, candidate: np.ndarray, margin: float) -> Equivalence:
    """Test whether two success rates on the same images agree within `margin` (0.01 is one point).

    Args:
        reference, candidate: bool (N,), the same images in the same order.
    """
    reference, candidate = _pairs(reference, candidate, bool)
    gained, lost, n = int((candidate & ~reference).sum()), int((reference & ~candidate).sum()), len(reference)
    low, high = paired_rate_interval(gained, lost, n)
    verdict = decide(low, high, -margin, margin)
    return Equivalence(
        verdict=verdict,
        value=(gained - lost) / n if n else None,
        low=low,
        high=high,
        allowed_low=-margin,
        allowed_high=margin,
        n=n,
        needed=_pairs_for_rate((gained + lost) / n, margin) if verdict == "inconclusive" and n else None,
    )


def ratio_equivalence(
    reference: np.ndarray, candidate: np.ndarray, margin: float, generator: np.random.Generator
) -> Equivalence:
    """Test whether mean(candidate) / mean(reference) lies in [1 - margin, 1 + margin].

    Args:
        reference, candidate: non-negative (N,), the same images in the same order; pairs with a NaN are left
            out (a failed sample has no error; it counts in the success rate).
    """
    reference, candidate = _pairs(reference, candidate, np.float64)
    kept = np.isfinite(reference) & np.isfinite(candidate)
    reference, candidate = reference[kept], candidate[kept]
    ones = np.ones(len(reference))
    value, low, high = paired_ratio((candidate, ones), (reference, ones), generator)
    verdict = decide(low, high, 1 - margin, 1 + margin)
    needed = None
    if verdict == "inconclusive" and value is not None and len(reference) > 1:
        spread = float(np.std(candidate - value * reference, ddof=1) / reference.mean())
        needed = max(MIN_PAIRS, _pairs_for_mean(spread, margin))
    return Equivalence(
        verdict=verdict,
        value=value,
        low=low,
        high=high,
        allowed_low=1 - margin,
        allowed_high=1 + margin,
        n=len(reference),
        needed=needed,
    )


def paired_rate_interval(gained: int, lost: int, n: int, level: float = LEVEL) -> tuple[float | None, float | None]:
    """Interval of a difference of two rates measured on the same `n` images.

    Tango's score interval (Tango 1998, Statistics in Medicine 17), which keeps its coverage for rates near
    0 and 1 and few discordant pairs, where Wald's collapses to a point: with no discordant pair at all the
    truth may still be some 3/n away. On the side to which no pair moved it is a little narrow, so the exact
    limit (Clopper-Pearson) of the one kind of discordant pair is taken there where it is wider.

    Args:
        gained: images on which only the second succeeded.
        lost: images on which only the first succeeded.

    Returns:
        Limits of the second rate minus the first, (None, None) for n = 0.
    """
    if n == 0:
        return None, None
    low, high = _tango_limits(gained, lost, n, level)
    if lost == 0:
        high = max(high, _exact_upper(gained, n, level))
    if gained == 0:
        low = min(low, -_exact_upper(lost, n, level))
    return low, high


def _exact_upper(count: int, n: int, level: float) -> float:
    """Clopper-Pearson's upper limit of a two-sided interval."""
    return 1.0 if count == n else float(stats.beta.ppf((1 + level) / 2, count + 1, n - count))


def _tango_limits(gained: int, lost: int, n: int, level: float) -> tuple[float, float]:
    z = stats.norm.ppf((1 + level) / 2)

    def score(difference: float) -> float:
        """The score statistic, with the discordance estimated under `difference`."""
        b = -gained - lost + (2 * n - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        distance = gained - lost - n * difference
        if distance == 0:
            return 0.0
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(1e9, distance)

    estimate = (gained - lost) / n
    low = -1.0 if gained - lost == -n else optimize.brentq(lambda d: score(d) - z, -1 + 1e-12, estimate)
    high = 1.0 if gained - lost == n else optimize.brentq(lambda d: score(d) + z, estimate, 1 - 1e-12)
    return float(low), float(high)


def paired_ratio(
    candidate: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
    generator: np.random.Generator,
    level: float = LEVEL,
) -> tuple[float | None, float | None, float | None]:
    """Ratio of two ratios of sums over the same images, with a bootstrap interval; the image is resampled.

    (sum c0 / sum c1) / (sum r0 / sum r1), for example seconds per valid counterfactual of two runs. The
    percentile interval is expanded as for a t-interval (Hesterberg 2015, The American Statistician 69), since
    the plain one is too narrow for few images.

    Args:
        candidate, reference: (numerators, denominators), each (N,).

    Returns:
        (value, low, high); the value is None where a sum is zero, the limits for fewer than `MIN_PAIRS` images
        or where some resample has no value.
    """
    arrays = np.stack([np.asarray(a, dtype=np.float64) for a in (*candidate, *reference)])
    sums, n = arrays.sum(axis=1), arrays.shape[1]
    if n == 0 or not np.isfinite(sums).all() or (sums[1:] <= 0).any():
        return None, None, None
    value = float(sums[0] / sums[1] / (sums[2] / sums[3]))
    if n < MIN_PAIRS:
        return value, None, None
    if np.array_equal(arrays[0], arrays[2]) and np.array_equal(arrays[1], arrays[3]):
        return value, 1.0, 1.0
    resampled = _resampled_sums(arrays, generator)
    if (resampled[1:] <= 0).any():
        return value, None, None
    ratios = resampled[0] / resampled[1] / (resampled[2] / resampled[3])
    tail = stats.norm.cdf(stats.t.ppf((1 - level) / 2, n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return value, float(low), float(high)


def median_interval(
    values: np.ndarray, generator: np.random.Generator, level: float = LEVEL
) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of a median of (N,) values; none below 5."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 5:
        return None, None
    medians = np.median(values[generator.integers(0, len(values), (RESAMPLES, len(values)))], axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_sums(arrays: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Sums of (K, N) over resampled columns: (K, RESAMPLES), a block at a time to bound the memory."""
    n, parts, left = arrays.shape[1], [], RESAMPLES
    while left:
        count = min(left, max(1, _CHUNK // n))
        parts.append(arrays[:, generator.integers(0, n, (count, n))].sum(axis=2))
        left -= count
    return np.concatenate(parts, axis=1)


def _pairs(reference: np.ndarray, candidate: np.ndarray, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    reference, candidate = np.asarray(reference, dtype=dtype), np.asarray(candidate, dtype=dtype)
    if reference.shape != candidate.shape or reference.ndim != 1:
        raise ValueError(f"pairs are needed: the arrays have shapes {reference.shape} and {candidate.shape}")
    return reference, candidate


def _pairs_for_mean(spread: float, margin: float) -> int:
    """Pairs for `POWER` when nothing differs: spread is the standard deviation of the paired difference."""
    quantiles = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf((1 + POWER) / 2)
    return math.ceil((quantiles * spread / margin) ** 2)


def _pairs_for_rate(discordant: float, margin: float) -> int:
    """As above for rates; without a discordant pair the exact limit still has to fit into the margin."""
    least = math.ceil(math.log((1 - LEVEL) / 2) / math.log1p(-margin))
    return max(least, _pairs_for_mean(math.sqrt(discordant), margin))
