"""What is imported: a suite's record as it is at one moment, or the card of a training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.record import SuiteRecord, cells_of, is_locked, read_suite
from reports.records import Cell

CARD_KEYS = ("recipe", "curve", "figures", "training", "config", "sha256")
"""What `bench train` writes into a card, and the card of an imported network lacks in part."""


@dataclass(frozen=True)
class Record:
    """A suite and its cells, those too that were killed before they came into the suite's record.

    Attributes:
        content: `suite.json`.
    """

    folder: Path
    suite: SuiteRecord
    cells: list[Cell]
    content: bytes

    def check_unchanged(self) -> None:
        """Whether the files are still those of this record: everything that takes the folder writes `suite.json`.

        An import may take minutes where the store is slow. It does not hold the folder's lock meanwhile, as MLflow
        must not keep a suite from going on; the suite's own import comes after this one and has the last word.

        Raises:
            UsageError: a process has written into the folder, or does so.
        """
        if is_locked(self.folder) or (self.folder / "suite.json").read_bytes() != self.content:
            raise UsageError(f"{self.folder} was changed while it was imported; import it again when its run is done")


def read_record(folder: Path) -> Record:
    """Read a suite.

    Raises:
        UsageError: no record there, a damaged one, or one that a process is writing.
    """
    read_suite(folder)  # its errors are sentences
    content = (folder / "suite.json").read_bytes()
    suite = SuiteRecord.model_validate_json(content)
    if is_locked(folder):
        raise UsageError(f"{folder} is still running; import it when it is done")
    cells = [Cell(suite, folder, record, record.id) for record in cells_of(folder, suite)]
    return Record(folder, suite, cells, content)


def read_training(path: Path) -> Mapping[str, Any]:
    """The card that `bench train` wrote.

    Raises:
        UsageError: it cannot be read, or is another file.
    """
    try:
        card = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as the card of a training: {error}") from error
    missing = [key for key in CARD_KEYS if not isinstance(card, dict) or key not in card]
    if missing:
        raise UsageError(f"{path} is not the card of a training: it lacks {', '.join(missing)}")
    return card
