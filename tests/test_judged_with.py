"""A record says what its figures were made with; with other metric options or weights they are made again, without a
search, and a search goes on with predictions of the oracle that judges now."""

import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import nn

from bench.cell import Cell, Shared, fingerprint, resolve_cell
from bench.cell_run import CellRun
from bench.checkpoints import Loaded
from bench.config import RunConfig, build_config
from bench.datasets.base import Dataset, DatasetConfig, HeldOut, Task
from bench.errors import UsageError
from bench.judge import Judge
from bench.networks import RegressorConfig, SmallRegressor
from bench.progress import Display
from bench.record import CellRecord, Journal, read_cell, write_json
from bench.sections import MetricsConfig
from bench.suite import resolve_suite
from metrics.frechet import INCEPTION_FILE
from tests.conftest import CPU, SIZE, randomise
from tests.test_judge_faces import face_weights
from tests.tiny_cell import tiny_cell


def faces(networks: dict[str, nn.Module], method: str = "ac-re", **metrics: Any) -> Cell:
    """A cell of four toy images with the tiny face networks."""
    cell = tiny_cell(networks, method, count=4, metrics=MetricsConfig(**({"noise_draws": 0} | metrics)))
    cell.weights |= face_weights()
    return cell


def other_oracle(cell: Cell) -> Cell:
    network = randomise(SmallRegressor(RegressorConfig(widths=(8, 16))), 6)
    return dataclasses.replace(cell, weights=cell.weights | {"oracle": Loaded(network, Path("other"), "other")})


def run(cell: Cell, folder: Path) -> tuple[CellRecord, pd.DataFrame, str]:
    """The record as returned, which is the one on the disk, the samples, and what was told."""
    told = io.StringIO()
    record = CellRun(cell, folder, folder.parent / "inputs", Display(told)).run()
    assert read_cell(folder) == record
    return record, pd.read_parquet(folder / "samples.parquet").set_index("id"), told.getvalue()


def same_search(first: CellRecord, second: CellRecord) -> bool:
    """Whether the second left everything of the first's search as it was."""
    names = ("timings", "sessions", "execution", "started", "ended", "fingerprint", "facts", "status", "finished")
    return all(getattr(first, name) == getattr(second, name) for name in names)


def unfinished(folder: Path, kept: int) -> None:
    """As if the run had been interrupted after some samples."""
    journal = Journal(folder / "samples.jsonl")
    journal.replace(journal.rows()[:kept])
    record = read_cell(folder)
    record.status, record.finished = "interrupted", kept
    write_json(folder / "result.json", record)


@pytest.fixture(scope="module")
def finished(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `faces` leaves."""
    folder = tmp_path_factory.mktemp("finished") / "cell"
    run(faces(networks), folder)
    return folder


@pytest.fixture(scope="module")
def fresh(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Samples of a whole run with the other oracle."""
    return run(other_oracle(faces(networks)), tmp_path_factory.mktemp("fresh") / "cell")[1]


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished cell, to go on with."""
    shutil.copytree(finished, tmp_path / "cell")
    return tmp_path / "cell"


def test_other_metric_options_judge_again_and_back(networks: dict[str, nn.Module], folder: Path) -> None:
    first, journal = read_cell(folder), (folder / "samples.jsonl").read_bytes()
    again, _, told = run(faces(networks), folder)
    assert again == first and "already complete" in told
    paper, _, told = run(faces(networks, mode="paper", bootstrap_seed=7), folder)
    assert same_search(first, paper)
    assert "another metrics.bootstrap_seed, metrics.mode" in " ".join(told.split())
    assert (first.judged["metrics"]["mode"], paper.judged["metrics"]["mode"]) == ("corrected", "paper")
    assert paper.definitions["identity/fs"]["mode"] == "paper"
    assert paper.summary["identity/fs"].value != first.summary["identity/fs"].value
    assert paper.summary["validity/oracle_target_mae"].low != first.summary["validity/oracle_target_mae"].low
    assert (folder / "samples.jsonl").read_bytes() == journal
    back, _, _ = run(faces(networks), folder)
    assert (back.summary, back.judged, back.definitions) == (first.summary, first.judged, first.definitions)


def test_networks_that_measure_come_and_go_after_the_search(networks: dict[str, nn.Module], folder: Path) -> None:
    cell, first = faces(networks), read_cell(folder)
    measuring = {role: cell.weights.pop(role) for role in face_weights()}
    without, _, told = run(cell, folder)
    assert same_search(first, without) and without.summary["identity/fs"].value is None
    assert "weights.attributes, weights.identity" in " ".join(told.split())
    cell.weights |= measuring
    record, frame, _ = run(cell, folder)
    assert (record.summary, record.judged) == (first.summary, first.judged) and {"fs", "mnac"} <= set(frame.columns)
    assert record.judged["weights"].keys() == {"oracle", "identity", "attributes"}
    assert record.facts["weights"].keys() == {"regressor", "ddpm"}
    assert record.weights.keys() == cell.weights.keys()


def test_the_filters_network_only_judges_where_the_method_does_not_use_it(
    networks: dict[str, nn.Module], folder: Path, tmp_path: Path
) -> None:
    cell = tiny_cell(networks, "diffae-re", count=1)
    run(cell, tmp_path / "latent")
    searching = faces(networks)
    cell.weights["ddpm"] = searching.weights["ddpm"]
    record, frame, _ = run(cell, tmp_path / "latent")
    assert (record.sessions, record.judged["weights"]["ddpm"]) == (1, "ddpm") and "noise_success" in frame
    searching.weights["ddpm"] = dataclasses.replace(searching.weights["ddpm"], sha256="other")
    with pytest.raises(UsageError, match="another weights"):
        run(searching, folder)


def test_labels_and_files_that_come_later_are_judged_with(networks: dict[str, nn.Module], folder: Path) -> None:
    place, first = folder.parent, read_cell(folder)
    cell = faces(networks, inception_weights=str(place))
    record, _, told = run(cell, folder)
    assert "already complete" in told  # where a file would be does not matter
    assert (record.judged["inception"], record.judged["labels"], record.judged["lpips"]) == (None, None, None)
    (place / INCEPTION_FILE).write_bytes(b"another network")
    record, _, told = run(cell, folder)
    assert record.judged["inception"] and "another inception" in told and same_search(first, record)
    for value in (1, -1):
        labels = pd.DataFrame({"Bald": [1, -1], "Blurry": [1, 1], "Male": [-1, 1], "Young": [value, 1]})
        labelled = dataclasses.replace(cell, task=dataclasses.replace(cell.task, attributes=labels))
        record, _, told = run(labelled, folder)
        assert "another labels" in told and same_search(first, record)


def test_real_images_and_a_type_classifier_that_come_later_are_judged_with(
    networks: dict[str, nn.Module], folder: Path
) -> None:
    first, cell = read_cell(folder), faces(networks)
    assert "held_out" not in first.judged  # so that finished records of other data stay as they are
    for value in (0.0, 1.0):
        real = HeldOut(("real/0", "real/1"), cell.task.images[:2], np.full(2, value, np.float32))
        cell.task = dataclasses.replace(cell.task, held_out=real)
        record, _, told = run(cell, folder)
        assert "another held_out" in " ".join(told.split()) and same_search(first, record)
    network = randomise(SmallRegressor(RegressorConfig(widths=(8, 16))), 8)
    cell.weights["type"] = Loaded(network, Path("type"), "type-hash")
    record, frame, told = run(cell, folder)
    assert "another weights.type" in " ".join(told.split()) and same_search(first, record)
    assert record.summary["type/preserved"].n == 4 and "type_preserved" in frame
    assert "already complete" in run(cell, folder)[2]
    before = {key: estimate for key, estimate in record.summary.items() if key in first.summary}
    assert before == first.summary


def test_another_oracle_predicts_on_finished_cells_again(
    networks: dict[str, nn.Module], folder: Path, fresh: pd.DataFrame
) -> None:
    first, before = read_cell(folder), pd.read_parquet(folder / "samples.parquet").set_index("id")
    record, frame, _ = run(other_oracle(faces(networks)), folder)
    assert same_search(first, record) and record.judged["weights"]["oracle"] == "other"
    pd.testing.assert_series_equal(frame["oracle"], fresh["oracle"], check_exact=True)
    assert (frame["oracle"] != before["oracle"]).all()
    assert {row["id"]: row["oracle"] for row in Journal(folder / "samples.jsonl").rows()} == fresh["oracle"].to_dict()


def test_an_unfinished_cell_goes_on_with_one_oracle(
    networks: dict[str, nn.Module], folder: Path, fresh: pd.DataFrame
) -> None:
    unfinished(folder, 3)
    record, frame, _ = run(other_oracle(faces(networks)), folder)
    assert (record.sessions, record.finished) == (2, 4)
    pd.testing.assert_series_equal(frame["oracle"], fresh["oracle"], check_exact=True)
    assert {row["id"]: row["oracle"] for row in Journal(folder / "samples.jsonl").rows()} == fresh["oracle"].to_dict()


@dataclasses.dataclass
class StoppedJudge(Judge):
    """Ctrl-C comes with its second image."""

    calls: int = 0

    def predict(self, pixels: np.ndarray) -> tuple[float, float]:
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return super().predict(pixels)


@pytest.mark.parametrize("whole", [True, False])
def test_stopped_while_predicting_again_the_record_claims_nothing(
    whole: bool, networks: dict[str, nn.Module], folder: Path
) -> None:
    cell, before = faces(networks), pd.read_parquet(folder / "samples.parquet").set_index("id")
    if not whole:
        unfinished(folder, 3)
    stopped = CellRun(other_oracle(cell), folder, folder.parent / "inputs", Display(io.StringIO()))
    stopped.judge = StoppedJudge(stopped.judge.regressor, stopped.judge.oracle)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    # A finished record is left as it was.
    assert read_cell(folder).weights.get("oracle") == ("oracle" if whole else None)
    _, after, _ = run(cell, folder)
    pd.testing.assert_series_equal(after["oracle"], before["oracle"], check_exact=True)


def make_older(folder: Path) -> None:
    """As a record was before it said what judged: its facts name every network."""
    record = read_cell(folder)
    record.facts["weights"] = record.weights
    record.judged, record.fingerprint = {}, fingerprint(record.facts)
    write_json(folder / "result.json", record)


def test_an_older_finished_record_is_judged_once_more(networks: dict[str, nn.Module], folder: Path) -> None:
    first = read_cell(folder)
    make_older(folder)
    record, _, told = run(faces(networks), folder)
    assert same_search(first, record) and record.judged == first.judged and record.summary == first.summary
    assert "what its record does not say" in " ".join(told.split())
    assert "already complete" in run(faces(networks), folder)[2]


def test_an_older_unfinished_record_goes_on_with_another_judge(
    networks: dict[str, nn.Module], folder: Path, fresh: pd.DataFrame
) -> None:
    make_older(folder)
    unfinished(folder, 3)
    cell = other_oracle(faces(networks))
    cell.weights["identity"] = dataclasses.replace(cell.weights["identity"], sha256="other")
    record, frame, _ = run(cell, folder)
    assert (record.sessions, record.judged["weights"]["identity"]) == (2, "other")
    pd.testing.assert_series_equal(frame["oracle"], fresh["oracle"], check_exact=True)


@pytest.mark.parametrize("role", ["regressor", "ddpm"])
def test_an_older_record_of_another_search_is_refused(role: str, networks: dict[str, nn.Module], folder: Path) -> None:
    make_older(folder)
    cell = faces(networks)
    cell.weights[role] = dataclasses.replace(cell.weights[role], sha256="other")
    with pytest.raises(UsageError, match="made with another weights"):
        run(cell, folder)


def test_a_finished_cell_with_a_damaged_image_is_searched_there_again(
    networks: dict[str, nn.Module], folder: Path
) -> None:
    before = pd.read_parquet(folder / "samples.parquet").set_index("id")
    next((folder / "images").iterdir()).write_bytes(b"")
    record, after, _ = run(faces(networks, mode="paper"), folder)
    assert (record.sessions, record.judged["metrics"]["mode"]) == (2, "paper")
    pd.testing.assert_series_equal(after["sha256"], before["sha256"])


def test_cells_of_a_suite_share_tasks_and_networks() -> None:
    config = build_config(None, [], {"method": ["ac-re", "diffae-re"], "backend": ["eager", "null"], "limit": 2})
    cells = resolve_suite(config.model_copy(update={"device": "cpu"}))
    assert len(cells) == 4
    for cell in cells[1:]:
        assert cell.task is cells[0].task
        for role in cell.weights.keys() & cells[0].weights.keys():
            assert cell.weights[role].network is cells[0].weights[role].network
    other = resolve_cell(config.model_copy(update={"limit": 1}), "square", "ac-re", "eager", CPU, shared_of(cells))
    assert len(other.task.ids) == 1 and other.weights["ddpm"].network is cells[0].weights["ddpm"].network


def shared_of(cells: list[Cell]) -> Shared:
    """What these cells have loaded, of the default configuration of Square."""
    return Shared({(f"square-{role}", role): loaded for cell in cells for role, loaded in cell.weights.items()})


class FollowingDataset(Dataset):
    """Targets are what the regressor predicts."""

    needs_predictions = True

    def load(self, limit: int) -> Task:
        images = np.full((2, SIZE, SIZE, 3), 90, np.uint8)
        return Task(("a", "b"), images, np.full(2, np.nan, np.float32), None, None, "toy", "toy")

    def retarget(self, task: Task, predictions: np.ndarray) -> Task:
        return dataclasses.replace(task, targets=predictions.astype(np.float32))


def test_targets_that_follow_the_regressor_are_not_shared_with_another() -> None:
    shared, source, regressors = Shared(), FollowingDataset(DatasetConfig()), []
    for seed in (3, 4):
        network = randomise(SmallRegressor(RegressorConfig(widths=(8, 16))), seed)
        regressors.append(Loaded(network, Path("toy"), str(seed)))
    task: Callable[[int], Task] = lambda index: shared.task(RunConfig(), source, regressors[index])  # noqa: E731
    assert task(0) is task(0)
    assert (task(0).targets != task(1).targets).all()
