"""What a card says of quality: figures of a trained network on images that it was not trained on.

Every function takes the frozen network and the folder of prepared data (None where data is generated), and
moves the network to where it is measured.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.datasets import square
from bench.images import to_float
from methods import noise
from methods.diffusion import ddim, ddpm

COUNT = 64
_SHIFT = 96


def _predict(network: nn.Module, images: np.ndarray) -> Tensor:
    """Predictions of uint8 (N, H, W, 3) images: float32 (N,)."""
    network = network.cpu()
    with torch.no_grad():
        return torch.cat([network(chunk) for chunk in torch.from_numpy(to_float(images)).split(100)])


def _mean_error(network: nn.Module, split: str) -> float:
    data = square.load(split)
    return float((_predict(network, data.images) - torch.from_numpy(data.attribute)).abs().mean())


def regressor_figures(network: nn.Module, folder: Path | None = None) -> dict[str, float]:
    """`clean_mae`: mean absolute error over the 1,000 held-out images, 1 = red / 255."""
    return {"clean_mae": _mean_error(network, "held-out")}


def square_effects(network: nn.Module, count: int = 200) -> dict[str, float]:
    """How far the prediction follows a colour that changes alone, as a share of that change.

    On held-out images with noise kept as it is, the background or the red of the square is moved by 96 grey
    levels towards the far end of its range. 1 means that the prediction moves as much as the colour does.

    Args:
        network: (B, 3, 64, 64) in [0, 1] -> (B,) in units of red / 255.
        count: images used.

    Returns:
        "background_effect" and "red_effect": means of (change of prediction) / (change of colour / 255).
    """
    latents = square.training_latents(count, seed=7)
    noises = [square.noise_for(200_000 + i) for i in range(count)]

    def rendered(latents: np.ndarray) -> np.ndarray:
        return np.stack([square.render(*map(int, row), grain) for row, grain in zip(latents, noises, strict=True)])

    before = _predict(network, rendered(latents))
    effects = {}
    for name, column in (("background_effect", 1), ("red_effect", 0)):
        shift = np.where(latents[:, column] < 128, _SHIFT, -_SHIFT)
        moved = latents.copy()
        moved[:, column] += shift
        change = (_predict(network, rendered(moved)) - before).numpy()
        effects[name] = float((change / (shift / 255)).mean())
    return effects


def correlated_figures(network: nn.Module, folder: Path | None = None) -> dict[str, float]:
    """Errors with and without the correlation, and what the prediction follows (`square_effects`).

    `clean_mae` is over held-out images whose background follows the red as in training, `decorrelated_mae` over
    those whose background is independent of it: large for a network that reads the background.
    """
    errors = {
        "clean_mae": _mean_error(network, "held-out-correlated"),
        "decorrelated_mae": _mean_error(network, "held-out"),
    }
    return errors | square_effects(network)


@torch.no_grad()
def filter_l1(network: nn.Module, images: Tensor, ids: Sequence[str]) -> float:
    """Mean absolute difference of F(x) and x at the paper's depth of 5 of 50 steps.

    Args:
        images: float (N, C, H, W) in [0, 1].
        ids: names that the noise hangs on.
    """
    network = network.cpu()
    keys = noise.sample_keys(0, ids, "held-out")
    draws = noise.normal(keys, torch.zeros_like(keys), 5, images.shape[1:])
    filtered = ddpm.filter_image(network, network.config.schedule("50"), images, 5, draws)
    return float((filtered - images).abs().mean())


@torch.no_grad()
def reconstruction_l1(network: nn.Module, images: Tensor) -> float:
    """Mean absolute error of 100-step inversion and 10-step decoding of images (N, C, H, W) in [0, 1]."""
    network = network.cpu()
    z_sem = network.encode(ddpm.to_network(images))
    x_T = ddim.ddim_invert(network, network.config.schedule(100), images, z_sem)
    decoded = ddim.ddim_decode(network, network.config.schedule(10), x_T, z_sem).clamp(0, 1)
    return float((decoded - images).abs().mean())


def ddpm_figures(network: nn.Module, folder: Path | None = None) -> dict[str, float]:
    """`filter_l1` over 64 held-out images (the noise in the images included)."""
    data = square.load("held-out")
    return {"filter_l1": filter_l1(network, torch.from_numpy(to_float(data.images[:COUNT])), data.ids[:COUNT])}


def diffae_figures(network: nn.Module, folder: Path | None = None) -> dict[str, float]:
    """`reconstruction_l1` over 64 held-out images."""
    images = square.load("held-out").images[:COUNT]
    return {"reconstruction_l1": reconstruction_l1(network, torch.from_numpy(to_float(images)))}
