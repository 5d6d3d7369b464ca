"""Max pooling in operators whose gradient neither gathers nor scatters."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.base import BackendError

_LOWEST = -6e4
"""Stands for minus infinity outside the image: representable in half precision, and times zero it is zero."""


def max_pooling(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """Max pooling of (B, C, H, W) as comparisons of shifted images; of equal values the first gets the gradient.

    Each shift is a convolution with a one-hot kernel, whose gradient is a convolution again. PyTorch's own
    gradient scatters by index, which is a race in ONNX Runtime on the CPU.

    Args:
        x: values above -60,000.

    Raises:
        BackendError: dilation, or pooling up to a border that is not a whole window away (ceil_mode).
    """
    height, width = _pair(kernel_size)
    if _pair(dilation) != (1, 1) or ceil_mode:
        raise BackendError("max pooling with dilation or ceil_mode is not supported")
    step = _pair(stride) if stride else (height, width)
    up, across = _pair(padding)
    padded = _bordered(_bordered(x, up, 2), across, 3)
    channels, best = x.shape[1], None
    for index in range(height * width):
        kernel = torch.eye(height * width, dtype=x.dtype, device=x.device)[index].view(1, 1, height, width)
        shifted = F.conv2d(padded, kernel.expand(channels, 1, height, width), stride=step, groups=channels)
        best = shifted if best is None else torch.where(best >= shifted, best, shifted)
    return best


def _bordered(x: Tensor, width: int, dim: int) -> Tensor:
    """`x` with `width` rows or columns of low values on both sides; concatenation, whose gradient is a slice."""
    if width == 0:
        return x
    shape = list(x.shape)
    shape[dim] = width
    border = torch.full(shape, _LOWEST, dtype=x.dtype, device=x.device)
    return torch.cat([border, x, border], dim)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, *rest = values
    return first, rest[0] if rest else first
