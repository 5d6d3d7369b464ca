"""How much memory a network's activations take between its forward and its backward pass."""

import math

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten

_NORMS = (aten.group_norm.default, torch.ops.counterfactual.group_norm_silu.default)
_KEEP_INPUTS = (aten.matmul.default, aten.bmm.default, aten.silu.default, *_NORMS)
_KEEP_OUTPUT = (aten.softmax.int, aten.sigmoid.default)


def residual_bytes(module: GraphModule, dtype: torch.dtype) -> int:
    """Bytes that one call stores for its gradient, with frozen weights; an estimate.

    Counts what closed-form gradients need: inputs of normalisations, activations and matrix products, and
    outputs of softmax. Convolutions and linear layers with frozen weights need nothing.

    Args:
        module: from `capture`, before or after its rewriting; nodes carry `meta["val"]`.
        dtype: of the stored activations.
    """
    stored: set[Node] = set()
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in _KEEP_INPUTS:
            stored.update(_origin(argument) for argument in node.args if isinstance(argument, Node))
        elif node.target in _KEEP_OUTPUT:
            stored.add(node)
    sizes = (math.prod(node.meta["val"].shape) for node in stored if node.op != "get_attr" and "val" in node.meta)
    return sum(sizes) * dtype.itemsize


def _origin(node: Node) -> Node:
    """The tensor that a cast or a view of it is made from, so that none is counted twice."""
    while node.op == "call_function" and node.target in (
        aten.to.dtype, aten.view.default, aten.reshape.default, aten.transpose.int, aten.expand.default,
    ):  # fmt: skip
        node = node.args[0]
    return node
