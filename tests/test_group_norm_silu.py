"""The fused normalisation against PyTorch's own operators, in every implementation that runs here."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backends.kernels.build import find_compiler
from backends.kernels.group_norm_silu import backward_reference, forward_reference, group_norm_silu, implementation
from methods.noise import numpy_normal

SHAPES = [(2, 64, 8, 8), (1, 32, 5, 7), (3, 96, 6), (1, 128, 4, 4)]


def tensors(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, scale, shift and an output gradient."""
    x, grad = (torch.from_numpy(numpy_normal(seed, shape)).to(dtype) for seed in (1, 2))
    scale, shift = (torch.from_numpy(numpy_normal(seed, shape[:2])).float() for seed in (3, 4))
    return x * 2 + 1, 1 + 0.3 * scale, 0.5 * shift, grad


def exact(x: Tensor, scale: Tensor, shift: Tensor, grad: Tensor, silu: bool) -> tuple[Tensor, ...]:
    """Output and gradients in float64, from PyTorch's operators."""
    x, scale, shift = (part.double().requires_grad_(True) for part in (x, scale, shift))
    spread = (..., *[None] * (x.ndim - 2))
    u = F.group_norm(x, 32) * scale[spread] + shift[spread]
    y = F.silu(u) if silu else u
    return y.detach(), *torch.autograd.grad(y, (x, scale, shift), grad.double())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 6e-3), (torch.float64, 1e-7)])
def test_output_and_gradients(shape: tuple[int, ...], silu: bool, dtype: torch.dtype, tolerance: float) -> None:
    x, scale, shift, grad = tensors(shape, dtype)
    expected = exact(x, scale, shift, grad, silu)
    inputs = [part.detach().requires_grad_(True) for part in (x, scale, shift)]
    y = group_norm_silu(*inputs, groups=32, silu=silu)
    assert y.dtype == dtype
    results = (y, *torch.autograd.grad(y, inputs, grad))
    for result, reference in zip(results, expected, strict=True):
        assert (result.double() - reference).abs().max() <= tolerance * reference.abs().max()


def test_memory_layout_does_not_matter() -> None:
    x, scale, shift, _ = tensors((2, 64, 8, 8), torch.float32)
    contiguous = group_norm_silu(x, scale, shift, 32)
    innermost = group_norm_silu(x.contiguous(memory_format=torch.channels_last), scale, shift, 32)
    assert torch.equal(contiguous, innermost)
    assert contiguous.is_contiguous(memory_format=torch.channels_last)


def test_one_row_may_serve_all_samples() -> None:
    x, scale, shift, grad = tensors((3, 64, 4, 4), torch.float32)
    results = []
    for rows in (scale[:1].expand(3, 64), scale[:1].repeat(3, 1)):
        inputs = [part.detach().requires_grad_(True) for part in (x, rows, shift)]
        y = group_norm_silu(*inputs, groups=32)
        results.append((y.detach(), *torch.autograd.grad(y, inputs, grad)))
    for shared, copied in zip(*results, strict=True):
        assert torch.equal(shared, copied)


def test_samples_and_threads_do_not_matter() -> None:
    x, scale, shift, _ = tensors((3, 64, 8, 8), torch.bfloat16)
    together = group_norm_silu(x, scale, shift, 32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([group_norm_silu(x[i : i + 1], scale[i : i + 1], shift[i : i + 1], 32) for i in range(3)])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, alone)


def test_a_constant_group_and_extreme_values() -> None:
    x = torch.full((1, 32, 4, 4), 3.0)
    ones, zeros = torch.ones(1, 32), torch.zeros(1, 32)
    assert torch.equal(group_norm_silu(x, ones, zeros, 32), torch.zeros_like(x))
    large = group_norm_silu(x, ones, torch.full((1, 32), 200.0), 32)
    assert torch.equal(large, torch.full_like(x, 200.0))
    assert group_norm_silu(x, ones, torch.full((1, 32), -200.0), 32).abs().max() < 1e-30


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_sample_that_is_not_finite_stays_alone(bad: float) -> None:
    x, scale, shift, _ = tensors((2, 64, 4, 4), torch.bfloat16)
    x[0, 0, 0, 0] = bad
    y = group_norm_silu(x, scale, shift, 32)
    assert not torch.isfinite(y[0]).all()
    assert torch.isfinite(y[1]).all()


def test_the_operator_is_registered_well() -> None:
    x, scale, shift, _ = tensors((2, 32, 4, 4), torch.float32)
    inputs = tuple(part.requires_grad_(True) for part in (x, scale, shift))
    torch.library.opcheck(torch.ops.counterfactual.group_norm_silu.default, (*inputs, 32, 1e-5, True))


def test_the_compiled_kernel_is_the_one_that_runs() -> None:
    assert implementation(torch.device("cpu")) == ("C++" if find_compiler() else "PyTorch")


def test_without_a_compiler_the_pytorch_form_runs() -> None:
    code = (
        "import torch; from backends.kernels.group_norm_silu import *; "
        "print(implementation(torch.device('cpu')), "
        "group_norm_silu(torch.arange(64.).reshape(1, 32, 2), torch.ones(1, 32), torch.zeros(1, 32), 32).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PATH": ""})
    assert done.stdout.split()[0] == "PyTorch", done.stderr


TRITON = """
import torch
from tests.test_group_norm_silu import tensors
from backends.kernels.group_norm_silu import backward_reference, forward_reference
from backends.kernels.group_norm_triton import backward_triton, forward_triton
for shape in ((2, 64, 8, 8), (1, 32, 5, 7), (3, 96, 6)):
    for silu in (True, False):
        x, scale, shift, grad = tensors(shape, torch.float32)
        expected = forward_reference(x, scale, shift, 32, 1e-5, silu)
        result = forward_triton(x, scale, shift, 32, 1e-5, silu)
        for a, b in zip(result, expected): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        _, mean, rstd = expected
        expected = backward_reference(grad, x, mean, rstd, scale, shift, 32, silu)
        result = backward_triton(grad, x, mean, rstd, scale, shift, 32, silu)
        for a, b in zip(result, expected): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
print("equal")
"""


def test_the_triton_kernels_in_its_interpreter() -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", TRITON], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


def test_reference_gradients_are_those_of_autograd() -> None:
    x, scale, shift, grad = (part.double() for part in tensors((2, 32, 3, 3), torch.float64))
    expected = exact(x, scale, shift, grad, True)
    y, mean, rstd = forward_reference(x, scale, shift, 32, 1e-5, True)
    results = (y, *backward_reference(grad, x, mean, rstd, scale, shift, 32, True))
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-9, atol=1e-9)
