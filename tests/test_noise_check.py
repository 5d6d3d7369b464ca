"""Success under fresh noise, and the true counterfactuals of the Square grid."""

import numpy as np
import pytest
import torch
from torch import nn

from bench import ground_truth
from bench.datasets import square
from bench.errors import UsageError
from bench.images import read_image, to_float, to_uint8
from bench.noise_check import NoiseCheck, build_noise_check
from bench.sections import MetricsConfig
from methods import noise
from methods.diffusion import ddpm
from tests.conftest import SHAPE, SIZE, toy_samples
from tests.tiny_cell import run_cell, tiny_cell


def check_of(networks: dict[str, nn.Module], seed: int = 0, **options: object) -> NoiseCheck:
    config = MetricsConfig(**({"filter_depth": 3} | options))
    found, reason = build_noise_check(config, networks["ddpm"], networks["regressor"], seed, SHAPE)
    assert (found is None) == bool(reason)
    return found


def pixels(count: int) -> tuple[list[str], list[np.ndarray]]:
    chosen = toy_samples(count)
    return [sample.id for sample in chosen], [to_uint8(sample.image.numpy()) for sample in chosen]


def test_the_filter_of_the_paper_with_the_named_noise(networks: dict[str, nn.Module]) -> None:
    (name,), (image,) = pixels(1)
    found = check_of(networks).predict(name, image)
    schedule = networks["ddpm"].config.schedule("50")
    for draw in range(4):
        key = noise.sample_keys(0, [name], "judge/noise")
        drawn = noise.normal(key, torch.tensor([draw]), 3, (3, SIZE, SIZE))
        filtered = ddpm.filter_image(networks["ddpm"], schedule, torch.from_numpy(to_float(image))[None], 3, drawn)
        assert found[draw] == pytest.approx(float(networks["regressor"](filtered)), abs=1e-6)
    assert len(np.unique(found)) == 4


def test_noise_depends_on_seed_and_id_and_not_on_the_other_images(networks: dict[str, nn.Module]) -> None:
    names, images = pixels(3)
    check = check_of(networks)
    together = check.predict_all(names, images)
    turned = check.predict_all(names[::-1], images[::-1])[::-1]
    np.testing.assert_array_equal(together, turned)
    np.testing.assert_array_equal(check.predict_all(names[1:2], images[1:2])[0], together[1])
    assert (check.predict("another", images[0]) != together[0]).all()
    assert (check_of(networks, seed=1).predict(names[0], images[0]) != together[0]).all()


def test_a_failed_sample_has_no_predictions(networks: dict[str, nn.Module]) -> None:
    names, images = pixels(2)
    told: list[tuple[int, int]] = []
    found = check_of(networks).predict_all(names, [None, images[1]], lambda *event: told.append(event))
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
    assert told == [(1, 2), (2, 2)]


def test_where_it_cannot_be_done_it_says_why(networks: dict[str, nn.Module]) -> None:
    regressor = networks["regressor"]
    for config, denoiser, shape, words in (
        (MetricsConfig(noise_draws=0), networks["ddpm"], SHAPE, "metrics.noise_draws=0"),
        (MetricsConfig(), None, SHAPE, "no ddpm network"),
        (MetricsConfig(), networks["ddpm"], (3, 64, 64), "for 16x16 RGB images; these are 64x64 RGB"),
    ):
        found, reason = build_noise_check(config, denoiser, regressor, 0, shape)
        assert found is None
        assert words in reason
    with pytest.raises(UsageError, match="metrics.filter_depth=51"):
        check_of(networks, filter_depth=51)
    with pytest.raises(UsageError, match="metrics.filter_respacing=many"):
        check_of(networks, filter_respacing="many")


def test_a_cell_records_it_for_every_method_with_a_filter_network(networks: dict[str, nn.Module], tmp_path) -> None:
    cell = tiny_cell(networks, "diffae-re", count=3)
    without, frame = run_cell(cell, tmp_path / "without")
    assert "noise_success" not in frame
    assert without.notes["validity/noise_success_rate"] == "the dataset has no ddpm network"
    cell.weights["ddpm"] = tiny_cell(networks, "ac-re", count=1).weights["ddpm"]
    record, frame = run_cell(cell, tmp_path / "with")
    expected = check_of(networks, filter_depth=5)
    for name, row in frame.iterrows():
        drawn = expected.predict(name, read_image(tmp_path / "with" / cell.id / "images" / row["image"]))
        tolerance = cell.options["diffae-re"].tolerance
        assert row["noise_success"] == (np.abs(drawn - row["target"]) <= tolerance).mean()
        assert row["noise_prediction"] == pytest.approx(drawn.mean())
    assert record.summary["validity/noise_success_rate"].value == pytest.approx(frame["noise_success"].mean())
    assert record.weights["ddpm"] == "ddpm"
    same = without.summary.keys() - {"throughput/" + name for name in ("seconds_per_image", "valid_per_second")}
    for key in same - {"throughput/seconds_per_valid"}:
        assert record.summary[key] == without.summary[key], key


def test_the_true_counterfactual_is_the_other_half_under_the_same_noise() -> None:
    ids = ("lower/00000007", "upper/00000200")
    images = ground_truth.true_counterfactuals(ids)
    grid = square.load("grid")
    index = [grid.ids.index(name) for name in ids]
    masks = square.inner_mask(grid.latents[index])
    for image, original, mask, gained in zip(images, grid.images[index], masks, (True, False), strict=True):
        np.testing.assert_array_equal(image[~mask], original[~mask])
        red = image[mask][:, 0].astype(float).mean() - original[mask][:, 0].astype(float).mean()
        assert (red > 60) == gained
    with pytest.raises(UsageError, match="not an image of the Square grid"):
        ground_truth.counterpart("train/00000001")


def test_the_true_counterfactuals_are_scored(capsys: pytest.CaptureFixture[str]) -> None:
    frame = ground_truth.score(12, MetricsConfig(noise_draws=1, filter_depth=1))
    assert frame["background_mae"].max() == 0
    assert frame["square_mae"].mean() < 0.03
    assert frame["valid"].tolist() == (frame["prediction_error"] <= 0.05).tolist()
    assert 0 < frame["valid"].mean() < 1  # red 0 and 255 are out of the shipped regressor's reach
    lines = ground_truth.table_lines(frame)
    assert len(lines) == 2 + frame["target"].nunique()
    assert lines[1].split()[:3] == ["all", "12", f"{frame['valid'].mean():.3f}"]
    assert ground_truth.main(["--limit", "2", "--draws", "0"]) == 0
    printed = capsys.readouterr().out
    assert "Square MAE" in printed
    assert "fresh noise" not in printed
