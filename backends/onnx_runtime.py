"""ONNX Runtime: the network and its gradient as exported graphs, without PyTorch in between."""

import importlib.util
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from backends.base import Backend, BackendConfig, BackendError, frozen_copy
from backends.cache import cached
from backends.engines import Engine, EngineNetwork, check_golden
from backends.exports import DTYPES, export_facts, export_network
from backends.graphs import onnx_export
from backends.graphs.normalisation import Dialect

if TYPE_CHECKING:
    import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_ELEMENTS = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.float64: np.float64,
    torch.int64: np.int64,
    torch.int32: np.int32,
}


class OnnxConfig(BackendConfig):
    """Options of the ONNX Runtime backend.

    Attributes:
        precision: "auto" is float16 on CUDA, with float32 statistics and attention, and float32 on the CPU.
        provider: execution provider; "auto" is the device's own, "tensorrt" runs on CUDA.
        residuals: the forward pass hands the gradient what it needs, as autograd does; otherwise the
            gradient's graph repeats the forward pass, which takes less memory and half as long again.
        spinning: idle worker threads wait busily within a run, which is faster; they stop at its end.
    """

    precision: Literal["auto", "float32", "float16"] = "auto"
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    residuals: bool = True
    spinning: bool = True


class OnnxBackend(Backend):
    """Exports each network once, keeps the files in the cache folder, runs them in ONNX Runtime."""

    name = "onnx"
    options = OnnxConfig
    config: OnnxConfig

    @staticmethod
    def unavailable() -> str | None:
        missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
        if not missing:
            return None
        return f"{' and '.join(missing)} not installed; run: pip install -e .[onnx] (on CUDA also .[gpu])"

    def validate(self) -> None:
        self._provider()
        self._precision()

    def _provider(self) -> str:
        """The provider to run on.

        Raises:
            BackendError: it is not part of the installed ONNX Runtime, or belongs to another device.
        """
        import onnxruntime

        provider = self.config.provider if self.config.provider != "auto" else self.device.type
        if (provider == "cpu") != (self.device.type == "cpu"):
            raise BackendError(f"onnx.provider={provider} does not run on device {self.device}; leave it at auto")
        present = onnxruntime.get_available_providers()
        if _PROVIDERS[provider] not in present:
            raise BackendError(
                f"the installed onnxruntime {onnxruntime.__version__} has no {_PROVIDERS[provider]} (it has "
                f"{', '.join(present)}); run: pip uninstall onnxruntime && pip install -e .[gpu]"
            )
        return provider

    def _precision(self) -> str:
        if self.config.precision == "auto":
            return "float16" if self.device.type == "cuda" else "float32"
        if self.config.precision == "float16" and self.device.type == "cpu":
            raise BackendError("onnx.precision=float16 is not usable on a CPU; use float32")
        return self.config.precision

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        reason = self.unavailable()
        if reason:
            raise BackendError(reason)
        import onnxruntime

        begun = time.perf_counter()
        provider, precision = self._provider(), self._precision()
        reference = frozen_copy(network, self.device)
        dialect: Dialect = "explicit" if provider == "tensorrt" else "ln"
        facts = export_facts(reference, example_inputs, precision, dialect, self.config.residuals)

        def export(folder: Path) -> None:
            export_network(folder, name, reference, example_inputs, precision, dialect, self.config.residuals)

        exporting = time.perf_counter()
        entry = cached("onnx", facts, export)
        export_seconds = time.perf_counter() - exporting
        dtype = DTYPES[precision]
        engine = OnnxEngine(name, entry.folder, provider, self.device, example_inputs, dtype, self.config)
        prepared = EngineNetwork(name, engine, example_inputs, dtype)
        deviation = check_golden(entry.folder, prepared, example_inputs, entry.hit)
        self.report.networks[name] = {
            "dtype": str(dtype),
            "provider": engine.provider,
            "cache": "hit" if entry.hit else "miss",
            "build_seconds": round(time.perf_counter() - begun, 3),
            "export_seconds": 0.0 if entry.hit else round(export_seconds, 3),
            "nodes": engine.nodes,
            "opset": onnx_export.OPSET,
            "residual_mib": round(engine.residual_bytes / 2**20, 2),
            "golden_deviation": float(f"{deviation:.1e}"),
            "onnxruntime": onnxruntime.__version__,
        }
        return prepared


class OnnxEngine(Engine):
    """Sessions of one network's graphs; tensors go in and out by address, residuals stay where they are.

    Attributes:
        provider: the execution provider that runs.
        nodes: of each graph, before ONNX Runtime's own optimisation.
        residual_bytes: kept from a forward pass until its gradient.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        provider: str,
        device: torch.device,
        example_inputs: tuple[Tensor, ...],
        dtype: torch.dtype,
        config: OnnxConfig,
    ) -> None:
        self.device, self.dtype, self.provider = device, dtype, _PROVIDERS[provider]
        self.shapes = {onnx_export.input_name(index): tuple(x.shape) for index, x in enumerate(example_inputs)}
        self.gradients = {
            index: onnx_export.gradient_name(index) for index, x in enumerate(example_inputs) if x.is_floating_point()
        }
        # The default stream's handle is 0, which ONNX Runtime takes for none given.
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.sessions = {
            path.stem: self._session(name, path, provider, config) for path in sorted(folder.glob("*.onnx"))
        }
        # Asked for once: a gradient has a hundred residuals, and every question builds all names anew.
        self.inputs_of = {key: [value.name for value in run.get_inputs()] for key, run in self.sessions.items()}
        self.outputs_of = {key: [value.name for value in run.get_outputs()] for key, run in self.sessions.items()}
        manifest = json.loads((folder / onnx_export.MANIFEST).read_text())
        self.nodes, self.residual_bytes = manifest["nodes"], manifest["residual_bytes"]
        (output,) = self.sessions["forward"].get_outputs()
        self.output_shape = tuple(output.shape)

    def _session(self, name: str, path: Path, provider: str, config: OnnxConfig) -> "onnxruntime.InferenceSession":
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as status

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(config.spinning)))
        # Threads that spin on would take the cores from PyTorch, which computes between the runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        refusals = (status.Fail, status.EPFail, status.NotImplemented, status.InvalidGraph, status.RuntimeException)
        choice: list[str | tuple[str, dict[str, str]]] = [self.provider]
        if self.stream is not None:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            given = {"device_id": str(self.device.index or 0), "user_compute_stream": str(self.stream.cuda_stream)}
            if provider == "cuda":
                given["use_tf32"] = "0"  # float32 means float32
            choice = [(self.provider, given)]
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=choice)
        except refusals as error:
            reason = str(error).strip().splitlines()[0]
            raise BackendError(f"{name}: {self.provider} does not take {path}: {reason}") from error
        if session.get_providers()[0] != self.provider:
            raise BackendError(
                f"{name}: ONNX Runtime runs {session.get_providers()[0]} instead of {self.provider}; look at its "
                "installation (CUDA and cuDNN libraries), or set onnx.provider"
            )
        return session

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        output = self._empty(self.output_shape)
        self._run("forward", self._named(inputs), {}, {onnx_export.OUTPUT: output}, keep=False)
        return output

    def forward_saving(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, object]:
        if "forward_saving" not in self.sessions:
            return self.forward(inputs), {}
        output = self._empty(self.output_shape)
        named = self._named(inputs)
        return output, self._run("forward_saving", named, {}, {onnx_export.OUTPUT: output}, keep=True)

    def backward(self, inputs: tuple[Tensor, ...], residuals: object, grad_out: Tensor) -> dict[int, Tensor]:
        label = "backward" if "backward" in self.sessions else "pullback"
        named = self._named(inputs) | {onnx_export.GRAD_OUT: grad_out}
        found = {index: self._empty(inputs[index].shape) for index in self.gradients}
        outputs = {self.gradients[index]: gradient for index, gradient in found.items()}
        self._run(label, named, residuals, outputs, keep=False)
        return found

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _named(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return dict(zip(self.shapes, inputs, strict=True))

    def _run(
        self,
        label: str,
        inputs: dict[str, Tensor],
        residuals: "dict[str, onnxruntime.OrtValue]",
        outputs: dict[str, Tensor],
        keep: bool,
    ) -> "dict[str, onnxruntime.OrtValue]":
        """One run, without copies: tensors are bound by address, residuals as ONNX Runtime's own values.

        Args:
            inputs: tensors by name; those that the graph does not take are left out.
            residuals: of an earlier run.
            outputs: tensors to write.
            keep: return all other outputs of the graph.
        """
        session = self.sessions[label]
        binding = session.io_binding()
        place = (self.device.type, self.device.index or 0)
        for name in self.inputs_of[label]:
            if name in residuals:
                binding.bind_ortvalue_input(name, residuals[name])
            else:
                x = inputs[name]
                binding.bind_input(name, *place, _ELEMENTS[x.dtype], tuple(x.shape), x.data_ptr())
        bound = [name for name in self.outputs_of[label] if keep or name in outputs]
        for name in bound:
            if name in outputs:
                x = outputs[name]
                binding.bind_output(name, *place, _ELEMENTS[x.dtype], tuple(x.shape), x.data_ptr())
            else:
                binding.bind_output(name, *place)
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        session.run_with_iobinding(binding)  # returns when the stream has finished
        if not keep:
            return {}
        return {name: value for name, value in zip(bound, binding.get_outputs(), strict=True) if name not in outputs}
