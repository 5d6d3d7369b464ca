"""Diff-AE-RE with Gauss-Newton steps: the semantic code moves as little as the *image* allows.

Encoder, decoder and codes are those of Diff-AE-RE (methods/diffae_re.py); four things differ.

1. A step is the smallest change of z_sem that brings the prediction to the reference value, to first order
   (methods/minimal_norm.py), instead of a fixed rate for every dimension.
2. "Smallest" is meant in the image: with J the decoder's Jacobian, the metric is J^T J + lambda, estimated from
   k random projections J^T v when a sample is encoded. In the plain norm of the code a step moves whatever
   direction of z_sem the decoder reacts to most, which is the background.
3. The image is encoded to an intermediate noise level and decoded from there: what z_sem has to say about the
   attribute is said in the last steps, and the background never leaves the stochastic code.
4. Predictions are made on the quantised image, which is what is saved.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from methods import noise
from methods.base import Batch, Evaluations, Report, State, StepResult, quantised
from methods.diffae_re import DiffAeRe, LatentConfig
from methods.diffusion import ddim, ddpm
from methods.diffusion.gradient_path import differentiated_steps
from methods.minimal_norm import (
    EUCLIDEAN,
    Evaluation,
    Geometry,
    StepRuleConfig,
    advance,
    euclidean,
    initial_state,
    retargeted,
)
from methods.regression import shifted_prediction


class DiffAeReGnConfig(StepRuleConfig, LatentConfig):
    """Options.

    Attributes:
        cap: largest Euclidean length of a step of z_sem.
        depth: how many of the decoder's steps are used, the least noisy ones: the image is encoded to that noise
            level instead of to x_T, and decoded from there.
        inversion: of the stochastic code, "ddim" as published, or the "fixed-point" of the very decoder that is
            used, which reconstructs better and edits worse.
        inversion_steps: of "ddim" over all noise levels; those up to the decoder's depth are made.
        inversion_iterations: network calls for each decoder step of "fixed-point".
        metric: of the smallest step, "sensitivity" (of the image to z_sem) or "identity".
        probes: random projections that estimate the sensitivity.
        probe_step: the decoding step whose Jacobian they take, with this many less noisy ones.
        probe_damping: lambda over the trace of the estimate.
    """

    aim: float = Field(0.03, gt=0)
    cap: float = Field(0.7, gt=0)
    patience: int = Field(3, ge=1)
    depth: int = Field(4, ge=1)
    inversion: Literal["fixed-point", "ddim"] = "ddim"
    inversion_steps: int = Field(30, ge=1)
    inversion_iterations: int = Field(2, ge=1)
    metric: Literal["sensitivity", "identity"] = "sensitivity"
    probes: int = Field(8, ge=1)
    probe_step: int = Field(2, ge=0)
    probe_damping: float = Field(0.005, gt=0)


class DiffAeReGn(DiffAeRe):
    """State: that of the step rule (the point is z_sem), x_T and the probes J^T v, (B, k, D)."""

    name = "diffae-re-gn"
    options = DiffAeReGnConfig
    config: DiffAeReGnConfig  # type: ignore[assignment]
    differentiated: frozenset[int]

    @property
    def differentiated_calls(self) -> int:
        return len(self.differentiated)

    def check(self, networks: Mapping[str, nn.Module]) -> None:
        super().check(networks)
        config = self.config
        self.decoding = self.decoding.truncated(config.depth)
        self.differentiated = differentiated_steps(config.gradient, config.depth)
        if config.metric == "sensitivity" and config.probe_step >= config.depth:
            raise ValueError(f"probe_step {config.probe_step} is not one of the {config.depth} decoding steps")

    @torch.no_grad()
    def encode(self, batch: Batch, report: Report) -> State:
        config = self.config
        z_sem = self.encoder(ddpm.to_network(batch.image))
        if config.inversion == "ddim":
            x_T = ddim.ddim_invert(self.denoiser, self.inversion, batch.image, z_sem, report, self._inversion_end())
        else:
            x_T = ddim.fixed_point_invert(
                self.denoiser, self.decoding, batch.image, z_sem, config.inversion_iterations, report
            )
        state = initial_state(z_sem, batch.image, batch.target, config.cap) | {"x_T": x_T}
        if config.metric == "sensitivity":
            keys = noise.sample_keys(self.seed, batch.ids, "diffae-re-gn/probes", self.device)
            state["probes"] = self._probes(x_T, z_sem, keys)
        return state

    def _inversion_end(self) -> tuple[int, float]:
        """Steps of DDIM inversion, and the signal level they end at: the one that the decoder starts from."""
        if self.config.depth == self.config.decoding_steps:
            return len(self.inversion), 0.0
        below = int(np.searchsorted(self.inversion.timesteps, self.decoding.timesteps[-1]))
        return max(1, below), float(self.decoding.alphas_cumprod[-1])

    def _probes(self, x_T: Tensor, z_sem: Tensor, keys: Tensor) -> Tensor:
        """J^T v / sqrt(k) for k standard-normal images v, J = dx_0/dz_sem at one decoding step: (B, k, D)."""
        config = self.config
        x = ddim.decode_until(self.denoiser, self.decoding, x_T, z_sem, config.probe_step)
        rows = []
        with torch.enable_grad():
            z = z_sem.detach().requires_grad_(True)
            x_0 = ddim.predict_xstart(self.denoiser, self.decoding, x, z, config.probe_step)
            for probe in range(config.probes):
                draw = noise.normal(keys, torch.full_like(keys, probe), 1, x.shape[1:])[:, 0]
                again = probe + 1 < config.probes
                rows.append(torch.autograd.grad((x_0 * draw).sum(), z, retain_graph=again)[0])
        return torch.stack(rows, dim=1) / config.probes**0.5

    def _geometry(self, state: State) -> Geometry:
        if self.config.metric == "identity":
            return EUCLIDEAN
        return Geometry(sensitivity_direction(state["probes"], self.config.probe_damping), euclidean)

    def step(self, state: State) -> StepResult:
        z = state["point"].detach().requires_grad_(True)
        decoded = ddim.ddim_decode(self.denoiser, self.decoding, state["x_T"], z, self.differentiated)
        image = quantised(decoded)
        prediction = shifted_prediction(self.regressor, image, self.config.translation)
        gradient = torch.autograd.grad(prediction.sum(), z)[0]
        found = Evaluation(prediction.detach(), gradient, image.detach())
        update, done = advance(self.config, self._geometry(state), state, found)
        return StepResult(update, update["prediction"], done)

    @torch.no_grad()
    def reconstruct(self, state: State) -> Tensor:
        """The decoded codes of the original, (z_sem, x_T), clipped to [0, 1]; the point is still z_sem."""
        return ddim.ddim_decode(self.denoiser, self.decoding, state["x_T"], state["point"]).clamp(0, 1)

    @torch.no_grad()
    def refine(self, state: State) -> Tensor:
        return state["output"]

    def retarget(self, state: State, target: Tensor) -> State:
        return retargeted(state, target, self.config.cap)

    @property
    def cost(self) -> dict[str, Evaluations]:
        config = self.config
        decode = config.depth
        inversion = self._inversion_end()[0] if config.inversion == "ddim" else decode * config.inversion_iterations
        encode = Evaluations(inversion, 0)
        if config.metric == "sensitivity":
            encode += Evaluations(decode - config.probe_step, config.probes)
        return {
            "encode": encode,
            "step": Evaluations(decode, self.differentiated_calls),
            "refine": Evaluations(0, 0),
        }


def sensitivity_direction(probes: Tensor, damping: float) -> Callable[[Tensor], Tensor]:
    """(A^T A + lambda)^-1 g for A of shape (B, k, D), through Woodbury's identity with k x k systems.

    Args:
        damping: lambda over the trace of A^T A.
    """
    gram = probes @ probes.mT
    trace = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-30)
    lam = damping * trace
    system = gram + torch.diag_embed(lam[:, None].expand(-1, probes.shape[1]))
    # A sample with NaN spoils its own system only, and is found out by its step.
    factor = torch.linalg.cholesky_ex(system).L

    def direction(gradient: Tensor) -> Tensor:
        inner = torch.cholesky_solve((probes @ gradient[:, :, None]), factor)
        # Scaled by lambda: only the direction matters, and it equals g where nothing was probed.
        return gradient - (probes.mT @ inner)[:, :, 0]

    return direction
