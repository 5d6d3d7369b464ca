"""The ONNX form of each ATen operator that remains after the decompositions of `pullback`."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from backends.base import BackendError
from backends.graphs.onnx_nodes import OnnxWriter, Value

aten = torch.ops.aten

Handler = Callable[[OnnxWriter, Node], Value]


def _argument(node: Node, index: int, key: str, default: Any = None) -> Any:
    """An argument by position or name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(key, default)


def _unary(*kinds: str) -> Handler:
    """One ONNX operator after the other."""

    def write(w: OnnxWriter, node: Node) -> Value:
        value = w.operand(node.args[0], node)
        for position, kind in enumerate(kinds):
            last = position == len(kinds) - 1
            value = w.add(kind, [value], [node.name if last else f"{node.name}.{kind}"])
        return value

    return write


def _binary(kind: str) -> Handler:
    """Operands are cast to the result's dtype, as PyTorch promotes them."""

    def write(w: OnnxWriter, node: Node) -> Value:
        if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode"):
            raise BackendError(f"{node.target} with {dict(node.kwargs)} cannot be exported to ONNX")
        return w.add(kind, [w.operand(node.args[0], node), w.operand(node.args[1], node)], [node.name])

    return write


def _comparison(kind: str) -> Handler:
    def write(w: OnnxWriter, node: Node) -> Value:
        left, right = node.args
        return w.add(kind, [w.name(left), w.operand(right, left)], [node.name])

    return write


def _view(w: OnnxWriter, node: Node) -> Value:
    return w.reshape(w.name(node.args[0]), tuple(node.meta["val"].shape), node.name)


def _copy(w: OnnxWriter, node: Node) -> Value:
    source = node.args[0]
    if source.meta["val"].dtype == node.meta["val"].dtype:
        return w.name(source)
    return w.cast(w.name(source), node.meta["val"].dtype, node.name)


def _permutation(w: OnnxWriter, node: Node) -> Value:
    order = list(range(node.args[0].meta["val"].ndim))
    if node.target is aten.permute.default:
        order = [dim % len(order) for dim in node.args[1]]
    else:
        first, second = (0, 1) if node.target is aten.t.default else (dim % len(order) for dim in node.args[1:3])
        order[first], order[second] = order[second], order[first]
    return w.add("Transpose", [w.name(node.args[0])], [node.name], perm=order)


def _expand(w: OnnxWriter, node: Node) -> Value:
    shape = w.constant(np.array(node.meta["val"].shape, np.int64))
    return w.add("Expand", [w.name(node.args[0]), shape], [node.name])


def _repeat(w: OnnxWriter, node: Node) -> Value:
    x, counts = node.args
    inner = x.meta["val"].shape
    value = w.name(x)
    if len(counts) > len(inner):
        value = w.reshape(value, (*[1] * (len(counts) - len(inner)), *inner), f"{node.name}.raised")
    return w.add("Tile", [value, w.constant(np.array(counts, np.int64))], [node.name])


def _filled(value: float) -> Handler:
    def write(w: OnnxWriter, node: Node) -> Value:
        return w.constant(torch.full(node.meta["val"].shape, value, dtype=node.meta["val"].dtype).numpy())

    return write


def _convolution(w: OnnxWriter, node: Node) -> Value:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    attributes = {"strides": stride, "pads": [*padding, *padding], "dilations": dilation, "group": groups}
    if transposed:
        attributes["output_padding"] = output_padding
    inputs = [w.name(part) for part in (x, weight, bias) if part is not None]
    return w.add("ConvTranspose" if transposed else "Conv", inputs, [node.name], **attributes)


def _layer_norm(w: OnnxWriter, node: Node) -> Value:
    x, shape, weight, bias, eps = node.args
    dtype = x.meta["val"].dtype
    inputs = [w.name(x), w.name(weight) if weight else w.constant(torch.ones(shape, dtype=dtype).numpy())]
    inputs += [w.name(bias)] if bias else []
    names = [f"{node.name}.{index}" for index in range(3)]
    w.add("LayerNormalization", inputs, names, axis=-len(shape), epsilon=eps)
    return names


def _batch_norm(w: OnnxWriter, node: Node) -> Value:
    x, weight, bias, mean, variance, _, eps = node.args
    size, dtype = mean.meta["val"].shape, x.meta["val"].dtype
    scale = w.name(weight) if weight else w.constant(torch.ones(size, dtype=dtype).numpy())
    shift = w.name(bias) if bias else w.constant(torch.zeros(size, dtype=dtype).numpy())
    inputs = [w.name(x), scale, shift, w.name(mean), w.name(variance)]
    return [w.add("BatchNormalization", inputs, [node.name], epsilon=eps)]


def _addmm(w: OnnxWriter, node: Node) -> Value:
    if node.kwargs:
        raise BackendError(f"{node.target} with {dict(node.kwargs)} cannot be exported to ONNX")
    bias, left, right = map(w.name, node.args)
    return w.add("Gemm", [left, right, bias], [node.name])


def _concat(w: OnnxWriter, node: Node) -> Value:
    parts = [part for part in node.args[0] if part.meta["val"].numel()]
    axis = _argument(node, 1, "dim", 0) % node.meta["val"].ndim
    return w.add("Concat", [w.operand(part, node) for part in parts], [node.name], axis=axis)


def _stack(w: OnnxWriter, node: Node) -> Value:
    parts, axis = node.args[0], _argument(node, 1, "dim", 0) % node.meta["val"].ndim
    shape = list(node.meta["val"].shape)
    shape[axis] = 1
    raised = [w.reshape(w.name(part), tuple(shape), f"{node.name}.{index}") for index, part in enumerate(parts)]
    return w.add("Concat", raised, [node.name], axis=axis)


def _slice(w: OnnxWriter, node: Node) -> Value:
    dim, start, end = (_argument(node, i, k, d) for i, k, d in ((1, "dim", 0), (2, "start", 0), (3, "end", None)))
    limit = np.iinfo(np.int64).max
    bounds = (start or 0, limit if end is None else end, dim, _argument(node, 4, "step", 1))
    starts, ends, axes, steps = (w.constant(np.array([bound], np.int64)) for bound in bounds)
    return w.add("Slice", [w.name(node.args[0]), starts, ends, axes, steps], [node.name])


def _select(w: OnnxWriter, node: Node) -> Value:
    x, dim, index = node.args
    place = w.constant(np.array(index % x.meta["val"].shape[dim], np.int64))
    return w.add("Gather", [w.name(x), place], [node.name], axis=dim % x.meta["val"].ndim)


def _split(w: OnnxWriter, node: Node) -> Value:
    axis = _argument(node, 2, "dim", 0)
    sizes = w.constant(np.array([part.shape[axis] for part in node.meta["val"]], np.int64))
    names = [f"{node.name}.{index}" for index in range(len(node.meta["val"]))]
    w.add("Split", [w.name(node.args[0]), sizes], names, axis=axis)
    return names


def _unbind(w: OnnxWriter, node: Node) -> Value:
    axis, parts = _argument(node, 1, "dim", 0), node.meta["val"]
    names = [f"{node.name}.{index}" for index in range(len(parts))]
    w.add("Split", [w.name(node.args[0])], [f"{part}.kept" for part in names], axis=axis, num_outputs=len(parts))
    return [w.reshape(f"{part}.kept", tuple(value.shape), part) for part, value in zip(names, parts, strict=True)]


def _item(w: OnnxWriter, node: Node) -> Value:
    source, index = node.args
    value = w.values[source][index]
    inner = source.meta["val"][index]
    made = torch.float32 if source.target is aten.native_layer_norm.default and index else inner.dtype
    return value if made == inner.dtype else w.cast(value, inner.dtype, node.name)


def _reduction(kind: str) -> Handler:
    def write(w: OnnxWriter, node: Node) -> Value:
        x = node.args[0]
        dims = _argument(node, 1, "dim") or range(x.meta["val"].ndim)
        axes = w.constant(np.array([dim % x.meta["val"].ndim for dim in dims], np.int64))
        keep = int(bool(_argument(node, 2, "keepdim", False)))
        return w.add(kind, [w.operand(x, node), axes], [node.name], keepdims=keep)

    return write


def _softmax(kind: str) -> Handler:
    def write(w: OnnxWriter, node: Node) -> Value:
        return w.add(kind, [w.name(node.args[0])], [node.name], axis=node.args[1])

    return write


def _average_pool(w: OnnxWriter, node: Node) -> Value:
    x, kernel = node.args[:2]
    stride, padding = _argument(node, 2, "stride") or kernel, _argument(node, 3, "padding") or [0, 0]
    if _argument(node, 4, "ceil_mode", False) or _argument(node, 6, "divisor_override"):
        raise BackendError("average pooling with ceil_mode or divisor_override cannot be exported to ONNX")
    counts = int(_argument(node, 5, "count_include_pad", True))
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": [*padding, *padding], "count_include_pad": counts}
    return w.add("AveragePool", [w.name(x)], [node.name], **attributes)


def _adaptive_average_pool(w: OnnxWriter, node: Node) -> Value:
    inner, outer = node.args[0].meta["val"].shape[2:], node.meta["val"].shape[2:]
    if any(a % b for a, b in zip(inner, outer, strict=True)):
        raise BackendError(f"adaptive average pooling from {tuple(inner)} to {tuple(outer)} has windows of two sizes")
    kernel = [a // b for a, b in zip(inner, outer, strict=True)]
    return w.add("AveragePool", [w.name(node.args[0])], [node.name], kernel_shape=kernel, strides=kernel)


def _nearest(w: OnnxWriter, node: Node) -> Value:
    inner, outer = node.args[0].meta["val"].shape, node.meta["val"].shape
    scales = w.constant(np.array([b / a for a, b in zip(inner, outer, strict=True)], np.float32))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return w.add("Resize", [w.name(node.args[0]), "", scales], [node.name], **how)


def _rows(w: OnnxWriter, node: Node) -> Value:
    x, dim, index = node.args
    return w.add("Gather", [w.name(x), w.name(index)], [node.name], axis=dim)


def _where(w: OnnxWriter, node: Node) -> Value:
    condition, left, right = node.args
    return w.add("Where", [w.name(condition), w.operand(left, node), w.operand(right, node)], [node.name])


def _clamp(w: OnnxWriter, node: Node) -> Value:
    low, high = _argument(node, 1, "min"), _argument(node, 2, "max")
    bounds = ["" if bound is None else w.operand(bound, node) for bound in (low, high)]
    return w.add("Clip", [w.operand(node.args[0], node), *bounds], [node.name])


def _gelu(w: OnnxWriter, node: Node) -> Value:
    approximate = node.kwargs.get("approximate", "none")
    return w.add("Gelu", [w.name(node.args[0])], [node.name], approximate=approximate)


HANDLERS: dict[Any, Handler] = {
    operator.getitem: _item,
    **dict.fromkeys(
        (
            aten.view.default,
            aten._unsafe_view.default,
            aten.reshape.default,
            aten.unsqueeze.default,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
        ),
        _view,
    ),
    **dict.fromkeys((aten.clone.default, aten._to_copy.default), _copy),
    **dict.fromkeys((aten.t.default, aten.transpose.int, aten.permute.default), _permutation),
    **dict.fromkeys((aten.zeros_like.default, aten.new_zeros.default), _filled(0.0)),
    **dict.fromkeys((aten.ones_like.default, aten.new_ones.default), _filled(1.0)),
    aten.expand.default: _expand,
    aten.repeat.default: _repeat,
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), _binary("Add")),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), _binary("Sub")),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), _binary("Mul")),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), _binary("Div")),
    aten.pow.Tensor_Scalar: _binary("Pow"),
    aten.maximum.default: _binary("Max"),
    aten.minimum.default: _binary("Min"),
    aten.neg.default: _unary("Neg"),
    aten.abs.default: _unary("Abs"),
    aten.exp.default: _unary("Exp"),
    aten.log.default: _unary("Log"),
    aten.sqrt.default: _unary("Sqrt"),
    aten.rsqrt.default: _unary("Sqrt", "Reciprocal"),
    aten.reciprocal.default: _unary("Reciprocal"),
    aten.sin.default: _unary("Sin"),
    aten.cos.default: _unary("Cos"),
    aten.erf.default: _unary("Erf"),
    aten.sign.default: _unary("Sign"),
    aten.tanh.default: _unary("Tanh"),
    aten.sigmoid.default: _unary("Sigmoid"),
    aten.relu.default: _unary("Relu"),
    aten.softplus.default: _unary("Softplus"),
    aten.hardsigmoid.default: _unary("HardSigmoid"),
    aten.hardswish.default: _unary("HardSwish"),
    aten.gelu.default: _gelu,
    **dict.fromkeys((aten.gt.Scalar, aten.gt.Tensor), _comparison("Greater")),
    **dict.fromkeys((aten.ge.Scalar, aten.ge.Tensor), _comparison("GreaterOrEqual")),
    **dict.fromkeys((aten.lt.Scalar, aten.lt.Tensor), _comparison("Less")),
    **dict.fromkeys((aten.le.Scalar, aten.le.Tensor), _comparison("LessOrEqual")),
    **dict.fromkeys((aten.eq.Scalar, aten.eq.Tensor), _comparison("Equal")),
    aten.logical_and.default: _comparison("And"),
    aten.bitwise_and.Tensor: _comparison("And"),
    aten.logical_not.default: lambda w, node: w.add("Not", [w.name(node.args[0])], [node.name]),
    aten.bitwise_not.default: lambda w, node: w.add("Not", [w.name(node.args[0])], [node.name]),
    aten.where.self: _where,
    aten.clamp.default: _clamp,
    aten.hardtanh.default: _clamp,
    **dict.fromkeys(
        (aten.mm.default, aten.bmm.default),
        lambda w, node: w.add("MatMul", [w.name(node.args[0]), w.name(node.args[1])], [node.name]),
    ),
    aten.addmm.default: _addmm,
    aten.convolution.default: _convolution,
    aten.native_layer_norm.default: _layer_norm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten._softmax.default: _softmax("Softmax"),
    aten._log_softmax.default: _softmax("LogSoftmax"),
    aten.avg_pool2d.default: _average_pool,
    aten._adaptive_avg_pool2d.default: _adaptive_average_pool,
    aten.upsample_nearest2d.default: _nearest,
    **dict.fromkeys((aten.sum.dim_IntList, aten.sum.default), _reduction("ReduceSum")),
    **dict.fromkeys((aten.mean.dim, aten.mean.default), _reduction("ReduceMean")),
    aten.amax.default: _reduction("ReduceMax"),
    aten.cat.default: _concat,
    aten.stack.default: _stack,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    **dict.fromkeys((aten.split.Tensor, aten.split_with_sizes.default), _split),
    aten.unbind.int: _unbind,
    aten.index_select.default: _rows,
}

EXPORTABLE = frozenset(HANDLERS)
"""Operators that have a form here; all others must be taken apart into these."""
