"""Group normalisation with everything per channel that follows it as one function with a short gradient."""

from typing import Literal

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten

Dialect = Literal["ln", "explicit"]
"""How statistics are written: "ln" as LayerNormalization, which ONNX Runtime runs as one kernel;
"explicit" as primitives in float32, for TensorRT, whose parser takes that operator's first output only."""


class ScaleShiftNorm(torch.autograd.Function):
    """y = x^ * scale + shift, where x^ is x with zero mean and unit variance over each group of channels.

    The gradient needs sums per channel only, which are the gradients of scale and shift as well:
    with a = scale, s1 = sum(g), s2 = sum(g x^) over positions and M the mean over a group,
    dx = (g a - M(a s1) - x^ M(a s2)) / sigma. Statistics and sums are float32.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        groups: int,
        eps: float,
        dialect: Dialect,
    ) -> Tensor:
        """x: (B, C, ...); scale, shift: (B or 1, C, 1, ...)."""
        grouped = x.reshape(x.shape[0], groups, -1)
        if dialect == "ln":
            normal, _, rstd = aten.native_layer_norm.default(grouped, [grouped.shape[-1]], None, None, eps)
        else:
            centred = grouped.float() - grouped.float().mean(-1, keepdim=True)
            rstd = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
            normal = (centred * rstd).to(x.dtype)
        ctx.save_for_backward(normal, rstd, scale, shift)
        return normal.reshape(x.shape) * scale + shift

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        normal, rstd, scale, shift = ctx.saved_tensors
        batch, channels, *_ = grad.shape
        groups, size = normal.shape[1:]
        inner = (batch, groups, channels // groups)
        g, normal = grad.reshape(*inner, -1), normal.reshape(*inner, -1)
        rstd, factor = rstd.reshape(batch, groups, 1), scale.reshape(-1, *inner[1:]).float()
        weight = factor * (rstd / size)
        # Innermost dimensions are summed: ONNX Runtime takes three times as long for others.
        shift_sum, scale_sum = g.float().sum(3), (g * normal).float().sum(3)
        offset, along = ((sums * weight).sum(2).to(g.dtype)[..., None, None] for sums in (shift_sum, scale_sum))
        dx = g * (factor * rstd).to(g.dtype)[..., None] - (normal * along + offset)
        sums = _summed_like(scale_sum, scale), _summed_like(shift_sum, shift)
        return dx.reshape(grad.shape), *sums, None, None, None


def _summed_like(sums: Tensor, like: Tensor) -> Tensor:
    """Sums (B, G, C / G) in the shape of a scale or shift, which the whole batch may share."""
    sums = sums if like.shape[0] == sums.shape[0] else sums.sum(0, keepdim=True)
    return sums.reshape(like.shape).to(like.dtype)


def scale_shift_norm(x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, dialect: Dialect) -> Tensor:
    """`ScaleShiftNorm` as a function that a graph can call."""
    return ScaleShiftNorm.apply(x, scale, shift, groups, eps, dialect)


def merge_normalisations(module: GraphModule, dialect: Dialect) -> None:
    """Replace every group norm, and the products and sums per channel behind it, by `ScaleShiftNorm`.

    Args:
        module: a captured graph whose nodes carry `meta["val"]`; changed in place.
    """
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=aten.group_norm.default):
        x, groups, weight, bias, eps = (*node.args, *(None, None, None, None, 1e-5)[len(node.args) :])[:5]
        per_channel = (1, node.meta["val"].shape[1], *[1] * (node.meta["val"].ndim - 2))
        chain = _affine_chain(node)
        last = chain[-1][0] if chain else node
        with graph.inserting_before(last):

            def parameter(value: Node | None, default: float) -> Node:
                if value is None:
                    meta = node.meta["val"]  # noqa: B023 - used within this turn of the loop
                    options = {"dtype": meta.dtype, "device": meta.device}
                    return graph.call_function(aten.full.default, (per_channel, default), options)  # noqa: B023
                return graph.call_function(aten.reshape.default, (value, per_channel))  # noqa: B023

            scale, shift = parameter(weight, 1.0), parameter(bias, 0.0)
            for user, operand in chain:
                if user.target is aten.mul.Tensor:
                    scale = graph.call_function(aten.mul.Tensor, (scale, operand))
                    shift = graph.call_function(aten.mul.Tensor, (shift, operand))
                else:
                    shift = graph.call_function(aten.add.Tensor, (shift, operand))
            merged = graph.call_function(scale_shift_norm, (x, scale, shift, groups, eps, dialect))
        merged.meta.update(last.meta)
        last.replace_all_uses_with(merged)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()


def _affine_chain(node: Node) -> list[tuple[Node, Node]]:
    """(product or sum, its other operand) that follow each other without another user in between."""
    chain: list[tuple[Node, Node]] = []
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.target not in (aten.mul.Tensor, aten.add.Tensor) or user.kwargs:
            break
        operand = user.args[1] if user.args[0] is node else user.args[0]
        if operand is node or not isinstance(operand, Node) or not _per_channel(operand, node):
            break
        chain.append((user, operand))
        node = user
    return chain


def _per_channel(operand: Node, node: Node) -> bool:
    """Whether the operand is constant over all positions of a channel."""
    shape, full = operand.meta["val"].shape, node.meta["val"].shape
    return len(shape) == len(full) and shape[0] in (1, full[0]) and shape[1] == full[1] and set(shape[2:]) == {1}
