"""Records of many nights for tests: one real small cell, recorded again with other times, commits and figures."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bench.record import CellRecord, SuiteRecord, write_json
from tests.tiny_cell import run_cell, tiny_cell

START = datetime.datetime(2026, 10, 1, 2, 0, tzinfo=datetime.UTC)
MACHINE = {"cpu": "test processor", "cores": 2, "threads": 1, "device": "cpu", "packages": {"torch": "2.15.0"}}
COMMITS = [letter * 40 for letter in "abcdef"]


def small_cell(networks: dict[str, nn.Module], folder: Path) -> tuple[CellRecord, dict[str, Any]]:
    """A cell that was run for real, and its suite's configuration as resolved."""
    cell = tiny_cell(networks, "ac-re", count=3)
    return run_cell(cell, folder)[0], cell.config.model_dump(mode="json")


def figures(cell: CellRecord, values: Mapping[str, float], **changes: Any) -> CellRecord:
    """The cell with other figures (points without intervals; "timings/name" for timings) and other fields."""
    summary = {key: value for key, value in values.items() if not key.startswith("timings/")}
    timings = {key.partition("/")[2]: value for key, value in values.items() if key.startswith("timings/")}
    estimates = {
        key: cell.summary[key].model_copy(update={"value": value, "low": None, "high": None})
        for key, value in summary.items()
    }
    update = {"summary": cell.summary | estimates, "timings": cell.timings | timings}
    return cell.model_copy(update=update | changes)


def write_night(
    folder: Path,
    cells: list[CellRecord],
    config: dict[str, Any],
    night: float,
    commit: str = COMMITS[0],
    dirty: bool = False,
    status: str = "ok",
    environment: Mapping[str, Any] = MACHINE,
    verb: str = "run",
) -> Path:
    """A suite of that night (days after START, fractions are hours of it); returns its folder."""
    started = (START + datetime.timedelta(days=night)).isoformat(timespec="milliseconds")
    folder.mkdir(parents=True)
    suite = SuiteRecord(
        id=folder.name,
        command=f"python -m bench {verb} -o night",
        status=status,  # type: ignore[arg-type]
        config_set={},
        config=config,
        environment={**environment, "git": {"commit": commit, "dirty": dirty}},
        cells=cells,
        started=started,
        ended=started,
    )
    write_json(folder / "suite.json", suite)
    return folder
