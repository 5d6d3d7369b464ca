"""The command `trend`: its page, its figures on the terminal, its refusals, and experiments of MLflow."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import UsageError
from bench.record import CellRecord, write_json
from reports.trend import read_trend, to_json
from tests.nights import (  # noqa: F401
    BUILD,
    COMMITS,
    SECONDS,
    figures,
    nights_fixture,
    small_cell,
    small_fixture,
    write_night,
)


def test_the_command_writes_the_page_and_prints_the_latest_figures(nights: Path, tmp_path: Path) -> None:
    page = tmp_path / "out" / "trend.html"
    options = [str(nights), "-o", str(page), "--json", "--metric", SECONDS, "--metric", BUILD]
    done = CliRunner().invoke(app, ["trend", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "2.01 (+2.0 %)" in done.output and "step     ac-re, eager" in done.output
    told = json.loads(done.output.splitlines()[-1])
    figures_told = told["lines"][0]["metrics"]
    assert list(figures_told) == [SECONDS, BUILD] and len(figures_told[SECONDS]["nights"]) == 10
    assert told["steps"][0]["first"]["commit"] == COMMITS[1]
    text = page.read_text()
    assert "seconds per counterfactual" in text and "success rate" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text


def test_without_a_folder_it_reads_the_runs(nights: Path) -> None:
    done = CliRunner().invoke(app, ["trend", "--runs", str(nights)], catch_exceptions=False)
    assert done.exit_code == 0 and (nights / "trend.html").is_file()


def test_refusals(small: tuple[CellRecord, dict[str, Any]], nights: Path, tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        with pytest.raises(UsageError) as error:
            CliRunner().invoke(app, ["trend", *options], catch_exceptions=False)
        return str(error.value)

    assert "did you mean 'throughput/seconds_per_image'?" in refused(str(nights), "--metric", "seconds_per_image")
    assert "nowhere is not a folder" in refused(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "no suite in" in refused(str(tmp_path / "empty"))
    assert "--output" in refused(str(nights), "-o", str(nights))
    assert "--uri needs --mlflow" in refused(str(nights), "--uri", "sqlite://")
    failed = small[0].model_copy(update={"status": "failed", "error": "out of memory"})
    write_night(tmp_path / "failed" / "n0", [failed], small[1], 0, status="failed")
    assert "out of memory" in refused(str(tmp_path / "failed"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "suite.json").write_text("{")
    assert "not a record" in refused(str(tmp_path / "bad"))


def test_an_experiment_gives_the_same_trend(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    from bench.sections import TrackingConfig
    from bench.tracking import Tracker

    runs = tmp_path / "runs"
    cell, config = small_cell(networks, tmp_path / "cell")
    tracker = Tracker(runs, TrackingConfig(experiment="nightly"))
    for night, factor in enumerate((1.0, 1.5)):
        folder = write_night(runs / f"n{night}", [figures(cell, {SECONDS: factor})], config, night, COMMITS[night])
        shutil.copytree(tmp_path / "cell" / cell.id, folder / cell.id)
        write_json(folder / cell.id / "result.json", figures(cell, {SECONDS: factor}))
        tracker.import_suite(folder)
    expected = to_json(read_trend([runs]))
    options = ["--mlflow", "nightly", "--runs", str(runs), "-o", str(tmp_path / "trend.html"), "--json"]
    done = CliRunner().invoke(app, ["trend", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1]) == expected
    # A night that is in a folder, too, is still one.
    both = CliRunner().invoke(app, ["trend", str(runs), *options], catch_exceptions=False)
    assert json.loads(both.output.splitlines()[-1]) == expected
