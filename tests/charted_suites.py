"""Suites of small searches for tests of charts, and what a section holds.

Import the fixtures `folder_fixture` and `granular_fixture` in a test module that needs `folder`, `granular_folder`.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import nn

from bench.record import CellRecord, SuiteRecord, now, write_json
from reports.pages.blocks import Lines, Section, Text
from tests.tiny_cell import run_cell, tiny_cell

TARGETS = (0.4, 0.5, 0.6)
COUNT = 6


def write_suite(folder: Path, records: Sequence[CellRecord], status: str = "ok", device: str = "cpu") -> None:
    """A suite of cells that ran in `folder`."""
    suite = SuiteRecord(
        id=folder.name, command="python -m bench run", status=status, config_set={}, config={},
        environment={"cpu": "A", "device": device}, cells=list(records), started=now(), ended=now(),
    )  # fmt: skip
    for path in folder.glob("*/result.json"):
        path.unlink()
    for record in records:
        write_json(folder / record.id / "result.json", record)
    write_json(folder / "suite.json", suite)


@pytest.fixture(scope="module", name="folder")
def folder_fixture(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cells, one of them of the null backend."""
    path = tmp_path_factory.mktemp("several")
    kinds = [("ac-re", "eager"), ("diffae-re", "eager"), ("ac-re", "null")]
    cells = [tiny_cell(networks, method, backend, count=COUNT) for method, backend in kinds]
    write_suite(path, [run_cell(cell, path)[0] for cell in cells])
    return path


@pytest.fixture(scope="module", name="granular_folder")
def granular_fixture(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cell with several reference values an image."""
    path = tmp_path_factory.mktemp("granular")
    write_suite(path, [run_cell(tiny_cell(networks, "ac-re", count=3, targets=TARGETS), path)[0]])
    return path


def block(section: Section | None, name: str) -> object:
    assert section is not None
    return next(block for block in section.blocks if getattr(block, "id", None) == name)


def texts(section: Section | None) -> str:
    assert section is not None
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


def lines_of(section: Section | None, name: str, choice: str = "all cells") -> dict[str, list[tuple]]:
    found = block(section, name)
    assert isinstance(found, Lines)
    return {series.name: series.points for series in found.choices[choice]}
