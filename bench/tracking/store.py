"""MLflow as a copy of the records: imported after a run, again at any time, without duplicates."""

import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.judge import numeric_facts
from bench.record import CellRecord, SuiteRecord, read_suite
from bench.sections import TrackingConfig

# MLflow reads these when it is imported, which every function here does late.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

RECORD_TAG = "bench.record_id"


class TrackingError(BenchError):
    """MLflow cannot be used; the records are unaffected."""


def store_uri(root: Path, config: TrackingConfig) -> str:
    """The tracking URI: configured, $MLFLOW_TRACKING_URI, or an SQLite file under `root`."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/mlflow.db"


def _milliseconds(time: str | None) -> int:
    moment = datetime.datetime.fromisoformat(time) if time else datetime.datetime.now(datetime.UTC)
    return int(moment.timestamp() * 1000)


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """Nested configuration as dotted keys, in the characters MLflow accepts."""
    if isinstance(tree, dict):
        pairs = (_flat(value, f"{prefix}.{key}" if prefix else str(key)).items() for key, value in tree.items())
        return {key: value for pair in pairs for key, value in pair}
    return {prefix: tree if isinstance(tree, str) else json.dumps(tree)}


class Tracker:
    """One experiment in one store.

    Args:
        root: folder of the runs, where the default store lives.

    Raises:
        TrackingError: the store cannot be opened.
    """

    def __init__(self, root: Path, config: TrackingConfig) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        root.mkdir(parents=True, exist_ok=True)
        self.uri = store_uri(root, config)
        self._errors = (MlflowException, SQLAlchemyError, OSError)
        try:
            self.client = MlflowClient(tracking_uri=self.uri)
            found = self.client.get_experiment_by_name(config.experiment)
            artifacts = (root.resolve() / "mlflow-artifacts").as_uri() if self.uri.startswith("sqlite") else None
            self.experiment = (
                found.experiment_id
                if found
                else self.client.create_experiment(config.experiment, artifact_location=artifacts)
            )
        except self._errors as error:
            raise TrackingError(f"MLflow at {self.uri}: {str(error).splitlines()[0]}") from error

    def _find(self, record_id: str) -> str | None:
        query = f"tags.`{RECORD_TAG}` = '{record_id}' and attributes.status != 'RUNNING'"
        found = self.client.search_runs([self.experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    def _open(self, record_id: str, name: str, started: str, tags: dict[str, str]) -> str:
        run = self.client.create_run(
            self.experiment, start_time=_milliseconds(started), run_name=name, tags={RECORD_TAG: record_id, **tags}
        )
        return run.info.run_id

    def import_suite(self, folder: Path) -> int:
        """Import a suite and its cells; those already there are left alone.

        Returns:
            How many cells were new.
        """
        suite = read_suite(folder)
        try:
            identity = f"{suite.id}@{suite.started}"
            parent = self._find(identity) or self._import_parent(suite, identity)
            new = 0
            for cell in suite.cells:
                cell_identity = "/".join([identity, cell.id, str(cell.ended), *_judgement(cell)])
                if self._find(cell_identity) is None:
                    self._import_cell(suite, cell, cell_identity, parent, folder / cell.id)
                    new += 1
            self._end(parent, suite.status, suite.ended)
            return new
        except self._errors as error:
            raise TrackingError(f"MLflow at {self.uri}: {str(error).splitlines()[0]}") from error

    def _import_parent(self, suite: SuiteRecord, identity: str) -> str:
        git = suite.environment.get("git", {})
        tags = {"bench.kind": "suite", "bench.command": suite.command, "mlflow.source.name": "bench"}
        if git.get("commit"):
            tags["mlflow.source.git.commit"] = git["commit"]
        run_id = self._open(identity, suite.id, suite.started, tags)
        self.client.log_dict(run_id, suite.model_dump(mode="json"), "suite.json")
        self._end(run_id, suite.status, suite.ended)
        return run_id

    def _import_cell(self, suite: SuiteRecord, cell: CellRecord, identity: str, parent: str, folder: Path) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

        tags = {"mlflow.parentRunId": parent, "bench.kind": "cell", "mlflow.source.name": "bench"}
        tags |= {key: getattr(cell, key) for key in ("dataset", "method", "backend")}
        run_id = self._open(identity, cell.id, cell.started, tags)
        ended = _milliseconds(cell.ended)
        values = {f"timing/{key}": value for key, value in numeric_facts(cell.timings).items()}
        for key, estimate in cell.summary.items():
            parts = {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
            values |= {name: value for name, value in parts.items() if value is not None}
        params = {"seed": str(cell.seed), **_flat(cell.options), "fingerprint": cell.fingerprint}
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, value, ended, 0) for key, value in values.items()],
            params=[Param(key, value) for key, value in params.items()],
        )
        data = Dataset(
            cell.dataset, str(cell.facts.get("data", ""))[:36], "local", json.dumps({"dataset": cell.dataset})
        )
        self.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "evaluation")])])
        for name in ("result.json", "samples.parquet", "samples.jsonl"):
            if (folder / name).is_file():
                self.client.log_artifact(run_id, str(folder / name), "result")
        self._end(run_id, cell.status, cell.ended)

    def _end(self, run_id: str, status: str, ended: str | None) -> None:
        word = {"ok": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED")
        self.client.set_terminated(run_id, word, end_time=_milliseconds(ended))

    def log_training(self, card: dict[str, Any], path: Path) -> None:
        """A training run: recipe, loss curve, figures and the card; once for each weights file."""
        from mlflow.entities import Metric, Param

        identity = f"training/{card['recipe']}/{card['sha256']}"
        try:
            if self._find(identity):
                return
            run_id = self.client.create_run(
                self.experiment, run_name=card["recipe"], tags={RECORD_TAG: identity, "bench.kind": "training"}
            ).info.run_id
            now = _milliseconds(None)
            metrics = [Metric("train/loss", loss, now, step) for step, loss in card["curve"]]
            metrics += [Metric(f"figures/{key}", value, now, 0) for key, value in card["figures"].items()]
            params = _flat(card["training"]) | _flat(card["config"], "config")
            self.client.log_batch(run_id, metrics=metrics, params=[Param(key, value) for key, value in params.items()])
            self.client.log_artifact(run_id, str(path))
            self._end(run_id, "ok", None)
        except self._errors as error:
            raise TrackingError(f"MLflow at {self.uri}: {str(error).splitlines()[0]}") from error


def _judgement(cell: CellRecord) -> list[str]:
    """Names what a cell was judged with, so that figures that were made anew are imported too."""
    if not cell.judged:
        return []
    return [hashlib.sha256(json.dumps(cell.judged, sort_keys=True).encode()).hexdigest()[:16]]
