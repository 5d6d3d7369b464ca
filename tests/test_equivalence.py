"""Equivalence tests: agreement is proved, differences are found, too little data decides nothing."""

import numpy as np
import pytest

from methods.noise import numpy_generator, numpy_normal
from metrics.equivalence import (
    change,
    decide,
    median_interval,
    paired_rate_interval,
    paired_ratio,
    rate_equivalence,
    ratio_equivalence,
)

MARGIN = 0.01


def flags(n: int, true: int) -> np.ndarray:
    return np.arange(n) < true


def errors(seed: int, n: int) -> np.ndarray:
    return 0.02 + 0.1 * np.abs(numpy_normal(seed, (n,)))


def test_tangos_interval_against_a_published_one() -> None:
    """Airway hyper-responsiveness before and after a transplant (Fagerland, Lydersen and Laake 2014)."""
    low, high = paired_rate_interval(1, 7, 21, level=0.95)
    assert (low, high) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 5), (3, 0, 40), (2, 9, 300), (10, 0, 10), (5, 5, 10)])
def test_rate_intervals_hold_the_difference_and_are_mirrored(gained: int, lost: int, n: int) -> None:
    low, high = paired_rate_interval(gained, lost, n)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    assert paired_rate_interval(lost, gained, n) == (pytest.approx(-high, abs=1e-9), pytest.approx(-low, abs=1e-9))


def test_no_discordant_pair_proves_a_rate_only_within_three_over_n() -> None:
    for n in (10, 100, 1000):
        assert paired_rate_interval(0, 0, n)[1] == pytest.approx(1 - 0.05 ** (1 / n))
    same = flags(298, 200)
    too_few = rate_equivalence(same, same, MARGIN)
    assert (too_few.verdict, too_few.needed) == ("inconclusive", 299)
    enough = flags(299, 200)
    assert rate_equivalence(enough, enough, MARGIN).verdict == "equivalent"
    assert paired_rate_interval(0, 0, 0) == (None, None)


def test_a_planted_loss_of_success_is_different() -> None:
    found = rate_equivalence(flags(600, 500), flags(600, 470), MARGIN)
    assert found.verdict == "different"
    assert found.value == pytest.approx(-0.05)


@pytest.mark.parametrize(("n", "gained", "lost"), [(300, 0.0, 0.01), (630, 0.01, 0.02)])
def test_a_rate_that_is_off_by_the_margin_is_called_equivalent_in_few_cases(n: int, gained: float, lost: float) -> None:
    runs, wrong = 400, 0
    ranks = np.argsort(np.argsort(numpy_normal(7, (runs * n,)))).reshape(runs, n) / (runs * n)
    for row in ranks:
        ups, downs = int((row < gained).sum()), int((row > 1 - lost).sum())
        wrong += decide(*paired_rate_interval(ups, downs, n), -MARGIN, MARGIN) == "equivalent"
    assert wrong / runs <= 0.08


def test_equal_errors_are_equivalent_and_shifted_ones_different() -> None:
    base, generator = errors(1, 400), numpy_generator("test", 0)
    assert ratio_equivalence(base, base, MARGIN, generator).verdict == "equivalent"
    jitter = base * (1 + 0.01 * numpy_normal(2, (400,)))
    assert ratio_equivalence(base, jitter, MARGIN, generator).verdict == "equivalent"
    for factor in (1.05, 0.95):
        found = ratio_equivalence(base, jitter * factor, MARGIN, generator)
        assert found.verdict == "different"
        assert found.low < factor < found.high or found.value == pytest.approx(factor, abs=0.005)


def test_few_or_scattered_errors_decide_nothing_and_say_how_many_would() -> None:
    generator = numpy_generator("test", 0)
    few = errors(1, 9)
    assert ratio_equivalence(few, few, MARGIN, generator).verdict == "inconclusive"
    base = errors(1, 60)
    scattered = np.abs(base * (1 + 0.3 * numpy_normal(2, (60,))))
    found = ratio_equivalence(base, scattered, MARGIN, generator)
    assert found.verdict == "inconclusive"
    assert 2_000 < found.needed < 50_000
    assert ratio_equivalence(base, np.full(60, np.nan), MARGIN, generator).verdict == "inconclusive"


@pytest.mark.parametrize("n", [30, 60])
def test_size_and_power_of_the_ratio_test(n: int) -> None:
    runs, wrong, found = 150, 0, 0
    scale = 0.02 + 0.1 * np.sqrt(2 / np.pi)
    for run in range(runs):
        base, jitter = errors(3 * run, n), 0.03 * scale * numpy_normal(3 * run + 1, (n,))
        generator = numpy_generator("test", run)
        wrong += ratio_equivalence(base, base * (1 + MARGIN) + jitter, MARGIN, generator).verdict == "equivalent"
        found += ratio_equivalence(base, base + jitter / 2, MARGIN, generator).verdict == "equivalent"
    assert wrong / runs <= 0.09
    assert found / runs >= (0.85 if n == 30 else 0.95)


def test_a_ratio_of_ratios_follows_a_planted_factor() -> None:
    seconds, ones = errors(4, 200), np.ones(200)
    value, low, high = paired_ratio((1.3 * seconds, ones), (seconds, ones), numpy_generator("test", 0))
    assert value == pytest.approx(1.3)
    assert (low, high) == (pytest.approx(1.3), pytest.approx(1.3))
    assert paired_ratio((seconds, 0 * ones), (seconds, ones), numpy_generator("test", 0)) == (None, None, None)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((1.06, 1.2), "regressed"),
        ((1.01, 1.04), "ok"),
        ((0.97, 1.05), "ok"),
        ((1.0, 1.2), "inconclusive"),
        ((0.5, 0.9), "improved"),
        ((None, None), "inconclusive"),
    ],
)
def test_a_change_counts_only_with_its_whole_interval(interval: tuple[float, float], verdict: str) -> None:
    assert change(*interval, 1.05, 1 / 1.05) == verdict


def test_median_intervals_need_five_values() -> None:
    generator = numpy_generator("test", 0)
    assert median_interval(np.ones(4), generator) == (None, None)
    values = 2 + 0.1 * numpy_normal(5, (40,))
    low, high = median_interval(values, generator)
    assert low < np.median(values) < high
    assert high - low < 0.15


def test_arrays_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs are needed"):
        rate_equivalence(flags(3, 1), flags(4, 1), MARGIN)
