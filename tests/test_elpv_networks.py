"""The figures of ELPV's networks beside guesses, under every rule of what is defective."""

import json

import numpy as np
import pytest

from bench.elpv.networks import STATISTICS, estimate, guesses
from bench.weights import SHIPPED
from metrics.regression import mean_absolute_error

TRUE = np.array([0, 0, 1 / 3, 2 / 3, 1, 1])
PREDICTED = np.array([0.1, 0.6, 0.2, 0.4, 0.9, 0.7])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MAE", (0.1 + 0.6 + 2 / 15 + 4 / 15 + 0.1 + 0.3) / 6),
        ("AUC, above 0", 6 / 8),  # 0.2 and 0.4 are below 0.6
        ("AUC, above 0.5", 8 / 9),
        ("AUC, 0 against 1", 1.0),
        ("accuracy, above 0.5", 4 / 6),  # 0.6 for 0, and 0.4 for 2/3
        ("accuracy, 0 against 1", 3 / 4),
    ],
)
def test_statistics_of_a_hand_made_case(name: str, expected: float) -> None:
    assert STATISTICS[name](PREDICTED, TRUE) == pytest.approx(expected)


def test_an_interval_lies_around_its_value_and_narrows_with_more_cells() -> None:
    generator = np.random.default_rng(0)
    few = estimate(mean_absolute_error, PREDICTED, TRUE, generator)
    many = estimate(mean_absolute_error, np.tile(PREDICTED, 50), np.tile(TRUE, 50), generator)
    assert few.low < few.value < few.high
    assert many.value == pytest.approx(few.value)
    assert many.high - many.low < 0.3 * (few.high - few.low)


def test_shipped_networks_are_as_good_as_their_cards_say_and_better_than_brightness() -> None:
    found, true = guesses()
    for name in ("regressor", "oracle"):
        card = json.loads((SHIPPED / f"elpv-{name}.json").read_text())
        assert mean_absolute_error(found[name], true) == pytest.approx(card["figures"]["test_mae"], abs=1e-4)
        linear = found["ridge regression on 16x16 brightnesses"]
        assert mean_absolute_error(found[name], true) < mean_absolute_error(linear, true)
    assert np.ptp(found["constant (training median)"]) == 0
