"""The library call: the same search as the harness's, nothing written, clear errors."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

import bench
from backends.eager import EagerBackend, EagerConfig
from bench import explain
from bench.errors import UsageError
from bench.explaining import Explanation
from bench.images import centre_resize, to_float, to_uint8
from methods.ac_re import AcRe, AcReConfig
from methods.search import Sample, SlotSearch
from tests.conftest import CPU, SIZE, randomise, toy_samples

FAST: dict[str, Any] = {"max_steps": 4, "tolerance": 0.004, "depth": 3, "batch_size": 2}
COUNT = 3


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 (N, H, W, 3)."""
    return np.stack([to_uint8(sample.image.numpy()) for sample in toy_samples(COUNT)])


def run(given: dict[str, nn.Module], images: Any, targets: Any = 0.7, **changes: Any) -> Explanation:
    return explain(given["regressor"], images, targets, **({"generator": given["ddpm"]} | FAST | changes))


def test_it_is_the_search_of_the_harness(networks: dict[str, nn.Module], pixels: np.ndarray) -> None:
    goals = [0.7, 0.6, 0.2]
    found = run(networks, pixels, goals, ids=["a", "b", "c"], seed=3)
    method = AcRe(AcReConfig(max_steps=4, tolerance=0.004, depth=3), 3, CPU)
    method.prepare(networks, EagerBackend(EagerConfig(), CPU), 2)
    samples = [Sample(n, torch.from_numpy(to_float(p)), g) for n, p, g in zip("abc", pixels, goals, strict=True)]
    outcomes = {outcome.id: outcome for outcome in SlotSearch(method, 2).run(samples)}
    for row, name in enumerate("abc"):
        expected = to_uint8(outcomes[name].image.numpy())
        np.testing.assert_array_equal(np.rint(found.counterfactuals[row].numpy() * 255), expected.transpose(2, 0, 1))
        assert int(found.steps[row]) == outcomes[name].steps
        assert (int(found.forward[row]), int(found.backward[row])) == tuple(outcomes[name].evaluations)
    assert (found.seconds > 0).all()


def test_predictions_belong_to_the_images_returned(networks: dict[str, nn.Module], pixels: np.ndarray) -> None:
    found = run(networks, pixels, max_steps=12)
    torch.testing.assert_close(found.predictions, networks["regressor"](found.counterfactuals))
    torch.testing.assert_close(found.start, networks["regressor"](torch.from_numpy(to_float(pixels))))
    assert found.valid.tolist() == ((found.predictions - 0.7).abs() <= 0.004).tolist()
    assert (found.counterfactuals * 255 - (found.counterfactuals * 255).round()).abs().max() < 1e-4
    frame = found.frame()
    assert isinstance(frame, pd.DataFrame)
    assert frame["predictions"].tolist() == found.predictions.tolist()
    assert frame["failure"].isna().all()


def test_torch_and_numpy_images_are_the_same(networks: dict[str, nn.Module], pixels: np.ndarray) -> None:
    expected = run(networks, pixels[:2], max_steps=1).counterfactuals
    bytes_ = torch.from_numpy(pixels[:2])
    floats = torch.from_numpy(to_float(pixels[:2]))
    forms = (floats, floats.double().numpy(), floats.permute(0, 2, 3, 1), bytes_.permute(0, 3, 1, 2))
    for form in forms:
        torch.testing.assert_close(run(networks, form, max_steps=1).counterfactuals, expected)


def test_results_do_not_depend_on_the_neighbours(networks: dict[str, nn.Module], pixels: np.ndarray) -> None:
    together = run(networks, pixels, ids=["a", "b", "c"])
    alone = run(networks, pixels[2:], ids=["c"])
    assert (together.counterfactuals[2] - alone.counterfactuals[0]).abs().max() <= 1.01 / 255


class _Column(nn.Module):
    """A regressor in training mode with trainable weights, that returns (B, 1)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.scale = network, nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> Tensor:
        return (self.network(image) * self.scale)[:, None]


def test_the_callers_network_is_left_alone(networks: dict[str, nn.Module], pixels: np.ndarray) -> None:
    regressor = _Column(copy.deepcopy(networks["regressor"])).train()
    found = explain(regressor, pixels, 0.7, generator=networks["ddpm"], **FAST)
    assert regressor.training
    assert regressor.scale.requires_grad
    assert regressor.scale.grad is None
    torch.testing.assert_close(found.counterfactuals, run(networks, pixels).counterfactuals)


def test_other_methods_generators_and_backends(networks: dict[str, nn.Module], pixels: np.ndarray) -> None:
    latent = explain(
        networks["regressor"], pixels[:1], 0.7, "diffae-re", networks["diffae"], max_steps=1, inversion_steps=5
    )
    assert latent.counterfactuals.shape == (1, 3, SIZE, SIZE)
    unet = UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    )
    foreign = run(networks, pixels[:1], generator=randomise(unet, 11), max_steps=1)
    assert foreign.execution["backend"] == "eager"
    assert (foreign.counterfactuals != run(networks, pixels[:1], max_steps=1).counterfactuals).any()


def test_shipped_weights_by_name_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image = torch.full((1, 3, 64, 64), 0.5)
    found = explain("square-regressor", image, 0.9, generator="square-ddpm", max_steps=1, depth=1)
    assert found.counterfactuals.shape == (1, 3, 64, 64)
    assert not list(tmp_path.iterdir())


class _Fragile(nn.Module):
    """NaN for dark images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        dark = image.flatten(1).mean(dim=1) < 0.35
        return torch.where(dark, torch.nan, self.network(image))


def test_a_failed_sample_says_why(networks: dict[str, nn.Module], pixels: np.ndarray) -> None:
    images = pixels.copy()
    images[1] = 0
    found = explain(_Fragile(networks["regressor"]), images, 0.7, generator=networks["ddpm"], **FAST)
    assert found.failures[1] is not None
    assert "nonfinite" in found.failures[1]
    assert found.counterfactuals[1].isnan().all()
    assert not found.valid[1]
    assert [found.failures[0], found.failures[2]] == [None, None]


def test_a_regressor_that_cannot_take_the_images(networks: dict[str, nn.Module]) -> None:
    with pytest.raises(UsageError, match="regressor: it cannot take images"):
        explain(networks["regressor"], np.full((1, 3, 8, 8), 0.5), 0.7, "pgd-re")


GREY = np.linspace(0, 255, 300 * 300).astype(np.uint8).reshape(1, 300, 300, 1)


@pytest.mark.parametrize(("method", "role"), [("ac-re", "ddpm"), ("diffae-re", "diffae")])
def test_photographs_as_published_are_told_the_size_of_the_shipped_networks(method: str, role: str) -> None:
    with pytest.raises(UsageError) as caught:
        explain("elpv-regressor", GREY, 1.0, method, f"elpv-{role}")
    hint = "shrink each image, uint8 (H, W, C), with bench.images.centre_resize(image, 64)"
    assert str(caught.value) == f"images are 300x300 grey; the network for '{role}' needs 64x64 grey; {hint}"
    assert centre_resize(GREY[0], 64).shape == (64, 64, 1)


def test_the_documented_example_of_photographs_runs() -> None:
    text = (Path(__file__).parent.parent / "docs/own-models.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "elpv_files" in block]
    names: dict[str, Any] = {}
    exec(code.replace("[:4]", "[:1]").replace("ids=names", "ids=names, max_steps=1, inversion_steps=5"), names)
    assert names["images"].shape == (1, 64, 64, 1)
    assert f"# {float(names['found'].start[0]):.2f} -> " in code


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": np.zeros((2, 16, 16), np.uint8)}, r"images: shape \(2, 16, 16\)"),
        ({"images": np.full((1, 3, 16, 16), 1.5)}, r"finite and in \[0, 1\]"),
        ({"images": np.zeros((1, 3, 16, 16), np.int64)}, "or uint8 in 0..255"),
        ({"images": np.zeros((1, 3, 16, 12), np.uint8)}, "square images"),
        ({"images": np.zeros((0, 3, 16, 16), np.uint8)}, "square images"),
        (
            {"images": np.zeros((2, 16, 16), np.uint8)},
            r"grey ones of shape \(N, H, H\) are given as images\[..., None\]$",
        ),
        ({"images": np.full((1, 3, 8, 8), 0.5)}, "images are 8x8 RGB; the network for 'ddpm' needs 16x16 RGB$"),
        ({"images": np.zeros((1, 300, 300, 3), np.uint8)}, r"needs 16x16 RGB; shrink .*centre_resize\(image, 16\)$"),
        ({"targets": [0.1, 0.2]}, "one for each of the 3 images"),
        ({"targets": float("nan")}, "every value has to be finite"),
        ({"ids": ["a", "a", "b"]}, "3 different names"),
        ({"method": "ac-r"}, "did you mean 'ac-re'"),
        ({"backend": "eagre"}, "did you mean 'eager'"),
        ({"max_step": 3}, "unknown option 'max_step' of ac-re; did you mean 'max_steps'"),
        ({"depth": 0}, "ac-re.depth"),
        ({"depth": 51}, "depth 51 is more than the 50 steps"),
        ({"backend_options": {"precision": "low"}}, "unknown option 'precision' of eager"),
        ({"generator": None}, "needs a network for 'ddpm'; give it with generator"),
        ({"generator": nn.Linear(2, 2)}, "the generator is of no use to it .*config"),
        ({"generator": "square-ddpm"}, "images are 16x16 RGB; the network for 'ddpm' needs 64x64 RGB"),
        ({"networks": {"clasifier": "x"}}, "did you mean 'classifier'"),
    ],
)
def test_bad_input_is_one_sentence(
    networks: dict[str, nn.Module], pixels: np.ndarray, changes: dict[str, Any], words: str
) -> None:
    given = {"images": pixels, "targets": 0.7} | changes
    with pytest.raises(UsageError, match=words) as caught:
        run(networks, **given)
    assert "\n" not in str(caught.value)


def test_the_package_offers_it() -> None:
    assert bench.explain is explain
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        bench.explian  # noqa: B018
