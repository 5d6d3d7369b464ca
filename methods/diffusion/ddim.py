"""Deterministic DDIM in both directions, for a noise predictor conditioned on z_sem.

Sources: DDIM (Song et al. 2021) equation 12 with eta = 0; Diff-AE (Preechakul et al. 2022) equations 6
and 8; as in the published code, x_0 is clipped to [-1, 1] in both directions.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from methods.diffusion.ddpm import network_time, to_image
from methods.diffusion.schedule import Schedule


def _ddim_move(network: nn.Module, schedule: Schedule, x: Tensor, z_sem: Tensor, step: int, signal_to: float) -> Tensor:
    """Move x from respaced step `step` to the signal level `signal_to`, along the predicted direction."""
    return _towards(schedule, x, predict_xstart(network, schedule, x, z_sem, step), step, signal_to)


def ddim_invert(
    network: nn.Module,
    schedule: Schedule,
    image: Tensor,
    z_sem: Tensor,
    report: Callable[[int, int], None] | None = None,
    until: tuple[int, float] | None = None,
) -> Tensor:
    """The stochastic code x_T of an image.

    Args:
        network: net(x, t, z_sem) -> eps.
        image: (B, C, H, W) in [0, 1].
        z_sem: (B, D).
        report: called with (done, total) after each step.
        until: (moves, signal level): stop after as many steps, the last of which ends at that level.

    Returns:
        x_T, (B, C, H, W), roughly standard normal; with `until`, the noised image at that level.
    """
    x = image * 2 - 1
    moves, final_signal = until or (len(schedule), 0.0)
    for step in range(moves):
        signal_to = float(schedule.alphas_cumprod_next[step]) if step + 1 < moves else final_signal
        x = _ddim_move(network, schedule, x, z_sem, step, signal_to)
        if report is not None:
            report(step + 1, moves)
    return x


def fixed_point_invert(
    network: nn.Module,
    schedule: Schedule,
    image: Tensor,
    z_sem: Tensor,
    iterations: int,
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The stochastic code from which the decoder with this very schedule makes the image.

    Every decoding step x_low = a x_high + b eps(x_high) is solved for x_high by fixed-point iteration, as
    AIDI (Pan et al. 2023) does for text-to-image models; clipping of x_0 is left out, as it has no inverse.
    DDIM inversion takes eps at the wrong point instead, and needs many small steps to make that harmless.

    Args:
        schedule: the decoder's.
        image, z_sem, report: as in `ddim_invert`.
        iterations: network calls a step.

    Returns:
        x_T, (B, C, H, W).
    """
    x, eps = image * 2 - 1, None
    for step in range(len(schedule)):
        low, high = float(schedule.alphas_cumprod_prev[step]), float(schedule.alphas_cumprod[step])
        time = network_time(schedule, step, x.shape[0], x.device)
        scale = (high / low) ** 0.5
        spread = (1 - high) ** 0.5 - scale * (1 - low) ** 0.5
        # eps hardly changes from one step to the next, so the last one makes a first guess for nothing.
        guess = x if eps is None else torch.add(x * scale, eps, alpha=spread)
        for _ in range(iterations):
            eps = network(guess, time, z_sem)
            guess = torch.add(x * scale, eps, alpha=spread)
        x = guess
        if report is not None:
            report(step + 1, len(schedule))
    return x


def ddim_decode(
    network: nn.Module,
    schedule: Schedule,
    x_T: Tensor,
    z_sem: Tensor,
    differentiated: Collection[int] | None = None,
) -> Tensor:
    """Decode (x_T, z_sem) to an image in [0, 1] (not clipped), differentiably in both.

    Args:
        differentiated: neighbouring steps through which the gradient of z_sem goes, all by default. Where noisier
            or less noisy steps are left out, they are run without storing anything; the prediction of x_0 at the
            last differentiated step then stands for what the image gains (SDO, "You only look one step", 2025).
    """
    if differentiated is None or len(differentiated) == len(schedule):
        x = x_T
        for step in reversed(range(len(schedule))):
            x = _ddim_move(network, schedule, x, z_sem, step, float(schedule.alphas_cumprod_prev[step]))
        return to_image(x)
    x, gained = x_T, None
    for step in reversed(range(len(schedule))):
        signal_to = float(schedule.alphas_cumprod_prev[step])
        if step not in differentiated:
            with torch.no_grad():
                x = _ddim_move(network, schedule, x, z_sem, step, signal_to)
        elif step == min(differentiated) > 0:
            x_0 = predict_xstart(network, schedule, x, z_sem, step)
            gained = x_0 - x_0.detach()
            x = _towards(schedule, x.detach(), x_0.detach(), step, signal_to)
        else:
            x = _ddim_move(network, schedule, x, z_sem, step, signal_to)
    return to_image(x if gained is None else x + gained)


def decode_until(network: nn.Module, schedule: Schedule, x_T: Tensor, z_sem: Tensor, step: int) -> Tensor:
    """What the decoder feeds to respaced step `step`: (B, C, H, W) at that step's signal level."""
    x = x_T
    for noisier in reversed(range(step + 1, len(schedule))):
        x = _ddim_move(network, schedule, x, z_sem, noisier, float(schedule.alphas_cumprod_prev[noisier]))
    return x


def predict_xstart(network: nn.Module, schedule: Schedule, x: Tensor, z_sem: Tensor, step: int) -> Tensor:
    """The network's x_0 at respaced step `step`, clipped to [-1, 1]."""
    signal = float(schedule.alphas_cumprod[step])
    eps = network(x, network_time(schedule, step, x.shape[0], x.device), z_sem)
    return torch.sub(x * signal**-0.5, eps, alpha=(1 / signal - 1) ** 0.5).clamp(-1, 1)


def _towards(schedule: Schedule, x: Tensor, pred_xstart: Tensor, step: int, signal_to: float) -> Tensor:
    """x at the signal level `signal_to`, on the line through x and its x_0."""
    signal = float(schedule.alphas_cumprod[step])
    # Clipping changed x_0, so the direction is derived again from it.
    direction = (1 - signal_to) ** 0.5 / (1 / signal - 1) ** 0.5
    return torch.add(pred_xstart * signal_to**0.5, x * signal**-0.5 - pred_xstart, alpha=direction)
