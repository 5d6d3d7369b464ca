"""The contract between the search engine and the methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from backends.base import Backend

State = dict[str, Tensor]
"""What a method knows of the samples in its slots: tensors whose first dimension is the slot."""

Report = Callable[[int, int], None]
"""Called with (done, total) inside long phases."""


class MethodConfig(BaseModel):
    """Options of a method; every constant of its algorithm is a field, paper settings are the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    tolerance: float = Field(0.05, ge=0)
    """The search stops at |r - target| <= tolerance (paper, section 4)."""
    max_steps: int = Field(100, ge=1)
    """Optimisation steps at most."""


@dataclass(frozen=True)
class Batch:
    """Samples to encode.

    Attributes:
        ids: names the noise depends on.
        image: float32 (B, C, H, W) in [0, 1].
        target: float32 (B,), the reference values.
    """

    ids: tuple[str, ...]
    image: Tensor
    target: Tensor


class Evaluations(NamedTuple):
    """Denoiser calls a sample: forward, and backward (pull-back to the input)."""

    forward: int
    backward: int

    def __add__(self, other: object) -> "Evaluations":
        if not isinstance(other, Evaluations):
            return NotImplemented
        return Evaluations(self.forward + other.forward, self.backward + other.backward)

    def times(self, count: int) -> "Evaluations":
        """The cost of `count` repetitions."""
        return Evaluations(self.forward * count, self.backward * count)


class StepResult(NamedTuple):
    """One optimisation step of every slot.

    Attributes:
        state: the next state; a slot that reached its target is unchanged but for its output.
        prediction: r at the point the step started from, or of the best candidate so far where the method
            keeps one; float32 (B,).
        done: bool (B,), slots whose search is over: the stopping rule is met, or there is nothing left to gain.
    """

    state: State
    prediction: Tensor
    done: Tensor


class Confirmation(NamedTuple):
    """The second look at finished counterfactuals.

    Attributes:
        accepted: bool (B,); the others go on searching from `state`.
        state: as given, but for what the rejected ones have to do differently.
    """

    accepted: Tensor
    state: State


class Method(ABC):
    """A search written for B slots, without Python branches on data.

    Nothing is reduced over slots: losses are sums of per-sample losses, so a sample's result does not
    depend on its neighbours. Every state holds "target" (B,) and "step" int64 (B,).

    Attributes:
        name: as in `--method`.
        options: the config class.
        networks: names of the networks it needs, besides the regressor.
        image_shape: (C, H, W) of the images, where the harness knows it.
    """

    name: str
    options: type[MethodConfig] = MethodConfig
    networks: tuple[str, ...] = ()

    def __init__(
        self, config: MethodConfig, seed: int, device: torch.device, image_shape: tuple[int, int, int] | None = None
    ) -> None:
        self.config, self.seed, self.device, self.image_shape = config, seed, device, image_shape

    @classmethod
    def roles(cls, config: MethodConfig) -> tuple[str, ...]:
        """Networks that it needs with these options, besides the regressor."""
        return cls.networks

    @abstractmethod
    def check(self, networks: Mapping[str, nn.Module]) -> None:
        """Raise ValueError when the options do not fit these networks; runs nothing."""

    @abstractmethod
    def prepare(self, networks: Mapping[str, nn.Module], backend: Backend, slots: int) -> None:
        """Hand every network to the backend, with the shapes it will see."""

    @abstractmethod
    def encode(self, batch: Batch, report: Report) -> State:
        """The initial state of new samples, without gradients.

        Of the target it holds nothing that `retarget` does not replace: several values of an image share one encoding.
        """

    @abstractmethod
    def step(self, state: State) -> StepResult:
        """One optimisation step of every slot."""

    @abstractmethod
    def refine(self, state: State) -> Tensor:
        """The counterfactuals of finished samples, (B, C, H, W) in [0, 1], without gradients."""

    @torch.no_grad()
    def confirm(self, state: State, image: Tensor) -> Confirmation:
        """Look at refined counterfactuals once more, before they are saved.

        As in the published code, none is rejected unless a method says otherwise.

        Args:
            image: what `refine` returned.
        """
        return Confirmation(torch.ones(len(image), dtype=torch.bool, device=image.device), state)

    @torch.no_grad()
    def reconstruct(self, state: State) -> Tensor:
        """What the method's generator makes of the unchanged image, (B, C, H, W) in [0, 1], without gradients.

        The image itself unless a method says otherwise: where there is no generator, nothing is reconstructed.

        Args:
            state: as `encode` returned it.
        """
        return state["original"]

    def retarget(self, state: State, target: Tensor) -> State:
        """Go on from solved samples to other reference values.

        Args:
            target: float32 (B,).
        """
        return state | {"target": target, "step": torch.zeros_like(state["step"])}

    @property
    @abstractmethod
    def cost(self) -> dict[str, Evaluations]:
        """Denoiser calls a sample of "encode", "step" and "refine" (`refine` and `confirm` together)."""


def blank_images(denoiser: nn.Module, slots: int, device: torch.device) -> Tensor:
    """Black images of the shape that a generative network takes, (slots, C, H, W).

    Args:
        denoiser: its `config` has `in_channels` and `image_size`.
    """
    size = denoiser.config.image_size
    return torch.zeros(slots, denoiser.config.in_channels, size, size, device=device)


def reached(prediction: Tensor, target: Tensor, tolerance: float) -> Tensor:
    """bool (B,): the stopping rule; never true for NaN."""
    return (prediction - target).abs() <= tolerance


def clipped(image: Tensor) -> Tensor:
    """The image clipped to [0, 1] in value only, with the gradient of the identity."""
    return image + (image.clamp(0, 1) - image).detach()


def quantised(image: Tensor) -> Tensor:
    """The image as it will be saved, in 8 bits: clipped and rounded in value, with the gradient of the identity."""
    return image + ((image.clamp(0, 1) * 255).round() / 255 - image).detach()


def per_slot(flag: Tensor, like: Tensor) -> Tensor:
    """(B,) shaped to broadcast over `like`."""
    return flag.view(-1, *[1] * (like.ndim - 1))
