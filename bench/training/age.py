"""Age regression on prepared faces: loss, start and figures of the celebahq/* recipes.

Published: Ha and Bender (2025), AdamW at a constant 1e-4 with torch's weight decay, 120,000 steps of 32, squared
error of age / 100, mirrored images; no average of weights, no clipping; the last state counts. Two things differ on
purpose. Their trunk is frozen in its weights but stays in training mode: the head learns from features normalised
by each batch, and the stored statistics drift; here the trunk is frozen as a whole. Their script for the oracle
passes neither the switch for fine-tuning nor the one for the other seed; here the oracle is fine-tuned as the paper
says, with another seed. Images are drawn with replacement instead of epoch by epoch, and random numbers are ours.
"""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.training.data import YEARS, open_data
from bench.training.recipe import Recipe, Start
from methods.noise import TrainingNoise

_BATCH = 64


def age_loss(network: nn.Module, images: Tensor, age: Tensor, _: TrainingNoise) -> Tensor:
    """Squared error of age / 100, (B,)."""
    return F.mse_loss(network(images), age, reduction="none")


def adopt_trunk(network: nn.Module, given: nn.Module) -> None:
    """Copy the convolutions of STEEX's decision network; the head with its one output stays as drawn."""
    network.trunk.load_state_dict(given.trunk.state_dict())


@torch.no_grad()
def age_figures(network: nn.Module, folder: Path | None) -> dict[str, float]:
    """`validation_mae_years`: mean absolute error over the whole validation split, in years.

    Args:
        network: frozen, on the device that it is measured on.
        folder: of prepared imdb-wiki-clean.
    """
    device = next(network.parameters()).device
    data = open_data("imdb-wiki-clean/valid", device, folder)
    total = 0.0
    for index in torch.arange(len(data)).split(_BATCH):
        pixels, age = data.batch(index)
        total += float((network(pixels.float() / 255) - age).abs().sum())
    return {"validation_mae_years": total / len(data) * YEARS}


_AGE = Recipe(
    name="celebahq/regressor",
    kind="densenet-regressor",
    config={},
    loss=age_loss,
    figures=age_figures,
    steps=120_000,
    seed=0,
    data="imdb-wiki-clean/train",
    trained=("head.",),
    start=Start("steex-decision-densenet", adopt_trunk),
    batch_size=32,
    lr=1e-4,
    warmup=0,
    schedule="constant",
    ema=None,
    clip_norm=None,
    weight_decay=0.01,  # torch's default, which the published code takes
    flip=True,
    half_precision=False,  # small variances of a trunk with 121 layers
)

RECIPES = (_AGE, replace(_AGE, name="celebahq/oracle", seed=1, trained=("",)))
