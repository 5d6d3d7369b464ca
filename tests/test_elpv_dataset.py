"""ELPV as the installed package has it: the files, the splits, what is read, and what is refused."""

import hashlib
import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.cli import app
from bench.config import build_config, component_options
from bench.datasets import DATASETS, SOURCES
from bench.datasets.base import Task
from bench.datasets.elpv import ElpvConfig, ElpvDataset
from bench.datasets.elpv_files import LICENCE, SIDE, assign_splits, data_folder, make_manifest, manifest, read_pixels
from bench.environment import package_versions
from bench.errors import UsageError
from bench.images import as_rgb

pytest.importorskip("elpv_dataset", reason="elpv-dataset is not installed (pip install '.[elpv]')")


def load(limit: int = 0, **options: object) -> Task:
    return ElpvDataset(ElpvConfig(**options)).load(limit)


def refused(**options: object) -> str:
    with pytest.raises(UsageError) as error:
        load(**options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def small() -> np.ndarray:
    """Every image at 64x64, in the order of the manifest."""
    return read_pixels(data_folder(""), manifest(), 64)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A data folder of links to the installed images; a test may put another file in the place of one."""
    (tmp_path / "images").mkdir()
    for name in manifest()["file"]:
        (tmp_path / name).symlink_to(data_folder("") / name)
    (tmp_path / "labels.csv").write_bytes((data_folder("") / "labels.csv").read_bytes())
    return tmp_path


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


# The manifest and its splits


def test_the_manifest_is_that_of_the_installed_package() -> None:
    pd.testing.assert_frame_equal(make_manifest(data_folder("")), manifest())
    assert len(manifest()) == 2624 and manifest()["probability"].nunique() == 4


def test_the_split_follows_from_the_names_by_the_rule_alone() -> None:
    rows = manifest().sample(frac=1, random_state=np.random.RandomState(0)).reset_index(drop=True)
    assert assign_splits(rows) == rows["split"].tolist()
    stratum = rows[(rows["type"] == "mono") & (rows["probability"] == 1)]
    ranked = sorted(stratum["file"], key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    tested = round(len(ranked) / 4)
    assert set(ranked[:tested]) == set(stratum.loc[stratum["split"] == "test", "file"])
    assert set(ranked[tested : tested + round(len(ranked) / 10)]) == set(
        stratum.loc[stratum["split"] == "valid", "file"]
    )


def test_every_split_has_every_stratum_in_the_same_proportion() -> None:
    counts = manifest().groupby(["probability", "type"])["split"].value_counts().unstack()
    assert counts.shape == (8, 3) and counts.notna().all(axis=None)
    shares = counts.div(counts.sum(axis=1), axis=0)
    assert (shares["test"] - 0.25).abs().max() < 0.02 and (shares["valid"] - 0.1).abs().max() < 0.02
    assert counts.sum().to_dict() == {"test": 654, "train": 1707, "valid": 263}


def test_no_image_is_there_twice(small: np.ndarray) -> None:
    assert manifest()["file"].is_unique and manifest()["sha256"].is_unique
    assert len({image.tobytes() for image in small}) == len(small)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda lines: lines[:-1], "lists 2623 images; those of elpv-dataset 1.0.0 are 2624"),
        (lambda lines: ["images/cell0001.png 0.5 mono", *lines[1:]], "line 1: 'images/cell0001.png 0.5 mono' is not"),
        (lambda lines: [*lines[:-1], "images/cell2624.png 1.0 thin"], "line 2624: "),
        (lambda lines: ["../images/cell0001.png 1.0 mono", *lines[1:]], "line 1: "),
        (lambda lines: ["images/cell9999.png 1.0 mono", *lines[1:]], "cell9999.png: cannot be read"),
    ],
)
def test_a_damaged_list_is_refused(copy: Path, damage: object, sentence: str) -> None:
    lines = (copy / "labels.csv").read_text().splitlines()
    (copy / "labels.csv").write_text("\n".join(damage(lines)))
    with pytest.raises(UsageError) as error:
        make_manifest(copy)
    assert sentence in str(error.value)


# What a run gets


def test_the_test_split_is_grey_and_has_its_true_probabilities(small: np.ndarray) -> None:
    task = load()
    rows = manifest()[manifest()["split"] == "test"]
    assert task.ids == tuple(rows["file"]) and task.image_shape == (1, 64, 64) and task.images.dtype == np.uint8
    assert np.array_equal(task.images, small[rows.index])
    np.testing.assert_allclose(task.attribute, rows["probability"], atol=1e-6)
    assert np.isnan(task.targets).all() and task.masks is None


def test_images_to_compare_with_are_none_that_a_network_was_trained_on(small: np.ndarray) -> None:
    rows = manifest().set_index("file")
    for split in ("test", "train"):
        found = load(limit=3, split=split).held_out
        assert set(rows.loc[list(found.ids), "split"]) == {"valid", "test"} and len(found.ids) == 263 + 654
        assert np.array_equal(found.images, small[[rows.index.get_loc(name) for name in found.ids]])
        np.testing.assert_allclose(found.values, rows.loc[list(found.ids), "probability"], atol=1e-6)


def test_training_images_are_read_as_the_others(small: np.ndarray) -> None:
    task = load(limit=5, split="train")
    place = {name: index for index, name in enumerate(manifest()["file"])}
    assert np.array_equal(task.images, small[[place[name] for name in task.ids]])


@pytest.mark.parametrize("size", [64, 128])
def test_shrinking_averages_instead_of_leaving_pixels_out(size: int) -> None:
    rows = manifest().iloc[::700]
    for name, image in zip(rows["file"], read_pixels(data_folder(""), rows, size), strict=True):
        with Image.open(data_folder("") / name) as file:
            assert file.size == (SIDE, SIDE) and file.mode == "L"
            original = np.asarray(file, dtype=float)
            nearest = np.asarray(file.resize((size, size), Image.Resampling.NEAREST), dtype=float)
        expected = triangle(size) @ original @ triangle(size).T
        assert np.abs(image[..., 0] - expected).max() < 1.5  # grey levels, of which rounding twice takes one
        assert image.shape == (size, size, 1) and np.abs(image[..., 0] - nearest).max() > 5


def test_the_larger_size_is_that_of_every_image_of_a_task() -> None:
    task = load(limit=2, size=128)
    assert task.image_shape == (1, 128, 128) and task.held_out.images.shape == (917, 128, 128, 1)


def triangle(size: int) -> np.ndarray:
    """Weights (size, 300) of a triangle as wide as two of the new pixels, with rows that sum to 1."""
    scale = SIDE / size
    centres = (np.arange(size) + 0.5) * scale
    weights = np.clip(1 - np.abs(np.arange(SIDE) + 0.5 - centres[:, None]) / scale, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def test_a_larger_limit_contains_a_smaller_one() -> None:
    few, more = load(limit=16), load(limit=40)
    assert len(few.ids) == 16 and set(few.ids) < set(more.ids) and list(few.ids) == sorted(few.ids)
    rows = manifest().set_index("file").loc[list(more.ids)]
    assert set(rows["type"]) == {"mono", "poly"} and rows["probability"].nunique() > 2


@pytest.mark.parametrize("kind", ["mono", "poly"])
def test_cells_of_one_type(kind: str) -> None:
    task, rows = load(type=kind), manifest().set_index("file")
    rows = rows[rows["type"] == kind]
    assert set(rows.loc[list(task.ids), "type"]) == {kind}
    assert task.ids == tuple(rows.index[rows["split"] == "test"])
    assert task.held_out.ids == tuple(rows.index[rows["split"] != "train"]), "real images to compare with, too"
    assert len(task.held_out.images) == len(task.held_out.values) == len(task.held_out.ids)
    assert set(load(limit=1).held_out.ids) > set(task.held_out.ids), "those of all types are not mixed up with them"


def test_the_target_is_what_the_regressor_does_not_see() -> None:
    source = ElpvDataset(ElpvConfig())
    task = source.load(4)
    assert source.needs_predictions
    turned = source.retarget(task, np.array([0.0, 0.49, 0.5, 1.0]))
    assert turned.targets.tolist() == [1, 1, 0, 0] and turned.digest != task.digest
    with pytest.raises(UsageError, match=f"{task.ids[2]} is nan"):
        source.retarget(task, np.array([0, 1, np.nan, 1]))


def test_one_reference_value_for_every_image() -> None:
    source = ElpvDataset(ElpvConfig(target=0.25))
    task = source.load(3)
    assert not source.needs_predictions and task.targets.tolist() == [0.25] * 3
    assert source.retarget(task, np.zeros(3)) is task
    for value in (1.5, -0.1, float("nan")):
        assert f"elpv.target={value} is outside [0, 1]" in refused(target=value)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("elpv.type=mnoo", "elpv.type: Input should be 'all', 'mono' or 'poly' (got 'mnoo')"),
        ("elpv.size=96", "elpv.size: Input should be 64 or 128 (got 96)"),
        ("elpv.target=oposite", "Input should be 'opposite' (got 'oposite')"),
        ("elpv.split=all", "elpv.split: Input should be 'train', 'valid' or 'test'"),
        ("elpv.tpye=mono", "elpv.tpye"),
    ],
)
def test_options_that_are_spelled_wrong(assignment: str, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        component_options(build_config(None, [assignment], {"dataset": ["elpv"]}), "dataset", "elpv")
    assert sentence in str(error.value)


def test_networks_are_shipped_for_64_pixels_only() -> None:
    assert ElpvDataset(ElpvConfig()).weights["type"] == "elpv-type"
    assert ElpvDataset(ElpvConfig(size=128)).weights == {}


# What is refused


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "images/cell0002.png").unlink()
    sentence = refused(path=str(copy))
    assert "cell0002.png: cannot be read (No such file or directory); install elpv-dataset again" in sentence


def resaved(path: Path) -> bytes:
    """The same pixels in a file of other bytes."""
    with Image.open(path) as image:
        image.save(path.with_name("again.png"), compress_level=1)
    return path.with_name("again.png").read_bytes()


@pytest.mark.parametrize("damage", ["cut off", "one byte", "saved again", "in colour"])
def test_a_file_that_is_not_the_published_one_is_named(copy: Path, damage: str) -> None:
    path = copy / "images/cell0002.png"
    data = path.read_bytes()
    if damage == "cut off":
        data = data[:-100]
    elif damage == "one byte":
        data = data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]
    elif damage == "saved again":
        data = resaved(path)
    else:
        Image.fromarray(as_rgb(np.zeros((SIDE, SIDE, 1), np.uint8))).save(copy / "x.png")
        data = (copy / "x.png").read_bytes()
    replace(path, data)
    assert f"{path} is not the file of elpv-dataset 1.0.0" in refused(path=str(copy))


def test_a_folder_that_is_not_there() -> None:
    assert "elpv.path=/nowhere: not a folder" in refused(path="/nowhere")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)  # as Python itself marks a module that is not there
    sentence = refused()
    assert "pip install '.[elpv]'" in sentence and LICENCE in sentence and "elpv.path=DIR" in sentence
    assert data_folder(str(copy)) == copy
    assert "; not installed (pip install '.[elpv]')" in CliRunner().invoke(app, ["ls", "datasets"]).output


# Where it is told


def test_every_dataset_is_listed_with_its_source_and_licence() -> None:
    assert set(SOURCES) == set(DATASETS)
    lines = CliRunner().invoke(app, ["ls", "datasets"]).output.splitlines()
    assert [line.strip().partition(":")[0] for line in lines] == ["datasets", *DATASETS]
    (line,) = [line for line in lines if line.startswith("  elpv: ")]
    assert LICENCE in line and line.endswith("; installed")


def test_a_record_names_the_version_of_the_images() -> None:
    assert package_versions()["elpv-dataset"] == importlib.metadata.version("elpv-dataset")
