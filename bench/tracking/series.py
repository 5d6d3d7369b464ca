"""Curves of a cell in MLflow: how its searches went, and how long every call took."""

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from metrics.budget import carry_forward
from reports.records import Cell

POINTS = 200
"""Of a curve, at most."""
ERROR, WITHIN = "series/target_error", "series/within_tolerance_rate"


class Point(NamedTuple):
    """Attributes: `step` is the iteration or the number of the call, from 1."""

    step: int
    value: float


def cell_series(cell: Cell) -> dict[str, list[Point]]:
    """The curves of a cell by name; those are left out for which its folder has no data.

    `series/target_error` and `series/within_tolerance_rate` are of the search's own predictions, over iterations.
    `series/<phase>_s` is the seconds of every call on a whole batch. Longer curves keep `POINTS` steps, evenly spaced.

    Raises:
        UsageError, RunError: the cell's table or its journal is damaged.
    """
    samples = cell.samples
    targets = {} if samples.empty else dict(zip(samples["id"], samples["target"], strict=True))
    found = search_series(cell.trace, targets, cell.tolerance)
    latency = cell.folder / cell.record.id / "latency.json"
    if latency.is_file():
        for name, seconds in json.loads(latency.read_bytes()).items():
            values = np.asarray(seconds, dtype=np.float64)  # of a clock, so they are finite
            steps = _places(len(values))
            found[f"series/{name}"] = _points(steps, values[steps - 1])
    return {name: points for name, points in found.items() if points}


def search_series(trace: pd.DataFrame, targets: Mapping[str, float], tolerance: float) -> dict[str, list[Point]]:
    """Mean |prediction - target| and the share of samples within the tolerance, at every iteration.

    The last prediction of a sample that is done is carried forward. Where a prediction is not finite, the search is
    not in the mean, and not within the tolerance; there is no point where that holds for all.

    Args:
        trace: columns id, iteration (from 1, rising within an id), prediction.
        targets: reference value of every id; iterations of others are left out.
    """
    trace = trace[trace["id"].isin(list(targets))]
    if trace.empty:
        return {}
    steps = _places(int(trace["iteration"].max()))
    errors = np.stack(
        [
            carry_forward(part["iteration"].to_numpy(), (part["prediction"] - targets[name]).abs().to_numpy(), steps)
            for name, part in trace.groupby("id", sort=False)
        ]
    )
    finite = np.isfinite(errors)
    known = finite.any(0)
    means = np.where(finite, errors, 0.0).sum(0)[known] / finite.sum(0)[known]
    return {ERROR: _points(steps[known], means), WITHIN: _points(steps, (finite & (errors <= tolerance)).mean(0))}


def _places(count: int) -> np.ndarray:
    """Steps 1 to `count`: all of them, or `POINTS` that are evenly spaced, the first and the last among them."""
    if count <= POINTS:
        return np.arange(1, count + 1)
    return np.unique(np.linspace(1, count, POINTS).round().astype(np.int64))


def _points(steps: np.ndarray, values: np.ndarray) -> list[Point]:
    return [Point(int(step), float(value)) for step, value in zip(steps, values, strict=True)]
