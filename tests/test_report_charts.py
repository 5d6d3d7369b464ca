"""What the charts of a report are made of, against the records themselves."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from bench.record import CellRecord, Journal, SuiteRecord, now, write_json
from reports.pages.blocks import Bars, Lines, Matrix, Scatter, Section, TableBlock, Text
from reports.pages.render import render
from reports.pages.sections import bins, budget, pareto, stages, sweep
from reports.pages.views import views
from reports.records import Cell, read_cells
from tests.tiny_cell import run_cell, tiny_cell

SECTIONS = (pareto, stages, budget, bins, sweep)
TARGETS = (0.4, 0.5, 0.6)
COUNT = 6


def write_suite(folder: Path, records: Sequence[CellRecord], status: str = "ok", device: str = "cpu") -> None:
    """A suite of cells that ran in `folder`."""
    suite = SuiteRecord(
        id=folder.name, command="python -m bench run", status=status, config_set={}, config={},
        environment={"cpu": "A", "device": device}, cells=list(records), started=now(), ended=now(),
    )  # fmt: skip
    write_json(folder / "suite.json", suite)


def cut(cell: Cell, rows: list[dict]) -> None:
    """Turn a finished cell of one suite into one that was interrupted after these rows."""
    folder = cell.folder / cell.record.id
    Journal(folder / "samples.jsonl").replace(rows)
    for name in ("samples.parquet", "trace.parquet"):
        (folder / name).unlink()
    left = {"status": "interrupted", "summary": {}, "finished": len(rows)}
    write_suite(cell.folder, [cell.record.model_copy(update=left)], "interrupted")


@pytest.fixture(scope="module")
def folder(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cells, one of them of the null backend."""
    path = tmp_path_factory.mktemp("several")
    kinds = [("ac-re", "eager"), ("diffae-re", "eager"), ("ac-re", "null")]
    cells = [tiny_cell(networks, method, backend, count=COUNT) for method, backend in kinds]
    write_suite(path, [run_cell(cell, path)[0] for cell in cells])
    return path


@pytest.fixture(scope="module")
def granular_folder(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cell with several reference values an image."""
    path = tmp_path_factory.mktemp("granular")
    write_suite(path, [run_cell(tiny_cell(networks, "ac-re", count=3, targets=TARGETS), path)[0]])
    return path


@pytest.fixture
def single(folder: Path, tmp_path: Path) -> Cell:
    """One finished cell that a test may damage."""
    first = read_cells([folder])[0].record
    shutil.copytree(folder / first.id, tmp_path / first.id)
    write_suite(tmp_path, [first])
    return read_cells([tmp_path])[0]


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


@pytest.mark.parametrize("column", ["iteration", "seconds"])
def test_curves_are_what_the_traces_say(folder: Path, column: str) -> None:
    cells = [cell for cell in read_cells([folder]) if cell.record.backend == "eager"]
    word = "iterations" if column == "iteration" else "seconds"
    section = budget.build(cells)
    errors, shares = lines_of(section, f"budget-error-{word}"), lines_of(section, f"budget-share-{word}")
    assert "tolerance 0.004" in errors and "tolerance 0.004" not in shares
    for cell in cells:
        for (x, value, low, high), (_, share, *_) in zip(errors[cell.label], shares[cell.label], strict=True):
            known = error_at(cell, column, x * (1 + 1e-5))  # places are rounded to six digits
            assert value == pytest.approx(np.mean(known), rel=1e-5)
            assert low <= value <= high
            assert share == pytest.approx(np.mean([error <= 0.004 for error in known]), rel=1e-5)
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


# Success by start and target.


def test_values_on_the_edge_of_a_bin_belong_to_the_one_above() -> None:
    values = np.array([-0.01, 0.0, 0.19, 0.2, np.float32(0.6), 0.6 - 1e-9, 0.79, 1.0, 1.02])
    found = bins.equal_bins(values)
    assert found.of(values).tolist() == [0, 0, 0, 1, 3, 3, 3, 4, 4]
    assert found.labels == ["0.0 to 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1.0"]
    assert bins.equal_bins(np.array([0.45, 0.7])).labels == ["0.4 to 0.6", "0.6 to 0.8"]
    assert bins.equal_bins(np.array([0.45, 0.7])).of(np.array([0.45, 0.7])).tolist() == [0, 1]


def test_few_round_targets_are_columns_of_their_own() -> None:
    targets = np.array([0.2, 0.8, 0.2, 0.5], dtype=np.float32).astype(np.float64)
    found = bins.target_bins(targets)
    assert found.labels == ["0.2", "0.5", "0.8"] and found.of(targets).tolist() == [0, 2, 0, 1]
    assert bins.target_bins(np.array([0.123, 0.7])).labels[0] == "0.0 to 0.2"
    assert len(bins.target_bins(np.linspace(0, 1, 21)).labels) == 5


def test_fields_hold_means_and_counts() -> None:
    values = np.array([1.0, 0.0, np.nan, 0.5])
    means, counts = bins.field_means(values, np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), (2, 2))
    assert means == [[0.5, None], [None, 0.5]]
    assert counts == [[2, 0], [0, 1]]


def test_fields_add_up_to_the_success_rate(folder: Path) -> None:
    cells = read_cells([folder])
    section = bins.build(cells)
    assert "ac-re, null" in texts(section)
    for name, key in (("success", "validity/success_rate"), ("error", "validity/oracle_target_mae")):
        matrix = block(section, f"bins-{name}-1")
        assert isinstance(matrix, Matrix) and list(matrix.choices) == ["ac-re, eager", "diffae-re, eager"]
        for cell in cells[:2]:
            means, counts = (np.array(part, dtype=float) for part in matrix.choices[cell.label])
            assert np.nansum(means * counts) / counts.sum() == pytest.approx(cell.record.summary[key].value, rel=1e-4)
            assert matrix.high >= np.nanmax(means)


# Several reference values an image.


def test_lines_follow_the_reference_values(granular_folder: Path) -> None:
    cells = read_cells([granular_folder])
    section = sweep.build(cells)
    samples = cells[0].samples
    for judge, column in (("regressor", "prediction"), ("oracle", "oracle")):
        lines = lines_of(section, "sweep-1", f"ac-re, eager, {judge}")
        assert list(lines) == ["toy/0", "toy/1", "toy/2", "mean", "reference value"]
        for name, points in list(lines.items())[:3]:
            rows = samples[samples["source"] == name].sort_values("target")
            assert [x for x, *_ in points] == pytest.approx(TARGETS)
            assert [y for _, y, *_ in points] == pytest.approx(rows[column].tolist(), rel=1e-5)
        assert lines["mean"][1][1] == pytest.approx(
            samples[column][np.isclose(samples["target"], 0.5)].mean(), rel=1e-5
        )
        assert lines["mean"][1][2] <= lines["mean"][1][1] <= lines["mean"][1][3]
        assert lines["reference value"] == [(0.4, 0.4, None, None), (0.6, 0.6, None, None)]


def test_the_table_tells_monotonic_and_smooth(granular_folder: Path, folder: Path) -> None:
    cell = read_cells([granular_folder])[0]
    found = block(sweep.build([cell]), "sweep-table")
    assert isinstance(found, TableBlock)
    row = dict(zip((column.heading for column in found.table.columns), found.table.rows[0], strict=True))
    paths = sweep.paths(cell.samples, "oracle").to_numpy()
    assert row["images"] == 3 and row["reference values"] == 3
    assert row["rising throughout, oracle"].value == pytest.approx((np.diff(paths) > 0).all(1).mean())
    assert row["roughness, L1"].value == cell.record.summary["path/roughness_l1"].value
    assert sweep.build(read_cells([folder])) is None, "one reference value an image"


def test_a_failed_value_is_a_gap(granular_folder: Path) -> None:
    cell = read_cells([granular_folder])[0]
    samples = cell.samples
    samples.loc[samples["id"] == "toy/1@0.5", ["prediction", "oracle"]] = np.nan
    lines = lines_of(sweep.build([cell]), "sweep-1", "ac-re, eager, regressor")
    assert [x for x, *_ in lines["toy/1"]] == pytest.approx([0.4, 0.6])
    assert len(lines["toy/0"]) == len(lines["mean"]) == 3
