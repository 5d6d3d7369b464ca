"""Noise schedules of diffusion models, respaced as the published code respaces them.

Sources: DDPM (Ho et al. 2020), improved DDPM (Nichol and Dhariwal 2021), guided-diffusion `respace.py`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np


class ScheduleError(ValueError):
    """A schedule that cannot be built; the text names the option."""


def beta_schedule(name: str, steps: int) -> np.ndarray:
    """Betas of the full process, float64 (steps,).

    `linear` scales the DDPM range 1e-4..0.02 by 1000/steps; `cosine` is improved DDPM, equation 17.
    """
    if name == "linear":
        scale = 1000 / steps
        return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
    if name == "cosine":

        def alpha_bar(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        return np.array([min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), 0.999) for i in range(steps)])
    raise ScheduleError(f"noise_schedule {name!r} is unknown; use 'linear' or 'cosine'")


def spaced_timesteps(steps: int, respacing: str) -> list[int]:
    """The original timesteps that a respaced process keeps, ascending.

    Args:
        steps: length of the full process.
        respacing: "" keeps all; "ddimN" takes a fixed integer stride (DDIM); "N" or "N,M,..." splits the
            process into equal sections and spreads that many steps over each.
    """
    if respacing.startswith("ddim"):
        digits = respacing.removeprefix("ddim")
        wanted = int(digits) if digits.isdigit() else 0
        for stride in range(1, steps + 1):
            if len(range(0, steps, stride)) == wanted:
                return list(range(0, steps, stride))
        raise ScheduleError(f"timestep_respacing {respacing!r}: no integer stride over {steps} gives {wanted} steps")
    try:
        counts = [int(part) for part in respacing.split(",")] if respacing else [steps]
    except ValueError as error:
        raise ScheduleError(f"timestep_respacing {respacing!r} is not 'N', 'N,M,...' or 'ddimN'") from error
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = steps // len(counts) + (1 if section < steps % len(counts) else 0)
        if size < count:
            raise ScheduleError(f"timestep_respacing {respacing!r}: {count} steps do not fit into a section of {size}")
        stride = 1.0 if count <= 1 else (size - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride  # accumulated as published: rounding halves depends on it
        start += size
    return sorted(set(kept))


@dataclass(frozen=True, eq=False)
class Schedule:
    """A respaced diffusion process; arrays are float64 of length S, index 0 is the least noisy step.

    Attributes:
        timesteps: original timestep of each respaced step, int64 (the "timestep map").
        alphas_cumprod: cumulative signal level at each respaced step.
        timestep_scale: what the network's time input is multiplied by (guided-diffusion's
            `rescale_timesteps`; 1 otherwise).
    """

    timesteps: np.ndarray
    alphas_cumprod: np.ndarray
    timestep_scale: float = 1.0

    @classmethod
    def create(
        cls,
        steps: int = 1000,
        noise_schedule: str = "linear",
        respacing: str = "",
        rescale_timesteps: bool = False,
    ) -> "Schedule":
        """Build the respaced process of a model trained on `steps` steps."""
        timesteps = np.array(spaced_timesteps(steps, respacing), dtype=np.int64)
        full = np.cumprod(1.0 - beta_schedule(noise_schedule, steps))
        return cls(timesteps, full[timesteps], 1000.0 / steps if rescale_timesteps else 1.0)

    def truncated(self, depth: int) -> "Schedule":
        """The `depth` least noisy steps.

        Raises:
            ValueError: there are fewer.
        """
        if depth > len(self):
            raise ValueError(f"depth {depth} is more than the {len(self)} steps of the process")
        return Schedule(self.timesteps[:depth], self.alphas_cumprod[:depth], self.timestep_scale)

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """Signal level one step less noisy; 1 before the first."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def alphas_cumprod_next(self) -> np.ndarray:
        """Signal level one step noisier; 0 after the last."""
        return np.append(self.alphas_cumprod[1:], 0.0)

    @cached_property
    def betas(self) -> np.ndarray:
        """Betas of the respaced process."""
        return 1.0 - self.alphas_cumprod / self.alphas_cumprod_prev

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """Variance of q(x_{t-1} | x_t, x_0), DDPM equation 7."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> np.ndarray:
        """Its logarithm; the first entry, which would be -inf, repeats the second."""
        variance = self.posterior_variance
        return np.log(np.append(variance[1] if len(variance) > 1 else self.betas[0], variance[1:]))

    @cached_property
    def posterior_mean_coef1(self) -> np.ndarray:
        """Weight of x_0 in the posterior mean, DDPM equation 7."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> np.ndarray:
        """Weight of x_t in the posterior mean, DDPM equation 7."""
        return (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - self.betas) / (1.0 - self.alphas_cumprod)
