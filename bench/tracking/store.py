"""Writing into an open store. A run counts as killed until it is whole, so that no import leaves one RUNNING."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.sections import TrackingConfig
from bench.tracking import layout
from bench.tracking.archive import pack
from bench.tracking.connection import open_client, open_experiment
from bench.tracking.entries import Entry

DIGEST_TAG = "bench.digest"
CHANGED_TAG = "params_changed"


class Known:
    """The runs that a suite has in MLflow already (mlflow.entities.Run)."""

    def __init__(self, runs: Sequence[Any]) -> None:
        self.runs = list(runs)

    def of(self, entry: Entry) -> Any | None:
        """The run of an entry, whole or not."""
        found = (run for run in self.runs if run.data.tags.get(layout.RECORD_TAG) == entry.record_id)
        return next(found, None)

    def is_complete(self, entry: Entry) -> bool:
        """Whether it was imported to its end, as it is now."""
        run = self.of(entry)
        tags = {} if run is None else run.data.tags
        return tags.get(layout.IMPORT_TAG) == layout.COMPLETE and tags.get(DIGEST_TAG) == entry.digest


class Store:
    """The configured experiment of a store, for the one who has the turn to write into it.

    Raises:
        TrackingError: it cannot be opened.
    """

    def __init__(self, uri: str, config: TrackingConfig) -> None:
        self.client, self.config = open_client(uri), config
        self.experiment = open_experiment(self.client, uri, config)

    def runs_of(self, entry: Entry) -> Known:
        """All runs of a suite. Those that an import left RUNNING when it was killed are closed."""
        query = f"tags.`{layout.SUITE_TAG}` = '{entry.suite_id}'"
        found, token = [], None
        while True:
            page = self.client.search_runs([self.experiment], query, max_results=1000, page_token=token)
            found, token = found + list(page), page.token
            if not token:
                break
        for run in found:
            if run.info.status == "RUNNING":
                self.client.set_terminated(run.info.run_id, "KILLED")
        return Known(found)

    def open(self, entry: Entry, known: Known, parent: str | None = None) -> str:
        """The run of an entry with its tags and parameters, made where there is none; returns its id.

        MLflow never changes a parameter: those of a suite that went on with other options keep their first value
        and are named in a tag.
        """
        from mlflow.entities import Param, RunTag

        tags = entry.tags | {layout.RECORD_TAG: entry.record_id, layout.SUITE_TAG: entry.suite_id}
        tags |= {layout.IMPORT_TAG: layout.INCOMPLETE, DIGEST_TAG: entry.digest}
        tags |= {} if parent is None else {layout.PARENT_TAG: parent}
        run = known.of(entry) or self._create(entry.name, tags, entry.started)
        there = run.data.params
        changed = sorted(key for key, value in entry.params.items() if there.get(key, value) != value)
        tags |= {CHANGED_TAG: ", ".join(changed)} if changed else {}
        params = [Param(key, value) for key, value in entry.params.items() if key not in there]
        self.client.log_batch(run.info.run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])
        return run.info.run_id

    def _create(self, name: str, tags: dict[str, str], started: int | None) -> Any:
        run = self.client.create_run(self.experiment, start_time=started, run_name=name, tags=tags)
        self.client.set_terminated(run.info.run_id, "KILLED", end_time=started)
        return run

    def _close(self, run_id: str, status: str, ended: int | None) -> None:
        self.client.set_terminated(run_id, status, end_time=ended)
        self.client.set_tag(run_id, layout.IMPORT_TAG, layout.COMPLETE)

    def import_cell(self, entry: Entry, known: Known, parent: str, folder: Path) -> None:
        """A cell below its suite: figures, curves, dataset, and its files.

        Args:
            folder: of the suite.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

        run_id, place = self.open(entry, known, parent), folder / entry.tags[layout.CELL_TAG]
        metrics = [Metric(key, value, entry.ended, 0) for key, value in entry.metrics.items()]
        for key, points in entry.series.items():
            metrics += [Metric(key, point.value, entry.ended, point.step) for point in points]
        self.client.log_batch(run_id, metrics=metrics)
        if entry.dataset is not None:
            name, digest, rows = entry.dataset
            data = Dataset(name, digest, "local", json.dumps({"dataset": name}), profile=json.dumps({"num_rows": rows}))
            self.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "evaluation")])])
        self._log_files(run_id, place, layout.CELL_FILES, layout.RECORD_FOLDER)
        self._log_pictures(run_id, place, ("images", "reconstructions"), layout.IMAGES_ARCHIVE, layout.RECORD_FOLDER)
        self._close(run_id, entry.status, entry.ended)

    def mark_replaced(self, known: Known, entries: Sequence[Entry]) -> None:
        """Mark the earlier runs of cells that have been resumed or judged again since."""
        current = {entry.tags[layout.CELL_TAG]: entry.record_id for entry in entries}
        for run in known.runs:
            tags = run.data.tags
            cell = tags.get(layout.CELL_TAG)
            if cell in current and tags.get(layout.RECORD_TAG) != current[cell]:
                self.client.set_tag(run.info.run_id, layout.IMPORT_TAG, layout.REPLACED)

    def finish_suite(self, run_id: str, entry: Entry, folder: Path, note: str) -> None:
        """A suite's files and its note, and its end."""
        inputs = sorted(path.name for path in folder.glob("inputs-*/"))
        self._log_files(run_id, folder, layout.SUITE_FILES, None)
        self._log_pictures(run_id, folder, inputs, layout.INPUTS_ARCHIVE, None)
        self.client.set_tag(run_id, layout.NOTE_TAG, note)
        self._close(run_id, entry.status, entry.ended)

    def import_training(
        self,
        name: str,
        record_id: str,
        params: Mapping[str, str],
        losses: Mapping[str, float],
        figures: Mapping[str, float],
        card: Path,
    ) -> None:
        """A training run; nothing where it is there already.

        Args:
            losses: by step.
        """
        from mlflow.entities import Metric, Param

        query = f"tags.`{layout.RECORD_TAG}` = '{record_id}' and tags.`{layout.IMPORT_TAG}` = '{layout.COMPLETE}'"
        if self.client.search_runs([self.experiment], query, max_results=1):
            return
        tags = {layout.RECORD_TAG: record_id, layout.KIND_TAG: "training", "mlflow.source.name": "bench"}
        run = self._create(name, tags, None)
        now = run.info.start_time
        metrics = [Metric("train/loss", loss, now, int(step)) for step, loss in losses.items()]
        metrics += [Metric(key, value, now, 0) for key, value in figures.items()]
        self.client.log_batch(run.info.run_id, metrics, [Param(key, value) for key, value in params.items()])
        self.client.log_artifact(run.info.run_id, str(card))
        self._close(run.info.run_id, "FINISHED", now)

    def _log_files(self, run_id: str, folder: Path, names: Sequence[str], below: str | None) -> None:
        for name in names:
            if (folder / name).is_file():
                self.client.log_artifact(run_id, str(folder / name), below)

    def _log_pictures(self, run_id: str, folder: Path, names: Sequence[str], archive: str, below: str | None) -> None:
        if not self.config.images:
            return
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / archive
            if pack(folder, names, path):
                self.client.log_artifact(run_id, str(path), below)
