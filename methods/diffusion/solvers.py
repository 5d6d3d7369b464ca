"""ODE solvers of diffusers as decoders and encoders of a Diffusion Autoencoder: DPM-Solver++(2M) and UniPC.

Sources: DPM-Solver++ (Lu et al. 2022), UniPC (Zhao et al. 2023). The schedulers get the betas that the model was
trained with and its eps; x_0 is clipped to [-1, 1] at every step, as the project's own DDIM does. All start at the
last timestep of training, where the code of a DDIM inversion with many steps lies; how the steps are spread below
it is part of the solver's name, as it matters more than the order.
"""

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

from methods.diffusion.ddpm import to_image, to_network
from methods.diffusion.diffae import DiffAeConfig
from methods.diffusion.schedule import Schedule, beta_schedule

Scheduler = DDIMScheduler | DPMSolverMultistepScheduler | DPMSolverMultistepInverseScheduler | UniPCMultistepScheduler

# diffusers has static clipping as dynamic thresholding whose range cannot grow.
_CLIPPED = {"thresholding": True, "sample_max_value": 1.0}
_SECOND_ORDER = {"solver_order": 2, "timestep_spacing": "linspace", **_CLIPPED}
_DPM = {"algorithm_type": "dpmsolver++", **_SECOND_ORDER}
_DDIM = {"timestep_spacing": "leading", "clip_sample": True, "set_alpha_to_one": True}

DECODERS: dict[str, tuple[type, dict[str, object]]] = {
    "ddim": (DDIMScheduler, _DDIM),
    "dpm++2m": (DPMSolverMultistepScheduler, _DPM),
    "dpm++2m-logsnr": (DPMSolverMultistepScheduler, _DPM | {"use_lu_lambdas": True}),
    "unipc": (UniPCMultistepScheduler, _SECOND_ORDER),
    "unipc-karras": (UniPCMultistepScheduler, _SECOND_ORDER | {"use_karras_sigmas": True}),
}
"""Solver -> scheduler and options: steps uniform in time, in the log of the signal-to-noise ratio, or as Karras et al.
(2022) spread them. "ddim" is the check that this adapter agrees with `methods.diffusion.ddim`."""

ENCODERS: dict[str, tuple[type, dict[str, object]]] = {
    "dpm++2m": (DPMSolverMultistepInverseScheduler, _DPM),
    "dpm++2m-karras": (DPMSolverMultistepInverseScheduler, _DPM | {"use_karras_sigmas": True}),
}
"""The inverses that diffusers has."""


def quadratic_schedule(config: DiffAeConfig, steps: int) -> Schedule:
    """A DDIM process whose timesteps are squares, so that more of them are at low noise (DDIM, appendix D.2).

    Raises:
        ValueError: the squares round to fewer than `steps` timesteps.
    """
    last = config.diffusion_steps - 1
    timesteps = np.unique(np.rint(np.linspace(0, last**0.5, steps) ** 2).astype(np.int64))
    if len(timesteps) != steps:
        raise ValueError(f"{steps} quadratic steps need a process longer than {config.diffusion_steps}; ask for fewer")
    full = np.cumprod(1 - beta_schedule(config.noise_schedule, config.diffusion_steps))
    return Schedule(timesteps, full[timesteps])


def _scheduler(
    config: DiffAeConfig, table: dict[str, tuple[type, dict[str, object]]], solver: str, steps: int
) -> Scheduler:
    if solver not in table:
        raise ValueError(f"solver {solver!r} is unknown; use one of {', '.join(table)}")
    build, options = table[solver]
    betas = beta_schedule(config.noise_schedule, config.diffusion_steps)
    scheduler = build(
        num_train_timesteps=config.diffusion_steps, trained_betas=betas, prediction_type="epsilon", **options
    )
    scheduler.set_timesteps(steps)
    if len(scheduler.timesteps) != steps:
        raise ValueError(f"solver {solver!r} makes {len(scheduler.timesteps)} of {steps} steps; ask for fewer")
    return scheduler


def _integrate(network: nn.Module, scheduler: Scheduler, x: Tensor, z_sem: Tensor) -> Tensor:
    """Run the scheduler from x to its last step, one network call a step."""
    # Only DDIM derives its direction again from the clipped x_0 on demand; the others always do.
    extra = {"use_clipped_model_output": True} if isinstance(scheduler, DDIMScheduler) else {}
    for timestep in scheduler.timesteps:
        time = torch.full((len(x),), int(timestep), dtype=torch.int64, device=x.device)
        x = scheduler.step(network(x, time, z_sem), timestep, x, **extra).prev_sample
    return x


def solver_decode(
    network: nn.Module, schedule_config: DiffAeConfig, x_T: Tensor, z_sem: Tensor, solver: str, steps: int
) -> Tensor:
    """Decode (x_T, z_sem) with a solver of diffusers, differentiably in both.

    Args:
        network: net(x, t, z_sem) -> eps, whatever it was trained to predict.
        schedule_config: the network's config; its noise schedule is used.
        x_T: (B, C, H, W).
        z_sem: (B, D).
        solver: a key of `DECODERS`.
        steps: network calls.

    Returns:
        The image, (B, C, H, W), in [0, 1] but not clipped.

    Raises:
        ValueError: unknown solver, or more steps than the solver can make.
    """
    return to_image(_integrate(network, _scheduler(schedule_config, DECODERS, solver, steps), x_T, z_sem))


def solver_encode(
    network: nn.Module, schedule_config: DiffAeConfig, image: Tensor, z_sem: Tensor, solver: str, steps: int
) -> Tensor:
    """The code x_T of an image by the inverse of a solver.

    Args:
        network, schedule_config, z_sem, steps: as in `solver_decode`.
        image: (B, C, H, W) in [0, 1].
        solver: a key of `ENCODERS`.

    Returns:
        x_T, (B, C, H, W).

    Raises:
        ValueError: as in `solver_decode`.
    """
    scheduler = _scheduler(schedule_config, ENCODERS, solver, steps)
    return _integrate(network, scheduler, to_network(image), z_sem)
