"""Records in MLflow: what is written, and what is refused."""

import json
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.errors import UsageError
from bench.record import Journal, SuiteRecord, locked, read_suite, write_json
from bench.sections import TrackingConfig
from bench.tracking import TrackingError, layout
from bench.tracking.connection import turn
from bench.tracking.download import download_suites
from bench.tracking.names import own_tags
from bench.tracking.server import store_uri
from bench.tracking.tracker import Tracker
from tests.synthetic_record import write_record
from tests.tracking_store import config as config
from tests.tracking_store import entries
from tests.tracking_store import runs as runs
from tests.tracking_store import suite as suite


def test_a_suite_and_its_cells(runs: Path, config: TrackingConfig, suite: Path) -> None:
    damaged = suite / read_suite(suite).cells[0].id / "result.json"
    text = (
        damaged.read_text().replace('"build_s": 2.0', '"build_s": Infinity').replace('"first_step_s": 0.3', '"x": NaN')
    )
    damaged.write_text(text)
    assert Tracker(runs, config).import_suite(suite) == 2
    found = entries(runs, config)
    parent = next(run for run in found if run.data.tags[layout.KIND_TAG] == "suite")
    cells = {run.data.tags["backend"]: run for run in found if run.data.tags[layout.KIND_TAG] == "cell"}
    assert parent.info.run_name == "one"
    assert parent.data.params["limit"] == "4"
    assert parent.data.params["verify.success_margin"] == "0.01"
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("**ok**: 2 of 2 cells finished; ")
    assert "2 samples without a counterfactual" in note
    assert "| cell | verdict |" in note
    assert sorted(cells) == ["compile", "eager"]
    record = read_suite(suite)
    eager, first = cells["eager"], record.cells[0]
    assert eager.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert eager.data.tags["method"] == "ac-re"
    assert eager.data.params["ac-re.tolerance"] == "0.05"
    success = first.summary["validity/success_rate"]
    names = ("validity/success_rate", "validity/success_rate_low", "validity/success_rate_high")
    assert [eager.data.metrics[name] for name in names] == [success.value, success.low, success.high]
    assert cells["compile"].data.metrics["timing/build_s"] == 2.0
    assert {"timing/build_s", "timing/x"}.isdisjoint(eager.data.metrics)
    assert eager.data.tags["non_finite_metrics"] == "2"
    assert cells["compile"].data.tags["non_finite_metrics"] == "0"
    assert eager.info.status == parent.info.status == "FINISHED"
    assert pd.Timestamp(eager.info.end_time, unit="ms", tz="UTC") == pd.Timestamp(first.ended)
    assert pd.Timestamp(parent.info.start_time, unit="ms", tz="UTC") == pd.Timestamp(record.started)
    (data,) = eager.inputs.dataset_inputs
    assert (data.dataset.name, json.loads(data.dataset.profile)) == ("square", {"num_rows": 4})


def test_a_cell_has_its_curves(runs: Path, config: TrackingConfig, suite: Path) -> None:
    from mlflow import MlflowClient

    Tracker(runs, config).import_suite(suite)
    cell = next(run for run in entries(runs, config) if run.data.tags.get("backend") == "eager")
    client = MlflowClient(tracking_uri=store_uri(runs, config))
    history = {point.step: point.value for point in client.get_metric_history(cell.info.run_id, "series/target_error")}
    rows = Journal(suite / cell.info.run_name / "samples.jsonl").peek()
    first = [abs(row["trace"]["predictions"][0] - row["target"]) for row in rows]
    last = [abs(row["trace"]["predictions"][-1] - row["target"]) for row in rows]
    assert history[1] == pytest.approx(np.mean(first))
    assert history[max(history)] == pytest.approx(np.mean(last))
    assert sorted(history) == list(range(1, max(row["steps"] for row in rows) + 1))
    calls = client.get_metric_history(cell.info.run_id, "series/step_s")
    assert [point.value for point in sorted(calls, key=lambda point: point.step)] == [0.2] * 8


def test_a_suite_that_was_killed_is_killed(runs: Path, config: TrackingConfig, tmp_path: Path) -> None:
    folder = write_record(tmp_path / "killed", 3, size=16, backends=("eager", "compile"), status="running")
    record = read_suite(folder)
    write_json(folder / "suite.json", record.model_copy(update={"cells": record.cells[:1]}))  # the last was under way
    begun = time.time()
    with locked(folder), pytest.raises(UsageError, match="still running"):
        Tracker(runs, config).import_suite(folder)
    assert Tracker(runs, config).import_suite(folder) == 2
    found = entries(runs, config)
    assert {run.info.status for run in found} == {"KILLED"}
    assert all(abs(run.info.end_time / 1000 - begun) < 60 for run in found)
    note = next(run.data.tags["mlflow.note.content"] for run in found if "mlflow.note.content" in run.data.tags)
    assert note.startswith("**killed**: 0 of 2 cells finished")


def test_hostile_names_are_harmless(runs: Path, config: TrackingConfig, tmp_path: Path) -> None:
    name = "it's \"><img src=x onerror=alert(1)> ; = 'x"
    folder = write_record(tmp_path / name, 2, size=16, names=['=cmd|"/C"!A0', "<script>`'"])
    assert Tracker(runs, config).import_suite(folder) == 1
    assert Tracker(runs, config).import_suite(folder) == 0
    (back,) = download_suites(config, runs, tmp_path / "back")
    assert re.fullmatch(r"it_s_[A-Za-z0-9_=]+", back.name)
    assert read_suite(back).id == name
    assert list(pd.read_parquet(next(back.rglob("samples.parquet")))["id"]) == ['=cmd|"/C"!A0', "<script>`'"]


@pytest.mark.parametrize("uri", ["sqlite:///{}/mlflow.db", "http://127.0.0.1:9"])
def test_one_import_at_a_time(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERFACTUAL_BENCH_CACHE", str(tmp_path / "cache"))
    address, order = uri.format(tmp_path), []

    def second() -> None:
        with turn(address):
            order.append("second")

    with turn(address):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_lock_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COUNTERFACTUAL_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(TrackingError, match="cannot write the lock"), turn("http://127.0.0.1:9"):
        pass


def test_tags_of_the_user_and_names_of_repeats(runs: Path, config: TrackingConfig, tmp_path: Path) -> None:
    folder = write_record(tmp_path / "nightly-small/repeat-1", 2, size=16)
    tags = own_tags(["night=2026-01-31", "preset=nightly-small"])
    assert tags == {"bench.night": "2026-01-31", "bench.preset": "nightly-small"}
    Tracker(runs, config, tags).import_suite(folder)
    found = entries(runs, config)
    assert sorted(run.info.run_name for run in found) == ["nightly-small/repeat-1", "square--ac-re--eager--s0"]
    assert all(tags.items() <= run.data.tags.items() for run in found)
    assert Tracker(runs, config, own_tags(["night=another"])).import_suite(folder) == 0
    assert {run.data.tags["bench.night"] for run in entries(runs, config)} == {"another"}
    Tracker(runs, config).import_suite(folder)
    assert {run.data.tags["bench.night"] for run in entries(runs, config)} == {"another"}


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        (["night"], "give KEY=VALUE"),
        (["Night=1"], "lower case"),
        (["a b=1"], "lower case"),
        (["kind=suite"], "'kind' is in use"),
        (["night=1", "night=2"], "'night' is there twice"),
        (["night= "], "1 to 250"),
        (["night=a\nb"], "printable"),
    ],
)
def test_tags_that_are_refused(tags: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        own_tags(tags)


def test_without_mlflow_one_sentence(
    runs: Path, config: TrackingConfig, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(TrackingError, match="MLflow cannot be imported .*pip install mlflow"):
        Tracker(runs, config).import_suite(suite)


def test_a_damaged_record_is_one_sentence(runs: Path, config: TrackingConfig, suite: Path) -> None:
    cell = suite / read_suite(suite).cells[0].id
    (cell / "samples.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"samples\.parquet cannot be read"):
        Tracker(runs, config).import_suite(suite)
    (cell / "result.json").write_text("{")
    with pytest.raises(UsageError, match=r"result\.json is damaged"):
        Tracker(runs, config).import_suite(suite)
    assert SuiteRecord.model_validate_json((suite / "suite.json").read_bytes()).id == "one"
