"""Times of process repeats: the exact test against others' figures, its false alarms and its power."""

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from methods import noise
from metrics.repeats import ALPHA, compare_repeats, fewest_repeats

FACTOR = 1.10


def repeats(generator: np.random.Generator, count: int, spread: float, centre: float = 1.0) -> np.ndarray:
    """Times of processes: log-normal, `spread` is about the relative standard deviation."""
    return centre * np.exp(spread * generator.standard_normal(count))


@pytest.mark.parametrize(("first", "second"), [(3, 3), (4, 6), (7, 5)])
def test_p_values_are_those_of_the_exact_rank_test(first: int, second: int) -> None:
    generator = noise.numpy_generator("test", first, second)
    for _ in range(5):
        base, new = repeats(generator, first, 0.1), repeats(generator, second, 0.1, 1.08)
        found = compare_repeats(base, new, FACTOR)
        for p, side in ((found.p_slower, "greater"), (found.p_faster, "less")):
            assert p == pytest.approx(stats.mannwhitneyu(new, base, alternative=side, method="exact").pvalue)


def test_p_is_the_share_of_permutations_and_ties_never_make_it_smaller() -> None:
    base, new = [1.0, 2.0, 2.0, 3.0], [2.0, 3.0, 3.5]
    pool, wins = base + new, []
    for chosen in itertools.combinations(range(len(pool)), len(new)):
        ours = [pool[i] for i in chosen]
        theirs = [pool[i] for i in range(len(pool)) if i not in chosen]
        wins.append(sum((a > b) + (a == b) / 2 for a in ours for b in theirs))
    seen = sum((a > b) + (a == b) / 2 for a in new for b in base)
    share = float(np.mean(np.asarray(wins) >= seen))
    assert share <= compare_repeats(base, new, FACTOR).p_slower <= 1


def test_a_hand_computed_case() -> None:
    found = compare_repeats([1.0, 1.02, 1.05], [1.26, 1.30, 1.28], FACTOR)
    assert (found.base, found.new) == (1.02, 1.28)
    assert found.ratio == pytest.approx(1.28 / 1.02)
    assert (found.low, found.high) == (pytest.approx(1.26 / 1.05), pytest.approx(1.30))
    assert (found.p_slower, found.p_faster) == (pytest.approx(1 / 20), 1.0)
    assert found.verdict == "regressed"
    assert found.needed is None
    back = compare_repeats([1.26, 1.30, 1.28], [1.0, 1.02, 1.05], FACTOR)
    assert (back.verdict, back.p_faster) == ("improved", pytest.approx(1 / 20))


def test_effect_and_evidence_are_both_needed() -> None:
    assert compare_repeats([1.0, 1.01, 1.02], [1.04, 1.05, 1.06], FACTOR).verdict == "ok"  # significant, but small
    overlapping = compare_repeats([1.0, 1.3, 1.05], [1.2, 1.25, 1.4], FACTOR)  # large, but not significant
    assert overlapping.ratio > FACTOR
    assert overlapping.verdict == "inconclusive"
    assert overlapping.needed > 3
    wide = compare_repeats([1.0, 1.2, 0.9], [1.0, 0.95, 1.15], FACTOR)  # a slowdown of 20 % cannot be excluded
    assert (wide.verdict, wide.ratio) == ("inconclusive", 1.0)


def test_few_repeats_decide_nothing_and_say_how_many_would() -> None:
    assert fewest_repeats() == 3
    for base, new in (([1.0], [9.0]), ([1.0, 1.0], [9.0, 9.0, 9.0])):
        found = compare_repeats(base, new, FACTOR)
        assert (found.verdict, found.low, found.high, found.needed) == ("inconclusive", None, None, 3)
        assert found.p_slower > ALPHA
    uneven = compare_repeats([1.0, 1.01], [9.0, 9.1, 9.2, 9.3, 9.4], FACTOR)
    assert (uneven.verdict, uneven.p_slower) == ("regressed", pytest.approx(1 / 21))


@pytest.mark.parametrize(("base", "new", "factor"), [([], [1.0], 1.1), ([0.0], [1.0], 1.1), ([1.0], [np.nan], 1.1)])
def test_figures_that_cannot_be_compared(base: list[float], new: list[float], factor: float) -> None:
    with pytest.raises(ValueError, match="positive, finite"):
        compare_repeats(base, new, factor)
    with pytest.raises(ValueError, match="at least 1"):
        compare_repeats([1.0], [1.0], 0.9)


def rates(name: str, count: int, spread: float, slower: float = 1.0, drift: float = 0.0) -> Counter[str]:
    """Shares of verdicts over 1,000 nights; `drift` is the relative change of the machine between the two sides."""
    generator, found = noise.numpy_generator("test", name, count), Counter()
    for _ in range(1_000):
        centre = slower * float(np.exp(drift * generator.standard_normal()))
        base, new = repeats(generator, count, spread), repeats(generator, count, spread, centre)
        found[compare_repeats(base, new, FACTOR).verdict] += 1
    return Counter({verdict: number / 1_000 for verdict, number in found.items()})


def test_false_alarms_are_rare() -> None:
    assert rates("quiet", 3, 0.02)["regressed"] == 0
    assert rates("quiet", 3, 0.02)["ok"] > 0.95
    noisy = rates("noisy", 3, 0.10)  # the test alone would alarm 5 times in 100
    assert noisy["regressed"] <= 0.06
    assert noisy["improved"] <= 0.06
    assert noisy["inconclusive"] > 0.6
    assert rates("noisy", 6, 0.10)["regressed"] <= 0.05


def test_planted_slowdowns_are_found() -> None:
    assert rates("slow", 3, 0.02, slower=1.2)["regressed"] > 0.95
    assert rates("slow", 5, 0.05, slower=1.2)["regressed"] > 0.8
    assert rates("slow", 3, 0.02, slower=1.2)["ok"] == 0
    assert rates("fast", 3, 0.02, slower=1 / 1.2)["improved"] > 0.95
    assert rates("within", 3, 0.02, slower=1.05)["regressed"] <= 0.01


def test_what_repeats_of_one_night_cannot_see() -> None:
    """A machine that drifts between nights by half of the factor alarms without a change of code (docs/gates.md)."""
    assert 0 < rates("drift", 3, 0.02, drift=0.05)["regressed"] < 0.05
    assert rates("drift", 3, 0.02, drift=0.10)["regressed"] > 0.1
