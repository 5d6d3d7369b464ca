"""CelebA-HQ as a task."""

from pathlib import Path

import numpy as np
import pytest

from bench.cell import load_task
from bench.config import RunConfig
from bench.datasets.base import Task
from bench.datasets.celebahq import CelebaHqConfig, CelebaHqDataset
from bench.errors import UsageError
from bench.paths import expand
from bench.preparing.celebahq import ATTRIBUTES
from bench.preparing.command import prepare
from tests.mini_celebahq import attribute_labels, write_celebahq, write_imdb_clean

TEST_IDS = ("0.jpg", "2.jpg", "5.jpg", "6.jpg", "8.jpg", "11.jpg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    prepare("celebahq", write_celebahq(root / "CelebAMask-HQ", size=32), root / "out", 16, "all")
    return root / "out"


def load(folder: Path, limit: int = 0, **options: object) -> Task:
    return CelebaHqDataset(CelebaHqConfig(path=str(folder), **options)).load(limit)


def test_the_test_split_with_labelled_targets(folder: Path) -> None:
    task = load(folder)
    assert task.ids == TEST_IDS and task.images.shape == (6, 16, 16, 3) and task.images.dtype == np.uint8
    young = attribute_labels(12)[[0, 2, 5, 6, 8, 11], ATTRIBUTES.index("Young")] == 1
    assert young.any() and not young.all()
    assert task.targets.tolist() == np.where(young, 0.8, 0.1).astype(np.float32).tolist()
    assert task.attribute is None and task.masks is None and task.unit == "age / 100"


def test_the_attributes_are_the_training_splits(folder: Path) -> None:
    attributes = load(folder, limit=2).attributes
    assert attributes is not None and tuple(attributes.columns) == ATTRIBUTES
    assert attributes.index.tolist() == ["1.jpg", "3.jpg", "7.jpg", "9.jpg"]
    assert np.array_equal(attributes.to_numpy(), attribute_labels(12)[[1, 3, 7, 9]])
    assert attributes.to_numpy().dtype == np.int8
    assert expand(load(folder), (0.1, 0.8)).attributes is not None


def test_other_targets_and_a_smaller_task(folder: Path) -> None:
    task = load(folder, limit=3, split="train", old=0.7, young=0.2)
    assert set(task.ids) < {"1.jpg", "3.jpg", "7.jpg", "9.jpg"} and len(task.ids) == 3
    assert set(task.targets.tolist()) <= {np.float32(0.7), np.float32(0.2)}
    assert task.digest != load(folder, limit=3, split="train").digest


def test_predicted_targets_follow_from_the_regressor(folder: Path) -> None:
    dataset = CelebaHqDataset(CelebaHqConfig(path=str(folder), direction="predicted"))
    assert dataset.needs_predictions
    task = dataset.load(0)
    assert np.isnan(task.targets).all()  # whoever forgets to retarget will notice
    done = dataset.retarget(task, np.array([0.1, 0.44, 0.46, 0.9, 0.2, 0.7]))
    assert done.targets.tolist() == np.array([0.8, 0.8, 0.1, 0.1, 0.8, 0.1], dtype=np.float32).tolist()
    assert done.digest != task.digest and done.attributes is task.attributes
    with pytest.raises(UsageError, match=r"weights.regressor: its prediction on 2.jpg is nan"):
        dataset.retarget(task, np.array([0.1, np.nan, 0.46, 0.9, 0.2, 0.7]))


def test_labelled_targets_ignore_predictions(folder: Path) -> None:
    dataset = CelebaHqDataset(CelebaHqConfig(path=str(folder)))
    task = dataset.load(0)
    assert not dataset.needs_predictions and dataset.retarget(task, np.zeros(6)) is task


def test_a_run_asks_for_its_weights(folder: Path) -> None:
    from bench.cell import load_weights

    dataset = CelebaHqDataset(CelebaHqConfig(path=str(folder)))
    with pytest.raises(UsageError, match=r"give one with -s weights.regressor=FILE"):
        load_weights(RunConfig(), dataset, ["regressor"])


def test_the_task_of_a_run_has_the_predicted_targets(folder: Path) -> None:
    from bench.checkpoints import Loaded
    from tests.conftest import ToyRegressor, randomise

    dataset = CelebaHqDataset(CelebaHqConfig(path=str(folder), direction="predicted", boundary=1.0))
    regressor = Loaded(randomise(ToyRegressor(), 3), Path("regressor"), "sha")
    task = load_task(RunConfig(limit=0), dataset, regressor)
    assert task.targets.tolist() == [np.float32(0.8)] * 6  # a sigmoid is always below 1


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs celebahq.path; give it with -s celebahq.path=DIR"):
        CelebaHqDataset(CelebaHqConfig()).load(0)
    with pytest.raises(UsageError, match=r"python -m bench prepare celebahq --root"):
        load(tmp_path)
    prepare("imdb-wiki-clean", write_imdb_clean(tmp_path / "imdb", size=16), tmp_path / "ages", 16, "valid")
    with pytest.raises(UsageError, match=r"holds imdb-wiki-clean; celebahq is needed"):
        load(tmp_path / "ages")
