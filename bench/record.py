"""The record: what a run leaves on disk. Files are the truth; MLflow, tables and pages are made from them."""

import datetime
import fcntl
import itertools
import json
import os
import socket
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import RunError, UsageError
from bench.images import write_bytes
from metrics.intervals import Estimate

SCHEMA = 1
LOCK = ".lock"
RECONSTRUCTIONS = "reconstructions"
"""Folder of a cell."""
Status = Literal["running", "ok", "failed", "interrupted"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CellRecord(_Model):
    """result.json of one cell: dataset x method x backend x seed.

    Attributes:
        fingerprint: hash of everything that moves the search; guards resuming.
        facts: what the fingerprint is made of, for naming differences.
        judged: what the figures were made with besides, of bench.cell.judged_with: with others they are made again
            from the saved images. Empty: not known. Records from before it lack it, and their facts name the
            networks that only judged, too; so it did not need another schema.
        summary: "group/name" -> estimate with unit and interval.
        notes: why a metric is empty, by metric.
        timings: seconds by phase (building apart), per-step latency, slot occupancy, peak memory; summed over
            the sessions of a resumed cell; rates, latency, occupancy, energy and memory are the last one's.
        failures: failure reason -> number of samples.
        definitions: metric -> what defines its value, with a fingerprint: figures of equal fingerprints are comparable.
    """

    schema_version: int = SCHEMA
    id: str
    dataset: str
    method: str
    backend: str
    seed: int
    status: Status = "running"
    error: str | None = None
    fingerprint: str
    facts: dict[str, Any]
    judged: dict[str, Any] = {}
    options: dict[str, dict[str, Any]]
    samples: int
    finished: int = 0
    failures: dict[str, int] = {}
    summary: dict[str, Estimate] = {}
    notes: dict[str, str] = {}
    definitions: dict[str, dict[str, Any]] = {}
    timings: dict[str, Any] = {}
    execution: dict[str, Any] = {}
    sessions: int = 1
    started: str
    ended: str | None = None

    @property
    def weights(self) -> dict[str, str]:
        """Role -> sha256 of every network that is known: those of the search, and those that only judged."""
        return self.facts["weights"] | self.judged.get("weights", {})


class SuiteRecord(_Model):
    """suite.json: one command.

    Attributes:
        config_set: configuration as the user gave it; `config` as resolved.
    """

    schema_version: int = SCHEMA
    id: str
    command: str
    status: Status = "running"
    config_set: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    cells: list[CellRecord] = []
    started: str
    ended: str | None = None


def now() -> str:
    """UTC time, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def write_json(path: Path, model: BaseModel) -> None:
    """Write a record whole or not at all."""
    write_bytes(path, (model.model_dump_json(indent=2) + "\n").encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system frees it when the process ends, however it ends.

    Raises:
        UsageError: another run holds it.
    """
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(f"{folder} is in use by {holder}; wait for it or use another --output") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def is_locked(folder: Path) -> bool:
    """Whether a run holds the folder's lock; changes nothing, the folder may be read-only."""
    path = folder / LOCK
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_suite(folder: Path) -> SuiteRecord:
    """Read suite.json, which holds its cells' records too.

    Raises:
        UsageError: no record there, or one of another version.
    """
    path = folder / "suite.json"
    try:
        return SuiteRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{folder} holds no record (suite.json): {error.strerror}") from error
    except ValidationError as error:
        raise UsageError(f"{path} is not a record of schema {SCHEMA}: {error.errors()[0]['msg']}") from error


def read_cell(folder: Path) -> CellRecord | None:
    """result.json of a cell, or None where there is none.

    Raises:
        UsageError: damaged or of another version.
    """
    path = folder / "result.json"
    if not path.is_file():
        return None
    try:
        return CellRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{path} is damaged or of another schema; use --fresh to start over") from error


def cells_of(folder: Path, suite: SuiteRecord) -> list[CellRecord]:
    """The records of a suite's cells, those too that were killed before they came into suite.json.

    Args:
        folder: the suite's.

    Raises:
        UsageError: a damaged record, or one of another version.
    """
    listed = {record.id: record for record in suite.cells}
    others = sorted(path.parent.name for path in folder.glob("*/result.json") if path.parent.name not in listed)
    return [read_cell(folder / name) or listed[name] for name in [*listed, *others]]


def missing_cells(suite: SuiteRecord, cells: Iterable[CellRecord]) -> list[str]:
    """The cells that a suite was to have and that were never begun, as "dataset--method--backend", in their order.

    Args:
        cells: those that it holds, of `cells_of`.
    """
    held = {(cell.dataset, cell.method, cell.backend) for cell in cells}
    planned = itertools.product(*(suite.config.get(key, []) for key in ("dataset", "method", "backend")))
    return ["--".join(names) for names in dict.fromkeys(planned) if names not in held]


class Journal:
    """samples.jsonl: one line a finished sample, with a checksum; the line is the proof that it is done.

    The image is written before its line. A torn last line is dropped; damage anywhere else is an error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write these lines in place of all others, whole or not at all."""
        try:
            write_bytes(self.path, b"".join(_encode(row) for row in rows))
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}; what was recorded before is kept") from error

    def append(self, row: dict[str, Any]) -> None:
        """Add a line and flush it to the disk."""
        try:
            with self.path.open("ab") as file:
                file.write(_encode(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}; what was recorded before is kept") from error

    def rows(self) -> list[dict[str, Any]]:
        """All intact lines, truncating a torn last one.

        Raises:
            RunError: a damaged line in the middle.
        """
        if not self.path.is_file():
            return []
        rows, good, size = self._read()
        if good < size:
            with self.path.open("r+b") as file:
                file.truncate(good)
        return rows

    def peek(self) -> list[dict[str, Any]]:
        """All intact lines, changing nothing: a run may be writing.

        Raises:
            RunError: a damaged line in the middle.
        """
        return self._read()[0] if self.path.is_file() else []

    def _read(self) -> tuple[list[dict[str, Any]], int, int]:
        """The intact lines, the bytes that they take, and the bytes of the file."""
        data = self.path.read_bytes()
        rows, good = [], 0
        for number, line, end in _lines(data):
            row = _decode(line)
            if row is None:
                if end < len(data):
                    raise RunError(f"{self.path}: line {number} is damaged; use --fresh to start over")
                break
            rows.append(row)
            good = end
        return rows, good, len(data)


def _lines(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    start, number = 0, 0
    while start < len(data):
        stop = data.find(b"\n", start)
        end = len(data) if stop < 0 else stop + 1
        number += 1
        yield number, data[start:end], end
        start = end


def _encode(row: dict[str, Any]) -> bytes:
    text = json.dumps(row, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def _decode(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:-1]):
            return None
        return json.loads(line[9:-1])
    except ValueError:
        return None
