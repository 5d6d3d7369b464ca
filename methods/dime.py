"""DiME: diffusion models for counterfactual explanations (Jeanneret et al. 2022).

The image is noised to depth tau and denoised again, with the mean of every reverse step moved against the gradient
of a loss (section 3). A classifier knows nothing of noisy images, so the gradient is taken at a clean image x_t
that belongs to the noisy one, z_t, and passed on as grad / sqrt(alpha_bar_t):

    mu(z_t) - Sigma(z_t) * (scale * grad L(x_t) / sqrt(alpha_bar_t) + lambda_1 * grad |z_t - x_0|_1)

"nested" makes x_t as published, by denoising z_t to the end without guidance: tau (tau + 1) / 2 network calls an
attempt. "one-shot" takes the x_0 that the last call predicted, after FastDiME (Weng et al. 2024): tau calls. Attempts
are made with one guidance scale after the other (8, 10, 15) until one reaches the target; the last one stands.

Here every call of the denoiser is one step of the search, whether it belongs to z_t or to making x_t, and every slot
has its own place in this plan. So no slot waits for another's attempt.

What differs from the published code: it noises to level tau and starts denoising as if that were level tau - 1, while
both are the same here; and the perceptual loss on VGG-19 features, whose weights are not part of this project, is
left out.
"""

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from backends.base import Backend
from methods import noise
from methods.base import Batch, Evaluations, MethodConfig, Report, State, StepResult, blank_images, per_slot
from methods.diffusion import ddpm
from methods.diffusion.per_slot import Tables, at, p_mean_variance
from methods.diffusion.schedule import Schedule
from methods.distance import Norm
from methods.targets import ClassTarget, ClassTargetConfig, Judgement, Judging, RegressionTarget


class GuidanceConfig(MethodConfig):
    """Defaults: the published ones (test.sh), tau = 60 of 200 steps.

    Attributes:
        max_steps: denoiser calls at most; all attempts have to fit.
        respacing: the process is respaced to this many steps.
        depth: tau, how many of them are used.
        clean: how x_t is made, "nested" or "one-shot".
        scales: guidance scales, one an attempt.
        distance: of z_t to the original: "l1", or "l2", the sum over pixels of the norm over channels.
        distance_weight: its factor; images are in [-1, 1] here.
    """

    max_steps: int = Field(3 * (60 * 61 // 2 + 1), ge=1)
    respacing: str = "200"
    depth: int = Field(60, ge=1)
    clean: Literal["nested", "one-shot"] = "nested"
    scales: tuple[float, ...] = Field((8.0, 10.0, 15.0), min_length=1)
    distance: Norm = "l1"
    distance_weight: float = Field(0.05, ge=0)

    @property
    def calls(self) -> int:
        """Search steps of all attempts: denoiser calls, and one an attempt that looks at what came out."""
        calls = self.depth * (self.depth + 1) // 2 if self.clean == "nested" else self.depth
        return len(self.scales) * (calls + 1)

    @model_validator(mode="after")
    def _everything_fits(self) -> Self:
        if self.calls > self.max_steps:
            raise ValueError(
                f"max_steps {self.max_steps} is less than the {self.calls} steps of {len(self.scales)} attempts with "
                f"depth {self.depth}; raise it, or take a smaller depth or clean=one-shot"
            )
        return self


class DimeConfig(GuidanceConfig, ClassTargetConfig):
    """The same, and the options of the class."""


class DimeReConfig(GuidanceConfig):
    """The same, and the weight of the regression loss.

    Attributes:
        loss_weight: factor on (r - target)^2, before the guidance scale; 100 makes it the squared error of the logit
            that `ClassTargetConfig` reads from r, so that both forms of the method are guided about as strongly.
    """

    loss_weight: float = Field(100.0, gt=0)


class _Dime(Judging):
    """Where a slot is: `level`, the next guided step (-1 when the attempt is over), and `inner`, the next step of
    making x_t (-1 when x_t is ready).

    State: these, attempt, call (counts noise draws), original, source and start (where attempts begin, clean and
    noised), z, x (x_t, or what it is being made from; the counterfactual in the end), keys, target, step (guided ones).
    """

    networks = ("ddpm",)
    config: GuidanceConfig
    denoiser: nn.Module
    schedule: Schedule
    tables: Tables
    scales: Tensor

    def check(self, networks: Mapping[str, nn.Module]) -> None:
        self.schedule = networks["ddpm"].config.schedule(self.config.respacing)
        if self.config.depth > len(self.schedule):
            raise ValueError(f"depth {self.config.depth} is more than the {len(self.schedule)} steps of respacing")

    def example(self, networks: Mapping[str, nn.Module], slots: int) -> Tensor:
        return blank_images(networks["ddpm"], slots, self.device)

    def prepare(self, networks: Mapping[str, nn.Module], backend: Backend, slots: int) -> None:
        self.check(networks)
        self.tables = Tables.of(self.schedule, self.device)
        self.scales = torch.tensor(self.config.scales, device=self.device)
        image = self.example(networks, slots)
        time = ddpm.network_time(self.schedule, 0, slots, self.device)
        self.denoiser = backend.prepare("denoiser", networks["ddpm"], (image, time))
        self.regressor = backend.prepare("regressor", networks["regressor"], (image,))

    @torch.no_grad()
    def encode(self, batch: Batch, report: Report) -> State:
        names = {"key": "steps", "start_key": "start", "reconstruct_key": "reconstruct"}
        keys = {
            key: noise.sample_keys(self.seed, batch.ids, f"{self.name}/{stream}", self.device)
            for key, stream in names.items()
        }
        count = torch.zeros(len(batch.ids), dtype=torch.int64, device=self.device)
        state = keys | {"original": batch.image, "target": batch.target, "call": count, "step": count.clone()}
        return state | self._beginning(ddpm.to_network(batch.image), keys["start_key"])

    def _beginning(self, source: Tensor, start_key: Tensor) -> State:
        """Before the first attempt, from images in [-1, 1]."""
        zero = torch.zeros_like(start_key)
        draw = noise.normal(start_key, zero, 1, source.shape[1:])[:, 0]
        start = ddpm.q_sample(self.schedule, source, self.config.depth - 1, draw)
        places = {"level": zero + self.config.depth - 1, "inner": zero - 1, "attempt": zero}
        return places | {"source": source, "start": start, "z": start.clone(), "x": source.clone()}

    def step(self, state: State) -> StepResult:
        clean = state["x"].detach().requires_grad_(True)
        judged = self.judge(ddpm.to_image(clean).clamp(0, 1), state["target"])
        gradient = torch.autograd.grad(judged.loss.sum(), clean)[0]
        over = state["level"] < 0
        done = over & (judged.reached | (state["attempt"] == len(self.scales) - 1))
        with torch.no_grad():
            again = self._restarted(state)
            moved = self._moved(state, gradient)
            update = {
                key: torch.where(per_slot(over, value), again[key], value).where(per_slot(~done, value), state[key])
                for key, value in moved.items()
            }
        return StepResult(state | update, judged.prediction, done)

    def _restarted(self, state: State) -> State:
        """The next attempt: the same noised image, a stronger guidance."""
        places = {"level": torch.full_like(state["level"], self.config.depth - 1), "attempt": state["attempt"] + 1}
        return state | places | {"z": state["start"], "x": state["source"], "call": state["call"] + 1}

    def _moved(self, state: State, gradient: Tensor) -> State:
        """One denoiser call: a guided step of z where x_t is ready, else a step of making x_t."""
        guided = state["inner"] < 0
        step = torch.where(guided, state["level"], state["inner"]).clamp(min=0)
        point = torch.where(per_slot(guided, gradient), state["z"], state["x"])
        reverse = p_mean_variance(self.denoiser, self.tables, point, step)
        guidance = self._guidance(state, gradient, step) * reverse.log_variance.exp()
        mean = reverse.mean - torch.where(per_slot(guided, guidance), guidance, 0.0)
        draw = noise.normal(state["key"], state["call"], 1, mean.shape[1:])[:, 0]
        sample = mean + torch.where(per_slot(step > 0, mean), (0.5 * reverse.log_variance).exp() * draw, 0.0)
        if self.config.clean == "one-shot":
            x, inner = torch.where(per_slot(step > 0, sample), reverse.pred_xstart, sample), state["inner"]
        else:
            x, inner = sample, step - 1
        return {
            "z": torch.where(per_slot(guided, sample), sample, state["z"]),
            "x": x,
            "level": state["level"] - guided.to(step.dtype),
            "inner": inner,
            "attempt": state["attempt"],
            "call": state["call"] + 1,
            "step": state["step"] + guided,
        }

    def _guidance(self, state: State, gradient: Tensor, step: Tensor) -> Tensor:
        """What the mean of z is moved against, over its variance."""
        scale = self.scales[state["attempt"]].view(-1, 1, 1, 1)
        guidance = scale * gradient / at(self.tables.signal, step)
        if self.config.distance == "none":
            return guidance
        moved = state["z"] - ddpm.to_network(state["original"])
        if self.config.distance == "l1":
            slope = moved.sign()
        else:
            slope = moved / moved.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return guidance + self.config.distance_weight * slope

    @torch.no_grad()
    def refine(self, state: State) -> Tensor:
        return ddpm.to_image(state["x"]).clamp(0, 1)

    @torch.no_grad()
    def reconstruct(self, state: State) -> Tensor:
        """The noised image, denoised without guidance under noise of its own."""
        x = state["start"]
        for level in reversed(range(self.config.depth)):
            step = torch.full_like(state["level"], level)
            reverse = p_mean_variance(self.denoiser, self.tables, x, step)
            draw = noise.normal(state["reconstruct_key"], step, 1, x.shape[1:])[:, 0]
            x = reverse.mean + (0.5 * reverse.log_variance).exp() * draw if level > 0 else reverse.mean
        return ddpm.to_image(x).clamp(0, 1)

    @torch.no_grad()
    def retarget(self, state: State, target: Tensor) -> State:
        # x is clean both where a search ended and where none has begun.
        return super().retarget(state, target) | self._beginning(state["x"], state["start_key"])

    @property
    def cost(self) -> dict[str, Evaluations]:
        return {"encode": Evaluations(0, 0), "step": Evaluations(1, 0), "refine": Evaluations(0, 0)}


class Dime(ClassTarget, _Dime):
    """DiME as published: the logit of the reference value's class."""

    name = "dime"
    options = DimeConfig
    config: DimeConfig  # type: ignore[assignment]

    def class_loss(self, margin: Tensor) -> Tensor:
        """The logit itself, as the published settings take it (`use_logits`): its gradient does not fade."""
        return -margin


class DimeRe(RegressionTarget, _Dime):
    """DiME for a reference value."""

    name = "dime-re"
    options = DimeReConfig
    config: DimeReConfig  # type: ignore[assignment]

    def judge(self, image: Tensor, target: Tensor) -> Judgement:
        judged = super().judge(image, target)
        return judged._replace(loss=self.config.loss_weight * judged.loss)
