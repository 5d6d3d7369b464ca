"""A frozen network as one static ATen graph, and a digest that names it without tracing it."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.fx import GraphModule

from backends.base import BackendError

aten = torch.ops.aten

Decompositions = Mapping[torch._ops.OpOverload, Callable[..., Any]]
"""Operator -> a function that computes it from others."""

_IDENTITIES = (aten.dropout.default, aten.detach.default, aten.alias.default, aten.clone.default)


def capture(
    name: str, network: nn.Module, example_inputs: tuple[Tensor, ...], decompositions: Decompositions
) -> GraphModule:
    """Trace `network` for the shapes of `example_inputs` into a flat graph of ATen operators.

    Args:
        name: of the network, for messages.
        network: frozen and in evaluation mode.
        decompositions: only these operators are taken apart, all others stay whole.

    Returns:
        A module of the same call signature whose nodes carry `meta["val"]` (fake tensors).

    Raises:
        BackendError: the network's Python code depends on values, so that no single graph exists.
    """
    try:
        program = torch.export.export(network, example_inputs, strict=False)
        program = program.run_decompositions(dict(decompositions))
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        raise BackendError(f"{name} cannot be captured as one graph: {str(error).strip().splitlines()[0]}") from error
    module = program.module()
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module":  # shape guards; the shapes are checked by the caller
            graph.erase_node(node)
        elif node.op == "call_function" and node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif node.op == "call_function" and node.target in _IDENTITIES and _drops_nothing(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return module


def _drops_nothing(node: torch.fx.Node) -> bool:
    """Whether an identity is one here: dropout only outside training, clone only as it lies."""
    if node.target is aten.dropout.default:
        return node.args[2] is False
    return node.target is not aten.clone.default or not node.kwargs


def network_digest(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> str:
    """A hash of everything a capture depends on: weights, buffers, settings, source code, shapes.

    Costs milliseconds where tracing costs seconds, so that a warm cache starts at once. Source code is
    that of the files in which the network's classes are defined, whole.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    for path, module in network.named_modules():
        kind = type(module)
        digest.update(f"{path}:{kind.__module__}.{kind.__qualname__}:{_source_digest(kind)}".encode())
        settings = {key: _plain(value) for key, value in vars(module).items() if not key.startswith("_")}
        digest.update(repr(sorted(settings.items())).encode())
    for label, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(f"{label}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for tensor in example_inputs:
        digest.update(f"{tensor.dtype}:{tuple(tensor.shape)}".encode())
    return digest.hexdigest()


@cache
def _source_digest(kind: type) -> str:
    file = inspect.getsourcefile(kind)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else kind.__qualname__


def _plain(value: object) -> object:
    """A module's setting in a form that is the same in every process."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, tuple | list | set | frozenset):
        return [_plain(item) for item in value]
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return type(value).__qualname__
