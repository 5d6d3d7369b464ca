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
from methods.base import Batch, Evaluations, MethodConfig, Report, State, StepResult, blank_images, per_slot
from methods.diffusion import ddpm
from methods.diffusion.schedule import Schedule
from methods.distance import Norm, distance
from methods.targets import Judging, RegressionTarget


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
        distance: of the search's image to the original, added to the loss; the paper leaves it out.
        distance_weight: its factor; ACE took 0.001 with l1 and 0.1 with l2.
    """

    max_steps: int = Field(100, ge=1)
    step_size: float = Field(2 / 255, gt=0)
    distance: Norm = "none"
    distance_weight: float = Field(0.001, ge=0)


class Filtered(Judging):
    """A search for an image that is judged after the filter F, and refined at the end.

    State: original, image (the point x of the search), target, step, and keys of the noise.
    """

    networks = ("ddpm",)
    config: FilterConfig
    denoiser: nn.Module
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
        image = self.example(networks, slots)
        time = ddpm.network_time(self.schedule, 0, slots, self.device)
        self.denoiser = backend.prepare("denoiser", networks["ddpm"], (image, time), self.differentiated_calls)
        self.regressor = backend.prepare("regressor", networks["regressor"], (image,))

    def example(self, networks: Mapping[str, nn.Module], slots: int) -> Tensor:
        return blank_images(networks["ddpm"], slots, self.device)

    @torch.no_grad()
    def encode(self, batch: Batch, report: Report) -> State:
        return {
            "original": batch.image,
            "image": batch.image.clone(),
            "target": batch.target,
            "key": noise.sample_keys(self.seed, batch.ids, f"{self.name}/filter", self.device),
            "refine_key": noise.sample_keys(self.seed, batch.ids, f"{self.name}/refine", self.device),
            "reconstruct_key": noise.sample_keys(self.seed, batch.ids, f"{self.name}/reconstruct", self.device),
            "step": torch.zeros(len(batch.ids), dtype=torch.int64, device=self.device),
        }

    def _filtered(self, image: Tensor, key: Tensor, step: Tensor) -> Tensor:
        """F(x) under the noise of this sample and step."""
        draws = noise.normal(key, step, self.config.depth, image.shape[1:])
        return ddpm.filter_image(self.denoiser, self.schedule, image, self.config.depth, draws)

    def step(self, state: State) -> StepResult:
        config = cast(AcReConfig, self.config)
        image = state["image"].detach().requires_grad_(True)
        judged = self.judge(self._filtered(image, state["key"], state["step"]), state["target"])
        loss = judged.loss
        if config.distance != "none":
            loss = loss + config.distance_weight * distance(config.distance, image - state["original"])
        gradient = torch.autograd.grad(loss.sum(), image)[0]
        done = self.finished(judged)
        moves = ~done
        moved = (state["image"] - config.step_size * gradient.sign()).clamp(0, 1)
        update = {
            "image": torch.where(per_slot(moves, moved), moved, state["image"]),
            "step": state["step"] + moves,
        }
        return StepResult(state | update, judged.prediction, done)

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

    @torch.no_grad()
    def reconstruct(self, state: State) -> Tensor:
        """F(x) of the original, under noise of its own, clipped to [0, 1]."""
        draws = noise.normal(
            state["reconstruct_key"], torch.zeros_like(state["step"]), self.config.depth, state["original"].shape[1:]
        )
        filtered = ddpm.filter_image(self.denoiser, self.schedule, state["original"], self.config.depth, draws)
        return filtered.clamp(0, 1)

    @property
    def cost(self) -> dict[str, Evaluations]:
        depth = self.config.depth
        return {"encode": Evaluations(0, 0), "step": Evaluations(depth, depth), "refine": Evaluations(depth, 0)}


class AcRe(RegressionTarget, Filtered):
    """The search of `Filtered` for a reference value."""

    name = "ac-re"
    options = AcReConfig
