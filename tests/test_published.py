"""Published networks: agreement with reference outputs to 1e-4, and full-size published shapes."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.importing.configs import CONFIGS, choose_config
from bench.kinds import KINDS, build_network
from methods.diffusion.published import PUBLISHED, CheckpointMismatch, build, convert
from methods.networks.densenet import DecisionDenseNet
from tests.parity.synthetic import synthetic_state

PARITY = Path(__file__).parent / "parity"
FULL_SIZE = json.loads(gzip.decompress((PARITY / "full_size_shapes.json.gz").read_bytes()))
"""kind/configuration -> shapes of the state dict that the official code makes."""


def published_state(name: str) -> dict[str, Tensor]:
    """The synthetic checkpoint of a fixture; keys behind `model.` are drawn without it, mu and sigma are 0.5."""
    meta = json.loads((PARITY / f"{name}.json").read_text())
    drawn = synthetic_state({key.removeprefix("model."): shape for key, shape in meta["shapes"].items()}, meta["seed"])
    state = {key: drawn[key.removeprefix("model.")] for key in meta["shapes"]}
    for key in state:
        if key in ("model.mu", "model.sigma"):
            state[key] = torch.full((1, 3, 1, 1), 0.5)
    return state


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    pairs = np.load(PARITY / "images256.npz")
    return torch.from_numpy(pairs["x"]).float() / 255, torch.from_numpy(pairs["y"]).float() / 255


def network_of(fixture: str) -> nn.Module:
    config = json.loads((PARITY / f"{fixture}.json").read_text())["config"]
    return build(fixture.replace("_", "-"), published_state(fixture), config)


def expected(fixture: str) -> Callable[[str], Tensor]:
    data = np.load(PARITY / f"{fixture}.npz")
    return lambda key: torch.from_numpy(data[key])


def close(actual: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(actual.detach(), reference, rtol=1e-4, atol=1e-4)


def test_densenet_regressor_and_its_gradient(images: tuple[Tensor, Tensor]) -> None:
    network, reference = network_of("densenet_regressor"), expected("densenet_regressor")
    image = images[0].clone().requires_grad_(True)
    prediction = network(image)
    assert prediction.shape == (2,)
    close(prediction[:, None], reference("y"))
    gradient = torch.autograd.grad(((prediction - 0.8) ** 2).mean(), image)[0]
    sampled = reference("grad_sub")
    assert (gradient[..., ::32, ::32] - sampled).abs().max() < 1e-3 * sampled.abs().max()
    close(gradient.abs().mean()[None], reference("grad_mean_abs"))
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_square_resnet18(images: tuple[Tensor, Tensor]) -> None:
    network, reference = network_of("square_resnet18"), expected("square_resnet18")
    small = F.interpolate(images[0], size=64, mode="nearest")
    close(network(small)[:, None], reference("y"))
    close(network.head(network.features(small)), reference("y"))
    assert network.features(small).shape == (2, 512)


def test_vggface2_features(images: tuple[Tensor, Tensor]) -> None:
    network, reference = network_of("vggface2_resnet50"), expected("vggface2_resnet50")
    first, second = network(images[0]), network(images[1])
    close(first, reference("feat"))
    close(second, reference("feat2"))
    close(F.cosine_similarity(first, second), reference("cosine"))


def test_vggface2_without_batch_counters() -> None:
    state = {key: value for key, value in published_state("vggface2_resnet50").items() if "num_batches" not in key}
    assert convert("vggface2-resnet50", state, {})["trunk.bn1.num_batches_tracked"].dtype == torch.int64


def test_attribute_oracle_once_and_twice(images: tuple[Tensor, Tensor]) -> None:
    network, reference = network_of("steex_attribute_oracle"), expected("steex_attribute_oracle")
    once, twice = network(images[0]).sigmoid(), network(images[0], normalisations=2).sigmoid()
    other = network(images[1], normalisations=2).sigmoid()
    close(once, reference("once"))
    close(twice, reference("twice"))
    close(other, reference("twice_cf"))
    close(((twice > 0.5) != (other > 0.5)).sum(1).float(), reference("mnac"))
    assert (once - twice).abs().max() > 0.01


def test_decision_features(images: tuple[Tensor, Tensor]) -> None:
    network, reference = network_of("steex_decision_densenet"), expected("steex_decision_densenet")
    features = network.features(images[0])
    close(features, reference("features"))
    assert isinstance(network, DecisionDenseNet)
    assert network.head(features).shape == (2, len(DecisionDenseNet.LABELS))


def test_every_published_kind_can_be_loaded_from_a_card() -> None:
    assert set(PUBLISHED) == set(CONFIGS) == set(KINDS) - {"regressor"}
    for kind, entry in PUBLISHED.items():
        with torch.device("meta"):
            assert type(build_network(kind, CONFIGS[kind][min(CONFIGS[kind])])) is entry.network


@pytest.mark.parametrize("name", sorted(FULL_SIZE))
def test_full_size_shapes_are_those_of_the_official_code(name: str) -> None:
    kind, config = name.split("/")
    state = {key: torch.empty(shape, device="meta") for key, shape in FULL_SIZE[name].items()}
    assert choose_config(kind, state, None) == (config, CONFIGS[kind][config])
    network = build(kind, state, CONFIGS[kind][config])
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}
    count = sum(value.numel() for value in network.state_dict().values())
    assert count == sum(value.numel() for value in state.values())


def full_size(name: str, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + key: torch.empty(shape, device="meta") for key, shape in FULL_SIZE[name].items()}


def test_ema_weights_are_taken_and_their_absence_is_refused() -> None:
    raw = full_size("diffae/square-64", "model.")
    averaged = full_size("diffae/square-64", "ema_model.")
    beside = {"x_T": torch.zeros(2), "ema_model.latent_net.layers.0.weight": torch.zeros(1)}
    options = CONFIGS["diffae"]["square-64"]
    assert set(convert("diffae", raw | averaged | beside, options)) == set(FULL_SIZE["diffae/square-64"])
    convert("diffae", full_size("diffae/square-64"), options)
    with pytest.raises(CheckpointMismatch, match="EMA absent"):
        convert("diffae", raw | {"x_T": torch.zeros(2)}, options)
    with pytest.raises(CheckpointMismatch, match=r"unexpected \(surplus\)"):
        convert("diffae", averaged | {"surplus": torch.zeros(2)}, options)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "model.module."])
def test_wrappers_prefixes_are_dropped_only_where_every_key_has_them(prefix: str) -> None:
    state = full_size("adm/square-64", prefix)
    options = CONFIGS["adm"]["square-64"]
    convert("adm", state, options)
    with pytest.raises(CheckpointMismatch, match="unexpected"):
        convert("adm", state | {"surplus": torch.zeros(2)}, options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.mu": torch.full((1, 3, 1, 1), 0.485)}, "mu is not the published normalisation"),
        ({"model.classifier.1.weight": torch.zeros(3, 1024)}, r"head.weight \(3, 1024\) instead of \(1, 1024\)"),
        ({"model.classifier.1.more": torch.zeros(3)}, r"1 unexpected \(head.more\)"),
        ({"model.sigma": None}, "sigma is missing"),
    ],
)
def test_a_regressor_of_another_make_is_refused(changes: dict[str, Tensor | None], words: str) -> None:
    changed = published_state("densenet_regressor") | changes
    with pytest.raises(CheckpointMismatch, match=words):
        build("densenet-regressor", {key: value for key, value in changed.items() if value is not None}, {})


@pytest.mark.parametrize("kind", ["densenet-regressor", "diffae"])
def test_an_unknown_option_or_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="config: colour"):
        build(kind, {}, {"colour": 1})
    with pytest.raises(ValueError, match="unknown kind"):
        build("glow", {}, {})
