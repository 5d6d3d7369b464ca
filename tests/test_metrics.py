"""Metrics on arrays whose values are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.registry import resolve
from metrics import SAMPLE_METRICS
from metrics.frechet import INCEPTION_FILE, frechet_distance, inception_folder
from metrics.intervals import mean_estimate, ratio_estimate
from metrics.measured import Measured
from metrics.paired import paired_difference
from metrics.square import background_error, square_error
from metrics.validity import (
    noise_prediction,
    noise_success,
    oracle_regressor_error,
    oracle_target_error,
    prediction_error,
    valid,
)


def measured(**changes: object) -> Measured:
    """Two 16x16 samples: the first changed in the square only, the second in the background only."""
    original = np.full((2, 3, 16, 16), 0.5, np.float32)
    mask = np.zeros((2, 16, 16), bool)
    mask[:, 4:12, 4:12] = True
    counterfactual = original.copy()
    counterfactual[0, 0][mask[0]] = 0.8
    counterfactual[1][:, ~mask[1]] = 0.4
    fields: dict[str, object] = {
        "original": original,
        "counterfactual": counterfactual,
        "target": np.array([0.9, 0.2]),
        "prediction": np.array([0.86, 0.3]),
        "oracle": np.array([0.8, 0.25]),
        "mask": mask,
        "tolerance": 0.05,
    }
    return Measured(**(fields | changes))


def test_known_values() -> None:
    m = measured()
    np.testing.assert_allclose(square_error(m), [0.1, 0.3], atol=1e-6)
    np.testing.assert_allclose(background_error(m), [0.0, 0.1], atol=1e-6)
    np.testing.assert_allclose(prediction_error(m), [0.04, 0.1])
    np.testing.assert_array_equal(valid(m), [1, 0])
    np.testing.assert_allclose(oracle_target_error(m), [0.1, 0.05])
    np.testing.assert_allclose(oracle_regressor_error(m), [0.06, 0.05])


def test_a_failed_sample_is_not_valid_and_not_dropped() -> None:
    assert valid(measured(prediction=np.array([0.86, np.nan]))).tolist() == [1, 0]


def test_metrics_without_ground_truth_are_absent() -> None:
    m = measured(mask=None, oracle=None)
    absent = {name for name in SAMPLE_METRICS if resolve(SAMPLE_METRICS, name, "metric")(m) is None}
    given = {"square_mae", "background_mae", "oracle_target_mae", "oracle_regressor_mae"}
    assert absent == given | {"noise_success", "noise_prediction"} | {"fs", "fva", "mnac", "lpips", "type_preserved"}


def test_success_under_fresh_noise_is_a_share_of_draws() -> None:
    draws = np.array([[0.86, 0.94, 0.84, 0.96], [0.22, np.nan, np.nan, np.nan]])
    m = measured(noise_predictions=draws)
    np.testing.assert_array_equal(noise_success(m), [0.5, 0.25])
    np.testing.assert_allclose(noise_prediction(m), [0.9, np.nan])
    failed = measured(noise_predictions=np.full((2, 4), np.nan))
    np.testing.assert_array_equal(noise_success(failed), [0, 0])


def test_a_paired_difference_has_the_pairs_precision() -> None:
    generator = np.random.default_rng(3)
    base = generator.normal(0, 5, 200)
    value, low, high = paired_difference(base + generator.normal(0.3, 0.1, 200), base, generator)
    assert low < value < high
    assert (low, high) == (pytest.approx(0.3 - 0.0117, abs=0.01), pytest.approx(0.3 + 0.0117, abs=0.01))
    assert high - low < 0.04  # unpaired, it would be some 1.6 wide
    assert paired_difference(base[:9], base[:9] - 1, generator) == (pytest.approx(1), None, None)
    assert paired_difference(np.array([]), np.array([]), generator) == (None, None, None)


def test_an_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        estimate = mean_estimate(generator.normal(3.0, 1.0, 30), generator)
        hits += estimate.low <= 3.0 <= estimate.high
    assert 86 <= hits <= 100


def test_estimates_of_too_little_data() -> None:
    generator = np.random.default_rng(0)
    assert mean_estimate(np.array([]), generator).value is None
    assert mean_estimate(np.array([np.nan]), generator).n == 0
    one = mean_estimate(np.array([2.0]), generator)
    assert (one.value, one.low, one.n) == (2.0, None, 1)
    assert ratio_estimate(np.array([1.0]), np.array([0.0]), generator, "1/s").value is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=20, unique=True))
def test_a_ratio_lies_in_its_interval(seconds: list[float]) -> None:
    valid_flags = np.arange(len(seconds)) % 2 == 0
    estimate = ratio_estimate(valid_flags, np.array(seconds), np.random.default_rng(1), "1/s")
    assert estimate.value == pytest.approx(valid_flags.sum() / sum(seconds))
    if estimate.low is not None:
        assert estimate.low <= estimate.high


def test_frechet_distance_of_shifted_gaussians() -> None:
    features = np.random.default_rng(0).normal(size=(4000, 3))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(features, features + 2) == pytest.approx(12, rel=1e-6)
    assert frechet_distance(features[:1], features) is None


def test_fid_says_why_it_is_empty(tmp_path) -> None:
    folder, reason = inception_folder(str(tmp_path))
    assert folder is None
    assert INCEPTION_FILE in reason
    assert "metrics.inception_weights" in reason
    (tmp_path / INCEPTION_FILE).write_bytes(b"")
    assert inception_folder(str(tmp_path))[0] == tmp_path
    assert inception_folder(str(tmp_path / INCEPTION_FILE))[0] == tmp_path
