"""Error against budget: cases worked out by hand, and intervals that hold what they promise."""

import numpy as np
import pytest

from methods.noise import numpy_generator
from metrics.budget import POINTS, carry_forward, iteration_grid, mean_band, seconds_grid, share_band
from metrics.intervals import rate_estimate


def test_the_last_known_value_is_carried_forward() -> None:
    times, values = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.3, 0.1])
    grid = np.array([0.5, 1.0, 1.9, 2.0, 3.9, 4.0, 9.0])
    assert carry_forward(times, values, grid).tolist() == [0.5, 0.5, 0.5, 0.3, 0.3, 0.1, 0.1]


def test_of_equal_times_the_later_value_counts() -> None:
    assert carry_forward(np.array([1.0, 1.0]), np.array([0.5, 0.3]), np.array([1.0])).tolist() == [0.3]


def test_iterations_are_whole_and_end_with_the_last() -> None:
    assert iteration_grid(1).tolist() == [1]
    assert iteration_grid(4).tolist() == [1, 2, 3, 4]
    long = iteration_grid(500)
    assert len(long) <= POINTS and long[0] == 1 and long[-1] == 500
    assert (np.diff(long) >= 1).all() and (long == np.round(long)).all()
    with pytest.raises(ValueError, match="at least one iteration, not 0"):
        iteration_grid(0)


def test_seconds_run_from_the_first_to_the_last() -> None:
    grid = seconds_grid(0.01, 10, 4)
    assert grid == pytest.approx([0.01, 0.1, 1, 10])
    assert grid[-1] == 10
    assert seconds_grid(2, 2).tolist() == [2]
    for first, last in ((0, 1), (2, 1), (float("nan"), 1)):
        with pytest.raises(ValueError, match="positive and in order"):
            seconds_grid(first, last)


def test_a_mean_leaves_out_what_is_not_there() -> None:
    values = np.array([[0.4, np.nan, np.nan], [0.2, 0.1, np.nan], [0.0, 0.3, np.nan]])
    band = mean_band(values, np.arange(3), numpy_generator("test"))
    assert band.mean[:2] == pytest.approx([0.2, 0.2])
    assert np.isnan([part[2] for part in band]).all()
    assert (band.low[:2] < band.mean[:2]).all() and (band.mean[:2] < band.high[:2]).all()


@pytest.mark.parametrize("shape", [(3, 4), (2, 1), (3, 0)])
def test_where_nothing_is_there_nothing_is_known(shape: tuple[int, int]) -> None:
    band = mean_band(np.full(shape, np.nan), np.arange(shape[0]), numpy_generator("test"))
    assert all(part.shape == shape[1:] and np.isnan(part).all() for part in band)


def test_one_image_has_no_interval() -> None:
    band = mean_band(np.array([[0.2], [0.4]]), np.array(["a", "a"]), numpy_generator("test"))
    assert band.mean.tolist() == pytest.approx([0.3])
    assert np.isnan(band.low).all() and np.isnan(band.high).all()


def test_rows_of_one_image_say_no_more_than_one_row() -> None:
    values = numpy_generator("values").normal(size=(12, 3))
    once = mean_band(values, np.arange(12), numpy_generator("test"))
    often = mean_band(np.repeat(values, 5, axis=0), np.repeat(np.arange(12), 5), numpy_generator("test"))
    taken_as_images = mean_band(np.repeat(values, 5, axis=0), np.arange(60), numpy_generator("test"))
    for name in ("mean", "low", "high"):
        assert getattr(often, name) == pytest.approx(getattr(once, name))
    assert ((taken_as_images.high - taken_as_images.low) < 0.7 * (once.high - once.low)).all()


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says() -> None:
    values = numpy_generator("coverage").normal(size=(40, 300))  # 300 experiments of 40 images with mean 0
    band = mean_band(values, np.arange(40), numpy_generator("test"))
    assert 0.90 <= ((band.low <= 0) & (band.high >= 0)).mean() <= 0.98


def test_a_share_has_wilsons_interval_over_images() -> None:
    flags = np.array([[False, True, False]] * 3 + [[True, True, False]] * 4)
    band = share_band(flags, np.arange(7))
    doubled = share_band(np.repeat(flags, 2, axis=0), np.repeat(np.arange(7), 2))
    for index in range(3):
        expected = rate_estimate(flags[:, index])
        for found in (band, doubled):
            triple = (found.mean[index], found.low[index], found.high[index])
            assert triple == pytest.approx((expected.value, expected.low, expected.high))
    assert band.low[1] < 1 == band.high[1]
    assert band.low[2] == 0 < band.high[2]
