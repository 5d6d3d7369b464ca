"""The Triton form of counterfactual::group_norm_silu, for CUDA.

One program handles one group of one sample: it reads its positions a tile at a time, channels innermost.
Reductions run in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096
"""Elements of a tile: positions of one step times channels of the group, rounded up to a power of two."""


@triton.jit
def _silu_gate(u):
    return 1.0 / (1.0 + tl.exp(-u))


@triton.jit
def _forward_kernel(
    x, scale, shift, y, mean, rstd, channels, groups, width, positions, eps,
    SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    sample, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    column = tl.arange(0, COLUMNS)
    inside = column < width
    channel = group * width + column
    base = sample.to(tl.int64) * positions * channels + channel
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, positions, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < positions)[:, None] & inside[None, :]
        value = tl.load(x + base[None, :] + row[:, None] * channels, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(value, axis=0)
    size = width * positions
    m = tl.sum(total, axis=0) / size
    squares = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, positions, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < positions)[:, None] & inside[None, :]
        value = tl.load(x + base[None, :] + row[:, None] * channels, mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(mask, value - m, 0.0)
        squares += tl.sum(centred * centred, axis=0)
    r = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / size + eps)
    tl.store(mean + tl.program_id(0), m)
    tl.store(rstd + tl.program_id(0), r)
    a = tl.load(scale + sample * channels + channel, mask=inside, other=0.0) * r
    b = tl.load(shift + sample * channels + channel, mask=inside, other=0.0) - a * m
    for start in range(0, positions, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < positions)[:, None] & inside[None, :]
        at = base[None, :] + row[:, None] * channels
        u = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * a[None, :] + b[None, :]
        if SILU:
            u = u * _silu_gate(u)
        tl.store(y + at, u.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _gradient_of_u(grad, x, at, mask, m, r, s, h, SILU: tl.constexpr):
    """xhat, and the gradient with respect to u = xhat * scale + shift, of one tile."""
    normalised = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - m) * r
    d = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
    if SILU:
        u = normalised * s[None, :] + h[None, :]
        gate = _silu_gate(u)
        d = d * (gate * (1.0 + u * (1.0 - gate)))
    return normalised, d


@triton.jit
def _backward_kernel(
    grad, x, mean, rstd, scale, shift, grad_x, grad_scale, grad_shift, channels, groups, width, positions,
    SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    sample, group = tl.program_id(0) // groups, tl.program_id(0) % groups
    column = tl.arange(0, COLUMNS)
    inside = column < width
    channel = group * width + column
    base = sample.to(tl.int64) * positions * channels + channel
    m, r = tl.load(mean + tl.program_id(0)), tl.load(rstd + tl.program_id(0))
    s = tl.load(scale + sample * channels + channel, mask=inside, other=0.0)
    h = tl.load(shift + sample * channels + channel, mask=inside, other=0.0)
    plain = tl.zeros((COLUMNS,), tl.float32)
    weighted = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, positions, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < positions)[:, None] & inside[None, :]
        at = base[None, :] + row[:, None] * channels
        normalised, d = _gradient_of_u(grad, x, at, mask, m, r, s, h, SILU)
        plain += tl.sum(d, axis=0)
        weighted += tl.sum(tl.where(mask, d * normalised, 0.0), axis=0)
    tl.store(grad_scale + sample * channels + channel, weighted, mask=inside)
    tl.store(grad_shift + sample * channels + channel, plain, mask=inside)
    size = width * positions
    first, second = tl.sum(plain * s, axis=0) / size, tl.sum(weighted * s, axis=0) / size
    for start in range(0, positions, ROWS):
        row = start + tl.arange(0, ROWS)
        mask = (row < positions)[:, None] & inside[None, :]
        at = base[None, :] + row[:, None] * channels
        normalised, d = _gradient_of_u(grad, x, at, mask, m, r, s, h, SILU)
        result = r * (d * s[None, :] - first - normalised * second)
        tl.store(grad_x + at, result.to(grad_x.dtype.element_ty), mask=mask)


def _tile(width: int, positions: int) -> tuple[int, int]:
    """(ROWS, COLUMNS) of a tile."""
    columns = triton.next_power_of_2(width)
    return min(triton.next_power_of_2(positions), max(1, _TILE // columns)), columns


def _innermost(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous()


def forward_triton(
    x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, rstd); see `group_norm_silu`."""
    batch, channels = x.shape[:2]
    inner = _innermost(x)
    y = torch.empty_like(inner)
    mean = torch.empty(batch, groups, dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    width, positions = channels // groups, inner.numel() // (batch * channels)
    rows, columns = _tile(width, positions)
    _forward_kernel[(batch * groups,)](
        inner, scale.contiguous(), shift.contiguous(), y, mean, rstd, channels, groups, width, positions, eps,
        SILU=silu, ROWS=rows, COLUMNS=columns,
    )  # fmt: skip
    return y.movedim(-1, 1), mean, rstd


def backward_triton(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor, shift: Tensor, groups: int, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, scale and shift."""
    batch, channels = x.shape[:2]
    inner, above = _innermost(x), _innermost(grad.to(x.dtype))
    grad_x = torch.empty_like(inner)
    scale, shift = scale.contiguous(), shift.contiguous()
    grad_scale, grad_shift = scale.new_empty(scale.shape), shift.new_empty(shift.shape)
    width, positions = channels // groups, inner.numel() // (batch * channels)
    rows, columns = _tile(width, positions)
    _backward_kernel[(batch * groups,)](
        above, inner, mean, rstd, scale, shift, grad_x, grad_scale, grad_shift,
        channels, groups, width, positions, SILU=silu, ROWS=rows, COLUMNS=columns,
    )  # fmt: skip
    return grad_x.movedim(-1, 1), grad_scale, grad_shift
