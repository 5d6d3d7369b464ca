"""Gradient checkpointing of a frozen network's calls, and when it is needed."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from backends.memory import available_memory

Checkpointing = Literal["auto", "on", "off"]
_MEMORY_SHARE = 0.5
"""With "auto", activations may take this share of the memory at hand."""


class Recomputed(torch.autograd.Function):
    """Only the inputs are kept, the call is repeated in the backward pass.

    torch.utils.checkpoint does the same through hooks, under which Dynamo compiles a second graph.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(*inputs)
        return run(*inputs).detach()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in ctx.saved_tensors]
        wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad[1:], strict=True) if needed]
        with torch.enable_grad():
            out = ctx.run(*inputs)
        grads = iter(torch.autograd.grad(out, wanted, grad))
        return None, *(next(grads) if needed else None for needed in ctx.needs_input_grad[1:])


class CheckpointedNetwork(nn.Module):
    """A network whose calls are repeated in the backward pass instead of storing their activations."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
            return self.network(*inputs)
        return Recomputed.apply(self.network, *inputs)


def stored_bytes(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> int:
    """Bytes that autograd keeps for the gradient of one call; counted, nothing is computed.

    Args:
        network: frozen, on the meta device.
        example_inputs: of the shapes of every call, on any device.
    """
    weights = {StorageWeakRef(p.untyped_storage()) for p in (*network.parameters(), *network.buffers())}
    kept: dict[StorageWeakRef, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if StorageWeakRef(storage) not in weights:
            kept[StorageWeakRef(storage)] = storage.nbytes()
        return tensor

    inputs = [x.detach().to("meta").requires_grad_(x.is_floating_point()) for x in example_inputs]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = network(*inputs)
    del out  # until here it keeps what was noted alive, so that no storage is taken for another
    return sum(kept.values())


def needs_checkpointing(asked: Checkpointing, stored: int, device: torch.device) -> bool:
    """Whether to recompute: as asked, or where `stored` bytes take more than half of the memory at hand."""
    if asked != "auto":
        return asked == "on"
    return stored > _MEMORY_SHARE * available_memory(device)
