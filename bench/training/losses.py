"""Losses of the recipes: per sample, from images (B, C, H, W) in [0, 1] and their attribute (B,)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.diffusion.schedule import Schedule
from methods.noise import TrainingNoise

# 1,000 original steps are 50 respaced ones; tau = 5 of these reaches timestep 82.
_LOW_SHARE, _LOW_STEPS = 0.6, 120


def _timesteps(noise: TrainingNoise, batch: int, steps: int, low_share: float, low: int) -> Tensor:
    """Uniform over the whole schedule, with `low_share` of the draws below `low`; int64 (batch,)."""
    pick, where = noise.uniform(batch), noise.uniform(batch)
    return torch.where(pick < low_share, where * low, where * steps).long()


def _gather(values: np.ndarray, t: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values)).float().to(t.device)[t].view(-1, 1, 1, 1)


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
    predicted, share = out.chunk(2, dim=1)
    share = (share + 1) / 2
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


def noisy_images(images: Tensor, noise: TrainingNoise, sigma: float) -> Tensor:
    """Images (B, C, H, W) with normal noise, whose strength each image draws up to `sigma`; not clipped."""
    strength = sigma * noise.uniform(len(images)).view(-1, 1, 1, 1)
    return images + strength * noise.normal(*images.shape)


def adversarial_images(
    network: nn.Module, images: Tensor, attribute: Tensor, noise: TrainingNoise, sigma: float, epsilon: float
) -> Tensor:
    """Noised images that one sign-gradient step of the squared error has made harder (Goodfellow et al. 2015).

    Args:
        images: (B, C, H, W) in [0, 1].
        sigma: largest strength of the noise; each image draws its own.
        epsilon: largest size of the step; each image draws its own.

    Returns:
        (B, C, H, W), not clipped, without gradient.
    """
    batch = len(images)
    strength = sigma * noise.uniform(batch).view(-1, 1, 1, 1)
    size = epsilon * noise.uniform(batch).view(-1, 1, 1, 1)
    noisy = (images + strength * noise.normal(*images.shape)).requires_grad_(True)
    gradient = torch.autograd.grad((network(noisy) - attribute).square().sum(), noisy)[0]
    return noisy.detach() + size * gradient.sign()


def regression_loss(network: nn.Module, images: Tensor, attribute: Tensor, noise: TrainingNoise) -> Tensor:
    """Squared error on noised images that one sign-gradient step has made harder (`adversarial_images`).

    Noise has a random strength up to 0.2, the step a random size up to 0.08. The regressor's gradient then
    lies on the red of the square: without it, a search meets its target with half the change of colour and
    faint patterns elsewhere. Training is short on purpose: after 5,000 steps instead of 2,000 the regressor
    was fooled by smaller changes again.
    """
    hard = adversarial_images(network, images, attribute, noise, sigma=0.2, epsilon=0.08)
    return F.mse_loss(network(hard), attribute, reduction="none")
