"""Several reference values an image: do predictions follow them, do they rise all the way, and how smoothly?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from methods.noise import numpy_generator
from metrics.budget import mean_band
from metrics.intervals import rate_estimate
from metrics.paths import monotonic_rate
from reports.figures import spread
from reports.pages.blocks import Axis, Block, Lines, Section, Series, TableBlock
from reports.pages.views import (
    band_points,
    by_dataset,
    estimate_value,
    figure,
    is_faithful,
    meaningless,
    rounded,
    series_name,
)
from reports.records import Cell
from reports.table import Column, Entry, Table

INTRO = (
    "Every image was asked for several reference values. A thin line is an image, the bold one the mean with its 95 % "
    "interval over images; on the dashed line a prediction equals its reference value."
)
IMAGES = 40
"""Thin lines of a cell at most, spread evenly over its images; means are over all of them."""
JUDGES = {"prediction": "regressor", "oracle": "oracle"}
"""Column of the samples -> who predicts; both on the saved image."""
FIGURES: dict[str, Column] = {
    "path/monotonic_rate": Column("rising pairs, oracle", "", "high"),
    "path/monotonic_rate_square": Column("rising pairs, square", "", "high"),
    "path/step_l1": Column("step, L1"),
    "path/roughness_l1": Column("roughness, L1", "", "low"),
    "validity/prediction_mae": Column("|prediction − target|", "", "low"),
    "validity/oracle_target_mae": Column("|oracle − target|", "", "low"),
}
"""Summary key -> column."""


def paths(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """A judge's predictions as a table: a row an image, a column a reference value by rising value.

    NaN where a sample failed or was not recorded.
    """
    rounded_targets = frame.assign(target=frame["target"].round(6))
    return rounded_targets.pivot(index="source", columns="target", values=column).sort_index(axis=1).astype(np.float64)


def _line(row: pd.Series) -> list[tuple[float, float, float | None, float | None]]:
    reached = [(rounded(float(x)), figure(float(value))) for x, value in row.items()]
    return [(x, *found) for x, found in reached if found is not None]


def _mean(cell: Cell, column: str, name: str) -> Series:
    table = paths(cell.samples, column)
    generator = numpy_generator("sweep", cell.record.id, column)
    band = mean_band(table.to_numpy(), np.array(table.index, dtype=str), generator)
    return Series(name, band_points(table.columns, band))


def _identity(cells: Sequence[Cell]) -> Series:
    targets = [float(value) for cell in cells for value in cell.samples["target"]]
    ends = dict.fromkeys((rounded(min(targets)), rounded(max(targets))))
    return Series("reference value", [(end, end, None, None) for end in ends], dashed=True)


def _images(cell: Cell, column: str) -> list[Series]:
    """Thin lines of some images."""
    table = paths(cell.samples, column)
    shown = spread(sorted(map(str, table.index)), IMAGES)
    lines = [Series(name, _line(table.loc[name]), group="images", thin=True) for name in shown]
    return [line for line in lines if line.points]


def _chart(number: int, suffix: str, cells: Sequence[Cell]) -> Lines:
    choices: dict[str, list[Series]] = {}
    if len(cells) > 1:
        for column, judge in JUDGES.items():
            means = [_mean(cell, column, series_name(cell)) for cell in cells]
            choices[f"means of all cells, {judge}"] = [*means, _identity(cells)]
    for cell in cells:
        for column, judge in JUDGES.items():
            mean = _mean(cell, column, "mean")
            choices[f"{series_name(cell)}, {judge}"] = [*_images(cell, column), mean, _identity([cell])]
    choices = {title: lines for title, lines in choices.items() if any(line.points for line in lines[:-1])}
    return Lines(
        id=f"sweep-{number}",
        title=f"Prediction against reference value{suffix}",
        x=Axis("reference value"),
        y=Axis("prediction on the saved image"),
        choices=choices,
        alt="Predictions on the counterfactuals over the reference values that were asked for: lines that rise along "
        f"the dashed diagonal are good. At most {IMAGES} images of a cell are drawn; samples that failed are left out.",
        markers=True,
    )


def _row(cell: Cell) -> list[Entry]:
    summary = cell.record.summary if cell.finished else {}
    table = paths(cell.samples, "oracle")
    rates = np.array([monotonic_rate(row) for row in table.to_numpy()])
    rising = rate_estimate(rates[np.isfinite(rates)] == 1)
    return [
        series_name(cell),
        len(table),
        len(table.columns),
        estimate_value(rising, 2),
        *(estimate_value(summary.get(key), 2 if "rate" in key else 4) for key in FIGURES),
    ]


def _table(cells: Sequence[Cell]) -> Table:
    columns = [
        Column("cell"),
        Column("images"),
        Column("reference values"),
        Column("rising throughout, oracle", "", "high"),
        *FIGURES.values(),
    ]
    notes = [
        "Rising pairs: share of neighbouring reference values whose counterfactuals rise as well. Rising throughout: "
        "share of images for which all do.",
        "Step: mean absolute difference of neighbouring counterfactuals; roughness: of their second differences, 0 for "
        "a straight line in equal steps, comparable between cells with the same reference values.",
        "Neighbours of a sample that failed are left out.",
    ]
    return Table("Monotonic? Smooth?", columns, [_row(cell) for cell in cells], notes)


def build(cells: Sequence[Cell]) -> Section | None:
    """Lines and a table for the cells with several reference values an image; None without any."""
    several = [cell for cell in cells if not cell.samples.empty and "source" in cell.samples]
    shown = [cell for cell in several if is_faithful(cell)]
    if not shown:
        return None
    blocks: list[Block] = [*meaningless(several)]
    parts = by_dataset(shown)
    for number, (dataset, mine) in enumerate(parts.items(), 1):
        blocks.append(_chart(number, f", {dataset}" if len(parts) > 1 else "", mine))
    blocks.append(TableBlock("sweep-table", _table(shown)))
    return Section("sweep", "Several reference values an image", blocks, INTRO)
