"""DDPM steps in pixel space: the filter F of ACE / AC-RE and the RePaint-like refinement.

Images are float32 in [0, 1] at the door; the network sees [-1, 1]. All functions act on each sample
alone: nothing is reduced over the batch.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.diffusion.schedule import Schedule


class ReverseStep(NamedTuple):
    """p(x_{t-1} | x_t): three tensors of the shape of x."""

    mean: Tensor
    log_variance: Tensor
    pred_xstart: Tensor


def to_network(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return image * 2 - 1


def to_image(x: Tensor) -> Tensor:
    """[-1, 1] to [0, 1], not clipped."""
    return x * 0.5 + 0.5


def network_time(schedule: Schedule, step: int, batch: int, device: torch.device) -> Tensor:
    """The time input for respaced step `step`: int64 (batch,), or float32 where timesteps are rescaled."""
    original = int(schedule.timesteps[step])
    if schedule.timestep_scale != 1.0:
        return torch.full((batch,), original * schedule.timestep_scale, dtype=torch.float32, device=device)
    return torch.full((batch,), original, dtype=torch.int64, device=device)


def q_sample(schedule: Schedule, x_start: Tensor, step: int, noise: Tensor) -> Tensor:
    """Noise x_start to respaced step `step` (DDPM equation 4)."""
    signal = float(schedule.alphas_cumprod[step])
    return signal**0.5 * x_start + (1 - signal) ** 0.5 * noise


def p_mean_variance(network: nn.Module, schedule: Schedule, x: Tensor, step: int) -> ReverseStep:
    """One reverse step with x_0 clipped to [-1, 1].

    Args:
        network: net(x, t) -> (B, C, H, W) noise, or (B, 2 C, H, W) noise and variance in the learned range
            (improved DDPM equation 15).
        x: (B, C, H, W) at respaced step `step`.
    """
    out = network(x, network_time(schedule, step, x.shape[0], x.device))
    channels = x.shape[1]
    eps = out[:, :channels]
    max_log = float(np.log(schedule.betas[step]))
    if out.shape[1] == 2 * channels:
        min_log = float(schedule.posterior_log_variance_clipped[step])
        # The output in [-1, 1] interpolates between the two: written with as few tensor operations as it takes.
        log_variance = out[:, channels:] * ((max_log - min_log) / 2) + (max_log + min_log) / 2
    else:
        # guided-diffusion's "fixed large": betas, with the posterior's second entry at the first step.
        first = float(np.log(schedule.posterior_variance[1])) if len(schedule) > 1 else max_log
        log_variance = torch.full_like(eps, first if step == 0 else max_log)
    signal = float(schedule.alphas_cumprod[step])
    pred_xstart = torch.sub(x * signal**-0.5, eps, alpha=(1 / signal - 1) ** 0.5).clamp(-1, 1)
    coef1, coef2 = float(schedule.posterior_mean_coef1[step]), float(schedule.posterior_mean_coef2[step])
    mean = torch.add(pred_xstart * coef1, x, alpha=coef2)
    return ReverseStep(mean, log_variance, pred_xstart)


def filter_image(network: nn.Module, schedule: Schedule, image: Tensor, depth: int, noise: Tensor) -> Tensor:
    """The filter F: noise the image to depth tau and denoise it again, differentiably.

    ACE (Jeanneret et al. 2023) equation 4; AC-RE keeps tau = 5 steps of a process respaced to 50.

    Args:
        image: (B, C, H, W) in [0, 1].
        depth: tau, the number of reverse steps.
        noise: (B, depth, C, H, W); draw 0 is the forward jump, draws 1.. the reverse steps (none at the last).

    Returns:
        (B, C, H, W) in [0, 1] up to the posterior mean's rounding.
    """
    x = q_sample(schedule, to_network(image), depth - 1, noise[:, 0])
    for draw, step in enumerate(reversed(range(depth)), start=1):
        x = _reverse_sample(network, schedule, x, step, noise[:, draw] if step > 0 else None)
    return to_image(x)


def change_mask(image: Tensor, pre_explanation: Tensor) -> Tensor:
    """Where the search changed the image: (B, 1, H, W) in [0, 1], each sample scaled by its largest change.

    A sample without any change gives zeros (the published code divides by zero there).
    """
    change = (image - pre_explanation).abs().sum(dim=1, keepdim=True)
    largest = change.amax(dim=(1, 2, 3), keepdim=True)
    return change / torch.where(largest > 0, largest, torch.ones_like(largest))


def keep_mask(image: Tensor, pre_explanation: Tensor, threshold: float, dilation: int) -> Tensor:
    """1 where the original is kept: the dilated change is below `threshold`. (B, 1, H, W), float."""
    dilated = F.max_pool2d(change_mask(image, pre_explanation), dilation, stride=1, padding=dilation // 2)
    return (dilated < threshold).to(image.dtype)


def repaint(
    network: nn.Module,
    schedule: Schedule,
    image: Tensor,
    pre_explanation: Tensor,
    keep: Tensor,
    depth: int,
    noise: Tensor,
    differentiated: Collection[int] | None = None,
) -> Tensor:
    """Denoise the pre-explanation, keeping the original where `keep` is 1; differentiable in the pre-explanation.

    ACE section 3.3 (Jeanneret et al. 2023), after RePaint (Lugmayr et al. 2022). With keep = 0 everywhere it is
    the filter F.

    Args:
        image, pre_explanation: (B, C, H, W) in [0, 1].
        keep: (B, 1, H, W), 0 or 1.
        noise: (B, 2 * depth, C, H, W); draw 0 the forward jump, draws 1..depth the noised originals,
            the rest the reverse steps.
        differentiated: reverse steps whose Jacobian is computed, all by default. The others pass the gradient on
            as if they left x_0 where it is, and are run without storing anything.

    Returns:
        (B, C, H, W), in [0, 1] up to the posterior mean's rounding.
    """
    original = to_network(image)
    x = q_sample(schedule, to_network(pre_explanation), depth - 1, noise[:, 0])
    for index, step in enumerate(reversed(range(depth))):
        x = x * (1 - keep) + keep * q_sample(schedule, original, step, noise[:, 1 + index])
        draw = noise[:, 1 + depth + index] if step > 0 else None
        if differentiated is None or step in differentiated:
            x = _reverse_sample(network, schedule, x, step, draw)
        else:
            with torch.no_grad():
                moved = _reverse_sample(network, schedule, x, step, draw)
            # x_t = sqrt(signal) x_0 + ..., so x_0 reaches x_{t-1} magnified by the ratio of the signals.
            growth = float(schedule.alphas_cumprod_prev[step] / schedule.alphas_cumprod[step]) ** 0.5
            x = moved + growth * (x - x.detach())
    return to_image(x * (1 - keep) + keep * original)


def _reverse_sample(network: nn.Module, schedule: Schedule, x: Tensor, step: int, draw: Tensor | None) -> Tensor:
    """A sample of p(x_{t-1} | x_t); its mean without a draw, as at the last step."""
    reverse = p_mean_variance(network, schedule, x, step)
    return reverse.mean if draw is None else reverse.mean + torch.exp(0.5 * reverse.log_variance) * draw


def refine(
    network: nn.Module,
    schedule: Schedule,
    image: Tensor,
    pre_explanation: Tensor,
    depth: int,
    threshold: float,
    dilation: int,
    noise: Tensor,
) -> Tensor:
    """RePaint-like refinement: `repaint` where the dilated change is at least `threshold`.

    Args:
        threshold, dilation: 0.15 and an odd kernel size.

    Returns:
        The counterfactual, (B, C, H, W) in [0, 1].
    """
    keep = keep_mask(image, pre_explanation, threshold, dilation)
    return repaint(network, schedule, image, pre_explanation, keep, depth, noise).clamp(0, 1)
