"""Counterfactuals under oracles that never saw the module: who judges what, intervals over modules, figures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bench.datasets.elpv_files import manifest
from bench.elpv.folds import LEFT_OUT, folds
from bench.elpv.modules import modules
from bench.elpv.records import read
from bench.elpv.results import FLOOR, Results
from bench.elpv.unseen_oracles import JUDGES, figures, judged, main, ratio_over_modules, real_images
from bench.images import to_float
from bench.networks import RegressorConfig, SmallRegressor
from tests.conftest import randomise
from tests.synthetic_elpv import run_elpv, write_networks

RESULTS = Path(__file__).parents[1] / "reports" / "results" / "elpv-unseen-oracles.json"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the floor on a few photographs of several modules."""
    folder = tmp_path_factory.mktemp("unseen-oracles")
    return run_elpv(folder / "run", write_networks(folder), (FLOOR,), limit=8)


@pytest.fixture(scope="module")
def networks() -> list[nn.Module]:
    """One a fold, all different."""
    shape = RegressorConfig(widths=(8, 16), in_channels=1)
    return [randomise(SmallRegressor(shape), seed).eval() for seed in range(4)]


def test_every_photograph_is_judged_by_the_oracle_without_its_module(record: Path, networks: list[nn.Module]) -> None:
    results, rows = Results([record]), manifest()
    fold = {name: dict(zip(rows["file"], each, strict=True)) for name, each in folds(rows).items()}
    masks = {name: [each == number for number in range(4)] for name, each in folds(rows).items()}
    [frame] = judged(results, {name: list(zip(each, networks, strict=True)) for name, each in masks.items()}).values()
    module = dict(zip(rows["file"], modules(rows["file"]), strict=True))
    assert frame["module"].to_dict() == {name: module[name] for name in results.ids}
    for each in fold.values():
        assert len({each[name] for name in results.ids}) > 1  # else the wrong fold's network would not be seen
    table, cell = results.tables[FLOOR], results.cells[FLOOR]
    for name, row in table.iterrows():
        path = cell.image_path(row)
        assert path is not None
        for moment, image in (("before", cell.input_path(row)), ("after", path)):
            batch = torch.from_numpy(to_float(read(image)))[None]
            for judge in LEFT_OUT:
                with torch.no_grad():
                    expected = float(networks[fold[judge][name]](batch))
                assert frame.loc[name, f"{judge}_{moment}"] == pytest.approx(expected, abs=1e-6)
    assert frame["shipped_after"].tolist() == table["oracle"].tolist()
    assert frame["shipped_before"].tolist() == table["oracle_before"].tolist()


def _frame(**columns: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"target": [1.0, 1.0, 0.0, 0.0], "module": [0, 0, 1, 2]} | columns)


def test_figures_by_hand_and_failures_left_out() -> None:
    before, nothing = [0.0, 0.2, 1.0, 0.5], float("nan")
    frame = _frame(modules_before=before, modules_after=[0.5, 0.6, 0.1, nothing], probability=[1.0, 0.0, 0.0, 1 / 3])
    floor = _frame(modules_before=before, modules_after=[0.1, 0.2, 0.9, 0.5])
    found = figures(frame, floor, "modules", "all")
    assert {each.n for each in found.values()} == {3}
    assert found["oracle_target_mae"].value == pytest.approx((0.5 + 0.4 + 0.1) / 3)
    assert found["oracle_target_mae_before"].value == pytest.approx((1 + 0.8 + 1) / 3)
    assert found["oracle_share"].value == pytest.approx(1 - 1.0 / 2.8)
    assert found["difference"].value == pytest.approx((1.0 - (0.9 + 0.8 + 0.9)) / 3)
    assert "difference" not in figures(frame, None, "modules", "all")
    frame[["shipped_before", "cells_before"]] = 0.25
    real = real_images(frame)
    # One photograph of value 1; two of value 0, whatever they are explained for.
    assert real["modules"]["to 1"].value == 1.0 and real["modules"]["to 0"].value == pytest.approx((0.2 + 1.0) / 2)
    assert real["shipped"]["to 1"].value == 0.75 and real["shipped"]["to 0"].value == 0.25


def test_intervals_are_over_modules() -> None:
    """Cells that are alike within a module are no independent evidence: ten modules of 30 give the interval of ten."""
    means = pd.Series(np.linspace(0, 1, 10))
    one = pd.Series(1.0, index=range(300))
    alike = ratio_over_modules(
        means.repeat(30).reset_index(drop=True), one, pd.Series(np.repeat(range(10), 30)), "a", "1"
    )
    single = ratio_over_modules(means, one[:10], pd.Series(range(10)), "a", "1")
    apart = ratio_over_modules(means.repeat(30).reset_index(drop=True), one, pd.Series(range(300)), "a", "1")
    assert None not in (alike.low, alike.high, apart.low, apart.high)
    assert (alike.value, alike.low, alike.high) == pytest.approx((single.value, single.low, single.high))
    assert alike.high - alike.low > 4 * (apart.high - apart.low)
    nothing = ratio_over_modules(means * float("nan"), one[:10], pd.Series(range(10)), "a", "1")
    assert nothing.value is None and nothing.n == 0


def test_the_committed_figures_are_of_the_committed_counterfactuals() -> None:
    content, results = json.loads(RESULTS.read_text()), json.loads(RESULTS.with_name("elpv.json").read_text())
    assert content["images"] == results["images"]["all"] and content["oracle"]["steps"] == 2500
    assert set(content["figures"]) == set(JUDGES)
    for part, methods in content["figures"]["shipped"].items():
        for method, found in methods.items():
            for key, estimate in found.items():  # the same means; only the intervals are over something else
                assert estimate["value"] == pytest.approx(results["methods"][method][part][key]["value"], abs=2e-5)
    for found in (row for judge in LEFT_OUT for row in content["figures"][judge]["all"].values()):
        assert all(
            each["n"] == content["images"] and each["low"] < each["value"] < each["high"] for each in found.values()
        )


def test_what_cannot_be_judged_is_refused(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(record), "--steps", "0", "--runs", str(tmp_path)]) == 2
    assert "--steps 0" in capsys.readouterr().err
    several = tmp_path / "several"
    shutil.copytree(record, several)
    path = next(several.glob("elpv--*")) / "samples.parquet"
    table = pd.read_parquet(path)
    table.assign(source=table["id"]).to_parquet(path, index=False)
    assert main([str(several), "--runs", str(tmp_path)]) == 2
    assert "several reference values" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_trains_judges_and_writes(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    assert main([str(record), "--steps", "2", "--runs", str(tmp_path), "--results", str(path)]) == 0
    content = json.loads(path.read_text())
    assert set(content["figures"]["modules"]["all"]) == {FLOOR} and content["images"] == 8
    assert "oracles without the cell" in capsys.readouterr().out
    assert main([str(record), "--steps", "2", "--runs", str(tmp_path), "--results", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["figures"] == content["figures"]
