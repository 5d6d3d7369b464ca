"""What MLflow is told of a suite and of a cell: tags, parameters, figures, curves. Nothing here talks to MLflow."""

import datetime
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.record import CellRecord, SuiteRecord
from bench.tracking import layout
from bench.tracking.names import finite, flat, safe_key, summary_metrics, text, timing_metrics
from bench.tracking.series import Point, cell_series
from reports.records import Cell

STATUS = {"ok": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "running": "KILLED"}
"""A record's status -> MLflow's. What is "running" and holds no lock was killed."""


@dataclass(frozen=True)
class Entry:
    """A run as it is to stand in MLflow.

    Attributes:
        record_id: what it is a copy of; `suite_id` that of its suite, or its own.
        digest: changes with the files.
        started, ended: milliseconds since 1970.
        dataset: name, digest, rows; None for a suite.
    """

    name: str
    record_id: str
    suite_id: str
    digest: str
    status: str
    started: int
    ended: int
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    series: dict[str, list[Point]] = field(default_factory=dict)
    dataset: tuple[str, str, int] | None = None


def suite_entry(suite: SuiteRecord, folder: Path) -> Entry:
    """A suite: its configuration, and where it ran."""
    environment = suite.environment
    git = environment.get("git") or {}
    tags = {
        layout.KIND_TAG: "suite",
        "status": suite.status,
        layout.COMMAND_TAG: suite.command,
        "mlflow.source.name": "bench",
        **_machine(environment),
    }
    if git.get("commit"):
        tags |= {"mlflow.source.git.commit": git["commit"], "git_dirty": _flag(git.get("dirty"))}
    files = [folder / name for name in layout.SUITE_FILES]
    identity = suite_record_id(suite)
    return Entry(
        name=text(run_name(suite, folder), 250),
        record_id=identity,
        suite_id=identity,
        digest=_digest(path.read_bytes() for path in files if path.is_file()),
        status=STATUS[suite.status],
        started=_milliseconds(suite.started),
        ended=_ended(suite.ended, [folder, *folder.glob("*/")]),
        tags={key: text(value) for key, value in tags.items()},
        params=flat(suite.config),
    )


def run_name(suite: SuiteRecord, folder: Path) -> str:
    """A suite's name, with its folder's parent before it where that tells it from others: "nightly-small/repeat-1"."""
    repeated = re.fullmatch(r"repeat-\d+", suite.id) is not None
    return f"{folder.resolve().parent.name}/{suite.id}" if repeated else suite.id


def suite_record_id(suite: SuiteRecord) -> str:
    """Record id of a suite; going on with a suite keeps it."""
    return layout.record_id(suite.id, suite.started)


def cell_entry(cell: Cell) -> Entry:
    """A cell: options, every figure with its interval, timings, curves.

    Raises:
        UsageError, RunError: its files are damaged.
    """
    record, folder = cell.record, cell.folder / cell.record.id
    values, left_out = finite(timing_metrics(record.timings) | summary_metrics(record.summary))
    git = cell.suite.environment.get("git") or {}
    tags = {
        layout.KIND_TAG: "cell",
        layout.CELL_TAG: record.id,
        "status": record.status,
        "dataset": record.dataset,
        "method": record.method,
        "backend": record.backend,
        "seed": str(record.seed),
        "non_finite_metrics": str(left_out),
        "mlflow.source.name": "bench",
        **_machine(cell.suite.environment),
        **({"error": record.error} if record.error else {}),
    }
    if git.get("commit"):
        tags |= {"mlflow.source.git.commit": git["commit"], "git_dirty": _flag(git.get("dirty"))}
    digest, suite = cell_digest(cell), suite_record_id(cell.suite)
    return Entry(
        name=text(record.id, 250),
        record_id=layout.record_id(suite, record.id, digest),
        suite_id=suite,
        digest=digest,
        status=STATUS[record.status],
        started=_milliseconds(record.started),
        ended=_ended(record.ended, [folder / name for name in layout.CELL_FILES]),
        tags={key: text(value) for key, value in tags.items()},
        params=_cell_params(record),
        metrics=values,
        series=cell_series(cell),
        dataset=(record.dataset, str(record.facts.get("data", ""))[:36], record.samples),
    )


def training_entry(card: Mapping[str, Any], path: Path) -> Entry:
    """A training: recipe, loss curve and figures, at the time when the card was written.

    Args:
        card: from `bench.tracking.reading.read_training`; `path` is its file.
    """
    losses, _ = finite({str(step): loss for step, loss in card["curve"]})
    figures, _ = finite({safe_key(f"figures/{key}"): value for key, value in card["figures"].items()})
    identity = layout.record_id("training", card["recipe"], card["sha256"])
    written = int(path.stat().st_mtime * 1000)
    return Entry(
        name=text(card["recipe"], 250),
        record_id=identity,
        suite_id=identity,
        digest=_digest([path.read_bytes()]),
        status="FINISHED",
        started=written,
        ended=written,
        tags={layout.KIND_TAG: "training", "mlflow.source.name": "bench"},
        params=flat(card["training"]) | flat({"config": card["config"]}),
        metrics=figures,
        series={"train/loss": [Point(int(step), loss) for step, loss in losses.items()]},
    )


def cell_digest(cell: Cell) -> str:
    """Changes when a cell is resumed or judged again; of an unfinished one, with every sample."""
    rows = 0 if cell.finished else len(cell.rows)
    return _digest([cell.record.model_dump_json().encode(), str(rows).encode()])


def _cell_params(record: CellRecord) -> dict[str, str]:
    own = {key: getattr(record, key) for key in ("dataset", "method", "backend", "seed", "samples", "fingerprint")}
    facts = {
        key: record.facts[key] for key in ("device", "batch_size", "noise", "torch", "version") if key in record.facts
    }
    weights = {"weights": record.facts.get("weights", {}) | record.judged.get("weights", {})}
    return flat(own | facts | weights | record.options | {"metrics": record.judged.get("metrics", {})})


def _machine(environment: dict[str, Any]) -> dict[str, str]:
    """Device and processors, as far as the record knows them."""
    known = {
        "device": environment.get("device"),
        "gpu": (environment.get("gpu") or {}).get("name"),
        "cpu": environment.get("cpu"),
    }
    return {key: str(value) for key, value in known.items() if value}


def _flag(value: bool | None) -> str:
    return "unknown" if value is None else str(value).lower()


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()[:32]


def _milliseconds(time: str) -> int:
    return int(datetime.datetime.fromisoformat(time).timestamp() * 1000)


def _ended(ended: str | None, paths: list[Path]) -> int:
    """When a record ended; of one that was killed, when its files were last written."""
    if ended:
        return _milliseconds(ended)
    return int(max(path.stat().st_mtime for path in paths if path.exists()) * 1000)
