"""Records from MLflow back: byte by byte, and nothing that a server holds is trusted."""

import filecmp
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.record import read_suite, write_json
from bench.sections import TrackingConfig
from bench.tracking import TrackingError, layout
from bench.tracking.download import download_suites
from bench.tracking.server import store_uri
from bench.tracking.tracker import Tracker
from tests.tracking_store import config as config
from tests.tracking_store import entries
from tests.tracking_store import runs as runs
from tests.tracking_store import suite as suite


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
    for name in ("suite.json", "report.html", "inputs-square", "inputs.zip"):
        client.set_tag(cell.info.run_id, layout.CELL_TAG, name)
        with pytest.raises(TrackingError, match="is not the name of a cell"):
            download_suites(config, runs, tmp_path / "a/b/c")
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
