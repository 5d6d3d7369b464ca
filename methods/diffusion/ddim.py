"""Deterministic DDIM in both directions, for a noise predictor conditioned on z_sem.

Sources: DDIM (Song et al. 2021) equation 12 with eta = 0; Diff-AE (Preechakul et al. 2022) equations 6
and 8; as in the published code, x_0 is clipped to [-1, 1] in both directions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.diffusion.ddpm import network_time, to_image
from methods.diffusion.schedule import Schedule


def _ddim_move(network: nn.Module, schedule: Schedule, x: Tensor, z_sem: Tensor, step: int, signal_to: float) -> Tensor:
    """Move x from respaced step `step` to the signal level `signal_to`, along the predicted direction."""
    signal = float(schedule.alphas_cumprod[step])
    eps = network(x, network_time(schedule, step, x.shape[0], x.device), z_sem)
    scaled, spread = x * signal**-0.5, (1 / signal - 1) ** 0.5
    pred_xstart = torch.sub(scaled, eps, alpha=spread).clamp(-1, 1)
    # Clipping changed x_0, so the direction is derived again from it.
    return torch.add(pred_xstart * signal_to**0.5, scaled - pred_xstart, alpha=(1 - signal_to) ** 0.5 / spread)


def ddim_invert(
    network: nn.Module,
    schedule: Schedule,
    image: Tensor,
    z_sem: Tensor,
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The stochastic code x_T of an image.

    Args:
        network: net(x, t, z_sem) -> eps.
        image: (B, 3, H, W) in [0, 1].
        z_sem: (B, D).
        report: called with (done, total) after each step.

    Returns:
        x_T, (B, 3, H, W), roughly standard normal.
    """
    x = image * 2 - 1
    for step in range(len(schedule)):
        x = _ddim_move(network, schedule, x, z_sem, step, float(schedule.alphas_cumprod_next[step]))
        if report is not None:
            report(step + 1, len(schedule))
    return x


def ddim_decode(network: nn.Module, schedule: Schedule, x_T: Tensor, z_sem: Tensor) -> Tensor:
    """Decode (x_T, z_sem) to an image in [0, 1] (not clipped), differentiably in both."""
    x = x_T
    for step in reversed(range(len(schedule))):
        x = _ddim_move(network, schedule, x, z_sem, step, float(schedule.alphas_cumprod_prev[step]))
    return to_image(x)
