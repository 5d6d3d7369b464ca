"""What a method makes of the unchanged images, saved beside a cell's counterfactuals: once an image."""

import hashlib
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.images import file_name, read_saved, to_uint8, write_png
from bench.judge import Judge
from bench.record import RECONSTRUCTIONS
from methods.outcomes import Outcome

COLUMNS = ("reconstruction", "reconstruction_sha256", "reconstruction_prediction")
"""Of a recorded row: the file, its sha256, and r on it as saved; of all None where it is not finite."""


class Reconstructions:
    """The reconstructions of one cell.

    Args:
        folder: of the cell.
        judge: predicts on the saved images.
        rows: recorded rows, whose reconstructions are kept as they are.
    """

    def __init__(self, folder: Path, judge: Judge, rows: list[dict[str, Any]]) -> None:
        self.folder, self.judge = folder / RECONSTRUCTIONS, judge
        self._known = {row["input"]: {key: row[key] for key in COLUMNS} for row in rows if row.get(COLUMNS[0])}

    def columns(self, outcome: Outcome) -> dict[str, Any]:
        """The columns of an outcome's row; the first outcome of an image writes its reconstruction.

        Raises:
            RunError: it cannot be written.
        """
        if outcome.reconstruction is None:
            return dict.fromkeys(COLUMNS)
        name = file_name(outcome.id)
        if name not in self._known:
            path = self.folder / name
            try:
                self.folder.mkdir(exist_ok=True)
                digest = write_png(path, to_uint8(outcome.reconstruction.numpy()))
            except OSError as error:
                raise RunError(f"cannot write {path}: {error.strerror}; what was recorded before is kept") from error
            prediction = self.judge.predict(read_saved(path))[0]
            self._known[name] = dict(zip(COLUMNS, (name, digest, prediction), strict=True))
        return self._known[name]


def is_intact(row: dict[str, Any], folder: Path) -> bool:
    """Whether a recorded row's reconstruction, where it names one, is still the one that was written."""
    if not row.get(COLUMNS[0]):
        return True
    path = folder / RECONSTRUCTIONS / row[COLUMNS[0]]
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == row[COLUMNS[1]]
