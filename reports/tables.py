"""Tables of a suite, for the terminal, for pages and for copying: one source, `summary_table`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import rich.table
from rich.text import Text

from bench.record import CellRecord, SuiteRecord
from metrics.intervals import Estimate
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
    ("FID", "realism/fid", 2),
    ("sFID", "realism/sfid", 2),
    ("FVA", "identity/fva", 3),
    ("FS", "identity/fs", 3),
    ("MNAC", "attributes/mnac", 2),
    ("CD", "attributes/cd", 2),
    ("LPIPS", "perceptual/lpips", 3),
    ("oracle feature distance", "realism/oracle_feature_distance", 3),
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
    "validity/success_rate", "validity/noise_success_rate", "identity/fva", "identity/fs", "path/monotonic_rate",
    "path/monotonic_rate_square", "throughput/valid_per_second",
)  # fmt: skip
"""Figures that are to be high; of the others low is better, or neither."""
NEITHER = ("path/step_l1",)
TIMINGS = (("build", "s", "build_s"), ("occupancy", "", "slot_occupancy"), ("peak", "MiB", "peak_memory_mib"))
"""(heading, unit, key of the timings) of the last columns."""
CAPTION = "means with 95 % bootstrap intervals"


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


def status_text(record: CellRecord) -> str:
    """What became of a cell, in a few words."""
    if record.status != "ok":
        return f"{record.status}: {record.error}" if record.error else record.status
    return f"{sum(record.failures.values())} failed" if record.failures else "ok"


def summary_table(cells: Sequence[Cell], verdicts: Sequence[str] = ()) -> Table:
    """One row a cell: what became of it, its figures with intervals, and what it cost.

    A cell that did not finish has no figures: those of its recorded samples are no match for whole ones.

    Args:
        verdicts: of every cell, shown in a column of their own; () for none. They say what did not finish, so the
            status is left out where all is well.
    """
    records = [cell.record for cell in cells]
    whole = [record for record in records if record.status == "ok"]
    modes = {cell.label: record.judged.get("metrics", {}).get("mode") for cell, record in zip(cells, records)}
    judged = any(record.definitions for record in whole)
    figures = columns_of(whole)
    one_dataset = len({record.dataset for record in records}) == 1
    statuses = [status_text(record) for record in records]
    told = not verdicts or any(status != "ok" for status in statuses)
    columns = [Column("cell"), *([Column("verdict")] if verdicts else [])]
    columns += [*([Column("status")] if told else []), Column("n")]
    columns += [Column("metrics")] if judged else []
    columns += [Column(heading, "", _better(key) if one_dataset else "") for heading, key, _ in figures]
    columns += [Column(heading, unit) for heading, unit, _ in TIMINGS]
    rows: list[list[Entry]] = []
    for index, (cell, record) in enumerate(zip(cells, records)):
        done = record.status == "ok"
        row: list[Entry] = [cell.label, *verdicts[index : index + 1]]
        row += [*([statuses[index]] if told else []), record.finished]
        row += [(modes[cell.label] if done and record.definitions else None)] if judged else []
        row += [estimate_entry(record.summary.get(key), decimals) if done else None for _, key, decimals in figures]
        row += [_timing(record.timings, key) if done else None for _, _, key in TIMINGS]
        rows.append(row)
    return Table(CAPTION, columns, rows)


def terminal_table(suite: SuiteRecord) -> rich.table.Table:
    """The final table: one row a figure, one column a cell, which fits a narrow terminal."""
    table = summary_table([Cell(suite, Path(), record, record.id) for record in suite.cells])
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
