"""What goes into a search, and what comes out of it."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from methods.base import Evaluations


class Sample(NamedTuple):
    """What is to be explained: image float32 (C, H, W) in [0, 1], and the reference value.

    `then` are further reference values, solved one after the other as a continuation: each starts from the
    solution before it. `also` are further ones that all start from the image itself; they share its encoding, and
    the first value bears the cost of it. Every value gives an outcome of its own.
    """

    id: str
    image: Tensor
    target: float
    then: tuple[float, ...] = ()
    also: tuple[float, ...] = ()


class Trace(NamedTuple):
    """What a search knew after each of its iterations; one entry an iteration.

    Attributes:
        predictions: `StepResult.prediction`, r where the step started (noisy where the method is) or of its best
            candidate.
        seconds: this sample's share of the wall time so far, its share of the encoding included.
    """

    predictions: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()


NO_TRACE = Trace()


@dataclass(frozen=True)
class Outcome:
    """One finished search.

    Attributes:
        target: the reference value.
        image: the counterfactual, float32 (C, H, W) in [0, 1], on the CPU.
        steps: updates made.
        iterations: calls of the method's step that it was part of.
        reached: whether the search's own last prediction met the tolerance (validity is judged elsewhere,
            on the saved image).
        prediction: that prediction.
        failure: why there is no usable counterfactual ("nonfinite@step 3"), or None.
        seconds: this sample's share of the wall time.
        latency: wall time from the start of its encoding to its counterfactual, in seconds; of a further reference
            value of an image, from when it took a slot. Reconstructions apart.
        reconstruction: what the method makes of the unchanged image, as `image`; None where it was not asked for, or
            is not finite.
        trace: of every iteration, the search's prediction and the time spent.
    """

    id: str
    target: float
    image: Tensor
    steps: int
    iterations: int
    reached: bool
    prediction: float
    failure: str | None
    evaluations: Evaluations
    seconds: float
    latency: float
    reconstruction: Tensor | None = None
    trace: Trace = NO_TRACE


@dataclass(frozen=True)
class Event:
    """Progress: a phase ("encoding", "searching", "refining") with its own counter."""

    phase: str
    done: int
    total: int
    active: int = 0
    finished: int = 0


@dataclass
class SearchStatistics:
    """Wall time by phase, and how full the slots were.

    Attributes:
        calls: synchronised seconds of every call of the method, by phase and in order; "reconstruct" is there only
            where reconstructions are made, and is no part of the search.
        busy_slots: slot-steps that worked on an unfinished sample.
    """

    calls: dict[str, list[float]] = field(default_factory=lambda: {"encode": [], "step": [], "refine": []})
    busy_slots: int = 0
    slots: int = 0

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each phase."""
        return {phase: sum(calls) for phase, calls in self.calls.items()}

    @property
    def steps(self) -> int:
        """Calls of the method's step."""
        return len(self.calls["step"])

    @property
    def occupancy(self) -> float:
        """Share of slot-steps that worked on an unfinished sample."""
        return self.busy_slots / max(1, self.steps * self.slots)
