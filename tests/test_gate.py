"""The gate: planted faults, losses and slowdowns are found in this order; noise and few repeats decide nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import nn
from typer.testing import CliRunner

from backends import BACKENDS
from bench.cli import app
from bench.compare import NotComparable
from bench.errors import RunError, UsageError
from bench.gate import CellGate, GateReport, gate
from bench.images import png_bytes
from bench.record import CellRecord, SuiteRecord, read_cell, read_suite, write_json
from bench.sections import MetricsConfig, VerifyConfig
from bench.verify import Verified, VerifyRecord
from methods.noise import numpy_normal
from reports.gate_report import headline
from tests.faulty_backends import FAULTY
from tests.test_compare import MACHINE, cell_record
from tests.tiny_cell import run_cell, tiny_cell

COUNT = 20
EXECUTION = {
    "backend": "compile", "device": "cpu", "flags": [],
    "networks": {"denoiser": {"dtype": "torch.bfloat16", "graph_breaks": 0, "build_seconds": 2.0}},
}  # fmt: skip
Change = Callable[[CellRecord, pd.DataFrame], None]


def samples(shift: int = 0) -> pd.DataFrame:
    """A cell's table; `shift` is the grey levels by which its images differ from those of others."""
    error = 0.05 + 0.02 * np.abs(numpy_normal(22, (COUNT,)))
    columns = {"oracle_target_mae": error, "square_mae": error, "background_mae": error / 10}
    return pd.DataFrame(
        {
            "id": [f"s{i}" for i in range(COUNT)], "image": [f"{i}.png" for i in range(COUNT)], "shift": shift,
            "seconds": 1 + 0.3 * np.abs(numpy_normal(21, (COUNT,))), "valid": (np.arange(COUNT) < 18).astype(float),
            "prediction": 0.5 + shift / 100, "oracle": 0.5, "steps": 9,
            "failure": pd.Series([None] * COUNT, dtype=object), **columns,
        }
    )  # fmt: skip


def write_cell(folder: Path, record: CellRecord, frame: pd.DataFrame) -> None:
    (folder / record.id / "images").mkdir(parents=True)
    for index, row in enumerate(frame.itertuples()):
        pixels = (np.arange(4 * 4 * 3).reshape(4, 4, 3) * (index % 5) + 40 + row.shift) * (row.shift >= 0)
        (folder / record.id / "images" / row.image).write_bytes(png_bytes(pixels.astype(np.uint8)))
    frame.to_parquet(folder / record.id / "samples.parquet", index=False)
    write_json(folder / record.id / "result.json", record)


def finished(method: str = "ac-re", backend: str = "compile") -> CellRecord:
    record = cell_record(method, backend)
    record.samples = record.finished = COUNT
    record.execution = json.loads(json.dumps(EXECUTION)) | {"backend": backend}
    return record


def write_repeat(folder: Path, change: Change | None = None, *cells: CellRecord, **environment: Any) -> Path:
    """A suite whose cells `change` may spoil."""
    folder.mkdir(parents=True)
    records = list(cells) or [finished()]
    for record in records:
        frame = samples()
        if change is not None:
            change(record, frame)
        write_cell(folder, record, frame)
    environment = MACHINE | {"git": {"commit": "c" * 40, "dirty": False}} | environment
    suite = SuiteRecord(
        id=folder.name, command="", status="ok", config_set={}, config={}, environment=environment, cells=records,
        started="now",
    )  # fmt: skip
    write_json(folder / "suite.json", suite)
    return folder


def timed(slower: float, change: Change | None = None) -> Change:
    def apply(record: CellRecord, frame: pd.DataFrame) -> None:
        frame["seconds"] *= slower
        if change is not None:
            change(record, frame)

    return apply


def side(folder: Path, slower: float = 1.0, change: Change | None = None, count: int = 3) -> Path:
    """A folder of process repeats, 1 % apart from each other."""
    for number in range(1, count + 1):
        write_repeat(folder / f"repeat-{number}", timed(slower * (1 + 0.01 * number), change))
    return folder


def judged(tmp_path: Path, slower: float = 1.0, change: Change | None = None, count: int = 3) -> GateReport:
    return gate(side(tmp_path / "base", count=count), side(tmp_path / "new", slower, change, count))


def only(report: GateReport) -> CellGate:
    (cell,) = report.cells
    return cell


def verdicts(report: GateReport) -> tuple[str, ...]:
    return tuple(check.verdict for check in only(report).checks)


def test_the_same_work_at_the_same_speed_passes(tmp_path: Path) -> None:
    report = judged(tmp_path)
    assert verdicts(report) == ("ok", "ok", "ok")
    assert (report.verdict, report.passed(strict=True)) == ("ok", True)
    assert "bit-identical" in only(report).quality.reasons[0]
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


def fail_cell(record: CellRecord, frame: pd.DataFrame) -> None:
    record.status, record.error = "failed", "out of | memory\n<b>"


def fail_samples(record: CellRecord, frame: pd.DataFrame) -> None:
    frame.loc[3:4, "failure"] = "non-finite gradient at step 2"


def cut(record: CellRecord, frame: pd.DataFrame) -> None:
    record.finished = COUNT - 1


def not_finite(record: CellRecord, frame: pd.DataFrame) -> None:
    frame.loc[5, "prediction"] = np.inf


def blank(record: CellRecord, frame: pd.DataFrame) -> None:
    frame.loc[4:6, "shift"] = -1


def fall_back(record: CellRecord, frame: pd.DataFrame) -> None:
    record.execution["networks"]["denoiser"]["dtype"] = "torch.float32"


def on_cpu(record: CellRecord, frame: pd.DataFrame) -> None:
    record.execution["device"] = "other"


def flag(record: CellRecord, frame: pd.DataFrame) -> None:
    record.timings["timing_flags"] = ["out of memory at 8 slots, continued with 4"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (fail_cell, "is failed (out of | memory <b>)"),
        (fail_samples, "2 samples have no counterfactual where BASE has one"),
        (cut, "holds 19 of 20 samples"),
        (not_finite, "prediction is not a finite number in 1 samples"),
        (blank, "2 saved images are of one single colour"),  # the third is so in BASE, too
        (fall_back, "another dtype of denoiser: torch.float32, BASE with torch.bfloat16"),
        (on_cpu, "another device: other, BASE with cpu"),
        (flag, "flagged: out of memory at 8 slots"),
    ],
)
def test_a_cell_that_is_not_correct_shows_no_speed(tmp_path: Path, change: Change, words: str) -> None:
    base = side(tmp_path / "base")
    new = side(tmp_path / "new", slower=0.5)
    shutil.rmtree(new / "repeat-2")
    write_repeat(new / "repeat-2", timed(0.5, change))  # one repeat is enough
    report = gate(base, new)
    assert verdicts(report) == ("failed", "skipped", "skipped")
    assert (report.verdict, report.passed()) == ("failed", False)
    (reason,) = only(report).correctness.reasons
    assert reason.startswith("repeat-2: ")
    assert words in reason
    assert only(report).speed.figures == []


def test_damaged_files_are_the_fault_of_their_side(tmp_path: Path) -> None:
    base, new = side(tmp_path / "base", count=1), side(tmp_path / "new", count=1)
    image = next(new.glob("*/*/images/7.png"))
    image.write_bytes(image.read_bytes()[:20])
    report = gate(base, new)
    assert verdicts(report)[0] == "failed"
    assert "7.png" in only(report).correctness.reasons[0]
    with pytest.raises(UsageError, match="BASE cannot be compared with"):
        gate(new, base)


def test_flags_of_both_sides_only_spoil_the_speed(tmp_path: Path) -> None:
    base, new = side(tmp_path / "base", change=flag), side(tmp_path / "new", 1.5, change=flag)
    report = gate(base, new)
    assert verdicts(report) == ("ok", "ok", "inconclusive")
    assert "timing flagged" in only(report).speed.figures[0].note


def test_options_of_the_backend_may_change_what_runs(tmp_path: Path) -> None:
    def other(record: CellRecord, frame: pd.DataFrame) -> None:
        fall_back(record, frame)
        record.options["compile"] = {"precision": "float32"}

    assert judged(tmp_path, change=other).verdict == "ok"


def test_missing_cells_fail_and_new_ones_are_listed(tmp_path: Path) -> None:
    base = write_repeat(tmp_path / "base", None, finished(), finished("diffae-re"))
    new = write_repeat(tmp_path / "new", None, finished(), finished("ac-re-gn"))
    report = gate(base, new)
    assert [(cell.added, cell.verdict) for cell in report.cells] == [
        (False, "inconclusive"), (False, "missing"), (True, "ok"),
    ]  # fmt: skip
    assert (report.verdict, report.passed()) == ("missing", False)
    assert "1 ok" in headline(report)
    broken = write_repeat(tmp_path / "broken", fail_cell, finished("ac-re-gn"))
    assert [cell.verdict for cell in gate(write_repeat(tmp_path / "one"), broken).cells] == ["missing", "failed"]
    half = side(tmp_path / "half", count=2)  # one process lacks it
    write_repeat(half / "repeat-3", None, finished("ac-re-gn"))
    assert gate(tmp_path / "one", half).verdict == "missing"


def test_a_cell_that_base_did_not_finish_is_missing(tmp_path: Path) -> None:
    report = gate(side(tmp_path / "base", change=fail_cell), side(tmp_path / "new"))
    assert report.verdict == "missing"
    assert "failed in BASE" in only(report).correctness.reasons[0]


def write_verification(folder: Path, verdict: str, method: str = "ac-re", commit: str = "c" * 40) -> Path:
    folder.mkdir(exist_ok=True)
    result = Verified(
        dataset="square", method=method, backend="compile", verdict=verdict, reasons=["denoiser: gradient | off\x1b"],
        networks=[], end_to_end=None,
    )  # fmt: skip
    environment = {"git": {"commit": commit}}
    record = VerifyRecord(command="", repeats=2, config={}, environment=environment, results=[result], started="now")
    write_json(folder / "verify.json", record)
    return folder


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


def real_repeat(networks: dict[str, nn.Module], folder: Path) -> None:
    folder.mkdir(parents=True)
    cell = tiny_cell(networks, "ac-re", count=4, metrics=MetricsConfig(noise_draws=0))
    try:
        record, _ = run_cell(cell, folder)
    except RunError:
        record = read_cell(folder / cell.id)
    suite = SuiteRecord(
        id=folder.name, command="", status="ok", config_set={}, config={}, environment=MACHINE, cells=[record],
        started="now",
    )  # fmt: skip
    write_json(folder / "suite.json", suite)


def test_searches_on_a_backend_that_became_slow_or_wrong(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real cells; the planted backends call themselves eager."""
    real_repeat(networks, tmp_path / "base")
    with monkeypatch.context() as patch:
        patch.setitem(BACKENDS, "eager", FAULTY["slow"])
        real_repeat(networks, tmp_path / "slow")
    slow = only(gate(tmp_path / "base", tmp_path / "slow"))
    assert (slow.correctness.verdict, slow.quality.verdict, slow.speed.verdict) == ("ok", "ok", "inconclusive")
    assert "bit-identical" in slow.quality.reasons[0]
    assert slow.speed.figures[0].value > 1.1
    with monkeypatch.context() as patch:
        patch.setitem(BACKENDS, "eager", FAULTY["overflowing"])
        real_repeat(networks, tmp_path / "infinite")
    wrong = only(gate(tmp_path / "base", tmp_path / "infinite"))
    assert (wrong.correctness.verdict, wrong.speed.verdict) == ("failed", "skipped")
    assert "every sample failed" in wrong.correctness.reasons[0]
