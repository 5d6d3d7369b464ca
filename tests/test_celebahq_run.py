"""CelebA-HQ from the downloaded folder to the record: prepare, run, spurious correlations, on a miniature of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from bench.cli import app
from bench.config import build_config
from bench.errors import UsageError
from bench.record import SuiteRecord, read_suite
from tests.celebahq_weights import SIZE, write_weights
from tests.mini_celebahq import write_celebahq

FEW = ["-s", "ac-re.max_steps=2", "-s", "diffae-re.max_steps=2", "-s", "diffae-re.inversion_steps=10"]
TABLE_2 = {
    "validity/oracle_target_mae",
    "validity/oracle_regressor_mae",
    "validity/success_rate",
    "realism/fid",
    "realism/sfid",
    "identity/fva",
    "identity/fs",
    "attributes/mnac",
    "attributes/cd",
    "perceptual/lpips",
}


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("celebahq")
    root = write_celebahq(folder / "CelebAMask-HQ", count=12, size=2 * SIZE)
    done = invoke("prepare", "celebahq", "--root", str(root), "-o", str(folder / "prepared"), "--size", str(SIZE))
    assert done.exit_code == 0, done.output
    return folder / "prepared"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def suite(prepared: Path, weights: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[SuiteRecord, Path]:
    folder = tmp_path_factory.mktemp("runs") / "suite"
    done = invoke(
        "run", "--dataset", "celebahq", "--method", "ac-re", "--method", "diffae-re", "--limit", "4",
        "-s", f"celebahq.path={prepared}", *weights, *FEW, "-s", "tracking.enabled=false", "-o", str(folder),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return read_suite(folder), folder


def test_every_column_of_table_2_is_filled_or_explained(suite: tuple[SuiteRecord, Path]) -> None:
    record, _ = suite
    assert [cell.method for cell in record.cells] == ["ac-re", "diffae-re"]
    for cell in record.cells:
        assert cell.finished == 4 and not cell.failures
        assert set(cell.summary) >= TABLE_2
        for name in TABLE_2:
            value = cell.summary[name].value
            assert (value is not None and np.isfinite(value)) or cell.notes.get(name), f"{cell.id}: {name}"
        filled = {name for name in TABLE_2 if cell.summary[name].value is not None}
        assert filled >= {"identity/fva", "identity/fs", "attributes/mnac", "validity/oracle_target_mae"}
        for name in filled - {"validity/success_rate"}:
            assert name in cell.definitions or name.startswith("validity/"), f"{cell.id}: {name} has no definition"


def test_the_settings_are_those_of_the_paper_for_faces(suite: tuple[SuiteRecord, Path]) -> None:
    options = {cell.method: cell.options[cell.method] for cell in suite[0].cells}
    assert (options["ac-re"]["respacing"], options["ac-re"]["dilation"], options["ac-re"]["depth"]) == ("25", 15, 5)
    assert options["ac-re"]["step_size"] == pytest.approx(1 / 255)
    assert (options["diffae-re"]["lr"], options["diffae-re"]["decoding_steps"]) == (0.002, 10)


def test_young_faces_are_to_look_old_and_old_ones_young(suite: tuple[SuiteRecord, Path], prepared: Path) -> None:
    record, folder = suite
    table = pd.read_parquet(folder / record.cells[0].id / "samples.parquet").set_index("id")
    labels = pd.read_csv(prepared / "labels.csv").set_index("id").loc[table.index]
    np.testing.assert_allclose(table["target"], np.where(labels["Young"] == 1, 0.8, 0.1), atol=1e-6)
    assert table["target"].nunique() == 2


def test_missing_weights_are_one_sentence_and_leave_nothing(prepared: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = invoke("run", "--dataset", "celebahq", "-s", f"celebahq.path={prepared}", "-o", str(output))
    assert isinstance(done.exception, UsageError)
    assert str(done.exception).startswith("weights.regressor: no network is shipped for this data")
    assert not output.exists()


def test_two_data_sets_with_settings_of_their_own_do_not_share_a_run() -> None:
    done = invoke("run", "--dataset", "celebahq", "--dataset", "square", "--dry-run")
    assert isinstance(done.exception, UsageError) and "run them apart" in str(done.exception)


@pytest.mark.parametrize(
    ("flags", "assignments"),
    [({"dataset": ["celebahq"]}, []), ({}, ['dataset=["celebahq"]'])],
)
def test_a_data_set_brings_its_own_settings(flags: dict[str, list[str]], assignments: list[str]) -> None:
    options = build_config(None, assignments, flags).options
    assert options["ac-re"]["respacing"] == "25"
    assert build_config("paper", assignments, flags).options == {}


def test_published_figures_stand_beside_marked_as_quoted(suite: tuple[SuiteRecord, Path]) -> None:
    _, folder = suite
    shown = invoke("show", str(folder)).output
    assert "quoted from publications, not measured here" in shown
    for method in ("AC-RE", "Diff-AE-RE", "STEEX", "DiVE"):
        assert method in shown
    page = (folder / "report.html").read_text()
    assert "not checked against the paper" in page and "Quoted from publications" in page


def test_the_suite_can_be_judged_as_published(suite: tuple[SuiteRecord, Path]) -> None:
    _, folder = suite
    before = {cell.id: cell.definitions["attributes/mnac"] for cell in read_suite(folder).cells}
    done = invoke("judge", str(folder), "-s", "metrics.mode=paper")
    assert done.exit_code == 0, done.output
    for cell in read_suite(folder).cells:
        assert cell.definitions["attributes/mnac"] != before[cell.id]
        assert cell.summary["attributes/mnac"].value is not None
