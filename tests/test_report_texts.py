"""The texts and tables of a report, from records that real searches left: verdicts, pairs, failures, provenance."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from torch import nn

from bench.record import CellRecord, Journal, SuiteRecord, read_suite, write_json
from metrics.intervals import Estimate
from reports.pages.blocks import Code, Section, TableBlock, Text
from reports.pages.sections import failures, paired, provenance, summary
from reports.pairs import pairs, verdicts
from reports.records import Cell, read_cells
from reports.table import Table, Value, to_csv, to_latex, to_markdown
from reports.tables import summary_table, terminal_table
from tests.tiny_cell import run_cell, tiny_cell

COUNT = 12
"""Enough for an interval."""
ENVIRONMENT = {"cpu": "a processor", "cores": 2, "threads": 1, "device": "cpu", "git": {"commit": "abc", "dirty": True}}
Change = Callable[[pd.DataFrame, Path], None]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, networks: dict[str, nn.Module]) -> Path:
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
    write_json(folder / "suite.json", suite.model_copy(update=changes))


@pytest.fixture
def suite(original: Path, tmp_path: Path) -> Path:
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


def one_pixel_and_half_the_time(frame: pd.DataFrame, images: Path) -> None:
    pixels = np.asarray(Image.open(images / frame["image"][0])).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(images / frame["image"][0])
    frame["seconds"] *= 0.5
    frame["oracle_target_mae"] *= 0.995
    frame.loc[:1, "valid"] = 1 - frame.loc[:1, "valid"]
    frame.loc[3, "prediction"] += 0.25


def test_a_backend_is_judged_against_eager_and_null_means_nothing(suite: Path) -> None:
    add_backend(suite, "compile")
    add_backend(suite, "onnx", fail_three)
    assert judged(suite) == {
        "null": "means nothing",
        "eager": "reference",
        "compile": "bit-identical",
        "onnx": "different",
    }
    section = summary.build(read_cells([suite]))
    table = tables(section)["summary-0"]
    assert table.tones == {0: "bad", 3: "bad"}
    assert any("all 12 saved images are equal" in note for note in table.notes)
    assert any("3 samples have no counterfactual" in note for note in table.notes)
    assert any("success rates within 0.02" in note for note in table.notes)  # the suite's own margins
    assert "These counterfactuals mean nothing, only their speed does: ac-re, null." in texts(section)


def test_eager_is_the_reference_wherever_it_stands(suite: Path) -> None:
    add_backend(suite, "compile")
    write_suite(suite, read_suite(suite).cells[::-1])
    assert judged(suite) == {"compile": "bit-identical", "eager": "reference", "null": "means nothing"}


def test_without_eager_the_first_that_computes_something_is_the_reference(suite: Path) -> None:
    add_backend(suite, "compile")
    add_backend(suite, "onnx")
    recorded = read_suite(suite)
    write_suite(suite, [record for record in recorded.cells if record.backend != "eager"])
    assert judged(suite) == {"null": "means nothing", "compile": "reference", "onnx": "bit-identical"}
    write_suite(suite, [record for record in recorded.cells if record.backend == "onnx"])
    assert judged(suite) == {"onnx": "not compared"}


@pytest.mark.parametrize(
    ("status", "verdict", "tone"),
    [("running", "partial", "warning"), ("interrupted", "interrupted", "warning"), ("failed", "failed", "bad")],
)
def test_an_unfinished_cell_has_a_verdict_and_no_figures(suite: Path, status: str, verdict: str, tone: str) -> None:
    add_backend(suite, "compile")
    leave(suite, "compile", keep=5, status=status, error="out of memory" if status == "failed" else None)
    assert judged(suite)["compile"] == verdict
    section = summary.build(read_cells([suite]))
    table = tables(section)["summary-0"]
    assert table.tones[2] == tone
    assert column(table, "success")[2] is None and isinstance(column(table, "success")[1], Value)
    assert column(table, "oracle-target")[2] is None and column(table, "build")[2] is None
    assert any("5 of 12 samples are recorded" in note for note in table.notes)
    assert "Without figures, because they did not finish: ac-re, compile." in texts(section)
    assert [pair.candidate.record.backend for pair in pairs(read_cells([suite]))] == []
    broken = tables(failures.build(read_cells([suite])))["failures-cells"]
    error = "out of memory" if status == "failed" else "no error recorded"
    assert broken.rows == [["ac-re, compile", status, 5, 12, error]]


def test_an_unfinished_reference_is_no_reference(suite: Path) -> None:
    add_backend(suite, "compile")
    leave(suite, "eager", keep=5, status="interrupted")
    assert judged(suite) == {"null": "means nothing", "eager": "interrupted", "compile": "not compared"}
    assert paired.build(read_cells([suite])) is None


def test_paired_differences_are_those_that_were_made(suite: Path) -> None:
    add_backend(suite, "compile", one_pixel_and_half_the_time)
    table = tables(paired.build(read_cells([suite])))["paired"]
    (row,) = table.rows
    assert row[:2] == ["ac-re, compile", "ac-re, eager"]
    before = by_backend(suite)["eager"].samples["valid"]
    gained = int((before[:2] == 0).sum())
    found = {heading: column(table, heading)[0] for heading in (c.heading for c in table.columns)}
    assert (found["valid gained"], found["valid lost"]) == (gained, 2 - gained)
    assert found["images"] == COUNT and found["identical images"] == COUNT - 1
    assert found["pixels that differ"] == Value(100 / (COUNT * 16 * 16 * 3), decimals=2)
    mean, largest = found["mean |r - r'|"], found["largest |r - r'|"]
    assert isinstance(mean, Value) and isinstance(largest, Value)
    assert mean.value == pytest.approx(0.25 / COUNT) and largest.value == pytest.approx(0.25)
    assert mean.low is not None and mean.low <= mean.value <= mean.high  # type: ignore[operator]
    difference, ratio = found["success, difference"], found["oracle-target, ratio"]
    assert isinstance(difference, Value) and isinstance(ratio, Value)
    assert difference.value == pytest.approx((2 * gained - 2) / COUNT)
    assert ratio.value == pytest.approx(0.995) and ratio.low == pytest.approx(0.995)
    speed = found["s / image, ratio"]
    assert isinstance(speed, Value) and speed.value == pytest.approx(0.5) and speed.high == pytest.approx(0.5)


def test_flagged_timings_are_noted(suite: Path) -> None:
    timings = by_backend(suite)["eager"].record.timings | {"timing_flags": ["a shape changed"]}
    add_backend(suite, "compile", timings=timings)
    section = paired.build(read_cells([suite]))
    assert any("seconds per image: timing flagged: a shape changed" in note for note in tables(section)["paired"].notes)
    assert "bench compare" in section.intro  # type: ignore[union-attr]


def test_another_machine_gives_no_ratio_of_seconds(suite: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(suite, tmp_path / "other"))
    add_backend(other, "compile", one_pixel_and_half_the_time)
    recorded = read_suite(other)
    compiled = [record for record in recorded.cells if record.backend == "compile"]
    write_suite(other, compiled, environment=ENVIRONMENT | {"cpu": "another"})
    table = tables(paired.build(read_cells([suite, other])))["paired"]
    assert len(table.rows) == 1 and "s / image, ratio" not in [column.heading for column in table.columns]
    assert isinstance(column(table, "success, difference")[0], Value)
    assert any("no ratio of seconds" in note and "'another'" in note for note in table.notes)
    assert not any(str(tmp_path) in note for note in table.notes)


def test_other_data_are_not_compared_and_the_page_says_why(suite: Path) -> None:
    facts = by_backend(suite)["eager"].record.facts | {"data": "other"}
    add_backend(suite, "compile", facts=facts)
    assert judged(suite)["compile"] == "not compared"
    section = paired.build(read_cells([suite]))
    assert not tables(section)
    assert "ac-re, compile is not compared with ac-re, eager: they differ in data" in texts(section)


def test_a_lost_image_is_told_and_the_rest_is_there(suite: Path) -> None:
    add_backend(suite, "compile", lambda frame, images: (images / frame["image"][4]).unlink())
    assert judged(suite)["compile"] == "not compared"
    note = next(note for note in tables(summary.build(read_cells([suite])))["summary-0"].notes if "compile" in note)
    assert "run the cell again" in note and str(suite) not in note


def test_a_table_that_was_written_again_is_compared_again(suite: Path) -> None:
    add_backend(suite, "compile")
    assert judged(suite)["compile"] == "bit-identical"
    table = suite / "toy--ac-re--compile--s0" / "samples.parquet"
    frame = pd.read_parquet(table)
    fail_three(frame, table.parent / "images")
    frame.to_parquet(table)
    assert judged(suite)["compile"] == "different"


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
    add_backend(suite, "compile", notes={"realism/fid": "no weights"})
    cells = read_cells([suite])
    section = provenance.build(cells)
    assert section is not None and section.folded
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
    assert any("computes nothing" in str(row[3]) for row in found["provenance-networks"].rows)


def test_several_suites_stand_side_by_side(suite: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(suite, tmp_path / "other"))
    write_suite(other, read_suite(other).cells, id="second", environment={"cpu": "another"})
    cells = read_cells([suite, other])
    table = tables(provenance.build(cells))["provenance-environment"]
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
    assert not any(column.better for column in both.columns)  # figures of two datasets have no best one


def test_hostile_words_pass_through_every_rendering(suite: Path) -> None:
    hostile = '"><img src=x>|\\=cmd\x1b[31m\udcff$_{}\n</script>'
    leave(suite, "eager", status="failed", error=hostile.replace("\udcff", "�"))
    cells = read_cells([suite])
    for module in (summary, paired, failures, provenance):
        section = module.build(cells)
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
