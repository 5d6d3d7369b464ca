"""torch.compile of the network step, in half precision with an own fused normalisation where that pays.

The network is captured as one ATen graph (`graphs/capture.py`). Where the device computes half precision
natively, GroupNorm with its scale, shift and SiLU becomes one operator (`kernels/group_norm_silu.py`) and
layers get half-precision weights, channels innermost (`graphs/precision.py`). Inductor compiles the rest:
one static graph, forward and backward, for every use of the network.
"""

import os
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.fx import GraphModule

from backends.base import Backend, BackendConfig, BackendError, frozen_copy
from backends.cache import cache_root
from backends.checkpointing import Checkpointing, Recomputed, needs_checkpointing
from backends.graphs.capture import capture
from backends.graphs.decompositions import (
    COMPILED_CPU_DECOMPOSITIONS,
    COMPILED_CUDA_DECOMPOSITIONS,
    COMPILED_FLOAT32_DECOMPOSITIONS,
)
from backends.graphs.norm_fusion import fuse_group_norm
from backends.graphs.precision import to_half
from backends.graphs.residuals import residual_bytes
from backends.kernels.build import find_compiler
from backends.kernels.group_norm_silu import implementation

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


class CompileConfig(BackendConfig):
    """Options of the compile backend.

    Attributes:
        precision: of weights and activations. "auto" is float16 on CUDA, bfloat16 on CPUs that compute it
            natively, else float32. Statistics, softmax and results are float32 with any of them.
        float32: networks that stay in float32 whatever the precision; regressor and classifier do, since a
            counterfactual is judged by their predictions.
        attention: of attention's products in half precision on the CPU; softmax is float32 with both.
        residual: of the residual stream. "half" is 10 to 15 % faster, but badly conditioned images lose precision
            in the gradient with respect to a condition; "auto" is float32 for networks that have one, that is
            a second floating-point input.
        checkpointing: recompute each network call in the backward pass instead of storing its activations;
            "auto": when those of one search step would take more than half of the memory at hand.
    """

    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    float32: tuple[str, ...] = ("regressor", "classifier")
    attention: Literal["half", "float32"] = "half"
    residual: Literal["auto", "float32", "half"] = "auto"
    checkpointing: Checkpointing = "auto"


class _CompiledNetwork(nn.Module):
    """One compiled graph for every use of a network.

    Whether inputs require gradients is part of a compiled graph's identity, so encoding (no gradient),
    the first and the later steps of a decode would each compile their own. Every floating-point input is
    therefore marked as requiring a gradient; a result that nobody differentiates is detached.
    """

    def __init__(self, module: GraphModule, checkpointing: bool) -> None:
        super().__init__()
        # The module is this object's own and never changes, so its hundreds of weights need no guards.
        options = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
        self.compiled = torch.compile(module, fullgraph=True, dynamic=False, options=options)
        self.checkpointing = checkpointing

    def forward(self, *inputs: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
            return self.run(*inputs).detach()
        return Recomputed.apply(self.run, *inputs) if self.checkpointing else self.run(*inputs)

    def run(self, *inputs: Tensor) -> Tensor:
        """The compiled graph; the result is float32 and always has a gradient."""
        with torch.enable_grad():
            return self.compiled(*(self._lifted(x) for x in inputs)).to(torch.float32)

    @staticmethod
    def _lifted(x: Tensor) -> Tensor:
        if not x.is_floating_point() or x.requires_grad:
            return x.contiguous()
        return x.detach().contiguous().requires_grad_(True)


def native_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(key, False) for key in _NATIVE_BFLOAT16)


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
        # Inductor's own default is a folder that restarts empty; a warm one saves most of the build.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))
        # Backward graphs that overwrite what the forward pass stored run only once, and methods take several
        # pull-backs of one call. PyTorch asks for this setting when a graph is compiled and again when it runs.
        torch._functorch.config.donated_buffer = False

    @staticmethod
    def unavailable() -> str | None:
        if find_compiler() or torch.cuda.is_available():
            return None
        return "torch.compile needs a C++ compiler; install g++ (Debian: apt-get install g++)"

    def validate(self) -> None:
        self.precision("denoiser")

    def precision(self, name: str) -> torch.dtype:
        """The dtype of a network's layers.

        Raises:
            BackendError: asked for one that this device cannot do.
        """
        if name in self.config.float32:
            return torch.float32
        on_cpu = self.device.type == "cpu"
        if self.config.precision == "auto":
            if on_cpu:
                return torch.bfloat16 if native_bfloat16() else torch.float32
            return torch.float16
        if self.config.precision == "float16" and on_cpu:
            raise BackendError("compile.precision=float16 is not usable on a CPU; use float32 or bfloat16")
        if self.config.precision == "bfloat16" and on_cpu and not native_bfloat16():
            raise BackendError("compile.precision=bfloat16: this CPU has no bfloat16 instructions; use float32")
        return _DTYPES[self.config.precision]

    def build(self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
        reason = self.unavailable()
        if reason:
            raise BackendError(reason)
        dtype, begun = self.precision(name), time.perf_counter()
        module, facts = self._captured(name, network, example_inputs, dtype)
        stored = residual_bytes(module, dtype) * self.calls.get(name, 1)
        checkpointing = needs_checkpointing(self.config.checkpointing, stored, self.device)
        captured, before = time.perf_counter(), _counts()
        prepared = _CompiledNetwork(module, checkpointing)
        # The first call compiles the forward graph, its backward pass the backward graph.
        inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in example_inputs]
        try:
            torch.autograd.grad(prepared(*inputs).sum(), [x for x in inputs if x.requires_grad], allow_unused=True)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise BackendError(f"{name} cannot be compiled to one graph: {str(error).splitlines()[0]}") from error
        after = _counts()
        self._graphs = after["graphs"]
        self.report.networks[name] = {
            "dtype": str(dtype),
            "graphs": after["graphs"] - before["graphs"],
            "graph_breaks": 0,  # fullgraph=True raises instead
            "cache": "hit" if after["misses"] == before["misses"] and after["hits"] > before["hits"] else "miss",
            "checkpointing": checkpointing,
            "stored_mib_per_step": round(stored / 2**20, 1),
            "capture_seconds": round(captured - begun, 3),
            "build_seconds": round(time.perf_counter() - begun, 3),
            **facts,
        }
        return prepared

    def _captured(
        self, name: str, network: nn.Module, example_inputs: tuple[Tensor, ...], dtype: torch.dtype
    ) -> tuple[GraphModule, dict[str, object]]:
        """The graph to compile, rewritten for `dtype`, and what was rewritten."""
        half, copied = dtype != torch.float32, frozen_copy(network, self.device)
        if not half:
            return capture(name, copied, example_inputs, COMPILED_FLOAT32_DECOMPOSITIONS), {}
        on_cpu = self.device.type == "cpu"
        decompositions = COMPILED_CPU_DECOMPOSITIONS if on_cpu else COMPILED_CUDA_DECOMPOSITIONS
        module = capture(name, copied, example_inputs, decompositions)
        count = fuse_group_norm(module)
        conditioned = sum(x.is_floating_point() for x in example_inputs) > 1
        exact = conditioned if self.config.residual == "auto" else self.config.residual == "float32"
        residual = torch.float32 if exact else dtype
        to_half(module, dtype, dtype if self.config.attention == "half" else torch.float32, residual)
        return module, {
            "residual": str(residual),
            "fused_norms": count,
            "fused_norm_kernel": implementation(self.device),
        }

    def check(self) -> None:
        recompiled = counters["stats"]["unique_graphs"] - self._graphs
        if recompiled:
            self._graphs += recompiled
            self.report.flags.append(
                f"torch.compile built {recompiled} more graphs after the build: a shape changed, so the timing is "
                "not steady"
            )


def _counts() -> dict[str, int]:
    autograd = counters["aot_autograd"]
    return {
        "graphs": counters["stats"]["unique_graphs"],
        "hits": autograd["autograd_cache_hit"],
        "misses": autograd["autograd_cache_miss"] + autograd["autograd_cache_bypass"],
    }
