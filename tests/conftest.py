"""Small real networks for tests: random weights, real architectures, 16x16 images, in colour unless told otherwise."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from backends.eager import EagerBackend, EagerConfig
from bench.registry import resolve
from methods import METHODS, noise
from methods.base import Batch, Method, MethodConfig
from methods.diffusion.adm import AdmConfig, AdmUNet
from methods.diffusion.diffae import DiffAe, DiffAeConfig
from methods.search import Sample

CPU = torch.device("cpu")
SIZE = 16
SHAPE = (3, SIZE, SIZE)


class ToyRegressor(nn.Module):
    """A smooth regressor that depends on every pixel."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, SIZE, SIZE))

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid((image * self.weight).flatten(1).sum(1) * 0.05)


class ToyDecision(nn.Module):
    """Three logits, each from pixels of its own colour, like a decision network's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, SIZE, SIZE))

    def forward(self, image: Tensor) -> Tensor:
        return ((image - 0.5) * self.weight).sum(dim=(2, 3))


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Fill every weight, also those initialised to zero, from a seed; frozen."""
    for index, (name, parameter) in enumerate(sorted(network.named_parameters())):
        values = noise.numpy_normal(seed * 1000 + index, tuple(parameter.shape))
        fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
        parameter.data.copy_(torch.from_numpy(values) / fan**0.5)
        if parameter.ndim == 1 and "weight" in name:
            parameter.data.add_(1)
    return network.eval().requires_grad_(False)


def tiny_networks(channels: Literal[1, 3] = 3) -> dict[str, nn.Module]:
    """ddpm, diffae and regressor with random weights."""
    adm = AdmConfig(
        image_size=SIZE,
        num_channels=32,
        channel_mult="1,1",
        num_res_blocks=1,
        num_heads=2,
        attention_resolutions="8",
        resblock_updown=True,
        learn_sigma=True,
        timestep_respacing="50",
        in_channels=channels,
    )
    diffae = DiffAeConfig(
        image_size=SIZE,
        ch=32,
        mult=(1, 1),
        enc_mult=(1, 1),
        style=8,
        embed=16,
        num_res_blocks=1,
        enc_num_res_blocks=1,
        attention_resolutions=(8,),
        prediction="v",
        in_channels=channels,
    )
    return {
        "ddpm": randomise(AdmUNet(adm), 1),
        "diffae": randomise(DiffAe(diffae), 2),
        "regressor": randomise(ToyRegressor(channels), 3),
    }


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    return tiny_networks()


def toy_samples(count: int, channels: int = 3) -> list[Sample]:
    """Images without a meaningful target."""
    images = [
        torch.from_numpy(noise.numpy_normal(900 + i, (channels, SIZE, SIZE))).float().mul(0.15).add(0.5).clamp(0, 1)
        for i in range(count)
    ]
    return [Sample(f"toy/{index}", image, 0.5) for index, image in enumerate(images)]


def reachable(method: Method, count: int) -> list[Sample]:
    """Samples whose targets lie at different distances from the prediction that the search starts with."""
    samples = []
    for index, sample in enumerate(toy_samples(count, method.image_shape[0])):
        state = method.encode(Batch((sample.id,), sample.image[None], torch.zeros(1)), lambda done, total: None)
        start = float(method.step(state).prediction)
        samples.append(sample._replace(target=start + 0.006 * (1 + index % 4) * (-1) ** index))
    return samples


@pytest.fixture
def make_method(networks: dict[str, nn.Module]) -> Callable[..., Method]:
    """A prepared eager method on the tiny networks, or on those that replace them; options override a short search."""

    def make(
        name: str, slots: int, seed: int = 0, replace: dict[str, nn.Module] | None = None, **options: object
    ) -> Method:
        cls = resolve(METHODS, name, "method")
        defaults: dict[str, object] = {"max_steps": 12, "tolerance": 0.004}
        if name == "diffae-re":
            defaults |= {"inversion_steps": 10, "lr": 0.4}
        if name.endswith("-gn"):
            defaults |= {"aim": 0.001}
        if name in ("ace", "ace-re"):
            defaults |= {"max_steps": 6, "depth": 2, "dilation": 5, "step_size": 3 / 255}
        if name.startswith("dime"):  # every attempt has to fit
            defaults |= {"max_steps": 14, "respacing": "20", "depth": 3, "scales": (8.0, 20.0)}
        if name == "diffae-re-gn":  # the random decoder says little in its last steps
            defaults |= {"depth": 10, "inversion_steps": 10, "cap": 5.0}
        config: MethodConfig = cls.options(**(defaults | options))
        given = networks | (replace or {})
        method = cls(config, seed, CPU, (given["ddpm"].config.in_channels, SIZE, SIZE))
        method.prepare(given, EagerBackend(EagerConfig(), CPU), slots)
        return method

    return make
