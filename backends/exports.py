"""A network's ONNX files in the cache folder, shared by the backends that run ONNX graphs."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import frozen_copy
from backends.engines import write_golden
from backends.graphs import (
    capture,
    layout,
    normalisation,
    onnx_export,
    onnx_nodes,
    onnx_operators,
    onnx_writer,
    pullback,
)
from backends.graphs.capture import network_digest
from backends.graphs.normalisation import Dialect

DTYPES = {"float32": torch.float32, "float16": torch.float16}


def export_facts(
    network: nn.Module, example_inputs: tuple[Tensor, ...], precision: str, dialect: Dialect, residuals: bool
) -> dict[str, Any]:
    """Everything that exported files depend on; the key of their cache entry."""
    import onnx

    writing = (onnx_export, onnx_nodes, onnx_operators, onnx_writer)
    modules = (capture, layout, normalisation, pullback, *writing)
    return {
        "network": network_digest(network, example_inputs),
        "precision": precision,
        "dialect": dialect,
        "residuals": residuals,
        "opset": onnx_export.OPSET,
        "versions": {"torch": torch.__version__, "onnx": onnx.__version__},
        "exporter": hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in modules)).hexdigest(),
    }


def export_network(
    folder: Path,
    name: str,
    network: nn.Module,
    example_inputs: tuple[Tensor, ...],
    precision: str,
    dialect: Dialect,
    residuals: bool,
) -> None:
    """Write a network's ONNX graphs, weights and golden outputs.

    Args:
        network: frozen, float32, on the device of the examples.
    """
    dtype, cpu = DTYPES[precision], torch.device("cpu")
    examples = tuple(x.detach().cpu().to(dtype) if x.is_floating_point() else x.cpu() for x in example_inputs)
    onnx_export.write(onnx_export.export(name, frozen_copy(network, cpu, dtype), examples, dialect, residuals), folder)
    write_golden(folder, network, example_inputs)
