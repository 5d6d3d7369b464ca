"""What stands at the top of a report, and in which words and order its summary is."""

import html
import re
from importlib import import_module
from pathlib import Path

import pytest

from bench.record import CellRecord, read_suite
from metrics.intervals import Estimate
from reports.pages.report import SECTIONS, render_report
from reports.pages.sections import summary
from reports.records import Cell
from reports.tables import COLUMNS, summary_table
from tests.synthetic_record import write_record

CELL = "square--ac-re--{}--s0"


def banner_of(folder: Path) -> list[str]:
    """The lines at the top of a page."""
    banner = re.search(r'<div class="banner".*?</div>', render_report([folder]).decode(), re.DOTALL)
    return [] if banner is None else [html.unescape(line) for line in re.findall(r"<(?:p|li)>(.*?)<", banner.group())]


@pytest.mark.parametrize("status", ["ok", "interrupted"])
def test_missing_images_are_told_at_the_top(tmp_path: Path, status: str) -> None:
    folder = write_record(tmp_path / "run", 4, backends=("eager", "compile"), fail_every=4, status=status)
    before = banner_of(folder)
    assert not any("images" in line for line in before)
    eager, compiled = (sorted((folder / CELL.format(name) / "images").iterdir()) for name in ("eager", "compile"))
    assert len(eager) == len(compiled) == 3  # the failed sample has none, and none is missed
    eager[0].unlink()
    for path in compiled:
        path.unlink()
    assert [line for line in banner_of(folder) if line not in before] == [
        f"Cell ac-re, eager: 1 of 3 images are missing in {CELL.format('eager')}/images.",
        f"Cell ac-re, compile: 3 of 3 images are missing in {CELL.format('compile')}/images.",
    ]
    compiled[0].parent.rmdir()
    assert any(line.startswith("Cell ac-re, compile: 3 of 3 images") for line in banner_of(folder))


def test_the_columns_that_matter_most_come_first(tmp_path: Path) -> None:
    folder = write_record(tmp_path / "run", 4)
    suite = read_suite(folder)
    estimates = {key: Estimate(value=float(place)) for place, (_, key, _) in enumerate(COLUMNS)}
    record: CellRecord = suite.cells[0].model_copy(update={"summary": estimates})
    written = summary_table([Cell(suite, folder, record, "ac-re, eager")], ["reference"])
    (block, *_) = summary.build([Cell(suite, folder, record, "ac-re, eager")]).blocks
    headings = [column.heading for column in block.table.columns]
    assert headings[:8] == [
        "cell", "verdict", "success", "oracle-target", "Square MAE", "Background MAE", "s / image", "valid / s",
    ]  # fmt: skip
    assert sorted(headings) == sorted(column.heading for column in written.columns)
    whole = dict(zip(headings, block.table.rows[0], strict=True))
    assert whole == dict(zip([column.heading for column in written.columns], written.rows[0], strict=True))
    assert whole["valid / s"].value == [heading for heading, _, _ in COLUMNS].index("valid / s")


def test_intervals_are_named_for_what_they_are(tmp_path: Path) -> None:
    """Rates have Wilson's (metrics.intervals.rate_estimate), everything else is resampled."""
    text = render_report([write_record(tmp_path / "run", 4)]).decode()
    assert text.count("95 % intervals (bootstrap over images; Wilson for rates)") >= 2  # the intro and the caption
    assert "95 % bootstrap intervals" not in text


@pytest.mark.parametrize("name", [*SECTIONS, "provenance"])
def test_intros_are_plain_text(name: str) -> None:
    """Texts are escaped, never marked up: a backtick would be shown as one."""
    module = import_module(f"reports.pages.sections.{name}")
    assert "`" not in module.INTRO
