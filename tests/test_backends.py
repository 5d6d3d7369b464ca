"""Conformance of every registered backend, against float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from backends import BACKENDS
from backends.base import Backend, BackendError
from backends.compiled import CompileBackend, CompileConfig
from bench.registry import resolve
from tests.conftest import CPU, SIZE

SLOTS = 2


def make(name: str, **options: object) -> Backend:
    cls = resolve(BACKENDS, name, "backend")
    return cls(cls.options(**options), CPU)


def inputs_for(network: str) -> tuple[Tensor, ...]:
    image = torch.linspace(-1, 1, SLOTS * 3 * SIZE * SIZE).reshape(SLOTS, 3, SIZE, SIZE)
    if network == "regressor":
        return (image,)
    time = torch.tensor([5, 80])
    return (image, time) if network == "ddpm" else (image, time, torch.linspace(-0.3, 0.3, SLOTS * 8).reshape(SLOTS, 8))


def forward_and_gradients(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
    inputs = tuple(x.clone().requires_grad_(True) if x.is_floating_point() else x for x in inputs)
    out = network(*inputs)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return out.detach(), list(torch.autograd.grad((out * weight).sum(), [x for x in inputs if x.is_floating_point()]))


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize("network", ["ddpm", "diffae", "regressor"])
def test_forward_and_gradients_agree_with_float64(backend: str, network: str, networks: dict[str, nn.Module]) -> None:
    original = networks[network]
    before = {key: value.clone() for key, value in original.state_dict().items()}
    inputs = inputs_for(network)
    prepared = make(backend).prepare(network, original, inputs)
    exact = copy.deepcopy(original).double()
    expected, expected_gradients = forward_and_gradients(
        exact, tuple(x.double() if x.is_floating_point() else x for x in inputs)
    )
    out, gradients = forward_and_gradients(prepared, inputs)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert (gradient.double() - reference).abs().max() <= 1e-4 * reference.abs().max()
    with torch.no_grad():
        torch.testing.assert_close(prepared(*inputs), out, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in original.state_dict().items())
    assert all(parameter.grad is None for parameter in prepared.parameters())


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_networks_that_are_not_frozen_are_refused(backend: str) -> None:
    network = nn.Conv2d(3, 1, 1)
    with pytest.raises(BackendError, match="training mode"):
        make(backend).prepare("x", network, (torch.zeros(1, 3, 4, 4),))
    with pytest.raises(BackendError, match="require gradients"):
        make(backend).prepare("x", network.eval(), (torch.zeros(1, 3, 4, 4),))


def test_compile_builds_one_graph_and_proves_it(networks: dict[str, nn.Module]) -> None:
    backend = make("compile")
    inputs = inputs_for("regressor")
    prepared = backend.prepare("regressor", networks["regressor"], inputs)
    forward_and_gradients(prepared, inputs)
    with torch.no_grad():
        prepared(*inputs)
    backend.check()
    facts = backend.report.networks["regressor"]
    assert facts["graphs"] == 1
    assert facts["build_seconds"] > 0
    prepared(torch.zeros(SLOTS + 1, 3, SIZE, SIZE))
    with pytest.raises(BackendError, match="a shape changed"):
        backend.check()


def test_compile_refuses_a_graph_break() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(BackendError, match="cannot be compiled to one graph"):
        make("compile").prepare("denoiser", Branching().eval(), (torch.ones(1, 3, 4, 4),))


def test_compile_with_checkpointing_gives_the_same_gradient(networks: dict[str, nn.Module]) -> None:
    inputs = inputs_for("regressor")
    results = []
    for checkpointing in (False, True):
        prepared = make("compile", checkpointing=checkpointing).prepare("r", networks["regressor"], inputs)
        results.append(forward_and_gradients(prepared, inputs))
    torch.testing.assert_close(results[0], results[1])


def test_half_precision_on_a_cpu_is_refused() -> None:
    backend = CompileBackend(CompileConfig(precision="float16"), CPU)
    with pytest.raises(BackendError, match="compile.precision=float16"):
        backend.prepare("r", nn.Identity().eval(), (torch.zeros(1),))
