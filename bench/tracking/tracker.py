"""Importing records into MLflow: again at any time, from any machine, without duplicates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.sections import TrackingConfig
from bench.tracking import layout
from bench.tracking.connection import told, turn
from bench.tracking.entries import cell_entry, read_record, suite_entry
from bench.tracking.names import finite, flat, safe_key
from bench.tracking.note import suite_note
from bench.tracking.server import redacted, store_uri
from bench.tracking.store import Store


class Tracker:
    """One experiment in one store. Nothing is opened before something is imported.

    Args:
        root: folder of the runs, where the default store lives.
    """

    def __init__(self, root: Path, config: TrackingConfig) -> None:
        self.root, self.config = root, config
        self._uri = store_uri(root, config)

    @property
    def uri(self) -> str:
        """The store, for people: without a password."""
        return redacted(self._uri)

    def import_suite(self, folder: Path) -> int:
        """Import a suite and its cells; what is there already is left alone.

        Returns:
            How many cells were new.

        Raises:
            UsageError: no record there, or it is still running.
            RunError: a journal is damaged.
            TrackingError: the store cannot be used.
        """
        suite, cells = read_record(folder)
        entry = suite_entry(suite, folder)
        entries = [cell_entry(cell) for cell in cells]
        with turn(self._uri, self.root), told(self._uri):
            store = Store(self._uri, self.config)
            known = store.runs_of(entry)
            new = [made for made in entries if not known.is_complete(made)]
            if not new and known.is_complete(entry):
                return 0
            note = suite_note(suite, cells)
            parent = store.open(entry, known)
            for made in new:
                store.import_cell(made, known, parent, folder)
            store.mark_replaced(known, entries)
            store.finish_suite(parent, entry, folder, note)
        return len(new)

    def log_training(self, card: Mapping[str, Any], path: Path) -> None:
        """A training run: recipe, loss curve, figures and the card; once for each weights file.

        Raises:
            TrackingError: the store cannot be used.
        """
        losses, _ = finite({str(step): loss for step, loss in card["curve"]})
        figures, _ = finite({safe_key(f"figures/{key}"): value for key, value in card["figures"].items()})
        params = flat(card["training"]) | flat({"config": card["config"]})
        identity = layout.record_id("training", card["recipe"], card["sha256"])
        with turn(self._uri, self.root), told(self._uri):
            store = Store(self._uri, self.config)
            store.import_training(card["recipe"], identity, params, losses, figures, path)
