"""Figures over nights: what is one line, one night, a gap and a step, and how the command line tells it."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import UsageError
from bench.record import CellRecord, write_json
from methods.noise import numpy_generator
from reports.pages.blocks import Lines, TableBlock
from reports.trend import Trend, messages, read_trend, to_json
from reports.trend_page import render_trend, sections
from reports.trend_records import machine_of
from reports.trend_steps import find_steps
from tests.nights import COMMITS, MACHINE, figures, small_cell, write_night

SECONDS, ERROR, BUILD = "throughput/seconds_per_image", "validity/oracle_target_mae", "timings/build_s"
JITTER = [0.01, -0.02, 0.0, 0.015, -0.01, 0.02, -0.005, 0.01, -0.015, 0.005]


@pytest.fixture(scope="module")
def small(
    networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> tuple[CellRecord, dict[str, Any]]:
    return small_cell(networks, tmp_path_factory.mktemp("cell"))


@pytest.fixture
def nights(small: tuple[CellRecord, dict[str, Any]], tmp_path: Path) -> Path:
    """Ten nights, of which the last four, with another commit, take twice the time."""
    cell, config = small
    for night, noise in enumerate(JITTER):
        factor, commit = (1.0, COMMITS[0]) if night < 6 else (2.0, COMMITS[1])
        again = figures(cell, {SECONDS: factor * (1 + noise), ERROR: 0.1 + 0.01 * noise})
        write_night(tmp_path / "nights" / f"n{night}", [again], config, night, commit)
    return tmp_path / "nights"


def only(trend: Trend) -> Any:
    """The one line of a trend."""
    assert len(trend.lines) == 1, [line.label for line in trend.lines]
    return trend.lines[0]


def chart(trend: Trend, title: str, machine: int = 0) -> Lines:
    blocks = [block for section in sections(trend) for block in section.blocks]
    return [block for block in blocks if isinstance(block, Lines) and block.title == title][machine]


def table(trend: Trend, identity: str) -> list[dict[str, Any]]:
    blocks = [block for section in sections(trend) for block in section.blocks]
    found = next(block.table for block in blocks if isinstance(block, TableBlock) and block.id == identity)
    return [dict(zip([column.heading for column in found.columns], row, strict=True)) for row in found.rows]


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


@pytest.mark.parametrize("what", ["failed", "interrupted", "not begun", "killed"])
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
    cells = {"not begun": [cell], "killed": []}.get(what, [cell, broken])
    status = {"failed": "failed", "killed": "running"}.get(what, "interrupted")
    write_night(tmp_path / "n2", cells, both, 2, status=status)
    trend = read_trend([tmp_path])
    series = chart(trend, "seconds per counterfactual").choices["ac-re"]
    drawn = {one.name: [math.isfinite(value) for _, value, _, _ in one.points] for one in series}
    gap = [True, True, False, True]
    assert drawn == {"eager": gap if what == "killed" else [True] * 4, "onnx": gap}
    assert series[1].points[2][0] == trend.nights[2].time
    row = table(trend, "nights-table")[1]
    assert row["missing"] in "; ".join(trend.nights[2].unfinished) and "onnx" in row["missing"]
    assert row["finished cells"] == {"killed": "0 of 2"}.get(what, "1 of 2")
    assert any("missing" in message and "onnx" in message for message in messages(trend))
    assert b"is incomplete" not in render_trend(trend)  # the latest night is whole
    write_night(tmp_path / "n4", cells, both, 4, status=status)
    again = read_trend([tmp_path])
    assert b"is incomplete" in render_trend(again)
    assert next(found.stale for found in again.latest if found.line.backend == "onnx")


def test_a_step_names_the_commits_between_which_it_happened(nights: Path) -> None:
    trend = read_trend([nights])
    assert [(change.metric.key, change.verdict) for change in trend.changes] == [(SECONDS, "worse")]
    row = table(trend, "steps-table")[0]
    assert row["commit"] == "bbbbbbb" and row["last commit before"] == "aaaaaaa"
    assert row["first night (UTC)"] == "2026-10-07 02:00" and row["changed besides"] == "nothing recorded"
    assert row["change"].value == pytest.approx(100, rel=0.05)
    assert "Steps: 2026-10-07 with bbbbbbb (ac-re, eager)." in chart(trend, "seconds per counterfactual").alt
    assert any(message.startswith("step") and "bbbbbbb, after aaaaaaa" in message for message in messages(trend))


def test_a_step_without_a_change_of_commit_says_so(small: tuple[CellRecord, dict[str, Any]], tmp_path: Path) -> None:
    cell, config = small
    for night in range(6):
        packages = {"packages": {"torch": "2.15.0" if night < 3 else "2.16.0"}}
        again = figures(cell, {SECONDS: (1 if night < 3 else 0.5) + 0.001 * night})
        write_night(tmp_path / f"n{night}", [again], config, night, environment=MACHINE | packages)
    trend = read_trend([tmp_path])
    row = table(trend, "steps-table")[0]
    assert (row["verdict"], row["commit"]) == ("better", "no change of commit")
    assert row["changed besides"] == "torch 2.15.0 to 2.16.0"
    assert any("without a change of commit" in message for message in messages(trend))


def test_flagged_timings_are_told_and_take_no_part_in_steps(
    small: tuple[CellRecord, dict[str, Any]], tmp_path: Path
) -> None:
    cell, config = small
    for night in range(6):
        changes = {} if night < 5 else {"timings": cell.timings | {"timing_flags": ["throttled"]}}
        again = figures(cell, {SECONDS: 1.0 if night < 3 else 0.5, ERROR: 0.1 if night < 3 else 0.2}, **changes)
        write_night(tmp_path / f"n{night}", [again], config, night)
    trend = read_trend([tmp_path])
    assert [change.metric.key for change in trend.changes] == [ERROR]
    found = next(found for found in trend.latest if found.metric.key == SECONDS)
    assert not found.latest.trusted and found.best is not None and found.best.night is trend.nights[3]
    assert "throttled" in table(trend, "nights-table")[0]["timings flagged"]


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


def test_a_change_is_relative_to_the_night_before(small: tuple[CellRecord, dict[str, Any]], tmp_path: Path) -> None:
    cell, config = small
    for night, (seconds, build) in enumerate([(3.0, 0.0), (2.0, 0.0), (2.5, 1.0)]):
        write_night(tmp_path / f"n{night}", [figures(cell, {SECONDS: seconds, BUILD: build})], config, night)
    found = {found.metric.key: found for found in read_trend([tmp_path]).latest}
    assert found[SECONDS].change == pytest.approx(25)
    assert found[SECONDS].best is not None and found[SECONDS].best.value == 2.0
    assert found[BUILD].change is None  # of nothing


@pytest.mark.parametrize(
    ("values", "indices"),
    [
        ([1, 1, 1, 2, 2, 2], [3]),
        ([1, 1, 2, 2, 2, 2], []),  # two nights before it are too few
        ([1, 1, 1, 2, 2], []),
        ([1.0, 1.1, 0.9, 1.0, 1.4, 1.5, 1.3, 1.4], []),  # apart, but not by more than they spread
        ([1.0, 1.1, 0.9, 1.0, 2.4, 2.5, 2.3, 2.4], [4]),
        (list(range(12)), []),  # a drift
        ([1, 1, 1, 9, 1, 1, 1], []),  # one bad night
        ([1] * 6 + [2] * 6 + [1] * 6, [6, 12]),
        ([], []),
    ],
)
def test_steps(values: list[float], indices: list[int]) -> None:
    assert [step.index for step in find_steps(values)] == indices


def test_steps_are_seldom_false_and_large_ones_are_found() -> None:
    generator = numpy_generator("trend steps")
    steady = generator.normal(size=(1000, 30))
    assert np.mean([bool(find_steps(line)) for line in steady]) < 0.01
    raised = steady[:200] + 10 * (np.arange(30) >= 15)
    assert np.mean([15 in [step.index for step in find_steps(line)] for line in raised]) > 0.95


def test_the_command_writes_the_page_and_prints_the_latest_figures(nights: Path, tmp_path: Path) -> None:
    page = tmp_path / "out" / "trend.html"
    options = [str(nights), "-o", str(page), "--json", "--metric", SECONDS, "--metric", BUILD]
    done = CliRunner().invoke(app, ["trend", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "2.01 (+2.0 %)" in done.output and "step     ac-re, eager" in done.output
    told = json.loads(done.output.splitlines()[-1])
    figures_told = told["lines"][0]["metrics"]
    assert list(figures_told) == [SECONDS, BUILD] and len(figures_told[SECONDS]["nights"]) == 10
    assert told["steps"][0]["first"]["commit"] == COMMITS[1]
    text = page.read_text()
    assert "seconds per counterfactual" in text and "success rate" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text


def test_without_a_folder_it_reads_the_runs(nights: Path) -> None:
    done = CliRunner().invoke(app, ["trend", "--runs", str(nights)], catch_exceptions=False)
    assert done.exit_code == 0 and (nights / "trend.html").is_file()


def test_refusals(small: tuple[CellRecord, dict[str, Any]], nights: Path, tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        with pytest.raises(UsageError) as error:
            CliRunner().invoke(app, ["trend", *options], catch_exceptions=False)
        return str(error.value)

    assert "did you mean 'throughput/seconds_per_image'?" in refused(str(nights), "--metric", "seconds_per_image")
    assert "nowhere is not a folder" in refused(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "no suite in" in refused(str(tmp_path / "empty"))
    assert "--output" in refused(str(nights), "-o", str(nights))
    assert "--uri needs --mlflow" in refused(str(nights), "--uri", "sqlite://")
    failed = small[0].model_copy(update={"status": "failed", "error": "out of memory"})
    write_night(tmp_path / "failed" / "n0", [failed], small[1], 0, status="failed")
    assert "out of memory" in refused(str(tmp_path / "failed"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "suite.json").write_text("{")
    assert "not a record" in refused(str(tmp_path / "bad"))


def test_an_experiment_gives_the_same_trend(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    from bench.sections import TrackingConfig
    from bench.tracking import Tracker

    runs = tmp_path / "runs"
    cell, config = small_cell(networks, tmp_path / "cell")
    tracker = Tracker(runs, TrackingConfig(experiment="nightly"))
    for night, factor in enumerate((1.0, 1.5)):
        folder = write_night(runs / f"n{night}", [figures(cell, {SECONDS: factor})], config, night, COMMITS[night])
        shutil.copytree(tmp_path / "cell" / cell.id, folder / cell.id)
        write_json(folder / cell.id / "result.json", figures(cell, {SECONDS: factor}))
        tracker.import_suite(folder)
    expected = to_json(read_trend([runs]))
    options = ["--mlflow", "nightly", "--runs", str(runs), "-o", str(tmp_path / "trend.html"), "--json"]
    done = CliRunner().invoke(app, ["trend", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1]) == expected
    # A night that is in a folder, too, is still one.
    both = CliRunner().invoke(app, ["trend", str(runs), *options], catch_exceptions=False)
    assert json.loads(both.output.splitlines()[-1]) == expected
