"""Backends with planted faults, for the tests of the gates. Each is eager with one thing wrong."""

import torch
from torch import Tensor, nn

from backends.base import BackendError
from backends.eager import EagerBackend


class _Wrapped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class RoundedBackend(EagerBackend):
    """Weights with 5 bits of mantissa."""

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        built = super().build(name, network, example_inputs)
        for parameter in built.parameters():
            mantissa, exponent = torch.frexp(parameter.data)
            parameter.data = torch.ldexp(torch.round(mantissa * 32) / 32, exponent)
        return built


class _Black(_Wrapped):
    def forward(self, *inputs: Tensor) -> Tensor:
        return 0 * self.network(*inputs)


class BlackBackend(EagerBackend):
    """Black outputs."""

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        return _Black(super().build(name, network, example_inputs))


class _Swapped(_Wrapped):
    def forward(self, *inputs: Tensor) -> Tensor:
        out = self.network(*inputs)
        return out[:, [2, 1, 0, *range(3, out.shape[1])]] if out.ndim == 4 else out


class SwappedBackend(EagerBackend):
    """Red and blue exchanged in every image that a network returns."""

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        return _Swapped(super().build(name, network, example_inputs))


class _Cached(_Wrapped):
    first: Tensor | None = None

    def forward(self, *inputs: Tensor) -> Tensor:
        out = self.network(*inputs)
        if self.first is None:
            self.first = out.detach()
        return self.first + 0 * out


class CachedBackend(EagerBackend):
    """The first result of a network, again and again."""

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        return _Cached(super().build(name, network, example_inputs))


class _Racing(_Wrapped):
    calls = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        self.calls += 1
        out = self.network(*inputs)
        return out * 1.01 if self.calls % 13 == 0 else out


class RacingBackend(EagerBackend):
    """Every 13th call of a network is wrong by 1 %, as where threads race."""

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        return _Racing(super().build(name, network, example_inputs))


class _Overflowing(_Wrapped):
    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs) * torch.inf


class OverflowingBackend(EagerBackend):
    """Infinite outputs."""

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        return _Overflowing(super().build(name, network, example_inputs))


class RefusingBackend(EagerBackend):
    """Cannot build anything."""

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        raise BackendError(f"{name} cannot be built")


class _Twice(_Wrapped):
    def forward(self, *inputs: Tensor) -> Tensor:
        return (self.network(*inputs) + self.network(*inputs)) / 2


class SlowBackend(EagerBackend):
    """The right result at twice the price."""

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        return _Twice(super().build(name, network, example_inputs))


class FlaggedBackend(EagerBackend):
    """Says that its timings are not to be trusted."""

    def check(self) -> None:
        self.report.flags.append("recompiled after warm-up")


FAULTY = {
    name: f"tests.faulty_backends:{name.capitalize()}Backend"
    for name in ("rounded", "black", "swapped", "cached", "racing", "overflowing", "refusing", "slow", "flagged")
}
"""For BACKENDS."""
