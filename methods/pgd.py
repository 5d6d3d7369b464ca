"""Projected gradient descent in pixel space, without a generative model (Madry et al. 2018, section 2.1).

The adversarial floor of a comparison: it changes what the regressor says by changing what nobody sees, so an oracle
should not follow. It is ACE's code with `attack_joint` off, and needs neither encoding nor refinement.
"""

from collections.abc import Mapping
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from backends.base import Backend
from methods.base import Batch, Evaluations, MethodConfig, Report, State, StepResult, per_slot
from methods.targets import ClassTarget, ClassTargetConfig, Judging, RegressionTarget


class PgdReConfig(MethodConfig):
    """Options.

    Attributes:
        step_size: of a sign step, in [0, 1] image units.
        epsilon: radius of the l_inf ball around the original that every step is projected to; 1 is no ball, as in
            ACE's code. 8/255 is customary for attacks.
    """

    max_steps: int = Field(100, ge=1)
    step_size: float = Field(1 / 255, gt=0)
    epsilon: float = Field(1.0, gt=0, le=1)


class PgdConfig(PgdReConfig, ClassTargetConfig):
    """The same, and the options of the class."""


class _Pgd(Judging):
    """State: original, image, target, step."""

    def check(self, networks: Mapping[str, nn.Module]) -> None:
        if self.image_shape is None:
            raise ValueError(f"{self.name} needs image_shape, as it has no network that knows the images' shape")

    def example(self, networks: Mapping[str, nn.Module], slots: int) -> Tensor:
        return torch.zeros(slots, *cast(tuple[int, int, int], self.image_shape), device=self.device)

    def prepare(self, networks: Mapping[str, nn.Module], backend: Backend, slots: int) -> None:
        self.check(networks)
        self.regressor = backend.prepare("regressor", networks["regressor"], (self.example(networks, slots),))

    @torch.no_grad()
    def encode(self, batch: Batch, report: Report) -> State:
        return {
            "original": batch.image,
            "image": batch.image.clone(),
            "target": batch.target,
            "step": torch.zeros(len(batch.ids), dtype=torch.int64, device=self.device),
        }

    def step(self, state: State) -> StepResult:
        config, original = cast(PgdReConfig, self.config), state["original"]
        image = state["image"].detach().requires_grad_(True)
        judged = self.judge(image, state["target"])
        gradient = torch.autograd.grad(judged.loss.sum(), image)[0]
        done = self.finished(judged)
        moved = state["image"] - config.step_size * gradient.sign()
        projected = moved.clamp(original - config.epsilon, original + config.epsilon).clamp(0, 1)
        update = {
            "image": torch.where(per_slot(~done, projected), projected, state["image"]),
            "step": state["step"] + ~done,
        }
        return StepResult(state | update, judged.prediction, done)

    @torch.no_grad()
    def refine(self, state: State) -> Tensor:
        return state["image"]

    @property
    def cost(self) -> dict[str, Evaluations]:
        return dict.fromkeys(("encode", "step", "refine"), Evaluations(0, 0))


class Pgd(ClassTarget, _Pgd):
    """PGD to the reference value's class, all steps made."""

    name = "pgd"
    options = PgdConfig
    config: PgdConfig  # type: ignore[assignment]
    stops_early = False


class PgdRe(RegressionTarget, _Pgd):
    """PGD to a reference value."""

    name = "pgd-re"
    options = PgdReConfig
