"""TensorRT: native engines built from the same ONNX graphs, kept in the cache folder.

Written against the names of TensorRT 11.4's Python API, which 10.x shares. Networks are strongly typed, the
only kind TensorRT 11 knows: what is float16 and what stays float32 (statistics, attention) is in the graph.
"""

import importlib.util
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from backends.base import Backend, BackendConfig, BackendError, frozen_copy
from backends.cache import Entry, cached
from backends.engines import GOLDEN, Engine, EngineNetwork, check_golden
from backends.exports import DTYPES, export_facts, export_network
from backends.graphs import onnx_export

if TYPE_CHECKING:
    import tensorrt

_CURE = "tensorrt needs an NVIDIA GPU with CUDA, and: pip install -e .[onnx,gpu]"


class TensorRtConfig(BackendConfig):
    """Options of the TensorRT backend.

    Attributes:
        precision: "auto" is float16 with statistics and attention in float32.
        residuals: as in the onnx backend.
    """

    precision: Literal["auto", "float32", "float16"] = "auto"
    residuals: bool = True


class TensorRtBackend(Backend):
    """Builds one engine for each graph of each network, for this GPU and this TensorRT."""

    name = "tensorrt"
    options = TensorRtConfig
    config: TensorRtConfig

    @staticmethod
    def unavailable() -> str | None:
        if not torch.cuda.is_available():
            return f"no CUDA device here; {_CURE}"
        missing = [name for name in ("onnx", "tensorrt") if importlib.util.find_spec(name) is None]
        return f"{' and '.join(missing)} not installed; {_CURE}" if missing else None

    def validate(self) -> None:
        if self.device.type != "cuda":
            raise BackendError(f"tensorrt runs on CUDA, not on {self.device}; use --device cuda")

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        begun = time.perf_counter()
        reference = frozen_copy(network, self.device)
        reason = self.unavailable()
        if reason:
            raise BackendError(reason)
        self.validate()
        import tensorrt

        precision = "float16" if self.config.precision == "auto" else self.config.precision
        graphs = explicit_graphs(name, reference, example_inputs, precision, self.config.residuals)
        capability = torch.cuda.get_device_capability(self.device)
        facts = engine_facts(graphs.folder, tensorrt.__version__, torch.cuda.get_device_name(self.device), capability)
        entry = cached("tensorrt", facts, lambda folder: build_engines(name, graphs.folder, folder))
        engine = TensorRtEngine(name, entry.folder, example_inputs)
        prepared = EngineNetwork(name, engine, example_inputs, DTYPES[precision])
        deviation = check_golden(entry.folder, prepared, example_inputs, entry.hit)
        self.report.networks[name] = {
            "dtype": str(DTYPES[precision]),
            "provider": "TensorRT",
            "cache": "hit" if entry.hit else "miss",
            "build_seconds": round(time.perf_counter() - begun, 3),
            "opset": onnx_export.OPSET,
            "golden_deviation": float(f"{deviation:.1e}"),
            "tensorrt": tensorrt.__version__,
            **json.loads((entry.folder / onnx_export.MANIFEST).read_text()),
        }
        return prepared


def explicit_graphs(
    name: str, network: nn.Module, example_inputs: tuple[Tensor, ...], precision: str, residuals: bool
) -> Entry:
    """The cache entry with the ONNX graphs that TensorRT reads."""
    facts = export_facts(network, example_inputs, precision, "explicit", residuals)
    return cached(
        "onnx",
        facts,
        lambda folder: export_network(folder, name, network, example_inputs, precision, "explicit", residuals),
    )


def engine_facts(graphs: Path, version: str, gpu: str, capability: tuple[int, int]) -> dict[str, Any]:
    """Everything an engine depends on; the key of its cache entry.

    Args:
        graphs: cache entry of the ONNX files. Their hashes stand for graph, weights, shapes and precision.
        version: of TensorRT; its engines are not portable between versions.
        gpu, capability: of the device the engine is tuned for.
    """
    manifest = json.loads((graphs / "entry.json").read_text())
    return {"graphs": manifest["sha256"], "tensorrt": version, "gpu": gpu, "capability": list(capability)}


def build_engines(name: str, graphs: Path, folder: Path) -> None:
    """Build `<graph>.engine` from every `<graph>.onnx`; takes minutes.

    Raises:
        BackendError: TensorRT refuses an operator, or finds no implementation.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    for path in sorted(graphs.glob("*.onnx")):
        # Ignored by TensorRT 11, where every network is strongly typed; asked for in 10.
        definition = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(definition, logger)
        if not parser.parse_from_file(str(path)):
            reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise BackendError(f"{name}: TensorRT {trt.__version__} cannot read {path.name}: {reasons}")
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32
        plan = builder.build_serialized_network(definition, config)
        if plan is None:
            raise BackendError(
                f"{name}: TensorRT {trt.__version__} could not build {path.name}; its messages are above"
            )
        (folder / f"{path.stem}.engine").write_bytes(plan)
    for shared in (GOLDEN, onnx_export.MANIFEST):
        shutil.copy(graphs / shared, folder / shared)


@dataclass(frozen=True)
class Port:
    """An input or output of an engine, by name: TensorRT 10 and later bind by name, not by position."""

    name: str
    is_input: bool
    shape: tuple[int, ...]
    dtype: torch.dtype


def bind(ports: list[Port], given: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """One tensor for each port: those given for inputs, new ones for outputs.

    Raises:
        BackendError: an input is missing, or not what the engine was built for; it would be read as it lies.
    """
    bound: dict[str, Tensor] = {}
    for port in ports:
        if not port.is_input:
            bound[port.name] = torch.empty(port.shape, dtype=port.dtype, device=device)
            continue
        x = given.get(port.name)
        if x is None or (tuple(x.shape), x.dtype) != (port.shape, port.dtype) or not x.is_contiguous():
            found = "nothing" if x is None else f"{tuple(x.shape)} {x.dtype}"
            raise BackendError(f"engine input {port.name} takes {port.shape} {port.dtype}, contiguous, not {found}")
        bound[port.name] = x
    return bound


class TensorRtEngine(Engine):
    """Deserialised engines of one network. Only files that `cached` has verified come here."""

    def __init__(self, name: str, folder: Path, example_inputs: tuple[Tensor, ...]) -> None:
        import tensorrt as trt

        self.device = example_inputs[0].device
        self.names = [onnx_export.input_name(index) for index in range(len(example_inputs))]
        self.gradients = {
            index: onnx_export.gradient_name(index) for index, x in enumerate(example_inputs) if x.is_floating_point()
        }
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engines: dict[str, tensorrt.ICudaEngine] = {}
        for path in sorted(folder.glob("*.engine")):
            engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
            if engine is None:
                raise BackendError(f"{name}: TensorRT does not load {path}; delete {folder} and run again")
            self.engines[path.stem] = engine
        self.contexts = {label: engine.create_execution_context() for label, engine in self.engines.items()}
        self.ports = {label: _ports(engine) for label, engine in self.engines.items()}

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self._run("forward", self._named(inputs))[onnx_export.OUTPUT]

    def forward_saving(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, object]:
        if "forward_saving" not in self.engines:
            return self.forward(inputs), {}
        residuals = self._run("forward_saving", self._named(inputs))
        return residuals.pop(onnx_export.OUTPUT), residuals

    def backward(self, inputs: tuple[Tensor, ...], residuals: object, grad_out: Tensor) -> dict[int, Tensor]:
        label = "backward" if "backward" in self.engines else "pullback"
        found = self._run(label, self._named(inputs) | residuals | {onnx_export.GRAD_OUT: grad_out})
        return {index: found[name] for index, name in self.gradients.items()}

    def _named(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(zip(self.names, inputs, strict=True))

    def _run(self, label: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Enqueue on PyTorch's stream, so that neither waits for the other; returns the outputs by name."""
        context, ports = self.contexts[label], self.ports[label]
        bound = bind(ports, given, self.device)
        for name, x in bound.items():
            context.set_tensor_address(name, x.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise BackendError(f"TensorRT failed to run {label}; its messages are above")
        return {port.name: bound[port.name] for port in ports if not port.is_input}


def _ports(engine: "tensorrt.ICudaEngine") -> list[Port]:
    import tensorrt as trt

    dtypes = {
        trt.float32: torch.float32,
        trt.float16: torch.float16,
        trt.int64: torch.int64,
        trt.int32: torch.int32,
        trt.bool: torch.bool,
    }
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [
        Port(
            name,
            engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            tuple(engine.get_tensor_shape(name)),
            dtypes[engine.get_tensor_dtype(name)],
        )
        for name in names
    ]
