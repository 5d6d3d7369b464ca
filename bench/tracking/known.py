"""The runs that a record has in MLflow already, and which of them counts where there are several."""

from collections.abc import Sequence
from typing import Any

from bench.tracking import layout
from bench.tracking.entries import Entry


def standing(run: Any) -> tuple[bool, bool, str, str]:
    """Sorts the runs of one record (mlflow.entities.Run): the first counts, which every importer finds alike.

    It is the oldest, but whole ones come before others, and those that were marked as replaced come last. Runs of
    earlier versions have no time of creation, and are older than all that have one.
    """
    tags = run.data.tags
    state = tags.get(layout.IMPORT_TAG)
    created = tags.get(layout.CREATED_TAG, "")
    return state != layout.COMPLETE, state == layout.REPLACED, created, run.info.run_id


class Known:
    """The runs of a suite, or of a training.

    Attributes:
        runs: the one that counts of every record.
        duplicates: the others.
    """

    def __init__(self, runs: Sequence[Any], images: bool) -> None:
        """Sort the runs of a record.

        Args:
            images: a run without its pictures is not complete.
        """
        self.images = images
        self.runs: list[Any] = []
        self.duplicates: list[Any] = []
        seen: set[str] = set()
        for run in sorted(runs, key=standing):
            identity = run.data.tags.get(layout.RECORD_TAG, run.info.run_id)
            (self.duplicates if identity in seen else self.runs).append(run)
            seen.add(identity)

    def of(self, entry: Entry) -> Any | None:
        """The run of an entry, whole or not."""
        found = (run for run in self.runs if run.data.tags.get(layout.RECORD_TAG) == entry.record_id)
        return next(found, None)

    def is_complete(self, entry: Entry) -> bool:
        """Whether it was imported to its end, as it is now, and with its pictures where they are wanted."""
        run = self.of(entry)
        tags = {} if run is None else run.data.tags
        whole = tags.get(layout.IMPORT_TAG) == layout.COMPLETE and tags.get(layout.DIGEST_TAG) == entry.digest
        return whole and (tags.get(layout.IMAGES_TAG) == "true" or not self.images)
