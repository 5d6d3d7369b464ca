"""Tables of a suite, for the terminal, for pages and for copying: one source, `summary_table`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import rich.table
from rich.text import Text

from bench.record import CellRecord, SuiteRecord
from metrics.intervals import Estimate
from reports.pages.views import MEANINGLESS, is_faithful, why_meaningless
from reports.records import Cell
from reports.table import Column, Entry, Table, Value, format_entry, printable

COLUMNS: list[tuple[str, str, int]] = [
    ("success", "validity/success_rate", 3),
    ("success, fresh noise", "validity/noise_success_rate", 3),
    ("|r-target|", "validity/prediction_mae", 3),
    ("oracle-target", "validity/oracle_target_mae", 3),
    ("oracle-r", "validity/oracle_regressor_mae", 3),
    ("Square MAE", "quality/square_mae", 3),
    ("Background MAE", "quality/background_mae", 4),
    ("change, L1", "sparsity/change_l1", 4),
    ("changed area", "sparsity/changed_area", 3),
    ("type preserved", "type/preserved", 3),
    ("FID", "realism/fid", 2),
    ("sFID", "realism/sfid", 2),
    ("FVA", "identity/fva", 3),
    ("FS", "identity/fs", 3),
    ("MNAC", "attributes/mnac", 2),
    ("CD", "attributes/cd", 2),
    ("LPIPS", "perceptual/lpips", 3),
    ("oracle feature distance", "realism/oracle_feature_distance", 3),
    ("target class distance", "realism/target_class_distance", 3),
    ("the same of originals", "realism/target_class_distance_originals", 3),
    ("failure rate", "validity/failure_rate", 3),
    ("rising pairs, oracle", "path/monotonic_rate", 3),
    ("rising pairs, square", "path/monotonic_rate_square", 3),
    ("step L1", "path/step_l1", 4),
    ("roughness L1", "path/roughness_l1", 4),
    ("steps", "cost/steps", 1),
    ("denoiser forward", "cost/forward", 0),
    ("denoiser backward", "cost/backward", 0),
    ("s / image", "throughput/seconds_per_image", 2),
    ("valid / s", "throughput/valid_per_second", 3),
]
"""(heading, summary key, decimals) of the final table."""
HIGH = (
    "validity/success_rate", "validity/noise_success_rate", "identity/fva", "identity/fs", "type/preserved",
    "path/monotonic_rate", "path/monotonic_rate_square", "throughput/valid_per_second",
)  # fmt: skip
"""Figures that are to be high; of the others low is better, or neither."""
NEITHER = ("path/step_l1", "realism/target_class_distance_originals")
PAPER = (
    "validity/success_rate", "validity/oracle_target_mae", "quality/square_mae", "quality/background_mae",
    "realism/fid", "identity/fva", "identity/fs", "attributes/mnac", "throughput/seconds_per_image",
    "throughput/valid_per_second",
)  # fmt: skip
"""Figures of a table for a paper, where they were measured."""
NEVER_BEGUN = "never begun"
TIMINGS = (("build", "s", "build_s"), ("occupancy", "", "slot_occupancy"), ("peak", "MiB", "peak_memory_mib"))
"""(heading, unit, key of the timings) of the last columns."""
CAPTION = "means and rates with 95 % intervals (bootstrap over images; Wilson for rates)"


def format_estimate(estimate: Estimate | None, decimals: int) -> str:
    """ "0.130 [0.121, 0.140]"; a dash where nothing was measured."""
    return format_entry(estimate_entry(estimate, decimals))


def estimate_entry(estimate: Estimate | None, decimals: int | None = None) -> Value | None:
    """An estimate as an entry of a table."""
    if estimate is None or estimate.value is None:
        return None
    return Value(estimate.value, estimate.low, estimate.high, decimals)


def columns_of(cells: Sequence[CellRecord]) -> list[tuple[str, str, int]]:
    """The columns for which some cell has a figure; why there is none stands in the notes."""
    found = {key for cell in cells for key, estimate in cell.summary.items() if estimate.value is not None}
    return [column for column in COLUMNS if column[1] in found]


def status_text(cell: Cell) -> str:
    """What became of a cell, in a few words."""
    failures = cell.record.failures
    if not cell.finished:
        return f"{cell.status}: {cell.error}" if cell.error else cell.status
    return f"{sum(failures.values())} failed" if failures else "ok"


def summary_table(cells: Sequence[Cell], verdicts: Sequence[str] = (), missing: Sequence[str] = ()) -> Table:
    """One row a cell: what became of it, its figures with intervals, and what it cost.

    A cell that did not finish has no figures: those of its recorded samples are no match for whole ones; where there
    is one, "n" samples are recorded "of" so many. One of a backend that computes nothing has a bad row and a note.

    Args:
        missing: names of cells that were never begun, for rows at the end; not together with `verdicts`.
        verdicts: of every cell, shown in a column of their own; () for none. They say what did not finish, so the
            status is left out where all is well.
    """
    records = [cell.record for cell in cells]
    whole = [cell.record for cell in cells if cell.finished]
    empty = [index for index, cell in enumerate(cells) if not is_faithful(cell)]
    modes = {cell.label: record.judged.get("metrics", {}).get("mode") for cell, record in zip(cells, records)}
    judged = any(record.definitions for record in whole)
    figures = columns_of(whole)
    one_dataset = len({record.dataset for record in records}) == 1
    partial = len(whole) < len(cells) or bool(missing)
    statuses = [status_text(cell) for cell in cells]
    if not verdicts:
        statuses = [f"{text}; {MEANINGLESS}" if index in empty else text for index, text in enumerate(statuses)]
    told = not verdicts or any(status != "ok" for status in statuses)
    columns = [Column("cell", paper=True), *([Column("verdict")] if verdicts else [])]
    columns += [*([Column("status", paper=partial)] if told else []), Column("n", paper=partial)]
    columns += [Column("of", paper=True)] if partial else []
    columns += [Column("metrics")] if judged else []
    columns += [
        Column(heading, "", _better(key) if one_dataset else "", paper=key in PAPER) for heading, key, _ in figures
    ]
    columns += [Column(heading, unit) for heading, unit, _ in TIMINGS]
    rows: list[list[Entry]] = []
    for index, (cell, record) in enumerate(zip(cells, records)):
        done = cell.finished
        row: list[Entry] = [cell.label, *verdicts[index : index + 1]]
        row += [*([statuses[index]] if told else []), recorded_samples(cell)]
        row += [record.samples] if partial else []
        row += [(modes[cell.label] if done and record.definitions else None)] if judged else []
        row += [estimate_entry(record.summary.get(key), decimals) if done else None for _, key, decimals in figures]
        row += [_timing(record.timings, key) if done else None for _, _, key in TIMINGS]
        rows.append(row)
    rows += [[name, NEVER_BEGUN, 0, *[None] * (len(columns) - 3)] for name in missing]
    notes = [f"{cells[index].label}: {why_meaningless(cells[index])}." for index in empty]
    return Table(CAPTION, columns, rows, notes, dict.fromkeys(empty, "bad"), bold=True)


def recorded_samples(cell: Cell) -> int | None:
    """Samples of a cell, failed ones too; None where they cannot be read.

    Raises:
        RunError: the journal of an unfinished cell is damaged.
    """
    if cell.problem:
        return None
    counted = 0 if cell.finished else len(cell.rows)  # the record of a killed cell still has the count of before
    return counted or cell.record.finished


def terminal_table(
    suite: SuiteRecord, cells: Sequence[Cell] | None = None, missing: Sequence[str] = ()
) -> rich.table.Table:
    """The final table: one row a figure, one column a cell, which fits a narrow terminal.

    Args:
        cells: of the suite; None: those that suite.json holds.
        missing: see `summary_table`.
    """
    if cells is None:
        cells = [Cell(suite, Path(), record, record.id) for record in suite.cells]
    table = summary_table([replace(cell, label=cell.record.id) for cell in cells], missing=missing)
    shown = rich.table.Table(title=Text(f"{suite.id} ({suite.status}); {table.caption}"), title_justify="left")
    shown.add_column("", no_wrap=True)
    for row in table.rows:
        shown.add_column(Text(printable(str(row[0])).replace("--", " ")), justify="right")
    for place, column in enumerate(table.columns[1:], 1):
        heading = f"{column.heading} {column.unit}".strip()
        shown.add_row(heading, *(Text(printable(format_entry(row[place]))) for row in table.rows))
    return shown


def _better(key: str) -> Literal["low", "high", ""]:
    if key in NEITHER:
        return ""
    return "high" if key in HIGH else "low"


def _timing(timings: Mapping[str, Any], key: str) -> Value | None:
    value = timings.get(key)
    return None if value is None else Value(float(value), decimals=2 if value < 100 else 0)
