"""Comparison of records and of backends: planted slowdowns and losses are found, noise is not."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import nn
from typer.testing import CliRunner

from backends import BACKENDS
from bench.cli import app
from bench.compare import Comparison, NotComparable, compare_records
from bench.errors import UsageError
from bench.interleave import WARM_UP, interleave, interleaved, summarise
from bench.record import CellRecord, SuiteRecord, read_suite, write_json
from bench.sections import VerifyConfig
from methods.base import Batch, Method, StepResult
from methods.noise import numpy_normal
from tests.conftest import CPU, toy_samples
from tests.faulty_backends import FAULTY
from tests.test_cli import bench, sentence

MACHINE = {"cpu": "test", "cores": 2, "threads": 1, "device": "cpu"}
COUNT = 400


def cell_record(method: str, backend: str, seed: int = 0) -> CellRecord:
    facts = {
        "dataset": "square", "data": "d", "method": method, "backend": backend, "seed": seed, "batch_size": 8,
        "noise": "n", "weights": {"regressor": "r"},
    }  # fmt: skip
    return CellRecord(
        id=f"square--{method}--{backend}--s{seed}", dataset="square", method=method, backend=backend, seed=seed,
        status="ok", fingerprint="f", facts=facts, samples=COUNT, finished=COUNT, started="now",
        options={"square": {"target": "mirror"}, method: {"depth": 5}, backend: {}},
    )  # fmt: skip


def samples(slower: float = 1.0, worse: float = 1.0, invalid: int = 0, jitter: int | None = None) -> pd.DataFrame:
    """A cell's table, with planted factors; `jitter` is the seed of 2 % noise on the times."""
    seconds = 1 + 0.3 * np.abs(numpy_normal(21, (COUNT,)))
    if jitter is not None:
        seconds = seconds * (1 + 0.02 * numpy_normal(jitter, (COUNT,)))
    error = 0.05 + 0.02 * np.abs(numpy_normal(22, (COUNT,)))
    valid = np.arange(COUNT) < 360 - invalid
    columns = {"oracle_target_mae": error * worse, "square_mae": error, "background_mae": error / 10}
    return pd.DataFrame(
        {"id": [f"s{i}" for i in range(COUNT)], "seconds": seconds * slower, "valid": valid.astype(float), **columns}
    )


def write_suite(folder: Path, cells: list[tuple[CellRecord, pd.DataFrame]], **environment: Any) -> Path:
    for record, frame in cells:
        (folder / record.id).mkdir(parents=True, exist_ok=True)
        frame.to_parquet(folder / record.id / "samples.parquet", index=False)
        write_json(folder / record.id / "result.json", record)
    suite = SuiteRecord(
        id=folder.name, command="", status="ok", config_set={}, config={}, environment=MACHINE | environment,
        cells=[record for record, _ in cells], started="now",
    )  # fmt: skip
    write_json(folder / "suite.json", suite)
    return folder


def rewrite_suite(folder: Path, suite: SuiteRecord) -> None:
    """Write a suite that was changed, with its cells."""
    write_json(folder / "suite.json", suite)
    for record in suite.cells:
        write_json(folder / record.id / "result.json", record)


def compared(tmp_path: Path, new: pd.DataFrame, base: pd.DataFrame | None = None) -> Comparison:
    first = samples() if base is None else base
    theirs = write_suite(tmp_path / "base", [(cell_record("ac-re", "eager"), first)])
    ours = write_suite(tmp_path / "new", [(cell_record("ac-re", "compile"), new)])
    return compare_records(theirs, ours, 1.05, VerifyConfig())


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {metric.name: metric.verdict for metric in comparison.cells[0].metrics}


def test_the_same_figures_are_ok(tmp_path: Path) -> None:
    found = compared(tmp_path, samples(jitter=23))
    assert set(verdicts(found).values()) == {"ok"}
    assert found.verdict == "ok"
    assert {"seconds per valid", "seconds per image", "success rate", "square MAE"} <= verdicts(found).keys()


def test_a_slowdown_and_a_speedup_are_found_with_their_factor(tmp_path: Path) -> None:
    slower = compared(tmp_path / "1", samples(slower=1.3, jitter=23))
    assert (slower.verdict, verdicts(slower)["seconds per valid"]) == ("regressed", "regressed")
    metric = slower.cells[0].metrics[0]
    assert metric.low < 1.3 < metric.high
    assert metric.low > 1.25
    assert metric.base == pytest.approx(samples()["seconds"].sum() / 360)
    faster = compared(tmp_path / "2", samples(slower=0.5, jitter=23))
    assert (faster.verdict, verdicts(faster)["seconds per valid"]) == ("improved", "improved")


def test_a_slowdown_near_the_tolerance_decides_nothing(tmp_path: Path) -> None:
    noisy = samples(slower=1.05)
    noisy["seconds"] *= 1 + 0.3 * np.abs(numpy_normal(24, (COUNT,))) - 0.3 * np.sqrt(2 / np.pi)
    assert verdicts(compared(tmp_path, noisy))["seconds per image"] == "inconclusive"


def test_lost_quality_is_a_regression_however_fast(tmp_path: Path) -> None:
    fewer = compared(tmp_path / "1", samples(slower=0.3, invalid=30))
    assert fewer.verdict == "regressed"
    assert verdicts(fewer)["success rate"] == "regressed"
    assert verdicts(fewer)["seconds per valid"] == "improved"
    worse = compared(tmp_path / "2", samples(worse=1.05))
    assert verdicts(worse)["oracle target error"] == "regressed"
    assert verdicts(worse)["square MAE"] == "ok"


def test_few_images_decide_nothing(tmp_path: Path) -> None:
    found = compared(tmp_path, samples(slower=3).head(6), samples().head(6))
    assert set(verdicts(found).values()) == {"inconclusive"}


def test_flagged_timings_decide_nothing_about_speed(tmp_path: Path) -> None:
    base = write_suite(tmp_path / "base", [(cell_record("ac-re", "eager"), samples())])
    flagged = cell_record("ac-re", "eager")
    flagged.timings["timing_flags"] = ["recompiled after warm-up"]
    new = write_suite(tmp_path / "new", [(flagged, samples(slower=2))])
    found = compare_records(base, new, 1.05, VerifyConfig())
    assert verdicts(found)["seconds per valid"] == "inconclusive"
    assert "recompiled" in found.cells[0].metrics[0].note
    assert verdicts(found)["success rate"] == "ok"


def test_a_cell_that_new_lacks_or_did_not_finish_is_missing(tmp_path: Path) -> None:
    both = [(cell_record("ac-re", "eager"), samples()), (cell_record("diffae-re", "eager"), samples())]
    base = write_suite(tmp_path / "base", both)
    lacking = compare_records(base, write_suite(tmp_path / "one", both[:1]), 1.05, VerifyConfig())
    assert [cell.verdict for cell in lacking.cells] == ["ok", "missing"]
    assert lacking.verdict == "missing"
    failed = cell_record("ac-re", "eager")
    failed.status = "failed"
    found = compare_records(base, write_suite(tmp_path / "two", [(failed, samples()), both[1]]), 1.05, VerifyConfig())
    assert [cell.verdict for cell in found.cells] == ["missing", "ok"]
    assert "failed" in found.cells[0].note
    killed = write_suite(tmp_path / "killed", both)
    running = both[0][0].model_copy(update={"status": "running"})
    write_json(killed / running.id / "result.json", running)
    write_json(killed / "suite.json", read_suite(killed).model_copy(update={"cells": [both[1][0]]}))
    found = compare_records(base, killed, 1.05, VerifyConfig())
    assert [cell.verdict for cell in found.cells] == ["missing", "ok"]
    assert found.cells[0].note.endswith("is running")  # though suite.json does not know it yet


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda suite: suite.environment.update(cpu="other"), "cpu ('test' and 'other')"),
        (lambda suite: suite.environment.update(threads=2), "threads"),
        (lambda suite: suite.environment.update(gpu={"name": "X"}), "gpu"),
        (lambda suite: suite.cells[0].facts.update(data="e"), "data"),
        (lambda suite: suite.cells[0].facts.update(weights={"regressor": "q"}), "weights"),
        (lambda suite: suite.cells[0].facts.update(batch_size=4), "batch_size"),
        (lambda suite: suite.cells[0].options.update({"ac-re": {"depth": 4}}), "options of ac-re"),
    ],
)
def test_records_that_are_not_comparable_are_refused(change: Any, named: str, tmp_path: Path) -> None:
    base = write_suite(tmp_path / "base", [(cell_record("ac-re", "eager"), samples())])
    shutil.copytree(base, tmp_path / "new")
    suite = read_suite(tmp_path / "new")
    change(suite)
    rewrite_suite(tmp_path / "new", suite)
    with pytest.raises(NotComparable) as error:
        compare_records(base, tmp_path / "new", 1.05, VerifyConfig())
    assert named in str(error.value)
    assert error.value.exit_code == 3


def test_cells_are_paired_by_backend_where_there_are_several(tmp_path: Path) -> None:
    two = [(cell_record("ac-re", "eager"), samples()), (cell_record("ac-re", "compile"), samples(slower=0.5))]
    base = write_suite(tmp_path / "base", two)
    new = write_suite(tmp_path / "new", two)
    found = compare_records(base, new, 1.05, VerifyConfig())
    assert [cell.new for cell in found.cells] == [cell.base for cell in found.cells]
    assert found.verdict == "ok"
    one = compare_records(base / two[0][0].id, new / two[1][0].id, 1.05, VerifyConfig())
    assert one.verdict == "improved"
    other = write_suite(tmp_path / "other", [(cell_record("ac-re", "onnx"), samples())])
    with pytest.raises(UsageError, match="name the cells' folders"):
        compare_records(other, new, 1.05, VerifyConfig())


def test_exit_codes_of_records(tmp_path: Path) -> None:
    base = write_suite(tmp_path / "base", [(cell_record("ac-re", "eager"), samples())])
    write_suite(tmp_path / "slow", [(cell_record("ac-re", "eager"), samples(slower=1.3))])
    write_suite(tmp_path / "far", [(cell_record("ac-re", "eager"), samples())], cpu="other")
    runner = CliRunner()
    assert runner.invoke(app, ["compare", str(base), str(base)]).exit_code == 0
    slow = runner.invoke(app, ["compare", str(base), str(tmp_path / "slow"), "--json"])
    assert slow.exit_code == 1
    document = json.loads(slow.stdout.splitlines()[-1])
    assert (document["kind"], document["comparisons"][0]["verdict"]) == ("records", "regressed")
    assert runner.invoke(app, ["compare", str(base), str(tmp_path / "slow"), "--tolerance", "2"]).exit_code == 0
    assert "they differ in cpu" in sentence(bench("compare", "base", "far", folder=tmp_path), 3)
    assert "did you mean 'eager'" in sentence(bench("compare", "eagre", "compile", folder=tmp_path), 2)
    assert "is a record and" in sentence(bench("compare", "base", "eager", folder=tmp_path), 2)


def test_a_drifting_machine_does_not_show_in_the_ratio() -> None:
    clock = iter(1 + 0.01 * np.arange(80))
    seconds: dict[str, list[float]] = {"a": [], "b": []}
    for _ in range(20):
        for name in ("a", "b", "b", "a"):
            seconds[name].append(next(clock))
    found = summarise(seconds)
    assert found.rounds == 20
    assert found.candidates["b"].ratio == pytest.approx(1.0)
    doubled = summarise({"a": seconds["a"], "b": [2 * value for value in seconds["b"]]})
    timed = doubled.candidates["b"]
    assert (timed.ratio, timed.low, timed.high) == tuple(pytest.approx(2.0) for _ in range(3))


def test_rounds_are_palindromes_after_warm_up() -> None:
    order: list[tuple[str, int]] = []
    calls = {name: lambda index, name=name: order.append((name, index)) for name in ("a", "b", "c")}
    found = interleave(calls, 2, CPU)
    timed = order[3 * WARM_UP :]
    assert timed == [(name, index) for index in range(2) for name in "abccba"]
    assert all(len(candidate.all_seconds) == 4 for candidate in found.candidates.values())


class _Thrice:
    """A prepared method whose step does the work three times."""

    def __init__(self, method: Method) -> None:
        self.method, self.device = method, method.device

    def step(self, state: dict[str, Any]) -> StepResult:
        return [self.method.step(state) for _ in range(3)][-1]


def test_interleaved_steps_of_methods(make_method: Any, networks: dict[str, nn.Module]) -> None:
    import torch

    method = make_method("ac-re", 2)
    chosen = toy_samples(2)
    batch = Batch(tuple(s.id for s in chosen), torch.stack([s.image for s in chosen]), torch.full((2,), 0.9))
    state = method.encode(batch, lambda done, total: None)
    found = interleaved({"once": method, "thrice": _Thrice(method)}, [state], 6)
    assert (found.base, found.rounds) == ("once", 6)
    timed = found.candidates["thrice"]
    assert len(timed.all_seconds) == 12
    assert timed.low > 1.5
    assert timed.low <= timed.ratio <= timed.high
    assert timed.seconds > found.candidates["once"].seconds
    with pytest.raises(ValueError, match="two candidates"):
        interleaved({"once": method}, [state], 1)


@pytest.fixture
def planted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("slow", "flagged"):
            patch.setitem(BACKENDS, name, FAULTY[name])
        yield


def test_backends_are_measured_against_each_other(planted: None) -> None:
    options = ["--method", "ac-re", "--batch-size", "1", "--limit", "1", "--rounds", "5", "--json"]
    done = CliRunner().invoke(app, ["compare", "eager", "slow", "flagged", *options])
    assert done.exit_code == 1, done.output
    document = json.loads(done.stdout.splitlines()[-1])
    assert [phase["phase"] for phase in document["phases"]] == ["step", "refine"]
    step = document["phases"][0]
    assert step["verdicts"] == {"slow": "regressed", "flagged": "inconclusive"}
    slow = step["timing"]["candidates"]["slow"]
    assert 1.2 < slow["low"] <= slow["ratio"] <= slow["high"]
    assert len(slow["all_seconds"]) == 10
    assert document["prediction_difference"]["square ac-re slow"] < 1e-5
    assert document["flags"] == {"flagged": ["recompiled after warm-up"]}
