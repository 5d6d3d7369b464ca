"""What the chart sections share: which cells are shown, which stand beside each other, and figures as plain numbers."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from backends import BACKENDS
from bench.registry import resolve
from metrics.budget import Band
from metrics.intervals import Estimate
from reports.pages.blocks import Text
from reports.records import Cell
from reports.table import Value

Reached = tuple[float, float | None, float | None]
"""A figure with its interval, as a point of a chart has it."""


MEANINGLESS = "means nothing"
"""What is to be thought of a cell whose backend computes nothing."""


def is_faithful(cell: Cell) -> bool:
    """False for a backend that computes nothing (null): its counterfactuals mean nothing."""
    name = cell.record.backend
    return bool(resolve(BACKENDS, name, "backend").faithful) if name in BACKENDS else True


def why_meaningless(cell: Cell) -> str:
    """Why a cell that is not faithful means nothing."""
    return f"the backend {cell.record.backend} computes nothing: its counterfactuals mean nothing"


def meaningless(cells: Sequence[Cell]) -> list[Text]:
    """A note on cells that are left out because their backend computes nothing; none where there is none."""
    left = [cell.label for cell in cells if not is_faithful(cell)]
    return [Text(f"Left out, because the backend computes nothing: {'; '.join(left)}.", "note")] if left else []


def by_dataset(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of every dataset, in their order: figures of different datasets are never drawn together."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.record.dataset, []).append(cell)
    return found


def views(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Title -> cells that are worth looking at together, the clearest view first.

    With several methods on several backends: the methods on each backend, the backends of each method, and all.
    """
    found: dict[str, list[Cell]] = {}
    parts = by_dataset(cells)
    for dataset, mine in parts.items():
        prefix = f"{dataset}: " if len(parts) > 1 else ""
        methods = dict.fromkeys(cell.record.method for cell in mine)
        backends = dict.fromkeys(cell.record.backend for cell in mine)
        if len(methods) > 1 and len(backends) > 1:
            for backend in backends:
                found[f"{prefix}methods on {backend}"] = [c for c in mine if c.record.backend == backend]
            for method in methods:
                found[f"{prefix}backends of {method}"] = [c for c in mine if c.record.method == method]
        found[f"{prefix}all cells"] = mine
    return {title: shown for title, shown in found.items() if len(shown) > 1 or title.endswith("all cells")}


def series_name(cell: Cell) -> str:
    """The cell's label; of an unfinished cell with how much of it there is."""
    if cell.finished:
        return cell.label
    if cell.problem:
        return f"{cell.label} ({cell.status})"
    return f"{cell.label} ({cell.record.status}: {len(cell.samples)} of {cell.record.samples} samples)"


def rounded(value: float) -> float:
    """Six significant digits: finer than any chart, and a third of the bytes."""
    return float(f"{value:.6g}")


def figure(value: float | None, low: float | None = None, high: float | None = None) -> Reached | None:
    """A figure for a chart; None where it is not a finite number. An interval that is not finite is left out."""
    if value is None or not math.isfinite(value):
        return None
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return rounded(value), None, None
    return rounded(value), rounded(low), rounded(high)


def band_points(grid: Iterable[float], band: Band) -> list[tuple[float, float, float | None, float | None]]:
    """A curve's points for a chart; places without a finite value are left out."""
    columns = zip(grid, *(np.asarray(part, dtype=float).tolist() for part in band), strict=True)
    found = [(rounded(float(x)), figure(*values)) for x, *values in columns]
    return [(x, *reached) for x, reached in found if reached is not None]


def estimate_value(estimate: Estimate | None, decimals: int | None = None) -> Value | None:
    """A summary's figure as a table has it; None where nothing was measured."""
    if estimate is None or estimate.value is None:
        return None
    return Value(estimate.value, estimate.low, estimate.high, decimals)


def number_value(number: object, decimals: int | None = None) -> Value | None:
    """A plain number of the timings as a table has it; None where it is missing."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return Value(float(number), decimals=decimals)
