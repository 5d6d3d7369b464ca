"""What is collected while a graph is written as ONNX."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from backends.base import BackendError

if TYPE_CHECKING:
    import onnx

Value = str | list[str]
"""Name of an ONNX value; several for operators with several results."""


class OnnxWriter:
    """Collects the nodes and weights of one ONNX graph.

    Attributes:
        nodes, weights: what has been written so far.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.values: dict[Node, Value] = {}

    def add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Value:
        """One ONNX node; returns the name of its output, or the names where there are several."""
        import onnx

        self.nodes.append(onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def constant(self, value: np.ndarray) -> str:
        """An initializer, shared by all who ask for the same value."""
        import onnx

        name = f"constant_{value.dtype}_{value.shape}_{value.tobytes().hex()}" if value.size <= 8 else None
        name = name or f"constant_{len(self.weights)}"
        if name not in self.weights:
            self.weights[name] = onnx.numpy_helper.from_array(value, name)
        return name

    def name(self, node: Node) -> str:
        """The value of a node with one result."""
        value = self.values[node]
        if not isinstance(value, str):
            raise BackendError(f"{node.name} has several results where one is expected")
        return value

    def operand(self, value: Node | float, like: Node) -> str:
        """A node or a Python number as a value of the dtype of `like`."""
        dtype = like.meta["val"].dtype
        if not isinstance(value, Node):
            return self.constant(torch.tensor(value, dtype=dtype).numpy())
        if value.meta["val"].dtype == dtype:
            return self.name(value)
        return self.cast(self.name(value), dtype, f"{like.name}.{value.name}")

    def cast(self, value: str, dtype: torch.dtype, output: str) -> str:
        self.add("Cast", [value], [output], to=element_type(dtype))
        return output

    def reshape(self, value: str, shape: tuple[int, ...], output: str) -> str:
        self.add("Reshape", [value, self.constant(np.array(shape, np.int64))], [output])
        return output


def element_type(dtype: torch.dtype) -> int:
    """ONNX's number for a dtype."""
    import onnx

    return onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype)
