"""Reconstructions in the record, and the picture of several reference values made from records."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from bench.cell import Cell, build_method
from bench.cell_run import CellRun
from bench.cell_timings import note_search
from bench.cli import app
from bench.config import PRESETS, build_config, component_options
from bench.energy import EnergyMeter
from bench.errors import UsageError
from bench.images import read_image, write_png
from bench.progress import Display
from bench.record import CellRecord, Journal, SuiteRecord, now, write_json
from bench.timings import Session
from methods.outcomes import SearchStatistics
from reports.figures import signed_difference, spread
from reports.sweep import Picture, Strip, strips, sweep_figure, write_sweep
from tests.tiny_cell import run_cell, tiny_cell

TARGETS = (0.48, 0.52)
FACTS = {"cpu": "", "cores": 1, "device": "cpu", "packages": {"torch": ""}, "git": {"commit": ""}}


def small_cell(networks: dict[str, nn.Module], method: str, **options: Any) -> Cell:
    """Two images, two steps at most."""
    cell = tiny_cell(networks, method, slots=2, count=2, metrics={"noise_draws": 0}, **options)
    cell.options[method] = cell.options[method].model_copy(update={"max_steps": 2})
    return cell


def as_suite(record: CellRecord, folder: Path) -> Path:
    """A suite's folder around a cell that `run_cell` made."""
    (folder / "inputs").rename(folder / "inputs-toy")
    suite = SuiteRecord(
        id="toy", command="", config_set={}, config={}, environment=FACTS, cells=[record], started=now()
    )  # fmt: skip
    write_json(folder / "suite.json", suite)
    return folder


@pytest.fixture(scope="module")
def swept(
    networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cell, CellRecord, pd.DataFrame, Path]:
    """A cell with reconstructions, what it gave, and its suite's folder."""
    cell = small_cell(networks, "diffae-re", targets=TARGETS, reconstructions=True)
    folder = tmp_path_factory.mktemp("swept")
    record, frame = run_cell(cell, folder)
    return cell, record, frame, as_suite(record, folder)


def test_every_image_is_reconstructed_once(
    swept: tuple[Cell, CellRecord, pd.DataFrame, Path], networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    cell, record, frame, suite = swept
    other, without = run_cell(small_cell(networks, "diffae-re", targets=TARGETS), tmp_path)
    folder = suite / cell.id
    names = frame.groupby("source")["reconstruction"].unique()
    assert [len(name) for name in names] == [1, 1]
    assert {file.name for file in (folder / "reconstructions").iterdir()} == {name[0] for name in names}
    judge = CellRun(cell, folder, suite / "inputs-toy", Display(io.StringIO())).judge
    for source, (name,) in names.items():
        saved = read_image(folder / "reconstructions" / name)
        assert set(frame.loc[frame["source"] == source, "reconstruction_prediction"]) == {judge.predict(saved)[0]}
        assert (saved != cell.task.images[cell.task.sources.index(source)]).any()
    # They are made beside the search: the same counterfactuals, and their time is apart.
    assert list(frame["sha256"]) == list(without["sha256"])
    assert "reconstruction" not in without and not (tmp_path / cell.id / "reconstructions").exists()
    assert record.fingerprint == other.fingerprint
    calls = json.loads((folder / "latency.json").read_text())
    phases = sum(sum(calls[phase]) for phase in ("encode_s", "step_s", "refine_s"))
    assert len(calls["reconstruct_s"]) == 1 and record.timings["reconstruct_s"] == sum(calls["reconstruct_s"])
    assert frame["seconds"].sum() == pytest.approx(phases)
    assert record.timings["search_wall_s"] - record.timings["harness_s"] == pytest.approx(phases)
    assert "reconstruct_s" not in other.timings


def test_the_wall_time_of_a_search_leaves_reconstructions_out(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    cell = small_cell(networks, "ac-re")
    runner = CellRun(cell, tmp_path, tmp_path / "inputs", Display(io.StringIO()))
    calls = {"encode": [1.0], "step": [2.0, 2.0], "refine": [0.5], "reconstruct": [3.0]}
    session = Session(2, 0, EnergyMeter("none"), search_s=10.0, statistics=SearchStatistics(calls, 4, 2))
    note_search(runner.record, session, build_method(cell), cell, tmp_path)
    assert (session.search_s, session.method_s, runner.record.timings["reconstruct_s"]) == (7.0, 5.5, 3.0)


def test_an_interrupted_run_keeps_its_reconstructions(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    cell = small_cell(networks, "ac-re", targets=TARGETS, reconstructions=True)
    record, whole = run_cell(cell, tmp_path)
    folder = tmp_path / cell.id
    journal = Journal(folder / "samples.jsonl")
    rows = {row["source"]: row for row in journal.rows()}  # one of each image
    journal.path.unlink()
    for row in rows.values():
        journal.append(row)
    first, second = (folder / "reconstructions" / name for name in whole["reconstruction"].unique())
    written = first.stat().st_mtime_ns
    damaged = read_image(second) // 2
    write_png(second, damaged)
    write_json(folder / "result.json", record.model_copy(update={"status": "interrupted"}))
    _, resumed = run_cell(cell, tmp_path)
    assert len(journal.rows()) == 2 + 3, "the image whose reconstruction is damaged is searched again as a whole"
    assert list(resumed["reconstruction_sha256"]) == list(whole["reconstruction_sha256"])
    assert (read_image(second) != damaged).any()
    assert written == first.stat().st_mtime_ns, "what is recorded is not written again"


def test_a_cell_without_reconstructions_is_not_continued_with_them(
    networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    cell = small_cell(networks, "ac-re", targets=TARGETS)
    run_cell(cell, tmp_path)
    cell.config = cell.config.model_copy(update={"reconstructions": True})
    with pytest.raises(UsageError, match="without reconstructions; use --fresh"):
        run_cell(cell, tmp_path)
    cell.config = cell.config.model_copy(update={"reconstructions": False})
    assert run_cell(cell, tmp_path)[0].status == "ok"


# The figure


def grey(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def test_signed_differences_and_choice_of_images() -> None:
    image = grey(100)
    image[0, 0] = (151, 100, 100)
    difference = signed_difference(grey(100), image)
    assert difference[0, 0] == pytest.approx(51 / 3 / 255) and difference[1:].max() == 0
    assert signed_difference(grey(255), grey(0)).min() == -1
    assert spread(["a", "b", "c", "d", "e"], 3) == ["a", "c", "e"]
    assert spread(["a", "b"], 5) == ["a", "b"] and spread(["a"], 1) == ["a"]


def strip(**changes: Any) -> Strip:
    """Input 100, reconstruction 120, and counterfactuals one of which failed."""
    pictures = {0.2: Picture(grey(60), "r 0.20"), 0.4: Picture(None, "failed", False)}
    return replace(Strip("m\na", Picture(grey(100), "r 0.3"), Picture(grey(120), "r 0.31"), pictures), **changes)


@pytest.mark.parametrize(("base", "value"), [("reconstruction", -60 / 255), ("input", -40 / 255)])
def test_what_is_in_the_figure(base: Any, value: float) -> None:
    figure = sweep_figure([strip(), strip(counterfactuals={0.6: Picture(grey(200), "r 0.6", False)})], base)
    axes = np.array(figure.axes[: 4 * 5]).reshape(4, 5)
    images = [[axis.images[0] if axis.images else None for axis in line] for line in axes]
    assert [image is not None for image in images[0]] == [True, True, True, False, False]
    assert [image is not None for image in images[1]] == [False, True, True, False, False]
    assert [image is not None for image in images[3]] == [False, True, False, False, True]
    np.testing.assert_array_equal(images[0][1].get_array(), grey(120))
    assert images[1][1].get_array()[0, 0] == pytest.approx(20 / 255), "of the reconstruction: to the input"
    assert images[1][2].get_array()[0, 0] == pytest.approx(value)
    drawn = [image for line in (images[1], images[3]) for image in line if image is not None]
    assert {image.get_clim() for image in drawn} == {(-0.5, 0.5)}, "one fixed scale"
    assert axes[0, 2].title.get_color() != axes[2, 4].title.get_color(), "what is not valid is marked"
    assert {text.get_text() for text in figure.texts} == {
        "input", "reconstruction", "target 0.2", "target 0.4", "target 0.6"
    }  # fmt: skip


def test_differences_to_missing_reconstructions_are_refused() -> None:
    bare = strip(reconstruction=Picture(None, "none"))
    with pytest.raises(UsageError, match="no reconstruction of m, a is recorded"):
        sweep_figure([bare], "reconstruction")
    assert sweep_figure([bare], "input").axes


def test_the_figure_from_records(swept: tuple[Cell, CellRecord, pd.DataFrame, Path], tmp_path: Path) -> None:
    cell, _, frame, folder = swept
    found = strips([folder], 2)
    assert [list(strip.counterfactuals) for strip in found] == [list(TARGETS)] * 2
    np.testing.assert_array_equal(found[1].original.pixels, cell.task.images[-1])
    row = frame.loc["toy/1@0.52"]
    np.testing.assert_array_equal(
        found[1].counterfactuals[0.52].pixels, read_image(folder / cell.id / "images" / row["image"])
    )
    assert found[1].counterfactuals[0.52].title == f"r {row['prediction']:.2f}"
    result = CliRunner().invoke(
        app, ["report", str(folder), "--sweep", str(tmp_path / "out" / "s.png"), "--images", "1"]
    )
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / "s.png") as image:
        assert image.width > image.height > 250
    wrong = CliRunner().invoke(app, ["report", str(folder), "--sweep", "s.png", "--difference", "inputs"])
    assert isinstance(wrong.exception, UsageError) and "did you mean 'input'" in str(wrong.exception)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / cell.id / "reconstructions" / row["reconstruction"]).unlink()
    with pytest.raises(UsageError, match="run the cell again"):
        strips([broken], 2)


def test_one_value_an_image_makes_no_sweep(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    record, _ = run_cell(small_cell(networks, "ac-re"), tmp_path)
    with pytest.raises(UsageError, match="one reference value an image; run it with --target"):
        write_sweep([as_suite(record, tmp_path)], tmp_path / "s.png")
    assert not (tmp_path / "s.png").exists()


# Presets


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.toml")))
def test_presets_have_options_that_their_methods_take(name: str) -> None:
    config = build_config(name, [], {})
    for method in {*config.method, *(name for name in config.options if name.startswith(("ac-re", "diffae-re")))}:
        component_options(config, "method", method)


def test_the_papers_settings_on_faces() -> None:
    config = build_config("celebahq", [], {})
    ac_re = component_options(config, "method", "ac-re")
    expected = {"respacing": "25", "depth": 5, "max_steps": 200, "dilation": 15, "threshold": 0.15}
    assert ac_re.model_dump(include=set(expected)) == expected
    assert ac_re.step_size == pytest.approx(1 / 255, rel=1e-12)
    diffae_re = component_options(config, "method", "diffae-re")
    expected = {"lr": 0.002, "decoding_steps": 10, "distance_weight": 1e-5, "max_steps": 200, "distance": "l1"}
    assert diffae_re.model_dump(include=set(expected)) == expected
    assert config.metrics.filter_respacing == "25" and config.dataset == ("celebahq",)
    for name in ("granular", "granular-square"):
        granular = build_config(name, [], {})
        assert granular.reconstructions and granular.targets == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    faces = build_config("granular", [], {})
    assert faces.options == config.options, "the same settings as the preset for faces"
