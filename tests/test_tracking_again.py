"""Importing again: what was interrupted, changed, deleted, left out or made twice in the meantime."""

import contextlib
import json
import threading
import time
from pathlib import Path

import pytest

from bench.cli import track
from bench.errors import UsageError
from bench.record import locked, read_suite, write_json
from bench.sections import TrackingConfig
from bench.tracking import layout
from bench.tracking.connection import turn
from bench.tracking.download import download_suites
from bench.tracking.known import Known
from bench.tracking.server import store_uri
from bench.tracking.store import Store
from bench.tracking.tracker import Tracker
from tests.tracking_store import change, entries
from tests.tracking_store import config as config
from tests.tracking_store import runs as runs
from tests.tracking_store import suite as suite


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


def test_a_suite_that_was_deleted_gets_its_cells_back(
    runs: Path, config: TrackingConfig, suite: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    Tracker(runs, config).import_suite(suite)
    parent = next(run for run in entries(runs, config) if run.data.tags[layout.KIND_TAG] == "suite")
    MlflowClient(tracking_uri=store_uri(runs, config)).delete_run(parent.info.run_id)
    assert Tracker(runs, config).import_suite(suite) == 0
    (back,) = download_suites(config, runs, tmp_path / "back", images=False)
    assert read_suite(back) == read_suite(suite)


def test_a_record_that_changes_while_its_import_waits_is_imported_as_it_is_then(
    runs: Path, config: TrackingConfig, suite: Path
) -> None:
    change(suite, 1, status="interrupted", error="stopped")
    with turn(store_uri(runs, config)):
        waiting = threading.Thread(target=Tracker(runs, config).import_suite, args=(suite,))
        waiting.start()
        time.sleep(0.5)
        change(suite, 1, status="ok", error=None)
    waiting.join()
    assert {run.info.status for run in entries(runs, config)} == {"FINISHED"}


@pytest.mark.parametrize("changed", ["record", "lock"])
def test_a_record_that_changes_during_its_import_is_not_called_whole(
    changed: str, runs: Path, config: TrackingConfig, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack, monkeypatch.context() as patched:

        def interfere(*_: object) -> None:
            if changed == "record":
                change(suite, 1, error="judged again")
            else:
                stack.enter_context(locked(suite))

        patched.setattr(Store, "_log_pictures", interfere)
        with pytest.raises(UsageError, match="was changed while it was imported"):
            Tracker(runs, config).import_suite(suite)
    assert {run.data.tags[layout.IMPORT_TAG] for run in entries(runs, config)} == {layout.INCOMPLETE}
    assert Tracker(runs, config).import_suite(suite) == 2


def test_pictures_can_be_brought_later(runs: Path, config: TrackingConfig, suite: Path, tmp_path: Path) -> None:
    without = config.model_copy(update={"images": False})
    assert Tracker(runs, without).import_suite(suite) == 2
    assert Tracker(runs, without).import_suite(suite) == 0
    assert Tracker(runs, config).import_suite(suite) == 2
    assert Tracker(runs, without).import_suite(suite) == 0
    assert Tracker(runs, config).import_suite(suite) == 0
    assert len(entries(runs, config)) == 3
    (back,) = download_suites(config, runs, tmp_path / "back")
    pictures = {path.relative_to(suite) for path in suite.rglob("*.png")}
    assert pictures
    assert {path.relative_to(back) for path in back.rglob("*.png")} == pictures


def test_runs_that_another_machine_makes_meanwhile_are_shared(
    runs: Path, config: TrackingConfig, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tracker(runs, config).import_suite(suite)
    before = {run.info.run_id for run in entries(runs, config)}
    with monkeypatch.context() as patched:
        patched.setattr(Store, "runs_of", lambda *_: Known([], True))  # as another machine sees it just before
        Tracker(runs, config).import_suite(suite)
    assert {run.info.run_id for run in entries(runs, config)} == before
    assert {run.data.tags[layout.IMPORT_TAG] for run in entries(runs, config)} == {layout.COMPLETE}


def test_runs_that_were_made_twice_are_settled(runs: Path, config: TrackingConfig, suite: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    Tracker(runs, config).import_suite(suite)
    client = MlflowClient(tracking_uri=store_uri(runs, config))
    first = entries(runs, config)
    for run in first:
        copied = run.data.tags | {layout.CREATED_TAG: "9" * 15}
        client.create_run(run.info.experiment_id, tags=copied)
    assert Tracker(runs, config).import_suite(suite) == 0
    whole = {run.info.run_id for run in entries(runs, config) if run.data.tags[layout.IMPORT_TAG] == layout.COMPLETE}
    assert whole == {run.info.run_id for run in first}
    (back,) = download_suites(config, runs, tmp_path / "back", images=False)
    assert len(read_suite(back).cells) == 2


def test_a_training_has_one_run_however_often_it_is_imported(
    runs: Path,
    config: TrackingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card = tmp_path / "weights.json"
    facts = {"recipe": "square/ddpm", "curve": [[50, 0.5], [100, 0.25]], "figures": {"mae": 0.1}, "sha256": "0" * 64}
    card.write_text(json.dumps(facts | {"training": {"steps": 100}, "config": {"width": 8}}))

    def die(*_: object) -> None:
        raise Killed

    for _ in range(2):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(Store, "_log_metrics", die)
            Tracker(runs, config).import_training(card)
    track([card], runs, "", config.experiment, True, ["night=1"])
    track([card], runs, "", config.experiment, True, None)
    store = store_uri(runs, config)
    assert capsys.readouterr().out == f"{card}: written to {store}\n{card}: is in {store}\n"
    (run,) = entries(runs, config)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "square/ddpm")
    assert run.data.tags["bench.night"] == "1"
    assert run.data.params == {"steps": "100", "config.width": "8"}
    assert run.data.metrics == {"train/loss": 0.25, "figures/mae": 0.1}
    card.write_text("{}")
    with pytest.raises(UsageError, match="is not the card of a training: it lacks recipe, curve"):
        Tracker(runs, config).import_training(card)
