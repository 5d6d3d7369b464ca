"""The texts and tables of a report: failures, provenance, several suites and datasets, hostile words."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from bench.record import SuiteRecord, read_suite
from metrics.intervals import Estimate
from reports.pages.blocks import Code
from reports.pages.sections import failures, paired, provenance, summary
from reports.records import Cell, read_cells
from reports.table import to_csv, to_latex, to_markdown
from reports.tables import summary_table, terminal_table
from tests.compared_suites import (  # noqa: F401 (fixtures)
    COUNT,
    add_backend,
    by_backend,
    column,
    fail_three,
    leave,
    original_fixture,
    suite_fixture,
    tables,
    texts,
    write_suite,
)


def suites_of(cells: list[Cell]) -> dict[str, SuiteRecord]:
    return {cell.suite.id: cell.suite for cell in cells}


def test_failed_samples_are_listed_and_counted(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_backend(suite, "compile", fail_three, failures={"nonfinite@step": 2, "nonfinite@encode": 1})
    found = tables(failures.build(read_cells([suite])))
    assert found["failures-reasons"].rows == [
        ["ac-re, compile", "nonfinite@step", 2, COUNT],
        ["ac-re, compile", "nonfinite@encode", 1, COUNT],
    ]
    frame = by_backend(suite)["compile"].samples
    assert [row[:3] for row in found["failures-samples"].rows] == [
        ["ac-re, compile", name, reason] for name, reason in zip(frame["id"][:3], frame["failure"][:3])
    ]
    assert column(found["failures-samples"], "iterations") == frame["iterations"][:3].tolist()
    monkeypatch.setattr(failures, "MOST", 2)
    short = tables(failures.build(read_cells([suite])))["failures-samples"]
    assert len(short.rows) == 2 and short.notes == ["1 more are in the cells' samples.parquet."]


def test_no_failures_are_said_to_be_none(suite: Path) -> None:
    assert texts(failures.build(read_cells([suite]))) == "No failures: every recorded sample has a counterfactual."


def test_provenance_repeats_the_record(suite: Path) -> None:
    timings = by_backend(suite)["eager"].record.timings | {"timing_flags": ["a shape changed"]}
    add_backend(suite, "compile", notes={"realism/fid": "no weights"}, timings=timings)
    cells = read_cells([suite])
    section = provenance.build(cells, suites_of(cells))
    assert section.folded
    code = {block.label: block.text for block in section.blocks if isinstance(block, Code)}
    assert code["command"] == read_suite(suite).command
    assert json.loads(code["configuration as set"]) == {"set": ["a.b=1"]}
    assert json.loads(code["configuration as resolved"])["verify"] == {"success_margin": 0.02}
    assert json.loads(code["options of every component, by cell"])["ac-re, eager"]["ac-re"]["max_steps"] == 8
    found = tables(section)
    assert ["cpu", "a processor"] in found["provenance-environment"].rows
    assert ["git.dirty", "true"] in found["provenance-environment"].rows
    assert ["realism/fid", "no weights", "ac-re, compile"] in found["provenance-notes"].rows
    weights = {row[0]: row[1:] for row in found["provenance-weights"].rows}
    assert weights["ddpm"] == [cells[0].record.weights["ddpm"], "all"]
    assert column(found["provenance-cells"], "fingerprint") == [cell.record.fingerprint for cell in cells]
    assert column(found["provenance-cells"], "flags")[-1] == "a shape changed"
    assert any("computes nothing" in str(row[3]) for row in found["provenance-networks"].rows)


def test_several_suites_stand_side_by_side(suite: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(suite, tmp_path / "other"))
    write_suite(other, read_suite(other).cells, id="second", environment={"cpu": "another"})
    cells = read_cells([suite, other])
    table = tables(provenance.build(cells, suites_of(cells)))["provenance-environment"]
    assert [column.heading for column in table.columns] == ["entry", "tiny", "second"]
    assert table.rows[0] == ["cpu", "a processor", "another"] and table.rows[1] == ["cores", "2", None]
    assert len(tables(summary.build(cells))["summary-0"].rows) == 4


def test_datasets_have_a_table_each_and_published_figures_follow(suite: Path) -> None:
    recorded = read_suite(suite)
    records = [record.model_copy(update={"dataset": name}) for name, record in zip(("toy", "square"), recorded.cells)]
    write_suite(suite, records)
    found = tables(summary.build(read_cells([suite])))
    assert found["summary-0"].caption.startswith("toy:") and found["summary-1"].caption.startswith("square:")
    assert "AC-RE" in column(found["summary-quoted"], "method")
    assert "not measured here" in found["summary-quoted"].caption
    both = summary_table(read_cells([suite]))
    assert both.tones == {0: "bad"}  # null
    assert not any(column.better for column in both.columns)  # figures of two datasets have no best one


def test_hostile_words_pass_through_every_rendering(suite: Path) -> None:
    hostile = '"><img src=x>|\\=cmd\x1b[31m\udcff$_{}\n</script>'
    leave(suite, "eager", status="failed", error=hostile.replace("\udcff", "�"))
    cells = read_cells([suite])
    found = [module.build(cells) for module in (summary, paired, failures)]
    for section in (*found, provenance.build(cells, suites_of(cells))):
        for table in tables(section).values() if section is not None else ():
            for render in (to_csv, to_markdown, to_latex):
                assert "\x1b" not in render(table)
    terminal_table(read_suite(suite))


def test_the_terminal_shows_the_same_figures(suite: Path) -> None:
    recorded = read_suite(suite)
    estimate = Estimate(value=0.123456, low=0.1, high=0.2, n=3)
    records = [record.model_copy(update={"summary": {"quality/square_mae": estimate}}) for record in recorded.cells]
    records[0] = records[0].model_copy(update={"status": "failed", "error": "[bold]out of memory[/]"})
    write_suite(suite, records)
    out = io.StringIO()
    Console(width=200, file=out).print(terminal_table(read_suite(suite)))
    text = out.getvalue()
    assert "0.123 [0.100, 0.200]" in text and "failed: [bold]out of memory[/]" in text
    assert text.count("0.123") == 1
