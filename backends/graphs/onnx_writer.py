"""A static ATen graph written as ONNX, operator by operator.

torch.onnx.export takes 10 to 30 s for the gradient of a small UNet, chooses GatherND for a table look-up,
and cannot be told otherwise; for static shapes, after the decompositions of `pullback`, about sixty
operators remain. Each export is compared with PyTorch before it is used.
"""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.fx import GraphModule

from backends.base import BackendError
from backends.graphs.onnx_nodes import OnnxWriter, element_type
from backends.graphs.onnx_operators import HANDLERS

if TYPE_CHECKING:
    import onnx

_IR_VERSION = 10  # of opset 20 and 21; newer ones are refused by older ONNX Runtimes


def write_onnx(
    name: str, module: GraphModule, input_names: list[str], output_names: list[str], opset: int
) -> "onnx.ModelProto":
    """Convert a functional graph with static shapes.

    Args:
        name: of the network, for messages.
        module: nodes carry `meta["val"]`; returns a tuple of tensors.

    Raises:
        BackendError: an operator has no form here; the text names it.
    """
    import onnx

    writer = OnnxWriter()
    placeholders = module.graph.find_nodes(op="placeholder")
    writer.values |= dict(zip(placeholders, input_names, strict=True))
    results = list(module.graph.output_node().args[0])
    for node in module.graph.nodes:
        if node.op == "get_attr":
            weight = getattr(module, node.target).detach().numpy()
            writer.weights[node.name] = onnx.numpy_helper.from_array(weight, node.name)
            writer.values[node] = node.name
        elif node.op == "call_function":
            handler = HANDLERS.get(node.target)
            if handler is None:
                raise BackendError(
                    f"{name} uses {node.target}, which cannot be exported to ONNX; use backend eager or compile, or "
                    "add it to backends/graphs/onnx_operators.py"
                )
            writer.values[node] = handler(writer, node)
    for result, output in zip(results, output_names, strict=True):
        writer.add("Identity", [writer.name(result)], [output])
    inputs = [_info(given, node.meta["val"]) for given, node in zip(input_names, placeholders, strict=True)]
    outputs = [_info(given, node.meta["val"]) for given, node in zip(output_names, results, strict=True)]
    graph = onnx.helper.make_graph(
        writer.nodes, name, inputs, outputs, list(writer.weights.values()), value_info=_infos(writer)
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)


def _info(name: str, value: Tensor) -> "onnx.ValueInfoProto":
    import onnx

    return onnx.helper.make_tensor_value_info(name, element_type(value.dtype), list(value.shape))


def _infos(writer: OnnxWriter) -> "list[onnx.ValueInfoProto]":
    """Shapes of all values that nodes stand for, so that the graph can be cut anywhere; the rest is inferred."""
    infos = []
    for node, value in writer.values.items():
        meta = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, str) and isinstance(meta, Tensor):
            infos.append(_info(value, meta))
    return list({info.name: info for info in infos}.values())
