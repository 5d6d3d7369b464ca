"""Records in MLflow and back: what is written, what is refused, and what an interrupted import leaves."""

import filecmp
import json
import math
import os
import re
import shutil
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.errors import UsageError
from bench.record import Journal, SuiteRecord, locked, read_suite, write_json
from bench.sections import TrackingConfig
from bench.tracking import TrackingError, layout
from bench.tracking.connection import turn
from bench.tracking.download import download_suites
from bench.tracking.names import finite, flat, metric_name, safe_key, summary_metrics, text
from bench.tracking.page import page_command
from bench.tracking.series import search_series
from bench.tracking.server import redacted, store_uri
from bench.tracking.store import Store
from bench.tracking.tracker import Tracker
from metrics.intervals import Estimate
from tests.synthetic_record import write_record


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose store is made once; every test has an experiment of its own in it."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TrackingConfig:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return TrackingConfig(experiment=request.node.name)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Two cells of four samples, one of which failed."""
    made = write_record(tmp_path / "one", 4, size=16, backends=("eager", "compile"), fail_every=4, reconstructions=True)
    (made / "report.html").write_text("<p>page</p>")
    return made


def entries(runs: Path, config: TrackingConfig) -> list[Any]:
    """Every run of the experiment, as MLflow gives it."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store_uri(runs, config))
    return list(client.search_runs([client.get_experiment_by_name(config.experiment).experiment_id]))


def change(folder: Path, cell: int, **fields: Any) -> None:
    """Change a cell's record, in its own file and in its suite's."""
    record = read_suite(folder)
    record.cells[cell] = record.cells[cell].model_copy(update=fields)
    write_json(folder / record.cells[cell].id / "result.json", record.cells[cell])
    write_json(folder / "suite.json", record)


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


def test_importing_again_adds_and_writes_nothing(runs: Path, config: TrackingConfig, suite: Path) -> None:
    tracker = Tracker(runs, config)
    tracker.import_suite(suite)
    before = {run.info.run_id: (run.info.end_time, run.data.tags, run.data.metrics) for run in entries(runs, config)}
    assert tracker.import_suite(suite) == 0
    assert {run.info.run_id: (run.info.end_time, run.data.tags, run.data.metrics) for run in entries(runs, config)} == (
        before
    )


def test_a_new_page_is_brought_along(runs: Path, config: TrackingConfig, suite: Path) -> None:
    from mlflow import MlflowClient

    Tracker(runs, config).import_suite(suite)
    (suite / "report.html").write_text("<p>another page</p>")
    assert Tracker(runs, config).import_suite(suite) == 0
    parent = next(run for run in entries(runs, config) if run.data.tags[layout.KIND_TAG] == "suite")
    client = MlflowClient(tracking_uri=store_uri(runs, config))
    page = Path(client.download_artifacts(parent.info.run_id, "report.html"))
    assert page.read_text() == "<p>another page</p>"
    assert len(entries(runs, config)) == 3


def test_a_resumed_cell_replaces_its_earlier_run(
    runs: Path, config: TrackingConfig, suite: Path, tmp_path: Path
) -> None:
    whole = read_suite(suite)
    change(suite, 1, status="interrupted", error="stopped by the user; `x` <b>")
    Tracker(runs, config).import_suite(suite)
    killed = next(run for run in entries(runs, config) if run.data.tags.get("backend") == "compile")
    assert killed.info.status == "KILLED"
    parent = next(run for run in entries(runs, config) if run.data.tags[layout.KIND_TAG] == "suite")
    assert "1 of 2 cells finished" in parent.data.tags["mlflow.note.content"]
    assert "`stopped by the user; 'x' <b>`" in parent.data.tags["mlflow.note.content"]
    change(suite, 1, status="ok", error=None)
    resumed = read_suite(suite)
    resumed.config["limit"] = 8
    write_json(suite / "suite.json", resumed)
    assert Tracker(runs, config).import_suite(suite) == 1
    found = {run.info.run_id: run for run in entries(runs, config)}
    assert found[killed.info.run_id].data.tags[layout.IMPORT_TAG] == layout.REPLACED
    parent = found[parent.info.run_id]
    assert "2 of 2 cells finished" in parent.data.tags["mlflow.note.content"]
    assert (parent.data.params["limit"], parent.data.tags["params_changed"]) == ("4", "limit")
    (folder,) = download_suites(config, runs, tmp_path / "back")
    assert read_suite(folder).cells == whole.cells


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


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the project catches it."""


def test_an_import_that_was_killed_leaves_nothing_running_and_is_completed(
    runs: Path, config: TrackingConfig, suite: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_log_pictures", die)
        with pytest.raises(Killed):
            Tracker(runs, config).import_suite(suite)
    left = entries(runs, config)
    assert {run.info.status for run in left} == {"KILLED"}
    told: list[str] = []
    with pytest.raises(UsageError, match="holds no suite"):
        download_suites(config, runs, tmp_path / "early", tell=told.append)
    assert "is not whole" in told[0]
    assert Tracker(runs, config).import_suite(suite) == 2
    found = entries(runs, config)
    assert len(found) == 3
    assert {run.info.run_id for run in left} <= {run.info.run_id for run in found}
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_run_that_is_left_running_is_closed(runs: Path, config: TrackingConfig, suite: Path) -> None:
    from mlflow import MlflowClient

    Tracker(runs, config).import_suite(suite)
    client = MlflowClient(tracking_uri=store_uri(runs, config))
    known = entries(runs, config)[0]
    tags = {layout.SUITE_TAG: known.data.tags[layout.SUITE_TAG], layout.RECORD_TAG: "another"}
    stale = client.create_run(known.info.experiment_id, tags=tags).info.run_id
    Tracker(runs, config).import_suite(suite)
    assert client.get_run(stale).info.status == "KILLED"


def same_files(left: Path, right: Path) -> bool:
    names = {path.relative_to(left) for path in left.rglob("*") if path.is_file()}
    if names != {path.relative_to(right) for path in right.rglob("*") if path.is_file()}:
        return False
    return all(filecmp.cmp(left / name, right / name, shallow=False) for name in names)


def test_download_rebuilds_the_folder(runs: Path, config: TrackingConfig, suite: Path, tmp_path: Path) -> None:
    Tracker(runs, config).import_suite(suite)
    (folder,) = download_suites(config, runs, tmp_path / "back")
    assert folder == tmp_path / "back/one"
    (suite / "report.html").unlink()
    assert same_files(folder, suite)
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["one"]
    (plain,) = download_suites(config, runs, tmp_path / "plain", images=False)
    assert not list(plain.rglob("*.png"))
    assert len(list(plain.rglob("samples.parquet"))) == 2
    (bare,) = download_suites(config, runs, tmp_path / "bare", samples=False)
    assert [path.name for path in bare.rglob("*")] == ["suite.json"]


def test_suites_of_one_name_and_cells_that_were_deleted(
    runs: Path, config: TrackingConfig, suite: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    later = tmp_path / "later/one"
    shutil.copytree(suite, later)
    record = read_suite(later)
    write_json(later / "suite.json", record.model_copy(update={"started": "2100-01-01T00:00:00.000+00:00"}))
    tracker = Tracker(runs, config)
    tracker.import_suite(later)
    tracker.import_suite(suite)
    client = MlflowClient(tracking_uri=store_uri(runs, config))
    gone = next(
        run for run in entries(runs, config) if run.data.tags.get("backend") == "compile" and run.info.start_time < 4e12
    )
    client.delete_run(gone.info.run_id)
    first, second = download_suites(config, runs, tmp_path / "back", images=False)
    assert re.fullmatch(r"one--[0-9a-f]{8}", first.name)
    assert read_suite(second).started.startswith("2100")
    kept = sorted(len(read_suite(folder).cells) for folder in (first, second))
    assert kept == [1, 2]
    assert all((folder / cell.id).is_dir() for folder in (first, second) for cell in read_suite(folder).cells)


def test_what_a_server_holds_is_not_trusted(runs: Path, config: TrackingConfig, suite: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    Tracker(runs, config).import_suite(suite)
    client = MlflowClient(tracking_uri=store_uri(runs, config))
    cell = next(run for run in entries(runs, config) if run.data.tags.get("backend") == "eager")
    client.set_tag(cell.info.run_id, layout.CELL_TAG, "../../escaped")
    with pytest.raises(TrackingError, match="is not the name of a cell"):
        download_suites(config, runs, tmp_path / "a/b/c")
    assert not list(tmp_path.rglob("escaped"))
    client.set_tag(cell.info.run_id, layout.CELL_TAG, "square--ac-re--other--s0")
    with pytest.raises(TrackingError, match="result.json is of"):
        download_suites(config, runs, tmp_path / "d")
    client.set_tag(cell.info.run_id, layout.CELL_TAG, cell.info.run_name)
    evil = tmp_path / layout.IMAGES_ARCHIVE
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../../evil.png", b"x")
    client.log_artifact(cell.info.run_id, str(evil), layout.RECORD_FOLDER)
    with pytest.raises(TrackingError, match="is not the name of a record's picture"):
        download_suites(config, runs, tmp_path / "e")
    assert not list(tmp_path.rglob("evil.png"))
    assert [list(path.iterdir()) for path in (tmp_path / "a/b/c", tmp_path / "d", tmp_path / "e")] == [[], [], []]


def test_download_refusals(runs: Path, config: TrackingConfig, suite: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no MLflow store at"):
        download_suites(config, tmp_path, tmp_path / "back")
    Tracker(runs, config).import_suite(suite)
    wrong = TrackingConfig(experiment=f"{config.experiment}x")
    with pytest.raises(UsageError, match=f"did you mean '{config.experiment}'"):
        download_suites(wrong, runs, tmp_path / "back")
    closed = TrackingConfig(uri="http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="does not answer"):
        download_suites(closed, runs, tmp_path / "back")


def test_hostile_names_are_harmless(runs: Path, config: TrackingConfig, tmp_path: Path) -> None:
    name = "it's \"><img src=x onerror=alert(1)> ; = 'x"
    folder = write_record(tmp_path / name, 2, size=16, names=['=cmd|"/C"!A0', "<script>`'"])
    assert Tracker(runs, config).import_suite(folder) == 1
    assert Tracker(runs, config).import_suite(folder) == 0
    (back,) = download_suites(config, runs, tmp_path / "back")
    assert re.fullmatch(r"it_s_[A-Za-z0-9_=]+", back.name)
    assert read_suite(back).id == name
    assert list(pd.read_parquet(next(back.rglob("samples.parquet")))["id"]) == ['=cmd|"/C"!A0', "<script>`'"]


def test_one_import_at_a_time(tmp_path: Path) -> None:
    uri, order = f"sqlite:///{tmp_path}/mlflow.db", []

    def second() -> None:
        with turn(uri, tmp_path):
            order.append("second")

    with turn(uri, tmp_path):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_without_mlflow_one_sentence(
    runs: Path, config: TrackingConfig, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(TrackingError, match="MLflow cannot be imported .*pip install mlflow"):
        Tracker(runs, config).import_suite(suite)


@pytest.mark.parametrize(
    ("key", "unit", "name"),
    [
        ("validity/success_rate", "fraction", "validity/success_rate"),
        ("quality/square_mae", "1", "quality/square_mae"),
        ("cost/steps", "steps", "cost/steps"),
        ("cost/forward", "network evaluations", "cost/forward_evaluations"),
        ("throughput/seconds_per_image", "s", "throughput/seconds_per_image"),
        ("throughput/valid_per_second", "1/s", "throughput/valid_per_second"),
        ("x/delay", "s", "x/delay_s"),
        ("x/pirates", "fraction", "x/pirates_fraction"),
        ("x/energy", "J", "x/energy_J"),
    ],
)
def test_metric_names_say_their_unit_once(key: str, unit: str, name: str) -> None:
    assert metric_name(key, unit) == name


def test_names_that_mlflow_refuses() -> None:
    assert safe_key("attributes/5_o'Clock (%)") == "attributes/5_o_Clock ___"
    assert safe_key("../../a//./b") == "__/__/a/_/b"
    assert safe_key("") == "_"
    assert len(safe_key("x" * 400)) == 250
    assert flat({"a": {"b": [1, 2], "c": None}, "d": "text"}) == {"a.b": "[1, 2]", "a.c": "null", "d": "text"}
    assert text("a\udcffb\0") == "a\\udcffb\\0"
    assert len(text("x" * 9000)) == 8000
    assert finite({"a": 1.0, "b": math.nan, "c": -math.inf}) == ({"a": 1.0}, 2)
    assert summary_metrics({"a/b": Estimate(value=None)}) == {}


def test_series_carry_the_last_prediction_forward() -> None:
    trace = pd.DataFrame(
        {"id": ["a", "a", "a", "b", "x"], "iteration": [1, 2, 3, 1, 9], "prediction": [0.1, 0.4, 0.52, 0.5, 7.0]}
    )
    found = search_series(trace, {"a": 0.5, "b": 0.9}, 0.05)
    errors = [point.value for point in found["series/target_error"]]
    assert errors == pytest.approx([(0.4 + 0.4) / 2, (0.1 + 0.4) / 2, (0.02 + 0.4) / 2])
    assert [point.value for point in found["series/within_tolerance_rate"]] == [0, 0, 0.5]
    trace.loc[2, "prediction"] = np.nan  # where a search failed
    broken = search_series(trace, {"a": 0.5, "b": 0.9}, 0.05)
    assert [point.value for point in broken["series/target_error"]] == pytest.approx([0.4, 0.25, 0.4])
    assert [point.value for point in broken["series/within_tolerance_rate"]] == [0, 0, 0]
    assert len(search_series(trace.iloc[2:3], {"a": 0.5}, 0.05)["series/target_error"]) == 0
    long = pd.DataFrame({"id": "a", "iteration": range(1, 5001), "prediction": np.linspace(0, 0.5, 5000)})
    points = search_series(long, {"a": 0.5}, 0.05)["series/target_error"]
    assert (len(points), points[0].step, points[-1].step) == (200, 1, 5000)
    assert points[-1].value == 0


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        TrackingConfig(uri="https://me:canary@host/x")
    assert "canary" not in str(refused.value)
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:can%40ary@host:8443/x")
    assert store_uri(tmp_path, TrackingConfig()) == "https://host:8443/x"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "can@ary")
    assert redacted("a postgresql://me:p@ss@host/x b") == "a postgresql://***@host/x b"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:canary@host/x")
    assert Tracker(tmp_path, TrackingConfig()).uri == "postgresql://***@host/x"


def test_the_page_of_a_server_is_its_own() -> None:
    with pytest.raises(UsageError, match="open that address"):
        page_command("http://host:5000", 5000)


def test_a_damaged_record_is_one_sentence(runs: Path, config: TrackingConfig, suite: Path) -> None:
    cell = suite / read_suite(suite).cells[0].id
    (cell / "samples.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"samples\.parquet cannot be read"):
        Tracker(runs, config).import_suite(suite)
    (cell / "result.json").write_text("{")
    with pytest.raises(UsageError, match=r"result\.json is damaged"):
        Tracker(runs, config).import_suite(suite)
    assert SuiteRecord.model_validate_json((suite / "suite.json").read_bytes()).id == "one"
