"""The operator counterfactual::group_norm_silu: GroupNorm, scale, shift and SiLU in one pass.

    y = act(xhat * scale + shift),  xhat = (x - mean) * rstd over each group of channels

with the affine of the norm and a UNet block's time conditioning folded into `scale` and `shift`. Only x,
mean and rstd are kept for the gradient, which is a closed form (two passes). Statistics are float32 for
every dtype of x (float64 for float64).

Implementations: C++ on the CPU (`group_norm_silu.cpp`, channels innermost), Triton on CUDA
(`group_norm_triton.py`), and the PyTorch form below, which is the reference and serves other dtypes and
machines without a compiler. `implementation(device)` tells which one runs.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from backends.kernels.build import build_library, find_compiler

_SOURCE = Path(__file__).with_name("group_norm_silu.cpp")
_SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_library = torch.library.Library("counterfactual", "DEF")
_library.define(
    "group_norm_silu(Tensor x, Tensor scale, Tensor shift, int groups, float eps, bool silu) -> "
    "(Tensor, Tensor, Tensor)"
)
_library.define(
    "group_norm_silu_backward(Tensor grad, Tensor x, Tensor mean, Tensor rstd, Tensor scale, Tensor shift, "
    "int groups, bool silu) -> (Tensor, Tensor, Tensor)"
)


def group_norm_silu(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float = 1e-5, silu: bool = True
) -> Tensor:
    """act(GroupNorm(x) * scale + shift), differentiable in x, scale and shift.

    Args:
        x: (B, C, ...), float32, bfloat16, float16 or float64; fastest with channels innermost.
        scale, shift: (B, C), float32 (float64 with a float64 x).
        groups: divides C.
        silu: act is SiLU, otherwise the identity.

    Returns:
        The shape and dtype of x, channels innermost in memory.
    """
    return torch.ops.counterfactual.group_norm_silu(x, scale, shift, groups, eps, silu)[0]


def implementation(device: torch.device) -> str:
    """Which implementation serves float32 and bfloat16 on `device`: "C++", "Triton" or "PyTorch".

    Raises:
        BackendError: there is a compiler, and it fails.
    """
    if device.type == "cuda":
        return "Triton"
    return "PyTorch" if _kernels() is None else "C++"


def channels_innermost(x: Tensor) -> Tensor:
    """(B, C, ...) laid out with channels innermost; x itself where it is so already."""
    if x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _empty_innermost(x: Tensor) -> Tensor:
    if x.ndim == 4:
        return torch.empty_like(x, memory_format=torch.channels_last)
    return torch.empty_like(x.movedim(1, -1), memory_format=torch.contiguous_format).movedim(-1, 1)


# The PyTorch form.


def forward_reference(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, rstd); mean and rstd are (B, groups)."""
    grouped = x.to(_working_dtype(x)).reshape(x.shape[0], groups, -1)
    mean = grouped.mean(-1)
    centred = grouped - mean[..., None]
    rstd = torch.rsqrt(centred.square().mean(-1) + eps)
    u = (centred * rstd[..., None]).reshape(x.shape) * _spread(scale, x) + _spread(shift, x)
    return channels_innermost((u * torch.sigmoid(u) if silu else u).to(x.dtype)), mean, rstd


def backward_reference(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor, shift: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, scale and shift."""
    batch, dims = x.shape[0], tuple(range(2, x.ndim))
    working = _working_dtype(x)
    grouped = x.to(working).reshape(batch, groups, -1)
    normalised = ((grouped - mean[..., None]) * rstd[..., None]).reshape(x.shape)
    d = grad.to(working)
    if silu:
        u = normalised * _spread(scale, x) + _spread(shift, x)
        gate = torch.sigmoid(u)
        d = d * (gate * (1 + u * (1 - gate)))
    grad_scale, grad_shift = ((d * normalised).sum(dims)).to(scale.dtype), d.sum(dims).to(shift.dtype)
    scaled = (d * _spread(scale, x)).reshape(batch, groups, -1)
    flat = normalised.reshape(batch, groups, -1)
    rest = scaled - scaled.mean(-1, keepdim=True) - flat * (scaled * flat).mean(-1, keepdim=True)
    return channels_innermost((rest * rstd[..., None]).reshape(x.shape).to(x.dtype)), grad_scale, grad_shift


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _spread(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(*value.shape, *[1] * (x.ndim - 2))


# The C++ form.


@cache
def _kernels() -> dict[tuple[str, torch.dtype], Callable[..., None]] | None:
    """The library's functions by (direction, dtype); None without a compiler."""
    if find_compiler() is None:
        return None
    library, _ = build_library(_SOURCE)
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    functions = {}
    for dtype, suffix in _SUFFIXES.items():
        forward = getattr(library, f"group_norm_silu_forward_{suffix}")
        forward.argtypes = [pointer] * 6 + [size] * 6 + [ctypes.c_float, ctypes.c_int]
        backward = getattr(library, f"group_norm_silu_backward_{suffix}")
        backward.argtypes = [pointer] * 9 + [size] * 6 + [ctypes.c_int]
        forward.restype = backward.restype = None
        functions["forward", dtype], functions["backward", dtype] = forward, backward
    return functions


def _rows(value: Tensor) -> Tensor:
    """(B, C) with adjacent channels; samples may share one row (stride 0)."""
    return value if value.stride(1) == 1 else value.contiguous()


def _forward_cpu(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels() if x.dtype in _SUFFIXES else None
    if kernels is None:
        return forward_reference(x, scale, shift, groups, eps, silu)
    batch, channels = x.shape[:2]
    x, scale, shift = channels_innermost(x), _rows(scale), _rows(shift)
    y = _empty_innermost(x)
    mean, rstd = scale.new_empty(batch, groups), scale.new_empty(batch, groups)
    pointers = (part.data_ptr() for part in (x, scale, shift, y, mean, rstd))
    positions = x.numel() // (batch * channels)
    strides = scale.stride(0), shift.stride(0)
    kernels["forward", x.dtype](*pointers, batch, channels, groups, positions, *strides, eps, silu)
    return y, mean, rstd


def _backward_cpu(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor, shift: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels() if x.dtype in _SUFFIXES else None
    if kernels is None:
        return backward_reference(grad, x, mean, rstd, scale, shift, groups, silu)
    batch, channels = x.shape[:2]
    x, grad = channels_innermost(x), channels_innermost(grad.to(x.dtype))
    scale, shift = _rows(scale), _rows(shift)
    grad_x = _empty_innermost(x)
    grad_scale, grad_shift = scale.new_empty(scale.shape), shift.new_empty(shift.shape)
    tensors = (grad, x, mean, rstd, scale, shift, grad_x, grad_scale, grad_shift)
    pointers = (part.data_ptr() for part in tensors)
    positions = x.numel() // (batch * channels)
    strides = scale.stride(0), shift.stride(0)
    kernels["backward", x.dtype](*pointers, batch, channels, groups, positions, *strides, silu)
    return grad_x, grad_scale, grad_shift


def _forward_cuda(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from backends.kernels.group_norm_triton import forward_triton

    return forward_triton(x, scale, shift, groups, eps, silu)


def _backward_cuda(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor, shift: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from backends.kernels.group_norm_triton import backward_triton

    return backward_triton(grad, x, mean, rstd, scale, shift, groups, silu)


# Shapes for tracing, and the gradient.


def _forward_meta(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[0], groups, dtype=_working_dtype(x))
    return _empty_innermost(x), statistics, torch.empty_like(statistics)


def _backward_meta(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor, shift: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_innermost(x), scale.new_empty(scale.shape), shift.new_empty(shift.shape)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, scale, shift, ctx.groups, _, ctx.silu = inputs
    ctx.save_for_backward(x, *output[1:], scale, shift)


def _gradient(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    """mean and rstd are results for the backward pass only; nothing is differentiated through them."""
    saved = ctx.saved_tensors
    grads = torch.ops.counterfactual.group_norm_silu_backward(grad, *saved, ctx.groups, ctx.silu)
    return (*grads, None, None, None)


_library.impl("group_norm_silu", _forward_cpu, "CPU")
_library.impl("group_norm_silu_backward", _backward_cpu, "CPU")
_library.impl("group_norm_silu", _forward_cuda, "CUDA")
_library.impl("group_norm_silu_backward", _backward_cuda, "CUDA")
torch.library.register_fake("counterfactual::group_norm_silu", _forward_meta, lib=_library)
torch.library.register_fake("counterfactual::group_norm_silu_backward", _backward_meta, lib=_library)
torch.library.register_autograd("counterfactual::group_norm_silu", _gradient, setup_context=_keep, lib=_library)
