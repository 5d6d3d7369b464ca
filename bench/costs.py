"""Floating-point operations of a method's networks, counted on the eager networks; a multiply-add is two.

A method may have no denoiser, and may differentiate a classifier instead of the regressor.

Counted by PyTorch's FlopCounterMode (convolutions, matrix products and attention) on the meta device, so
nothing is computed. Backward is the pull-back to the inputs alone, as weights are frozen. It counts every
input's gradient; where a method needs fewer (the first decoding step of Diff-AE-RE) that is one small
convolution too many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from backends.base import Backend, BackendConfig, frozen_copy
from methods.base import Evaluations, Method, MethodConfig

_META = torch.device("meta")


class NetworkFlops(NamedTuple):
    """Floating-point operations of one call for one image."""

    forward: int
    backward: int


class _CountingBackend(Backend):
    """Counts what each network costs instead of running it."""

    name = "count"
    faithful = False

    def __init__(self) -> None:
        super().__init__(BackendConfig(), _META)
        self.flops: dict[str, NetworkFlops] = {}

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        copy = frozen_copy(network, _META)
        self.flops[name] = count_flops(copy, example_inputs)
        return copy


def count_flops(network: nn.Module, inputs: Sequence[Tensor]) -> NetworkFlops:
    """Operations of one call and of its pull-back to all floating-point inputs, for the batch of `inputs`.

    Args:
        network: frozen, on the device of `inputs`; the meta device computes nothing.
    """
    lifted = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    with FlopCounterMode(display=False) as forward:
        out = network(*lifted)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(out.sum(), [x for x in lifted if x.requires_grad], allow_unused=True)
    return NetworkFlops(forward.get_total_flops(), backward.get_total_flops())


@dataclass(frozen=True)
class MethodFlops:
    """What a method computes for one image.

    Attributes:
        networks: "regressor" and, where there is one, "denoiser", "encoder" and "classifier".
        cost: denoiser calls of "encode", "step" and "refine". Besides, a step calls the regressor forward and
            backward once (with a classifier, that one forward and backward and the regressor forward), and encoding
            calls the encoder.
    """

    networks: Mapping[str, NetworkFlops]
    cost: Mapping[str, Evaluations]

    @property
    def denoiser(self) -> NetworkFlops:
        """Of one denoiser call; nothing where there is no denoiser."""
        return self.networks.get("denoiser", NetworkFlops(0, 0))

    def _judging(self, again: int) -> int:
        """Operations of judging one step's image, whose forward pass is computed `again` times."""
        regressor, classifier = self.networks["regressor"], self.networks.get("classifier")
        if classifier is None:
            return again * regressor.forward + regressor.backward
        return regressor.forward + again * classifier.forward + classifier.backward

    def phase(self, phase: str, recomputed: bool = False) -> int:
        """Operations of one call of a phase; `recomputed` adds the second forward pass of checkpointing."""
        again = 2 if recomputed else 1
        denoiser, calls = self.denoiser, self.cost[phase]
        stored = calls.forward - calls.backward  # never pulled back, so never recomputed
        total = denoiser.forward * (stored + again * calls.backward) + denoiser.backward * calls.backward
        if phase == "step":
            total += self._judging(again)
        if phase == "encode" and "encoder" in self.networks:
            total += self.networks["encoder"].forward
        return total

    def total(
        self,
        forward_calls: Sequence[int],
        backward_calls: Sequence[int],
        recomputed: bool = False,
        iterations: Sequence[int] | None = None,
    ) -> int:
        """Operations of whole searches.

        A sample that continues from another one's solution was not encoded; its encoder call, one small network
        once, is counted all the same.

        Args:
            forward_calls, backward_calls: for every sample, its denoiser calls, as recorded.
            iterations: for every sample, the steps it was part of; without them they are taken from the pull-backs,
                which only methods that differentiate the denoiser have.

        Raises:
            ValueError: the steps are neither given nor to be had from pull-backs.
        """
        again = 1 if recomputed else 0
        forward, backward = sum(forward_calls), sum(backward_calls)
        denoiser = self.denoiser
        total = denoiser.forward * (forward + again * backward) + denoiser.backward * backward
        if iterations is None and self.cost["step"].backward == 0:
            raise ValueError("steps without pull-backs cannot be counted from denoiser calls; pass iterations")
        if iterations is None:
            steps = sum(max(0, calls - self.cost["encode"].backward) for calls in backward_calls)
            steps //= self.cost["step"].backward
        else:
            steps = sum(iterations)
        total += steps * self._judging(1 + again)
        return total + len(backward_calls) * (self.networks["encoder"].forward if "encoder" in self.networks else 0)


def method_flops(
    method: type[Method],
    options: MethodConfig,
    networks: Mapping[str, nn.Module],
    image_shape: tuple[int, int, int] | None = None,
) -> MethodFlops:
    """Count a method's networks for one image, with the shapes that the method gives them."""
    counter = _CountingBackend()
    instance = method(options, 0, _META, image_shape)
    instance.prepare(networks, counter, 1)
    return MethodFlops(counter.flops, instance.cost)


def recomputes(backend: Backend) -> bool | None:
    """Whether the backward pass computes the denoiser's forward pass again; None where the backend does not say.

    What the report says of the denoiser ("checkpointing") really ran; options are what was asked for. An engine
    without `residuals` has a gradient graph that repeats the forward pass.
    """
    facts: dict[str, Any] = backend.report.networks.get("denoiser", {})
    asked = backend.config.model_dump()
    if "residuals" in asked:
        return not asked["residuals"]
    value = facts.get("checkpointing", asked.get("checkpointing", False))
    return {"True": True, "on": True, "False": False, "off": False}.get(str(value))
