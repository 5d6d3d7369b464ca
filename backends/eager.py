"""The reference backend: plain PyTorch, float32."""

import torch
from torch import Tensor, nn

from backends.base import Backend, frozen_copy


class EagerBackend(Backend):
    """Runs the network as it is written."""

    name = "eager"

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        self.report.networks[name] = {"dtype": str(torch.float32)}
        return frozen_copy(network, self.device)
