"""torch.compile, with half precision on CUDA and optional gradient checkpointing."""

import shutil
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from backends.base import Backend, BackendConfig, BackendError, frozen_copy

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class CompileConfig(BackendConfig):
    """Options of the compile backend.

    Attributes:
        precision: "auto" is float16 on CUDA and float32 elsewhere; weights and inputs are cast, outputs
            come back as float32.
        checkpointing: recompute each network call in the backward pass instead of storing its activations.
        mode: torch.compile's mode.
    """

    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    checkpointing: bool = False
    mode: str = "default"


class _CompiledNetwork(nn.Module):
    """One compiled graph for every use of a network.

    Whether inputs require gradients is part of a compiled graph's identity, so encoding (no gradient),
    the first and the later steps of a decode would each compile their own. Every floating-point input is
    therefore marked as requiring a gradient; a result that nobody differentiates is detached.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype, config: CompileConfig) -> None:
        super().__init__()
        self.compiled = torch.compile(network, fullgraph=True, dynamic=False, mode=config.mode)
        self.dtype, self.checkpointing = dtype, config.checkpointing

    def forward(self, *inputs: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        with torch.enable_grad():
            lifted = [self._lifted(x) for x in inputs]
            if wanted and self.checkpointing:
                out = checkpoint(self.compiled, *lifted, use_reentrant=False)
            else:
                out = self.compiled(*lifted)
            out = out.to(torch.float32)
        return out if wanted else out.detach()

    def _lifted(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        x = x if x.requires_grad else x.detach().requires_grad_(True)
        return x.to(self.dtype)


class CompileBackend(Backend):
    """Compiles each network for one static shape when it is prepared; graph breaks are errors."""

    name = "compile"
    options = CompileConfig
    config: CompileConfig

    def __init__(
        self, config: CompileConfig, device: torch.device, announce: Callable[[str], None] = lambda name: None
    ) -> None:
        super().__init__(config, device, announce)
        # Compiled code is kept for the whole process; a new backend must not run or count an older one's.
        torch._dynamo.reset()
        self._graphs = counters["stats"]["unique_graphs"]

    @staticmethod
    def unavailable() -> str | None:
        if shutil.which("g++") or shutil.which("clang++") or torch.cuda.is_available():
            return None
        return "torch.compile needs a C++ compiler; install g++ (Debian: apt-get install g++)"

    def _dtype(self) -> torch.dtype:
        if self.config.precision == "auto":
            return torch.float16 if self.device.type == "cuda" else torch.float32
        if self.config.precision == "float16" and self.device.type == "cpu":
            raise BackendError("compile.precision=float16 is not usable on a CPU; use float32 or bfloat16")
        return _DTYPES[self.config.precision]

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        reason = self.unavailable()
        if reason:
            raise BackendError(reason)
        dtype = self._dtype()
        prepared = _CompiledNetwork(frozen_copy(network, self.device, dtype), dtype, self.config)
        begun, graphs = time.perf_counter(), counters["stats"]["unique_graphs"]
        # The first call compiles the forward graph, its backward pass the backward graph.
        inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in example_inputs]
        try:
            torch.autograd.grad(prepared(*inputs).sum(), [x for x in inputs if x.requires_grad], allow_unused=True)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise BackendError(f"{name} cannot be compiled to one graph: {str(error).splitlines()[0]}") from error
        self.report.networks[name] = {
            "dtype": str(dtype),
            "graphs": counters["stats"]["unique_graphs"] - graphs,
            "graph_breaks": 0,  # fullgraph=True raises instead
            "build_seconds": round(time.perf_counter() - begun, 3),
        }
        self._graphs = counters["stats"]["unique_graphs"]
        return prepared

    def check(self) -> None:
        recompiled = counters["stats"]["unique_graphs"] - self._graphs
        self.report.networks["recompilations"] = {"after_build": recompiled}
        if recompiled:
            raise BackendError(
                f"torch.compile built {recompiled} more graphs after the build: a shape changed, so the timing is "
                "not steady"
            )
