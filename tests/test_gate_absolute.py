"""The gate where nothing can be compared: what is wrong with NEW whatever it is compared with."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.compare import NotComparable
from bench.gate import GateReport, gate, gate_alone
from bench.record import CellRecord
from tests.gate_sides import COUNT, Change, side, write_repeat


def every_sample_failed(record: CellRecord, frame: pd.DataFrame) -> None:
    frame["failure"] = "non-finite gradient at step 2"


def one_sample_failed(record: CellRecord, frame: pd.DataFrame) -> None:
    frame.loc[3, "failure"] = "non-finite gradient at step 2"


def black(record: CellRecord, frame: pd.DataFrame) -> None:
    frame["shift"] = -1


def not_finite(record: CellRecord, frame: pd.DataFrame) -> None:
    frame["prediction"] = np.nan


def cut_off(record: CellRecord, frame: pd.DataFrame) -> None:
    record.status = "interrupted"


def other_options(record: CellRecord, frame: pd.DataFrame) -> None:
    record.options["ac-re"] = {"depth": 4}


BROKEN = [
    (every_sample_failed, f"none of {COUNT} samples has a counterfactual (non-finite gradient at step 2)"),
    (black, f"all {COUNT} saved images are of one single colour"),
    (not_finite, f"prediction is not a finite number in {COUNT} samples"),
    (cut_off, "is interrupted"),
]


def reasons(report: GateReport) -> str:
    assert not report.passed()
    return "; ".join(reason for cell in report.cells for reason in cell.correctness.reasons)


@pytest.mark.parametrize(("change", "words"), BROKEN)
def test_what_is_broken_from_the_first_night_on(tmp_path: Path, change: Change, words: str) -> None:
    """With a BASE that is as broken, without one, and with one that cannot be compared with."""
    new = side(tmp_path / "new", change=change, count=2)
    assert words in reasons(gate_alone(new))
    report = gate(side(tmp_path / "other", change=other_options, count=1), new)
    assert words in reasons(report) and "they differ in" in report.notes[0]
    if change is not cut_off:  # a BASE that did not finish is missing
        assert words in reasons(gate(side(tmp_path / "base", change=change, count=1), new))


def test_what_is_whole_passes_alone_and_speed_is_not_judged(tmp_path: Path) -> None:
    report = gate_alone(side(tmp_path / "new", change=one_sample_failed))
    assert report.passed(strict=True) and report.verdict == "ok"
    assert [check.verdict for check in report.cells[0].checks] == ["ok", "skipped", "skipped"]
    assert report.new_repeats == ["repeat-1", "repeat-2", "repeat-3"] and "no BASE" in report.notes[0]
    with pytest.raises(NotComparable, match="options of ac-re"):
        gate(side(tmp_path / "base", change=other_options), tmp_path / "new")


def test_one_broken_repeat_is_enough(tmp_path: Path) -> None:
    new = side(tmp_path / "new")
    shutil.rmtree(new / "repeat-2")
    write_repeat(new / "repeat-2", one_sample_failed)
    assert "repeat-2: 1 samples have no counterfactual" in reasons(gate_alone(new))
    image = next((new / "repeat-3").glob("*/images/7.png"))
    image.write_bytes(image.read_bytes()[:20])
    assert "7.png" in reasons(gate_alone(new))


def test_repeats_have_to_be_of_one_command(tmp_path: Path) -> None:
    new = side(tmp_path / "new", count=2)
    write_repeat(new / "repeat-3", other_options)
    with pytest.raises(NotComparable, match="options of ac-re"):
        gate_alone(new)
