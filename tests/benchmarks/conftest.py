"""Shipped networks and methods prepared on every backend, at the batch size of the paper preset."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from backends import BACKENDS
from bench.checkpoints import load_network
from bench.datasets.square_task import SquareConfig, SquareDataset
from bench.images import to_float
from bench.registry import resolve
from bench.suite import resolve_device
from methods import METHODS
from methods.base import Batch, Method
from methods.search import synchronise

SLOTS = 8
DEVICE = resolve_device("auto")
# Ten inversion steps instead of 250: a call of the same network, in a bearable time.
OPTIONS: dict[str, dict[str, Any]] = {"ac-re": {}, "diffae-re": {"inversion_steps": 10}}


@functools.cache
def prepared(backend: str, method: str) -> Method:
    """A method with its networks built on a backend; skips where that is not available."""
    backend_class = resolve(BACKENDS, backend, "backend")
    reason = backend_class.unavailable()
    if reason:
        pytest.skip(reason)
    method_class = resolve(METHODS, method, "method")
    built = method_class(method_class.options(**OPTIONS[method]), 0, DEVICE)
    roles = ("regressor", *method_class.networks)
    networks = {role: load_network(f"square-{role}", role).network for role in roles}
    built.prepare(networks, backend_class(backend_class.options(), DEVICE), SLOTS)
    return built


@functools.cache
def square_batch() -> Batch:
    """The first images of the Square benchmark."""
    task = SquareDataset(SquareConfig()).load(SLOTS)
    images = torch.from_numpy(to_float(task.images)).to(DEVICE)
    return Batch(task.ids, images, torch.from_numpy(task.targets).to(DEVICE))


@pytest.fixture
def timed(benchmark: Any) -> Callable[[Callable[[], object]], None]:
    """Benchmark a call, synchronised with the device."""

    def run(call: Callable[[], object]) -> None:
        def synchronised() -> None:
            call()
            synchronise(DEVICE)

        benchmark.extra_info |= {"device": str(DEVICE), "slots": SLOTS, "threads": torch.get_num_threads()}
        synchronised()  # the first call is apart
        benchmark(synchronised)

    return run
