"""Error against budget: how close the searches had come after so many iterations, and after so many seconds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from methods.noise import numpy_generator
from metrics.budget import Band, carry_forward, iteration_grid, mean_band, seconds_grid, share_band
from reports.pages.blocks import Axis, Block, Lines, Section, Series, Text
from reports.pages.views import band_points, is_faithful, meaningless, series_name, views
from reports.records import Cell

INTRO = (
    "The search's own prediction, which may be noisy, is compared with the reference value at every iteration; "
    "a sample that is done keeps its last one. Both budgets have logarithmic axes; shaded: 95 % intervals over images."
)
BUDGETS = {"iteration": Axis("iterations", log=True), "seconds": Axis("seconds of a sample", "s", log=True)}
"""Column of a trace -> axis."""
ERROR = Axis("mean |prediction − target|", zero=True)
SHARE = Axis("samples within tolerance", low=0.0, high=1.0)


class Courses(NamedTuple):
    """All samples of a cell that have a trace.

    Attributes:
        times: a rising array a sample, in one unit of budget; `predictions` beside it.
        targets: float64 (N,); `failed` bool (N,); `units` the image of each, (N,).
    """

    times: list[np.ndarray]
    predictions: list[np.ndarray]
    targets: np.ndarray
    failed: np.ndarray
    units: np.ndarray


def courses(cell: Cell, budget: str) -> Courses | None:
    """The traces of a cell by a column of the trace; None where it has none."""
    if cell.trace.empty or cell.samples.empty:
        return None
    samples = cell.samples.set_index("id")
    grouped = {str(name): part for name, part in cell.trace.groupby("id", sort=False)}
    names = [name for name in samples.index if name in grouped]
    if not names:
        return None
    rows = samples.loc[names]
    units = rows["source"] if "source" in rows else pd.Series(names)
    return Courses(
        [grouped[name][budget].to_numpy(np.float64) for name in names],
        [grouped[name]["prediction"].to_numpy(np.float64) for name in names],
        rows["target"].to_numpy(np.float64),
        rows["failure"].notna().to_numpy(),
        units.to_numpy(dtype=str),
    )


def budget_grid(found: Courses, budget: str) -> np.ndarray:
    """Where the curves of a cell are drawn: from its first known prediction to the end of its last sample."""
    last = max(float(times[-1]) for times in found.times)
    if budget == "iteration":
        return iteration_grid(int(last))
    first = min(float(times[0]) for times in found.times)
    return seconds_grid(max(first, 1e-6), max(last, 1e-6))  # what is recorded has six decimals


def errors(found: Courses, grid: np.ndarray) -> np.ndarray:
    """|prediction - target| at every budget, (N, G); NaN for a failed sample."""
    known = [carry_forward(*course, grid) for course in zip(found.times, found.predictions, strict=True)]
    distances = np.abs(np.stack(known) - found.targets[:, None])
    distances[found.failed] = np.nan
    return distances


def curves(cell: Cell, budget: str) -> tuple[np.ndarray, Band, Band] | None:
    """Budgets, mean error and share within tolerance of a cell; None where it has no traces."""
    found = courses(cell, budget)
    if found is None:
        return None
    grid = budget_grid(found, budget)
    distances = errors(found, grid)
    generator = numpy_generator("error against budget", cell.record.id, budget)
    within = np.nan_to_num(distances, nan=np.inf) <= cell.tolerance
    return grid, mean_band(distances, found.units, generator), share_band(within, found.units)


def _tolerance(cells: Sequence[Cell], points: Sequence[Series]) -> list[Series]:
    """A dashed line at the tolerance, where the cells shown together have the same one."""
    values = {cell.tolerance for cell in cells}
    places = [x for line in points for x, *_ in line.points]
    if len(values) != 1 or not places:
        return []
    value = values.pop()
    ends = dict.fromkeys([min(places), max(places)])
    return [Series(f"tolerance {value:g}", [(x, value, None, None) for x in ends], dashed=True)]


def _choices(cells: Sequence[Cell], lines: Mapping[int, Series], tolerance: bool) -> dict[str, list[Series]]:
    """The lines of every view; `lines` are the cells' by identity, `tolerance` is drawn besides where asked for."""
    choices = {}
    for title, shown in views(cells).items():
        drawn = [lines[id(cell)] for cell in shown]
        choices[title] = drawn + (_tolerance(shown, drawn) if tolerance else [])
    return choices


def _charts(cells: Sequence[Cell], budget: str) -> list[Lines]:
    """Error and share within tolerance over one budget."""
    found = {id(cell): curves(cell, budget) for cell in cells}
    known = {key: curve for key, curve in found.items() if curve is not None}
    names = {id(cell): series_name(cell) for cell in cells}
    error = {key: Series(names[key], band_points(grid, mean)) for key, (grid, mean, _) in known.items()}
    share = {key: Series(names[key], band_points(grid, part)) for key, (grid, _, part) in known.items()}
    axis = BUDGETS[budget]
    word = "iterations" if budget == "iteration" else "seconds"
    spent = (
        "Seconds are a sample's share of the wall time of the batch, its encoding included and building left out."
        if budget == "seconds"
        else "An iteration is one call of the method's step; its prediction is made before its update."
    )
    return [
        Lines(
            id=f"budget-error-{word}",
            title=f"Error over {word}",
            x=axis,
            y=ERROR,
            choices=_choices(cells, error, tolerance=True),
            alt=f"Mean distance of the search's prediction from the reference value over {word}, a line a cell; lower "
            f"and further left is better. {spent} Samples that failed are left out.",
        ),
        Lines(
            id=f"budget-share-{word}",
            title=f"Samples within tolerance over {word}",
            x=axis,
            y=SHARE,
            choices=_choices(cells, share, tolerance=False),
            alt=f"Share of samples whose prediction is within the tolerance over {word}, a line a cell; higher and "
            "further left is better. Samples that failed count as outside; success is judged on the saved image and "
            "can be lower.",
        ),
    ]


def _has_traces(cell: Cell) -> bool:
    return courses(cell, "iteration") is not None


def _notes(cells: Sequence[Cell]) -> list[Text]:
    """What the curves lack."""
    unread = [cell for cell in cells if cell.trace_problem]
    lacking = [cell.label for cell in cells if not (cell.problem or cell.trace_problem or _has_traces(cell))]
    told = [Text(f"{cell.label}: no course of the searches, as {cell.trace_problem}.", "note") for cell in unread]
    told += [
        Text(f"The record holds no course of the searches for {'; '.join(lacking)}; run again to have it.", "note")
    ] if lacking else []  # fmt: skip
    for cell in cells:
        traced, recorded = cell.trace["id"].nunique(), len(cell.samples)
        if 0 < traced < recorded:
            told.append(Text(f"{cell.label}: {recorded - traced} of {recorded} samples have no course.", "note"))
    return told


def build(cells: Sequence[Cell]) -> Section | None:
    """Mean error and share within tolerance over iterations and over seconds, of every cell with traces."""
    shown = [cell for cell in cells if is_faithful(cell)]
    if not shown:
        return None
    traced = [cell for cell in shown if _has_traces(cell)]
    blocks: list[Block] = [*meaningless(cells), *_notes(shown)]
    if traced:
        blocks += [chart for budget in BUDGETS for chart in _charts(traced, budget)]
    return Section("budget", "Error against budget", blocks, INTRO if traced else "")
