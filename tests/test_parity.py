"""Agreement with reference outputs of the published implementations, to 1e-4."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods.diffusion import ddim, ddpm
from methods.diffusion.adm import AdmConfig
from methods.diffusion.diffae import DiffAeConfig
from methods.diffusion.published import build
from tests.parity.synthetic import synthetic_normal, synthetic_state

PARITY = Path(__file__).parent / "parity"
ADM = ["adm_tiny_headch16", "adm_tiny_heads4"]


class Case:
    """One fixture with the network built from its synthetic weights."""

    def __init__(self, name: str) -> None:
        meta = json.loads((PARITY / f"{name}.json").read_text())
        self.data = dict(np.load(PARITY / f"{name}.npz"))
        self.config, self.seed = meta["config"], meta["seed"]
        kind = name.split("_")[0]
        self.network = build(kind, synthetic_state(meta["shapes"], self.seed), self.config)

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.data[key])

    def normal(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return synthetic_normal(name, shape, self.seed)

    def regress(self, image: torch.Tensor) -> torch.Tensor:
        weight = self.normal("regressor.weight", (1, *image.shape[1:]))
        return torch.sigmoid(0.02 * (image * weight).sum((1, 2, 3)))[:, None]

    def close(self, actual: torch.Tensor, key: str) -> None:
        torch.testing.assert_close(actual.detach(), self.tensor(key), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module", params=ADM)
def adm(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def diffae() -> Case:
    return Case("diffae_tiny32")


def test_adm_output(adm: Case) -> None:
    adm.close(adm.network(adm.tensor("x"), adm.tensor("t")), "out")


def test_adm_schedule(adm: Case) -> None:
    schedule = AdmConfig(**adm.config).schedule()
    np.testing.assert_array_equal(schedule.timesteps, adm.data["timestep_map"])
    for name in ("alphas_cumprod", "betas", "posterior_log_variance_clipped"):
        np.testing.assert_allclose(getattr(schedule, name), adm.data[name], rtol=1e-10)


def test_adm_reverse_steps(adm: Case) -> None:
    schedule = AdmConfig(**adm.config).schedule()
    steps = [int(key[1:-5]) for key in adm.data if key.endswith("_mean") and key[0] == "p"]
    assert steps
    for step in steps:
        reverse = ddpm.p_mean_variance(adm.network, schedule, adm.tensor("x"), step)
        adm.close(reverse.mean, f"p{step}_mean")
        adm.close(reverse.log_variance, f"p{step}_log_variance")
        adm.close(reverse.pred_xstart, f"p{step}_pred_xstart")


@pytest.mark.parametrize("mode", ["det", "sto"])
def test_adm_filter_and_its_gradient(adm: Case, mode: str) -> None:
    schedule = AdmConfig(**adm.config).schedule()
    image = adm.tensor("image").requires_grad_(True)
    noise = torch.stack([adm.normal(f"noise{i}", tuple(image.shape)) for i in range(5)], dim=1)
    filtered = ddpm.filter_image(adm.network, schedule, image, 5, noise * (mode == "sto"))
    prediction = adm.regress(filtered)
    gradient = torch.autograd.grad(F.mse_loss(prediction, torch.full_like(prediction, 0.8)), image)[0]
    adm.close(filtered, f"filter_{mode}")
    adm.close(prediction, f"filter_{mode}_y")
    adm.close(gradient, f"filter_{mode}_grad")
    expected = adm.tensor(f"filter_{mode}_grad")
    assert (gradient - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("dilation", [5, 15])
def test_adm_refinement(adm: Case, dilation: int) -> None:
    schedule = AdmConfig(**adm.config).schedule()
    image, pre = adm.tensor("image"), adm.tensor("pre_explanation")
    noise = torch.zeros(image.shape[0], 10, *image.shape[1:])
    adm.close(ddpm.keep_mask(image, pre, 0.15, dilation), f"refine_d{dilation}_boolmask")
    adm.close(ddpm.refine(adm.network, schedule, image, pre, 5, 0.15, dilation, noise), f"refine_d{dilation}")


def test_diffae_output(diffae: Case) -> None:
    z_sem = diffae.network.encode(diffae.tensor("x"))
    diffae.close(z_sem, "z_sem")
    diffae.close(diffae.network(diffae.tensor("x"), diffae.tensor("t"), diffae.tensor("z_sem")), "out")


@pytest.mark.parametrize("steps", [10, 20, 250])
def test_diffae_schedule(diffae: Case, steps: int) -> None:
    schedule = DiffAeConfig(**diffae.config).schedule(steps)
    np.testing.assert_array_equal(schedule.timesteps, diffae.data[f"timestep_map_{steps}"])
    np.testing.assert_allclose(schedule.alphas_cumprod, diffae.data[f"alphas_cumprod_{steps}"], rtol=1e-10)


def test_diffae_inversion(diffae: Case) -> None:
    schedule = DiffAeConfig(**diffae.config).schedule(20)
    image = ddpm.to_image(diffae.tensor("x"))
    diffae.close(ddim.ddim_invert(diffae.network, schedule, image, diffae.tensor("z_sem")), "x_T_20")


def test_diffae_decoding_and_its_gradient(diffae: Case) -> None:
    schedule = DiffAeConfig(**diffae.config).schedule(10)
    z_sem = diffae.tensor("z_sem").requires_grad_(True)
    decoded = ddim.ddim_decode(diffae.network, schedule, diffae.tensor("x_T_20"), z_sem)
    prediction = diffae.regress(decoded)
    gradient = torch.autograd.grad(F.mse_loss(prediction, torch.full_like(prediction, 0.8)), z_sem)[0]
    diffae.close(decoded, "decode_10")
    diffae.close(prediction, "decode_10_y")
    diffae.close(gradient, "decode_10_grad_z")
    expected = diffae.tensor("decode_10_grad_z")
    assert (gradient - expected).abs().max() < 1e-3 * expected.abs().max()
