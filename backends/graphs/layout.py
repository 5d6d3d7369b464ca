"""Linear layers and attention with channels before positions, as convolutions leave them.

Networks transpose (B, C, L) to (B, L, C) for every linear layer over positions and back. Here such a layer
is a convolution with a 1x1 kernel and attention works on (B, heads, C / heads, L); what is left of the
network's own transpositions then cancels in pairs.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node

from backends.base import BackendError
from backends.graphs.capture import Decompositions
from backends.graphs.pooling import max_pooling

aten = torch.ops.aten


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer over (B, L, C) as a 1x1 convolution of (B, C, L, 1); others stay as they are."""
    if x.ndim != 3:
        return NotImplemented
    return F.conv2d(x.transpose(1, 2).unsqueeze(3), weight[:, :, None, None], bias).squeeze(3).transpose(1, 2)


def convolution_1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, ...] = (1,),
    padding: tuple[int, ...] = (0,),
    dilation: tuple[int, ...] = (1,),
    groups: int = 1,
) -> Tensor:
    """A convolution of (B, C, L) as one of (B, C, L, 1).

    Raises:
        BackendError: the padding is given as a word.
    """
    if isinstance(padding, str):
        raise BackendError("1-d convolutions are supported with their padding as a number")
    steps = [[first, other] for (first,), other in ((stride, 1), (padding, 0), (dilation, 1))]
    return F.conv2d(x.unsqueeze(3), weight.unsqueeze(3), bias, *steps, groups).squeeze(3)


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
    """softmax(q k^T / sqrt(d)) v in float32 for (B, heads, L, d), computed on (B heads, d, L).

    Raises:
        BackendError: masks, dropout, grouped queries or another rank.
    """
    if attn_mask is not None or is_causal or dropout_p or enable_gqa or query.ndim != 4:
        raise BackendError("attention with a mask, dropout, grouped queries or not over (B, heads, L, d)")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    q, k, v = (x.transpose(-1, -2).flatten(0, 1).float() for x in (query, key, value))
    weights = torch.softmax(torch.bmm((q * factor).transpose(1, 2), k), -1)
    mixed = torch.bmm(v, weights.transpose(1, 2)).to(value.dtype)
    return mixed.unflatten(0, query.shape[:2]).transpose(-1, -2)


CHANNELS_FIRST: Decompositions = {
    aten.linear.default: linear,
    aten.conv1d.default: convolution_1d,
    aten.scaled_dot_product_attention.default: attention,
    aten.max_pool2d.default: max_pooling,
}

_VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)
_PERMUTATIONS = (aten.transpose.int, aten.permute.default, aten.t.default)


def cancel_transpositions(module: GraphModule) -> None:
    """Compose permutations, and move them behind views that split or merge the channels only.

    Args:
        module: a captured graph whose nodes carry `meta["val"]`; changed in place.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in _VIEWS:
            # What is viewed may now lie in memory in another order.
            node.target = aten.reshape.default
            _move_behind(node)
        elif node.target in _PERMUTATIONS:
            source, order = _unpermuted(node)
            if source is not node.args[0] or order == sorted(order):
                with graph.inserting_before(node):
                    node.replace_all_uses_with(_permuted(source, order))
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()


def _move_behind(node: Node) -> None:
    """view(permute(x)) as permute(view(x)), for (B, L, C) of (B, C, L) to or from (B, L, heads, C / heads)."""
    source, order = _unpermuted(node.args[0])
    old, new = tuple(source.meta["val"].shape), tuple(node.meta["val"].shape)
    if order == [0, 2, 1] and len(new) == 4 and new[:2] == (old[0], old[2]):
        shape, behind = (old[0], new[2], new[3], old[2]), [0, 3, 1, 2]
    elif order == [0, 3, 1, 2] and len(new) == 3 and new[:2] == (old[0], old[3]):
        shape, behind = (old[0], old[1] * old[2], old[3]), [0, 2, 1]
    else:
        return
    with node.graph.inserting_before(node):
        viewed = _call(aten.reshape.default, source, shape)
        node.replace_all_uses_with(_permuted(viewed, behind))


def _unpermuted(node: Node) -> tuple[Node, list[int]]:
    """(x, order) such that the node is x.permute(order), copies looked through."""
    order = list(range(node.meta["val"].ndim))
    while node.target in (*_PERMUTATIONS, aten.clone.default):
        if node.target is not aten.clone.default:
            own = _order(node)
            order = [own[dim] for dim in order]
        node = node.args[0]
    return node, order


def _order(node: Node) -> list[int]:
    count = node.meta["val"].ndim
    if node.target is aten.permute.default:
        return [dim % count for dim in node.args[1]]
    order = list(range(count))
    first, second = (0, 1) if node.target is aten.t.default else (dim % count for dim in node.args[1:3])
    order[first], order[second] = order[second], order[first]
    return order


def _permuted(source: Node, order: list[int]) -> Node:
    return source if order == sorted(order) else _call(aten.permute.default, source, order)


def _call(target: Any, source: Node, argument: Any) -> Node:
    node = source.graph.call_function(target, (source, argument))
    node.meta["val"] = target(source.meta["val"], argument)
    return node
