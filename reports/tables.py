"""Tables of a suite, for the terminal and for pages."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from bench.record import CellRecord, SuiteRecord
from metrics.intervals import Estimate

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


def format_estimate(estimate: Estimate | None, decimals: int) -> str:
    """ "0.130 [0.121, 0.140]"; a dash where nothing was measured."""
    if estimate is None or estimate.value is None:
        return "-"
    text = f"{estimate.value:.{decimals}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"


def columns_of(cells: list[CellRecord]) -> list[tuple[str, str, int]]:
    """The columns for which some cell has a figure; why there is none stands in the notes."""
    found = {key for cell in cells for key, estimate in cell.summary.items() if estimate.value is not None}
    return [column for column in COLUMNS if column[1] in found]


def rows(suite: SuiteRecord) -> list[dict[str, str]]:
    """One mapping heading -> text for every cell; a cell that did not finish shows its status instead."""
    table = []
    for cell in suite.cells:
        row = {"cell": cell.id, "n": str(cell.finished)}
        if cell.status != "ok":
            row["status"] = f"{cell.status}: {cell.error}" if cell.error else cell.status
        else:
            row["status"] = f"{sum(cell.failures.values())} failed" if cell.failures else "ok"
            mode = cell.judged.get("metrics", {}).get("mode")
            row |= {"metrics": mode} if mode and cell.definitions else {}
            row |= {heading: format_estimate(cell.summary.get(key), d) for heading, key, d in columns_of(suite.cells)}
        table.append(row)
    return table


def terminal_table(suite: SuiteRecord) -> Table:
    """The final table: one row a figure, one column a cell, which fits a narrow terminal."""
    table = Table(title=f"{suite.id} ({suite.status}); means with 95 % bootstrap intervals", title_justify="left")
    data = rows(suite)
    table.add_column("", no_wrap=True)
    for row in data:
        table.add_column(row["cell"].replace("--", " "), justify="right")
    shared = ["metrics"] if any("metrics" in row for row in data) else []
    for heading in ["status", "n", *shared, *(column[0] for column in columns_of(suite.cells))]:
        table.add_row(heading, *(row.get(heading, "-") for row in data))
    for heading, key in (("build s", "build_s"), ("occupancy", "slot_occupancy"), ("peak MiB", "peak_memory_mib")):
        table.add_row(heading, *(_timing(cell.timings, key) for cell in suite.cells))
    return table


def _timing(timings: Mapping[str, Any], key: str) -> str:
    value = timings.get(key)
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
