"""Half-precision weights and activations in a captured float32 graph.

Convolutions, linear layers and attention's products take half-precision operands (their sums accumulate in
float32); embeddings, softmax and batch statistics run in float32, and everything else follows PyTorch's type
promotion. So whatever a network computes on its float32 inputs outside its layers (time features, the conversion
from v to eps) stays float32, and so does the residual stream when its first convolution does.
"""

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

_HALF = (aten.conv2d.default, aten.linear.default)
_PRODUCTS = (aten.matmul.default, aten.bmm.default)
_FLOAT = (aten.softmax.int, aten.batch_norm.default)


def to_half(module: GraphModule, dtype: torch.dtype, attention: torch.dtype, residual: torch.dtype) -> None:
    """Rewrite `module` (from `capture`) in place.

    Args:
        dtype: torch.bfloat16 or torch.float16.
        attention: of attention's products where they are not one fused operator.
        residual: of the residual stream, which starts at the convolution that reads the network's input.
    """
    graph = module.graph
    weights: set[str] = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _HALF and (_embeds(node) or (residual == torch.float32 and _reads_input(node))):
            _cast_arguments(graph, node, slice(0, 1), torch.float32)
        elif node.target in _HALF:
            _cast_arguments(graph, node, slice(0, 1), dtype)
            for argument in node.args[1:3]:
                if isinstance(argument, Node) and argument.op == "get_attr":
                    weights.add(argument.target)
            _cast_arguments(graph, node, slice(1, 3), dtype)
        elif node.target in _PRODUCTS:
            _cast_arguments(graph, node, slice(0, 2), attention)
        elif node.target in _FLOAT:
            _cast_arguments(graph, node, slice(0, 1), torch.float32)
    for path in weights:
        _halve_weight(module, path, dtype)
    graph.lint()
    module.recompile()


def _embeds(node: Node) -> bool:
    """A linear layer of an embedding, one row a sample: exact for next to nothing, and even faster in float32."""
    return node.target is aten.linear.default and node.meta["val"].ndim == 2


def _reads_input(node: Node) -> bool:
    """The convolution at the network's input, with only views, casts and constants before it."""
    source = node.args[0]
    while source.op == "call_function" and len(source.all_input_nodes) == 1:
        source = source.all_input_nodes[0]
    return node.target is aten.conv2d.default and source.op == "placeholder"


def _cast_arguments(graph: Graph, node: Node, which: slice, dtype: torch.dtype) -> None:
    """Insert casts before tensor arguments; weights are left to `_halve_weight`."""
    arguments = list(node.args)
    with graph.inserting_before(node):
        for index in range(len(arguments))[which]:
            argument = arguments[index]
            if isinstance(argument, Node) and argument.op != "get_attr":
                arguments[index] = graph.call_function(aten.to.dtype, (argument, dtype))
    node.args = tuple(arguments)


def _halve_weight(module: GraphModule, path: str, dtype: torch.dtype) -> None:
    """Convert one weight; those of convolutions get channels innermost, which half-precision kernels need."""
    parent_path, _, name = path.rpartition(".")
    parent = module.get_submodule(parent_path)
    tensor = getattr(parent, name).detach().to(dtype)
    if tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    setattr(parent, name, nn.Parameter(tensor, requires_grad=False))
