"""Results on ELPV: figures against hand-computed ones, real records of tiny networks end to end, refusals, gallery."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bench.checkpoints import load_network
from bench.config import build_config
from bench.datasets.elpv_files import data_folder, manifest, read_pixels
from bench.elpv.changes import DEFECTS, brightness_changes, defects
from bench.elpv.estimates import against_floor, figures, granular, groups, on_originals, real_images, rounded
from bench.elpv.results import Results, lines_of, main, write_gallery
from bench.errors import UsageError
from bench.images import read_saved, to_float
from metrics.measured import Measured
from metrics.sparsity import changed_area
from reports.elpv_gallery import ATTRIBUTION, Line, Shown, gallery_figure, gallery_png
from tests.synthetic_elpv import run_elpv, write_networks

LIMIT = 6
METHODS = ("pgd-re", "ac-re", "diffae-re")


def table(count: int = 4, **columns: object) -> pd.DataFrame:
    """Samples as `table_of` gives them, all alike unless told otherwise."""
    plain: dict[str, object] = {
        "id": [f"images/cell{number:04d}.png" for number in range(count)],
        "target": 1.0, "start": 0.2, "prediction": 0.98, "oracle": 0.8, "oracle_before": 0.3, "probability": 0.0,
        "type": "mono", "failure": None, "valid": 1.0, "prediction_error": 0.02, "oracle_target_mae": 0.2,
        "oracle_regressor_mae": 0.18, "change_l1": 0.1, "steps": 7, "forward": 35, "backward": 35, "seconds": 2.0,
        "brightened_area": 0.1, "darkened_area": 0.3, "brightness_change": -0.05,
    }  # fmt: skip
    return pd.DataFrame(plain | dict.fromkeys(DEFECTS, 0.01) | columns).set_index("id")


# Presets


def test_presets_share_the_settings_of_the_methods() -> None:
    own = build_config(None, [], {"dataset": ["elpv"]})
    assert own.dataset == ("elpv",) and own.method == ("ac-re", "diffae-re") and own.limit == 16 and not own.targets
    several = build_config("granular-elpv", [], {})
    assert several.dataset == ("elpv",) and several.reconstructions
    assert np.allclose(np.array(several.targets) * 3, [0, 1, 2, 3], atol=1e-12)
    assert several.options == own.options != {}


# Figures


def test_brightness_changes_are_shares_and_a_signed_mean() -> None:
    original = np.full((4, 4, 1), 100, np.uint8)
    changed = original.copy()
    changed[0] += 51  # a fifth of the range
    changed[1, :2] -= 51
    changed[2] += 12  # below the threshold, 12.75
    found = brightness_changes(original, changed)
    assert found["brightened_area"] == 4 / 16 and found["darkened_area"] == 2 / 16
    assert found["brightness_change"] == pytest.approx((4 * 51 - 2 * 51 + 4 * 12) / 16 / 255)
    flipped = brightness_changes(changed, original)
    assert flipped["brightened_area"] == 2 / 16 and flipped["brightness_change"] == -found["brightness_change"]
    with pytest.raises(ValueError, match="no difference"):
        brightness_changes(original, changed[:2])


def test_brightened_and_darkened_area_make_the_changed_area() -> None:
    pair = read_pixels(data_folder(""), manifest().iloc[:2], 64)
    found = brightness_changes(pair[0], pair[1])
    images = to_float(pair)
    ones = np.ones(1)
    measured = Measured(images[:1], images[1:], ones, ones, ones, None, 0.05)
    assert found["brightened_area"] + found["darkened_area"] == pytest.approx(changed_area(measured)[0])
    assert 0 < found["brightened_area"] < 1


def test_defects_rise_where_a_dark_area_is_drawn() -> None:
    image = read_pixels(data_folder(""), manifest().iloc[[3]], 64)[0]
    dark = image.copy()
    dark[20:40, 20:40] //= 4
    assert defects(dark)["dark_area_change"] > defects(image)["dark_area_change"] + 0.03
    assert set(defects(image)) == set(DEFECTS)


def test_figures_count_failures_as_misses_and_leave_them_out_of_means() -> None:
    frame = table(
        4,
        failure=[None, None, None, "nonfinite@step 3"],
        valid=[1.0, 1.0, 0.0, 0.0],
        oracle_target_mae=[0.1, 0.2, 0.3, np.nan],
        oracle_before=[0.5, 0.5, 0.0, 0.9],
        type_preserved=[1.0, 0.0, 1.0, np.nan],
        changed_area=[0.1, 0.2, 0.3, np.nan],
    )
    found = figures(frame, "ac-re", "all")
    assert (found["success_rate"].value, found["success_rate"].n) == (0.5, 4)
    assert found["failure_rate"].value == 0.25
    assert (found["oracle_target_mae"].value, found["oracle_target_mae"].n) == (pytest.approx(0.2), 3)
    assert found["oracle_target_mae_before"].value == pytest.approx((0.5 + 0.5 + 1.0) / 3), "without the failed one"
    assert found["oracle_share"].value == pytest.approx(1 - 0.6 / 2.0)
    assert found["type_preserved"].value == pytest.approx(2 / 3) and found["type_preserved"].n == 3
    assert found["changed_area"].value == pytest.approx(0.2)
    assert found["seconds_per_valid"].value == pytest.approx(4.0)
    low, value, high = (getattr(found["oracle_target_mae"], name) for name in ("low", "value", "high"))
    assert low < value < high
    assert figures(frame, "ac-re", "all") == found, "the same resamples every time"


def test_figures_that_a_record_lacks_are_left_out() -> None:
    found = figures(table(), "ac-re", "all")
    assert not {"type_preserved", "changed_area", "lpips", "noise_success_rate"} & set(found)
    assert {"change_l1", "darkened_area", *DEFECTS} <= set(found)
    lost = table(2, failure="nonfinite@step 1", valid=0.0, oracle_target_mae=np.nan, prediction_error=np.nan)
    assert figures(lost, "ac-re", "all")["oracle_target_mae"].value is None
    assert "oracle_share" not in figures(lost, "ac-re", "all")


def test_an_oracle_that_saw_nothing_went_no_share_of_the_way() -> None:
    unmoved = table(3, oracle_before=[0.1, 0.2, 0.3], oracle_target_mae=[0.9, 0.8, 0.7])
    assert figures(unmoved, "m", "all")["oracle_share"].value == pytest.approx(0, abs=1e-12)
    arrived = table(3, oracle_target_mae=0.0)
    assert figures(arrived, "m", "all")["oracle_share"].value == 1
    away = table(3, oracle_before=0.6, oracle_target_mae=0.8)
    assert figures(away, "m", "all")["oracle_share"].value == pytest.approx(-1)


def test_groups_are_directions_types_and_both() -> None:
    frame = table(5, target=[0.0, 1.0, 1.0, 0.0, 1.0], type=["mono", "poly", "poly", "poly", "mono"])
    assert {name: len(part) for name, part in groups(frame).items()} == {
        "all": 5, "to 0": 2, "to 1": 3, "mono": 2, "poly": 3,
        "mono to 0": 1, "mono to 1": 1, "poly to 0": 1, "poly to 1": 2,
    }  # fmt: skip


def test_difference_to_the_floor_is_paired() -> None:
    count = 14
    base = np.linspace(0.2, 0.8, count)
    floor = table(count, oracle_target_mae=base, valid=[0.0] * 4 + [1.0] * 10)
    ours = table(count, oracle_target_mae=base - 0.1 + 0.01 * (np.arange(count) % 2))
    ours.iloc[-1, ours.columns.get_loc("oracle_target_mae")] = np.nan  # failed
    ours.iloc[-2, ours.columns.get_loc("valid")] = 0.0
    found = against_floor(ours, floor, "ac-re", "all")
    # The images differ far more than the methods: only pairs give so short an interval.
    assert found["difference"].n == 13
    assert found["difference"].value == pytest.approx(-0.1 + 0.01 * 6 / 13)
    assert -0.1 < found["difference"].low < found["difference"].high < -0.09
    assert found["difference_both_valid"].n == 8 and found["difference_both_valid"].low is None, "too few pairs"
    backwards = against_floor(floor, ours, "ac-re", "all")
    assert backwards["difference"].value == pytest.approx(-found["difference"].value)


def test_errors_on_photographs_and_on_real_ones_of_the_target() -> None:
    frame = table(4, target=[1.0, 1.0, 0.0, 0.0], probability=[0.0, 1 / 3, 1.0, 1.0], start=[0.0, 0.3, 0.97, 0.6])
    before = on_originals(frame, "all")
    assert before["regressor_mae"].value == pytest.approx((0 + 1 / 30 + 0.03 + 0.4) / 4)
    assert before["oracle_mae"].value == pytest.approx((0.3 + 1 / 30 + 0.7 + 0.7) / 4)
    assert before["oracle_target_mae"].value == pytest.approx((0.7 + 0.7 + 0.3 + 0.3) / 4)
    real = real_images(frame, 0.05)
    assert list(real) == ["to 0", "to 1"]
    assert (real["to 0"]["success_rate"].n, real["to 1"]["success_rate"].n) == (1, 2), "by their true value"
    assert real["to 1"]["success_rate"].value == 0.5
    assert real["to 1"]["oracle_target_mae"].value == pytest.approx(0.7)


def test_granular_figures_are_by_reference_value() -> None:
    frame = table(6, target=[0.0, 1 / 3, 1.0] * 2, prediction=[0.1, 0.4, 0.9, 0.2, 0.3, np.nan], source="x")
    frame.loc[frame.index[-1], "failure"] = "nonfinite@step 1"
    found = granular(frame, "ac-re")
    assert list(found) == ["to 0", "to 0.333", "to 1"]
    assert found["to 0"]["prediction"].value == pytest.approx(0.15)
    assert (found["to 1"]["prediction"].value, found["to 1"]["prediction"].n) == (0.9, 1)
    assert found["to 1"]["success_rate"].n == 2


def test_rounded_figures_keep_their_limits() -> None:
    part = rounded(figures(table(3, change_l1=[0.123456789, 0.2, 0.3]), "m", "all"))["change_l1"]
    assert part["value"] == 0.20782 and set(part) == {"value", "low", "high", "n", "unit"}


# Real records


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elpv")
    return run_elpv(folder / "run", write_networks(folder), limit=LIMIT)


@pytest.fixture(scope="module")
def results(record: Path) -> Results:
    return Results([record])


def cell_of(folder: Path, method: str) -> Path:
    return folder / f"elpv--{method}--eager--s0"


@pytest.fixture
def copied(record: Path, tmp_path: Path) -> Path:
    """A copy to damage; its networks stay where they are."""
    return Path(shutil.copytree(record, tmp_path / "run"))


def edit_samples(folder: Path, method: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = cell_of(folder, method) / "samples.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def edit_record(folder: Path, method: str, change: Callable[[dict], object]) -> None:
    path = cell_of(folder, method) / "result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_record_becomes_results_and_a_gallery(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "deep" / "elpv.json", tmp_path / "deeper" / "elpv.png"
    assert main([str(record), "--results", str(out), "--gallery", str(picture), "--first", "2"]) == 0
    found = json.loads(out.read_text())
    assert found["command"].startswith("python -m bench.elpv.results") and found["licence_of_the_images"]
    assert list(found["methods"]) == list(METHODS)
    assert found["images"]["all"] == LIMIT == found["images"]["to 0"] + found["images"]["to 1"]
    assert min(found["images"].values()) > 0, "the tiny regressor predicts on both sides of 0.5"
    for method, entry in found["methods"].items():
        frame = pd.read_parquet(cell_of(record, method) / "samples.parquet")
        whole, summary = entry["all"], json.loads((cell_of(record, method) / "result.json").read_text())["summary"]
        assert whole["success_rate"]["value"] == pytest.approx(frame["valid"].mean(), abs=1e-5)
        assert whole["oracle_target_mae"]["value"] == pytest.approx(frame["oracle_target_mae"].mean(), abs=1e-5)
        for key, name in (
            ("target_class_distance", "realism/target_class_distance"),
            ("type_preserved", "type/preserved"),
        ):
            assert whole[key]["value"] == pytest.approx(summary[name]["value"], abs=1e-5)
        assert whole["brightened_area"]["value"] + whole["darkened_area"]["value"] == pytest.approx(
            whole["changed_area"]["value"], abs=2e-5
        )
        assert entry["record"]["weights"]["oracle"] == found["weights"]["oracle"]
        assert entry["left_out_images"] == 0 and "difference" not in found["methods"]["pgd-re"]["all"]
    difference = found["methods"]["ac-re"]["all"]["difference"]
    pair = [found["methods"][method]["all"]["oracle_target_mae"]["value"] for method in ("ac-re", "pgd-re")]
    assert difference["value"] == pytest.approx(pair[0] - pair[1], abs=2e-5) and difference["n"] == LIMIT
    told = capsys.readouterr()
    assert "oracle - target" in told.out and "Real images" in told.out and "floor" not in told.err
    with Image.open(picture) as image:
        assert image.mode == "P" and image.width > 1_000 and picture.stat().st_size < 500_000


def test_the_oracle_sees_the_photographs_of_the_package(record: Path, results: Results) -> None:
    rows = manifest().set_index("file").loc[results.ids].reset_index()
    config = json.loads((record / "suite.json").read_text())["config"]
    oracle = load_network(config["weights"]["oracle"], "oracle").network
    with torch.no_grad():
        expected = oracle(torch.from_numpy(to_float(read_pixels(data_folder(""), rows, 64))))
    frame = results.tables["ac-re"]
    assert frame["oracle_before"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert frame["probability"].tolist() == rows["probability"].tolist()
    assert frame["type"].tolist() == rows["type"].tolist()
    assert frame["probability"].to_numpy() == pytest.approx(frame["attribute"].to_numpy(), abs=1e-6)


def test_markdown_on_request(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(record), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"**all: {LIMIT} images**" in lines
    assert any(line.startswith("| success (saved image) |") for line in lines)


def test_only_common_images_are_compared(copied: Path) -> None:
    edit_samples(copied, "ac-re", lambda frame: frame.iloc[1:4])
    found = Results([copied])
    assert len(found.ids) == 3 and all(len(frame) == 3 for frame in found.tables.values())
    content = found.content()
    assert content["methods"]["pgd-re"]["left_out_images"] == LIMIT - 3
    assert "target_class_distance" not in content["methods"]["pgd-re"]["all"], "that is of the whole cell"
    assert "target_class_distance" in content["methods"]["ac-re"]["all"]


def test_a_record_of_several_reference_values(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_samples(copied, "ac-re", lambda frame: frame.assign(source=frame["id"].to_numpy()[[0, 0, 1, 1, 2, 2]]))
    found = Results([copied])
    assert list(found.granular) == ["ac-re"] and list(found.cells) == ["pgd-re", "diffae-re"]
    entry = found.content()["granular"]["ac-re"]
    assert entry["images"] == 3 and {"to 0", "to 1", "paths", "record"} <= set(entry)
    assert main([str(copied)]) == 0
    assert "ac-re: 3 images, every reference value" in capsys.readouterr().out


def test_without_the_floor_it_says_so(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_record(copied, "pgd-re", lambda record: record.update(status="failed"))
    assert main([str(copied)]) == 0
    told = capsys.readouterr()
    assert "no run of pgd-re" in told.err and "minus the floor" not in told.out


def other_oracle(record: dict) -> None:
    for part in (record["judged"]["weights"], record["facts"]["weights"]):
        if "oracle" in part:
            part["oracle"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: edit_record(folder, "ac-re", other_oracle), "different networks as weights.oracle"),
        (
            lambda folder: edit_record(folder, "ac-re", lambda r: r["options"]["elpv"].update(size=128)),
            "different options of the data set",
        ),
        (
            lambda folder: edit_samples(folder, "ac-re", lambda f: f.assign(target=1 - f["target"])),
            "for different reference values",
        ),
        (
            lambda folder: edit_samples(folder, "ac-re", lambda f: f.assign(id=f["id"] + "x")),
            "no image in common",
        ),
        (lambda folder: shutil.rmtree(folder / "inputs-elpv"), "is missing"),
        (lambda folder: next((cell_of(folder, "ac-re") / "images").glob("*.png")).write_bytes(b""), "not an image"),
        (
            lambda folder: [edit_record(folder, m, lambda r: r.update(dataset="square")) for m in METHODS],
            "no finished cell of the data set elpv",
        ),
        (
            lambda folder: [edit_record(folder, method, other_oracle) for method in METHODS],
            "is not the file of the record",
        ),
        (
            lambda folder: (folder / "suite.json").write_text(
                json.dumps(
                    (suite := json.loads((folder / "suite.json").read_text()))
                    | {"config": suite["config"] | {"weights": {"oracle": "os:abort"}}}
                )
            ),
            "os:abort is no file",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(
    copied: Path, change: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(copied)
    assert main([str(copied)]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_one_run_of_a_method(record: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(record), str(copied)]) == 2
    assert "give one run of each" in capsys.readouterr().err


# Gallery


def test_the_gallery_takes_the_first_in_file_order_whatever_became_of_them(copied: Path) -> None:
    edit_samples(copied, "ac-re", lambda frame: frame.assign(failure="nonfinite@step 1", valid=0.0, oracle=np.nan))
    found = Results([copied])
    blocks = lines_of(found, ("ac-re", "pgd-re"), 2)
    assert list(blocks) == ["reference value 0", "reference value 1"]
    for target, lines in enumerate(blocks.values()):
        frame = found.tables["pgd-re"]
        first = [Path(name).stem for name in sorted(frame.index[frame["target"] == target])[:2]]
        assert [line.name for line in lines] == first
        assert all(line.counterfactuals["ac-re"].pixels is None for line in lines)
        saved = read_saved(found.cells["pgd-re"].image_path(frame.loc[f"images/{first[0]}.png"]))
        assert (lines[0].counterfactuals["pgd-re"].pixels == saved).all()
        original = read_pixels(data_folder(""), manifest()[manifest()["file"] == f"images/{first[0]}.png"], 64)[0]
        assert (lines[0].original.pixels == original).all()


def test_the_gallery_needs_its_methods(results: Results, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--methods"):
        write_gallery(results, tmp_path / "x.png", 2, ("ac-re", "ac-re-gn"))
    assert not (tmp_path / "x.png").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["x", "--first", "0"])


def picture(level: int) -> np.ndarray:
    return np.full((64, 64, 1), level, np.uint8)


def test_the_gallery_marks_what_is_not_valid_and_what_failed() -> None:
    line = Line(
        "cell0007",
        "poly",
        2 / 3,
        Shown(picture(100), 0.91, 0.72, True),
        {
            "ac-re": Shown(picture(151), 0.02, 0.11, True),
            "pgd-re": Shown(picture(90), 0.4, 0.5, False),
            "diffae-re": Shown(None, float("nan"), float("nan"), False),
        },
    )
    figure = gallery_figure({"reference value 0": [line]}, list(line.counterfactuals), "the rule")
    labels = [axis.get_xlabel() for axis in figure.axes]
    texts = [text.get_text() for text in figure.texts] + [
        text.get_text() for axis in figure.axes for text in axis.texts
    ]
    assert labels[0] == "cell0007 poly, true 2/3\nr 0.91   o 0.72"
    assert labels[1] == "r 0.02   o 0.11" and labels[3] == "r 0.40   o 0.50\nnot valid"
    assert texts.count("search failed") == 1 and ATTRIBUTION in texts and any("the rule" in text for text in texts)
    assert "CC BY-NC-SA 4.0" in ATTRIBUTION
    change = figure.axes[2].images[0]
    assert np.allclose(change.get_array(), 0.2) and change.get_clim() == (-0.3, 0.3)
    data = gallery_png({"reference value 0": [line]}, list(line.counterfactuals), "the rule")
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    near = (np.abs(pixels.astype(int) - 100) <= 5).all(axis=2)
    assert near.sum() >= 128 * 128, "the photograph, twice as large, its grey as good as kept"
    with pytest.raises(ValueError, match="needs a photograph"):
        gallery_png({"reference value 0": []}, ["ac-re"], "")
