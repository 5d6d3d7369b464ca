"""What the charts of a report are made of, against the records themselves. See also tests/test_report_sweep.py."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.record import Journal
from reports.pages.blocks import Bars, Matrix, Scatter, TableBlock
from reports.pages.render import render
from reports.pages.sections import bins, budget, pareto, stages, sweep
from reports.pages.views import views
from reports.records import Cell, read_cells
from tests.charted_suites import COUNT, block, folder_fixture, granular_fixture, lines_of, texts, write_suite  # noqa: F401

SECTIONS = (pareto, stages, budget, bins, sweep)


def cut(cell: Cell, rows: list[dict]) -> None:
    """Turn a finished cell of one suite into one that was interrupted after these rows."""
    folder = cell.folder / cell.record.id
    Journal(folder / "samples.jsonl").replace(rows)
    for name in ("samples.parquet", "trace.parquet"):
        (folder / name).unlink()
    left = {"status": "interrupted", "summary": {}, "finished": len(rows)}
    write_suite(cell.folder, [cell.record.model_copy(update=left)], "interrupted")


@pytest.fixture
def single(folder: Path, tmp_path: Path) -> Cell:
    """One finished cell that a test may damage."""
    first = read_cells([folder])[0].record
    shutil.copytree(folder / first.id, tmp_path / first.id)
    write_suite(tmp_path, [first])
    return read_cells([tmp_path])[0]


def test_every_section_is_finite_json_with_distinct_ids(folder: Path, granular_folder: Path) -> None:
    cells = read_cells([folder, granular_folder])
    sections = [section for module in SECTIONS if (section := module.build(cells)) is not None]
    assert [section.id for section in sections] == ["pareto", "stages", "budget", "bins", "sweep"]
    blocks = [block for section in sections for block in section.blocks]
    ids = [block.id for block in blocks if hasattr(block, "id")]
    assert len(ids) == len(set(ids))
    json.dumps([asdict(block) for block in blocks], allow_nan=False)
    assert b"pareto-1" in render("Title", "", {}, sections)


def test_sections_without_anything_to_show_are_left_out(folder: Path) -> None:
    null = [cell for cell in read_cells([folder]) if cell.record.backend == "null"]
    assert [module.build(null) is None for module in SECTIONS] == [True, False, True, True, True]
    assert all(module.build([]) is None for module in SECTIONS)


# The Pareto plot.


def test_points_are_the_figures_of_the_record(folder: Path) -> None:
    cells = read_cells([folder])
    section = pareto.build(cells)
    scatter = block(section, "pareto-1")
    assert isinstance(scatter, Scatter)
    assert [(point.group, point.shape) for point in scatter.points] == [("ac-re", "eager"), ("diffae-re", "eager")]
    assert "ac-re, null" in texts(section)
    for point, cell in zip(scatter.points, cells, strict=False):
        for key in ("validity/success_rate", "throughput/seconds_per_image", "cost/forward"):
            estimate = cell.record.summary[key]
            assert point.values[key] == pytest.approx((estimate.value, estimate.low, estimate.high), rel=1e-5)
    assert "realism/fid" not in scatter.axes, "nothing was measured"
    assert scatter.axes["validity/success_rate"].better == "high"
    assert {scatter.x, *scatter.x_choices, scatter.y, *scatter.y_choices} <= set(scatter.axes)


def test_costs_of_different_magnitude_have_a_log_axis(folder: Path) -> None:
    cells = [cell for cell in read_cells([folder]) if cell.record.backend == "eager"]
    key = "throughput/valid_per_second"
    for factor, low, expected in ((10.0, 0.5, True), (3.0, 0.5, False), (10.0, 0.0, False)):
        figures = [(1.0, low, 2.0), (factor, 1.0, 2 * factor)]
        changed = [
            replace(cell, record=cell.record.model_copy(update={"summary": dict(cell.record.summary)}))
            for cell in cells
        ]  # fmt: skip
        for cell, (value, lower, upper) in zip(changed, figures, strict=True):
            update = {"value": value, "low": lower, "high": upper}
            cell.record.summary[key] = cells[0].record.summary[key].model_copy(update=update)
        scatter = block(pareto.build(changed), "pareto-1")
        assert isinstance(scatter, Scatter) and scatter.axes[key].log is expected


def test_what_cannot_be_compared_is_said(folder: Path) -> None:
    first, second = [cell for cell in read_cells([folder]) if cell.record.backend == "eager"]
    assert texts(pareto.build([first, second])) == ""
    key = "sparsity/change_l1"
    other = replace(
        second,
        suite=second.suite.model_copy(update={"environment": {"cpu": "B", "device": "cpu"}}),
        record=second.record.model_copy(update={"definitions": {key: {"fingerprint": "2"}}, "facts": {"data": "x"}}),
    )
    here = replace(first, record=first.record.model_copy(update={"definitions": {key: {"fingerprint": "1"}}}))
    section = pareto.build([here, other])
    for words in ("different machines", "different images", "different definitions, hence not shown: change, L1"):
        assert words in texts(section)
    scatter = block(section, "pareto-1")
    assert isinstance(scatter, Scatter) and key not in scatter.axes


def test_another_version_of_cuda_is_no_other_machine(folder: Path) -> None:
    cells = [cell for cell in read_cells([folder]) if cell.record.backend == "eager"]
    versions = [
        replace(cell, suite=cell.suite.model_copy(update={"environment": {"gpu": {"name": "A", "cuda": version}}}))
        for cell, version in zip(cells, ("12.8", "13.0"), strict=True)
    ]
    assert texts(pareto.build(versions)) == ""


def test_cells_that_did_not_finish_are_no_points(folder: Path) -> None:
    first, second = [cell for cell in read_cells([folder]) if cell.record.backend == "eager"]
    left = replace(second, record=second.record.model_copy(update={"status": "interrupted"}))
    scatter = block(pareto.build([first, left]), "pareto-1")
    assert isinstance(scatter, Scatter) and [point.name for point in scatter.points] == [first.label]


def test_datasets_are_never_in_one_plot(folder: Path) -> None:
    first, second = [cell for cell in read_cells([folder]) if cell.record.backend == "eager"]
    other = replace(second, record=second.record.model_copy(update={"dataset": "other"}))
    found = [block for block in pareto.build([first, other]).blocks if isinstance(block, Scatter)]
    assert [scatter.title.rpartition(", ")[2] for scatter in found] == ["toy", "other"]
    assert list(views([first, other])) == ["toy: all cells", "other: all cells"]


# Time by stage.


def test_bars_are_the_recorded_seconds(folder: Path) -> None:
    cells = read_cells([folder])
    section = stages.build(cells)
    total, each = block(section, "stages-total"), block(section, "stages-per-sample")
    assert isinstance(total, Bars) and isinstance(each, Bars)
    assert total.parts == ["build", "encode", "search", "refine", "saving and predicting", "metrics"]
    assert list(total.bars) == ["ac-re, eager", "diffae-re, eager", "ac-re, null"]
    for cell in cells:
        timings = cell.record.timings
        assert total.bars[cell.label]["search"] == pytest.approx(timings["step_s"], rel=1e-5)
        assert total.bars[cell.label]["metrics"] == pytest.approx(timings["metrics_s"], rel=1e-5)
        whole = timings["encode_s"] + timings["step_s"] + timings["refine_s"] + timings["harness_s"]
        assert sum(each.bars[cell.label].values()) * COUNT == pytest.approx(whole, rel=1e-4)


def test_the_table_of_slots_says_what_refilling_saved_and_shows_flags(folder: Path) -> None:
    cells = read_cells([folder])[:2]
    cells[1].record.timings["timing_flags"] = ["out of memory at 4 slots, continued with 2"]
    found = block(stages.build(cells), "stages-table")
    assert isinstance(found, TableBlock)
    for cell, row in zip(cells, found.table.rows, strict=True):
        assert len(row) == len(found.table.columns)
        assert row[1] == 4 and row[2].value == cell.record.timings["slot_occupancy"]
        held = cell.samples["iterations"].tolist()
        waiting = sum(max(held[start : start + 4]) for start in (0, 4))
        assert row[3].value == pytest.approx(sum(held) / (4 * waiting))
    assert [row[-1] for row in found.table.rows] == [None, "out of memory at 4 slots, continued with 2"]
    assert found.table.tones == {1: "warning"}


def test_a_resumed_cell_shows_no_harness_time_per_sample(single: Cell) -> None:
    resumed = replace(single, record=single.record.model_copy(update={"sessions": 2}))
    section = stages.build([resumed])
    each = block(section, "stages-per-sample")
    assert isinstance(each, Bars) and "saving and predicting" not in each.bars[single.label]
    assert "Resumed: ac-re, eager" in texts(section)


def test_older_timings_are_enough(single: Cell) -> None:
    older = {key: single.record.timings[key] for key in ("build_s", "encode_s", "step_s", "refine_s")}
    section = stages.build([replace(single, record=single.record.model_copy(update={"timings": older}))])
    found = block(section, "stages-table")
    assert isinstance(found, TableBlock) and found.table.rows[0][4] is None


# Error against budget.


def error_at(cell: Cell, column: str, limit: float) -> list[float]:
    """|prediction - target| of every sample at a budget, the slow way."""
    rows = Journal(cell.folder / cell.record.id / "samples.jsonl").peek()
    found = []
    for row in rows:
        times = row["trace"]["seconds"]
        known = [i for i in range(len(times)) if (times[i] if column == "seconds" else i + 1) <= limit]
        found.append(abs(row["trace"]["predictions"][known[-1] if known else 0] - row["target"]))
    return found


def limits_near(cell: Cell, column: str, limit: float, rounding: float = 1e-5) -> list[float]:
    """The limit without and with every step that ends within its rounding."""
    rows = Journal(cell.folder / cell.record.id / "samples.jsonl").peek()
    times = [time for row in rows for time in row["trace"]["seconds"]] if column == "seconds" else []
    low, high = limit * (1 - rounding), limit * (1 + rounding)
    return [low, *sorted(time for time in times if low < time < high), high]


@pytest.mark.parametrize("column", ["iteration", "seconds"])
def test_curves_are_what_the_traces_say(folder: Path, column: str) -> None:
    cells = [cell for cell in read_cells([folder]) if cell.record.backend == "eager"]
    word = "iterations" if column == "iteration" else "seconds"
    section = budget.build(cells)
    errors, shares = lines_of(section, f"budget-error-{word}"), lines_of(section, f"budget-share-{word}")
    assert "tolerance 0.004" in errors and "tolerance 0.004" not in shares
    for cell in cells:
        for (x, value, low, high), (_, share, *_) in zip(errors[cell.label], shares[cell.label], strict=True):
            # Places are rounded to six digits: a step that ends within the rounding is counted or not.
            known = [np.array(error_at(cell, column, limit)) for limit in limits_near(cell, column, x)]
            fitting = [found for found in known if value == pytest.approx(found.mean(), rel=1e-5)]
            assert fitting, (x, value, [found.mean() for found in known])
            assert low <= value <= high
            assert any(share == pytest.approx((found <= 0.004).mean(), rel=1e-5) for found in fitting)
        last = np.abs(cell.samples["search_prediction"] - cell.samples["target"]).mean()
        assert errors[cell.label][-1][1] == pytest.approx(last, abs=1e-6)
        assert shares[cell.label][-1][1] == pytest.approx(cell.record.summary["validity/search_reached_rate"].value)


def test_a_failed_sample_is_no_error_and_never_within(single: Cell) -> None:
    rows = Journal(single.folder / single.record.id / "samples.jsonl").peek()
    reached = next(row for row in rows if row["reached"])
    before = lines_of(budget.build([single]), "budget-share-iterations")[single.label]
    cut(single, [row | {"failure": "nonfinite@refine"} if row is reached else row for row in rows])
    cell = read_cells([single.folder])[0]
    section = budget.build([cell])
    name = "ac-re, eager (interrupted: 6 of 6 samples)"
    shares = lines_of(section, "budget-share-iterations")[name]
    assert shares[-1][1] == pytest.approx(before[-1][1] - 1 / COUNT)
    errors = lines_of(section, "budget-error-iterations")[name]
    rest = [abs(row["search_prediction"] - row["target"]) for row in rows if row is not reached]
    assert errors[-1][1] == pytest.approx(np.mean(rest), abs=1e-6)


def test_records_without_traces_say_so(single: Cell) -> None:
    path = single.folder / single.record.id / "trace.parquet"
    whole = pd.read_parquet(path)
    whole[whole["id"] != "toy/1"].to_parquet(path)
    assert "ac-re, eager: 1 of 6 samples have no course." in texts(budget.build(read_cells([single.folder])))
    path.unlink()
    journal = Journal(path.with_name("samples.jsonl"))
    journal.replace([{key: value for key, value in row.items() if key != "trace"} for row in journal.peek()])
    section = budget.build(read_cells([single.folder]))
    assert "no course of the searches for ac-re, eager" in texts(section)
    assert section is not None and len(section.blocks) == 1


def test_a_cell_that_was_cut_shows_what_there_is(single: Cell) -> None:
    rows = Journal(single.folder / single.record.id / "samples.jsonl").peek()
    cut(single, rows[:2])
    cells = read_cells([single.folder])
    name = "ac-re, eager (interrupted: 2 of 6 samples)"
    assert name in lines_of(budget.build(cells), "budget-error-seconds")
    found = block(bins.build(cells), "bins-success-1")
    assert isinstance(found, Matrix) and sum(map(sum, found.choices[name][1])) == 2
    assert pareto.build(cells) is None
    Journal(single.folder / single.record.id / "samples.jsonl").replace([])
    assert [module.build(read_cells([single.folder])) is None for module in (budget, bins, sweep)] == [
        False,
        True,
        True,
    ]


def test_views_show_backends_of_a_method_and_methods_on_a_backend(single: Cell) -> None:
    pairs = [("ac-re", "eager"), ("ac-re", "onnx"), ("pgd", "eager"), ("pgd", "onnx"), ("dime", "onnx")]
    cells = [
        replace(single, record=single.record.model_copy(update={"method": method, "backend": backend}))
        for method, backend in pairs
    ]
    found = {title: [pairs[cells.index(cell)] for cell in shown] for title, shown in views(cells).items()}
    assert list(found) == ["methods on eager", "methods on onnx", "backends of ac-re", "backends of pgd", "all cells"]
    assert found["methods on eager"] == [("ac-re", "eager"), ("pgd", "eager")]
    assert found["backends of pgd"] == [("pgd", "eager"), ("pgd", "onnx")]
    assert found["all cells"] == pairs
