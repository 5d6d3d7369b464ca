"""A store of MLflow that tests share, and a small suite to import; fixtures are imported by name."""

from pathlib import Path
from typing import Any

import pytest

from bench.record import read_suite, write_json
from bench.sections import TrackingConfig
from bench.tracking.server import store_uri
from tests.synthetic_record import write_record


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose store is made once for all modules; every test has an experiment of its own in it."""
    folder = tmp_path_factory.getbasetemp() / "tracking-store"
    folder.mkdir(exist_ok=True)
    return folder


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
