"""Identity, attribute, perceptual and Frechet metrics on features and networks whose answers are known."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods import noise
from metrics.faces import (
    attribute_changes,
    attribute_correlations,
    correlation_difference,
    face_similarity,
    face_verification,
)
from metrics.frechet import (
    INCEPTION_FILE,
    FrechetError,
    Inception,
    frechet_distance,
    split_frechet_distance,
    split_halves,
)
from metrics.perceptual import ALEXNET_FILE, PerceptualError, alexnet_file, load_lpips
from tests.test_metrics import measured

ALEXNET = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}


def images(count: int, size: int) -> Tensor:
    drawn = torch.from_numpy(noise.numpy_normal(7, (count, 3, size, size))).float()
    return (drawn * 0.2 + 0.5).clamp(0, 1)


def test_identity_of_known_cosines() -> None:
    m = measured(identity=np.array([0.5, np.nan]))
    np.testing.assert_array_equal(face_similarity(m), [0.5, np.nan])
    np.testing.assert_array_equal(face_verification(m), [0, np.nan])  # the threshold itself does not pass
    np.testing.assert_array_equal(face_verification(measured(identity=np.array([0.51, -1.0]))), [1, 0])


def test_changed_attributes_are_counted_by_crossing_a_half() -> None:
    before = np.array([[0.4, 0.9, 0.1], [0.4, 0.9, 0.1]])
    after = np.array([[0.6, 0.6, 0.5], [np.nan] * 3])
    m = measured(attributes=before, counterfactual_attributes=after)
    np.testing.assert_array_equal(attribute_changes(m), [1, np.nan])
    assert attribute_changes(measured()) is None


def test_correlations_are_pearsons_and_0_where_there_is_none() -> None:
    values = (noise.numpy_normal(1, (50, 6)) > 0).astype(np.float64)
    values[:, 4] = 1
    found = attribute_correlations(values, values[:, 2])
    expected = [np.corrcoef(column, values[:, 2])[0, 1] for column in values.T[[0, 1, 2, 3, 5]]]
    np.testing.assert_allclose(np.delete(found, 4), expected)
    assert found[4] == 0
    np.testing.assert_array_equal(attribute_correlations(values[:1], values[:1, 2]), np.zeros(6))


def test_correlation_difference_of_a_small_case() -> None:
    """The query (last) goes up twice and down once; the first follows it, the second goes the other way once."""
    before = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 1]], np.float64)
    after = np.array([[1, 0, 1], [1, 0, 1], [0, 0, 0]], np.float64)
    data = np.array([0.25, 0.5, 1.0])
    changes = np.array([0.0, -1.0, 0.0]), np.array([1.0, 1.0, -1.0])
    expected = (1 - 0.25) + abs(np.corrcoef(*changes)[0, 1] - 0.5) + 0
    assert correlation_difference(before, after, 2, data) == pytest.approx(expected)


def test_correlation_difference_without_a_change_of_the_query() -> None:
    before, data = np.zeros((4, 3)), np.array([0.25, -0.5, 1.0])
    assert correlation_difference(before, before, 2, data) is None
    assert correlation_difference(before, before, 2, data, published=True) == pytest.approx(1.75)
    assert correlation_difference(before[:0], before[:0], 2, data) is None


def test_halves_are_seeded_and_do_not_depend_on_order() -> None:
    ids = [f"face/{index}" for index in range(9)]
    first, second = split_halves(ids, noise.numpy_generator("sfid", 0), drop_odd=False)
    assert (len(first), len(second)) == (4, 5)
    assert first | second == set(ids)
    assert split_halves(ids[::-1] + ids, noise.numpy_generator("sfid", 0), drop_odd=False) == (first, second)
    assert split_halves(ids, noise.numpy_generator("sfid", 1), drop_odd=False)[0] != first
    dropped = split_halves(ids, noise.numpy_generator("sfid", 0), drop_odd=True)
    assert [len(half) for half in dropped] == [4, 4]
    assert not dropped[0] & dropped[1]
    assert split_halves(["one"], noise.numpy_generator("sfid", 0), drop_odd=True) == (set(), {"one"})


def test_split_distance_compares_no_counterfactual_with_its_own_original() -> None:
    ids = [f"face/{index}" for index in range(40)]
    real = noise.numpy_normal(3, (40, 2))
    halves = split_halves(ids, noise.numpy_generator("sfid", 0), drop_odd=False)
    inside = np.array([name in halves[0] for name in ids])
    found = split_frechet_distance(real, ids, real, ids, halves)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert found == pytest.approx(frechet_distance(real[inside], real[~inside]))  # symmetric, so the mean is either
    moved = split_frechet_distance(real, ids, real[::-1] + 5, ids[::-1], halves)
    expected = (
        frechet_distance(real[inside], real[~inside] + 5) + frechet_distance(real[~inside], real[inside] + 5)
    ) / 2
    assert moved == pytest.approx(expected)
    assert split_frechet_distance(real, ids, real[:1], ids[:1], halves) is None


class SyntheticInception(nn.Module):
    """What clean-fid needs of the TorchScript file: `layers` on normalised 299x299 images, and a resize of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d((32, 64)), nn.Conv2d(3, 1, 1), nn.Flatten())

    def forward(self, image: Tensor, return_features: bool) -> Tensor:
        return self.layers(F.interpolate(image, size=[299, 299]) / 128 - 1)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inception")
    torch.jit.script(SyntheticInception().eval()).save(str(folder / INCEPTION_FILE))
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_the_published_inception_is_loaded(inception: Path) -> None:
    with pytest.raises(FrechetError, match="damaged or not the published file"):
        Inception(inception, torch.device("cpu"))


def test_inception_features_by_way_of_resizing(inception: Path) -> None:
    from cleanfid.resize import build_resizer

    network = Inception(inception, torch.device("cpu"), sha256(inception / INCEPTION_FILE))
    pixels = [(image * 255).byte().permute(1, 2, 0).numpy() for image in images(3, 40)]
    base = torch.jit.load(str(inception / INCEPTION_FILE))
    for resize in ("clean", "legacy_pytorch"):
        resized = np.stack([build_resizer(resize)(image) for image in pixels]).transpose(0, 3, 1, 2)
        expected = base.layers((torch.from_numpy(resized) - 128) / 128)
        np.testing.assert_allclose(network.features(iter(pixels), resize), expected.detach().numpy(), atol=1e-6)
    inside = network.features(pixels, "legacy_tensorflow")
    raw = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()
    np.testing.assert_allclose(inside, base(raw, True).detach().numpy(), atol=1e-6)
    assert not np.allclose(inside, network.features(pixels, "clean"), atol=1e-3)
    assert network.features([], "clean").shape == (0, 2048)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet's convolutions with random weights; those of its classifier are not needed."""
    state = {}
    for layer, shape in ALEXNET.items():
        drawn = noise.numpy_normal(layer, shape) / np.sqrt(np.prod(shape[1:]))
        state[f"features.{layer}.weight"] = torch.from_numpy(drawn).float()
        state[f"features.{layer}.bias"] = torch.full(shape[:1], 0.01)
    path = tmp_path_factory.mktemp("alexnet") / ALEXNET_FILE
    torch.save(state, path)
    return path


def test_lpips_is_the_published_formula_on_the_given_backbone(alexnet: Path) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    network = load_lpips(alexnet, sha256(alexnet))
    first, second = images(4, 64).split(2)
    found = network(first, second, normalize=True).flatten()
    shipped = Path(torchmetrics.__file__).parent / "functional/image/lpips_models/alex.pth"
    heads = torch.load(shipped, map_location="cpu", weights_only=True)
    state = torch.load(alexnet, weights_only=True)
    mean, deviation = torch.tensor([[-0.03, -0.088, -0.188], [0.458, 0.448, 0.45]]).view(2, 1, 3, 1, 1)
    x = ((torch.cat([first, second]) * 2 - 1) - mean) / deviation
    expected = torch.zeros(2)
    for index, layer in enumerate(ALEXNET):
        stride, padding = {0: (4, 2), 3: (1, 2)}.get(layer, (1, 1))
        x = F.relu(F.conv2d(x, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], stride, padding))
        unit = x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()
        weighed = (unit[:2] - unit[2:]).square() * heads[f"lin{index}.model.1.weight"]
        expected += weighed.sum(1).mean((1, 2))
        if index < 2:
            x = F.max_pool2d(x, 3, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert (expected > 1e-4).all()
    assert float(network(first, first, normalize=True).abs().max()) == 0


def test_another_backbone_is_refused(alexnet: Path, tmp_path: Path) -> None:
    with pytest.raises(PerceptualError, match="sha256 differs"):
        load_lpips(alexnet)
    page = tmp_path / ALEXNET_FILE
    page.write_text("<html>not found</html>")
    with pytest.raises(PerceptualError, match="not a torch file"):
        load_lpips(page, sha256(page))


def test_the_backbone_is_looked_for_and_missed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PerceptualError, match=f"{ALEXNET_FILE}.*metrics.lpips_weights"):
        alexnet_file(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ALEXNET_FILE).write_bytes(b"")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert alexnet_file() == tmp_path / "checkpoints" / ALEXNET_FILE
    assert alexnet_file(str(tmp_path / "checkpoints")) == tmp_path / "checkpoints" / ALEXNET_FILE
