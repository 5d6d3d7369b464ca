"""Success under fresh noise: does a saved counterfactual stay one when the diffusion filter draws new noise?

A search that optimises r(F(x)) tests its success on the very noise it fitted. Here every method's saved image goes
through the filter F of ACE and AC-RE again, under draws that no search has seen, and the reference regressor
predicts on the result. All in float32 and eager, whatever backend searched.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bench.errors import UsageError
from bench.fit import Shape, shape_misfit
from bench.images import to_float
from bench.sections import MetricsConfig
from methods import noise
from methods.diffusion import ddpm
from methods.diffusion.schedule import Schedule, ScheduleError

STREAM = "judge/noise"
"""Name of the noise stream; no method draws from it."""


@dataclass(frozen=True)
class NoiseCheck:
    """The filter with the reference regressor behind it.

    Attributes:
        denoiser, regressor: frozen, float32, on the CPU.
        depth: reverse steps of the filter.
        draws: fresh noises an image, K.
        seed: of the run whose images are judged.
    """

    denoiser: nn.Module
    regressor: nn.Module
    schedule: Schedule
    depth: int
    draws: int
    seed: int

    @torch.no_grad()
    def predict(self, sample_id: str, pixels: np.ndarray) -> np.ndarray:
        """r(F(x'; noise)) of one uint8 (H, W, C) image: float64 (K,).

        Noise is a function of (seed, sample id, draw). The K draws of one image are one batch, so that no other
        image can matter.
        """
        image = torch.from_numpy(to_float(pixels))[None].expand(self.draws, -1, -1, -1)
        keys = noise.sample_keys(self.seed, [sample_id] * self.draws, STREAM)
        draws = noise.normal(keys, torch.arange(self.draws), self.depth, image.shape[1:])
        filtered = ddpm.filter_image(self.denoiser, self.schedule, image, self.depth, draws)
        return self.regressor(filtered).double().numpy()

    def predict_all(
        self,
        ids: Sequence[str],
        images: Iterable[np.ndarray | None],
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:
        """Of every image: float64 (N, K); NaN where there is none (a failed sample).

        Args:
            images: uint8 (H, W, C) each.
            report: called with (done, total) after every image.
        """
        predictions = np.full((len(ids), self.draws), np.nan)
        for index, (name, pixels) in enumerate(zip(ids, images, strict=True)):
            if pixels is not None:
                predictions[index] = self.predict(name, pixels)
            report(index + 1, len(ids))
        return predictions

    def describe(self) -> str:
        """What the figure rests on, for a record's notes."""
        return f"fresh draws an image: {self.draws}; filter steps: {self.depth} of {len(self.schedule)}"


def build_noise_check(
    metrics: MetricsConfig, denoiser: nn.Module | None, regressor: nn.Module, seed: int, shape: Shape
) -> tuple[NoiseCheck | None, str]:
    """The check that a configuration asks for, or None and why there is none.

    Args:
        denoiser: the "ddpm" network, None where the data has none.
        shape: (C, H, W) of the images to judge.

    Raises:
        UsageError: the filter's options do not fit the network.
    """
    if metrics.noise_draws == 0:
        return None, "turned off (metrics.noise_draws=0)"
    if denoiser is None:
        return None, "the dataset has no ddpm network"
    misfit = shape_misfit(denoiser, shape)
    if misfit:
        return None, f"the ddpm network is for {misfit[1]} images; these are {misfit[0]}"
    try:
        schedule = denoiser.config.schedule(metrics.filter_respacing)
    except ScheduleError as error:
        raise UsageError(f"metrics.filter_respacing={metrics.filter_respacing}: {error}") from error
    if metrics.filter_depth > len(schedule):
        raise UsageError(
            f"metrics.filter_depth={metrics.filter_depth} is more than the {len(schedule)} steps of "
            f"metrics.filter_respacing={metrics.filter_respacing}"
        )
    return NoiseCheck(denoiser, regressor, schedule, metrics.filter_depth, metrics.noise_draws, seed), ""
