"""Figures of a regressor against cases worked out by hand, and against pairwise counting."""

import numpy as np
import pytest

from methods.noise import numpy_generator
from metrics.regression import auc, mean_absolute_error, spearman


def test_the_mean_absolute_error_by_hand() -> None:
    assert mean_absolute_error(np.array([0.5, 1.0, -0.25]), np.array([0.0, 1.0, 1.0])) == pytest.approx(1.75 / 3)


def test_integers_do_not_wrap() -> None:
    assert mean_absolute_error(np.array([0, 250], np.uint8), np.array([250, 0], np.uint8)) == 250


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [1, 8, 27, 64], 1.0),  # ranks alone count
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 * 4 / (5 * 24)
        # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5 over sqrt(4.5 * 5).
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / np.sqrt(4.5 * 5)),
        # Ranks 1.5, 1.5, 3.5, 3.5 against 1.5, 3.5, 1.5, 3.5.
        ([0, 0, 1, 1], [0, 1, 0, 1], 0.0),
    ],
)
def test_spearman_by_hand(predicted: list[float], true: list[float], expected: float) -> None:
    assert spearman(np.array(predicted), np.array(true)) == pytest.approx(expected)


def test_a_constant_has_no_rank_correlation() -> None:
    assert np.isnan(spearman(np.full(3, 0.5), np.arange(3.0)))
    assert np.isnan(spearman(np.arange(3.0), np.zeros(3)))


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),  # three of four pairs are in order
        ([0.5, 0.5, 0.5], [0, 1, 1], 0.5),
        ([0.2, 0.5, 0.5, 0.7], [0, 0, 1, 1], 0.875),  # one of four pairs is a tie
    ],
)
def test_the_auc_by_hand(scores: list[float], positive: list[int], expected: float) -> None:
    assert auc(np.array(scores), np.array(positive)) == pytest.approx(expected)


def test_the_auc_is_the_share_of_pairs_in_order() -> None:
    generator = numpy_generator("test-auc", 0)
    scores = np.round(generator.uniform(size=60), 1)  # many ties
    positive = generator.uniform(size=60) < 0.3
    pairs = scores[positive][:, None] - scores[~positive][None, :]
    assert (pairs == 0).sum() > 20
    assert auc(scores, positive) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_one_class_alone_has_no_auc(positive: list[bool]) -> None:
    with pytest.raises(ValueError, match="positives and negatives"):
        auc(np.array([0.1, 0.2]), np.array(positive))
