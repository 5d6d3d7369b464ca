"""A backend that computes nothing, so that what is left is the cost of the harness.

Its networks return their input in the shape of the real output. Counterfactuals made with it mean nothing.
"""

import math

import torch
from torch import Tensor, nn

from backends.base import Backend, frozen_copy


class _NullNetwork(nn.Module):
    """The first floating-point input, repeated or cropped to the output's shape; its mean where that is (B,).

    Other floating-point inputs enter with weight zero, so that every gradient exists.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, *inputs: Tensor) -> Tensor:
        first, *others = [x for x in inputs if x.is_floating_point()]
        flat = first.flatten(1)
        width = math.prod(self.shape)
        if self.shape:
            out = flat.repeat(1, -(-width // flat.shape[1]))[:, :width].reshape(-1, *self.shape)
        else:
            out = flat.mean(1)
        for other in others:
            out = out + 0 * other.flatten(1).sum(1).view(-1, *[1] * len(self.shape))
        return out


class NullBackend(Backend):
    """Returns the input; the output's shape is learnt from one real call."""

    name = "null"
    faithful = False

    @torch.no_grad()
    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        real = frozen_copy(network, self.device)(*example_inputs)
        self.report.networks[name] = {"dtype": str(torch.float32), "computes": "nothing"}
        return _NullNetwork(tuple(real.shape[1:])).eval()
