"""Judging with face networks: which images reach which network, what is recorded, and what is explained."""

import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.cell_run import CellRun
from bench.checkpoints import Loaded
from bench.errors import UsageError
from bench.evaluators import Evaluators, as_jpeg, build_evaluators
from bench.faces import FACE_KEYS
from bench.images import file_name, to_float, to_uint8, write_png
from bench.judge import Judge, Judged, judge_samples
from bench.progress import Display
from bench.realism import FID, ORACLE, SFID, Subject, inception_realism, oracle_realism
from bench.sections import MetricsConfig
from methods import noise
from metrics.faces import attribute_correlations, correlation_difference
from metrics.frechet import Resize, frechet_distance, split_frechet_distance, split_halves
from tests.conftest import SIZE, randomise, toy_samples
from tests.tiny_cell import run_cell, tiny_cell

CORRECTED, PAPER = MetricsConfig(noise_draws=0), MetricsConfig(noise_draws=0, mode="paper")
FACE_METRICS = {*FACE_KEYS.values(), "attributes/cd"}


class TinyIdentity(nn.Module):
    """The contract of the identity network at a small size."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIZE * SIZE, 8)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image.flatten(1) - 0.5)


class TinyAttributes(nn.Module):
    """The contract of the attribute oracle at a small size: four attributes, `normalisations` of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIZE * SIZE, 4, bias=False)

    def forward(self, image: Tensor, normalisations: int = 1) -> Tensor:
        for _ in range(normalisations):
            image = image * 2 - 1
        return self.head(image.flatten(1))


def face_weights() -> dict[str, Loaded]:
    made = {"identity": randomise(TinyIdentity(), 11), "attributes": randomise(TinyAttributes(), 12)}
    return {role: Loaded(network, Path(role), f"{role}-hash") for role, network in made.items()}


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Eight originals and their counterfactuals, uint8 (8, H, W, 3)."""
    drawn = np.stack([to_uint8(sample.image.numpy()) for sample in toy_samples(16)])
    return drawn[:8], drawn[8:]


def judged(networks: dict[str, nn.Module], pictures: tuple, folder: Path, metrics: MetricsConfig, **changes) -> Judged:
    """A finished cell of eight samples, the third failed, the last not valid, judged with the tiny face networks."""
    originals, counterfactuals = pictures
    task = tiny_cell(networks, "ac-re", count=8).task
    labels = pd.DataFrame(
        [[1, 1, -1, 1], [-1, 1, -1, -1], [1, -1, 1, 1], [-1, -1, -1, 1], [1, -1, 1, -1]],
        columns=["Bald", "Blurry", "Male", "Young"],
    )
    task = dataclasses.replace(task, **({"images": originals, "attributes": labels} | changes))
    judge = Judge(networks["regressor"], networks["regressor"], None, "not here")
    judge.evaluators = build_evaluators(face_weights(), metrics, SIZE)
    (folder / "images").mkdir(parents=True)
    rows = []
    for index, name in enumerate(task.ids):
        write_png(folder / "images" / file_name(name), counterfactuals[index])
        prediction = float(task.targets[index]) + (0.5 if index == 7 else 0)
        rows.append(
            {"id": name, "image": file_name(name), "failure": "nan at 3" if index == 2 else None, "reached": True,
             "prediction": np.nan if index == 2 else prediction, "oracle": np.nan if index == 2 else prediction,
             "steps": 1, "forward": 1, "backward": 1, "seconds": 1.0}
        )  # fmt: skip
    return judge_samples(judge, task, rows, folder, 0.05, metrics)


def cosine(identity: nn.Module, first: np.ndarray, second: np.ndarray) -> float:
    a, b = identity(torch.from_numpy(to_float(np.stack([first, second]))))
    return float(F.cosine_similarity(a, b, dim=0))


def test_corrected_figures_come_from_the_saved_png(networks: dict[str, nn.Module], pictures: tuple, tmp_path) -> None:
    found = judged(networks, pictures, tmp_path / "cell", CORRECTED)
    weights = face_weights()
    expected = [cosine(weights["identity"].network, *pair) for pair in zip(*pictures, strict=True)]
    expected[2] = np.nan
    np.testing.assert_allclose(found.frame["fs"], expected, rtol=1e-5)
    before, after = (
        weights["attributes"].network(torch.from_numpy(to_float(images))).sigmoid().numpy() for images in pictures
    )
    changed = ((before > 0.5) != (after > 0.5)).sum(1).astype(float)
    changed[2] = np.nan
    np.testing.assert_array_equal(found.frame["mnac"], changed)
    assert found.summary["identity/fs"].value == pytest.approx(np.nanmean(expected), rel=1e-5)
    assert found.summary["identity/fva"].value == pytest.approx(np.mean(np.delete(expected, 2) > 0.5))
    assert found.summary["identity/fva"].n == found.summary["attributes/mnac"].n == 7
    assert found.summary["attributes/mnac"].value == pytest.approx(np.nanmean(changed))
    counting = [0, 1, 3, 4, 5, 6]  # neither the failed one nor the one that missed its target
    labels = np.array([[1, 1, -1, 1], [-1, 1, -1, -1], [1, -1, 1, 1], [-1, -1, -1, 1], [1, -1, 1, -1]])
    data = attribute_correlations(labels, labels[:, 3])
    assert found.summary["attributes/cd"].n == 6
    assert found.summary["attributes/cd"].value == pytest.approx(
        correlation_difference(before[counting], after[counting], 3, data)
    )
    assert "5 labelled images" in found.notes["attributes/cd"]


def test_paper_figures_repeat_the_published_mistakes(networks: dict[str, nn.Module], pictures: tuple, tmp_path) -> None:
    found = judged(networks, pictures, tmp_path / "cell", PAPER)
    weights = face_weights()
    compressed = np.stack([as_jpeg(image) for image in pictures[1]])
    assert np.abs(compressed.astype(float) - pictures[1]).max() > 5
    assert found.frame["fs"][0] == pytest.approx(
        cosine(weights["identity"].network, pictures[0][0], compressed[0]), rel=1e-5
    )
    probabilities = {
        times: [
            weights["attributes"].network(torch.from_numpy(to_float(images)), times).sigmoid().numpy() > 0.5
            for images in (pictures[0], compressed)
        ]
        for times in (1, 2)
    }
    kept = [0, 1, 3, 4, 5, 6, 7]
    twice, once = ((before != after).sum(1)[kept] for before, after in (probabilities[2], probabilities[1]))
    assert (twice != once).any()
    np.testing.assert_array_equal(found.frame["mnac"][kept], twice)
    labels = np.array([[1, 1, -1, 1], [-1, 1, -1, -1], [1, -1, 1, 1], [-1, -1, -1, 1], [1, -1, 1, -1]])
    expected = correlation_difference(
        *(values[kept[:-1]] for values in probabilities[1]), 3, attribute_correlations(labels, labels[:, 3]), True
    )
    assert found.summary["attributes/cd"].value == pytest.approx(expected)


def test_every_definition_has_a_fingerprint_of_its_own(
    networks: dict[str, nn.Module], pictures: tuple, tmp_path
) -> None:
    ours, theirs = (
        judged(networks, pictures, tmp_path / metrics.mode, metrics).definitions for metrics in (CORRECTED, PAPER)
    )
    assert ours.keys() == theirs.keys() == {"identity/fs", "identity/fva", "attributes/mnac", "attributes/cd"}
    prints = [entry["fingerprint"] for found in (ours, theirs) for entry in found.values()]
    assert len(set(prints)) == len(prints)
    assert ours == judged(networks, pictures, tmp_path / "again", CORRECTED).definitions
    assert (ours["identity/fs"]["image"], ours["identity/fs"]["weights"]) == ("PNG", "identity-hash")
    assert theirs["identity/fs"]["image"].startswith("JPEG")
    assert (ours["attributes/mnac"]["normalisations"], theirs["attributes/mnac"]["normalisations"]) == (1, 2)


def test_square_images_stay_png_in_paper_mode(networks: dict[str, nn.Module], pictures: tuple, tmp_path) -> None:
    masks = np.zeros((8, SIZE, SIZE), bool)
    masks[:, 2:6, 2:6] = True
    found = judged(networks, pictures, tmp_path / "cell", PAPER, masks=masks)
    assert found.definitions["identity/fs"]["image"] == "PNG"
    expected = cosine(face_weights()["identity"].network, pictures[0][0], pictures[1][0])
    assert found.frame["fs"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "words"),
    [(None, "no attribute labels"), (pd.DataFrame({"Young": [1, -1]}), "not the network's 4 with 'Young'")],
)
def test_without_fitting_labels_there_is_no_cd(labels, words, networks, pictures, tmp_path) -> None:
    found = judged(networks, pictures, tmp_path / "cell", CORRECTED, attributes=labels)
    assert found.summary["attributes/cd"].value is None
    assert words in found.notes["attributes/cd"]
    assert found.summary["attributes/mnac"].value is not None


def test_a_run_without_face_networks_explains_every_empty_metric(networks: dict[str, nn.Module], tmp_path) -> None:
    cell = tiny_cell(networks, "ac-re", count=2)
    record, frame = run_cell(cell, tmp_path)
    empty = {key for key, estimate in record.summary.items() if estimate.value is None}
    assert empty >= FACE_METRICS | {FID, SFID}
    for key in empty:
        assert record.notes[key], key
    assert "weights.identity" in record.notes["identity/fs"]
    assert "weights.attributes" in record.notes["attributes/cd"]
    assert "metrics.inception_weights" in record.notes[SFID]
    assert not {"fs", "fva", "mnac", "lpips"} & set(frame.columns)
    assert "noise_success" not in frame or record.summary["validity/noise_success_rate"].value is not None


def test_square_is_not_told_about_face_networks(networks: dict[str, nn.Module], tmp_path) -> None:
    cell = tiny_cell(networks, "ac-re", count=2)
    masks = np.zeros((2, SIZE, SIZE), bool)
    masks[:, 2:6, 2:6] = True
    cell.task = dataclasses.replace(cell.task, masks=masks)
    record, _ = run_cell(cell, tmp_path)
    assert record.summary.keys() & FACE_METRICS == {"perceptual/lpips"}


def test_other_figures_do_not_move_when_face_networks_are_given(networks: dict[str, nn.Module], tmp_path) -> None:
    cell = tiny_cell(networks, "ac-re", count=3)
    plain, _ = run_cell(cell, tmp_path / "plain")
    run = CellRun(cell, tmp_path / "faces" / cell.id, tmp_path / "inputs", Display(io.StringIO()))
    run.judge.evaluators = build_evaluators(face_weights(), cell.config.metrics, SIZE)
    record = run.run()
    assert record.summary["identity/fs"].value is not None
    for key in plain.summary.keys() - FACE_METRICS:
        if not key.startswith("throughput"):
            assert record.summary[key] == plain.summary[key], key


class MeanColour:
    """A small extractor of known features: the mean colour, and which way of resizing was asked for."""

    def __init__(self) -> None:
        self.asked: list[Resize] = []

    def features(self, images: Iterable[np.ndarray], resize: Resize) -> np.ndarray:
        self.asked.append(resize)
        found = [image.reshape(-1, 3).mean(0) / 255 for image in images]
        return np.stack(found) if found else np.empty((0, 3))


def subject(pictures: tuple, sources: tuple[str, ...], kept: list[bool], valid: list[bool]) -> Subject:
    pairs = [(a, b if keep else None) for a, b, keep in zip(*pictures, kept, strict=True)]
    return Subject(pairs, sources, np.array(kept), np.array(valid), faces=True)


def test_fid_of_every_mode_takes_its_own_images(pictures: tuple) -> None:
    sources = tuple(f"face/{index}" for index in range(8))
    kept, valid = [True] * 7 + [False], [True] * 6 + [False] * 2
    whole = subject(pictures, sources, kept, valid)
    colour = lambda images: np.stack([image.reshape(-1, 3).mean(0) / 255 for image in images])  # noqa: E731
    real, saved = colour(pictures[0]), colour(pictures[1][:7])
    extractor = MeanColour()
    found = inception_realism(whole, CORRECTED, extractor)
    assert extractor.asked == ["clean", "clean"]
    assert found.summary[FID].value == pytest.approx(frechet_distance(real, saved))
    halves = split_halves(sources, noise.numpy_generator("sfid", 0), drop_odd=False)
    assert found.summary[SFID].value == pytest.approx(
        split_frechet_distance(real, sources, saved[:6], sources[:6], halves)
    )
    assert (found.summary[FID].n, found.summary[SFID].n) == (7, 6)
    assert found.definitions[FID]["originals"] == "all"
    extractor = MeanColour()
    theirs = inception_realism(whole, PAPER, extractor)
    assert extractor.asked == ["legacy_tensorflow"] * 2 + ["legacy_pytorch"] * 2
    compressed = colour([as_jpeg(image) for image in pictures[1][:7]])
    assert theirs.summary[FID].value == pytest.approx(frechet_distance(real[:7], compressed))
    assert theirs.definitions[FID]["fingerprint"] != found.definitions[FID]["fingerprint"]


def test_an_original_with_several_targets_counts_once(pictures: tuple) -> None:
    doubled = tuple(np.concatenate([images[:4]] * 2) for images in pictures)
    sources = tuple(f"face/{index % 4}" for index in range(8))
    found = inception_realism(subject(doubled, sources, [True] * 8, [True] * 8), CORRECTED, MeanColour())
    colour = [image.reshape(-1, 3).mean(0) / 255 for image in doubled[0][:4]]
    saved = [image.reshape(-1, 3).mean(0) / 255 for image in doubled[1]]
    assert found.summary[FID].value == pytest.approx(frechet_distance(np.stack(colour), np.stack(saved)))


def test_empty_realism_says_why(pictures: tuple) -> None:
    names = tuple(f"face/{index}" for index in range(8))
    one = subject(pictures, names, [True] + [False] * 7, [True] + [False] * 7)
    few = inception_realism(one, CORRECTED, MeanColour())
    assert few.notes == {FID: "fewer than two counterfactuals", SFID: "fewer than two counterfactuals"}
    invalid = inception_realism(subject(pictures, names, [True] * 8, [False] * 8), CORRECTED, MeanColour())
    assert invalid.summary[FID].value is not None
    assert invalid.summary[SFID].value is None
    assert "valid counterfactuals" in invalid.notes[SFID]
    without = oracle_realism(one, None)
    assert without.summary[ORACLE].value is None
    assert "features" in without.notes[ORACLE]


def test_an_oracle_without_features_is_explained(networks: dict[str, nn.Module], pictures: tuple, tmp_path) -> None:
    found = judged(networks, pictures, tmp_path / "cell", CORRECTED)  # the toy regressor has no features
    assert found.summary[ORACLE].value is None
    assert "`features` method" in found.notes[ORACLE]


def test_given_weights_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="metrics.lpips_weights.*not found"):
        build_evaluators({}, MetricsConfig(lpips_weights=str(tmp_path)), 64)
    broken = randomise(TinyIdentity(), 11)
    broken.head.bias.data.fill_(float("nan"))
    with pytest.raises(UsageError, match="weights.identity.*NaN"):
        build_evaluators({"identity": Loaded(broken, Path("identity"), "hash")}, CORRECTED, SIZE)
    small = build_evaluators({}, CORRECTED, SIZE)
    assert "31 pixels" in small.reasons["perceptual"]
    assert small.perceptual is None


def test_one_sample_does_not_move_another(pictures: tuple) -> None:
    evaluators = build_evaluators(face_weights(), PAPER, SIZE)
    pairs = list(zip(*pictures, strict=True))
    together, alone = evaluators.measure(pairs, True), evaluators.measure(pairs[3:4], True)
    assert together.identity[3] == alone.identity[0]
    np.testing.assert_array_equal(together.after[3], alone.after[0])
    assert Evaluators().measure(pairs, False).identity is None
