"""Operators taken apart into others that compiled code runs well, forward and backward."""

import math

import torch
from torch import Tensor

from backends.base import BackendError
from backends.graphs.capture import Decompositions
from backends.graphs.layout import convolution_1d

aten = torch.ops.aten


def nearest_upsampling(x: Tensor, output_size: list[int] | None, scale_factors: list[float] | None) -> Tensor:
    """Nearest-neighbour upsampling of (B, C, H, W) by whole factors, as expand and reshape.

    PyTorch's own decomposition gathers by index; its gradient scatters, which is slow in Inductor and a
    race in ONNX Runtime on the CPU.

    Raises:
        BackendError: the factors are not whole numbers.
    """
    batch, channels, height, width = x.shape
    up, across = _whole_factors(x, output_size, scale_factors)
    wide = x[:, :, :, None, :, None].expand(batch, channels, height, up, width, across)
    return wide.reshape(batch, channels, up * height, across * width)


def nearest_upsampling_innermost(x: Tensor, output_size: list[int] | None, scale_factors: list[float] | None) -> Tensor:
    """`nearest_upsampling` whose result has its channels innermost in memory (PyTorch's channels_last)."""
    batch, channels, height, width = x.shape
    up, across = _whole_factors(x, output_size, scale_factors)
    wide = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(batch, height, up, width, across, channels)
    return wide.reshape(batch, up * height, across * width, channels).permute(0, 3, 1, 2)


def _whole_factors(x: Tensor, output_size: list[int] | None, scale_factors: list[float] | None) -> tuple[int, int]:
    height, width = x.shape[2:]
    rows, columns = output_size or [height * scale_factors[0], width * scale_factors[1]]
    up, across = int(rows) // height, int(columns) // width
    if (up * height, across * width) != (rows, columns):
        raise BackendError(f"nearest upsampling from {height}x{width} to {rows}x{columns} is not by whole factors")
    return up, across


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in float32: two products and a softmax.

    Raises:
        BackendError: masks, dropout or grouped queries, which no diffusion UNet here uses.
    """
    if attn_mask is not None or is_causal or dropout_p or enable_gqa:
        raise BackendError("attention with a mask, dropout or grouped queries is not supported")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query.float() * factor) @ key.float().transpose(-1, -2)
    return (torch.softmax(scores, -1) @ value.float()).to(value.dtype)


COMPILED_FLOAT32_DECOMPOSITIONS: Decompositions = {aten.upsample_nearest2d.vec: nearest_upsampling}
"""For float32, where PyTorch's own operators do well otherwise."""

COMPILED_CUDA_DECOMPOSITIONS: Decompositions = {
    aten.upsample_nearest2d.vec: nearest_upsampling_innermost,
    aten.conv1d.default: convolution_1d,
}
"""For half precision on CUDA, whose fused attention is kept."""

COMPILED_CPU_DECOMPOSITIONS: Decompositions = {
    aten.upsample_nearest2d.vec: nearest_upsampling_innermost,
    aten.scaled_dot_product_attention.default: attention,
    aten.conv1d.default: convolution_1d,
}
"""For half precision on the CPU, where every layer wants its channels innermost."""
