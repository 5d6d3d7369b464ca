"""What is trained: data, network, loss and figures of each recipe."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.training import age, figures
from methods.diffusion.adm import AdmConfig
from methods.diffusion.diffae import DiffAeConfig
from methods.diffusion.schedule import Schedule
from methods.noise import TrainingNoise

LossFunction = Callable[[nn.Module, Tensor, Tensor, TrainingNoise], Tensor]
FigureFunction = Callable[[nn.Module, Path | None], dict[str, float]]


@dataclass(frozen=True)
class Start:
    """Weights that a recipe starts from instead of random ones; the user gives their file.

    Attributes:
        kind: key of bench.kinds.KINDS that the file has to be of.
        adopt: (fresh network, given network) -> None; copies what is adopted into the fresh one.
    """

    kind: str
    adopt: Callable[[nn.Module, nn.Module], None]


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        kind: key of bench.kinds.KINDS.
        config: options of the network.
        loss: (network, images (B, 3, H, W) in [0, 1], attribute (B,), noise) -> per-sample loss (B,).
        figures: (frozen network, folder of prepared data) -> what the card says of quality.
        seed: of initial weights, data order and noise.
        data: name of bench.training.data.
        trained: prefixes of the parameters that are trained; the rest is frozen, and its batch statistics too.
        start: weights to start from, where they are not random.
        flip: mirror every image of a batch with probability 1/2.
        optimiser: called with the trained parameters, `lr` and `weight_decay`; the rest is torch's default.
        lr: peak learning rate.
        warmup: steps in which the learning rate rises linearly to it.
        schedule: what follows, a cosine down to 1 % at the last step, or the same rate to the end.
        ema: decay of the average of the weights, which is exported; None exports the weights themselves.
        clip_norm: largest norm of the whole gradient; None leaves it as it is.
        weight_decay: decoupled (AdamW).
        half_precision: of the exported weights.
    """

    name: str
    kind: str
    config: Mapping[str, object]
    loss: LossFunction
    figures: FigureFunction
    steps: int
    seed: int
    data: str = "square/train"
    trained: tuple[str, ...] = ("",)
    start: Start | None = None
    batch_size: int = 16
    lr: float = 4e-4
    warmup: int = 200
    ema: float | None = 0.999
    clip_norm: float | None = 1.0
    weight_decay: float = 0.0
    half_precision: bool = True
    flip: bool = False
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    schedule: Literal["cosine", "constant"] = "cosine"

    def facts(self) -> dict[str, object]:
        """What makes it this recipe: its fields, functions by their name.

        The fields in `_LATER` are left out at their default: checkpoints from before they existed go on.
        """
        named = {"loss": self.loss.__name__, "figures": self.figures.__name__, "start": self.start and self.start.kind}
        facts = asdict(replace(self, start=None)) | named | {"optimiser": self.optimiser.__name__}
        unchanged = {key for key, default in _LATER.items() if facts[key] == default}
        return {key: value for key, value in facts.items() if key not in unchanged}


_LATER = {"flip": False, "optimiser": "AdamW", "schedule": "cosine"}
"""Defaults of fields that recipes did not have from the beginning."""


def _timesteps(noise: TrainingNoise, batch: int, steps: int, low_share: float, low: int) -> Tensor:
    """Uniform over the whole schedule, with `low_share` of the draws below `low`; int64 (batch,)."""
    pick, where = noise.uniform(batch), noise.uniform(batch)
    return torch.where(pick < low_share, where * low, where * steps).long()


def _gather(values: np.ndarray, t: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values)).float().to(t.device)[t].view(-1, 1, 1, 1)


_DDPM = AdmConfig(
    image_size=64,
    num_channels=64,
    channel_mult="1,2",
    num_res_blocks=1,
    num_heads=4,
    attention_resolutions="8",
    resblock_updown=True,
    learn_sigma=True,
    timestep_respacing="50",
    patch_size=4,
)
_DIFFAE = DiffAeConfig(
    image_size=64,
    ch=64,
    mult=(1, 2),
    enc_mult=(1, 2, 2),
    style=512,
    embed=256,
    num_res_blocks=1,
    enc_num_res_blocks=1,
    attention_resolutions=(8,),
    patch_size=4,
    prediction="v",
    z_unit=0.15,
)
# 1,000 original steps are 50 respaced ones; tau = 5 of these reaches timestep 82.
_LOW_SHARE, _LOW_STEPS = 0.6, 120


def ddpm_loss(network: nn.Module, images: Tensor, _: Tensor, noise: TrainingNoise) -> Tensor:
    """Hybrid loss of improved DDPM (equation 16): noise error plus 0.001 x the variational term.

    The variational term is the KL to the true posterior with the mean's gradient stopped; the first
    step's discrete likelihood is replaced by the same KL with the clipped variance.
    """
    schedule: Schedule = _FULL
    x_start = images * 2 - 1
    batch = len(images)
    t = _timesteps(noise, batch, len(schedule), _LOW_SHARE, _LOW_STEPS)
    eps = noise.normal(*images.shape)
    signal = _gather(schedule.alphas_cumprod, t)
    x = signal.sqrt() * x_start + (1 - signal).sqrt() * eps
    out = network(x, t)
    predicted, share = out[:, :3], (out[:, 3:] + 1) / 2
    min_log = _gather(schedule.posterior_log_variance_clipped, t)
    log_variance = share * _gather(np.log(schedule.betas), t) + (1 - share) * min_log
    # Only x_0 differs between true and predicted posterior mean.
    x_start_error = ((1 - signal) / signal).sqrt() * (eps - predicted.detach())
    mean_error = _gather(schedule.posterior_mean_coef1, t) * x_start_error
    kl = 0.5 * (log_variance - min_log - 1 + (min_log - log_variance).exp() + mean_error**2 * (-log_variance).exp())
    simple = (eps - predicted).square().flatten(1).mean(1)
    return simple + 0.001 * len(schedule) * kl.flatten(1).mean(1) / np.log(2.0)


_FULL = Schedule.create()


def diffae_loss(network: nn.Module, images: Tensor, _: Tensor, noise: TrainingNoise) -> Tensor:
    """v-prediction error given z_sem of the same image (Diff-AE equation 4, Salimans and Ho 2022 for v)."""
    x_start = images * 2 - 1
    t = _timesteps(noise, len(images), len(_FULL), 0.0, 1)
    eps = noise.normal(*images.shape)
    signal = _gather(_FULL.alphas_cumprod, t)
    x = signal.sqrt() * x_start + (1 - signal).sqrt() * eps
    v = signal.sqrt() * eps - (1 - signal).sqrt() * x_start
    return (network.predict(x, t, network.encode(x_start)) - v).square().flatten(1).mean(1)


_NOISE_SIGMA, _EPSILON = 0.2, 0.08


def regression_loss(network: nn.Module, images: Tensor, attribute: Tensor, noise: TrainingNoise) -> Tensor:
    """Squared error on noised images that one sign-gradient step has made harder (Goodfellow et al. 2015).

    Noise has a random strength up to 0.2, the step a random size up to 0.08. The regressor's gradient then
    lies on the red of the square: without it, a search meets its target with half the change of colour and
    faint patterns elsewhere. Training is short on purpose: after 5,000 steps instead of 2,000 the regressor
    was fooled by smaller changes again.
    """
    batch = len(images)
    sigma = _NOISE_SIGMA * noise.uniform(batch).view(-1, 1, 1, 1)
    epsilon = _EPSILON * noise.uniform(batch).view(-1, 1, 1, 1)
    noisy = (images + sigma * noise.normal(*images.shape)).requires_grad_(True)
    gradient = torch.autograd.grad((network(noisy) - attribute).square().sum(), noisy)[0]
    hard = noisy.detach() + epsilon * gradient.sign()
    return F.mse_loss(network(hard), attribute, reduction="none")


_REGRESSOR = Recipe(
    name="square/regressor",
    kind="regressor",
    config={"widths": [32, 64, 128]},
    loss=regression_loss,
    figures=figures.regressor_figures,
    steps=2_000,
    seed=0,
    batch_size=32,
    lr=1e-3,
)

_AGE = Recipe(
    name="celebahq/regressor",
    kind="densenet-regressor",
    config={},
    loss=age.age_loss,
    figures=age.age_figures,
    steps=120_000,
    seed=0,
    data="imdb-wiki-clean/train",
    trained=("head.",),
    start=Start("steex-decision-densenet", age.adopt_trunk),
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

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "square/ddpm",
            "adm",
            _DDPM.model_dump(exclude_unset=True),
            ddpm_loss,
            figures.ddpm_figures,
            steps=8_000,
            seed=0,
        ),
        Recipe(
            "square/diffae",
            "diffae",
            _DIFFAE.model_dump(mode="json", exclude_unset=True),
            diffae_loss,
            figures.diffae_figures,
            steps=12_000,
            seed=0,
        ),
        _REGRESSOR,
        # Nothing but the seed differs, which changes initial weights, data order and noise.
        replace(_REGRESSOR, name="square/oracle", seed=1),
        # The background alone tells the red here, and is found first: more steps would add nothing.
        replace(
            _REGRESSOR,
            name="square/regressor-correlated",
            figures=figures.correlated_figures,
            data="square/train-correlated",
            steps=1_000,
        ),
        _AGE,
        replace(_AGE, name="celebahq/oracle", seed=1, trained=("",)),
    )
}
"""Everything `bench train` knows."""
