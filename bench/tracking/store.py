"""Writing into an open store. A run counts as killed until it is whole, so that no import leaves one RUNNING."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.sections import TrackingConfig
from bench.tracking import layout
from bench.tracking.archive import pack
from bench.tracking.connection import open_client, open_experiment, search_all
from bench.tracking.entries import Entry
from bench.tracking.known import Known, standing

CHANGED_TAG = "params_changed"


class Store:
    """The configured experiment of a store, for the one who has the turn to write into it.

    Args:
        tags: of every run that is written, besides its own.

    Raises:
        TrackingError: it cannot be opened.
    """

    def __init__(self, uri: str, config: TrackingConfig, tags: Mapping[str, str]) -> None:
        self.client, self.config, self.tags = open_client(uri), config, dict(tags)
        self.experiment = open_experiment(self.client, uri, config)

    def runs_of(self, entry: Entry) -> Known:
        """All runs of a suite or a training.

        Those that an import left RUNNING when it was killed are closed, and duplicates, which two machines that
        import one suite at once can make, are marked as replaced.
        """
        tag = layout.RECORD_TAG if entry.tags[layout.KIND_TAG] == "training" else layout.SUITE_TAG
        known = Known(self._search(tag, entry.suite_id), self.config.images)
        for run in (*known.runs, *known.duplicates):
            if run.info.status == "RUNNING":
                self.client.set_terminated(run.info.run_id, "KILLED")
        for run in known.duplicates:
            self._tag(run, {layout.IMPORT_TAG: layout.REPLACED})
        return known

    def _search(self, tag: str, value: str) -> list[Any]:
        return search_all(self.client, self.experiment, f"tags.`{tag}` = '{value}'")

    def _tag(self, run: Any, tags: Mapping[str, str]) -> None:
        """Set the tags that a run (mlflow.entities.Run) does not have yet."""
        for key, value in tags.items():
            if run.data.tags.get(key) != value:
                self.client.set_tag(run.info.run_id, key, value)

    def join(self, known: Known, parent: str) -> None:
        """Put all runs of a suite that were there already below its run, which may be a new one, and tag them."""
        for run in known.runs:
            below = {layout.PARENT_TAG: parent} if layout.CELL_TAG in run.data.tags else {}
            self._tag(run, below | self.tags)

    def open(self, entry: Entry, known: Known, parent: str | None = None) -> str:
        """The run of an entry with its tags and parameters, made where there is none; returns its id.

        MLflow never changes a parameter: those of a suite that went on with other options keep their first value
        and are named in a tag.
        """
        from mlflow.entities import Param, RunTag

        tags = entry.tags | self.tags | {layout.RECORD_TAG: entry.record_id, layout.SUITE_TAG: entry.suite_id}
        tags |= {layout.IMPORT_TAG: layout.INCOMPLETE, layout.DIGEST_TAG: entry.digest}
        tags |= {layout.IMAGES_TAG: str(self.config.images).lower()}
        tags |= {} if parent is None else {layout.PARENT_TAG: parent}
        run = known.of(entry) or self._create(entry, tags)
        there = run.data.params
        changed = sorted(key for key, value in entry.params.items() if there.get(key, value) != value)
        tags |= {CHANGED_TAG: ", ".join(changed)} if changed else {}
        params = [Param(key, value) for key, value in entry.params.items() if key not in there]
        self.client.log_batch(run.info.run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])
        return run.info.run_id

    def _create(self, entry: Entry, tags: Mapping[str, str]) -> Any:
        """A new run, or the one that another machine has made for the same record meanwhile."""
        created = {layout.CREATED_TAG: f"{time.time_ns() // 1_000_000:015d}"}
        made = self.client.create_run(
            self.experiment, start_time=entry.started, run_name=entry.name, tags={**tags, **created}
        )
        self.client.set_terminated(made.info.run_id, "KILLED", end_time=entry.started)
        first = min(self._search(layout.RECORD_TAG, entry.record_id), key=standing, default=made)
        if first.info.run_id == made.info.run_id:
            return made
        self.client.delete_run(made.info.run_id)
        return first

    def close(self, run_id: str, entry: Entry) -> None:
        """A run is whole."""
        self.client.set_terminated(run_id, entry.status, end_time=entry.ended)
        self.client.set_tag(run_id, layout.IMPORT_TAG, layout.COMPLETE)

    def write_cell(self, entry: Entry, known: Known, parent: str, folder: Path) -> str:
        """A cell below its suite: figures, curves, dataset, and its files; returns its run's id, to be closed.

        Args:
            folder: of the suite.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        run_id, place = self.open(entry, known, parent), folder / entry.tags[layout.CELL_TAG]
        self._log_metrics(run_id, entry)
        if entry.dataset is not None:
            name, digest, rows = entry.dataset
            data = Dataset(name, digest, "local", json.dumps({"dataset": name}), profile=json.dumps({"num_rows": rows}))
            self.client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "evaluation")])])
        self._log_files(run_id, place, layout.CELL_FILES, layout.RECORD_FOLDER)
        self._log_pictures(run_id, place, ("images", "reconstructions"), layout.IMAGES_ARCHIVE, layout.RECORD_FOLDER)
        return run_id

    def mark_replaced(self, known: Known, entries: Sequence[Entry]) -> None:
        """Mark the earlier runs of cells that have been resumed or judged again since."""
        current = {entry.tags[layout.CELL_TAG]: entry.record_id for entry in entries}
        for run in known.runs:
            tags = run.data.tags
            cell = tags.get(layout.CELL_TAG)
            if cell in current and tags.get(layout.RECORD_TAG) != current[cell]:
                self.client.set_tag(run.info.run_id, layout.IMPORT_TAG, layout.REPLACED)

    def write_suite(self, run_id: str, folder: Path, note: str) -> None:
        """A suite's files and its note."""
        inputs = sorted(path.name for path in folder.glob("inputs-*/"))
        self._log_files(run_id, folder, layout.SUITE_FILES, None)
        self._log_pictures(run_id, folder, inputs, layout.INPUTS_ARCHIVE, None)
        self.client.set_tag(run_id, layout.NOTE_TAG, note)

    def write_training(self, entry: Entry, known: Known, card: Path) -> str:
        """A training's figures, its loss curve and its card; returns its run's id, to be closed."""
        run_id = self.open(entry, known)
        self._log_metrics(run_id, entry)
        self.client.log_artifact(run_id, str(card))
        return run_id

    def _log_metrics(self, run_id: str, entry: Entry) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(key, value, entry.ended, 0) for key, value in entry.metrics.items()]
        for key, points in entry.series.items():
            metrics += [Metric(key, point.value, entry.ended, point.step) for point in points]
        self.client.log_batch(run_id, metrics=metrics)

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
