"""DDPM steps in which every sample may be at another time step; otherwise those of ddpm.py."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from methods.diffusion.ddpm import ReverseStep
from methods.diffusion.schedule import Schedule


class Tables(NamedTuple):
    """A schedule's coefficients as float32 tensors (S,) on a device; index 0 is the least noisy step.

    Attributes:
        time: what the network is told, int64, or float32 where time steps are rescaled.
        signal: square root of the cumulative signal level.
        inverse_signal, eps_scale: x_0 = inverse_signal * x - eps_scale * eps.
        coef1, coef2: of the posterior mean.
        max_log, min_log: of the learned variance; `fixed_log` is the variance of networks that learn none.
    """

    time: Tensor
    signal: Tensor
    inverse_signal: Tensor
    eps_scale: Tensor
    coef1: Tensor
    coef2: Tensor
    max_log: Tensor
    min_log: Tensor
    fixed_log: Tensor

    @classmethod
    def of(cls, schedule: Schedule, device: torch.device) -> "Tables":
        """The tables of a schedule."""
        signal, max_log = schedule.alphas_cumprod, np.log(schedule.betas)
        # guided-diffusion's "fixed large": betas, with the posterior's second entry at the first step.
        first = np.log(schedule.posterior_variance[1:2]) if len(schedule) > 1 else max_log[:1]
        scaled = schedule.timestep_scale != 1.0
        time = torch.tensor(schedule.timesteps, dtype=torch.int64)
        columns = (
            signal**0.5,
            signal**-0.5,
            (1 / signal - 1) ** 0.5,
            schedule.posterior_mean_coef1,
            schedule.posterior_mean_coef2,
            max_log,
            schedule.posterior_log_variance_clipped,
            np.append(first, max_log[1:]),
        )
        return cls(
            (time * schedule.timestep_scale).to(device, torch.float32) if scaled else time.to(device),
            *(torch.tensor(column, dtype=torch.float32, device=device) for column in columns),
        )


def at(column: Tensor, step: Tensor) -> Tensor:
    """A table's entry for every sample, shaped to broadcast over images: (B, 1, 1, 1)."""
    return column[step].view(-1, 1, 1, 1)


def p_mean_variance(network: nn.Module, tables: Tables, x: Tensor, step: Tensor) -> ReverseStep:
    """One reverse step with x_0 clipped to [-1, 1], each sample at its own step; see `ddpm.p_mean_variance`.

    Args:
        network: net(x, t) -> (B, C, H, W) noise, or (B, 2 C, H, W) noise and variance in the learned range.
        x: (B, C, H, W), row i at respaced step `step[i]`.
        step: int64 (B,).
    """
    out = network(x, tables.time[step])
    channels = x.shape[1]
    eps = out[:, :channels]
    if out.shape[1] == 2 * channels:
        low, high = at(tables.min_log, step), at(tables.max_log, step)
        log_variance = out[:, channels:] * ((high - low) / 2) + (high + low) / 2
    else:
        log_variance = at(tables.fixed_log, step).expand_as(eps)
    pred_xstart = (x * at(tables.inverse_signal, step) - at(tables.eps_scale, step) * eps).clamp(-1, 1)
    mean = pred_xstart * at(tables.coef1, step) + x * at(tables.coef2, step)
    return ReverseStep(mean, log_variance, pred_xstart)
