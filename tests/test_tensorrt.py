"""What of the TensorRT backend can be tested without TensorRT: its graphs, keys, shapes and binding."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backends import cache
from backends.base import BackendError
from backends.engines import EngineNetwork
from backends.tensorrt_engines import Port, TensorRtBackend, TensorRtConfig, bind, engine_facts, explicit_graphs
from tests.conftest import CPU
from tests.test_onnx import assert_exact, everything, gradients

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# Operators that the parser of onnx-tensorrt is expected to take; LayerNormalization is left out: it takes one output.
SUPPORTED = {
    *("Add", "AveragePool", "BatchNormalization", "Cast", "Concat", "Conv", "ConvTranspose", "Cos", "Div", "Exp"),
    *("Expand", "Gather", "Gemm", "Greater", "Identity", "MatMul", "Mul", "Pow", "Reciprocal", "ReduceMean"),
    *("ReduceSum", "Relu", "Reshape", "Resize", "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Sub", "Tanh"),
    *("Tile", "Transpose", "Where", "Erf", "LessOrEqual", "GreaterOrEqual", "Clip", "Neg"),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


def graphs_of(precision: str = "float32", residuals: bool = True) -> tuple[Path, nn.Module, tuple[Tensor, ...]]:
    network, inputs = everything()
    return explicit_graphs("everything", network, inputs, precision, residuals).folder, network, inputs


@pytest.mark.parametrize(("precision", "limit"), [("float32", 2e-5), ("float16", 2e-2)])
def test_explicit_graphs_have_the_gradients_of_float64(precision: str, limit: float) -> None:
    from backends.exports import DTYPES
    from backends.onnx_runtime import OnnxConfig, OnnxEngine

    folder, network, inputs = graphs_of(precision)
    engine = OnnxEngine("everything", folder, "cpu", CPU, inputs, DTYPES[precision], OnnxConfig())
    values = gradients(EngineNetwork("everything", engine, inputs, DTYPES[precision]), inputs)
    assert_exact(values, gradients(network.double(), inputs, torch.float64), limit)


@pytest.mark.parametrize("residuals", [True, False])
def test_graphs_are_static_and_hold_only_operators_that_tensorrt_reads(residuals: bool) -> None:
    folder, _, inputs = graphs_of("float16", residuals)
    for path in folder.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        assert {node.op_type for node in model.graph.node} <= SUPPORTED
        for value in (*model.graph.input, *model.graph.output):
            assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim), value.name
        by_name = {value.name: value for value in model.graph.input}
        for index, x in enumerate(inputs):
            if f"input_{index}" in by_name:
                shape = by_name[f"input_{index}"].type.tensor_type.shape
                assert [dim.dim_value for dim in shape.dim] == list(x.shape)


def test_group_statistics_stay_float32_in_float16_graphs() -> None:
    folder, _, _ = graphs_of("float16")
    model = onnx.shape_inference.infer_shapes(onnx.load(folder / "forward.onnx"))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    roots = [node for node in model.graph.node if node.op_type == "Sqrt"]
    assert len(roots) == 3  # one for each normalisation over features
    assert all(kinds[node.output[0]] == onnx.TensorProto.FLOAT for node in roots)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    assert all(kinds[node.output[0]] == onnx.TensorProto.FLOAT16 for node in convolutions)


def test_residuals_of_one_graph_are_the_inputs_of_the_other() -> None:
    folder, _, _ = graphs_of("float16")

    def ports(label: str) -> tuple[dict[str, object], dict[str, object]]:
        graph = onnx.load(folder / f"{label}.onnx", load_external_data=False).graph
        return ({v.name: v.type for v in graph.input}, {v.name: v.type for v in graph.output})

    given, saved = ports("forward_saving")
    taken, found = ports("backward")
    assert "output" in saved
    assert set(found) == {"grad_0", "grad_2"}
    for name, kind in taken.items():
        assert name == "grad_out" or kind == (given | saved)[name]
    assert list(json.loads((folder / "graphs.json").read_text())["residuals"]) == [n for n in taken if n != "grad_out"]


def test_binding_is_by_name_and_refuses_other_tensors() -> None:
    ports = [
        Port("output", False, (2, 4), torch.float16),
        Port("input_1", True, (2,), torch.int64),
        Port("input_0", True, (2, 3), torch.float16),
    ]
    x, t = torch.zeros(2, 3, dtype=torch.float16), torch.zeros(2, dtype=torch.int64)
    bound = bind(ports, {"input_0": x, "input_1": t, "unused": t}, CPU)
    assert list(bound) == ["output", "input_1", "input_0"]
    assert bound["input_0"] is x and bound["input_1"] is t
    assert (bound["output"].shape, bound["output"].dtype) == ((2, 4), torch.float16)
    for wrong in (x.float(), x[:1], x.new_zeros(3, 2).t()):
        with pytest.raises(BackendError, match=r"engine input input_0 takes \(2, 3\) torch.float16"):
            bind(ports, {"input_0": wrong, "input_1": t}, CPU)
    with pytest.raises(BackendError, match="input_1 .* not nothing"):
        bind(ports, {"input_0": x}, CPU)


def test_every_fact_changes_the_engine_key() -> None:
    folder, _, _ = graphs_of()
    half, _, _ = graphs_of("float16")
    base = (folder, "11.4.0", "NVIDIA A100", (8, 0))
    variants = [
        base,
        (half, *base[1:]),
        (folder, "11.3.0", *base[2:]),
        (*base[:2], "NVIDIA A10", (8, 0)),
        (*base[:3], (8, 6)),
    ]
    keys = [cache.content_key(engine_facts(*variant)) for variant in variants]
    assert len(set(keys)) == len(keys)
    assert keys[0] == cache.content_key(engine_facts(*base))


def test_it_says_what_is_missing() -> None:
    reason = TensorRtBackend.unavailable()
    if reason is None:
        pytest.skip("TensorRT is here")
    assert "CUDA" in reason
    assert "pip install -e .[onnx,gpu]" in reason
    network, inputs = everything()
    with pytest.raises(BackendError, match="tensorrt needs an NVIDIA GPU"):
        TensorRtBackend(TensorRtConfig(), CPU).prepare("everything", network, inputs)
