"""Is B slower than A? Times of whole process repeats, compared exactly.

Times inside one process share its memory layout, its caches and the state of the machine, so that their spread
says little about the next process. What is compared here is one figure a process. The test is the permutation
test of the rank sum (Mann and Whitney 1947): under the hypothesis that nothing differs, every assignment of the
repeats to the two sides is as likely, and few enough of them exist to be counted; nothing is drawn at random. The
interval is the one that this test belongs to (Hodges and Lehmann 1963): the factors by which B could be divided
without becoming significantly faster or slower than A.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from pydantic import BaseModel
from scipy import stats

from metrics.equivalence import POWER, Change

ALPHA = 0.05
"""Of each one-sided test, hence 90 % intervals; not computed, as 1 of the 20 orders of three and three has to meet it
exactly."""


class RepeatedRatio(BaseModel):
    """A lower-is-better figure of NEW over that of BASE, from process repeats.

    Attributes:
        base, new: medians over the repeats.
        ratio: `new` over `base`.
        low, high: 90 % interval of the ratio; None where too few repeats cannot have one.
        p_slower, p_faster: one-sided p-values, exact without ties and too large with them.
        verdict: see `compare_repeats`.
        needed: roughly how many repeats a side would decide if nothing had changed, where these did not; None
            where nothing can be said.
    """

    base: float
    new: float
    ratio: float
    low: float | None
    high: float | None
    p_slower: float
    p_faster: float
    verdict: Change
    needed: int | None = None


def compare_repeats(base: Sequence[float], new: Sequence[float], factor: float) -> RepeatedRatio:
    """Compare a figure, one value a process repeat, lower is better.

    "regressed": the ratio of medians is beyond `factor` and significant (its interval lies above 1); "improved":
    the same below 1 / `factor`; "ok": the interval excludes a slowdown beyond `factor`; otherwise "inconclusive".

    Args:
        base, new: positive, at least one each.
        factor: at least 1.

    Raises:
        ValueError: no repeat, a figure that is not positive and finite, or a factor below 1.
    """
    theirs, ours = np.asarray(base, dtype=np.float64), np.asarray(new, dtype=np.float64)
    for values in (theirs, ours):
        if len(values) == 0 or not np.isfinite(values).all() or (values <= 0).any():
            raise ValueError("every repeat needs a positive, finite figure, and each side a repeat")
    if factor < 1:
        raise ValueError(f"factor is {factor}; at least 1 is needed")
    ratios = np.sort(np.divide.outer(ours, theirs).ravel())
    cut = _critical(len(theirs), len(ours))
    low, high = (float(ratios[cut - 1]), float(ratios[-cut])) if cut else (None, None)
    ratio = float(np.median(ours) / np.median(theirs))
    verdict = _decide(ratio, low, high, factor)
    return RepeatedRatio(
        base=float(np.median(theirs)),
        new=float(np.median(ours)),
        ratio=ratio,
        low=low,
        high=high,
        p_slower=_tail(len(theirs), len(ours), int((ratios <= 1).sum())),
        p_faster=_tail(len(theirs), len(ours), int((ratios >= 1).sum())),
        verdict=verdict,
        needed=_needed(theirs, ours, factor) if verdict == "inconclusive" else None,
    )


def fewest_repeats() -> int:
    """Repeats a side below which nothing can be significant."""
    count = 1
    while _critical(count, count) == 0:
        count += 1
    return count


def _decide(ratio: float, low: float | None, high: float | None, factor: float) -> Change:
    if low is None or high is None:
        return "inconclusive"
    if ratio > factor and low > 1:
        return "regressed"
    if ratio < 1 / factor and high < 1:
        return "improved"
    return "ok" if high <= factor else "inconclusive"


@cache
def _arrangements(first: int, second: int, wins: int) -> int:
    """Orders of `first` and `second` values in which `wins` pairs have the one of `first` above."""
    if wins < 0:
        return 0
    if first == 0 or second == 0:
        return int(wins == 0)
    # The largest value is either one of the first side, above all of the second, or one of the second.
    return _arrangements(first - 1, second, wins - second) + _arrangements(first, second - 1, wins)


def _tail(first: int, second: int, wins: int) -> float:
    """Share of all orders with at most `wins` such pairs."""
    count = sum(_arrangements(first, second, number) for number in range(wins + 1))
    return count / math.comb(first + second, first)


def _critical(first: int, second: int) -> int:
    """Which of the sorted ratios of all pairs limits the interval, counted from 1; 0 where none does."""
    cut = 0
    while cut < first * second and _tail(first, second, cut) <= ALPHA:
        cut += 1
    return cut


def _needed(base: np.ndarray, new: np.ndarray, factor: float) -> int | None:
    """Repeats a side for `POWER` to exclude a slowdown by `factor` when nothing differs (normal approximation)."""
    fewest, most = fewest_repeats(), max(len(base), len(new))
    if _critical(len(base), len(new)) == 0:
        return max(fewest, most)
    if factor == 1:
        return None
    freedom = len(base) + len(new) - 2
    squares = sum(float(((np.log(values) - np.log(values).mean()) ** 2).sum()) for values in (base, new))
    quantiles = stats.norm.ppf(1 - ALPHA) + stats.norm.ppf(POWER)
    efficiency = 3 / math.pi  # of the rank test, against the t-test where it is at its best
    count = math.ceil(2 * squares / freedom * (quantiles / math.log(factor)) ** 2 / efficiency)
    return max(count, most + 1)
