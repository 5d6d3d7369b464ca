"""The gate: losses and slowdowns are found, quality before speed; noise and few repeats decide nothing."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.compare import NotComparable
from bench.errors import UsageError
from bench.gate import GateReport, gate, gate_alone
from bench.record import CellRecord, read_suite, write_json
from bench.sections import VerifyConfig
from reports.gate_report import headline, markdown
from tests.gate_sides import COUNT, Change, flag, judged, only, side, verdicts, write_repeat, write_verification


def test_the_same_work_at_the_same_speed_passes(tmp_path: Path) -> None:
    report = judged(tmp_path)
    assert verdicts(report) == ("ok", "ok", "ok")
    assert (report.verdict, report.passed(strict=True)) == ("ok", True)
    assert "bit-identical" in only(report).quality.reasons[0]
    figures = {figure.name: (figure.verdict, figure.note) for figure in only(report).quality.figures}
    assert figures["success rate"] == ("ok", "bit-identical")  # 20 images alone would decide nothing
    assert {verdict for verdict, _ in figures.values()} == {"ok"}
    assert (report.base_repeats, report.new_commit) == (["repeat-1", "repeat-2", "repeat-3"], "c" * 40)
    assert headline(report) == "Gate passed: 1 ok"
    assert GateReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    ("slower", "count", "verdict"),
    [(1.3, 3, "regressed"), (0.7, 3, "improved"), (1.05, 3, "ok"), (1.3, 2, "inconclusive"), (1.3, 1, "inconclusive")],
)
def test_speed_is_judged_on_process_repeats(tmp_path: Path, slower: float, count: int, verdict: str) -> None:
    report = judged(tmp_path, slower, count=count)
    assert verdicts(report) == ("ok", "ok", verdict)
    assert (report.verdict, report.passed()) == (verdict, verdict != "regressed")
    figure = only(report).speed.figures[0]
    assert (figure.name, len(figure.new_repeats)) == ("seconds per image", count)
    assert figure.value == pytest.approx(slower)
    if count < 3:
        assert "3 a side can be" in figure.note
        assert not report.passed(strict=True)
    else:
        assert figure.low < slower < figure.high


def test_one_suite_is_one_repeat_and_repeats_are_in_their_order(tmp_path: Path) -> None:
    base = write_repeat(tmp_path / "base")
    new = side(tmp_path / "new", count=10)
    report = gate(base, new)
    assert (report.base_repeats, report.new_repeats[1], report.new_repeats[-1]) == (["base"], "repeat-2", "repeat-10")
    assert report.verdict == "inconclusive"


def lose(record: CellRecord, frame: pd.DataFrame) -> None:
    frame["shift"], frame["prediction"] = 1, 0.6
    frame["valid"] = (np.arange(COUNT) < 6).astype(float)


def moved(record: CellRecord, frame: pd.DataFrame) -> None:
    frame["shift"], frame["prediction"] = 1, 0.5001


def other_metric(record: CellRecord, frame: pd.DataFrame) -> None:
    frame["square_mae"] *= 1.2


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (lose, "regressed", "success rate 0.9 -> 0.3: regressed"),
        (moved, "ok", "numerically equal"),
        (other_metric, "regressed", "square MAE 0.0"),  # the same images: the metric is another
    ],
)
def test_quality_is_judged_with_margins(tmp_path: Path, change: Change, verdict: str, words: str) -> None:
    report = judged(tmp_path, change=change)
    assert verdicts(report)[:2] == ("ok", verdict)
    assert words in only(report).quality.reasons[0]
    assert only(report).verdict == verdict
    if verdict == "ok":  # no figure says otherwise, however wide its interval is
        assert {figure.verdict for figure in only(report).quality.figures} == {"ok"}
        assert "ok (`numerically equal`)" in markdown(report)
    assert report.passed() == (verdict == "ok")


def test_margins_are_those_of_base_unless_given(tmp_path: Path) -> None:
    base, new = side(tmp_path / "base"), side(tmp_path / "new", change=other_metric)
    for folder, margin in ((base, 0.01), (new, 0.5)):
        suite = read_suite(folder / "repeat-1")
        suite.config["verify"] = {"target_error_margin": margin}
        write_json(folder / "repeat-1" / "suite.json", suite)
    assert gate(base, new).verdict == "regressed"
    assert gate(base, new, margins=VerifyConfig(target_error_margin=0.5)).verdict == "ok"
    runner = CliRunner()
    assert runner.invoke(app, ["gate", str(base), str(new)]).exit_code == 1
    assert runner.invoke(app, ["gate", str(base), str(new), "-s", "verify.target_error_margin=0.5"]).exit_code == 0


def test_flags_of_both_sides_only_spoil_the_speed(tmp_path: Path) -> None:
    base, new = side(tmp_path / "base", change=flag), side(tmp_path / "new", 1.5, change=flag)
    report = gate(base, new)
    assert verdicts(report) == ("ok", "ok", "inconclusive")
    assert "timing flagged" in only(report).speed.figures[0].note


def without_success(record: CellRecord, frame: pd.DataFrame) -> None:
    frame["valid"] = 0.0


def test_seconds_per_valid_are_skipped_where_neither_side_has_a_valid_one(tmp_path: Path) -> None:
    base = side(tmp_path / "base", change=without_success)
    report = gate(base, side(tmp_path / "new", change=without_success))
    assert verdicts(report) == ("ok", "ok", "ok")
    assert report.passed(strict=True)
    figure = only(report).speed.figures[1]
    assert (figure.name, figure.verdict) == ("seconds per valid", "skipped")
    assert figure.note == "neither side has a valid counterfactual"
    assert "skipped (`neither side has a valid counterfactual`)" in markdown(report)
    better = gate(base, side(tmp_path / "better"))  # one side has: a figure that the other lacks
    assert (only(better).speed.figures[1].verdict, better.passed(strict=True)) == ("inconclusive", False)


def test_a_repeat_that_is_on_both_sides_is_refused(tmp_path: Path) -> None:
    base, new = side(tmp_path / "base"), side(tmp_path / "new", count=2)
    (new / "repeat-3").symlink_to(base / "repeat-2")
    for sides in ((base, base), (base, base / "repeat-1"), (base / "repeat-3", base), (base, new)):
        with pytest.raises(UsageError, match="is in both BASE and NEW; a folder compared with itself proves nothing"):
            gate(*sides)
    assert gate(base / "repeat-1", base / "repeat-2").verdict == "inconclusive"


def copied(source: Path, target: Path, started: str | None = None) -> Path:
    """A copy of a suite, or one that names another start."""
    shutil.copytree(source, target)
    if started is not None:
        write_json(target / "suite.json", read_suite(target).model_copy(update={"started": started}))
    return target


def test_a_copy_is_no_process_repeat(tmp_path: Path) -> None:
    base, new = side(tmp_path / "base"), side(tmp_path / "new", count=2)
    copied(new / "repeat-2", new / "repeat-3")
    words = "repeat-3 is a copy of .*new/repeat-2 .the same command and start.; every process repeat has to be a run"
    for call in (lambda: gate(base, new), lambda: gate(new, base), lambda: gate_alone(new)):
        with pytest.raises(UsageError, match=words):
            call()
    shutil.rmtree(new / "repeat-3")
    assert gate(base, new).verdict == "inconclusive"
    copied(base / "repeat-1", new / "repeat-3")  # of the other side
    with pytest.raises(UsageError, match="new/repeat-3 is a copy of .*base/repeat-1 "):
        gate(base, new)


def test_equal_timings_of_every_call_are_a_copy(tmp_path: Path) -> None:
    base, new = side(tmp_path / "base"), side(tmp_path / "new", count=2)
    (latency,) = (cell / "latency.json" for cell in (new / "repeat-1").glob("square--*"))
    latency.write_text('{"encode_s": [], "step_s": []}')  # nothing was timed: no mark of a run
    third = copied(new / "repeat-1", new / "repeat-3", "later")
    assert gate(base, new).verdict == "ok"
    for folder in (new / "repeat-1", third):
        (folder / latency.parent.name / "latency.json").write_text('{"encode_s": [0.25], "step_s": [0.5]}')
    with pytest.raises(UsageError, match="repeat-3 is a copy of .*repeat-1 .the same latency.json"):
        gate(base, new)


def other_options(record: CellRecord, frame: pd.DataFrame) -> None:
    record.options["ac-re"] = {"depth": 4}


def test_other_terms_are_refused(tmp_path: Path) -> None:
    base = side(tmp_path / "base")
    with pytest.raises(NotComparable, match="options of ac-re"):
        gate(base, side(tmp_path / "options", change=other_options))
    write_repeat(tmp_path / "far", None, gpu={"name": "X", "cuda": "13.2"})
    with pytest.raises(NotComparable, match="gpu"):
        gate(base, tmp_path / "far")
    write_repeat(tmp_path / "near", None, gpu={"name": "X", "cuda": "13.3"})
    assert gate(tmp_path / "far", tmp_path / "near").verdict == "inconclusive"  # CUDA is software
    mixed = side(tmp_path / "mixed", count=2)
    write_repeat(mixed / "repeat-3", None, git={"commit": "d" * 40})
    with pytest.raises(NotComparable, match="different commits"):
        gate(base, mixed)


def test_backends_that_verify_refuted_fail(tmp_path: Path) -> None:
    base, new = side(tmp_path / "base"), side(tmp_path / "new")
    assert "no verify.json" in gate(base, new).notes[0]
    write_verification(new / "verify", "inconclusive")
    assert (gate(base, new).verdict, gate(base, new).notes) == ("ok", [])
    refuted = write_verification(tmp_path / "elsewhere", "different")
    assert verdicts(gate(base, new, verify=refuted)) == ("failed", "skipped", "skipped")
    other = gate(base, new, verify=write_verification(tmp_path / "elsewhere", "different", "diffae-re"))
    assert (other.verdict, only(other).verdict) == ("failed", "ok")  # not in the matrix, and red all the same
    with pytest.raises(NotComparable, match="verify that one"):
        gate(base, new, verify=write_verification(tmp_path / "elsewhere", "equivalent", commit="d" * 40))
    with pytest.raises(UsageError, match="holds no verify.json"):
        gate(base, new, verify=base)
