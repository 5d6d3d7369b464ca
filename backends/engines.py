"""What engine backends share: an engine behind an ordinary differentiable module, and proof that it is right."""

import math
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from backends.base import BackendError

GOLDEN = "golden.npz"
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}


class Engine(ABC):
    """A network and its pull-back, built for static shapes; tensors are contiguous and on its device."""

    @abstractmethod
    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The output."""

    @abstractmethod
    def forward_saving(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, object]:
        """The output, and what `backward` needs besides the inputs."""

    @abstractmethod
    def backward(self, inputs: tuple[Tensor, ...], residuals: object, grad_out: Tensor) -> dict[int, Tensor]:
        """The gradient of each floating-point input, by its index."""


class _EngineStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, engine: Engine, *inputs: Tensor) -> Tensor:
        output, residuals = engine.forward_saving(inputs)
        ctx.save_for_backward(*inputs)
        ctx.engine, ctx.residuals = engine, residuals
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.engine.backward(ctx.saved_tensors, ctx.residuals, grad_out.contiguous())
        wanted = ctx.needs_input_grad[1:]
        return None, *(gradients.get(index) if flag else None for index, flag in enumerate(wanted))


class EngineNetwork(nn.Module):
    """An engine with the call signature of its network; takes and returns float32."""

    def __init__(self, name: str, engine: Engine, example_inputs: tuple[Tensor, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.name, self.engine, self.dtype = name, engine, dtype
        self.signature = [(tuple(x.shape), x.dtype) for x in example_inputs]

    def forward(self, *inputs: Tensor) -> Tensor:
        given = [(tuple(x.shape), x.dtype) for x in inputs]
        if given != self.signature:
            raise BackendError(f"{self.name} was built for {_text(self.signature)} but called with {_text(given)}")
        inputs = tuple(x.to(self.dtype).contiguous() if x.is_floating_point() else x.contiguous() for x in inputs)
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            return _EngineStep.apply(self.engine, *inputs).float()
        return self.engine.forward(inputs).float()


def _text(signature: list[tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(f"{'x'.join(map(str, shape)) or 'scalar'} {dtype}" for shape, dtype in signature)


def _wave(like: Tensor, frequency: float) -> Tensor:
    """Values in [-1, 1] that differ everywhere."""
    return torch.sin(torch.arange(like.numel(), dtype=torch.float64) * frequency).reshape(like.shape).float()


def golden_inputs(example_inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Fixed inputs of the shapes of the examples; integers, such as timesteps, are taken as they are."""
    return tuple(_wave(x, 0.37).to(x) if x.is_floating_point() else x for x in example_inputs)


def forward_and_gradients(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """[output without gradients, output, gradient of each floating-point input] for a fixed output gradient."""
    with torch.no_grad():
        plain = network(*inputs)
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    output = network(*leaves)
    wanted = [x for x in leaves if x.requires_grad]
    gradients = torch.autograd.grad(output, wanted, _wave(output, 0.61).to(output), materialize_grads=True)
    return [plain, output.detach(), *gradients]


def relative_deviation(values: list[Tensor], expected: list[Tensor]) -> float:
    """Largest |difference|, each tensor's in units of its largest absolute value; infinite where not finite."""
    worst = 0.0
    for value, reference in zip(values, expected, strict=True):
        scale = reference.abs().max().item() or 1.0
        deviation = (value.to(reference) - reference).abs().max().item() / scale
        worst = max(worst, deviation if math.isfinite(deviation) else math.inf)
    return worst


def repeatability(network: nn.Module, inputs: tuple[Tensor, ...], repeats: int = 50) -> float:
    """Largest relative deviation of output and gradients from the first of `repeats` runs; 0 is bit-equal.

    An engine with a race is right most of the time: one wrong call in twenty is seen in 50 runs in 92 % of
    cases, so the bound on the number is not generous.
    """
    first = forward_and_gradients(network, inputs)
    return max(relative_deviation(forward_and_gradients(network, inputs), first) for _ in range(repeats - 1))


def write_golden(folder: Path, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
    """Keep what PyTorch computes for the golden inputs next to the engine's files.

    Args:
        network: the frozen float32 network itself, on the device of the examples.
    """
    values = forward_and_gradients(network, golden_inputs(example_inputs))
    # Another start may come with other examples: its timesteps are not those of these values.
    integers = {f"input_{i}": x.cpu().numpy() for i, x in enumerate(example_inputs) if not x.is_floating_point()}
    np.savez(folder / GOLDEN, *[value.cpu().numpy() for value in values], **integers)


def check_golden(folder: Path, network: EngineNetwork, example_inputs: tuple[Tensor, ...], hit: bool) -> float:
    """Compare an engine with the golden outputs in its cache entry.

    Returns:
        The largest relative deviation.

    Raises:
        BackendError: it is more than rounding: 1e-3 in float32, 5e-2 in float16.
    """
    with np.load(folder / GOLDEN) as stored:
        expected = [torch.from_numpy(stored[key]) for key in stored.files if key.startswith("arr_")]
        examples = tuple(
            torch.from_numpy(stored[f"input_{i}"]).to(x) if f"input_{i}" in stored.files else x
            for i, x in enumerate(example_inputs)
        )
    values = [value.cpu() for value in forward_and_gradients(network, golden_inputs(examples))]
    deviation = relative_deviation(values, expected)
    if not deviation <= _TOLERANCE[network.dtype]:
        cure = f"delete {folder} and run again" if hit else "use backend eager or compile for it"
        raise BackendError(
            f"{network.name}: the engine in {folder} deviates from the golden outputs {folder / GOLDEN} by "
            f"{deviation:.1e} of their largest value; {cure}"
        )
    return deviation
