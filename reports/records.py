"""Reading records for pages, tables and gates: finished ones, and what there is of the others. Changes nothing."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from bench.errors import BenchError, UsageError
from bench.record import RECONSTRUCTIONS, CellRecord, Journal, SuiteRecord, cells_of, is_locked, read_suite
from bench.traces import TRACE_FILE, trace_table, without_trace

RECORD = "suite.json"
NO_SUITES = ("mlflow-artifacts", "mlartifacts", "mlruns")
"""Folders in which MLflow keeps copies of records, without the files of their cells."""
VERIFY = ["verify"]
"""The verb whose suites are by-products of a verdict."""
Record = TypeVar("Record", SuiteRecord, CellRecord)
KILLED = "killed"
"""Status of what is recorded as running while no process holds its folder's lock."""


@dataclass(frozen=True)
class Cell:
    """A cell of a record, finished or not.

    Attributes:
        suite: what it belongs to, `folder` that suite's folder.
        label: names it among all cells that are shown together; for people.
        problem: why its samples cannot be read; it then counts as unfinished and has none. See `probed`.
        trace_problem: why the course of its searches cannot be read; it then has none.
    """

    suite: SuiteRecord
    folder: Path
    record: CellRecord
    label: str
    problem: str = ""
    trace_problem: str = ""

    @property
    def status(self) -> str:
        """Of the record ("killed" where no process is writing it any more), or "unreadable"."""
        return "unreadable" if self.problem else self.record.status

    @property
    def error(self) -> str:
        """Why it did not finish, as far as that is known."""
        return self.problem or self.record.error or ""

    @property
    def finished(self) -> bool:
        """Judged as a whole: every metric is there."""
        return self.status == "ok"

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
        return [] if self.problem else Journal(self.folder / self.record.id / "samples.jsonl").peek()

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
            return read_table(path)
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
        if self.problem or self.trace_problem:
            return trace_table([])
        if not path.is_file():
            return trace_table(self.rows)
        return read_table(path)

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


def read_table(path: Path) -> pd.DataFrame:
    """A parquet file of a record.

    Raises:
        UsageError: missing, or it cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"{path} is missing; run the cell again")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"{path} cannot be read ({reason}); run the cell again") from error


def walk_suites(folder: Path) -> Iterator[tuple[Path, str]]:
    """Suites' folders in a folder, itself one or not, or folders that cannot be read with the reason; by name.

    MLflow's copies of records (`NO_SUITES`) are passed over, wherever they lie below the folder.
    """
    problems: list[OSError] = []
    for path, folders, files in os.walk(folder, onerror=problems.append):
        folders[:] = sorted(name for name in folders if name not in NO_SUITES)
        if RECORD in files:
            yield Path(path), ""
            folders.clear()  # there are no suites in a suite
    for problem in problems:
        yield Path(problem.filename), problem.strerror or str(problem)


def is_by_verify(suite: SuiteRecord) -> bool:
    """Whether `bench verify` made a suite: it is no measurement of its own."""
    return suite.command.split()[3:4] == VERIFY  # python -m bench verify


def suite_folders(folder: Path) -> list[Path]:
    """The folder itself where it is a suite's, else every suite's folder inside it, by name.

    Suites of `bench verify` are taken where they, or the folder that it wrote, are named; deeper down they are passed
    over.

    Raises:
        UsageError: there is none, or a record is damaged.
    """
    found = [path for path, problem in walk_suites(folder) if not problem]
    named = [path for path in found if folder in (path, path.parent) or not is_by_verify(read_suite(path))]
    if found and not named:
        raise UsageError(f"{folder} holds no suite but those of verify; name the folder that verify wrote")
    if not named:
        raise UsageError(f"{folder} holds no record (suite.json), nor does a folder in it")
    return named


def effective_status(status: str, folder: Path) -> str:
    """The status of a suite or of one of its cells, "killed" where it says "running" and no process is at it.

    Args:
        folder: the suite's.
    """
    return KILLED if status == "running" and not is_locked(folder) else status


def read_suites(folders: Sequence[Path]) -> list[tuple[SuiteRecord, Path]]:
    """The records of some suites with their folders, each folder once; their status is the effective one.

    Raises:
        UsageError: a folder holds no record.
    """
    once: dict[Path, Path] = {}
    for folder in folders:
        once.setdefault(folder.resolve(), folder)
    found = [(read_suite(folder), folder) for folder in once.values()]
    return [(_with_status(suite, folder), folder) for suite, folder in found]


def _with_status(record: Record, folder: Path) -> Record:
    return record.model_copy(update={"status": effective_status(record.status, folder)})


def distinct_names(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The same names, each once: equal ones get the ends of their folders' paths that tell them apart.

    "name (p1/repeat-1)" and "name (p2/repeat-1)"; where the folder is the same, too, "name (p1)" and "name (p1) #2".

    Args:
        folders: of each name.
    """
    places = [folder.resolve() for folder in folders]
    found: list[str] = []
    for name, place in zip(names, places, strict=True):
        rivals = {other for same, other in zip(names, places, strict=True) if same == name}
        longer = f"{name} ({_ending(place, rivals)})" if names.count(name) > 1 else name
        number = 1
        while (label := longer if number == 1 else f"{longer} #{number}") in found:
            number += 1
        found.append(label)
    return found


def _ending(place: Path, rivals: set[Path]) -> str:
    """As many of a path's last parts as tell all of `rivals` apart."""
    longest = max(len(rival.parts) for rival in rivals)
    counts = (count for count in range(1, longest) if len({rival.parts[-count:] for rival in rivals}) == len(rivals))
    return "/".join(place.parts[-next(counts, longest) :])


def cells_in(suites: Sequence[tuple[SuiteRecord, Path]]) -> list[Cell]:
    """Every cell of some suites with their folders, in the order of the suites, with the effective status.

    See `read_cells`.

    Raises:
        UsageError: the record of a cell is damaged.
    """
    pairs = [
        (suite, folder, _with_status(record, folder)) for suite, folder in suites for record in cells_of(folder, suite)
    ]
    endings = _suite_endings([folder for _, folder in suites])
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
        + endings[folder]
        for _, folder, record in pairs
    ]
    labels = distinct_names(names, [folder for _, folder, _ in pairs])
    return [Cell(suite, folder, record, label) for (suite, folder, record), label in zip(pairs, labels, strict=True)]


def _suite_endings(folders: Sequence[Path]) -> dict[Path, str]:
    """Folder -> what names its suite behind a cell's name: " (p1/repeat-1)"; nothing where there is only one suite."""
    places = [folder.resolve() for folder in folders]
    if len(set(places)) < 2:
        return dict.fromkeys(folders, "")
    rivals = [{other for other in places if other.name == place.name} for place in places]
    ends = [_ending(place, same) if len(same) > 1 else place.name for place, same in zip(places, rivals, strict=True)]
    return {folder: f" ({end})" for folder, end in zip(folders, ends, strict=True)}


def read_cells(folders: Sequence[Path]) -> list[Cell]:
    """Every cell of some suites, in the order of the suites.

    Labels are "method, backend", with the dataset or seed where they differ, and with the suite where there are
    several; each is there once.

    Raises:
        UsageError: a folder holds no record.
    """
    return cells_in(read_suites(folders))


def probed(cell: Cell) -> Cell:
    """The cell, or, where its samples or its trace cannot be read, one that says so and has none."""
    try:
        _ = cell.samples
    except BenchError as error:
        return replace(cell, problem=_local(str(error), cell))
    try:
        _ = cell.trace
    except BenchError as error:
        return replace(cell, trace_problem=_local(str(error), cell))
    return cell


def _local(text: str, cell: Cell) -> str:
    """A sentence with file names instead of paths into the cell's folder."""
    return text.replace(f"{cell.folder / cell.record.id}{os.sep}", "")
