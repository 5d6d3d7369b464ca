"""A captured network together with its gradients, traced as one ordinary forward graph.

With frozen weights the pull-back (inputs, gradient of the output) -> gradients of the inputs is itself a
network, so an engine without autograd can run it. Everything here is for static shapes.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass

from backends.base import BackendError
from backends.graphs.capture import fold_constants
from backends.graphs.normalisation import Dialect, merge_normalisations
from backends.graphs.onnx_operators import EXPORTABLE

aten = torch.ops.aten


def trace_pullback(
    name: str, network: GraphModule, example_inputs: tuple[Tensor, ...], dialect: Dialect
) -> GraphModule:
    """The graph (inputs..., grad_out) -> (output, gradient of each floating-point input...).

    Args:
        name: of the network, for messages.
        network: from `capture`, with frozen weights; returns one tensor.
        example_inputs: of the shapes and dtypes every call has.
        dialect: see `Dialect`.

    Raises:
        BackendError: an operator on the way to the gradient has no form here.
    """

    def joint(*arguments: Tensor) -> tuple[Tensor, ...]:
        *inputs, grad_out = arguments
        leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
        with torch.enable_grad():
            output = network(*leaves)
        # torch.func.vjp would differentiate twice-differentiable formulas, a third more nodes.
        wanted = [x for x in leaves if x.requires_grad]
        return output.detach(), *torch.autograd.grad(output, wanted, grad_out, materialize_grads=True)

    merge_normalisations(network, dialect)
    grad_out = torch.zeros(output_of(name, network).shape, dtype=output_of(name, network).dtype)
    try:
        traced = make_fx(joint, _table(dialect), tracing_mode="fake", _allow_non_fake_inputs=True)(
            *example_inputs, grad_out
        )
    except (RuntimeError, NotImplementedError) as error:
        raise BackendError(f"{name}: no gradient graph: {str(error).strip().splitlines()[0]}") from error
    return _simplified(traced)


def output_of(name: str, network: GraphModule) -> Tensor:
    """The fake tensor that a captured network returns.

    Raises:
        BackendError: it returns something else than one tensor.
    """
    (result,) = network.graph.output_node().args
    result = result[0] if isinstance(result, tuple | list) and len(result) == 1 else result
    if not isinstance(result, Node):
        raise BackendError(f"{name} returns {len(result)} values; engines run networks that return one tensor")
    return result.meta["val"]


# Operators of the backward pass -----------------------------------------------------------------------


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: list[int] | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> tuple[Tensor | None, None, None]:
    """The input's gradient: a convolution with the flipped kernel, transposed where the stride is not 1."""
    if mask[1] or mask[2]:
        raise BackendError("a gradient of weights was asked for; weights must be frozen")
    if not mask[0]:
        return None, None, None
    spatial = range(x.ndim - 2)
    kernel, dims = weight.shape[2:], [0] * (x.ndim - 2)
    if transposed:
        return aten.convolution.default(grad, weight, None, stride, padding, dilation, False, dims, groups), None, None
    around = [dilation[i] * (kernel[i] - 1) - padding[i] for i in spatial]
    if groups == 1 and all(s == 1 for s in stride) and min(around) >= 0:
        flipped = weight.transpose(0, 1)
        if any(k != 1 for k in kernel):
            flipped = flipped.flip([i + 2 for i in spatial])
        return aten.convolution.default(grad, flipped, None, stride, around, dilation, False, dims, 1), None, None
    reached = [
        (grad.shape[i + 2] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1 for i in spatial
    ]
    missing = [x.shape[i + 2] - reached[i] for i in spatial]
    return aten.convolution.default(grad, weight, None, stride, padding, dilation, True, missing, groups), None, None


def _average_pool_backward(
    grad: Tensor,
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Each gradient spread evenly over its window; windows must tile the image."""
    rows, columns = kernel
    tiles = list(stride or kernel) == list(kernel) and not any(padding)
    if not tiles or divisor_override or (grad.shape[2] * rows, grad.shape[3] * columns) != tuple(x.shape[2:]):
        raise BackendError("average pooling is supported where its windows tile the image")
    return _spread(grad / (rows * columns), rows, columns)


def _adaptive_average_pool_backward(grad: Tensor, x: Tensor) -> Tensor:
    rows, columns = x.shape[2] // grad.shape[2], x.shape[3] // grad.shape[3]
    if (grad.shape[2] * rows, grad.shape[3] * columns) != tuple(x.shape[2:]):
        raise BackendError("adaptive average pooling is supported where its windows tile the image")
    return _spread(grad / (rows * columns), rows, columns)


def _spread(x: Tensor, rows: int, columns: int) -> Tensor:
    return aten.upsample_nearest2d.default(x, [x.shape[2] * rows, x.shape[3] * columns])


def _nearest_backward(
    grad: Tensor,
    output_size: list[int],
    input_size: list[int],
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """The sum over the pixels that show each input pixel."""
    rows, columns = output_size[0] // input_size[2], output_size[1] // input_size[3]
    if (rows * input_size[2], columns * input_size[3]) != tuple(output_size):
        raise BackendError(f"nearest upsampling from {input_size[2:]} to {output_size} is not by whole factors")
    return aten.avg_pool2d.default(grad, [rows, columns], [rows, columns]) * (rows * columns)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """With the statistics of training, which the gradient needs no others than."""
    if training:
        raise BackendError("batch normalisation with batch statistics is not supported; call .eval()")
    given = (x, weight, bias, running_mean, running_var)
    return aten._native_batch_norm_legit_no_training.default(*given, momentum, eps)


def _layer_norm_explicit(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """With statistics in float32, returned as they are."""
    dims = list(range(-len(shape), 0))
    mean = x.float().mean(dims, keepdim=True)
    centred = x.float() - mean
    rstd = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    normal = (centred * rstd).to(x.dtype)
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias, mean, rstd


def _row_lookup(x: Tensor, indices: list[Tensor | None]) -> Tensor:
    """table[t], such as the noise level of each timestep; other indexing has no form without GatherND."""
    if len(indices) != 1 or indices[0] is None or indices[0].dtype == torch.bool:
        raise BackendError("indexing is supported with one integer tensor on the first dimension")
    return aten.index_select.default(x, 0, indices[0].reshape(-1)).reshape(*indices[0].shape, *x.shape[1:])


def _silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return grad * (gate * (x - x * gate + 1))


def _softmax_backward(grad: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
    weighted = grad * output
    return (weighted - output * weighted.sum(dim, keepdim=True)).to(input_dtype)


def _slice_backward(grad: Tensor, sizes: list[int], dim: int, start: int, end: int, step: int) -> Tensor:
    """The gradient between zeros, put together rather than written into place."""
    if step != 1:
        raise BackendError("the gradient of a slice with a step is not supported")
    dim, size = dim % len(sizes), sizes[dim]
    start = start % size if start < 0 else min(start, size)
    behind = size - start - grad.shape[dim]

    def zeros(count: int) -> list[Tensor]:
        return [grad.new_zeros([*sizes[:dim], count, *sizes[dim + 1 :]])] if count else []

    return torch.cat([*zeros(start), grad, *zeros(behind)], dim)


def _select_backward(grad: Tensor, sizes: list[int], dim: int, index: int) -> Tensor:
    index %= sizes[dim]
    return _slice_backward(grad.unsqueeze(dim), sizes, dim, index, index + 1, 1)


def _table(dialect: Dialect) -> dict[torch._ops.OpOverload, Callable]:
    """PyTorch's own decompositions of what the writer has no form for, and those here instead of the bad ones."""
    table = {op: form for op, form in core_aten_decompositions().items() if op not in EXPORTABLE}
    table |= get_decompositions([aten.pixel_shuffle, aten.pixel_unshuffle])
    if dialect == "explicit":
        table |= get_decompositions([aten.gelu])
        table[aten.native_layer_norm.default] = _layer_norm_explicit
    table |= {
        aten.convolution_backward.default: _convolution_backward,
        aten.avg_pool2d_backward.default: _average_pool_backward,
        aten._adaptive_avg_pool2d_backward.default: _adaptive_average_pool_backward,
        aten.silu.default: lambda x: x * torch.sigmoid(x),
        aten.silu_backward.default: _silu_backward,
        aten._softmax_backward_data.default: _softmax_backward,
        aten.slice_backward.default: _slice_backward,
        aten.select_backward.default: _select_backward,
        aten.upsample_nearest2d_backward.default: _nearest_backward,
        aten.index.Tensor: _row_lookup,
        aten.native_batch_norm.default: _batch_norm,
    }
    return table


# Simplification ---------------------------------------------------------------------------------------

_IDENTITIES = (aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default)


def _simplified(traced: GraphModule) -> GraphModule:
    """Without identities, repeated sub-expressions and sub-expressions of constants."""
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target in _IDENTITIES:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    traced = CSEPass()(traced).graph_module
    fold_constants(traced)
    return traced.eval()
