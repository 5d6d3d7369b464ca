"""Networks on modules that they never saw: folds, out-of-fold predictions, intervals; the committed figures."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.datasets.elpv_files import manifest
from bench.elpv import unseen_modules
from bench.elpv.folds import LEFT_OUT, cells_in_memory, folds
from bench.elpv.modules import modules
from bench.elpv.unseen_modules import (
    BOTH,
    RIDGE,
    WITHIN,
    figures,
    main,
    measured,
    out_of_fold,
    within_modules,
)
from bench.errors import UsageError
from bench.progress import Display
from bench.training.loop import Trainer
from bench.training.recipes import RECIPES
from methods import noise

RESULTS = Path(__file__).parents[1] / "reports" / "results" / "elpv-unseen-modules.json"
TINY = replace(RECIPES["elpv/regressor"], steps=4, batch_size=4, warmup=2, config={"widths": [8, 16], "in_channels": 1})
VALUES = np.arange(24) % 4 / 3
FOLD = np.repeat(np.arange(4), 6)


class Quiet(Display):
    """Writes nowhere and notes which trainings took steps; ends the work at a step of one of them, as Ctrl-C does."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        super().__init__(io.StringIO())
        self.stop, self.trained = stop, []

    def begin(self, title: str, total: int) -> None:
        self.training = title

    def phase(self, text: str, done: int | None = None) -> None:
        if self.training not in self.trained:
            self.trained.append(self.training)
        if (self.training, done) == self.stop:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """24 grey images, uint8 (24, 16, 16, 1)."""
    return np.clip(128 + 40 * noise.numpy_normal(3, (24, 16, 16, 1)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def predicted(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return out_of_fold(TINY, pixels, VALUES, FOLD, tmp_path_factory.mktemp("whole") / "r", False, Quiet())


def test_folds_keep_modules_together_and_the_control_does_not() -> None:
    rows = manifest()
    module, found = modules(rows["file"]), folds(rows)
    assert set(found) == set(LEFT_OUT)
    of_module = [set(found["modules"][module == each]) for each in range(44)]
    assert all(len(each) == 1 for each in of_module)
    assert all(len(set(found["cells"][module == each])) == 4 for each in range(44))
    for fold in found.values():
        assert set(fold) == {0, 1, 2, 3}
        assert max(abs((fold != each).sum() / (0.75 * len(rows)) - 1) for each in range(4)) < 0.01


def test_every_cell_is_predicted_once_by_a_network_that_did_not_see_it(
    pixels: np.ndarray, predicted: np.ndarray, tmp_path: Path
) -> None:
    assert predicted.shape == (24,) and np.isfinite(predicted).all()
    others = np.where(FOLD == 1, 1 - VALUES, VALUES)
    again = out_of_fold(TINY, pixels, others, FOLD, tmp_path / "r", False, Quiet())
    assert np.array_equal(again[FOLD == 1], predicted[FOLD == 1])
    assert (again[FOLD != 1] != predicted[FOLD != 1]).all()


def test_an_interrupted_study_goes_on_bit_for_bit(pixels: np.ndarray, predicted: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        out_of_fold(TINY, pixels, VALUES, FOLD, tmp_path / "r", False, Quiet(("r, fold 2 of 4", 3)))
    display = Quiet()
    again = out_of_fold(TINY, pixels, VALUES, FOLD, tmp_path / "r", False, display)
    assert display.trained == [f"r, fold {number} of 4" for number in (2, 3, 4)]
    assert np.array_equal(again, predicted)


def test_a_training_goes_on_from_its_middle(pixels: np.ndarray, predicted: np.ndarray, tmp_path: Path) -> None:
    known = cells_in_memory(pixels[FOLD != 0], VALUES[FOLD != 0])
    Trainer(TINY, known, tmp_path / "r" / "fold-0").run(lambda step, loss: None, until=2)
    assert np.array_equal(out_of_fold(TINY, pixels, VALUES, FOLD, tmp_path / "r", False, Quiet()), predicted)


def test_checkpoints_of_other_cells_are_refused_or_started_over(
    pixels: np.ndarray, predicted: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "r"
    out_of_fold(TINY, pixels[::-1].copy(), VALUES, FOLD, folder, False, Quiet())
    with pytest.raises(UsageError, match="--fresh"):
        out_of_fold(TINY, pixels, VALUES, FOLD, folder, False, Quiet())
    assert np.array_equal(out_of_fold(TINY, pixels, VALUES, FOLD, folder, True, Quiet()), predicted)


def test_figures_by_hand() -> None:
    true = np.array([0, 0, 1 / 3, 1])
    r, o = np.array([0.1, 0.5, 0.4, 0.8]), np.array([0.2, 0.4, 0.4, 0.8])
    found = measured({"regressor": r, "oracle": o}, true)
    assert found["regressor", "MAE"] == pytest.approx((0.1 + 0.5 + 0.4 - 1 / 3 + 0.2) / 4)
    assert found["regressor", "AUC, above 0"] == 3 / 4
    assert found["regressor", "AUC, 0 against 1"] == 1
    assert found[BOTH, "mean |r - o|"] == pytest.approx(0.05)
    assert found[BOTH, "correlation of errors"] == pytest.approx(np.corrcoef(r - true, o - true)[0, 1])
    assert not any(guess == BOTH for guess, _ in measured({"regressor": r, RIDGE: o}, true))


def test_pairs_within_modules_know_no_modules_rate() -> None:
    true = np.array([0, 0, 1, 1, 1, 0, 1, 1])
    guess = np.array([0.1, 0.2, 0.3, 0.2, 0.8, 0.9, 0.9, 0.7])
    members = [np.arange(4), np.arange(4, 7), np.array([7])]  # the last one holds no pair
    assert within_modules(guess, true, members).tolist() == [[3.5, 4], [0.5, 2], [0, 0]]


@pytest.fixture(scope="module")
def alike() -> dict[str, dict[str, dict]]:
    """Figures of 20 modules of 30 cells whose errors are those of the module; the other side errs by 0.1 more."""
    module = np.repeat(np.arange(20), 30)
    true = np.tile([0, 0, 1 / 3, 1, 2 / 3], 120)
    error = np.abs(noise.numpy_normal(5, (20,)))[module] + 0.001 * noise.numpy_normal(6, (600,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unseen_modules, "RESAMPLES", 200)
        return figures({"regressor": np.stack([true + error + 0.1, true + error])}, true, module, "test")


def test_intervals_over_modules_know_that_cells_of_one_are_alike(alike: dict[str, dict[str, dict]]) -> None:
    mae = alike["regressor"]["MAE"]
    over_modules, over_cells = mae["cells"], mae["cells, interval over cells"]
    assert over_modules.value == over_cells.value
    assert over_modules.low < over_cells.low < over_cells.value < over_cells.high < over_modules.high
    assert over_modules.high - over_modules.low > 3 * (over_cells.high - over_cells.low)


def test_the_difference_is_paired(alike: dict[str, dict[str, dict]]) -> None:
    difference = alike["regressor"]["MAE"]["difference"]
    assert difference.value == pytest.approx(0.1, abs=1e-3)
    assert difference.high - difference.low < 1e-3
    within = alike["regressor"][WITHIN]
    assert within["modules"].value == within["cells"].value > 0.99
    assert "cells, interval over cells" not in within


def test_the_committed_figures_are_of_these_folds() -> None:
    content = json.loads(RESULTS.read_text())
    rows = manifest()
    facts = unseen_modules._facts(rows)
    assert {key: content[key] for key in facts} == facts
    sizes = {"all": len(rows)} | rows["type"].value_counts().to_dict()
    for part, count in sizes.items():
        found = content["figures"][part]
        assert set(found) == {"regressor", "oracle", RIDGE, BOTH}
        for each in (each for row in found.values() for each in row.values()):
            assert all(one["n"] == count and one["low"] <= one["value"] <= one["high"] for one in each.values())
            gap = each["modules"]["value"] - each["cells"]["value"]
            assert each["difference"]["value"] == pytest.approx(gap, abs=2e-5)


@pytest.mark.slow
def test_the_command_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unseen_modules, "RESAMPLES", 10)
    path = tmp_path / "found.json"
    given = ["--role", "regressor", "--steps", "2", "--runs", str(tmp_path), "--results", str(path)]
    assert main(given) == 0
    content = json.loads(path.read_text())
    assert set(content["figures"]["poly"]) == {"regressor", RIDGE}
    assert "whole modules left out" in capsys.readouterr().out
    kept = tmp_path / "training" / "elpv-unseen-modules" / "regressor-modules" / "predictions.csv"
    assert len(kept.read_text().splitlines()) == 1 + len(manifest())
