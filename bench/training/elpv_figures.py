"""Figures of the ELPV networks on its test split, which they have not seen, and of two baselines beside them."""

from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bench.training.data import ElpvData, open_data
from bench.training.figures import COUNT, filter_l1, reconstruction_l1
from metrics.regression import auc, mean_absolute_error, spearman

SIZE = 64
_GRID = 16
_RIDGES = tuple(10.0**k for k in range(-2, 5))
_CHUNK = 100
_ATTACK_STEPS, _ATTACK_STEP = 10, 0.25


class Cells(Protocol):
    """`images` uint8 (N, 1, H, W) and `attribute` float (N,)."""

    images: Tensor
    attribute: Tensor


@cache
def split_data(name: str, folder: Path | None) -> ElpvData:
    """A split on the CPU, read once; `name` and `folder` as `bench.training.data.ElpvData` takes them."""
    data = open_data(f"elpv/{name}", torch.device("cpu"), folder)
    assert isinstance(data, ElpvData)
    return data


def quality(predicted: np.ndarray, true: np.ndarray, poly: np.ndarray) -> dict[str, float]:
    """Error, rank correlation, and AUC of any defect (probability above 0) against none; each also by cell type.

    Args:
        predicted, true: float (N,).
        poly: bool (N,), where the cell is polycrystalline.

    Returns:
        "mae", "spearman", "auc", the same with "_mono" and "_poly".

    Raises:
        ValueError: a type without cells of both kinds, defective and not.
    """
    found = {}
    for ending, chosen in (("", np.full(len(poly), True)), ("_mono", ~poly), ("_poly", poly)):
        guess, truth = predicted[chosen], true[chosen]
        found[f"mae{ending}"] = mean_absolute_error(guess, truth)
        found[f"spearman{ending}"] = spearman(guess, truth)
        found[f"auc{ending}"] = auc(guess, truth > 0)
    return found


@torch.no_grad()
def predictions(network: nn.Module, data: Cells) -> np.ndarray:
    """Float64 (N,) of a split."""
    network = network.cpu()
    return torch.cat([network(chunk.float() / 255) for chunk in data.images.split(_CHUNK)]).double().numpy()


def regressor_figures(network: nn.Module, folder: Path | None = None) -> dict[str, float]:
    """`test_*` of `quality`, with the same figures of the baselines beside them, and what it takes to fool the network.

    `constant_mae`: the median of the training split, which no constant beats there. `linear_*`: ridge regression on
    16x16 mean brightnesses, its strength chosen on the validation split. `attack_2`, `attack_4`: mean change of the
    prediction that an attack of 2/255 or 4/255 makes on the first test images (`attacked`).
    """
    test = split_data(f"test-{SIZE}", folder)
    true, poly = test.attribute.double().numpy(), _poly(folder)
    train = split_data(f"train-{SIZE}", folder).attribute.double().numpy()
    own = {f"test_{key}": value for key, value in quality(predictions(network, test), true, poly).items()}
    linear = {f"linear_{key}": value for key, value in quality(linear_baseline(folder), true, poly).items()}
    constant = {"constant_mae": mean_absolute_error(np.full_like(true, np.median(train)), true)}
    return own | constant | linear | _robustness(network, folder)


def attacked(network: nn.Module, images: Tensor, radius: float) -> Tensor:
    """Images moved within an l_inf ball so that the prediction goes up where it is below 0.5 and down elsewhere.

    Projected gradient descent of Madry et al. (2018): ten sign steps of a quarter of the radius.

    Args:
        network: frozen.
        images: (B, C, H, W) in [0, 1].
        radius: in [0, 1] image units.

    Returns:
        (B, C, H, W) in [0, 1], without gradient.
    """
    with torch.no_grad():
        direction = torch.where(network(images) < 0.5, 1.0, -1.0)
    moved = images
    for _ in range(_ATTACK_STEPS):
        moved = moved.detach().requires_grad_(True)
        gradient = torch.autograd.grad((direction * network(moved)).sum(), moved)[0]
        moved = moved.detach() + _ATTACK_STEP * radius * gradient.sign()
        moved = moved.clamp(images - radius, images + radius).clamp(0, 1)
    return moved


def _robustness(network: nn.Module, folder: Path | None) -> dict[str, float]:
    """`attack_2` and `attack_4`: mean |change of the prediction| over the first test images."""
    images, _ = _some_images(folder)
    with torch.no_grad():
        before = network(images)
    changes = {level: network(attacked(network, images, level / 255)) - before for level in (2, 4)}
    return {f"attack_{level}": float(change.abs().mean()) for level, change in changes.items()}


def _poly(folder: Path | None) -> np.ndarray:
    """Where a test image is of a polycrystalline cell, bool (N,)."""
    return split_data(f"test-{SIZE}-type", folder).attribute.numpy() > 0.5


@cache
def linear_baseline(folder: Path | None = None) -> np.ndarray:
    """Predictions of the linear baseline on the test split, float64 (N,)."""
    return linear_predictions(*(split_data(f"{name}-{SIZE}", folder) for name in ("train", "valid", "test")))


def linear_predictions(train: Cells, valid: Cells, test: Cells) -> np.ndarray:
    """Ridge regression on a 16x16 grid of mean brightnesses, its strength chosen by the error on `valid`.

    Returns:
        Predictions on `test`, float64 (N,).
    """
    x, y = _brightness(train), train.attribute.double().numpy()
    middle, scale = x.mean(0), x.std(0) + 1e-6
    x = (x - middle) / scale

    def fitted(ridge: float, data: Cells) -> np.ndarray:
        weight = np.linalg.solve(x.T @ x + ridge * len(x) / 100 * np.eye(x.shape[1]), x.T @ (y - y.mean()))
        return (_brightness(data) - middle) / scale @ weight + y.mean()

    truth = valid.attribute.double().numpy()
    best = min(_RIDGES, key=lambda ridge: mean_absolute_error(fitted(ridge, valid), truth))
    return fitted(best, test)


def _brightness(data: Cells) -> np.ndarray:
    """Mean brightness of a 16x16 grid, float64 (N, 256) in [0, 1]."""
    return nn.functional.adaptive_avg_pool2d(data.images.double() / 255, _GRID).flatten(1).numpy()


def type_figures(network: nn.Module, folder: Path | None = None) -> dict[str, float]:
    """`test_accuracy`: share of test images whose type is predicted; `majority_accuracy`: always the commoner type."""
    test = split_data(f"test-{SIZE}-type", folder)
    poly = test.attribute.numpy() > 0.5
    predicted_poly = predictions(network, test) > 0.5
    return {
        "test_accuracy": float((predicted_poly == poly).mean()),
        "majority_accuracy": float(max(poly.mean(), 1 - poly.mean())),
    }


def _some_images(folder: Path | None) -> tuple[Tensor, list[str]]:
    """The first images of the test split, float (N, 1, 64, 64) in [0, 1], and names for their noise."""
    images = split_data(f"test-{SIZE}", folder).images[:COUNT].float() / 255
    return images, [f"elpv-test-{i}" for i in range(len(images))]


def ddpm_figures(network: nn.Module, folder: Path | None = None) -> dict[str, float]:
    """`filter_l1`: mean absolute difference of F(x) and x over 64 test images."""
    return {"filter_l1": filter_l1(network, *_some_images(folder))}


def diffae_figures(network: nn.Module, folder: Path | None = None) -> dict[str, float]:
    """`reconstruction_l1` of 100-step inversion and 10-step decoding of 64 test images."""
    return {"reconstruction_l1": reconstruction_l1(network, _some_images(folder)[0])}
