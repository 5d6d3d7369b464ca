"""One step of each method on networks of the published shapes, 256x256; `-m slow -s` prints seconds and memory."""

import time

import pytest
import torch
from torch import nn

from backends.eager import EagerBackend
from bench.gpu_cases import CELEBA_HQ, FFHQ, synthetic_weights
from bench.memory import peak_memory_mib
from bench.registry import resolve
from methods import METHODS, noise
from methods.base import Batch, Method
from methods.diffusion.adm import AdmUNet
from methods.diffusion.diffae import DiffAe
from methods.networks.config import PublishedConfig
from methods.networks.densenet import DenseNetRegressor

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
# The paper's settings for CelebA-HQ; the inversion is cut short, as only one step is wanted.
OPTIONS = {
    "ac-re": {"respacing": "25", "depth": 5, "step_size": 1 / 255, "max_steps": 200, "dilation": 15},
    "diffae-re": {"decoding_steps": 10, "inversion_steps": 2},
}
NETWORKS = {"ac-re": ("ddpm", lambda: AdmUNet(CELEBA_HQ)), "diffae-re": ("diffae", lambda: DiffAe(FFHQ))}


def prepared(name: str) -> Method:
    """A method at full size, one slot."""
    role, build = NETWORKS[name]
    networks: dict[str, nn.Module] = {
        role: synthetic_weights(build(), 1),
        "regressor": synthetic_weights(DenseNetRegressor(PublishedConfig()), 2),
    }
    cls = resolve(METHODS, name, "method")
    method = cls(cls.options(**OPTIONS[name]), 0, CPU, 256)
    method.prepare(networks, EagerBackend(EagerBackend.options(), CPU), 1)
    return method


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_one_step_at_256(name: str) -> None:
    method = prepared(name)
    image = torch.from_numpy(noise.numpy_normal(3, (1, 3, 256, 256))).float().mul(0.2).add(0.5).clamp(0, 1)
    state = method.encode(Batch(("face",), image, torch.tensor([0.8])), lambda done, total: None)
    begun = time.perf_counter()
    result = method.step(state)
    seconds = time.perf_counter() - begun
    moved = "image" if name == "ac-re" else "z"
    assert torch.isfinite(result.prediction).all() and torch.isfinite(result.state[moved]).all()
    assert not torch.equal(result.state[moved], state[moved])
    print(
        f"\n{name}: one step {seconds:.1f} s on {torch.get_num_threads()} threads, peak {peak_memory_mib(CPU):.0f} MiB"
    )
