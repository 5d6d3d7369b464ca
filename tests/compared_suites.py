"""A suite of one search on several backends for tests of texts and tables, and what a section holds.

Import the fixtures `original_fixture` and `suite_fixture` in a test module that needs `suite`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from bench.record import CellRecord, Journal, SuiteRecord, read_suite, write_json
from reports.pages.blocks import Code, Section, TableBlock, Text
from reports.pairs import verdicts
from reports.records import Cell, read_cells
from reports.table import Table
from tests.tiny_cell import run_cell, tiny_cell

COUNT = 12
"""Enough for an interval."""
ENVIRONMENT = {"cpu": "a processor", "cores": 2, "threads": 1, "device": "cpu", "git": {"commit": "abc", "dirty": True}}
Change = Callable[[pd.DataFrame, Path], None]


@pytest.fixture(scope="module", name="original")
def original_fixture(tmp_path_factory: pytest.TempPathFactory, networks: dict[str, nn.Module]) -> Path:
    """A suite of one method on the backends null and eager."""
    folder = tmp_path_factory.mktemp("suite")
    records = [run_cell(tiny_cell(networks, "ac-re", name, count=COUNT), folder)[0] for name in ("null", "eager")]
    (folder / "inputs").rename(folder / "inputs-toy")
    write_suite(folder, records)
    return folder


def write_suite(folder: Path, records: list[CellRecord], **changes: object) -> None:
    suite = SuiteRecord(
        id="tiny",
        command="python -m bench run --backend 'null' -o \"x\"",
        status="ok",
        config_set={"set": ["a.b=1"]},
        config={"verify": {"success_margin": 0.02}, "metrics": {}},
        environment=ENVIRONMENT,
        cells=records,
        started="2026-01-01T00:00:00.000+00:00",
        ended="2026-01-01T00:01:00.000+00:00",
    )
    for path in folder.glob("*/result.json"):
        path.unlink()
    for record in records:
        write_json(folder / record.id / "result.json", record)
    write_json(folder / "suite.json", suite.model_copy(update=changes))


@pytest.fixture(name="suite")
def suite_fixture(original: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(original, tmp_path / "suite"))


def add_backend(folder: Path, name: str, change: Change | None = None, **updates: object) -> None:
    """The eager cell once more under another backend's name, as `change` alters its table and files."""
    recorded = read_suite(folder)
    eager = next(record for record in recorded.cells if record.backend == "eager")
    record = eager.model_copy(update={"id": f"toy--ac-re--{name}--s0", "backend": name, **updates})
    shutil.copytree(folder / eager.id, folder / record.id)
    table = folder / record.id / "samples.parquet"
    frame = pd.read_parquet(table)
    if change is not None:
        change(frame, folder / record.id / "images")
    frame.to_parquet(table)
    write_suite(folder, [*recorded.cells, record], status=recorded.status)


def leave(folder: Path, backend: str, keep: int | None = None, **updates: object) -> None:
    """Change a cell's record in suite.json; `keep` so many lines of its journal."""
    recorded = read_suite(folder)
    records = [r.model_copy(update=updates) if r.backend == backend else r for r in recorded.cells]
    write_suite(folder, records)
    if keep is not None:
        journal = Journal(folder / f"toy--ac-re--{backend}--s0" / "samples.jsonl")
        journal.replace(journal.peek()[:keep])


def by_backend(folder: Path) -> dict[str, Cell]:
    return {cell.record.backend: cell for cell in read_cells([folder])}


def judged(folder: Path) -> dict[str, str]:
    cells = read_cells([folder])
    return {cell.record.backend: verdict.text for cell, verdict in zip(cells, verdicts(cells), strict=True)}


def tables(section: Section | None) -> dict[str, Table]:
    assert section is not None
    return {block.id: block.table for block in section.blocks if isinstance(block, TableBlock)}


def texts(section: Section | None) -> str:
    assert section is not None
    return "\n".join(block.text for block in section.blocks if isinstance(block, Text | Code))


def column(table: Table, heading: str) -> list[object]:
    place = [column.heading for column in table.columns].index(heading)
    return [row[place] for row in table.rows]


def fail_three(frame: pd.DataFrame, images: Path) -> None:
    figures = ["prediction", "oracle", "prediction_error", "oracle_target_mae", "oracle_regressor_mae"]
    frame.loc[:2, "failure"] = ["nonfinite@step 3", "nonfinite@step 7", "nonfinite@encode"]
    frame.loc[:2, figures] = np.nan
    frame.loc[:2, "valid"] = 0.0
