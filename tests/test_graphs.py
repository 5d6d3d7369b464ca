"""Captured graphs and their rewriting."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.base import BackendError
from backends.graphs.capture import capture, network_digest
from backends.graphs.decompositions import COMPILED_CPU_DECOMPOSITIONS, COMPILED_CUDA_DECOMPOSITIONS
from backends.graphs.norm_fusion import fuse_group_norm
from backends.graphs.precision import to_half
from backends.graphs.residuals import residual_bytes
from methods.noise import numpy_normal
from tests.conftest import ToyRegressor, randomise
from tests.test_backends import inputs_for

aten = torch.ops.aten


def targets(module: nn.Module) -> list[object]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("network", ["ddpm", "diffae", "regressor"])
@pytest.mark.parametrize("table", [COMPILED_CUDA_DECOMPOSITIONS, COMPILED_CPU_DECOMPOSITIONS])
def test_a_captured_network_computes_the_same(network: str, table: dict, networks: dict[str, nn.Module]) -> None:
    inputs = inputs_for(network)
    module = capture(network, networks[network], inputs, table)
    torch.testing.assert_close(module(*inputs), networks[network](*inputs), rtol=1e-5, atol=1e-5)
    assert not set(table) & set(targets(module))
    assert aten.dropout.default not in targets(module)


@pytest.mark.parametrize("network", ["ddpm", "diffae"])
def test_every_group_norm_is_fused_with_what_follows(network: str, networks: dict[str, nn.Module]) -> None:
    inputs = inputs_for(network)
    module = capture(network, networks[network], inputs, COMPILED_CPU_DECOMPOSITIONS)
    norms = targets(module).count(aten.group_norm.default)
    silus = targets(module).count(aten.silu.default)
    assert fuse_group_norm(module) == norms > 0
    assert aten.group_norm.default not in targets(module)
    fused = [n for n in module.graph.nodes if n.target is torch.ops.counterfactual.group_norm_silu.default]
    assert silus - targets(module).count(aten.silu.default) == sum(node.args[5] for node in fused) > 0
    torch.testing.assert_close(module(*inputs), networks[network](*inputs), rtol=1e-4, atol=1e-4)


class _Conditioned(nn.Module):
    """A norm whose result is scaled by something that is not constant over positions, and used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return F.silu(h * x) + F.silu(h)


def test_only_what_is_constant_over_positions_is_folded() -> None:
    x = torch.from_numpy(numpy_normal(5, (2, 4, 3, 3))).float()
    network = randomise(_Conditioned(), 6)
    module = capture("x", network, (x,), {})
    assert fuse_group_norm(module) == 1
    assert targets(module).count(aten.silu.default) == 2
    torch.testing.assert_close(module(x), network(x), rtol=1e-5, atol=1e-5)


def halved(networks: dict[str, nn.Module], residual: torch.dtype) -> tuple[Tensor, nn.Module]:
    inputs = inputs_for("diffae")
    module = capture("diffae", networks["diffae"], inputs, COMPILED_CPU_DECOMPOSITIONS)
    fuse_group_norm(module)
    to_half(module, torch.bfloat16, torch.bfloat16, residual)
    return module(*inputs), module


@pytest.mark.parametrize("residual", [torch.float32, torch.bfloat16])
def test_half_precision_keeps_schedule_arithmetic_in_float32(
    residual: torch.dtype, networks: dict[str, nn.Module]
) -> None:
    out, _ = halved(networks, residual)
    assert out.dtype == torch.float32  # eps = a v + b x, with float32 a, b and x
    exact = networks["diffae"](*inputs_for("diffae"))
    assert 0 < (out - exact).norm() < 0.03 * exact.norm()


def test_embeddings_and_the_first_convolution_stay_float32(networks: dict[str, nn.Module]) -> None:
    kept = {}
    for residual in (torch.float32, torch.bfloat16):
        _, module = halved(networks, residual)
        weights = [
            (node.target, getattr(module, node.args[1].target).dtype)
            for node in module.graph.nodes
            if node.target in (aten.conv2d.default, aten.linear.default) and node.args[1].op == "get_attr"
        ]
        assert all(dtype == torch.float32 for target, dtype in weights if target is aten.linear.default)
        kept[residual] = sum(dtype == torch.float32 for target, dtype in weights if target is aten.conv2d.default)
    assert kept == {torch.float32: 1, torch.bfloat16: 0}


def test_a_branch_on_values_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 0 else -x

    with pytest.raises(BackendError, match="x cannot be captured as one graph"):
        capture("x", Branching().eval(), (torch.ones(1, 3, 4, 4),), {})


class _InPlace(nn.Module):
    def __init__(self, view: bool) -> None:
        super().__init__()
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        h = x * 2
        other = h.view(3, 2) if self.view else h
        return F.relu(h, inplace=True) + other.reshape(6)


def test_operators_that_write_into_their_input() -> None:
    x = torch.linspace(-1, 1, 6)
    module = capture("x", _InPlace(view=False).eval(), (x,), {})
    assert aten.relu.default in targets(module)
    assert torch.equal(module(x), 2 * F.relu(x * 2))
    with pytest.raises(BackendError, match="relu_ changes a tensor of which something else has a view"):
        capture("x", _InPlace(view=True).eval(), (x,), {})


def test_fractional_upsampling_is_refused() -> None:
    class Up(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=1.5, mode="nearest")

    with pytest.raises(BackendError, match="is not by whole factors"):
        capture("x", Up().eval(), (torch.ones(1, 3, 4, 4),), COMPILED_CUDA_DECOMPOSITIONS)


def test_the_digest_names_weights_settings_and_shapes(networks: dict[str, nn.Module]) -> None:
    (image,) = inputs_for("regressor")
    first, same, other = randomise(ToyRegressor(), 3), randomise(ToyRegressor(), 3), randomise(ToyRegressor(), 4)
    assert network_digest(first, (image,)) == network_digest(same, (image,))
    assert network_digest(first, (image,)) != network_digest(other, (image,))
    assert network_digest(first, (image,)) != network_digest(first, (image[:1],))
    same.slope = 0.1
    assert network_digest(first, (image,)) != network_digest(same, (image,))


def test_the_estimate_of_stored_memory_is_near_the_truth(networks: dict[str, nn.Module]) -> None:
    inputs = inputs_for("ddpm")
    module = capture("ddpm", networks["ddpm"], inputs, COMPILED_CPU_DECOMPOSITIONS)
    fuse_group_norm(module)
    weights = {parameter.data_ptr() for parameter in module.parameters()}
    stored: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            stored[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = module(inputs[0].requires_grad_(True), inputs[1])
        estimate = residual_bytes(module, torch.float32)
        assert sum(stored.values()) / 2 < estimate < sum(stored.values()) * 2, (estimate, sum(stored.values()))
    assert out.requires_grad
