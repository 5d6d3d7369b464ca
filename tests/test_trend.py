"""Figures over nights: what is one line, one night and a gap, and what is left out or listed."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.record import CellRecord, Journal, write_json
from reports.trend import messages, read_trend, to_json
from reports.trend_page import render_trend
from reports.trend_records import machine_of
from tests.nights import (  # noqa: F401
    BUILD,
    COMMITS,
    ERROR,
    MACHINE,
    SECONDS,
    chart,
    figures,
    nights_fixture,
    only,
    small_fixture,
    table,
    write_night,
)


def test_a_cell_is_one_line_whatever_its_versions(small: tuple[CellRecord, dict[str, Any]], tmp_path: Path) -> None:
    cell, config = small
    write_night(tmp_path / "n0", [cell], config, 0)
    newer = cell.model_copy(update={"facts": cell.facts | {"torch": "9.9", "version": "7"}, "fingerprint": "other"})
    write_night(tmp_path / "deep" / "er" / "n1", [newer], config, 1, COMMITS[1])
    line = only(read_trend([tmp_path]))
    assert [point.night.code.short for point in line.points(SECONDS)] == ["aaaaaaa", "bbbbbbb"]
    first = line.points(SECONDS)[0]
    recorded = cell.summary[SECONDS]
    assert (first.value, first.low, first.high) == (recorded.value, recorded.low, recorded.high)


def test_other_options_and_other_machines_are_other_lines(
    small: tuple[CellRecord, dict[str, Any]], tmp_path: Path
) -> None:
    cell, config = small
    options = cell.facts["options"] | {"ac-re": cell.facts["options"]["ac-re"] | {"max_steps": 77}}
    longer = cell.model_copy(update={"facts": cell.facts | {"options": options}})
    judged = cell.model_copy(update={"judged": cell.judged | {"metrics": cell.judged["metrics"] | {"mode": "paper"}}})
    write_night(tmp_path / "n0", [cell], config, 0)
    write_night(tmp_path / "n1", [longer], config, 1)
    write_night(tmp_path / "n2", [judged], config, 2)
    write_night(tmp_path / "n3", [cell], config, 3, environment=MACHINE | {"cores": 96})
    trend = read_trend([tmp_path])
    assert len(trend.lines) == 4 and len(trend.machines) == 2
    labels = [line.label for line in trend.lines if line.machine == trend.machines[0]]
    assert labels == [
        "ac-re, eager, max_steps=8, mode=corrected",
        "ac-re, eager, max_steps=77, mode=corrected",
        "ac-re, eager, max_steps=8, mode=paper",
    ]
    # Nothing joins machines: each has charts of its own, with its own nights.
    assert [len(chart(trend, "seconds per counterfactual", machine).choices["ac-re"]) for machine in (0, 1)] == [3, 1]


def test_a_machine_is_its_hardware(tmp_path: Path) -> None:
    gpu = {"name": "NVIDIA L4", "memory_mib": 23034, "cuda": "12.8"}
    one = machine_of(MACHINE | {"device": "cuda:0", "gpu": gpu})
    assert one == "NVIDIA L4 (23034 MiB), test processor, 2 cores, 1 thread"
    assert machine_of(MACHINE | {"device": "cuda", "gpu": gpu | {"cuda": "13.0"}}) == one
    assert machine_of(MACHINE | {"device": "cuda", "gpu": gpu | {"name": "NVIDIA H100"}}) != one
    assert machine_of({}) == "unknown processor, cores not recorded, threads not recorded, device not recorded"


def test_repeats_of_a_night_are_one_point(small: tuple[CellRecord, dict[str, Any]], tmp_path: Path) -> None:
    cell, config = small
    for repeat, seconds in enumerate([1.0, 1.4, 1.1]):
        write_night(tmp_path / f"repeat-{repeat}", [figures(cell, {SECONDS: seconds})], config, repeat / 24)
    write_night(tmp_path / "later", [figures(cell, {SECONDS: 3.0})], config, 0.6)
    write_night(tmp_path / "other", [figures(cell, {SECONDS: 4.0})], config, 0.65, COMMITS[1])
    write_night(tmp_path / "dirty", [figures(cell, {SECONDS: 5.0})], config, 0.7, COMMITS[1], dirty=True)
    shutil.copytree(tmp_path / "later", tmp_path / "copy of later")
    points = only(read_trend([tmp_path, tmp_path / "other"])).points(SECONDS)
    assert [(point.value, point.low, point.high, point.repeats) for point in points] == [
        (1.1, 1.0, 1.4, 3),
        (3.0, None, None, 1),
        (4.0, None, None, 1),
        (5.0, None, None, 1),
    ]
    assert [point.night.code.short for point in points][2:] == ["bbbbbbb", "bbbbbbb+dirty"]


def test_changes_of_commit_are_marked(nights: Path) -> None:
    trend = read_trend([nights])
    marked = chart(trend, "seconds per counterfactual")
    assert [(mark.x, mark.text) for mark in marked.marks] == [(trend.nights[6].time, "bbbbbbb")]
    assert marked.x.date and [len(series.points) for series in marked.choices["ac-re"]] == [10]


@pytest.mark.parametrize("what", ["failed", "interrupted", "not begun", "killed", "killed in a cell"])
def test_a_night_without_a_figure_is_a_gap_and_is_listed(
    what: str, small: tuple[CellRecord, dict[str, Any]], tmp_path: Path
) -> None:
    cell, config = small
    onnx = cell.model_copy(update={"id": "toy--ac-re--onnx--s0", "backend": "onnx"})
    onnx.facts = cell.facts | {"backend": "onnx"}
    both = config | {"backend": ["eager", "onnx"]}
    for night in (0, 1, 3):
        write_night(tmp_path / f"n{night}", [cell, onnx], both, night)
    broken = onnx.model_copy(
        update={"status": "interrupted" if what == "interrupted" else "failed", "error": "no disk"}
    )
    cells = {"not begun": [cell], "killed": [], "killed in a cell": [cell]}.get(what, [cell, broken])
    status = {"failed": "failed", "killed": "running", "killed in a cell": "running"}.get(what, "interrupted")
    write_night(tmp_path / "n2", cells, both, 2, status=status)
    if what == "killed in a cell":  # its suite does not know the cell yet
        (tmp_path / "n2" / onnx.id).mkdir()
        running = onnx.model_copy(update={"status": "running", "finished": 0})  # as it is written at the cell's start
        write_json(tmp_path / "n2" / onnx.id / "result.json", running)
        for name in "ab":
            Journal(tmp_path / "n2" / onnx.id / "samples.jsonl").append({"id": name})
    trend = read_trend([tmp_path])
    series = chart(trend, "seconds per counterfactual").choices["ac-re"]
    drawn = {one.name: [math.isfinite(value) for _, value, _, _ in one.points] for one in series}
    gap = [True, True, False, True]
    assert drawn == {"eager": gap if what == "killed" else [True] * 4, "onnx": gap}
    assert series[1].points[2][0] == trend.nights[2].time
    row = table(trend, "nights-table")[1]
    assert ("was not begun" in row["missing"]) == (what in ("not begun", "killed"))
    assert row["missing"] in "; ".join(trend.nights[2].unfinished) and "onnx" in row["missing"]
    if what == "killed in a cell":
        assert row["missing"] == f"{onnx.id} did not finish: 2 of 3 samples"
    elif what in ("failed", "interrupted"):
        assert row["missing"] == f"{onnx.id} did not finish: 3 of 3 samples ({what}: no disk)"
    assert row["finished cells"] == {"killed": "0 of 2"}.get(what, "1 of 2")
    assert any("missing" in message and "onnx" in message for message in messages(trend))
    assert b"is incomplete" not in render_trend(trend)  # the latest night is whole
    write_night(tmp_path / "n4", cells, both, 4, status=status)
    again = read_trend([tmp_path])
    assert b"is incomplete" in render_trend(again)
    assert next(found.stale for found in again.latest if found.line.backend == "onnx")


def test_a_metric_that_is_defined_otherwise_is_another_series(
    small: tuple[CellRecord, dict[str, Any]], tmp_path: Path
) -> None:
    cell, config = small
    for night, name in enumerate(["old", "old", "new"]):
        again = figures(cell, {ERROR: 0.1 * (night + 1)}, definitions={ERROR: {"fingerprint": name}})
        write_night(tmp_path / f"n{night}", [again], config, night)
    trend = read_trend([tmp_path])
    series = chart(trend, "|oracle − target|").choices["ac-re"]
    assert [(one.name, len(one.points)) for one in series] == [("eager (defined otherwise)", 2), ("eager", 1)]
    found = next(found for found in trend.latest if found.metric.key == ERROR)
    assert found.previous is None and found.change is None


def test_of_a_backend_that_computes_nothing_only_times_are_shown(
    small: tuple[CellRecord, dict[str, Any]], tmp_path: Path
) -> None:
    cell, config = small
    write_night(tmp_path / "n0", [cell.model_copy(update={"notes": {"backend": "does not compute"}})], config, 0)
    assert {key.partition("/")[0] for key in only(read_trend([tmp_path])).metrics} == {"throughput", "timings"}


def test_what_cannot_be_read_is_listed(nights: Path, small: tuple[CellRecord, dict[str, Any]]) -> None:
    damaged = nights / "broken"
    damaged.mkdir()
    (damaged / "suite.json").write_text('{"id": "<b>')
    clockless = write_night(nights / "clockless", [small[0]], small[1], 3)
    suite = json.loads((clockless / "suite.json").read_text())
    (clockless / "suite.json").write_text(json.dumps(suite | {"started": "yesterday"}))
    trend = read_trend([nights])
    assert {unread.path for unread in trend.unread} == {damaged, clockless}
    assert b"2 records cannot be read" in render_trend(trend)
    assert sum(message.startswith("unread") for message in messages(trend)) == 2


def test_a_damaged_cell_is_listed_and_its_suite_is_shown_all_the_same(
    small: tuple[CellRecord, dict[str, Any]], tmp_path: Path
) -> None:
    cell, config = small
    night = write_night(tmp_path / "n0", [cell], config, 0)
    (night / cell.id).mkdir()
    (night / cell.id / "result.json").write_text("{")
    trend = read_trend([tmp_path])
    assert len(only(trend).points(SECONDS)) == 1
    assert [(unread.path, "result.json is damaged" in unread.reason) for unread in trend.unread] == [(night, True)]


def test_a_cell_that_left_only_its_journal_was_begun(small: tuple[CellRecord, dict[str, Any]], tmp_path: Path) -> None:
    cell, config = small
    folder = write_night(tmp_path / "n0", [cell], config | {"backend": ["eager", "onnx"]}, 0, status="running")
    journal = Journal(folder / f"toy--ac-re--onnx--s{config['seed']}" / "samples.jsonl")
    journal.path.parent.mkdir()
    journal.append({"id": "a"})
    (night,) = read_trend([tmp_path]).nights
    assert night.unfinished == ["toy--ac-re--onnx did not finish: 1 samples, and no record"]
    journal.path.write_text("damaged\n" + journal.path.read_text())
    trend = read_trend([tmp_path])
    assert ["line 1 is damaged" in unread.reason for unread in trend.unread] == [True]
    assert len(only(trend).points(SECONDS)) == 1


def test_suites_of_verify_and_of_suites_are_left_out(nights: Path, small: tuple[CellRecord, dict[str, Any]]) -> None:
    write_night(nights / "check" / "candidate", [small[0]], small[1], 20, verb="verify")
    write_night(nights / "n0" / "inside", [small[0]], small[1], 21)
    assert len(read_trend([nights]).nights) == 10


def test_figures_that_are_no_numbers_are_left_out(small: tuple[CellRecord, dict[str, Any]], tmp_path: Path) -> None:
    cell, config = small
    path = write_night(tmp_path / "n0", [figures(cell, {BUILD: 12345.5, SECONDS: 54321.5})], config, 0) / "suite.json"
    path.write_text(path.read_text().replace("12345.5", "NaN").replace("54321.5", "Infinity"))
    line = only(read_trend([tmp_path]))
    assert line.metrics and BUILD not in line.metrics and SECONDS not in line.metrics
    assert json.dumps(to_json(read_trend([tmp_path])), allow_nan=False)
