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
from torch.fx.experimental.proxy_tensor import make_fx

from backends.base import BackendError

aten = torch.ops.aten

Decompositions = Mapping[torch._ops.OpOverload, Callable[..., Any]]
"""Operator -> a function that computes it from others."""

_IDENTITIES = (aten.dropout.default, aten.detach.default, aten.alias.default, aten.clone.default, aten.div.Tensor)


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
        # Before dispatch, so that operators stay whole and autograd differentiates the captured graph as it
        # would the network. torch.export gives the same graph in four times the time.
        trace = make_fx(network, dict(decompositions), "fake", pre_dispatch=True, _allow_non_fake_inputs=True)
        module = trace(*example_inputs)
    except RuntimeError as error:  # also what tracing raises where Python branches on a tensor's value
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendError(f"{name} cannot be captured as one graph: {first}") from error
    graph = module.graph
    for node in list(graph.nodes):
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            _make_functional(name, node)
        if node.op == "call_function" and node.target in _IDENTITIES and _drops_nothing(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    fold_constants(module)
    graph.lint()
    return module


def fold_constants(module: GraphModule) -> None:
    """Evaluate what depends on weights alone, such as flipped kernels, once and for all."""
    known: dict[torch.fx.Node, Tensor] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(module, node.target).detach()
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda source: known[source])
            value = node.target(*args, **kwargs)
            if isinstance(value, Tensor):
                known[node] = value
    for index, (node, value) in enumerate(known.items()):
        if node.op == "call_function" and any(user not in known for user in node.users):
            module.register_buffer(f"_folded_{index}", value.contiguous().clone())
            with module.graph.inserting_before(node):
                constant = module.graph.get_attr(f"_folded_{index}")
            constant.meta.update(node.meta)
            node.replace_all_uses_with(constant)
    module.graph.eliminate_dead_code()
    module.recompile()


def _make_functional(name: str, node: torch.fx.Node) -> None:
    """Turn an operator that writes into its input (`relu_`) into the one that does not.

    Raises:
        BackendError: there is none, or something else reads that input later.
    """
    base = str(node.target._schema.name).removeprefix("aten::")
    packet = getattr(aten, base.removesuffix("_"), None)
    overload = getattr(packet, node.target._overloadname, None) if packet is not None else None
    written = node.args[0]
    others = [user for user in written.users if user is not node]
    if overload is None or _is_view(written) or any(user > node or _is_view(user) for user in others):
        raise BackendError(f"{name} cannot be captured: {base} changes a tensor of which something else has a view")
    node.target = overload


def _is_view(node: torch.fx.Node) -> bool:
    """Whether a node's result shares memory with its input."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and any(result.alias_info for result in target._schema.returns)


def _drops_nothing(node: torch.fx.Node) -> bool:
    """Whether an identity is one here: dropout outside training, a clone as it lies, a division by one."""
    if node.target is aten.dropout.default:
        return node.args[2] is False
    if node.target is aten.div.Tensor:
        return node.args[1] == 1.0 and node.meta["val"].dtype == node.args[0].meta["val"].dtype
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
