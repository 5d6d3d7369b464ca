"""What the gate finds, as data: a report of cells, each with three checks in a fixed order."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel

from bench.compare_metrics import Metric
from bench.outcomes import Verdict as Accuracy
from bench.sections import VerifyConfig

SCHEMA = 1
Kind = Literal["correctness", "quality", "speed"]
Verdict = Literal["failed", "missing", "regressed", "inconclusive", "improved", "ok", "skipped"]
"""Worst first. "failed" is of correctness only; "skipped" is what makes no sense after an earlier check, and never
decides."""
ORDER: tuple[Verdict, ...] = ("failed", "missing", "regressed", "inconclusive", "improved", "ok", "skipped")
BAD: tuple[Verdict, ...] = ("failed", "missing", "regressed")


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The one that decides; "missing" for none, as a gate that measured nothing must not pass."""
    found = set(verdicts)
    return next((verdict for verdict in ORDER if verdict in found), "missing")


class RepeatMetric(Metric):
    """A figure of speed from process repeats; see `metrics.repeats`.

    Attributes:
        p: one-sided p-value of a slowdown, None where it could not be tested.
        base_repeats, new_repeats: the figure of each process, of which `base` and `new` are the medians.
    """

    p: float | None = None
    base_repeats: list[float] = []
    new_repeats: list[float] = []


class Check(BaseModel):
    """One check of a cell.

    Attributes:
        reasons: what the verdict rests on, in sentences.
    """

    kind: Kind
    verdict: Verdict
    reasons: list[str] = []


class Quality(Check):
    """Figures of the counterfactuals, from the first repeat of each side."""

    kind: Kind = "quality"
    figures: list[Metric] = []


class Speed(Check):
    """Figures of time, from all repeats."""

    kind: Kind = "speed"
    figures: list[RepeatMetric] = []


class CellGate(BaseModel):
    """A cell of BASE with its counterpart, or one that only NEW has.

    Attributes:
        cell: its id: dataset, method, backend and seed.
        added: BASE lacks it; only its correctness is judged.
    """

    cell: str
    added: bool = False
    verdict: Verdict
    correctness: Check
    quality: Quality
    speed: Speed

    @property
    def checks(self) -> tuple[Check, Check, Check]:
        """In the order in which they were made."""
        return self.correctness, self.quality, self.speed


class Verification(BaseModel):
    """What `bench verify` found of a backend of NEW."""

    dataset: str
    method: str
    backend: str
    verdict: Accuracy
    reasons: list[str]


class GateReport(BaseModel):
    """NEW against BASE.

    Attributes:
        base_repeats, new_repeats: names of the folders of process repeats.
        base_commit, new_commit: of the code, None outside a checkout; "-dirty" after it where files were changed.
        machine: what decides how fast it is, of `bench.compare.machine`; the same on both sides.
        factor: a slowdown counts when the ratio of medians lies beyond it and is significant.
        margins: of quality.
        verification: every result of verify.json, where there is one.
        notes: what else has to be known.
    """

    schema_version: int = SCHEMA
    base: str
    new: str
    base_repeats: list[str]
    new_repeats: list[str]
    base_commit: str | None
    new_commit: str | None
    machine: dict[str, Any]
    factor: float
    margins: VerifyConfig
    verdict: Verdict
    cells: list[CellGate]
    verification: list[Verification] = []
    notes: list[str] = []

    def passed(self, strict: bool = False) -> bool:
        """Whether nothing failed, regressed or is missing (nor, with `strict`, is inconclusive)."""
        return self.verdict not in BAD and not (strict and self.verdict == "inconclusive")
