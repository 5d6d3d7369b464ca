"""AC-RE with Gauss-Newton steps: pixel space, minimal norm, the gradient of what is saved.

The filter of AC-RE (methods/ac_re.py) stays; three things differ.

1. A step is the smallest change that brings the prediction to the reference value, to first order
   (methods/minimal_norm.py), instead of 2/255 in every pixel.
2. Prediction and gradient are those of the refined, quantised candidate: refinement is part of the function
   that is differentiated, with its mask held fixed, so it cannot undo what the search found. Before the first
   move there is no mask yet, and the candidate is the filtered image, F(x).
3. A candidate that is good enough is filtered again with fresh noise; if the prediction does not survive, the
   search goes on, aiming so that the saved image and its filtered versions lie on either side of the target.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from methods import noise
from methods.ac_re import AcRe, FilterConfig
from methods.base import Batch, Confirmation, Evaluations, Report, State, StepResult, per_slot, quantised, reached
from methods.diffusion import ddpm
from methods.diffusion.gradient_path import differentiated_steps
from methods.minimal_norm import Evaluation, Geometry, StepRuleConfig, advance, initial_state, restart, retargeted
from methods.regression import shifted_prediction

ATTEMPTS = 2
"""Candidates of a sample that fresh noise may reject; the next one is taken as it is."""


class AcReGnConfig(StepRuleConfig, FilterConfig):
    """Options.

    Attributes:
        cap: largest change of a pixel in one step.
        geometry: the norm of the smallest step, "l2", or "linf" (the same change of every pixel).
        noise: "fresh" draws for every evaluation, or "fixed" ones for a whole search.
        draws: noise draws over which prediction and gradient are averaged; the first one's image is the candidate.
        confirmations: fresh draws of the filter that a candidate has to survive; 0 accepts it unseen.
    """

    cap: float = Field(0.3, gt=0)
    backtrack: bool = False  # with fresh noise the best point so far owes something to its draw
    patience: int = Field(3, ge=1)
    geometry: Literal["l2", "linf"] = "l2"
    noise: Literal["fresh", "fixed"] = "fresh"
    draws: int = Field(1, ge=1)
    confirmations: int = Field(1, ge=0)


def _largest(step: Tensor) -> Tensor:
    return step.abs().flatten(1).amax(1)


_GEOMETRIES = {
    "l2": Geometry(lambda gradient: gradient, _largest, 0.0, 1.0),
    "linf": Geometry(torch.sign, _largest, 0.0, 1.0),
}


class AcReGn(AcRe):
    """State: that of the step rule (the point is the pre-explanation), original, key, confirm_key, evaluation
    (counts noise draws), attempts, and the last candidate that fresh noise rejected."""

    name = "ac-re-gn"
    options = AcReGnConfig
    config: AcReGnConfig  # type: ignore[assignment]
    differentiated: frozenset[int]

    @property
    def differentiated_calls(self) -> int:
        return len(self.differentiated)

    def check(self, networks: Mapping[str, nn.Module]) -> None:
        super().check(networks)
        self.differentiated = differentiated_steps(self.config.gradient, self.config.depth)

    @torch.no_grad()
    def encode(self, batch: Batch, report: Report) -> State:
        state = initial_state(batch.image, batch.image, batch.target, self.config.cap)
        return state | {
            "original": batch.image,
            "key": noise.sample_keys(self.seed, batch.ids, "ac-re-gn/refine", self.device),
            "confirm_key": noise.sample_keys(self.seed, batch.ids, "ac-re-gn/confirm", self.device),
            "reconstruct_key": noise.sample_keys(self.seed, batch.ids, "ac-re-gn/reconstruct", self.device),
            "evaluation": torch.zeros_like(state["step"]),
            "attempts": torch.zeros_like(state["step"]),
            "rejected_output": batch.image.clone(),
            "rejected_prediction": torch.full_like(state["prediction"], torch.nan),
        }

    def step(self, state: State) -> StepResult:
        found = self._evaluate(state)
        update, done = advance(self.config, _GEOMETRIES[self.config.geometry], state, found)
        update["evaluation"] = state["evaluation"] + 1
        falls_back = self._falls_back(update)
        return StepResult(update, torch.where(falls_back, update["rejected_prediction"], update["prediction"]), done)

    def _falls_back(self, state: State) -> Tensor:
        """bool (B,): a candidate that fresh noise rejected is valid all the same, and nothing since then is."""
        target, tolerance = state["target"], self.config.tolerance
        return reached(state["rejected_prediction"], target, tolerance) & ~reached(
            state["prediction"], target, tolerance
        )

    def _evaluate(self, state: State) -> Evaluation:
        """Prediction on the refined candidate and its gradient with respect to the pre-explanation."""
        config, original = self.config, state["original"]
        point = state["point"].detach().requires_grad_(True)
        # Until something has changed there is nothing to keep the original around.
        moved = (point != original).flatten(1).any(1).to(point.dtype)
        keep = ddpm.keep_mask(original, point.detach(), config.threshold, config.dilation) * per_slot(moved, point)
        when = state["evaluation"] if config.noise == "fresh" else torch.zeros_like(state["evaluation"])
        gradient, predictions, candidate = torch.zeros_like(original), [], original
        for draw in range(config.draws):
            draws = noise.normal(state["key"], when * config.draws + draw, 2 * config.depth, original.shape[1:])
            image = quantised(
                ddpm.repaint(
                    self.denoiser, self.schedule, original, point, keep, config.depth, draws, self.differentiated
                )
            )
            prediction = shifted_prediction(self.regressor, image, config.translation)
            gradient = gradient + torch.autograd.grad(prediction.sum(), point)[0] / config.draws
            predictions.append(prediction.detach())
            candidate = image.detach() if draw == 0 else candidate
        return Evaluation(torch.stack(predictions).mean(0), gradient, candidate)

    @torch.no_grad()
    def refine(self, state: State) -> Tensor:
        falls_back = per_slot(self._falls_back(state), state["output"])
        return torch.where(falls_back, state["rejected_output"], state["output"])

    @torch.no_grad()
    def confirm(self, state: State, image: Tensor) -> Confirmation:
        config, target = self.config, state["target"]
        if config.confirmations == 0:
            return super().confirm(state, image)
        saved = self.regressor(image)
        filtered = []
        for draw in range(config.confirmations):
            when = state["attempts"] * config.confirmations + draw
            draws = noise.normal(state["confirm_key"], when, config.depth, image.shape[1:])
            filtered.append(self.regressor(ddpm.filter_image(self.denoiser, self.schedule, image, config.depth, draws)))
        survives = torch.stack([reached(y, target, config.tolerance) for y in (saved, *filtered)]).all(0)
        # What the search gave up on is not worth more steps.
        given_up = state["error"] > config.aim
        accepted = survives | given_up | (state["attempts"] >= ATTEMPTS)
        bias = torch.stack(filtered).mean(0) - saved
        # Half of what the tolerance allows: the search may miss its goal by `aim`, and rounding takes its share.
        most = (config.tolerance - config.aim) / 2
        goal = target - (bias / 2).clamp(-most, most)
        update = restart(state, goal, config.cap, ~accepted)
        update["attempts"] = state["attempts"] + ~accepted
        chosen = per_slot(~accepted, image)
        update["rejected_output"] = torch.where(chosen, image, state["rejected_output"])
        update["rejected_prediction"] = torch.where(accepted, state["rejected_prediction"], saved)
        return Confirmation(accepted, update)

    def retarget(self, state: State, target: Tensor) -> State:
        return retargeted(state, target, self.config.cap) | {
            "attempts": torch.zeros_like(state["attempts"]),
            "rejected_prediction": torch.full_like(state["rejected_prediction"], torch.nan),
        }

    @property
    def cost(self) -> dict[str, Evaluations]:
        config = self.config
        return {
            "encode": Evaluations(0, 0),
            "step": Evaluations(config.depth, self.differentiated_calls).times(config.draws),
            "refine": Evaluations(config.depth * config.confirmations, 0),
        }
