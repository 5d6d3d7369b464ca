"""`bench compare` on records: is NEW slower or worse than BASE, cell by cell, on the same images?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel

from bench.config import VerifyConfig
from bench.errors import BenchError, UsageError
from bench.outcomes import load_outcomes
from bench.record import CellRecord, read_cell, read_suite
from methods import noise
from metrics.equivalence import change, paired_rate_interval, paired_ratio

EXIT_NOT_COMPARABLE = 3
MACHINE = ("cpu", "cores", "threads", "device", "gpu")
"""Entries of the environment that decide how fast a machine is."""
FACTS = ("dataset", "data", "method", "seed", "batch_size", "noise", "weights")
"""Facts of a cell that decide what is computed; backend, software versions and slot refill may differ."""
ERRORS = {
    "oracle target error": "oracle_target_mae",
    "square MAE": "square_mae",
    "background MAE": "background_mae",
}
"""Quality figures, lower is better: name -> column of samples.parquet."""

Outcome = Literal["regressed", "ok", "improved", "inconclusive", "missing"]


class NotComparable(BenchError):
    """Records of another machine, data, weights or options."""

    exit_code = EXIT_NOT_COMPARABLE


class Metric(BaseModel):
    """One figure of NEW against BASE.

    Attributes:
        kind: "speed" or "quality".
        base, new: the figure on each side.
        measure: "ratio" (NEW over BASE) or "difference" (NEW minus BASE).
        value, low, high: of the measure, with its 90 % interval: 5 % on the side that decides.
        limit: how far it may be worse.
        note: why it is inconclusive, where that is not the interval's width.
    """

    name: str
    kind: Literal["speed", "quality"]
    unit: str = "1"
    base: float | None
    new: float | None
    measure: Literal["ratio", "difference"]
    value: float | None
    low: float | None
    high: float | None
    limit: float
    verdict: Outcome
    note: str = ""


class CellComparison(BaseModel):
    """A cell of BASE and its counterpart; `new` is None, and the verdict missing, where there is none."""

    base: str
    new: str | None
    images: int = 0
    verdict: Outcome
    note: str = ""
    metrics: list[Metric] = []


class Comparison(BaseModel):
    """BASE against one NEW."""

    base: str
    new: str
    tolerance: float
    verdict: Outcome
    cells: list[CellComparison]


@dataclass(frozen=True)
class _Side:
    """A recorded cell with its folder and the environment of its suite."""

    record: CellRecord
    folder: Path
    environment: dict[str, Any]


def is_record(name: str) -> bool:
    """Whether a path holds a suite's or a cell's record."""
    return any((Path(name) / file).is_file() for file in ("suite.json", "result.json"))


def read_sides(folder: Path) -> list[_Side]:
    """The cells of a suite's folder, or the one of a cell's folder inside its suite.

    Raises:
        UsageError: no record there.
    """
    cell = read_cell(folder)
    suite = read_suite(folder if cell is None else folder.resolve().parent)
    if cell is not None:
        return [_Side(cell, folder, suite.environment)]
    return [_Side(record, folder / record.id, suite.environment) for record in suite.cells]


def compare_records(base: Path, new: Path, tolerance: float, margins: VerifyConfig) -> Comparison:
    """Compare every cell of BASE with its counterpart in NEW.

    Args:
        tolerance: a slowdown counts when its whole interval lies beyond this factor.
        margins: of quality.

    Raises:
        UsageError: no record, or no telling which cells belong together.
        NotComparable: another machine, data, weights or options; names what differs.
    """
    theirs, ours = read_sides(base), read_sides(new)
    cells = []
    for side in theirs:
        found = _counterpart(side, ours, len({other.record.backend for other in theirs}) == 1)
        if found is None:
            cells.append(CellComparison(base=side.record.id, new=None, verdict="missing", note=f"{new} lacks it"))
        elif side.record.status != "ok" or found.record.status != "ok":
            which = side if side.record.status != "ok" else found
            note = f"{which.folder} is {which.record.status}"
            cells.append(CellComparison(base=side.record.id, new=found.record.id, verdict="missing", note=note))
        else:
            cells.append(_compare_cell(side, found, tolerance, margins))
    return Comparison(base=str(base), new=str(new), tolerance=tolerance, verdict=worst(cells), cells=cells)


def worst(found: Sequence[CellComparison | Metric]) -> Outcome:
    """The verdict of several: a regression, then a missing cell, decides."""
    verdicts = {item.verdict for item in found}
    order: tuple[Outcome, ...] = ("regressed", "missing", "inconclusive", "improved", "ok")
    return next((verdict for verdict in order if verdict in verdicts), "missing")


def _key(side: _Side) -> tuple[str, str, int]:
    return side.record.dataset, side.record.method, side.record.seed


def _counterpart(side: _Side, others: list[_Side], one_backend: bool) -> _Side | None:
    """The same dataset, method and seed; the same backend too where the two sides hold several."""
    matching = [other for other in others if _key(other) == _key(side)]
    same = [other for other in matching if other.record.backend == side.record.backend]
    if same and (len(matching) > 1 or not one_backend):
        return same[0]
    if len(matching) > 1 or (matching and not one_backend):
        names = ", ".join(other.record.backend for other in matching)
        raise UsageError(f"{side.record.id} could be compared with several backends ({names}); name the cells' folders")
    return matching[0] if matching else None


def _check_comparable(base: _Side, new: _Side) -> None:
    different = [
        f"{key} ({base.environment.get(key)!r} and {new.environment.get(key)!r})"
        for key in MACHINE
        if base.environment.get(key) != new.environment.get(key)
    ]
    theirs, ours = base.record.facts, new.record.facts
    different += [key for key in FACTS if theirs.get(key) != ours.get(key)]
    for name in (base.record.dataset, base.record.method):
        if base.record.options.get(name) != new.record.options.get(name):
            different.append(f"options of {name}")
    if different:
        raise NotComparable(
            f"{new.folder} cannot be compared with {base.folder}: they differ in {', '.join(different)}; "
            "run both on one machine with the same configuration"
        )


def _compare_cell(base: _Side, new: _Side, tolerance: float, margins: VerifyConfig) -> CellComparison:
    _check_comparable(base, new)
    theirs, ours = load_outcomes(base.folder)[0], load_outcomes(new.folder)[0]
    if set(theirs.index) != set(ours.index):
        raise NotComparable(f"{new.folder} and {base.folder} hold different samples; run both with the same --limit")
    ours = ours.loc[theirs.index]
    generator = noise.numpy_generator("bootstrap", 0, "compare", base.record.id)
    metrics = _speed(theirs, ours, tolerance, generator)
    flags = [flag for side in (base, new) for flag in timing_flags(side.record)]
    for metric in metrics:
        if flags:
            metric.verdict, metric.note = "inconclusive", f"timing flagged: {'; '.join(dict.fromkeys(flags))}"
    metrics.append(_success(theirs, ours, margins.success_margin))
    for name, column in ERRORS.items():
        if column in theirs and column in ours:
            metrics.append(_error(name, theirs[column], ours[column], margins.target_error_margin, generator))
    return CellComparison(
        base=base.record.id, new=new.record.id, images=len(theirs), verdict=worst(metrics), metrics=metrics
    )


def timing_flags(record: CellRecord) -> list[str]:
    """Why a cell's timings are not to be trusted."""
    return [*record.timings.get("timing_flags", []), *record.execution.get("flags", [])]


def _speed(base: pd.DataFrame, new: pd.DataFrame, tolerance: float, generator: np.random.Generator) -> list[Metric]:
    """Seconds a valid counterfactual and seconds an image; samples' seconds are shares of the wall time."""
    metrics = []
    for name, column in (("seconds per valid", "valid"), ("seconds per image", None)):
        top, bottom = [], []
        for frame in (new, base):
            top.append(frame["seconds"].to_numpy(np.float64))
            bottom.append(np.ones(len(frame)) if column is None else frame[column].to_numpy(np.float64))
        value, low, high = paired_ratio((top[0], bottom[0]), (top[1], bottom[1]), generator)
        metrics.append(
            Metric(
                name=name,
                kind="speed",
                unit="s",
                base=_over(top[1], bottom[1]),
                new=_over(top[0], bottom[0]),
                measure="ratio",
                value=value,
                low=low,
                high=high,
                limit=tolerance,
                verdict=change(low, high, tolerance, 1 / tolerance),
            )
        )
    return metrics


def _over(top: np.ndarray, bottom: np.ndarray) -> float | None:
    return float(top.sum() / bottom.sum()) if bottom.sum() > 0 else None


def _success(base: pd.DataFrame, new: pd.DataFrame, margin: float) -> Metric:
    theirs, ours = base["valid"].to_numpy() > 0, new["valid"].to_numpy() > 0
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    low, high = paired_rate_interval(gained, lost, len(theirs))
    fall = (None, None) if low is None or high is None else (-high, -low)
    return Metric(
        name="success rate",
        kind="quality",
        unit="fraction",
        base=float(theirs.mean()),
        new=float(ours.mean()),
        measure="difference",
        value=(gained - lost) / len(theirs),
        low=low,
        high=high,
        limit=margin,
        verdict=change(*fall, margin, -margin),
    )


def _error(name: str, base: pd.Series, new: pd.Series, margin: float, generator: np.random.Generator) -> Metric:
    """A mean error over the images that have a counterfactual on both sides."""
    theirs, ours = base.to_numpy(np.float64), new.to_numpy(np.float64)
    kept = np.isfinite(theirs) & np.isfinite(ours)
    theirs, ours = theirs[kept], ours[kept]
    ones = np.ones(len(theirs))
    value, low, high = paired_ratio((ours, ones), (theirs, ones), generator)
    return Metric(
        name=name,
        kind="quality",
        base=_over(theirs, ones),
        new=_over(ours, ones),
        measure="ratio",
        value=value,
        low=low,
        high=high,
        limit=1 + margin,
        verdict=change(low, high, 1 + margin, 1 - margin),
    )
