"""Metrics of grey photographs: changed area, preserved type, distance to real images of the target, LPIPS."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.cell import Cell, judging_roles
from bench.checkpoints import Loaded
from bench.config import RunConfig
from bench.datasets.base import HeldOut
from bench.datasets.elpv import ElpvConfig, ElpvDataset
from bench.datasets.square_task import SquareConfig, SquareDataset
from bench.errors import UsageError
from bench.evaluators import Evaluators, Figures, build_evaluators, image_format
from bench.faces import FACE_KEYS, may_show_faces
from bench.images import as_rgb, read_saved, to_float, to_uint8
from bench.judge import Judge
from bench.kinds import ROLES
from bench.networks import RegressorConfig, SmallRegressor
from bench.realism import NO_FEATURES, Subject, oracle_features
from bench.record import Journal
from bench.sections import MetricsConfig
from bench.target_class import DISTANCE, ORIGINALS, group_by_target, held_out_digest, target_class_realism
from bench.tracking.names import metric_name
from metrics.cell_type import type_preserved
from metrics.frechet import frechet_distance
from metrics.measured import Measured
from metrics.perceptual import ALEXNET_FILE, load_lpips
from metrics.sparsity import changed_area
from reports.records import Cell as ShownCell
from reports.table import to_csv
from reports.tables import summary_table
from tests.conftest import SIZE, randomise, tiny_networks, toy_samples
from tests.test_face_metrics import ALEXNET, sha256
from tests.tiny_cell import run_cell, tiny_cell

METRICS = MetricsConfig(noise_draws=0)
TARGET_CLASS = {DISTANCE, ORIGINALS}


def measured(original: np.ndarray, counterfactual: np.ndarray, **more: object) -> Measured:
    """Of uint8 images (N, H, W, C); nothing is predicted."""
    count = len(original)
    nothing = np.zeros(count)
    images = to_float(original), to_float(counterfactual)
    return Measured(*images, target=nothing, prediction=nothing, oracle=None, mask=None, tolerance=0.05, **more)


def test_a_pixel_counts_as_changed_from_thirteen_grey_levels() -> None:
    before = np.full((3, 4, 4, 1), 100, np.uint8)
    after = before.copy()
    after[0, 0] += 12
    after[1, 0] += 13
    after[1, 1:3] -= 13
    after[2] += 255 - 100
    np.testing.assert_array_equal(changed_area(measured(before, after)), [0, 0.75, 1])


def test_the_change_of_a_coloured_pixel_is_the_mean_over_its_channels() -> None:
    before = np.full((2, 4, 4, 3), 100, np.uint8)
    after = before.copy()
    after[0, 0, 0, 0] += 38  # 38 / 3 is below 12.75, though one channel is far beyond
    after[1, 0, 0] = [120, 81, 100]  # opposite signs do not cancel
    np.testing.assert_array_equal(changed_area(measured(before, after)), [0, 1 / 16])


def test_a_failed_sample_has_neither_area_nor_type() -> None:
    images = np.full((2, 4, 4, 1), 100, np.uint8)
    m = measured(images, images, types=np.array([0.9, np.nan]), counterfactual_types=np.array([0.2, np.nan]))
    missing = m.counterfactual.copy()
    missing[1] = np.nan
    m = dataclasses.replace(m, counterfactual=missing)
    np.testing.assert_array_equal(changed_area(m), [0, np.nan])
    np.testing.assert_array_equal(type_preserved(m), [0, np.nan])


def test_the_type_is_kept_on_the_same_side_of_one_half() -> None:
    images = np.zeros((4, 4, 4, 1), np.uint8)
    types, after = np.array([0.6, 0.6, 0.4, 0.4]), np.array([0.99, 0.5, 0.49, 0.51])
    m = measured(images, images, types=types, counterfactual_types=after)
    np.testing.assert_array_equal(type_preserved(m), [1, 0, 1, 0])
    assert type_preserved(measured(images, images)) is None


def held_out(levels: list[int], values: list[float]) -> HeldOut:
    """Images of one grey level each, but for their first pixels, named real/0 and so on."""
    images = np.stack([np.full((SIZE, SIZE, 1), level, np.uint8) for level in levels])
    images[:, 0, 0, 0] = np.arange(len(levels)) * 9 % 250
    names = tuple(f"real/{index}" for index in range(len(levels)))
    return HeldOut(names, images, np.array(values, np.float32))


def test_real_images_of_a_target_are_those_of_its_value_that_are_not_explained() -> None:
    real = held_out([0] * 6, [0, 1 / 3, 1 / 3, 1 / 3, 1, 1])
    sources = ("real/1", "real/0", "real/5", "real/2")
    targets = np.array([1 / 3, 1 / 3, 1, 0.5], np.float32)
    kept = np.array([False, True, True, True])
    third, half, one = group_by_target(targets, kept, sources, real)
    # real/1 is explained, though without success, real/2 for another value.
    assert third.rows.tolist() == [0] and third.real.tolist() == [3]
    assert half.real.tolist() == [] and half.rows.tolist() == [2]
    assert one.rows.tolist() == [1] and one.real.tolist() == [4]  # real/5 is explained
    assert not any(group.measurable for group in (third, half, one))
    assert third.describe() == "0.333: 1 explained, 1 real images"


def two_pixels(images: np.ndarray) -> np.ndarray:
    """Known features: the first pixel and the last."""
    assert images.dtype == np.float32 and images.shape[1:] == (1, SIZE, SIZE)
    return images[:, 0, [0, -1], [0, -1]].astype(np.float64)


@pytest.fixture(scope="module")
def grey() -> Cell:
    """A cell of six grey images, three of them towards 0 and three towards 1, and sixteen real ones."""
    cell = tiny_cell(tiny_networks(1), "ac-re", count=6, channels=1, metrics=METRICS)
    real = held_out([40] * 8 + [200] * 8, [0] * 8 + [1] * 8)
    targets = np.array([0, 0, 0, 1, 1, 1], np.float32)
    cell.task = dataclasses.replace(cell.task, targets=targets, held_out=real)
    return cell


def with_type(cell: Cell, channels: int = 1) -> Cell:
    network = randomise(SmallRegressor(RegressorConfig(widths=(8, 16), in_channels=channels)), 8)
    return dataclasses.replace(cell, weights=cell.weights | {"type": Loaded(network, Path("type"), "type-hash")})


def subject(cell: Cell, saved: np.ndarray, kept: list[bool]) -> Subject:
    pairs = [(a, b if keep else None) for a, b, keep in zip(cell.task.images, saved, kept, strict=True)]
    return Subject(pairs, cell.task.ids, np.array(kept), np.array(kept), faces=False)


def class_realism(cell: Cell, saved: np.ndarray, kept: list[bool], oracle: str = "oracle") -> Figures:
    """The distances of counterfactuals, on the features of `two_pixels`."""
    own = subject(cell, saved, kept)
    return target_class_realism(own, cell.task, oracle_features(two_pixels, own.pairs), oracle)


def test_the_distance_is_the_mean_over_targets_weighted_by_counterfactuals(grey: Cell) -> None:
    originals = grey.task.images
    saved = np.stack([to_uint8(sample.image.numpy()) for sample in toy_samples(12, 1)])[6:]
    kept = [True, True, True, True, True, False]
    found = class_realism(grey, saved, kept)
    real = two_pixels(to_float(grey.task.held_out.images))

    def expected(images: np.ndarray) -> float:
        features = two_pixels(to_float(images))
        towards_0, towards_1 = (
            frechet_distance(real[:8], features[:3]),
            frechet_distance(real[8:], features[3:5]),
        )
        return (3 * towards_0 + 2 * towards_1) / 5

    assert found.summary[DISTANCE].value == pytest.approx(expected(saved))
    assert found.summary[ORIGINALS].value == pytest.approx(expected(originals))
    assert found.summary[DISTANCE].value != pytest.approx(found.summary[ORIGINALS].value)
    assert found.summary[DISTANCE].n == 5 and found.summary[DISTANCE].low is None
    assert "0: 3 explained, 8 real images; 1: 2 explained, 8 real images" in found.notes[DISTANCE]
    prints = {key: facts["fingerprint"] for key, facts in found.definitions.items()}
    assert prints.keys() == TARGET_CLASS and len(set(prints.values())) == 2
    other = class_realism(grey, saved, kept, "another oracle")
    assert other.definitions[DISTANCE]["fingerprint"] != prints[DISTANCE]


def test_images_like_the_real_ones_of_their_target_come_nearer_than_their_originals(grey: Cell) -> None:
    real = grey.task.held_out.images
    saved = np.concatenate([real[:3], real[8:11]])
    opposite = dataclasses.replace(grey.task, images=np.concatenate([real[8:11], real[:3]]))
    cell = dataclasses.replace(grey, task=opposite)
    found = class_realism(cell, saved, [True] * 6)
    assert found.summary[DISTANCE].value < 0.1 * found.summary[ORIGINALS].value


def test_a_distance_that_cannot_be_measured_says_why(grey: Cell) -> None:
    images = grey.task.images
    featureless = target_class_realism(subject(grey, images, [True] * 6), grey.task, None, "oracle")
    few = class_realism(grey, images, [True, False, False, True, False, False])
    none = class_realism(grey, images, [False] * 6)
    for found, words in ((featureless, NO_FEATURES), (few, "0: 1 explained, 8"), (none, "0: 0 explained")):
        assert {key: estimate.value for key, estimate in found.summary.items()} == dict.fromkeys(TARGET_CLASS)
        assert all(words in found.notes[key] for key in TARGET_CLASS) and not found.definitions


def test_the_oracle_looks_at_every_image_once(grey: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    own = Judge.oracle_features
    monkeypatch.setattr(Judge, "oracle_features", lambda judge, images: seen.append(len(images)) or own(judge, images))
    record, _ = run_cell(grey, tmp_path)
    assert record.summary["realism/oracle_feature_distance"].value is not None
    assert record.summary[DISTANCE].value is not None
    assert sum(seen) == 2 * 6 + 16, "six originals, six counterfactuals and sixteen real images"


def test_a_grey_cell_has_every_figure_and_none_moves_when_a_type_classifier_comes(grey: Cell, tmp_path: Path) -> None:
    plain, _ = run_cell(grey, tmp_path)
    assert plain.summary["type/preserved"].value is None
    assert "weights.type" in plain.notes["type/preserved"]
    rows = {row["id"]: row for row in Journal(tmp_path / grey.id / "samples.jsonl").rows()}
    saved = np.stack([read_saved(tmp_path / grey.id / "images" / rows[name]["image"]) for name in grey.task.ids])
    cell = with_type(grey)
    network = cell.weights["type"].network
    first, second = (network(torch.from_numpy(to_float(images[:1]))).item() for images in (grey.task.images, saved))
    network.head.bias.data += 0.5 - (first + second) / 2  # so that the first image changes its type
    record, frame = run_cell(cell, tmp_path)  # judges the saved images again
    assert record.sessions == 1
    for key in plain.summary.keys() - {"type/preserved"}:
        assert record.summary[key] == plain.summary[key], key
    pixels = np.abs(saved.astype(int) - cell.task.images)
    area = (pixels > 12.75).mean(axis=(1, 2, 3))
    assert 0 < area.min() < area.max() < 1
    np.testing.assert_allclose(frame["changed_area"].to_numpy(), area)
    assert record.summary["sparsity/changed_area"].value == pytest.approx(area.mean())
    before, after = (network(torch.from_numpy(to_float(images))) > 0.5 for images in (cell.task.images, saved))
    kept = record.summary["type/preserved"]
    assert (kept.value, kept.n) == (pytest.approx(float((before == after).float().mean())), 6)
    assert kept.value < 1 and kept.high > kept.value
    assert all(record.summary[key].value is not None for key in TARGET_CLASS)
    assert record.definitions["type/preserved"]["weights"] == "type-hash"
    assert record.definitions[DISTANCE]["weights"] == "oracle"
    assert record.judged["weights"].keys() == {"oracle", "type"}
    assert record.judged["held_out"] == held_out_digest(cell.task.held_out)
    assert not record.summary.keys() & (set(FACE_KEYS.values()) - {"perceptual/lpips"})
    assert not any("face" in note for note in record.notes.values())
    headings = to_csv(summary_table([ShownCell(None, Path(), record, "a")])).splitlines()[0]
    for heading in ("changed area", "type preserved", "target class distance", "the same of originals"):
        assert heading in headings
    units = {key: record.summary[key].unit for key in ("sparsity/changed_area", "type/preserved", DISTANCE)}
    assert [metric_name(*pair) for pair in units.items()] == [
        "sparsity/changed_area_fraction",
        "type/preserved_fraction",
        DISTANCE,
    ]


def test_data_without_references_is_told_neither_of_a_type_nor_of_its_target_class(
    networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    record, frame = run_cell(tiny_cell(networks, "ac-re", count=1, metrics=METRICS), tmp_path)
    assert not (record.summary.keys() | record.notes.keys()) & (TARGET_CLASS | {"type/preserved"})
    assert "held_out" not in record.judged and "type_preserved" not in frame
    assert record.summary["sparsity/changed_area"].value is not None


def test_a_type_classifier_sees_the_image_as_it_was_saved(grey: Cell) -> None:
    network = with_type(grey).weights["type"]
    pairs = list(zip(grey.task.images, grey.task.images[::-1], strict=True))
    evaluators = build_evaluators({"type": network}, MetricsConfig(mode="paper"), SIZE, 1)
    png, jpeg = (evaluators.measure([*pairs, (pairs[0][0], None)], jpeg).types for jpeg in (False, True))
    np.testing.assert_array_equal(png, jpeg)
    assert np.isfinite(png[0][:-1]).all() and np.isnan([png[0][-1], png[1][-1]]).all()
    images = torch.from_numpy(to_float(grey.task.images))
    np.testing.assert_allclose(png[0][:-1], network.network(images).numpy(), rtol=1e-5)


def test_a_type_classifier_of_other_images_is_refused(grey: Cell) -> None:
    with pytest.raises(UsageError, match="weights.type: images are 16x16 grey; the network needs 16x16 RGB"):
        build_evaluators(with_type(grey, 3).weights, METRICS, SIZE, 1)
    broken = with_type(grey).weights
    broken["type"].network.head.bias.data.fill_(float("nan"))
    with pytest.raises(UsageError, match="weights.type.*NaN"):
        build_evaluators(broken, METRICS, SIZE, 1)


def test_elpv_has_a_type_classifier_and_square_has_none() -> None:
    assert "regressor" in ROLES["type"]
    roles = judging_roles(RunConfig(), ElpvDataset(ElpvConfig()))
    assert "type" in roles and not {"identity", "attributes"} & set(roles)
    assert "type" not in judging_roles(RunConfig(), SquareDataset(SquareConfig()))


def test_only_what_may_show_faces_is_measured_as_jpeg(grey: Cell, networks: dict[str, nn.Module]) -> None:
    assert not may_show_faces(grey.task)
    colour = tiny_cell(networks, "ac-re", count=2).task
    assert may_show_faces(colour)
    assert not may_show_faces(dataclasses.replace(colour, masks=np.zeros((2, SIZE, SIZE), bool)))
    assert [image_format("paper", faces)[:4] for faces in (True, False)] == ["JPEG", "PNG"]
    assert image_format("corrected", True) == "PNG"


def test_lpips_of_grey_images_is_that_of_their_three_equal_channels(tmp_path: Path) -> None:
    state = {f"features.{layer}.weight": torch.full(shape, 0.01) for layer, shape in ALEXNET.items()}
    state |= {f"features.{layer}.bias": torch.zeros(shape[0]) for layer, shape in ALEXNET.items()}
    state["features.0.weight"][::2, :, ::2] *= -1  # channels that differ, of which LPIPS compares the mix
    torch.save(state, tmp_path / ALEXNET_FILE)
    evaluators = Evaluators(perceptual=load_lpips(tmp_path / ALEXNET_FILE, sha256(tmp_path / ALEXNET_FILE)))
    rows = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64, 1)
    first, second = (rows % 251).astype(np.uint8), (rows % 199).astype(np.uint8)
    pairs = [(first, second), (first, first)]
    grey = evaluators.measure(pairs, jpeg=False).perceptual
    colour = evaluators.measure([(as_rgb(a), as_rgb(b)) for a, b in pairs], jpeg=False).perceptual
    np.testing.assert_array_equal(grey, colour)
    assert grey[0] > 1e-3 and grey[1] == pytest.approx(0, abs=1e-6)
