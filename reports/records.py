"""Reading records for pages, tables and gates: finished ones, and what there is of the others. Changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from bench.errors import UsageError
from bench.record import RECONSTRUCTIONS, CellRecord, Journal, SuiteRecord, cells_of, read_suite
from bench.traces import TRACE_FILE, trace_table, without_trace


@dataclass(frozen=True)
class Cell:
    """A cell of a record, finished or not.

    Attributes:
        suite: what it belongs to, `folder` that suite's folder.
        label: names it among all cells that are shown together; for people.
    """

    suite: SuiteRecord
    folder: Path
    record: CellRecord
    label: str

    @property
    def finished(self) -> bool:
        """Judged as a whole: every metric is there."""
        return self.record.status == "ok"

    @property
    def tolerance(self) -> float:
        """Of success: largest |r - target|."""
        return float(self.record.options.get(self.record.method, {}).get("tolerance", 0.05))

    @cached_property
    def rows(self) -> list[dict]:
        """The journal's rows, as far as they are intact; [] where there is no journal.

        Raises:
            RunError: it is damaged.
        """
        return Journal(self.folder / self.record.id / "samples.jsonl").peek()

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row a sample. Of an unfinished cell those that were recorded, with the figures that need no image.

        Columns: see `bench.judge.sample_table`; "valid" (1.0, 0.0), "prediction_error" and "oracle_target_mae" are
        always there, NaN where a sample failed ("valid" 0). Older records lack newer columns.

        Raises:
            UsageError: a finished cell without a readable table.
            RunError: the journal is damaged.
        """
        path = self.folder / self.record.id / "samples.parquet"
        if self.finished:
            return _table(path)
        frame = pd.DataFrame([without_trace(row) for row in self.rows])
        if frame.empty:
            return frame
        failed = frame["failure"].notna()
        frame["prediction_error"] = (frame["prediction"] - frame["target"]).abs().mask(failed)
        frame["oracle_target_mae"] = (frame["oracle"] - frame["target"]).abs().mask(failed)
        frame["valid"] = (frame["prediction_error"] <= self.tolerance).astype(np.float64)
        return frame

    @cached_property
    def trace(self) -> pd.DataFrame:
        """A line an iteration: id, iteration, prediction, seconds; empty where the record has no traces.

        Raises:
            UsageError: the table cannot be read.
            RunError: the journal of an unfinished cell is damaged.
        """
        path = self.folder / self.record.id / TRACE_FILE
        if not path.is_file():
            return trace_table(self.rows)
        return _table(path)

    def input_path(self, row: pd.Series) -> Path:
        """The original of a row of `samples`."""
        return self.folder / f"inputs-{self.record.dataset}" / row["input"]

    def image_path(self, row: pd.Series) -> Path | None:
        """The saved counterfactual of a row; None for a failed sample."""
        return None if pd.notna(row["failure"]) else self.folder / self.record.id / "images" / row["image"]

    def reconstruction_path(self, row: pd.Series) -> Path | None:
        """What the method made of the unchanged image, where that was recorded."""
        name = row.get("reconstruction")
        return self.folder / self.record.id / RECONSTRUCTIONS / name if isinstance(name, str) else None


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); run the cell again") from error


def read_cells(folders: Sequence[Path]) -> list[Cell]:
    """Every cell of some suites, in the order of the suites.

    Labels are "method, backend", with the dataset, seed or suite before them where they differ.

    Raises:
        UsageError: a folder holds no record.
    """
    found = [(read_suite(folder), folder) for folder in dict.fromkeys(folders)]
    pairs = [(suite, folder, record) for suite, folder in found for record in cells_of(folder, suite)]
    datasets = {record.dataset for _, _, record in pairs}
    seeds = {record.seed for _, _, record in pairs}
    names = [
        ", ".join(
            [
                *([record.dataset] if len(datasets) > 1 else []),
                record.method,
                record.backend,
                *([f"seed {record.seed}"] if len(seeds) > 1 else []),
            ]
        )
        for _, _, record in pairs
    ]
    labels = [
        f"{name} ({folder.name})" if names.count(name) > 1 else name
        for name, (_, folder, _) in zip(names, pairs, strict=True)
    ]
    return [Cell(suite, folder, record, label) for (suite, folder, record), label in zip(pairs, labels, strict=True)]
