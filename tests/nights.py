"""Records of many nights for tests: one real small cell, recorded again with other times, commits and figures."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from bench.record import CellRecord, SuiteRecord, write_json
from reports.pages.blocks import Lines, TableBlock
from reports.trend import Trend
from reports.trend_page import sections
from tests.tiny_cell import run_cell, tiny_cell

START = datetime.datetime(2026, 10, 1, 2, 0, tzinfo=datetime.UTC)
MACHINE = {"cpu": "test processor", "cores": 2, "threads": 1, "device": "cpu", "packages": {"torch": "2.15.0"}}
COMMITS = [letter * 40 for letter in "abcdef"]
SECONDS, ERROR, BUILD = "throughput/seconds_per_image", "validity/oracle_target_mae", "timings/build_s"
JITTER = [0.01, -0.02, 0.0, 0.015, -0.01, 0.02, -0.005, 0.01, -0.015, 0.005]


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


@pytest.fixture(name="small", scope="module")
def small_fixture(
    networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> tuple[CellRecord, dict[str, Any]]:
    return small_cell(networks, tmp_path_factory.mktemp("cell"))


@pytest.fixture(name="nights")
def nights_fixture(small: tuple[CellRecord, dict[str, Any]], tmp_path: Path) -> Path:
    """Ten nights, of which the last four, with another commit, take twice the time."""
    cell, config = small
    for night, noise in enumerate(JITTER):
        factor, commit = (1.0, COMMITS[0]) if night < 6 else (2.0, COMMITS[1])
        again = figures(cell, {SECONDS: factor * (1 + noise), ERROR: 0.1 + 0.01 * noise})
        write_night(tmp_path / "nights" / f"n{night}", [again], config, night, commit)
    return tmp_path / "nights"


def only(trend: Trend) -> Any:
    """The one line of a trend."""
    assert len(trend.lines) == 1, [line.label for line in trend.lines]
    return trend.lines[0]


def chart(trend: Trend, title: str, machine: int = 0) -> Lines:
    blocks = [block for section in sections(trend) for block in section.blocks]
    return [block for block in blocks if isinstance(block, Lines) and block.title == title][machine]


def table(trend: Trend, identity: str) -> list[dict[str, Any]]:
    blocks = [block for section in sections(trend) for block in section.blocks]
    found = next(block.table for block in blocks if isinstance(block, TableBlock) and block.id == identity)
    return [dict(zip([column.heading for column in found.columns], row, strict=True)) for row in found.rows]
