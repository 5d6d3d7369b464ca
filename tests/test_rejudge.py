"""Judging again from saved images gives the figures of the run, and refuses what is not the record's."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn
from typer.testing import CliRunner

from bench.cell import fingerprint
from bench.cli import app
from bench.config import build_config
from bench.errors import UsageError
from bench.images import write_png
from bench.progress import Display
from bench.record import CellRecord, Journal, read_cell, read_suite, write_json
from bench.rejudge import rejudge
from bench.suite import run_suite

CELL = "square--diffae-re--eager--s0"
FEW = ["diffae-re.max_steps=1", "diffae-re.inversion_steps=10", "diffae-re.decoding_steps=2"]


def quiet() -> Display:
    return Display(io.StringIO())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images; judged without fresh noise, as an older version did."""
    flags = {"method": ["diffae-re"], "limit": 2, "batch_size": 2, "device": "cpu"}
    folder = tmp_path_factory.mktemp("runs") / "suite"
    run_suite(build_config(None, [*FEW, "metrics.noise_draws=0"], flags), {}, folder, False, quiet())
    suite = read_suite(folder)
    for key in ("noise_draws", "filter_respacing", "filter_depth"):
        del suite.config["metrics"][key]
    cell = suite.cells[0]
    cell.facts["weights"], cell.judged = cell.weights, {}
    cell.fingerprint = fingerprint(cell.facts)
    write_json(folder / CELL / "result.json", cell)
    write_json(folder / "suite.json", suite)
    return folder


@pytest.fixture
def suite(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "suite")
    return tmp_path / "suite"


def test_an_older_record_gains_what_is_new_and_keeps_the_rest(finished: Path, suite: Path) -> None:
    before = read_cell(suite / CELL)
    (suite / CELL / "samples.parquet").unlink()
    rejudge(suite, None, quiet())
    after = read_cell(suite / CELL)
    assert read_suite(suite).cells == [after]
    assert (after.timings, after.execution, after.ended) == (before.timings, before.execution, before.ended)
    assert after.summary.keys() - before.summary.keys() == {"validity/noise_success_rate"}
    for key, estimate in before.summary.items():
        assert after.summary[key].value == pytest.approx(estimate.value, abs=1e-6), key
    old, new = (pd.read_parquet(folder / CELL / "samples.parquet") for folder in (finished, suite))
    assert set(new.columns) - set(old.columns) == {"noise_success", "noise_prediction"}
    pd.testing.assert_frame_equal(new[old.columns], old, atol=1e-6)
    assert new["noise_prediction"].between(-0.5, 1.5).all()
    assert before.facts["weights"].keys() == {"regressor", "oracle", "diffae"}
    assert after.facts["weights"].keys() == {"regressor", "diffae"}
    assert after.judged["weights"].keys() == {"oracle", "ddpm"}
    assert after.judged["metrics"]["noise_draws"] == 4
    assert "computed again" in after.notes["metrics"]
    assert read_suite(suite).config["metrics"]["noise_draws"] == 4


def test_predictions_come_from_the_images_not_from_the_rows(suite: Path) -> None:
    path = suite / CELL / "samples.jsonl"
    rows = Journal(path).rows()
    path.unlink()
    for row in rows:
        Journal(path).append(row | {"prediction": 9.0, "oracle": 9.0})
    rejudge(suite, 0, quiet())
    frame = pd.read_parquet(suite / CELL / "samples.parquet").set_index("id")
    for row in rows:
        assert frame.at[row["id"], "prediction"] == pytest.approx(row["prediction"], abs=1e-6)
        assert frame.at[row["id"], "oracle"] == pytest.approx(row["oracle"], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda cell: cell.facts.update(data="other"), "the data of 'square' are not those of the record"),
        (lambda cell: cell.facts["weights"].update(oracle="0" * 64), "weights.oracle"),
        (lambda cell: cell.facts["weights"].update(ddpm="0" * 64), "weights.ddpm"),
        (lambda cell: cell.judged.update(labels="0" * 64), "the attribute labels of 'square' are not those of the rec"),
        (lambda cell: cell.judged.update(weights={"ddpm": "0" * 64}), "weights.ddpm"),
        (lambda cell: setattr(cell, "status", "failed"), "no finished cell"),
    ],
)
def test_other_data_or_weights_are_refused_and_nothing_changes(
    change: Callable[[CellRecord], None], words: str, suite: Path
) -> None:
    record = read_suite(suite)
    change(record.cells[0])
    write_json(suite / "suite.json", record)
    table = (suite / CELL / "samples.parquet").read_bytes()
    with pytest.raises(UsageError, match=words):
        rejudge(suite, None, quiet())
    assert (suite / CELL / "samples.parquet").read_bytes() == table
    assert read_suite(suite) == record


def test_an_image_that_was_not_recorded_is_refused(suite: Path) -> None:
    image = sorted((suite / CELL / "images").iterdir())[0]
    write_png(image, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(UsageError, match="not the image that was recorded"):
        rejudge(suite, 0, quiet())


def test_the_verb_prints_the_table_and_writes_the_page(suite: Path) -> None:
    done = CliRunner().invoke(app, ["judge", str(suite), "--draws", "1"])
    assert done.exit_code == 0, done.output
    assert "success, fresh noise" in done.output
    assert "fresh draws an image: 1; filter steps: 5 of 50" in done.output
    assert (suite / "report.html").is_file()
    shown = CliRunner().invoke(app, ["show", str(suite)])
    assert "success, fresh noise" in shown.output


def test_metrics_can_be_judged_another_way(suite: Path) -> None:
    before = read_cell(suite / CELL)
    rejudge(suite, 0, quiet(), ["metrics.mode=paper", "metrics.split_seed=3"])
    recorded = read_suite(suite).config["metrics"]
    assert (recorded["mode"], recorded["split_seed"], recorded["noise_draws"]) == ("paper", 3, 0)
    for key, estimate in read_cell(suite / CELL).summary.items():
        assert estimate.value == pytest.approx(before.summary[key].value, abs=1e-6), key  # Square's have one way only


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("weights.regressor=square-oracle", "only metrics.KEY, weights.identity, .*, weights.type, and"),
        ("weights.regressor=os:getcwd", "repeat weights.regressor and weights.oracle as recorded"),
        ("diffae-re.lr=1", "metrics.KEY"),
        ("metrics.mode=both", "metrics.mode"),
        ("metrics.lpips_weights=nowhere.pth", "metrics.lpips_weights"),
        ("weights.identity=nowhere.safetensors", "weights.identity.*nowhere.safetensors"),
    ],
)
def test_what_would_be_another_run_or_cannot_be_read_is_refused(assignment: str, words: str, suite: Path) -> None:
    record = (suite / "suite.json").read_bytes()
    with pytest.raises(UsageError, match=words):
        rejudge(suite, 0, quiet(), [assignment])
    assert (suite / "suite.json").read_bytes() == record


def test_the_unchanged_run_judges_as_it_says_after_another_judging(suite: Path) -> None:
    flags = {"method": ["diffae-re"], "limit": 2, "batch_size": 2, "device": "cpu"}
    config = build_config(None, [*FEW, "metrics.noise_draws=0"], flags)
    told = io.StringIO()
    for _ in range(2):
        run_suite(config, {}, suite, False, Display(told))
    assert " ".join(told.getvalue().split()).count("what its record does not say") == 1
    assert "already complete" in told.getvalue()
    first = read_cell(suite / CELL)
    rejudge(suite, None, quiet(), ["metrics.mode=paper", "metrics.bootstrap_seed=7"])
    record = read_suite(suite)
    assert record.cells[0].judged["metrics"]["mode"] == record.config["metrics"]["mode"] == "paper"
    run_suite(config, {}, suite, False, quiet())
    record = read_suite(suite)
    assert record.config["metrics"]["mode"] == "corrected"
    assert record.cells == [read_cell(suite / CELL)]
    assert (record.cells[0].judged, record.cells[0].summary) == (first.judged, first.summary)
    assert (record.cells[0].timings, record.cells[0].sessions) == (first.timings, first.sessions)


CALLED: list[str] = []


def tempting() -> nn.Module:
    """What a record of unknown origin might name."""
    CALLED.append("tempting")
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 1))


@pytest.mark.parametrize("role", ["regressor", "oracle"])
def test_code_that_only_the_record_names_is_not_called(role: str, suite: Path) -> None:
    reference = f"{__name__}:tempting"
    record = read_suite(suite)
    record.config["weights"] = {role: reference}
    write_json(suite / "suite.json", record)
    CALLED.clear()
    with pytest.raises(UsageError, match=f"repeat it: -s weights.{role}={reference}"):
        rejudge(suite, 0, quiet())
    assert not CALLED
    with pytest.raises(UsageError, match=f"weights.{role} .* are not those of the record"):
        rejudge(suite, 0, quiet(), [f"weights.{role}={reference}"])
    assert CALLED
