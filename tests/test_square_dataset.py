"""The Square dataset against the published generator's output."""

from pathlib import Path

import numpy as np
import pytest

from bench.datasets import square
from bench.datasets.square_task import SquareConfig, SquareDataset
from metrics.square import background_level, square_red

PARITY = np.load(Path(__file__).parent / "parity" / "square.npz")


def test_images_are_those_of_the_published_generator() -> None:
    for image, latent, seed in zip(PARITY["images"], PARITY["latents"], PARITY["noise_seeds"], strict=True):
        np.testing.assert_array_equal(square.render(*map(int, latent), square.noise_for(int(seed))), image)


def test_reading_back_the_latents() -> None:
    images = PARITY["images"].astype(np.float64).transpose(0, 3, 1, 2) / 255
    mask = square.inner_mask(PARITY["latents"])
    assert (mask.sum((1, 2)) == 64).all()
    np.testing.assert_allclose(square_red(images, mask), PARITY["inner_red"], atol=1e-6)
    np.testing.assert_allclose(background_level(images, mask), PARITY["background"], atol=1e-6)


def test_grid_is_the_published_one() -> None:
    # The fixture's columns are row, column, red, background.
    np.testing.assert_array_equal(square.grid_latents()[:, [2, 3, 0, 1]], PARITY["val_latents"])


def test_mirror_targets_are_rounded() -> None:
    np.testing.assert_allclose(square.mirror_target(PARITY["target_in"]), PARITY["target_out"], atol=1e-6)
    reds = np.arange(256)
    expected = np.where(reds <= 127, reds + 128, reds - 128) / 255
    np.testing.assert_allclose(square.mirror_target((reds / 255).astype(np.float32)), expected, atol=1e-6)


def test_training_latents_are_balanced_over_the_halves() -> None:
    latents = square.training_latents(1600, seed=1)
    halves = latents >= np.array([128, 128, 26, 26])
    codes = halves @ (1 << np.arange(4))
    assert (np.bincount(codes, minlength=16) == 100).all()
    assert latents.min() >= 0
    assert (latents.max(axis=0) <= [255, 255, 51, 51]).all()


def test_grid_pairs_share_their_noise(tmp_path: Path) -> None:
    grid = square.load("grid", tmp_path)
    assert len(grid) == 630
    lower, upper = grid.images[:315], grid.images[315:]
    outside = ~square.inner_mask(grid.latents[:315])
    assert (lower[outside] == upper[outside]).all()
    assert (grid.latents[315:, 0] - grid.latents[:315, 0] == 128).all()


def test_cache_is_used_and_damage_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = square.load("grid", tmp_path)
    images = next(tmp_path.rglob("images.npy"))
    digest = square.data_digest("grid", tmp_path)
    data = bytearray(images.read_bytes())
    data[-1] ^= 1
    images.write_bytes(data)
    np.testing.assert_array_equal(square.load("grid", tmp_path).images, first.images)
    assert square.data_digest("grid", tmp_path) == digest
    monkeypatch.setitem(square.SPLITS, "grid", lambda: pytest.fail("generated again"))
    square.load("grid", tmp_path)


def test_a_limit_is_spread_over_the_grid() -> None:
    task = SquareDataset(SquareConfig()).load(16)
    assert len(task.ids) == 16
    assert {name.split("/")[0] for name in task.ids} == {"lower", "upper"}
    assert len(np.unique(np.round(task.attribute * 255))) >= 6
    everything = SquareDataset(SquareConfig()).load(0)
    assert len(everything.ids) == 630
    assert np.abs(np.abs(everything.targets - everything.attribute) - 128 / 255).max() < 1e-6


def test_order_changes_neither_samples_nor_digest() -> None:
    forward = SquareDataset(SquareConfig()).load(10)
    backward = SquareDataset(SquareConfig(order="reversed")).load(10)
    assert forward.ids == backward.ids[::-1]
    assert forward.digest == backward.digest
