"""Several reference values an image: rows, independent values and continuations, resuming, figures of sequences."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from backends.eager import EagerBackend, EagerConfig
from bench.cell import Cell, fingerprint
from bench.cell_run import CellRun
from bench.cli import app
from bench.compare import NotComparable, compare_records
from bench.config import RunConfig, build_config
from bench.datasets.base import Task
from bench.errors import UsageError
from bench.images import file_name, read_image, to_float, to_uint8, write_png
from bench.paths import continuations, expand, path_figures, row_id, summarise_paths
from bench.progress import Display
from bench.record import CellRecord, Journal, SuiteRecord, now, write_json
from bench.registry import resolve
from bench.sections import VerifyConfig
from methods import METHODS
from methods.base import Batch
from metrics.paths import monotonic_rate, roughness_l1, step_l1
from reports.tables import columns_of
from tests.conftest import CPU
from tests.tiny_cell import run_cell, tiny_cell

TARGETS = (0.48, 0.49, 0.5, 0.51)
QUIET: dict[str, Any] = {"metrics": {"noise_draws": 0}}


def small_task(count: int = 2) -> Task:
    """Images of one grey level each, with a mask over their left half."""
    images = np.stack([np.full((4, 4, 3), 10 * index, np.uint8) for index in range(count)])
    masks = np.zeros((count, 4, 4), bool)
    masks[:, :, :2] = True
    attribute = np.linspace(0, 1, count, dtype=np.float32)
    ids = tuple(f"a/{index}" for index in range(count))
    return Task(ids, images, np.full(count, 0.9, np.float32), attribute, masks, "1", "digest")


def test_every_image_has_a_row_for_each_value() -> None:
    task = small_task()
    rows = expand(task, (0.2, 0.25, 1.0))
    assert rows.ids == ("a/0@0.2", "a/0@0.25", "a/0@1", "a/1@0.2", "a/1@0.25", "a/1@1")
    assert rows.sources == ("a/0",) * 3 + ("a/1",) * 3
    assert rows.targets.dtype == np.float32
    np.testing.assert_array_equal(rows.targets, np.array([0.2, 0.25, 1] * 2, np.float32))
    np.testing.assert_array_equal(rows.images[:, 0, 0, 0], [0, 0, 0, 10, 10, 10])
    np.testing.assert_array_equal(rows.attribute, [0, 0, 0, 1, 1, 1])
    assert rows.masks is not None and rows.masks.shape == (6, 4, 4)
    assert len({file_name(name) for name in rows.ids}) == 6
    assert rows.digest not in (task.digest, expand(task, (0.2, 0.25, 0.9)).digest)
    assert rows.digest == expand(task, (1.0, 0.25, 0.2)).digest
    assert expand(task, ()) is task


def test_continuations_lead_away_from_the_start() -> None:
    task = expand(small_task(3), (0.2, 0.4, 0.6))
    starts = {"a/0": 0.4, "a/1": 0.1, "a/2": 0.9}
    assert continuations(task, starts) == [(0,), (1, 2), (3, 4, 5), (8, 7, 6)]


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("targets=[0.2,0.4,0.2]", "twice"),
        ("targets=[0.2,1.5]", "outside"),
        ("targets=[10,300]", "300 is outside .* above 255"),
        ("targets=[NaN]", "outside"),
        ("targets=0.3", "targets"),
        ("path=continuation", "--target"),
    ],
)
def test_bad_values_are_refused_by_name(assignment: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as error:
        build_config(None, [assignment], {})
    assert assignment.partition("=")[0] in str(error.value)


@pytest.mark.parametrize("values", ["0.2,0.2", "0.2,-0.1", "0.2,x", ""])
def test_bad_values_on_the_command_line(values: str) -> None:
    result = CliRunner().invoke(app, ["validate", "--target", values])
    assert isinstance(result.exception, UsageError)
    assert "targets" in str(result.exception)


def test_values_on_the_command_line() -> None:
    result = CliRunner().invoke(
        app, ["validate", "--target", "0.6,0.2", "-s", "path=continuation", "--limit", "2", "--device", "cpu"]
    )
    assert result.exit_code == 0 and "valid" in result.output
    assert build_config(None, ["targets=[0.6,0.2]"], {}).targets == (0.2, 0.6)
    assert build_config(None, [], {"dataset": ["celebahq"], "targets": [80, 10]}).targets == (0.1, 0.8)  # years
    assert build_config(None, [], {"targets": [51, 255]}).targets == (0.2, 1.0)  # grey levels


def sequence(cell: Cell, frame: pd.DataFrame, folder: Path) -> dict[str, np.ndarray]:
    return {name: read_image(folder / cell.id / "images" / frame.at[name, "image"]) for name in frame.index}


def test_a_value_does_not_depend_on_the_others(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    """Also the same as a run for the dataset's own target: noise is that of the image."""
    cells = {
        "all": tiny_cell(networks, "ac-re-gn", count=3, targets=TARGETS),
        "one": tiny_cell(networks, "ac-re-gn", count=3, targets=(0.51,)),
        "own": tiny_cell(networks, "ac-re-gn", count=3),
    }
    own = cells["own"].task
    cells["own"].task = replace(own, targets=np.full(3, 0.51, np.float32))
    frames = {name: run_cell(cell, tmp_path / name)[1] for name, cell in cells.items()}
    images = {name: sequence(cells[name], frames[name], tmp_path / name) for name in cells}
    assert list(frames["all"].index) == [row_id(name, value) for name in own.ids for value in TARGETS]
    assert "source" not in frames["own"] and list(frames["one"]["source"]) == list(own.ids)
    for source in own.ids:
        row = row_id(source, 0.51)
        np.testing.assert_array_equal(images["all"][row], images["one"][row])
        np.testing.assert_array_equal(images["all"][row], images["own"][source])
        for column in ("prediction", "steps", "noise_success"):
            values = [frames["all"].at[row, column], frames["one"].at[row, column], frames["own"].at[source, column]]
            assert values[0] == values[1] == values[2], column


def continued(cell: Cell, image: np.ndarray, source: str, values: tuple[float, ...]) -> list[np.ndarray]:
    """The counterfactuals of one continuation, written as a plain loop over one sample."""
    method = resolve(METHODS, cell.method, "method")(cell.options[cell.method], cell.config.seed, CPU)
    roles = {role: loaded.network for role, loaded in cell.weights.items()}
    method.prepare(roles, EagerBackend(EagerConfig(), CPU), 1)
    batch = Batch((source,), torch.stack([torch.from_numpy(to_float(image))]), torch.tensor([values[0]]))
    state = method.encode(batch, lambda done, total: None)
    found = []
    for value in values:
        state = method.retarget(state, torch.tensor([value])) if found else state
        for _ in range(method.config.max_steps):
            result = method.step(state)
            state = result.state
            if bool(result.done):
                break
        found.append(to_uint8(method.refine(state)[0].numpy()))
    return found


def test_a_continuation_starts_from_the_solution_before_it(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    options = {"slots": 1, "count": 2, "targets": TARGETS, **QUIET}
    alone = tiny_cell(networks, "diffae-re-gn", **options)
    cell = tiny_cell(networks, "diffae-re-gn", path="continuation", **options)
    (_, before), (record, frame) = run_cell(alone, tmp_path / "alone"), run_cell(cell, tmp_path / "path")
    images = sequence(cell, frame, tmp_path / "path")
    ends = set()
    for source in set(frame["source"]):
        rows = frame[frame["source"] == source]
        start = float(rows["start"].iloc[0])
        for values in ([t for t in TARGETS[::-1] if t < start], [t for t in TARGETS if t >= start]):
            expected = continued(cell, cell.task.images[cell.task.sources.index(source)], source, tuple(values))
            for value, image in zip(values, expected, strict=True):
                np.testing.assert_array_equal(images[row_id(source, value)], image)
            ends |= {row_id(source, value) for value in values[1:]}
    assert ends and len(ends) < len(frame)
    # What goes on is not encoded again, and is another search than one from the image.
    besides = (frame["forward"] - frame["steps"] * 3).loc[sorted(ends)]
    encoded = before[before.index.str.endswith("@0.48")]  # the first value of an image bears the encoding
    assert besides.max() < (encoded["forward"] - encoded["steps"] * 3).min()
    assert (frame.loc[sorted(ends), "sha256"] != before.loc[sorted(ends), "sha256"]).any()
    assert record.facts["path"] == "continuation" and "timings/model_tflop" in record.notes


class Interrupting(Display):
    """Stops the run, as Ctrl-C would, once `after` samples are saved."""

    def __init__(self, after: int) -> None:
        super().__init__(io.StringIO())
        self.after = after

    def phase(self, text: str, finished: int | None = None) -> None:
        if text == f"saved {self.after}":
            raise KeyboardInterrupt
        super().phase(text, finished)


@pytest.mark.parametrize("method", ["ac-re-gn", "diffae-re-gn"])
def test_an_interrupted_continuation_gives_the_same_images(
    method: str, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    cell = tiny_cell(networks, method, slots=2, count=2, targets=TARGETS, path="continuation", **QUIET)
    _, whole = run_cell(cell, tmp_path / "whole")
    folder = tmp_path / "stopped" / cell.id
    with pytest.raises(KeyboardInterrupt):
        CellRun(cell, folder, tmp_path / "stopped" / "inputs", Interrupting(3)).run()
    kept = Journal(folder / "samples.jsonl").rows()
    assert len(kept) == 3
    record, resumed = run_cell(cell, tmp_path / "stopped")
    rows = Journal(folder / "samples.jsonl").rows()
    assert rows[:3] == kept and len(rows) == len(cell.task.ids) == len({row["id"] for row in rows})
    assert record.status == "ok" and record.sessions == 2
    pd.testing.assert_series_equal(resumed["sha256"], whole["sha256"])


def test_sequences_by_hand() -> None:
    assert monotonic_rate(np.array([0.1, 0.2, 0.2, 0.3])) == pytest.approx(2 / 3)
    assert monotonic_rate(np.array([0.3, 0.2, 0.1])) == 0
    assert monotonic_rate(np.array([0.1, np.nan, 0.3, 0.4])) == 1
    assert np.isnan(monotonic_rate(np.array([0.1, np.nan, 0.3])))
    line = np.stack([np.full((3, 2, 2), value) for value in (0.1, 0.2, 0.3, 0.4)])
    assert step_l1(line) == pytest.approx(0.1)
    assert roughness_l1(line) == pytest.approx(0, abs=1e-12)
    zigzag = np.stack([np.full((3, 2, 2), value) for value in (0.0, 0.5, 0.0)])
    assert step_l1(zigzag) == pytest.approx(0.5)
    assert roughness_l1(zigzag) == pytest.approx(1.0)
    line[1] = np.nan
    assert step_l1(line) == pytest.approx(0.1)
    assert np.isnan(roughness_l1(line)) and np.isnan(step_l1(line[:1]))


def test_figures_of_saved_sequences(tmp_path: Path) -> None:
    """In the order of the values; the second image's last counterfactual failed."""
    task = expand(small_task(), (0.5, 0.1, 0.9))
    reds = {"a/0": {0.1: 0, 0.5: 51, 0.9: 102}, "a/1": {0.1: 51, 0.5: 0, 0.9: None}}
    table = []
    for name, source, target in zip(task.ids, task.sources or (), task.targets.tolist(), strict=True):
        red = reds[source][round(target, 3)]
        pixels = np.zeros((4, 4, 3), np.uint8)
        pixels[:, :2, 0] = red or 0
        write_png(tmp_path / file_name(name), pixels)
        failure = "nonfinite@refine" if red is None else None
        table.append({"id": name, "image": file_name(name), "failure": failure, "oracle": target if red else np.nan})
    figures = path_figures(task, pd.DataFrame(table), lambda name: to_float(read_image(tmp_path / name)))
    share = 1 / 6  # of all values, that are red ones of the left half
    assert figures.loc["a/0"].to_dict() == pytest.approx(
        {
            "path/monotonic_rate": 1.0,
            "path/step_l1": 0.2 * share,
            "path/roughness_l1": 0.0,
            "path/monotonic_rate_square": 1.0,
        },
        abs=1e-7,
    )
    assert figures.at["a/1", "path/monotonic_rate_square"] == 0
    assert figures.at["a/1", "path/step_l1"] == pytest.approx(0.2 * share)
    assert np.isnan(figures.at["a/1", "path/roughness_l1"]) and np.isnan(figures.at["a/1", "path/monotonic_rate"])
    summary = summarise_paths(figures, "cell", 0)
    assert (summary["path/monotonic_rate_square"].value, summary["path/monotonic_rate_square"].n) == (0.5, 2)
    assert (summary["path/roughness_l1"].value, summary["path/roughness_l1"].n) == (pytest.approx(0, abs=1e-7), 1)


def as_suite(record: CellRecord, folder: Path) -> Path:
    suite = SuiteRecord(
        id="toy", command="", config_set={}, config={}, environment={}, cells=[record], started=now()
    )  # fmt: skip
    write_json(folder / "suite.json", suite)
    return folder


def test_records_of_other_values_are_not_compared(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    cells = {
        "own": tiny_cell(networks, "ac-re-gn", count=2, **QUIET),
        "two": tiny_cell(networks, "ac-re-gn", count=2, targets=(0.49, 0.5), **QUIET),
        "others": tiny_cell(networks, "ac-re-gn", count=2, targets=(0.49, 0.51), **QUIET),
        "path": tiny_cell(networks, "ac-re-gn", count=2, targets=(0.49, 0.5), path="continuation", **QUIET),
    }
    assert "path" not in cells["own"].facts()  # older records stay resumable
    assert len({fingerprint(cell.facts()) for cell in cells.values()}) == 4
    records = {name: run_cell(cell, tmp_path / name)[0] for name, cell in cells.items()}
    folders = {name: as_suite(record, tmp_path / name) for name, record in records.items()}
    for other in ("own", "others"):
        with pytest.raises(NotComparable, match="data"):
            compare_records(folders["two"], folders[other], 1.1, VerifyConfig())
    assert compare_records(folders["two"], folders["path"], 1.1, VerifyConfig()).cells[0].images == 4
    shown = {column[1] for column in columns_of([records["two"]])}
    assert {"path/monotonic_rate", "path/step_l1"} <= shown
    assert "path/monotonic_rate_square" not in shown  # the toy data have no masks
    assert "path/roughness_l1" not in shown  # takes three values
    assert not [column for column in columns_of([records["own"]]) if column[1].startswith("path/")]


def test_defaults_ask_for_the_datasets_own_target() -> None:
    assert RunConfig().targets == () and RunConfig().path == "independent"
