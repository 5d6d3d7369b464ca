"""Backends against the reference, image by image: the same inputs, reference values and noise."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.compare import CellComparison, NotComparable, compare_sides
from bench.compare_metrics import Metric
from bench.outcomes import finite_gaps
from methods import noise
from metrics.equivalence import LEVEL, Equivalence
from metrics.paired import paired_difference
from reports.pages.blocks import Section, TableBlock, Text
from reports.pairs import TONES, Pair, margins_of, named, pairs, side
from reports.records import Cell
from reports.table import Column, Entry, Table, Value

FACTOR = 1.05
"""A ratio of seconds beyond this is called a change by `bench compare`; no speed is judged here."""
INTRO = (
    "Each row compares a backend with the reference on the same images, reference values and noise, so differences "
    "between images cancel. A difference of 0 and a ratio of 1 mean that nothing changed; below them the backend is "
    "lower (better, for errors and seconds). The cells of one command ran one after the other, not interleaved: take "
    "its ratios of seconds as a hint, and measure with python -m bench compare A B, which takes turns."
)
QUALITY = {
    "success rate": Column("success, difference", better="high"),
    "oracle target error": Column("oracle-target, ratio", better="low"),
    "square MAE": Column("Square MAE, ratio", better="low"),
    "background MAE": Column("Background MAE, ratio", better="low"),
}
SPEED = {
    "seconds per image": Column("s / image, ratio", better="low"),
    "seconds per valid": Column("s / valid, ratio", better="low"),
}
"""Figure of `bench.compare` -> column."""


class Row(NamedTuple):
    """A pair and its figures by name; None for a figure that could not be compared, for the reasons in `notes`."""

    pair: Pair
    figures: dict[str, Value | None]
    notes: list[str]


def build(cells: Sequence[Cell]) -> Section | None:
    """A table of all pairs; None where no two backends have the same cell."""
    found = pairs(cells)
    if not found:
        return None
    rows = [_row(pair) for pair in found]
    compared = [row for row in rows if row.pair.measured is not None]
    blocks: list[TableBlock | Text] = [
        Text(
            f"{row.pair.candidate.label} is not compared with {row.pair.reference.label}: {row.pair.reasons[0]}", "note"
        )
        for row in rows
        if row.pair.measured is None
    ]
    if compared:
        blocks.insert(0, TableBlock("paired", _table(compared)))
    return Section("paired", "Backends against the reference", blocks, INTRO)


def _row(pair: Pair) -> Row:
    if pair.measured is None:
        return Row(pair, {}, [])
    same_machine, notes = True, []
    try:
        comparison = _compare(pair, environment=True)
    except NotComparable as error:  # what is computed is the same, as the pair was compared: so it is the machine
        same_machine = False
        notes.append(
            f"{pair.candidate.label}: no ratio of seconds: {named(str(error), pair.candidate, pair.reference)}"
        )
        comparison = _compare(pair, environment=False)
    metrics = {metric.name: metric for metric in comparison.metrics if same_machine or metric.kind != "speed"}
    notes += [f"{pair.candidate.label}, {metric.name}: {metric.note}" for metric in metrics.values() if metric.note]
    figures = {name: _value(metric) for name, metric in metrics.items()}
    # What the verdict rests on is shown with the verdict's own intervals.
    figures["success rate"] = _tested(pair.measured.success)
    figures["oracle target error"] = _tested(pair.measured.target_error)
    if pair.measured.prediction_unknown:
        notes.append(f"{pair.candidate.label}: {pair.measured.prediction_unknown} predictions are not finite")
    return Row(pair, figures | {"prediction": _prediction(pair)}, list(dict.fromkeys(notes)))


def _compare(pair: Pair, environment: bool) -> CellComparison:
    sides = side(pair.reference, environment), side(pair.candidate, environment)
    return compare_sides(*sides, FACTOR, margins_of(pair.reference))


def _value(metric: Metric) -> Value | None:
    return None if metric.value is None else Value(metric.value, metric.low, metric.high, 3)


def _tested(test: Equivalence) -> Value | None:
    return None if test.value is None else Value(test.value, test.low, test.high, 3)


def _prediction(pair: Pair) -> Value | None:
    """Mean |difference of r| on the saved images that both have, with its interval."""
    theirs, ours = (cell.samples.set_index("id") for cell in (pair.reference, pair.candidate))
    gap = finite_gaps(ours.loc[theirs.index], theirs)
    generator = noise.numpy_generator("bootstrap", 0, "prediction", pair.candidate.record.id)
    value, low, high = paired_difference(gap, np.zeros(len(gap)), generator)
    return None if value is None else Value(value, low, high)


def _table(rows: Sequence[Row]) -> Table:
    known = {name for row in rows for name, value in row.figures.items() if value is not None}
    quality = {name: column for name, column in QUALITY.items() if name in known}
    speed = {name: column for name, column in SPEED.items() if name in known}
    columns = [Column("cell"), Column("against"), Column("verdict"), Column("images"), *quality.values()]
    columns += [Column("mean |r - r'|"), Column("largest |r - r'|"), Column("identical images")]
    columns += [Column("pixels that differ", "%"), Column("valid gained"), Column("valid lost"), *speed.values()]
    table = Table(f"Paired differences from the reference, {100 * LEVEL:.0f} % intervals", columns, [])
    for row in rows:
        if row.pair.verdict in TONES:
            table.tones[len(table.rows)] = TONES[row.pair.verdict]
        table.rows.append(_entries(row, [*quality], [*speed]))
        table.notes.extend(row.notes)
    table.notes.append(
        "Errors are compared on images that have a counterfactual on both sides; r and r' are the regressor's "
        "predictions on the reference's and on the backend's saved image; pixels are 8-bit values, of all that are "
        "compared. A ratio without an interval rests on fewer than 10 images."
    )
    return table


def _entries(row: Row, quality: Sequence[str], speed: Sequence[str]) -> list[Entry]:
    found = row.pair.measured
    assert found is not None  # only compared pairs are shown
    return [
        row.pair.candidate.label,
        row.pair.reference.label,
        row.pair.verdict,
        found.compared,
        *(row.figures.get(name) for name in quality),
        row.figures["prediction"],
        None if found.prediction_largest is None else Value(found.prediction_largest),
        found.identical,
        None if found.pixels_different is None else Value(100 * found.pixels_different, decimals=2),
        found.gained,
        found.lost,
        *(row.figures.get(name) for name in speed),
    ]
