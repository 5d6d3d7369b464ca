"""AC-RE: adversarial counterfactuals for regression, in pixel space (Ha and Bender 2025, section 3.1).

Adapts ACE (Jeanneret et al. 2023): sign-gradient steps on the image, with the gradient of
(r(F(x)) - target)^2 taken through the filter F, then a RePaint-like refinement that keeps the original
where the change is small.

Where the published code is known to err, this does the right thing: the image whose filtered prediction
met the tolerance is returned as it is (the published loop steps once more after the test); success is
judged later, on the refined and saved image; finished samples leave their slot; noise belongs to the
sample, not to the batch; the loss is summed over samples.
"""

from collections.abc import Mapping
from typing import cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from backends.base import Backend
from methods import noise
from methods.base import Batch, Evaluations, Method, MethodConfig, Report, State, StepResult, per_slot, reached
from methods.diffusion import ddpm
from methods.diffusion.schedule import Schedule


class FilterConfig(MethodConfig):
    """Options of the filter and the refinement.

    Attributes:
        respacing: the 1,000-step process is respaced to this many steps.
        depth: tau, how many of them F uses.
        threshold, dilation: of the refinement mask.
    """

    respacing: str = "50"
    depth: int = Field(5, ge=1)
    threshold: float = Field(0.15, ge=0)
    dilation: int = Field(5, ge=1)

    @field_validator("dilation")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value


class AcReConfig(FilterConfig):
    """Defaults: the paper's Square settings (run_square_mirror.sh of the published code).

    Attributes:
        step_size: of a sign step, in [0, 1] image units.
    """

    max_steps: int = Field(100, ge=1)
    step_size: float = Field(2 / 255, gt=0)


class AcRe(Method):
    """State: original, image (the point x of the search), target, key, step."""

    name = "ac-re"
    options = AcReConfig
    networks = ("ddpm",)
    config: FilterConfig
    denoiser: nn.Module
    regressor: nn.Module
    schedule: Schedule

    @property
    def differentiated_calls(self) -> int:
        """Denoiser calls that one gradient goes through."""
        return self.config.depth

    def check(self, networks: Mapping[str, nn.Module]) -> None:
        self.schedule = networks["ddpm"].config.schedule(self.config.respacing)
        if self.config.depth > len(self.schedule):
            raise ValueError(f"depth {self.config.depth} is more than the {len(self.schedule)} steps of respacing")

    def prepare(self, networks: Mapping[str, nn.Module], backend: Backend, slots: int) -> None:
        self.check(networks)
        size = networks["ddpm"].config.image_size
        image = torch.zeros(slots, 3, size, size, device=self.device)
        time = ddpm.network_time(self.schedule, 0, slots, self.device)
        self.denoiser = backend.prepare("denoiser", networks["ddpm"], (image, time), self.differentiated_calls)
        self.regressor = backend.prepare("regressor", networks["regressor"], (image,))

    @torch.no_grad()
    def encode(self, batch: Batch, report: Report) -> State:
        return {
            "original": batch.image,
            "image": batch.image.clone(),
            "target": batch.target,
            "key": noise.sample_keys(self.seed, batch.ids, "ac-re/filter", self.device),
            "refine_key": noise.sample_keys(self.seed, batch.ids, "ac-re/refine", self.device),
            "step": torch.zeros(len(batch.ids), dtype=torch.int64, device=self.device),
        }

    def _prediction(self, image: Tensor, key: Tensor, step: Tensor) -> Tensor:
        """r(F(x)) under the noise of this sample and step."""
        draws = noise.normal(key, step, self.config.depth, image.shape[1:])
        return self.regressor(ddpm.filter_image(self.denoiser, self.schedule, image, self.config.depth, draws))

    def step(self, state: State) -> StepResult:
        config = cast(AcReConfig, self.config)
        image = state["image"].detach().requires_grad_(True)
        prediction = self._prediction(image, state["key"], state["step"])
        loss = (prediction - state["target"]).square().sum()
        gradient = torch.autograd.grad(loss, image)[0]
        prediction = prediction.detach()
        done = reached(prediction, state["target"], config.tolerance)
        moves = ~done
        moved = (state["image"] - config.step_size * gradient.sign()).clamp(0, 1)
        update = {
            "image": torch.where(per_slot(moves, moved), moved, state["image"]),
            "step": state["step"] + moves,
        }
        return StepResult(state | update, prediction, done)

    @torch.no_grad()
    def refine(self, state: State) -> Tensor:
        config = self.config
        shape = state["image"].shape[1:]
        draws = noise.normal(state["refine_key"], torch.zeros_like(state["step"]), 2 * config.depth, shape)
        return ddpm.refine(
            self.denoiser,
            self.schedule,
            state["original"],
            state["image"],
            config.depth,
            config.threshold,
            config.dilation,
            draws,
        )

    @property
    def cost(self) -> dict[str, Evaluations]:
        depth = self.config.depth
        return {"encode": Evaluations(0, 0), "step": Evaluations(depth, depth), "refine": Evaluations(depth, 0)}
