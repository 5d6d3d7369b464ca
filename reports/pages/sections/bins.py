"""Success and error by where a sample starts and where it is to go."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.pages.blocks import Block, Matrix, Section
from reports.pages.views import by_dataset, is_faithful, meaningless, rounded, series_name
from reports.records import Cell

INTRO = (
    "Rows are the predictions that samples start with, columns their reference values; each field shows the mean over "
    "its samples and how many there are. Far from the diagonal the way is long; few samples say little."
)
WIDTH = 0.2
"""Of a bin. Fixed rather than quantiles, so that two pages have the same fields; ends are closed below, the last one
above too, and values outside [0, 1] count to the outermost bins."""
DISTINCT = 10
"""So many reference values of two decimals or fewer are columns of their own."""


class Bins(NamedTuple):
    """Fields of an axis: their labels, and the lower ends that values are sorted by, rising."""

    labels: list[str]
    starts: np.ndarray

    def of(self, values: np.ndarray) -> np.ndarray:
        """The number of each value's bin, (N,); a rounding error below an end counts as that end."""
        places = np.searchsorted(self.starts, np.asarray(values, dtype=np.float64) + 1e-6, side="right") - 1
        return np.clip(places, 0, len(self.starts) - 1)


def equal_bins(values: np.ndarray) -> Bins:
    """Bins of the fixed width over [0, 1], without those before the first and behind the last value."""
    starts = np.round(np.arange(0, 1 - WIDTH / 2, WIDTH), 6)
    used = Bins([], starts).of(values)
    kept = starts[used.min() : used.max() + 1]
    return Bins([f"{start:.1f} to {start + WIDTH:.1f}" for start in kept], kept)


def target_bins(targets: np.ndarray) -> Bins:
    """A bin for every reference value where these are few and round, else bins of the fixed width."""
    distinct = np.unique(np.round(targets, 2))
    if len(distinct) > DISTINCT or np.abs(targets - np.round(targets, 2)).max() > 1e-6:
        return equal_bins(targets)
    return Bins([f"{value:g}" for value in distinct], distinct)


def field_means(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> tuple[list[list[float | None]], list[list[int]]]:
    """Mean and number of the finite values in every field.

    Args:
        values, rows, columns: (N,); the fields that the values belong to.

    Returns:
        Both (R, C); None where there is no value.
    """
    finite = np.isfinite(values)
    place = np.ravel_multi_index((rows[finite], columns[finite]), shape)
    counts = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)
    totals = np.bincount(place, values[finite], minlength=shape[0] * shape[1]).reshape(shape)
    means = [
        [rounded(float(total / count)) if count else None for total, count in zip(*line, strict=True)]
        for line in zip(totals, counts, strict=True)
    ]
    return means, counts.tolist()


def _usable(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows that can be sorted into fields: all but those whose input has no finite prediction."""
    return frame if frame.empty else frame[np.isfinite(frame["start"]) & np.isfinite(frame["target"])]


def _matrices(number: int, suffix: str, frames: dict[str, pd.DataFrame]) -> list[Matrix]:
    """Success and oracle error of one dataset's cells, by title of the cell."""
    together = pd.concat(list(frames.values()), ignore_index=True)
    rows, columns = equal_bins(together["start"].to_numpy()), target_bins(together["target"].to_numpy())
    shape = (len(rows.labels), len(columns.labels))

    def fields(column: str) -> dict[str, tuple[list[list[float | None]], list[list[int]]]]:
        return {
            title: field_means(
                frame[column].to_numpy(np.float64), rows.of(frame["start"]), columns.of(frame["target"]), shape
            )
            for title, frame in frames.items()
        }

    success, error = fields("valid"), fields("oracle_target_mae")
    largest = max((value for means, _ in error.values() for line in means for value in line if value), default=0.0)
    shared = ("start: prediction on the input", "target: reference value", rows.labels, columns.labels)
    found = [
        Matrix(
            f"bins-success-{number}", f"Success rate by start and target{suffix}", *shared, success, 0.0, 1.0,
            "Share of valid counterfactuals by the start's bin (rows) and the target (columns), 0 to 1; higher is "
            "better. Samples that failed count as not valid.",
        )
    ]  # fmt: skip
    if any(count for _, counts in error.values() for line in counts for count in line):
        found.append(
            Matrix(
                f"bins-error-{number}", f"Oracle error by start and target{suffix}", *shared, error, 0.0,
                largest or 1.0,
                "Mean distance of the oracle's prediction on the saved image from the reference value, by the start's "
                "bin (rows) and the target (columns); lower is better. Samples that failed are left out.",
            )
        )  # fmt: skip
    return found


def build(cells: Sequence[Cell]) -> Section | None:
    """Success rate and oracle error by start and target for every dataset; None without a recorded sample."""
    blocks: list[Block] = [*meaningless(cells)]
    parts = by_dataset([cell for cell in cells if is_faithful(cell)])
    for number, (dataset, mine) in enumerate(parts.items(), 1):
        frames = {series_name(cell): _usable(cell.samples) for cell in mine}
        frames = {title: frame for title, frame in frames.items() if not frame.empty}
        if frames:
            blocks += _matrices(number, f", {dataset}" if len(parts) > 1 else "", frames)
    if not any(isinstance(block, Matrix) for block in blocks):
        return None
    return Section("bins", "Success by start and target", blocks, INTRO)
