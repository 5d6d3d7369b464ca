"""The texts and tables of a report, from records that real searches left: verdicts, pairs."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.errors import RunError
from bench.record import locked, read_suite
from metrics.intervals import Estimate
from reports.pages.sections import failures, paired, summary
from reports.pairs import _stamp, pairs
from reports.records import read_cells
from reports.table import Value, to_latex
from reports.tables import summary_table
from tests.compared_suites import (  # noqa: F401 (fixtures)
    COUNT,
    ENVIRONMENT,
    add_backend,
    by_backend,
    column,
    fail_three,
    judged,
    leave,
    original_fixture,
    suite_fixture,
    tables,
    texts,
    write_suite,
)


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
    [("running", "killed", "warning"), ("interrupted", "interrupted", "warning"), ("failed", "failed", "bad")],
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
    assert broken.rows == [["ac-re, compile", "killed" if status == "running" else status, 5, 12, error]]
    assert (column(table, "n")[1:], column(table, "of")[1:]) == ([COUNT, 5], [COUNT, COUNT])


def test_a_cell_that_runs_is_partial_and_was_not_killed(suite: Path) -> None:
    add_backend(suite, "compile")
    leave(suite, "compile", keep=5, status="running")
    with locked(suite):
        assert judged(suite)["compile"] == "partial"
        assert tables(failures.build(read_cells([suite])))["failures-cells"].rows[0][1] == "running"


def far_better(frame: pd.DataFrame, images: Path) -> None:
    """On every image, so that paired ratios have narrow intervals."""
    frame["oracle_target_mae"] *= 0.01


def test_bold_is_for_one_data_set_and_never_for_paired_ratios(suite: Path) -> None:
    add_backend(suite, "compile", far_better)
    add_backend(suite, "onnx", lambda frame, images: frame.update(frame[["oracle_target_mae"]] * 0.5))
    key = "validity/oracle_target_mae"
    estimates = {
        "null": Estimate(value=0.0, low=0.0, high=0.0, n=COUNT),
        "eager": Estimate(value=0.3, low=0.2, high=0.4, n=COUNT),
        "compile": Estimate(value=0.1, low=0.05, high=0.15, n=COUNT),
        "onnx": Estimate(value=0.4, low=0.3, high=0.5, n=COUNT),
    }
    records = [r.model_copy(update={"summary": {key: estimates[r.backend]}}) for r in read_suite(suite).cells]
    write_suite(suite, records)
    table = tables(summary.build(read_cells([suite])))["summary-0"]
    assert to_latex(table).count("textbf") == 1 and r"\textbf{0.100}" in to_latex(table)
    ratios = tables(paired.build(read_cells([suite])))["paired"]
    assert any(column.better for column in ratios.columns) and "textbf" not in to_latex(ratios)
    others = [r.model_copy(update={"dataset": "other"}) if r.backend == "onnx" else r for r in records]
    write_suite(suite, others)
    assert "textbf" not in to_latex(summary_table(read_cells([suite])))


def test_the_pages_latex_has_a_papers_columns(suite: Path) -> None:
    table = tables(summary.build(read_cells([suite])))["summary-0"]
    heading = next(line for line in to_latex(table).splitlines() if line.strip().startswith("cell"))
    names = heading.strip().removesuffix(r" \\").split(" & ")
    assert names[:2] == ["cell", "success"] and names[-2:] == ["s / image", "valid / s"] and len(names) <= 11
    assert len(table.columns) > len(names)


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


def test_one_figure_has_one_interval_on_the_page(suite: Path) -> None:
    def noisy(frame: pd.DataFrame, images: Path) -> None:
        one_pixel_and_half_the_time(frame, images)
        frame["oracle_target_mae"] *= np.linspace(0.9, 1.3, len(frame))

    add_backend(suite, "compile", noisy)
    cells = read_cells([suite])
    measured = pairs(cells)[0].measured
    table = tables(paired.build(cells))["paired"]
    assert measured is not None
    for heading, test in (("success, difference", measured.success), ("oracle-target, ratio", measured.target_error)):
        assert column(table, heading) == [Value(test.value, test.low, test.high, 3)]


@pytest.mark.parametrize("places", [[3], list(range(COUNT))])
def test_predictions_that_are_not_finite_are_counted(suite: Path, places: list[int]) -> None:
    def diverge(frame: pd.DataFrame, images: Path) -> None:
        before = frame.copy()
        one_pixel_and_half_the_time(frame, images)
        frame[["valid", "prediction"]] = before[["valid", "prediction"]]
        frame.loc[places, "prediction"] = np.inf

    add_backend(suite, "compile", diverge)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        cells = read_cells([suite])
        table = tables(paired.build(cells))["paired"]
    (pair,) = pairs(cells)
    assert pair.measured is not None and pair.measured.prediction_unknown == len(places)
    assert pair.verdict != "numerically equal"
    assert any(f"{len(places)} predictions are not finite" in note for note in table.notes)
    (largest,) = column(table, "largest |r - r'|")
    assert largest == (Value(0.0) if len(places) == 1 else None)


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
    assert ".png is missing; run the cell again" in note and "Errno" not in note


def test_a_lost_table_is_named_once(suite: Path) -> None:
    cell = by_backend(suite)["eager"]
    path = cell.folder / cell.record.id / "samples.parquet"
    path.unlink()
    with pytest.raises(RunError) as missing:
        _stamp(cell)
    assert str(missing.value) == f"{path} is missing; run the cell again"


def test_a_table_that_was_written_again_is_compared_again(suite: Path) -> None:
    add_backend(suite, "compile")
    assert judged(suite)["compile"] == "bit-identical"
    table = suite / "toy--ac-re--compile--s0" / "samples.parquet"
    frame = pd.read_parquet(table)
    fail_three(frame, table.parent / "images")
    frame.to_parquet(table)
    assert judged(suite)["compile"] == "different"
