"""The reference backend: plain PyTorch, float32."""

import torch
from torch import Tensor, nn

from backends.base import Backend, BackendConfig, frozen_copy
from backends.checkpointing import CheckpointedNetwork, Checkpointing, needs_checkpointing, stored_bytes


class EagerConfig(BackendConfig):
    """Options of the eager backend.

    Attributes:
        checkpointing: recompute each network call in the backward pass instead of storing its activations; "auto":
            when those of one search step would take more than half of the memory at hand.
    """

    checkpointing: Checkpointing = "auto"


class EagerBackend(Backend):
    """Runs the network as it is written."""

    name = "eager"
    options = EagerConfig
    config: EagerConfig

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        stored = stored_bytes(frozen_copy(network, torch.device("meta")), example_inputs) * self.calls.get(name, 1)
        checkpointing = needs_checkpointing(self.config.checkpointing, stored, self.device)
        self.report.networks[name] = {
            "dtype": str(torch.float32),
            "checkpointing": checkpointing,
            "stored_mib_per_step": round(stored / 2**20, 1),
        }
        copied = frozen_copy(network, self.device)
        return CheckpointedNetwork(copied) if checkpointing else copied
