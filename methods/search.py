"""Search in slots: one engine for every method.

B slots of fixed shape; a sample that is done leaves its slot at once and the next one takes it, so no
step is spent on finished samples and every network call has the same shape. Encoding and refinement run
in batches of B too, padded where fewer samples are at hand. Padding repeats a row and is thrown away.
Without refill a batch keeps its slots until all of it is done, as in the published code; results are the same.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from methods.base import Batch, Confirmation, Method, State, reached
from methods.outcomes import NO_TRACE, Event, Outcome, Sample, SearchStatistics, Trace


@dataclass
class _Job:
    """A sample on its way; `state` rows are (1, ...) tensors while it is outside the slots.

    `continued` tells that another value's outcome bears the cost of the encoding.
    """

    sample: Sample
    state: State
    entered: float
    seconds: float = 0.0
    iterations: int = 0
    prediction: float = float("nan")
    hit: bool = False
    done: bool = False
    continued: bool = False
    refinements: int = 0
    failure: str | None = None
    reconstruction: Tensor | None = None
    trace: list[tuple[float, float]] = field(default_factory=list)


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that the wall clock is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class SlotSearch:
    """Runs a prepared method over samples.

    Args:
        method: after `prepare`.
        slots: B, the batch size of every network call.
        on_event: called often, from the searching thread.
        refill: a free slot takes the next sample at once; False waits until every slot is free.
        reconstruct: give every outcome what the method makes of the unchanged image too, once an image. The time
            that takes is in nobody's seconds or latency.
    """

    def __init__(
        self,
        method: Method,
        slots: int,
        on_event: Callable[[Event], None] = lambda event: None,
        refill: bool = True,
        reconstruct: bool = False,
    ) -> None:
        if slots < 1:
            raise ValueError(f"batch size {slots} is not positive")
        self.method, self.slots, self.on_event, self.refill = method, slots, on_event, refill
        self.reconstruct = reconstruct
        self.statistics = SearchStatistics(slots=slots)
        if reconstruct:
            self.statistics.calls["reconstruct"] = []
        self._finished = 0

    def run(self, samples: Iterable[Sample]) -> Iterator[Outcome]:
        """Search every sample; outcomes come in the order in which they finish."""
        source, ready, done = iter(samples), deque[_Job](), deque[_Job]()
        places: list[_Job | None] = [None] * self.slots
        state: State | None = None
        while True:
            state = self._fill(places, state, source, ready)
            if any(places):
                state = self._advance(places, state)
                state = self._collect(places, state, done)
            exhausted = not any(places) and not ready
            while len(done) >= self.slots or (exhausted and done):
                batch = [done.popleft() for _ in range(min(self.slots, len(done)))]
                yield from self._refine(batch, ready)
            if exhausted and not ready and not self._encode(source, ready):
                return

    def _timed(self, phase: str, call: Callable[[], Any]) -> tuple[Any, float]:
        synchronise(self.method.device)
        begun = time.perf_counter()
        result = call()
        synchronise(self.method.device)
        elapsed = time.perf_counter() - begun
        self.statistics.calls[phase].append(elapsed)
        return result, elapsed

    def _clock(self) -> float:
        """Seconds, stopped while reconstructions are made."""
        return time.perf_counter() - sum(self.statistics.calls.get("reconstruct", ()))

    def _encode(self, source: Iterator[Sample], ready: deque[_Job]) -> bool:
        """Encode up to B more samples, a job for each of their first values; False when there are none left."""
        taken = [sample for _, sample in zip(range(self.slots), source, strict=False)]
        if not taken:
            return False
        padded = taken + [taken[-1]] * (self.slots - len(taken))
        device = self.method.device
        batch = Batch(
            ids=tuple(sample.id for sample in padded),
            image=torch.stack([sample.image for sample in padded]).to(device),
            target=torch.tensor([sample.target for sample in padded], dtype=torch.float32, device=device),
        )
        self.on_event(Event("encoding", 0, 1, finished=self._finished))
        entered = self._clock()

        def report(done: int, total: int) -> None:
            self.on_event(Event("encoding", done, total, finished=self._finished))

        state, elapsed = self._timed("encode", lambda: self.method.encode(batch, report))
        reconstructions = self._reconstruct(state) if self.reconstruct else None
        for index, sample in enumerate(taken):
            job = _Job(sample, _rows(state, [index]), entered, elapsed / len(taken))
            if not _finite(job.state):
                job.failure = "nonfinite@encode"
            if reconstructions is not None and torch.isfinite(reconstructions[index]).all():
                job.reconstruction = reconstructions[index]
            ready.append(job)
            ready.extend(self._other_target(job, value) for value in sample.also)
        return True

    def _reconstruct(self, state: State) -> Tensor:
        """What the method makes of freshly encoded images, (B, C, H, W) on the CPU."""
        return self._timed("reconstruct", lambda: self.method.reconstruct(state))[0].cpu()

    def _fill(
        self, places: list[_Job | None], state: State | None, source: Iterator[Sample], ready: deque[_Job]
    ) -> State | None:
        """Put encoded samples into free slots, encoding more when none are ready."""
        if not self.refill and any(places):
            return state
        for slot, job in enumerate(places):
            if job is not None or (not ready and not self._encode(source, ready)):
                continue
            incoming = ready.popleft()
            if state is None:  # every slot holds a real row from the start, so shapes never change
                state = _rows(incoming.state, [0] * self.slots)
            _write(state, slot, incoming.state)
            places[slot] = incoming
            incoming.state = {}
            if incoming.continued and incoming.iterations == 0:  # it was ready long before there was a slot for it
                incoming.entered = self._clock()
        return state

    def _advance(self, places: list[_Job | None], state: State) -> State:
        active = [job for job in places if job is not None]
        result, elapsed = self._timed("step", lambda: self.method.step(state))
        statistics = self.statistics
        statistics.busy_slots += len(active)
        tolerance = self.method.config.tolerance
        hit = reached(result.prediction, result.state["target"], tolerance).tolist()
        prediction, over = result.prediction.tolist(), result.done.tolist()
        finite = _finite_rows(result.state) & torch.isfinite(result.prediction)
        for slot, (job, ok) in enumerate(zip(places, finite.tolist(), strict=True)):
            if job is None:
                continue
            job.seconds += elapsed / len(active)
            job.iterations += 1
            job.prediction, job.hit, job.done = prediction[slot], hit[slot], over[slot]
            job.trace.append((job.prediction, job.seconds))
            if not ok:
                job.failure = job.failure or f"nonfinite@step {job.iterations}"
        steps = max(job.iterations for job in active)
        self.on_event(Event("searching", steps, self.method.config.max_steps, len(active), self._finished))
        return result.state

    def _collect(self, places: list[_Job | None], state: State, done: deque[_Job]) -> State:
        """Move finished samples out of their slots."""
        for slot, job in enumerate(places):
            if job is None:
                continue
            if job.done or job.failure or job.iterations >= self.method.config.max_steps:
                job.state = _rows(state, [slot])
                done.append(job)
                places[slot] = None
        return state

    def _refine(self, batch: list[_Job], ready: deque[_Job]) -> Iterator[Outcome]:
        """Refine a batch; what the method rejects, and what has further targets, goes back to `ready`."""
        padded = batch + [batch[-1]] * (self.slots - len(batch))
        self.on_event(Event("refining", len(batch), len(batch), finished=self._finished))
        joined = {key: torch.cat([job.state[key] for job in padded]) for key in batch[0].state}

        def refine() -> tuple[Tensor, Confirmation]:
            refined = self.method.refine(joined)
            return refined, self.method.confirm(joined, refined)

        (images, confirmation), elapsed = self._timed("refine", refine)
        accepted = confirmation.accepted.tolist()
        for row, (job, image) in enumerate(zip(batch, images.cpu(), strict=False)):
            job.seconds += elapsed / len(batch)
            job.refinements += 1
            job.state = _rows(confirmation.state, [row])
            if not torch.isfinite(image).all():
                job.failure = job.failure or "nonfinite@refine"
            if not accepted[row] and not job.failure and job.iterations < self.method.config.max_steps:
                ready.append(job)
                continue
            yield self._outcome(job, image)
            if job.sample.then:
                ready.append(self._next_target(job))

    def _outcome(self, job: _Job, image: Tensor) -> Outcome:
        self._finished += 1
        cost = self.method.cost
        evaluations = cost["step"].times(job.iterations) + cost["refine"].times(job.refinements)
        return Outcome(
            id=job.sample.id,
            target=job.sample.target,
            image=image,
            steps=int(job.state["step"][0]),
            iterations=job.iterations,
            reached=job.hit,
            prediction=job.prediction,
            failure=job.failure,
            evaluations=evaluations if job.continued else cost["encode"] + evaluations,
            seconds=job.seconds,
            latency=self._clock() - job.entered,
            reconstruction=job.reconstruction,
            trace=Trace(*zip(*job.trace)) if job.trace else NO_TRACE,
        )

    def _other_target(self, job: _Job, value: float) -> _Job:
        """The job of another reference value of a freshly encoded image."""
        state = self.method.retarget(job.state, torch.full_like(job.state["target"], value))
        sample = job.sample._replace(target=value)
        return replace(job, sample=sample, state=state, seconds=0.0, continued=True, trace=[])

    def _next_target(self, job: _Job) -> _Job:
        """The job of a sample's next reference value; a failed one keeps its failure."""
        sample = job.sample._replace(target=job.sample.then[0], then=job.sample.then[1:])
        target = torch.full_like(job.state["target"], sample.target)
        state = self.method.retarget(job.state, target)
        return _Job(
            sample, state, self._clock(), continued=True, failure=job.failure, reconstruction=job.reconstruction
        )


def _rows(state: State, index: list[int]) -> State:
    return {key: value[index].clone() for key, value in state.items()}


def _write(state: State, slot: int, row: State) -> None:
    for key, value in row.items():
        state[key][slot] = value[0]


def _finite_rows(state: State) -> Tensor:
    """bool (B,): every floating-point entry of the slot is finite."""
    rows = [
        torch.isfinite(value).flatten(1).all(1)
        for value in state.values()
        if value.is_floating_point() and value.ndim > 1
    ]
    return torch.stack(rows).all(0)


def _finite(state: State) -> bool:
    return bool(_finite_rows(state).all())
