"""The gate's first check: planted faults of cells, files and backends are found, in any repeat."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from backends import BACKENDS
from bench.errors import RunError, UsageError
from bench.gate import gate
from bench.record import CellRecord, SuiteRecord, read_cell, write_json
from bench.sections import MetricsConfig
from reports.gate_report import headline
from tests.faulty_backends import FAULTY
from tests.gate_sides import (
    COUNT,
    Change,
    fail_cell,
    fall_back,
    finished,
    flag,
    judged,
    kill_cell,
    only,
    side,
    timed,
    verdicts,
    write_repeat,
)
from tests.test_compare import MACHINE
from tests.tiny_cell import run_cell, tiny_cell


def fail_samples(record: CellRecord, frame: pd.DataFrame) -> None:
    frame.loc[3:4, "failure"] = "non-finite gradient at step 2"


def cut(record: CellRecord, frame: pd.DataFrame) -> None:
    record.finished = COUNT - 1


def not_finite(record: CellRecord, frame: pd.DataFrame) -> None:
    frame.loc[5, "prediction"] = np.inf


def blank(record: CellRecord, frame: pd.DataFrame) -> None:
    frame.loc[4:6, "shift"] = -1


def on_cpu(record: CellRecord, frame: pd.DataFrame) -> None:
    record.execution["device"] = "other"


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


@pytest.mark.parametrize("name", ["samples.parquet", "images/7.png"])
def test_every_repeat_of_base_has_to_be_readable(tmp_path: Path, name: str) -> None:
    base, new = side(tmp_path / "base"), side(tmp_path / "new")
    next(base.glob(f"repeat-2/*/{name}")).unlink()
    with pytest.raises(UsageError, match=f"BASE cannot be compared with: .*repeat-2.*{name}"):
        gate(base, new)


def test_predictions_of_base_that_are_not_finite_are_told_without_warnings(tmp_path: Path) -> None:
    def moved(record: CellRecord, frame: pd.DataFrame) -> None:
        frame["shift"] = 1

    base = side(tmp_path / "base", change=not_finite)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert verdicts(gate(base, side(tmp_path / "new", change=moved)))[0] == "ok"
        assert verdicts(gate(side(tmp_path / "finite"), base))[0] == "failed"


def test_a_killed_cell_is_known_though_its_suite_lacks_it(tmp_path: Path) -> None:
    whole, killed = side(tmp_path / "whole"), side(tmp_path / "killed")
    kill_cell(killed / "repeat-2", 5)
    report = gate(whole, killed)
    assert only(report).correctness.reasons == ["repeat-2: is running"]
    assert report.verdict == "failed"
    kill_cell(killed / "repeat-1", 5)
    report = gate(killed, whole)
    assert (report.verdict, only(report).added) == ("missing", False)
    assert "it is running in BASE" in only(report).correctness.reasons[0]


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


def real_repeat(networks: dict[str, nn.Module], folder: Path) -> None:
    folder.mkdir(parents=True)
    cell = tiny_cell(networks, "ac-re", count=4, metrics=MetricsConfig(noise_draws=0))
    try:
        record, _ = run_cell(cell, folder)
    except RunError:
        record = read_cell(folder / cell.id)
    suite = SuiteRecord(
        id=folder.name, command="", status="ok", config_set={}, config={}, environment=MACHINE, cells=[record],
        started=record.started,
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
