"""The course of every search: what it predicted, and when; in the journal with its sample, and as a table."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:  # records are read without PyTorch
    from methods.outcomes import Trace

TRACE = "trace"
"""Key of a recorded row."""
TRACE_FILE = "trace.parquet"
"""In a finished cell's folder; a cell that was recorded without traces has none."""


def trace_entry(trace: "Trace") -> dict[str, list[float]]:
    """A trace as it is recorded: six decimals, which is finer than float32 predictions and the clock are."""
    return {name: [round(value, 6) for value in values] for name, values in trace._asdict().items()}


def without_trace(row: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded row's other entries."""
    return {key: value for key, value in row.items() if key != TRACE}


def trace_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One line an iteration of every recorded row that has a trace.

    Returns:
        id, iteration (from 1), prediction (the search's own, before that iteration's update), seconds (the sample's
        share of the wall time so far).
    """
    parts = [
        pd.DataFrame(
            {
                "id": row["id"],
                "iteration": range(1, len(row[TRACE]["predictions"]) + 1),
                "prediction": row[TRACE]["predictions"],
                "seconds": row[TRACE]["seconds"],
            }
        )
        for row in rows
        if row.get(TRACE)
    ]
    columns = {"id": "str", "iteration": "int64", "prediction": "float64", "seconds": "float64"}
    empty = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    return pd.concat([empty, *parts], ignore_index=True).astype(columns) if parts else empty
