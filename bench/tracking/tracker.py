"""Importing records into MLflow: again at any time, from any machine, without duplicates."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.sections import TrackingConfig
from bench.tracking.address import redacted
from bench.tracking.connection import told, turn
from bench.tracking.entries import Entry, cell_entry, suite_entry, training_entry
from bench.tracking.note import suite_note
from bench.tracking.reading import Record, read_record, read_training
from bench.tracking.server import store_uri
from bench.tracking.store import Store


class Tracker:
    """One experiment in one store. Nothing is opened before something is imported.

    Args:
        root: folder of the runs, where the default store lives.
        tags: of every run that is imported, besides its own; see `bench.tracking.names.own_tags`.

    Raises:
        TrackingError: the store's address is none.
    """

    def __init__(self, root: Path, config: TrackingConfig, tags: Mapping[str, str] | None = None) -> None:
        self.config, self.tags = config, tags or {}
        self._uri = store_uri(root, config)

    @property
    def uri(self) -> str:
        """The store, for people: without a password."""
        return redacted(self._uri)

    def import_suite(self, folder: Path) -> int:
        """Import a suite and its cells; what is there already is only put below its suite and tagged.

        Returns:
            How many cells were new, or not whole.

        Raises:
            UsageError: no record there, it is still running, or it was changed meanwhile.
            RunError: a journal is damaged.
            TrackingError: the store cannot be used.
        """
        # Read when it is this import's turn: what was read before could be older than what is in the store by then.
        with turn(self._uri):
            record = read_record(folder)
            entry = suite_entry(record.suite, folder)
            entries = [cell_entry(cell) for cell in record.cells]
            note = suite_note(record.suite, record.cells)
            with told(self._uri):
                return self._write(record, entry, entries, note)

    def _write(self, record: Record, entry: Entry, entries: Sequence[Entry], note: str) -> int:
        store = Store(self._uri, self.config, self.tags)
        known = store.runs_of(entry)
        there = known.of(entry)
        new = [made for made in entries if not known.is_complete(made)]
        if there is not None and not new and known.is_complete(entry):
            store.join(known, there.info.run_id)
            return 0
        parent = store.open(entry, known)
        store.join(known, parent)
        for made in new:
            run_id = store.write_cell(made, known, parent, record.folder)
            record.check_unchanged()
            store.close(run_id, made)
        store.mark_replaced(known, entries)
        store.write_suite(parent, record.folder, note)
        record.check_unchanged()
        store.close(parent, entry)
        return len(new)

    def import_training(self, path: Path) -> bool:
        """Import a training: recipe, loss curve, figures and the card; once for each weights file.

        Args:
            path: the card.

        Returns:
            Whether it was new, or not whole.

        Raises:
            UsageError: not the card of a training.
            TrackingError: the store cannot be used.
        """
        entry = training_entry(read_training(path), path)
        with turn(self._uri), told(self._uri):
            store = Store(self._uri, self.config, self.tags)
            known = store.runs_of(entry)
            there = known.of(entry)
            if there is not None and known.is_complete(entry):
                store.join(known, there.info.run_id)
                return False
            store.close(store.write_training(entry, known, path), entry)
        return True
