"""A traced pull-back as ONNX files: one graph for the output, and two that share the work of the gradient.

A T-step loop calls the network T times and then its pull-back T times. With a pull-back that starts from
the inputs, the forward work is done twice; so the traced graph is cut where the gradient comes in:
`forward_saving` computes the output and every tensor that the gradient needs (the residuals), `backward`
the gradients from those.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from backends.base import BackendError
from backends.graphs.capture import capture
from backends.graphs.layout import CHANNELS_FIRST, cancel_transpositions
from backends.graphs.normalisation import Dialect
from backends.graphs.onnx_writer import write_onnx
from backends.graphs.pullback import trace_pullback

if TYPE_CHECKING:
    import onnx

OPSET = 20
OUTPUT, GRAD_OUT = "output", "grad_out"
WEIGHTS, MANIFEST = "weights.bin", "graphs.json"

_RACES = ("Scatter", "GatherND")
_CHEAP = {"Reshape", "Identity", "Cast", "Expand", "Transpose"}  # made again where they are needed
_INLINE_BYTES = 1024


def input_name(index: int) -> str:
    """Of the network's input number `index`. Short names such as "t" collide with those the exporter makes."""
    return f"input_{index}"


def gradient_name(index: int) -> str:
    """Of the gradient with respect to input number `index`, where that is floating-point."""
    return f"grad_{index}"


@dataclass(frozen=True)
class Export:
    """ONNX graphs of one network for static shapes.

    Attributes:
        graphs: "forward": inputs -> output; and either "forward_saving": inputs -> output and residuals,
            with "backward": residuals, grad_out -> gradients; or "pullback": inputs, grad_out -> gradients.
        residuals: names of what backward takes from forward_saving, network inputs included.
        residual_bytes: that those occupy.
    """

    graphs: "dict[str, onnx.ModelProto]"
    residuals: tuple[str, ...]
    residual_bytes: int


def export(
    name: str, network: nn.Module, example_inputs: tuple[Tensor, ...], dialect: Dialect, residuals: bool = True
) -> Export:
    """Capture, differentiate and convert a network.

    Args:
        name: of the network, for messages.
        network: frozen, in evaluation mode, on the CPU, in the dtype the engine is to run in.
        example_inputs: on the CPU; their shapes and dtypes become the graphs'.
        dialect: how normalisation is written.
        residuals: cut the pull-back in two; otherwise it recomputes the forward pass.

    Raises:
        BackendError: the network cannot be captured, or an operator has no safe ONNX form.
    """
    captured = capture(name, network, example_inputs, CHANNELS_FIRST)
    cancel_transpositions(captured)
    joint = trace_pullback(name, captured, example_inputs, dialect)
    floats = [index for index, x in enumerate(example_inputs) if x.is_floating_point()]
    inputs = [*map(input_name, range(len(example_inputs))), GRAD_OUT]
    model = write_onnx(name, joint, inputs, [OUTPUT, *map(gradient_name, floats)], OPSET)
    refuse_races(name, model)
    return _cut(model, len(example_inputs)) if residuals else _whole(model, len(example_inputs))


def refuse_races(name: str, model: "onnx.ModelProto") -> None:
    """The gate of every export.

    ONNX Runtime on the CPU runs ScatterND with a reduction on several threads without locking: gradients
    came out wrong by up to 19 % in one call of five. GatherND is what such a scatter is the gradient of.

    Raises:
        BackendError: the graph holds such an operator.
    """
    found = sorted({node.op_type for node in model.graph.node if node.op_type.startswith(_RACES)})
    if found:
        raise BackendError(
            f"{name} exports to {', '.join(found)}, which ONNX Runtime computes wrongly on several threads; write "
            "its indexing as slices, reshapes or a lookup of whole rows, or use backend eager or compile"
        )


# Cutting ----------------------------------------------------------------------------------------------


def _extracted(model: "onnx.ModelProto", inputs: list[str], outputs: list[str]) -> "onnx.ModelProto":
    from onnx.utils import Extractor

    return Extractor(model).extract_model(inputs, outputs)


def _whole(model: "onnx.ModelProto", count: int) -> Export:
    inputs = [*map(input_name, range(count))]
    gradients = [value.name for value in model.graph.output if value.name != OUTPUT]
    pullback = _extracted(model, [*inputs, GRAD_OUT], gradients)
    return Export({"forward": _extracted(model, inputs, [OUTPUT]), "pullback": pullback}, (), 0)


def _cut(model: "onnx.ModelProto", count: int) -> Export:
    inputs = [*map(input_name, range(count))]
    gradients = [value.name for value in model.graph.output if value.name != OUTPUT]
    residuals = _residuals(model)
    saved = [name for name in residuals if name not in inputs]
    graphs = {
        "forward": _extracted(model, inputs, [OUTPUT]),
        "forward_saving": _extracted(model, inputs, [OUTPUT, *saved]),
        "backward": _extracted(model, [*residuals, GRAD_OUT], gradients),
    }
    return Export(graphs, residuals, sum(map(_bytes, graphs["forward_saving"].graph.output[1:])))


def _residuals(model: "onnx.ModelProto") -> tuple[str, ...]:
    """What nodes that depend on the output's gradient take from nodes that do not."""
    producer = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    dependent = {GRAD_OUT}
    taken: dict[str, None] = {}
    for node in model.graph.node:  # in topological order
        if dependent.intersection(node.input):
            dependent.update(node.output)
            taken.update(dict.fromkeys(node.input))
        elif constants.issuperset(node.input):
            constants.update(node.output)
    residuals: dict[str, None] = {}
    for name in taken:
        if name in dependent:
            continue
        while name in producer and producer[name].op_type in _CHEAP:
            name = producer[name].input[0]
        if name not in constants:
            residuals[name] = None
    return tuple(residuals)


def _bytes(value: "onnx.ValueInfoProto") -> int:
    import onnx

    kind = value.type.tensor_type
    return (
        int(np.prod([d.dim_value for d in kind.shape.dim]))
        * onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
    )


# Writing ----------------------------------------------------------------------------------------------


def write(exported: Export, folder: Path) -> None:
    """Write `<graph>.onnx` for each graph, `weights.bin` with the weights of all of them once, and `graphs.json`."""
    import onnx

    offsets: dict[tuple[str, int], int] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for label, model in exported.graphs.items():
            for tensor in model.graph.initializer:
                data = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(data) > _INLINE_BYTES:
                    key = (tensor.name, len(data))
                    if key not in offsets:
                        file.write(b"\0" * (-file.tell() % 64))
                        offsets[key] = file.tell()
                        file.write(data)
                    _make_external(tensor, offsets[key], len(data))
            onnx.save(model, folder / f"{label}.onnx")
    facts = {
        "nodes": {label: len(model.graph.node) for label, model in exported.graphs.items()},
        "residuals": exported.residuals,
        "residual_bytes": exported.residual_bytes,
    }
    (folder / MANIFEST).write_text(json.dumps(facts, indent=1))


def _make_external(tensor: "onnx.TensorProto", offset: int, length: int) -> None:
    import onnx

    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
