"""Conformance of every registered backend, against float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from backends import BACKENDS
from backends.base import Backend, BackendError
from backends.compiled import CompileBackend, CompileConfig, native_bfloat16
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


# Largest error of the output and of the gradient, relative to the largest value, and the least cosine.
FLOAT32, HALF = (1e-4, 0.999999), (0.15, 0.99)  # random small networks amplify rounding; trained ones do not


def faithful() -> list[str]:
    """Backends that can run here and mean to equal the reference."""
    classes = {name: resolve(BACKENDS, name, "backend") for name in sorted(BACKENDS)}
    return [name for name, cls in classes.items() if cls.faithful and cls.unavailable() is None]


def assert_near(value: Tensor, exact: Tensor, dtype: str) -> None:
    largest, cosine = FLOAT32 if dtype == "torch.float32" else HALF
    value = value.double()
    assert torch.isfinite(value).all()
    assert (value - exact).abs().max() <= largest * exact.abs().max()
    assert torch.cosine_similarity(value.flatten(), exact.flatten(), dim=0) >= cosine


@pytest.mark.parametrize("backend", faithful())
@pytest.mark.parametrize("network", ["ddpm", "diffae", "regressor"])
def test_forward_and_gradients_agree_with_float64(backend: str, network: str, networks: dict[str, nn.Module]) -> None:
    original = networks[network]
    before = {key: value.clone() for key, value in original.state_dict().items()}
    inputs, runner = inputs_for(network), make(backend)
    prepared = runner.prepare(network, original, inputs)
    dtype = str(runner.report.networks[network]["dtype"])
    exact = copy.deepcopy(original).double()
    expected, expected_gradients = forward_and_gradients(
        exact, tuple(x.double() if x.is_floating_point() else x for x in inputs)
    )
    out, gradients = forward_and_gradients(prepared, inputs)
    assert out.dtype == torch.float32
    assert out.shape == expected.shape
    assert_near(out, expected, dtype)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert_near(gradient, reference, dtype)
    with torch.no_grad():
        torch.testing.assert_close(prepared(*inputs), out, rtol=1e-5, atol=1e-5)
    runner.check()
    assert runner.report.flags == []
    assert all(torch.equal(value, before[key]) for key, value in original.state_dict().items())
    assert all(parameter.grad is None for parameter in prepared.parameters())


@pytest.mark.parametrize("backend", faithful())
def test_a_sample_that_is_not_finite_stays_alone(backend: str, networks: dict[str, nn.Module]) -> None:
    image, time = inputs_for("ddpm")
    prepared = make(backend).prepare("ddpm", networks["ddpm"], (image, time))
    clean, _ = forward_and_gradients(prepared, (image, time))
    broken = image.clone()
    broken[0, 0, 0, 0] = float("nan")
    out, (gradient,) = forward_and_gradients(prepared, (broken, time))
    assert torch.isnan(out[0]).any()
    torch.testing.assert_close(out[1], clean[1])
    assert torch.isfinite(gradient[1]).all()


@pytest.mark.parametrize("backend", faithful())
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
    assert facts["graph_breaks"] == 0
    assert facts["build_seconds"] > 0
    assert backend.report.flags == []
    prepared(torch.zeros(SLOTS + 1, 3, SIZE, SIZE))
    backend.check()
    backend.check()
    assert len(backend.report.flags) == 1
    assert "a shape changed" in backend.report.flags[0]


def test_a_second_build_comes_from_the_cache(networks: dict[str, nn.Module]) -> None:
    inputs = inputs_for("regressor")
    for _ in range(2):
        backend = make("compile")
        backend.prepare("regressor", networks["regressor"], inputs)
    assert backend.report.networks["regressor"]["cache"] == "hit"


@pytest.mark.parametrize("network", ["ddpm", "diffae", "regressor"])
@pytest.mark.parametrize("name", ["eager", "compile"])
def test_checkpointing_gives_the_same_gradient(name: str, network: str, networks: dict[str, nn.Module]) -> None:
    inputs = inputs_for(network)
    results = []
    for checkpointing in ("off", "on"):
        backend = make(name, checkpointing=checkpointing)
        results.append(forward_and_gradients(backend.prepare(network, networks[network], inputs), inputs))
        assert backend.report.networks[network]["checkpointing"] is (checkpointing == "on")
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", ["eager", "compile"])
def test_checkpointing_is_chosen_by_the_memory_at_hand(
    name: str, networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, chosen = inputs_for("ddpm"), []
    trial = make(name)
    trial.prepare("ddpm", networks["ddpm"], inputs)
    stored = trial.report.networks["ddpm"]["stored_mib_per_step"] * 2**20
    for calls in (1, 5):
        backend = make(name)
        monkeypatch.setattr("backends.checkpointing.available_memory", lambda device, room=3 * stored: room / 0.5)
        backend.prepare("ddpm", networks["ddpm"], inputs, calls)
        chosen.append(backend.report.networks["ddpm"]["checkpointing"])
    assert chosen == [False, True], backend.report


@pytest.mark.skipif(not native_bfloat16(), reason="this CPU has no bfloat16 instructions")
def test_bfloat16_is_used_where_it_is_native_and_not_for_the_regressor(networks: dict[str, nn.Module]) -> None:
    backend = make("compile")
    backend.prepare("denoiser", networks["ddpm"], inputs_for("ddpm"))
    backend.prepare("regressor", networks["regressor"], inputs_for("regressor"))
    facts = backend.report.networks
    assert facts["denoiser"]["dtype"] == "torch.bfloat16"
    assert facts["denoiser"]["fused_norms"] > 10
    assert facts["denoiser"]["residual"] == "torch.bfloat16"
    assert facts["denoiser"]["fused_norm_kernel"] == "C++"
    assert facts["regressor"]["dtype"] == "torch.float32"


@pytest.mark.skipif(not native_bfloat16(), reason="this CPU has no bfloat16 instructions")
def test_a_network_with_a_condition_keeps_its_residual_stream_in_float32(networks: dict[str, nn.Module]) -> None:
    backend = make("compile")
    backend.prepare("denoiser", networks["diffae"], inputs_for("diffae"))
    assert backend.report.networks["denoiser"]["residual"] == "torch.float32"


def test_bfloat16_on_a_cpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert CompileBackend(CompileConfig(), CPU).precision("denoiser") == torch.float32
    with pytest.raises(BackendError, match="compile.precision=bfloat16: this CPU has no"):
        CompileBackend(CompileConfig(precision="bfloat16"), CPU).precision("denoiser")


def test_half_precision_on_a_cpu_is_refused() -> None:
    backend = CompileBackend(CompileConfig(precision="float16"), CPU)
    with pytest.raises(BackendError, match="compile.precision=float16"):
        backend.prepare("denoiser", nn.Identity().eval(), (torch.zeros(1),))
