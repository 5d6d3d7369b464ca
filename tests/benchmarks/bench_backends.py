"""One denoiser call, its pull-back, and the phases of both methods, on every backend."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backends import BACKENDS
from methods.base import Method
from methods.diffusion.ddpm import network_time
from tests.benchmarks.conftest import DEVICE, OPTIONS, SLOTS, prepared, square_batch

Timed = Callable[[Callable[[], object]], None]

every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_method = pytest.mark.parametrize("method", OPTIONS)


def denoiser_inputs(method: Method) -> tuple[Tensor, ...]:
    """A noisy image, its time and, for a conditioned network, a code."""
    image = square_batch().image * 2 - 1
    if method.name == "ac-re":
        return (image, network_time(method.schedule, 4, SLOTS, DEVICE))
    with torch.no_grad():
        return (image, network_time(method.decoding, 4, SLOTS, DEVICE), method.encoder(image))


@every_method
@every_backend
@pytest.mark.benchmark(group="denoiser, forward")
def bench_forward(backend: str, method: str, timed: Timed) -> None:
    prepared_method = prepared(backend, method)
    inputs = denoiser_inputs(prepared_method)
    with torch.no_grad():
        timed(lambda: prepared_method.denoiser(*inputs))


@every_method
@every_backend
@pytest.mark.benchmark(group="denoiser, forward and pull-back")
def bench_pull_back(backend: str, method: str, timed: Timed) -> None:
    prepared_method = prepared(backend, method)
    inputs = denoiser_inputs(prepared_method)

    def pull_back() -> Tensor:
        point = inputs[0].detach().requires_grad_(True)
        return torch.autograd.grad(prepared_method.denoiser(point, *inputs[1:]).sum(), point)[0]

    timed(pull_back)


@every_method
@every_backend
@pytest.mark.benchmark(group="search step")
def bench_step(backend: str, method: str, timed: Timed) -> None:
    prepared_method = prepared(backend, method)
    state = prepared_method.encode(square_batch(), lambda done, total: None)
    timed(lambda: prepared_method.step(state))


@every_backend
@pytest.mark.benchmark(group="encoding of Diff-AE-RE, 10 inversion steps")
def bench_inversion(backend: str, timed: Timed) -> None:
    method = prepared(backend, "diffae-re")
    timed(lambda: method.encode(square_batch(), lambda done, total: None))


@every_backend
@pytest.mark.benchmark(group="refinement of AC-RE")
def bench_refinement(backend: str, timed: Timed) -> None:
    method = prepared(backend, "ac-re")
    state = method.encode(square_batch(), lambda done, total: None)
    moved = method.step(state).state
    timed(lambda: method.refine(moved))
