"""A cell's method on its backend, and the calls it makes of its networks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backends import BACKENDS
from backends.base import Backend
from bench.cell import Cell, build_method
from bench.images import to_float
from bench.registry import resolve
from methods.base import Batch, Method

CALLS = 6
"""Calls kept of a network, spread over the phase: of the gradient's path, and as many of the rest."""


@dataclass(frozen=True)
class Call:
    """What a network was called with; `wanted` are the positions of the inputs that a gradient was asked for."""

    inputs: tuple[Tensor, ...]
    wanted: tuple[int, ...]


def prepare_method(cell: Cell, announce: Callable[[str], None] = lambda name: None) -> tuple[Method, Backend]:
    """The cell's method with its networks built on the cell's backend.

    Args:
        announce: called with a network's name before it is built.

    Raises:
        BackendError: a network cannot be built.
    """
    backend = resolve(BACKENDS, cell.backend, "backend")(cell.options[cell.backend], cell.device, announce)
    method = build_method(cell)
    networks = {role: loaded.network for role, loaded in cell.weights.items()}
    method.prepare(networks, backend, cell.config.batch_size)
    return method, backend


def first_batch(cell: Cell) -> Batch:
    """The first images of a cell, repeated where there are fewer than slots."""
    rows = [index % len(cell.task.ids) for index in range(cell.config.batch_size)]
    return Batch(
        ids=tuple(cell.task.ids[row] for row in rows),
        # Stacked like the search does, so that the memory layout is that of a run.
        image=torch.stack([torch.from_numpy(to_float(cell.task.images[row])) for row in rows]).to(cell.device),
        target=torch.tensor(cell.task.targets[rows], dtype=torch.float32, device=cell.device),
    )


def prepared_networks(method: Method) -> dict[str, nn.Module]:
    """The networks a method holds after `prepare`, by attribute name."""
    return {name: value for name, value in vars(method).items() if isinstance(value, nn.Module)}


class _Kept:
    """At most 2 x `CALLS` of a stream of calls, evenly spread: when full, every other one goes."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.stride, self.seen = 1, 0

    def offer(self, call: Call) -> None:
        if self.seen % self.stride == 0:
            if len(self.calls) == 2 * CALLS:
                self.calls, self.stride = self.calls[::2], 2 * self.stride
            if self.seen % self.stride == 0:
                self.calls.append(call)
        self.seen += 1

    def spread(self) -> list[Call]:
        """`CALLS` of them, the first and the last included."""
        if len(self.calls) <= CALLS:
            return self.calls
        return [self.calls[round(i * (len(self.calls) - 1) / (CALLS - 1))] for i in range(CALLS)]


class _Recorder(nn.Module):
    """Passes calls on and keeps some of their inputs, apart by what the gradient is asked for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.kept: dict[tuple[int, ...], _Kept] = {}

    def forward(self, *inputs: Tensor) -> Tensor:
        wanted = tuple(i for i, x in enumerate(inputs) if torch.is_grad_enabled() and x.requires_grad)
        self.kept.setdefault(wanted, _Kept()).offer(Call(tuple(x.detach() for x in inputs), wanted))
        return self.network(*inputs)


@contextmanager
def _recording(method: Method) -> Iterator[dict[str, _Recorder]]:
    originals = prepared_networks(method)
    recorders = {name: _Recorder(network) for name, network in originals.items()}
    try:
        vars(method).update(recorders)
        yield recorders
    finally:
        vars(method).update(originals)


def record_calls(method: Method, batch: Batch) -> dict[str, list[Call]]:
    """Encode a batch, make one step and refine, and keep what each network was called with.

    So images, time steps, codes and noise are those of a run, whatever the method does with its networks.
    """
    with _recording(method) as recorders:
        state = method.encode(batch, lambda done, total: None)
        method.refine(method.step(state).state)
    return {
        name: [call for kept in recorder.kept.values() for call in kept.spread()]
        for name, recorder in recorders.items()
    }
