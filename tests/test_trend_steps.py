"""Steps of figures over nights: where they are, what is none, and what is told of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.record import CellRecord
from methods.noise import numpy_generator
from reports.trend import messages, read_trend
from reports.trend_page import RULE
from reports.trend_steps import find_steps
from tests.nights import (  # noqa: F401
    BUILD,
    ERROR,
    MACHINE,
    SECONDS,
    chart,
    figures,
    nights_fixture,
    small_fixture,
    table,
    write_night,
)


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
        changes: dict[str, Any] = {}
        if night == 5:
            changes = {"timings": cell.timings | {"timing_flags": ["throttled"]}, "execution": {"flags": ["hot"]}}
            changes["sessions"] = 2
        again = figures(cell, {SECONDS: 1.0 if night < 3 else 0.5, ERROR: 0.1 if night < 3 else 0.2}, **changes)
        write_night(tmp_path / f"n{night}", [again], config, night)
    trend = read_trend([tmp_path])
    assert [change.metric.key for change in trend.changes] == [ERROR]
    found = next(found for found in trend.latest if found.metric.key == SECONDS)
    assert not found.latest.trusted and found.best is not None and found.best.night is trend.nights[3]
    flags = [f"{cell.id}: {flag}" for flag in ("throttled", "hot", "resumed: rates are those of the last session")]
    assert table(trend, "nights-table")[0]["timings flagged"] == "; ".join(flags)


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
        ([0.5] * 5 + [0.5 + 1e-12] * 5, []),  # rounding, which no figure shows
        ([0.5] * 5 + [0.5004] * 5, []),
        ([0.5] * 5 + [0.501] * 5, [5]),
        ([-0.5] * 5 + [-0.501] * 5, [5]),
        ([0] * 5 + [1e-6] * 5, [5]),  # of nothing, everything is visible
        ([], []),
    ],
)
def test_steps(values: list[float], indices: list[int]) -> None:
    assert [step.index for step in find_steps(values)] == indices
    assert "medians differ by 0.1 % or more" in RULE


def test_steps_are_seldom_false_and_large_ones_are_found() -> None:
    generator = numpy_generator("trend steps")
    steady = generator.normal(size=(1000, 30))
    assert np.mean([bool(find_steps(line)) for line in steady]) < 0.01
    raised = steady[:200] + 10 * (np.arange(30) >= 15)
    assert np.mean([15 in [step.index for step in find_steps(line)] for line in raised]) > 0.95
