"""Networks of the user's own: regressors from a callable, denoisers from a diffusers folder."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backends.eager import EagerBackend, EagerConfig
from bench.cell import resolve_cell
from bench.checkpoints import load_network
from bench.config import RunConfig
from bench.errors import UsageError
from bench.own_models import DiffusersDenoiser, OwnRegressor, check_regressor
from methods.ac_re import AcRe, AcReConfig
from methods.base import Batch
from methods.diffusion import ddpm
from methods.diffusion.schedule import Schedule
from tests.conftest import CPU, SIZE, randomise, toy_samples

HERE = "tests.test_own_models"


class Brightness(nn.Module):
    """Mean of the image times a weight, as (B, 1)."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(outputs))
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        return self.drop(image.flatten(1).mean(dim=1, keepdim=True)) * self.weight


def three_outputs() -> nn.Module:
    return Brightness(3)


def with_arguments(width: int) -> nn.Module:
    return Brightness(width)


def a_dictionary() -> dict[str, Tensor]:
    return Brightness().state_dict()


def narrow() -> nn.Module:
    """Takes 8x8 images only."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1))


def constant() -> nn.Module:
    network = Brightness()
    nn.init.zeros_(network.weight)
    return network


def broken() -> nn.Module:
    network = Brightness()
    nn.init.constant_(network.weight, float("nan"))
    return network


def regressor_file(path: Path, weight: float = 2.0) -> Path:
    save_file({"weight": torch.tensor([weight])}, path)
    return path


def test_a_callable_becomes_a_frozen_regressor() -> None:
    loaded = load_network(f"{HERE}:Brightness", "regressor")
    image = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert loaded.network(image).shape == (4,)
    torch.testing.assert_close(loaded.network(image), image.mean(dim=(1, 2, 3)))  # no dropout: evaluation mode
    assert not any(p.requires_grad for p in loaded.network.parameters())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_from_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save({"weight": torch.tensor([2.0])}, path)
    else:
        regressor_file(path)
    loaded = load_network(f"{HERE}:Brightness@{path}", "oracle")
    torch.testing.assert_close(loaded.network(torch.full((1, 3, 4, 4), 0.4)), torch.tensor([0.8]))
    assert loaded.path == path


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    first, again, other = (
        load_network(f"{HERE}:Brightness@{regressor_file(tmp_path / f'{name}.safetensors', weight)}", "regressor")
        for name, weight in (("a", 2.0), ("b", 2.0), ("c", 3.0))
    )
    assert first.sha256 == again.sha256
    assert first.sha256 != other.sha256
    assert load_network(f"{HERE}:Brightness", "regressor").sha256 not in (first.sha256, other.sha256)


class _WithFeatures(Brightness):
    def features(self, image: Tensor) -> Tensor:
        return image.mean(dim=(2, 3)) * self.weight


def test_features_are_kept_where_they_are_a_method() -> None:
    kept = copy.deepcopy(OwnRegressor(_WithFeatures()))
    nn.init.constant_(kept.network.weight, 2.0)  # the copy's own weights
    assert kept.features(torch.ones(5, 3, 4, 4)).tolist() == [[2.0] * 3] * 5
    convolutions = Brightness()
    convolutions.features = nn.Identity()
    assert not hasattr(OwnRegressor(convolutions), "features")


def refused(reference: str, words: str, role: str = "regressor") -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_network(reference, role)
    assert "\n" not in str(caught.value)
    assert f"weights.{role}" in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no_such_package.models:build", "cannot import no_such_package.models"),
        (f"{HERE}:no_such_name", "has no callable 'no_such_name'"),
        (f"{HERE}:HERE", "has no callable 'HERE'"),
        (f"{HERE}:with_arguments", "called without arguments"),
        (f"{HERE}:a_dictionary", "returned OrderedDict; a torch.nn.Module is needed"),
        (f"{HERE}:Brightness@nothing.safetensors", "cannot read nothing.safetensors"),
        (f"{HERE}:broken", "holds NaN"),
    ],
)
def test_a_bad_callable_is_one_sentence(reference: str, words: str) -> None:
    refused(reference, words)


def test_a_callable_is_for_regressors_only() -> None:
    refused(f"{HERE}:Brightness", "for regressor and oracle only", role="ddpm")


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "w.safetensors")
    refused(f"{HERE}:Brightness@{tmp_path / 'w.safetensors'}", r"weight \(2,\) instead of \(1,\)")
    save_file({"wieght": torch.ones(1)}, tmp_path / "w.safetensors")
    refused(f"{HERE}:Brightness@{tmp_path / 'w.safetensors'}", "1 missing")
    (tmp_path / "w.pt").write_text("<html>")
    refused(f"{HERE}:Brightness@{tmp_path / 'w.pt'}", "holds more than tensors|not a torch file")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("three_outputs", r"returns shape \(1, 3\) for a batch of 1 images; one output"),
        ("narrow", r"cannot take images of shape \(1, 3, 16, 16\)"),
        ("constant", "does not depend on the image"),
    ],
)
def test_what_a_regressor_cannot_be(name: str, words: str) -> None:
    network = load_network(f"{HERE}:{name}", "regressor").network
    with pytest.raises(UsageError, match=f"weights.regressor: .*{words}"):
        check_regressor(network, torch.full((1, 3, SIZE, SIZE), 0.5), "weights.regressor")


def tiny_unet(**changes: object) -> UNet2DModel:
    options: dict[str, object] = {
        "sample_size": SIZE,
        "block_out_channels": (32, 32),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
    }
    return randomise(UNet2DModel(**(options | changes)), 11)


@pytest.fixture
def unet_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "unet"
    tiny_unet().save_pretrained(folder)
    return folder


def test_a_diffusers_folder_is_a_denoiser(unet_folder: Path) -> None:
    loaded = load_network(str(unet_folder), "ddpm")
    x, t = torch.full((2, 3, SIZE, SIZE), 0.3), torch.tensor([0, 500])
    torch.testing.assert_close(loaded.network(x, t), tiny_unet()(x, t).sample)
    assert loaded.network.config.image_size == SIZE
    schedule, expected = loaded.network.config.schedule("50"), Schedule.create(respacing="50")
    np.testing.assert_array_equal(schedule.timesteps, expected.timesteps)
    np.testing.assert_allclose(schedule.alphas_cumprod, expected.alphas_cumprod, rtol=1e-5)
    assert not any(p.requires_grad for p in loaded.network.parameters())


@pytest.mark.parametrize("place", ["pipeline", "beside"])
def test_the_process_is_the_schedulers(tmp_path: Path, place: str) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=400, beta_schedule="squaredcos_cap_v2")
    tiny_unet().save_pretrained(tmp_path / "unet" if place == "pipeline" else tmp_path)
    scheduler.save_pretrained(tmp_path / "scheduler" if place == "pipeline" else tmp_path)
    loaded = load_network(str(tmp_path), "ddpm")
    schedule = loaded.network.config.schedule("")
    np.testing.assert_allclose(schedule.alphas_cumprod, scheduler.alphas_cumprod.numpy(), rtol=1e-4, atol=1e-7)
    tiny_unet().save_pretrained(tmp_path / "plain")
    assert load_network(str(tmp_path / "plain"), "ddpm").sha256 != loaded.sha256


def test_a_network_that_predicts_v_is_converted() -> None:
    """Of the v that belongs to known noise, the noise is what comes back."""

    class _V(nn.Module):
        def __init__(self, unet: UNet2DModel) -> None:
            super().__init__()
            self.config, self.v = unet.config, torch.empty(0)

        def forward(self, x: Tensor, t: Tensor, return_dict: bool) -> tuple[Tensor]:
            return (self.v,)

    scheduler = DDPMScheduler(prediction_type="v_prediction")
    unet = _V(tiny_unet())
    network = DiffusersDenoiser(unet, scheduler.config)
    noise, start = torch.full((2, 3, 4, 4), 0.7), torch.full((2, 3, 4, 4), -0.4)
    t = torch.tensor([3, 700])
    unet.v = scheduler.get_velocity(start, noise, t)
    torch.testing.assert_close(network(scheduler.add_noise(start, noise, t), t), noise, rtol=1e-4, atol=1e-4)


def test_a_search_runs_on_it(unet_folder: Path) -> None:
    method = AcRe(AcReConfig(depth=3, max_steps=2), 0, CPU)
    networks = {role: load_network(reference, role).network for role, reference in _references(unet_folder).items()}
    method.prepare(networks, EagerBackend(EagerConfig(), CPU), 2)
    samples = toy_samples(2)
    batch = Batch(("a", "b"), torch.stack([sample.image for sample in samples]), torch.tensor([0.9, 0.1]))
    result = method.step(method.encode(batch, lambda done, total: None))
    assert (result.state["image"] != batch.image).any()
    assert method.refine(result.state).shape == batch.image.shape


def _references(unet_folder: Path) -> dict[str, str]:
    return {"ddpm": str(unet_folder), "regressor": f"{HERE}:Brightness"}


def test_a_cell_takes_both(unet_folder: Path, tmp_path: Path) -> None:
    tiny_unet(sample_size=64).save_pretrained(tmp_path / "wide")
    weights = _references(tmp_path / "wide")
    config = RunConfig(method=("ac-re",), limit=1, weights=weights)
    cell = resolve_cell(config, "square", "ac-re", "eager", CPU)
    assert cell.weights["ddpm"].path == tmp_path / "wide"
    json.dumps(cell.facts())
    with pytest.raises(UsageError, match="images are 64x64 RGB; weights.ddpm needs 16x16 RGB"):
        resolve_cell(
            config.model_copy(update={"weights": weights | {"ddpm": str(unet_folder)}}), "square", "ac-re", "eager", CPU
        )


def test_bad_folders(unet_folder: Path, tmp_path: Path) -> None:
    refused(str(unet_folder), "only weights.ddpm takes one", role="regressor")
    (tmp_path / "empty").mkdir()
    refused(str(tmp_path / "empty"), "a folder of a diffusers UNet2DModel is needed", role="ddpm")
    file = unet_folder / "diffusion_pytorch_model.safetensors"
    state, config = load_file(file), json.loads((unet_folder / "config.json").read_text())
    changes = {
        "missing": {key: value for key, value in state.items() if key != "conv_in.bias"},
        "unexpected": state | {"more": torch.zeros(1)},
        "size mismatch for conv_in.bias": state | {"conv_in.bias": torch.zeros(3)},
        "holds NaN": state | {"conv_in.bias": torch.full_like(state["conv_in.bias"], float("nan"))},
    }
    for words, changed in changes.items():
        save_file(changed, file)
        refused(str(unet_folder), words, role="ddpm")
    file.write_text("<html>")
    refused(str(unet_folder), "cannot be loaded", role="ddpm")
    file.unlink()
    refused(str(unet_folder), "cannot be loaded", role="ddpm")
    (unet_folder / "config.json").write_text(json.dumps(config | {"_class_name": "UNet2DConditionModel"}))
    refused(str(unet_folder), "'UNet2DConditionModel'; a diffusers UNet2DModel is needed", role="ddpm")


@pytest.mark.parametrize(
    ("unet", "scheduler", "words"),
    [
        ({"num_class_embeds": 4}, {}, "num_class_embeds 4 is not supported"),
        ({"in_channels": 4}, {}, "in_channels 4 is not supported; 1 or 3 is needed"),
        ({"sample_size": None}, {}, "sample_size None is not one number"),
        ({"out_channels": 6}, {}, "'fixed_small' does not fit 6 output channels"),
        ({}, {"prediction_type": "sample"}, "prediction_type 'sample' is not supported"),
        ({}, {"beta_schedule": "zigzag"}, "zigzag"),
    ],
)
def test_what_a_denoiser_cannot_be(tmp_path: Path, unet: dict, scheduler: dict, words: str) -> None:
    tiny_unet(**unet).save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
    refused(str(tmp_path), words, role="ddpm")


def test_learned_variance_is_kept(tmp_path: Path) -> None:
    tiny_unet(out_channels=6).save_pretrained(tmp_path)
    DDPMScheduler(variance_type="learned_range").save_pretrained(tmp_path)
    network = load_network(str(tmp_path), "ddpm").network
    schedule = network.config.schedule("50")
    step = ddpm.p_mean_variance(network, schedule, torch.zeros(1, 3, SIZE, SIZE), 3)
    assert step.log_variance.std() > 0
