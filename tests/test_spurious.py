"""Which attributes move with the prediction: planted effects, clusters of rows, Square records, a classifier."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from bench.attribute_meters import classifier_meter, elpv_meter, meter_of, probabilities, square_meter, type_values
from bench.checkpoints import Loaded, weights_path
from bench.config import build_config, find_preset
from bench.datasets import square
from bench.datasets.elpv_files import data_folder, manifest, read_pixels
from bench.errors import RunError, UsageError
from bench.ground_truth import true_counterfactuals
from bench.images import file_name, to_float, write_png
from bench.preparing.celebahq import ATTRIBUTES
from bench.progress import Display
from bench.record import CellRecord, SuiteRecord, write_json
from bench.spurious import Ranking, _chance, _parse, main, rank_cell
from bench.suite import run_suite
from methods import noise
from metrics.association import CLEAR, MIN_IMAGES, PERMUTATIONS, Association, Changes, associations, flips, shifts
from reports.spurious import COLOURS, association_figure
from tests.tiny_cell import run_cell, tiny_cell

CELL = "square--diffae-re--eager--s0"


def generator() -> np.random.Generator:
    return noise.numpy_generator("test", "spurious")


def planted(count: int) -> tuple[tuple[str, ...], Changes, np.ndarray, np.ndarray]:
    """An attribute that follows the direction, one against it, one that drifts, one that does neither."""
    upward = np.arange(count) % 3 > 0
    direction = np.where(upward, 1.0, -1.0)
    jitter = noise.numpy_normal(5, (count, 4)) * 0.05
    signed = np.stack([0.2 * direction, -0.4 * direction, np.full(count, -0.9), np.zeros(count)], axis=1) + jitter
    return (
        ("with", "against", "drift", "none"),
        Changes(signed, np.abs(signed) > 0.1, "share"),
        upward,
        np.arange(count),
    )


# Associations


def test_planted_effects_are_ranked_and_signed_and_drift_cancels() -> None:
    found = associations(*planted(60), generator())
    assert [each.attribute for each in found][:2] == ["against", "with"]
    by_name = {each.attribute: each for each in found}
    assert by_name["against"].association.value == pytest.approx(-0.4, abs=0.03)
    assert by_name["with"].association.value == pytest.approx(0.2, abs=0.03)
    for name in ("with", "against"):
        assert by_name[name].q < 0.001
        estimate = by_name[name].association
        assert estimate.low < estimate.value < estimate.high and np.sign(estimate.low) == np.sign(estimate.high)
    drift = by_name["drift"]
    assert drift.association.low < 0 < drift.association.high, "both directions lose it alike"
    assert drift.q > 0.05
    assert drift.up.lowered_rate.value == drift.down.lowered_rate.value == 1.0
    assert drift.up.raised_rate.value == 0.0
    assert drift.up.mean.value == pytest.approx(-0.9, abs=0.03)
    assert (by_name["with"].up.change_rate.n, by_name["with"].down.change_rate.n) == (40, 20)


def test_rows_of_an_image_are_no_images() -> None:
    names, changes, upward, images = planted(30)
    once = associations(names, changes, upward, images, generator())
    many = Changes(np.repeat(changes.signed, 8, axis=0), np.repeat(changes.changed, 8, axis=0), "share")
    often = associations(names, many, np.repeat(upward, 8), np.repeat(images, 8), generator())
    for a, b in zip(once, often, strict=True):
        assert b.association.model_dump() == pytest.approx(a.association.model_dump()), "copies tell nothing new"
        assert b.q == pytest.approx(a.q)
    share = next(each for each in often if each.attribute == "none").up.change_rate
    assert share.n == 20 and share.high - share.low > 0.01


def test_a_rate_counts_rows_not_images_with_a_change() -> None:
    """Half of every image's rows changed: a rate of one half, though every image has a change; and all are alike."""
    images, changed = np.repeat(np.arange(20), 4), np.tile([True, False, True, False], 20)[:, None]
    found = associations(("x",), Changes(changed * 1.0, changed, "share"), np.full(80, True), images, generator())
    assert found[0].up.change_rate.value == 0.5
    assert found[0].up.change_rate.low is found[0].up.mean.low is None, "nothing to resample is no certainty"


def test_q_pays_for_the_number_of_attributes() -> None:
    names, changes, upward, images = planted(30)
    alone = Changes(changes.signed[:, :1], changes.changed[:, :1], "share")
    single = associations(names[:1], alone, upward, images, generator())[0]
    among = next(e for e in associations(names, changes, upward, images, generator()) if e.attribute == "with")
    assert among.q / single.q == pytest.approx(2), "second of four p-values"
    assert among.association.model_dump() == pytest.approx(single.association.model_dump())


def test_an_image_with_both_directions_is_its_own_control() -> None:
    """A change that depends on the image alone is no association where every image was asked for both."""
    images = np.repeat(np.arange(40), 2)
    upward = np.tile([True, False], 40)
    own = np.repeat(noise.numpy_normal(9, (40,)), 2)[:, None]
    found = associations(("own",), Changes(own, np.abs(own) > 0.1, "share"), upward, images, generator())
    assert found[0].association.value == pytest.approx(0, abs=1e-12)


def test_one_direction_keeps_its_sign() -> None:
    names, changes, upward, images = planted(40)
    for side in (True, False):
        kept = upward == side
        part = Changes(changes.signed[kept], changes.changed[kept], "share")
        found = {e.attribute: e for e in associations(names, part, upward[kept], images[kept], generator())}
        assert found["with"].association.value > 0 > found["against"].association.value
        assert (found["with"].up is None) is not side and (found["with"].down is None) is side


def test_few_images_have_no_interval_and_no_q() -> None:
    names, changes, upward, images = planted(MIN_IMAGES - 1)
    found = associations(names, changes, upward, images, generator())
    assert all(e.q is None and e.association.low is None for e in found)
    assert found[0].up.change_rate.low is not None, "Wilson's interval holds for any number"


def of_flips(up: list[float], down: list[float]) -> Association:
    """One attribute that flipped as told, an image each."""
    signed = np.array([*up, *down])[:, None]
    upward = np.arange(len(signed)) < len(up)
    changes = Changes(signed, signed != 0, "net flips")
    return associations(("x",), changes, upward, np.arange(len(signed)), generator())[0]


@pytest.mark.parametrize(
    ("up", "down", "value"),
    [([0.0] * 20, [-1.0], 0.5), ([1.0] * 4, [-1.0], 1.0), ([0.0] * 20, [-1.0] * 4, 0.5), ([0, 1.0] * 9, [0.0], 0.25)],
)
def test_both_directions_need_images(up: list[float], down: list[float], value: float) -> None:
    """Few images of one direction tell nothing about it, however many the other one has."""
    found = of_flips(up, down)
    assert found.association.value == value
    assert found.association.low is found.association.high is found.q is None
    assert of_flips([0, 1.0] * 9, [0, -1.0, 0, 0, -1.0]).association.low is not None


def test_images_of_a_direction_are_counted_not_its_rows() -> None:
    signed = np.array([0, 1.0] * 9 + [-1.0, 0] * 10)[:, None]
    images = np.array([*range(18), *np.repeat([18, 19], 10)])
    found = associations(("x",), Changes(signed, signed != 0, ""), np.arange(38) < 18, images, generator())[0]
    assert found.q is None and found.association.low is None and found.down.change_rate.low is None


def test_identical_changes_have_no_interval_and_an_exact_test() -> None:
    apart = of_flips([1.0] * 20, [-1.0] * 20)
    assert apart.association.value == 1 and apart.association.low is None
    assert apart.q == 1 / (PERMUTATIONS + 1), "no permutation of 20 and 20 comes this far; never zero"
    few = of_flips([1.0] * 5, [0.0] * 5)
    assert few.association.low is None
    assert few.q == pytest.approx(2 / 252, rel=0.3), "2 of the 252 ways to call five of ten images up"
    alone = of_flips([1.0] * 5, [])
    assert alone.association.low is None
    assert alone.q == pytest.approx(2 / 32, rel=0.1) and alone.q > CLEAR, "five signs agree by chance this often"
    drift = of_flips([-1.0] * 20, [-1.0] * 7)
    assert drift.association.value == 0 and drift.association.low is None and drift.q == 1


def test_the_test_is_paired_where_an_image_has_both_directions() -> None:
    """Large differences between images, a small one within them; the signs of eight images agree once in 128."""
    images = np.repeat(np.arange(8), 2)
    upward = np.tile([True, False], 8)
    signed = (np.repeat(np.linspace(-0.5, 0.5, 8), 2) + np.where(upward, 0.01, -0.01))[:, None]
    changes = Changes(signed, np.abs(signed) > 0.1, "share")
    paired = associations(("x",), changes, upward, images, generator())[0]
    assert paired.q == pytest.approx(2 / 256, rel=0.3)
    apart = associations(("x",), changes, upward, np.arange(16), generator())[0]
    assert apart.q > 0.5 and apart.association.value == pytest.approx(paired.association.value)


def test_q_is_rarely_small_without_an_association() -> None:
    """60 attributes without one, rare flips, 30 images up and 6 down; each tested alone."""
    draws = noise.numpy_normal(3, (36, 60))
    signed = (draws > 1.0).astype(float) - (draws < -1.5)
    upward, images = np.arange(36) < 30, np.arange(36)
    small = 0
    for column in signed.T[:, :, None]:
        small += associations(("x",), Changes(column, column != 0, ""), upward, images, generator())[0].q <= 0.05
    assert small <= 8, "one in twenty, and three standard deviations"


def test_flips_and_shifts_by_hand() -> None:
    changes = flips(np.array([[0.4, 0.6, 0.5]]), np.array([[0.6, 0.4, 0.5]]))
    assert changes.signed.tolist() == [[1, -1, 0]] and changes.changed.tolist() == [[True, True, False]]
    changes = shifts(np.array([[10.0, 0.0]]), np.array([[12.0, 0.05]]), np.array([4.0, 1.0]))
    assert changes.signed == pytest.approx(np.array([[0.5, 0.05]])) and changes.changed.tolist() == [[True, False]]


@pytest.mark.parametrize(
    "broken", [lambda: flips(np.array([[np.nan]]), np.array([[0.5]])), lambda: shifts(*np.ones((2, 1, 1)), np.zeros(1))]
)
def test_bad_values_are_refused(broken: Callable[[], Changes]) -> None:
    with pytest.raises(ValueError):
        broken()


def test_shapes_that_do_not_fit_are_refused() -> None:
    names, changes, upward, images = planted(8)
    with pytest.raises(ValueError, match="7 directions"):
        associations(names, changes, upward[1:], images, generator())
    with pytest.raises(ValueError, match="no counterfactual"):
        associations(names, Changes(np.zeros((0, 4)), np.zeros((0, 4), bool), ""), upward[:0], images[:0], generator())


# Records


def square_sample(step: int = 45) -> square.Squares:
    grid = square.load("grid")
    index = list(range(0, len(grid), step))
    return square.Squares(tuple(grid.ids[i] for i in index), grid.images[index], grid.latents[index])


class Images(Protocol):
    """Photographs or squares with their names."""

    ids: tuple[str, ...]
    images: np.ndarray

    def __len__(self) -> int: ...


def write_run(
    folder: Path, data: Images, after: np.ndarray, targets: np.ndarray, dataset: str = "square", **columns: object
) -> Path:
    """A finished suite of one cell on Square images or ELPV, as `bench run` leaves it."""
    inputs, cell = folder / f"inputs-{dataset}", folder / CELL.replace("square", dataset)
    (cell / "images").mkdir(parents=True)
    inputs.mkdir()
    for name, original, changed in zip(data.ids, data.images, after, strict=True):
        write_png(inputs / file_name(name), original)
        write_png(cell / "images" / file_name(name), changed)
    files = [file_name(name) for name in data.ids]
    table = pd.DataFrame(
        {"id": data.ids, "input": files, "image": files, "target": targets, "start": 0.5, "valid": 1.0}
    )
    table["failure"] = None
    table.assign(**columns).to_parquet(cell / "samples.parquet", index=False)
    record = CellRecord(
        id=cell.name, dataset=dataset, method="diffae-re", backend="eager", seed=0, status="ok", fingerprint="f",
        facts={"weights": {"regressor": "r"}}, options={"diffae-re": {"tolerance": 0.05}}, samples=len(data),
        finished=len(data), started="now",
    )  # fmt: skip
    suite = SuiteRecord(
        id=folder.name, command="", status="ok", config_set={}, config={}, environment={}, cells=[record], started="now"
    )
    write_json(folder / "suite.json", suite)
    return folder


def true_run(folder: Path) -> Path:
    """Counterfactuals that change the red alone."""
    data = square_sample()
    after = true_counterfactuals(data.ids)
    return write_run(folder, data, after, np.where(data.latents[:, 0] <= 127, 0.9, 0.1))


def shortcut_run(folder: Path) -> Path:
    """Counterfactuals of a regressor that reads the background and hardly the red."""
    data = square_sample()
    up = data.latents[:, 1] < 128
    latents = data.latents + np.where(up, 1, -1)[:, None] * [12, 100, 0, 0]
    latents[:, 0] = latents[:, 0].clip(0, 255)
    after = np.stack([square.render(*map(int, row), square.noise_for(i)) for i, row in enumerate(latents)])
    return write_run(folder, data, after, np.where(up, 0.9, 0.1))


def test_the_attribute_that_a_regressor_relies_on_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [true_run(tmp_path / "plain"), shortcut_run(tmp_path / "shortcut")]
    results, figure = tmp_path / "made" / "r.json", tmp_path / "made" / "r.png"
    assert main([*map(str, runs), "--results", str(results), "--figure", str(figure)]) == 0
    plain, shortcut = json.loads(results.read_text())["rankings"]
    assert [plain["attributes"][0]["attribute"], shortcut["attributes"][0]["attribute"]] == ["red", "background"]
    assert plain["attributes"][0]["association"]["value"] == pytest.approx(0.47, abs=0.05)
    assert shortcut["attributes"][0]["association"]["value"] == pytest.approx(0.38, abs=0.05)
    assert abs(plain["attributes"][1]["association"]["value"]) < 0.1
    assert shortcut["own"] == ["red"] and shortcut["upward"] + shortcut["downward"] == shortcut["rows"] == 14
    printed = capsys.readouterr().out
    assert "red moves most" in printed and "background moves most" in printed and "which is asked for" in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_rows_that_ask_for_nothing_failed_or_missed_are_left_out(tmp_path: Path) -> None:
    data = square_sample(90)
    failure = [None] * len(data)
    failure[0] = "non-finite"
    start = np.full(len(data), 0.5)
    start[1] = 0.88
    valid = np.ones(len(data))
    valid[2] = 0
    folder = write_run(
        tmp_path / "run", data, data.images, np.full(len(data), 0.9), failure=failure, start=start, valid=valid
    )
    record = SuiteRecord.model_validate_json((folder / "suite.json").read_bytes()).cells[0]
    ranking = rank_cell(folder, record, square_meter())
    assert ranking.left_out == {"failed": 1, "target at the prediction already": 1} and ranking.rows == len(data) - 2
    assert ranking.downward == 0 and all(each.down is None for each in ranking.attributes)
    ranking = rank_cell(folder, record, square_meter(), only_valid=True)
    assert ranking.left_out["not valid"] == 1 and ranking.rows == len(data) - 3


def test_too_few_images_of_a_direction_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = square_sample(90)
    targets = np.where(np.arange(len(data)) < MIN_IMAGES - 1, 0.1, 0.9)
    folder = write_run(tmp_path / "run", data, true_counterfactuals(data.ids), targets)
    assert main([str(folder), "--figure", str(tmp_path / "f.png")]) == 0
    assert "moves most" in (printed := capsys.readouterr().out) and "too few images in a direction" in printed
    assert [_chance(q) for q in (None, 0.0001, 0.04)] == ["-", "<0.001", "0.040"]


def test_several_targets_of_an_image_are_compared_with_that_image(tmp_path: Path) -> None:
    data = square_sample(90)
    folder = write_run(tmp_path / "run", data, data.images, np.full(len(data), 0.9))
    table = pd.read_parquet(folder / CELL / "samples.parquet").assign(source=list(data.ids))
    rows = pd.concat([table.assign(id=table["id"] + f"@{target:g}", target=target) for target in (0.1, 0.7, 0.9)])
    rows.iloc[::-1].to_parquet(folder / CELL / "samples.parquet", index=False)
    record = SuiteRecord.model_validate_json((folder / "suite.json").read_bytes()).cells[0]
    ranking = rank_cell(folder, record, square_meter())
    assert (ranking.rows, ranking.images, ranking.upward, ranking.downward) == (21, 7, 14, 7)
    for each in ranking.attributes:  # unchanged images
        assert each.up.change_rate.value == each.down.change_rate.value == each.up.mean.value == 0


def test_reconstructions_can_be_the_baseline(tmp_path: Path) -> None:
    data = square_sample(90)
    brighter = np.clip(data.images.astype(int) + 30, 0, 255).astype(np.uint8)
    files = [file_name(name) for name in data.ids]
    folder = write_run(tmp_path / "run", data, brighter, np.full(len(data), 0.9), reconstruction=files)
    (folder / CELL / "reconstructions").mkdir()
    for name, pixels in zip(files, brighter, strict=True):
        write_png(folder / CELL / "reconstructions" / name, pixels)
    record = SuiteRecord.model_validate_json((folder / "suite.json").read_bytes()).cells[0]
    against_input = rank_cell(folder, record, square_meter(), "input")
    assert max(each.association.value for each in against_input.attributes) > 0.05
    against_own = rank_cell(folder, record, square_meter(), "reconstruction")
    assert all(each.association.value == 0 and each.q == 1 for each in against_own.attributes)


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "message"),
    [
        (lambda folder: (folder / "suite.json").unlink(), [], 2, "holds no record"),
        (lambda folder: None, ["--baseline", "reconstruction"], 2, "reconstructions=true"),
        (lambda folder: None, ["--attributes", "nowhere.safetensors"], 2, "nowhere.safetensors"),
        (lambda folder: next((folder / CELL / "images").iterdir()).unlink(), [], 1, "run the cell again"),
        (lambda folder: next((folder / "inputs-square").iterdir()).write_bytes(b"x"), [], 1, "run the cell again"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    folder = true_run(tmp_path / "run")
    spoil(folder)
    results = tmp_path / "r.json"
    assert main([str(folder), "--results", str(results), *arguments]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not results.exists()


# Attribute classifier


class ToyClassifier(nn.Module):
    """40 logits; those of two attributes follow the image's brightness, in either direction."""

    def __init__(self, outputs: int = 40) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, image: Tensor) -> Tensor:
        level = 400 * (image.mean(dim=(1, 2, 3)) - 0.5)
        logits = torch.full((len(image), self.outputs), -2.0)
        logits[:, 15 % self.outputs], logits[:, 39 % self.outputs] = level, -level
        return logits


def test_a_classifier_measures_records_of_any_data(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    record, frame = run_cell(tiny_cell(networks, "ac-re", count=7), tmp_path)
    meter = classifier_meter(Loaded(ToyClassifier(), Path("toy.safetensors"), "0" * 64))
    (tmp_path / "inputs").rename(tmp_path / "inputs-toy")
    ranking = rank_cell(tmp_path, record, meter)
    assert ranking.unit == "net flips" and ranking.own == ()
    assert ranking.rows + sum(ranking.left_out.values()) == len(frame)
    by_name = {each.attribute: each for each in ranking.attributes}
    assert set(by_name) == set(ATTRIBUTES)
    assert by_name["Eyeglasses"].association.value == pytest.approx(-by_name["Young"].association.value)
    assert by_name["Bald"].association.value == 0


# Figure


def ranked(own: tuple[str, ...]) -> Ranking:
    """The planted attributes: "against" and "with" move, the others do not."""
    return Ranking(
        run="r", cell="c", dataset="elpv", method="m", backend="b", weights={}, rows=40, images=40, upward=20,
        downward=20, left_out={}, source="s", baseline="input", unit="share", own=own,
        attributes=associations(*planted(40), generator()),
    )  # fmt: skip


def test_a_bar_has_the_colour_of_what_the_regressor_is_asked_for() -> None:
    ranking = ranked(own=("with", "none"))
    figure = association_figure([ranking], 15)
    bars = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    colours = {each.attribute: bar.get_facecolor() for each, bar in zip(ranking.attributes, bars, strict=True)}
    kinds = {"with": "own", "against": "other", "drift": "unclear", "none": "unclear"}
    assert colours == {name: to_rgba(COLOURS[kind]) for name, kind in kinds.items()}
    assert len({to_rgba(colour) for colour in COLOURS.values()}) == len(COLOURS)


# Solar cells


class Photographs(NamedTuple):
    """Real cells; a tuple's length is not their number."""

    ids: tuple[str, ...]
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class ToyType(nn.Module):
    """Calls a cell polycrystalline by its left upper pixel, which is dark where a corner is cut."""

    def forward(self, image: Tensor) -> Tensor:
        return 4 * image[:, 0, 0, 0] - 0.5


def solar_cells() -> Photographs:
    """Twelve sound monocrystalline cells of three modules."""
    rows = manifest()
    rows = rows[(rows["split"] == "test") & (rows["type"] == "mono") & (rows["probability"] == 0)].iloc[::12][:12]
    return Photographs(tuple(rows["file"]), read_pixels(data_folder(""), rows, 64))


def broken_run(folder: Path, dataset: str = "elpv") -> Path:
    """Half of the cells lose current in a corner where 1 is asked for, half get a brighter corner where 0 is."""
    data = solar_cells()
    up = np.arange(len(data)) % 2 == 0
    after = data.images.copy()
    after[up, 14:28, 16:46] //= 4
    after[~up, :3, :3] = 200
    return write_run(folder, data, after, np.where(up, 1.0, 0.0), dataset)


def test_solar_cells_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, results = broken_run(tmp_path / "run"), tmp_path / "r.json"
    assert main([str(folder), "--results", str(results), "--figure", str(tmp_path / "f.png")]) == 0
    (ranking,) = json.loads(results.read_text())["rankings"]
    first = ranking["attributes"][0]
    assert first["attribute"] == "dark area" and first["q"] < 0.05
    assert first["up"]["raised_rate"]["value"] == 1.0 and first["down"]["change_rate"]["value"] == 0.0
    assert ranking["own"] == ["dark area", "oblique lines"] and ranking["unit"] == "share of range"
    assert len(ranking["attributes"]) >= 12
    printed = capsys.readouterr().out
    assert "dark area (asked for)" in printed and "dark area moves most" in printed


def test_own_photographs_of_solar_cells_are_measured_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published, own = broken_run(tmp_path / "published"), broken_run(tmp_path / "own", "folder")
    found = []
    for folder, options in ((published, []), (own, ["--attributes", "elpv"])):
        assert main([str(folder), *options, "--results", str(folder / "r.json")]) == 0
        (ranking,) = json.loads((folder / "r.json").read_text())["rankings"]
        found.append([(each["attribute"], each["association"]["value"]) for each in ranking["attributes"]])
    assert found[0] == found[1]
    assert main([str(own)]) == 2
    assert "--attributes elpv" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"attributes of solar cells: images have shape \(2, 64, 64, 3\)"):
        elpv_meter(None).measure(["a", "b"], np.zeros((2, 64, 64, 3), np.uint8))


def test_the_type_of_solar_cells_is_one_more_attribute(tmp_path: Path) -> None:
    folder = broken_run(tmp_path / "run")
    suite = SuiteRecord.model_validate_json((folder / "suite.json").read_bytes())
    meter = elpv_meter(Loaded(ToyType(), Path("toy.safetensors"), "0" * 64))
    ranking = rank_cell(folder, suite.cells[0], meter)
    poly = {each.attribute: each for each in ranking.attributes}["polycrystalline"]
    assert poly.up.mean.value == 0 and poly.down.mean.value > 0.5
    assert poly.association.value < 0
    assert ranking.source == "measured from the pixels, polycrystalline by toy.safetensors (sha256 000000000000)"


def test_the_runs_own_classifier_of_the_type_is_taken(tmp_path: Path) -> None:
    suite = SuiteRecord.model_validate_json((broken_run(tmp_path / "run") / "suite.json").read_bytes())
    measured = 12 + weights_path("elpv-type").is_file()
    assert len(meter_of(suite, suite.cells[0], None).names) == measured
    larger = suite.model_copy(update={"config": {"options": {"elpv": {"size": 128}}}})
    assert "polycrystalline" not in meter_of(larger, suite.cells[0], None).names, "the shipped one is for 64x64"
    given = suite.model_copy(update={"config": {"weights": {"type": "nowhere.safetensors"}}})
    with pytest.raises(UsageError, match=r"nowhere\.safetensors"):
        meter_of(given, suite.cells[0], None)


def test_a_classifier_of_the_type_that_gives_no_number_is_refused() -> None:
    images = np.zeros((40, 16, 16, 1), np.uint8)
    assert (type_values(ToyType(), images) == 0).all(), "-0.5 is cut off"
    for wrong in (nn.Flatten(), nn.Sequential(ToyType(), Endless())):
        with pytest.raises(UsageError, match="one finite value"):
            type_values(wrong, images)


class Endless(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value / 0


def test_what_is_asked_for_and_comes_later_is_told() -> None:
    ranking = ranked(own=("none", "with"))
    assert ranking.verdict().startswith("against moves most: -0.4")
    told = ranking.verdict().split("; ")[1:]
    assert [text.partition(",")[0] for text in told] == ["with", "none"] and "which is asked for, 0.19" in told[0]


def test_a_classifier_with_other_outputs_is_refused() -> None:
    images = np.zeros((3, 16, 16, 3), np.uint8)
    with pytest.raises(UsageError, match=r"gives \(39,\) values"):
        probabilities(ToyClassifier(39), images)
    values = probabilities(ToyClassifier(), images)
    assert values.shape == (3, 40) and values[0, 15] < 0.5 < values[0, 39]
    assert values[0, 39] == pytest.approx(
        float(torch.sigmoid(ToyClassifier()(torch.from_numpy(to_float(images[:1]))))[0, 39])
    )


def test_data_without_measured_attributes_need_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = true_run(tmp_path / "run")
    text = (folder / "suite.json").read_text().replace('"dataset": "square"', '"dataset": "folder"')
    (folder / "suite.json").write_text(text)
    assert main([str(folder)]) == 2
    assert "give one with --attributes" in capsys.readouterr().err


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    folder = true_run(tmp_path / "run")
    (folder / CELL / "samples.parquet").unlink()
    record = SuiteRecord.model_validate_json((folder / "suite.json").read_bytes()).cells[0]
    with pytest.raises(RunError, match="run the cell again"):
        rank_cell(folder, record, square_meter())


# Presets


def test_the_square_presets_differ_in_the_regressor_alone() -> None:
    plain, correlated = (build_config(name, [], {}) for name in ("spurious-square", "spurious-square-correlated"))
    assert correlated.weights == {"regressor": "square-regressor-correlated"} and plain.weights == {}
    assert correlated.model_copy(update={"weights": {}}) == plain
    assert plain.dataset == ("square",) and plain.limit == 64


def test_the_preset_of_faces_asks_for_both_directions_with_the_papers_settings() -> None:
    faces, paper = build_config("spurious", [], {}), build_config("celebahq", [], {})
    assert faces.targets == (0.1, 0.8) and faces.path == "independent" and faces.reconstructions
    assert faces.model_copy(update={"targets": (), "reconstructions": False}) == paper


def test_the_preset_of_solar_cells_searches_as_their_own_preset_does() -> None:
    cells, own = build_config("spurious-elpv", [], {}), build_config("elpv", [], {})
    assert cells.dataset == ("elpv",) and cells.limit == 64 and cells.reconstructions and not cells.targets
    for method in cells.method:
        assert cells.options.get(method) == own.options.get(method)


@pytest.mark.parametrize("name", ["spurious", "spurious-elpv", "spurious-square", "spurious-square-correlated"])
def test_presets_begin_with_commands_that_parse(name: str) -> None:
    text = find_preset(name).read_text().replace(" \\\n#", "")
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# python")]
    made = [words[words.index("-o") + 1] for words in map(str.split, lines) if "run" in words]
    (ranked,) = [line.removeprefix("python -m bench.spurious ") for line in lines if "bench.spurious" in line]
    assert [str(folder) for folder in _parse(ranked.split()).runs] == made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "first"), [("spurious-square", "red"), ("spurious-square-correlated", "background")]
)
def test_the_trained_regressors_are_told_apart(tmp_path: Path, preset: str, first: str) -> None:
    """Searches on the benchmark itself; a regressor trained on correlated data relies on the background."""
    assignments, flags = ["metrics.noise_draws=0", "tracking.enabled=false"], {"limit": 16}
    _, errors = run_suite(
        build_config(preset, assignments, flags), flags, tmp_path / "run", False, Display(io.StringIO())
    )
    assert errors == []
    results = tmp_path / "r.json"
    assert main([str(tmp_path / "run"), "--results", str(results)]) == 0
    ranked = json.loads(results.read_text())["rankings"][0]["attributes"]
    assert ranked[0]["attribute"] == first and ranked[0]["q"] < 0.05
