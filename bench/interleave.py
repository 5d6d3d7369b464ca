"""Interleaved timing of backends in one process: A B B A, so that a drifting machine favours neither."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from backends.base import Backend, BackendError
from bench.calls import first_batch, prepare_method
from bench.cell import Cell
from bench.compare import Outcome
from bench.config import RunConfig
from bench.environment import environment
from bench.errors import RunError, UsageError
from bench.memory import allocation_errors, is_out_of_memory
from bench.progress import Display
from bench.suite import resolve_device, resolve_suite
from methods import noise
from methods.base import Method, State
from methods.search import synchronise
from metrics.equivalence import change, median_interval

WARM_UP = 3
SLOW_ROUNDS = 5
"""Rounds of encoding and refinement at most: once a sample, they can take a hundred network calls."""


class Timed(BaseModel):
    """One candidate in an interleaved measurement.

    Attributes:
        seconds: median of a call.
        ratio: median over rounds of its time over the base's; above 1 is slower.
        low, high: 90 % bootstrap interval of that median over rounds, None below 5 rounds.
        all_seconds: every call, in order.
    """

    seconds: float
    ratio: float
    low: float | None
    high: float | None
    all_seconds: list[float]


class Interleaved(BaseModel):
    """An interleaved measurement; the first candidate is the base."""

    base: str
    rounds: int
    candidates: dict[str, Timed]


class Phase(BaseModel):
    """A phase of a method ("encode", "step" or "refine") and the verdict on every NEW.

    Attributes:
        slots: samples a call works on.
    """

    dataset: str
    method: str
    phase: str
    slots: int
    timing: Interleaved
    verdicts: dict[str, Outcome]


class Measured(BaseModel):
    """What `compare BASE NEW...` measured with backends.

    Attributes:
        prediction_difference: largest |difference of r| from the base after one step on the same state, by
            "dataset method backend"; accuracy is `bench verify`'s to judge.
        flags: why timings of a backend are not to be trusted.
        build_seconds: "dataset method backend" -> seconds to build its networks.
    """

    base: str
    new: list[str]
    tolerance: float
    environment: dict[str, Any]
    phases: list[Phase]
    prediction_difference: dict[str, float]
    build_seconds: dict[str, float]
    flags: dict[str, list[str]]


def interleave(calls: Mapping[str, Callable[[int], object]], rounds: int, device: torch.device) -> Interleaved:
    """Time calls in palindromic rounds (A B B A for two), after `WARM_UP` untimed calls of each.

    A linear drift of the machine cancels in the ratio of a round, and the ratios of the rounds are the data.

    Args:
        calls: by name, the base first; called with the number of the round.
        device: waited for before and after every call.

    Raises:
        ValueError: fewer than one round, or nothing to compare.
    """
    if rounds < 1 or len(calls) < 2:
        raise ValueError(f"at least one round and two candidates are needed, not {rounds} and {len(calls)}")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(WARM_UP):
            call(0)
    for index in range(rounds):
        for name in (*calls, *reversed(calls)):
            synchronise(device)
            begun = time.perf_counter()
            calls[name](index)
            synchronise(device)
            seconds[name].append(time.perf_counter() - begun)
    return summarise(seconds)


def summarise(seconds: Mapping[str, Sequence[float]]) -> Interleaved:
    """Ratios to the first candidate from two calls a round and candidate, in the order they were made."""
    base = next(iter(seconds))
    totals = {name: np.asarray(values, dtype=np.float64).reshape(-1, 2).sum(axis=1) for name, values in seconds.items()}
    generator = noise.numpy_generator("bootstrap", 0, "interleave")
    candidates = {}
    for name, values in seconds.items():
        ratios = totals[name] / totals[base]
        low, high = median_interval(ratios, generator)
        candidates[name] = Timed(
            seconds=float(np.median(values)),
            ratio=float(np.median(ratios)),
            low=low,
            high=high,
            all_seconds=[float(value) for value in values],
        )
    return Interleaved(base=base, rounds=len(totals[base]), candidates=candidates)


def interleaved(methods: Mapping[str, Method], states: Sequence[State], rounds: int) -> Interleaved:
    """Time one `step` of prepared methods on the same states, which the rounds take in turn.

    Args:
        methods: by name, the base first; all on one device, prepared for the states' number of slots.
    """
    calls = {name: _bound(method.step, states) for name, method in methods.items()}
    return interleave(calls, rounds, next(iter(methods.values())).device)


def _bound(call: Callable[[Any], object], values: Sequence[Any]) -> Callable[[int], object]:
    return lambda index: call(values[index % len(values)])


def compare_backends(
    config: RunConfig, base: str, new: Sequence[str], tolerance: float, rounds: int, display: Display
) -> Measured:
    """Measure backends against each other under every dataset and method of the configuration.

    Args:
        config: its `backend` is replaced.
        tolerance: a slowdown counts when its whole interval lies beyond this factor.
        rounds: of `step`; encoding and refinement get `SLOW_ROUNDS` at most.

    Raises:
        UsageError: anything that cannot be used.
        RunError: a backend cannot build a network, or memory runs out.
    """
    names = (base, *dict.fromkeys(new))
    if base in new:
        raise UsageError(f"{base!r} cannot be compared with itself; name another backend")
    cells = resolve_suite(config.model_copy(update={"backend": names}))
    device = resolve_device(config.device)
    found = Measured(
        base=base, new=list(names[1:]), tolerance=tolerance, environment=environment(str(device)),
        phases=[], prediction_difference={}, build_seconds={}, flags={},
    )  # fmt: skip
    tasks = dict.fromkeys((cell.dataset, cell.method) for cell in cells)
    for dataset, method in tasks:
        chosen = {cell.backend: cell for cell in cells if (cell.dataset, cell.method) == (dataset, method)}
        try:
            _measure_task(chosen, found, rounds, display)
        except allocation_errors() as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                f"{method}: out of memory with {config.batch_size} slots; use a smaller --batch-size"
            ) from error
    return found


def _measure_task(cells: Mapping[str, Cell], found: Measured, rounds: int, display: Display) -> None:
    first = next(iter(cells.values()))
    title = f"{first.dataset} {first.method}"
    display.begin(f"compare {title}", 0)
    methods: dict[str, Method] = {}
    backends: dict[str, Backend] = {}
    for name, cell in cells.items():
        begun = time.perf_counter()
        try:
            methods[name], backends[name] = prepare_method(
                cell, lambda network, name=name: display.phase(f"building {network} ({name})")
            )
        except BackendError as error:
            raise RunError(f"{cell.id}: {error}") from error
        found.build_seconds[f"{title} {name}"] = time.perf_counter() - begun
    batch = first_batch(first)
    display.phase("encoding")
    state = methods[found.base].encode(batch, _silent)
    expected = methods[found.base].step(state).prediction
    for name in found.new:
        gap = (methods[name].step(state).prediction - expected).abs().max()
        found.prediction_difference[f"{title} {name}"] = float(gap)
    work: dict[str, dict[str, Callable[[int], object]]] = {
        "encode": {name: _encoding(method, batch) for name, method in methods.items()},
        "step": {name: _bound(method.step, [state]) for name, method in methods.items()},
        "refine": {name: _bound(method.refine, [state]) for name, method in methods.items()},
    }
    timings = {}
    for phase, calls in work.items():
        if sum(methods[found.base].cost[phase]) == 0:
            continue  # no network call, nothing to compare
        display.phase(f"timing {phase}")
        timings[phase] = interleave(calls, rounds if phase == "step" else min(rounds, SLOW_ROUNDS), first.device)
    _check(backends, found)
    for phase, timing in timings.items():
        found.phases.append(
            Phase(
                dataset=first.dataset,
                method=first.method,
                phase=phase,
                slots=first.config.batch_size,
                timing=timing,
                verdicts={name: _verdict(timing.candidates[name], found, name) for name in found.new},
            )
        )


def _silent(done: int, total: int) -> None:
    """Progress that nobody sees: reporting is no part of what is timed."""


def _encoding(method: Method, batch: Any) -> Callable[[int], object]:
    return lambda index: method.encode(batch, _silent)


def _check(backends: Mapping[str, Backend], found: Measured) -> None:
    """Ask every backend whether it ran as announced, and collect what spoils its timing."""
    for name, backend in backends.items():
        try:
            backend.check()
        except BackendError as error:
            raise RunError(f"{name}: {error}") from error
        flags = [*found.flags.get(name, []), *backend.report.flags]
        if flags:
            found.flags[name] = list(dict.fromkeys(flags))


def _verdict(timed: Timed, found: Measured, name: str) -> Outcome:
    if found.flags.get(name) or found.flags.get(found.base):
        return "inconclusive"
    return change(timed.low, timed.high, found.tolerance, 1 / found.tolerance)
