"""Attributes of solar cells measured from their pixels, and what the labels of ELPV go together with."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.datasets.elpv_files import data_folder, manifest, read_pixels
from bench.elpv import attributes
from bench.elpv import confounders as study
from bench.elpv.confounders import OUTER, confounders, group_mean, groups, summarise
from bench.elpv.modules import MODULE_SIZES, modules
from methods import noise

NAMES = tuple(attributes.RANGES)
RANGES = np.array(list(attributes.RANGES.values()))


def photographs(*numbers: int, size: int = 64) -> np.ndarray:
    """Cells by their file numbers, uint8 (N, size, size, 1)."""
    rows = manifest().iloc[[number - 1 for number in numbers]]
    return read_pixels(data_folder(""), rows, size)


def column(values: np.ndarray, name: str) -> np.ndarray:
    return values[:, NAMES.index(name)]


def drawn_cell(size: int = 64) -> np.ndarray:
    """A sound cell, float64 (size, size): level 0.7, slight grain, dark rim and busbars."""
    scale = size // 64
    cell = np.full((64, 64), 0.7) + 0.005 * noise.numpy_normal(3, (64, 64))
    cell[:2] = cell[-2:] = cell[:, :2] = cell[:, -2:] = 0.4
    cell[[10, 31, 52], 5:59] = 0.55
    return np.kron(cell, np.ones((scale, scale)))


def as_images(*cells: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(np.stack(cells), 0, 1) * 255).astype(np.uint8)[..., None]


def planted(cell: np.ndarray) -> dict[str, np.ndarray]:
    """Attribute -> the cell with that changed and nothing else."""
    size = len(cell)
    unit, (rows, columns) = size // 64, np.indices(cell.shape)
    busbars = np.isin(rows // unit, (10, 31, 52)) & (columns >= 5 * unit) & (columns < 59 * unit)
    to_corner = np.minimum(rows, size - 1 - rows) + np.minimum(columns, size - 1 - columns)
    edge = np.minimum.reduce([rows, columns, size - 1 - rows, size - 1 - columns]) < 2 * unit
    within = ~edge & ~busbars
    waves = np.cos(4 * np.pi * (np.arange(size) + 0.5) / size)  # alike in both halves, so that it is no gradient
    patch = (rows >= 35 * unit) & (rows < 45 * unit) & (columns >= 20 * unit) & (columns < 44 * unit)
    crack = (np.abs(rows - columns) < unit) & within & (rows > 12 * unit) & (rows < 50 * unit)
    finger = (np.isin(columns // unit, (20, 40))) & (rows > 12 * unit) & (rows < 30 * unit)
    return {
        "dark area": np.where(patch, 0.3 * cell, cell),
        "oblique lines": np.where(crack, 0.8 * cell, cell),
        "upright lines": np.where(finger, 0.8 * cell, cell),
        "brightness": 0.7 * cell,
        "contrast": cell + 0.2 * np.where(within, waves[rows] * waves[columns], 0),
        "grain": np.where(within, cell + 0.05 * noise.numpy_normal(4, cell.shape), cell),
        "gradient across": cell * (1 + 0.2 * (columns / size - 0.5)),
        "gradient down": cell * (1 + 0.2 * (rows / size - 0.5)),
        "rim": np.where(edge & (to_corner >= 6 * unit), 0.4 * cell, cell),
        "corners": np.where(to_corner < 6 * unit, 0.1 * cell, cell),
        "busbars": np.where(busbars, 0.6 * cell, cell),
        "busbar dashes": np.where(busbars & (columns // (4 * unit) % 2 == 0), cell - 0.2, cell),
    }


# Measures


@pytest.mark.parametrize("size", [64, 128])
def test_a_planted_change_moves_its_attribute_most(size: int) -> None:
    cell = drawn_cell(size)
    changed = planted(cell)
    assert tuple(changed) == NAMES
    values = attributes.measure(as_images(cell, *changed.values()))
    moved = np.abs(values[1:] - values[0]) / RANGES
    for name, row in zip(changed, moved, strict=True):
        order = np.argsort(-row)
        assert NAMES[order[0]] == name, (name, dict(zip(NAMES, row.round(2), strict=True)))
        assert row[order[0]] > 0.25
        assert row[order[1]] < 0.75 * row[order[0]], (name, dict(zip(NAMES, row.round(2), strict=True)))


def test_exposure_shows_in_the_brightness_alone() -> None:
    images = photographs(1, 2, 70, 1000, 1700, 2300)
    values = attributes.measure(images)
    darker = attributes.measure(np.rint(0.8 * images).astype(np.uint8))
    moved = np.abs(darker - values) / RANGES
    assert column(darker, "brightness") == pytest.approx(0.8 * column(values, "brightness"), abs=0.003)
    assert np.delete(moved, NAMES.index("brightness"), axis=1).max() < 0.15, "rounding to 255 levels"


def test_mirrored_and_larger_photographs_measure_alike() -> None:
    numbers = (5, 70, 1330, 1640)
    values = attributes.measure(photographs(*numbers))
    for mirrored in (photographs(*numbers)[:, ::-1], photographs(*numbers)[:, :, ::-1]):
        assert np.abs(attributes.measure(mirrored) - values).max(axis=0) / RANGES == pytest.approx(0, abs=1e-6)
    larger = attributes.measure(photographs(*numbers, size=128))
    assert (np.abs(larger - values).mean(axis=0) / RANGES).max() < 0.25


# Cells of the training split that were looked at: what they show, and one that does not.
SEEN = {
    "dark area": (1655, 2419),  # half of it without current; sound
    "oblique lines": (415, 2267),  # six cracks; sound
    "upright lines": (617, 2245),  # interrupted fingers; sound
    "brightness": (649, 514),
    "contrast": (1645, 407),  # broken; sound
    "grain": (1645, 1006),  # broken; even
    "gradient down": (1903, 106),  # dark below; even
    "rim": (1665, 2118),
    "corners": (1142, 1740),  # mono; poly
    "busbars": (54, 1514),  # thick; thin
    "busbar dashes": (1130, 488),  # dashed; solid
}


def test_photographs_with_and_without_what_is_measured() -> None:
    values = attributes.measure(photographs(*[number for pair in SEEN.values() for number in pair]))
    for index, name in enumerate(SEEN):
        shown, not_shown = column(values, name)[2 * index : 2 * index + 2]
        assert shown - not_shown > 0.5 * attributes.RANGES[name], name


def test_pixels_that_count_are_those_that_were_painted() -> None:
    cell = drawn_cell()
    changed = planted(cell)
    (plain, dark, crack, finger) = as_images(cell, *[changed[name] for name in NAMES[:3]])
    assert not attributes.dark_pixels(plain).any() and not attributes.line_pixels(plain).any()
    painted = (dark != plain)[..., 0]
    assert (attributes.dark_pixels(dark) == painted).all()
    found = attributes.line_pixels(crack)
    assert not (found & ~(crack != plain)[..., 0]).any() and found.sum() > 20
    assert not attributes.line_pixels(crack, upright=True).any()
    upright = attributes.line_pixels(finger, upright=True)
    assert not (upright & ~(finger != plain)[..., 0]).any() and upright.sum() > 15
    assert not attributes.line_pixels(finger).any()


def test_a_cut_corner_is_no_dark_rim() -> None:
    cell = drawn_cell()
    plain, cut = attributes.measure(as_images(cell, planted(cell)["corners"]))
    assert plain[NAMES.index("rim")] == cut[NAMES.index("rim")]


def test_images_that_no_cell_is_are_measured() -> None:
    stripes = np.tile((np.arange(64) % 3 > 0)[:, None] * 0.8, (1, 64))
    values = attributes.measure(as_images(stripes, stripes.T, 1 - stripes, np.ones((64, 64))))
    assert np.isfinite(values).all()
    assert column(values, "busbars")[0] == 0, "half of a cell is no busbar"


def test_images_without_light_are_measured() -> None:
    values = attributes.measure(np.zeros((1, 64, 64, 1), np.uint8))
    assert np.isfinite(values).all() and attributes.measure(np.zeros((0, 64, 64, 1), np.uint8)).shape == (0, 12)


@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (1, 64, 128, 1), (1, 32, 32, 1), (64, 64, 1)])
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is needed"):
        attributes.measure(np.zeros(shape, np.uint8))


# What the labels go together with


def labelled(module: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    """Rows of a manifest with cells of these modules, alternating between train and test within each."""
    first = np.cumsum([0, *MODULE_SIZES[:-1]])
    place = pd.Series(module).groupby(module).cumcount().to_numpy()
    files = [f"images/cell{number:04d}.png" for number in first[module] + place + 1]
    split = np.where(place % 2 == 0, "train", "test")
    return pd.DataFrame({"file": files, "probability": probability, "type": "mono", "split": split})


def test_file_numbers_tell_44_modules_of_one_type_each() -> None:
    """As many as the data set's authors name: 18 of monocrystalline and 26 of polycrystalline cells."""
    rows = manifest()
    assert sum(MODULE_SIZES) == len(rows)
    types = rows["type"].groupby(modules(rows["file"])).unique()
    assert all(len(found) == 1 for found in types)
    assert types.str[0].value_counts().to_dict() == {"poly": 26, "mono": 18}
    shuffled = rows.sample(frac=1, random_state=0)
    assert (modules(shuffled["file"]) == modules(rows["file"])[shuffled.index]).all()


def test_an_attribute_of_the_module_is_told_from_one_of_the_cell() -> None:
    module = np.repeat(np.arange(20), 30)
    jitter = noise.numpy_normal(7, (3, len(module)))
    of_module, of_cell = module % 2 + 0.1 * jitter[0], jitter[1]
    rows = labelled(module, (2 * (module % 2) + of_cell > 1) * 1.0)
    values = np.stack([of_module, of_cell, jitter[2], np.ones(len(module))], axis=1)
    found = {each.attribute: each for each in confounders(("module", "cell", "none", "one"), values, rows)}
    assert next(iter(found)) == "cell", "the strongest within modules first"
    assert found["module"].all.value > 0.5 and found["module"].between > 0.6
    assert abs(found["module"].within.value) < 0.15 < 0.5 < found["cell"].within.value
    assert found["cell"].within.low < found["cell"].within.value < found["cell"].within.high
    assert found["none"].all.low < 0 < found["none"].all.high
    constant = found["one"]
    assert constant.all.value is constant.within.value is constant.between is constant.mono is constant.poly is None


def test_what_a_group_alone_tells() -> None:
    module = np.repeat(np.arange(4), 20)
    rows = labelled(module, (module % 2).astype(float))
    perfect = group_mean(rows, pd.Series(module), "module")
    assert (perfect.auc, perfect.mae) == (1.0, 0.0)
    nothing = group_mean(rows, pd.Series(module // 2), "half")
    assert (nothing.auc, nothing.mae) == (0.5, 0.5)
    rates = groups(rows, pd.Series(module % 2).map({0: "even", 1: "odd"}))
    assert [(each.name, each.cells, each.defect_rate.value) for each in rates] == [("even", 40, 0.0), ("odd", 40, 1.0)]


def test_the_study_counts_the_training_split(tmp_path: Path) -> None:
    every = manifest()
    rows = every[every["split"] == "train"].reset_index(drop=True)
    values = np.tile(np.linspace(0, 1, len(rows))[:, None], len(NAMES))
    found = summarise(values, rows, every)
    assert found.images == len(rows) == sum(each.cells for each in found.modules)
    assert found.ranges["rim"] == pytest.approx(OUTER)
    assert {each.name: each.cells for each in found.types} == {"mono": 698, "poly": 1009}
    assert {each.attribute for each in found.attributes} == {*NAMES, "polycrystalline"}
    by_group = {each.group: each for each in found.group_means}
    assert by_group["module"].auc > 0.7 > 0.55 > by_group["cell type"].auc


def widths(ranges: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Of the study's ranges, with the digits of `attributes.RANGES`."""
    return {name: float(f"{high - low:.3g}") for name, (low, high) in ranges.items()}


def test_the_ranges_are_those_of_the_committed_study() -> None:
    committed = json.loads((Path(study.__file__).parents[2] / "reports/results/elpv-confounders.json").read_text())
    assert list(widths(committed["ranges"]).items()) == list(attributes.RANGES.items())


@pytest.mark.slow
def test_the_command_makes_the_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two minutes: all photographs of the training split."""
    results = tmp_path / "made" / "r.json"
    assert study.main(["--results", str(results)]) == 0
    assert widths(json.loads(results.read_text())["ranges"]) == attributes.RANGES
    assert "dark area" in capsys.readouterr().out


def test_a_missing_folder_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main(["--path", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
