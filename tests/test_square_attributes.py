"""Attributes of Square images, measured from their pixels."""

import numpy as np
import pytest

from bench import square_attributes
from bench.datasets import square
from tests.test_spurious import square_sample


def column(values: np.ndarray, name: str) -> np.ndarray:
    return values[:, list(square_attributes.RANGES).index(name)]


def test_attributes_of_originals_are_their_latents() -> None:
    data = square_sample()
    values = square_attributes.measure(data.images, data.latents)
    red, background, row, place = data.latents.T
    assert (column(values, "row") == row).all() and (column(values, "column") == place).all()
    # Truncation and clipping at 0 and 255 move means by a few grey levels.
    assert np.abs(column(values, "red") - red / 255).max() < 0.045
    assert np.abs(column(values, "background") - background / 255).max() < 0.045
    assert np.abs(column(values, "noise") * 255 - square.NOISE_SIGMA).max() < 1.0, "black and white backgrounds too"
    assert np.abs(column(values, "frame") - square.GREY / 255).max() < 0.03


def test_a_planted_change_moves_its_attribute_only() -> None:
    latents = square_sample().latents
    latents = latents[(latents[:, 1] > 60) & (latents[:, 1] < 190)]
    plain = np.stack([square.render(*map(int, row), square.noise_for(i)) for i, row in enumerate(latents)])
    before = square_attributes.measure(plain, latents)
    down = np.where(latents[:, 2:3] > 26, -20, 20) * np.array([0, 0, 1, 0])
    moved = {
        "red": latents + np.array([90, 0, 0, 0]),
        "background": latents + np.array([0, 50, 0, 0]),
        "row": latents + down,
    }
    ranges = np.array(list(square_attributes.RANGES.values()))
    for name, changed in moved.items():
        images = np.stack([square.render(*map(int, row), square.noise_for(i)) for i, row in enumerate(changed)])
        change = np.abs(square_attributes.measure(images, latents) - before).mean(axis=0) / ranges
        order = list(np.array(list(square_attributes.RANGES))[np.argsort(-change)])
        if name == "row":  # colours are taken where the square was
            assert change[list(square_attributes.RANGES).index("row")] == pytest.approx(20 / square.POSITIONS)
            assert change[list(square_attributes.RANGES).index("column")] == 0
        else:
            assert order[0] == name and change[list(square_attributes.RANGES).index(order[1])] < 0.05
    smooth = np.stack([square.render(*map(int, row), np.zeros((64, 64, 3))) for row in latents])
    assert column(square_attributes.measure(smooth, latents), "noise").max() < 1 / 255
