"""Rewriting GroupNorm with what follows it into one operator (see backends/kernels/group_norm_silu.py)."""

import operator

import torch
from torch.fx import Graph, GraphModule, Node

from backends.kernels import group_norm_silu  # noqa: F401  (registers the operator)

aten = torch.ops.aten

_EPSILON = 1e-5  # of torch.nn.functional.group_norm


def fuse_group_norm(module: GraphModule) -> int:
    """Replace every group_norm, the per-channel products and sums after it, and a SiLU after those.

    A UNet block computes silu((GN(x) * w + b) * (1 + s) + t), perhaps times (1 + z) again. All factors are
    constant over positions, so they are folded into one scale and one shift for each sample and channel.

    Args:
        module: from `capture`; changed in place.

    Returns:
        How many were replaced.
    """
    graph, count = module.graph, 0
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is aten.group_norm.default:
            _fuse(graph, node)
            count += 1
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return count


def _fuse(graph: Graph, norm: Node) -> None:
    x, groups, weight, bias = (*norm.args, None, None)[:4]
    eps = norm.args[4] if len(norm.args) > 4 else _EPSILON
    batch, channels = norm.meta["val"].shape[:2]
    with graph.inserting_before(norm):
        scale, shift = (_as_rows(graph, given, batch, channels, fill) for given, fill in ((weight, 1.0), (bias, 0.0)))
    last = norm
    while (following := _only_user(last)) is not None and (factor := _channel_operand(following, last)) is not None:
        with graph.inserting_before(following):
            row = graph.call_function(aten.reshape.default, (factor, [batch, channels]))
            row = graph.call_function(aten.to.dtype, (row, torch.float32))
            if following.target is aten.mul.Tensor:
                scale = graph.call_function(aten.mul.Tensor, (scale, row))
                shift = graph.call_function(aten.mul.Tensor, (shift, row))
            else:
                shift = graph.call_function(aten.add.Tensor, (shift, row))
        last = following
    following = _only_user(last)
    silu = following is not None and following.target is aten.silu.default
    if silu:
        last = following
    with graph.inserting_before(last):
        fused = graph.call_function(
            torch.ops.counterfactual.group_norm_silu.default, (x, scale, shift, groups, eps, silu)
        )
        result = graph.call_function(operator.getitem, (fused, 0))
    result.meta = dict(last.meta)
    last.replace_all_uses_with(result)


def _as_rows(graph: Graph, given: Node | None, batch: int, channels: int, fill: float) -> Node:
    """The norm's own weight or bias as float32 (batch, channels)."""
    if given is None:
        return graph.call_function(aten.full.default, ([batch, channels], fill), {"dtype": torch.float32})
    row = graph.call_function(aten.unsqueeze.default, (given, 0))
    return graph.call_function(aten.expand.default, (row, [batch, channels]))


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _channel_operand(user: Node, node: Node) -> Node | None:
    """The other operand of `node * o` or `node + o` where o is (batch, channels, 1, ...), else None."""
    if user.op != "call_function" or user.target not in (aten.mul.Tensor, aten.add.Tensor) or user.kwargs:
        return None
    other = user.args[1] if user.args[0] is node else user.args[0]
    if not isinstance(other, Node) or "val" not in other.meta:
        return None
    shape = node.meta["val"].shape
    return other if tuple(other.meta["val"].shape) == (*shape[:2], *[1] * (len(shape) - 2)) else None
