"""Success by start and target, and several reference values an image, against the records themselves."""

from pathlib import Path

import numpy as np
import pytest

from reports.pages.blocks import Matrix, TableBlock
from reports.pages.sections import bins, sweep
from reports.records import read_cells
from tests.charted_suites import TARGETS, block, folder_fixture, granular_fixture, lines_of, texts  # noqa: F401 (fixtures)

# Success by start and target.


def test_values_on_the_edge_of_a_bin_belong_to_the_one_above() -> None:
    values = np.array([-0.01, 0.0, 0.19, 0.2, np.float32(0.6), 0.6 - 1e-9, 0.79, 1.0, 1.02])
    found = bins.equal_bins(values)
    assert found.of(values).tolist() == [0, 0, 0, 1, 3, 3, 3, 4, 4]
    assert found.labels == ["0.0 to 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1.0"]
    assert bins.equal_bins(np.array([0.45, 0.7])).labels == ["0.4 to 0.6", "0.6 to 0.8"]
    assert bins.equal_bins(np.array([0.45, 0.7])).of(np.array([0.45, 0.7])).tolist() == [0, 1]


def test_few_round_targets_are_columns_of_their_own() -> None:
    targets = np.array([0.2, 0.8, 0.2, 0.5], dtype=np.float32).astype(np.float64)
    found = bins.target_bins(targets)
    assert found.labels == ["0.2", "0.5", "0.8"] and found.of(targets).tolist() == [0, 2, 0, 1]
    assert bins.target_bins(np.array([0.123, 0.7])).labels[0] == "0.0 to 0.2"
    assert len(bins.target_bins(np.linspace(0, 1, 21)).labels) == 5


def test_fields_hold_means_and_counts() -> None:
    values = np.array([1.0, 0.0, np.nan, 0.5])
    means, counts = bins.field_means(values, np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), (2, 2))
    assert means == [[0.5, None], [None, 0.5]]
    assert counts == [[2, 0], [0, 1]]


def test_fields_add_up_to_the_success_rate(folder: Path) -> None:
    cells = read_cells([folder])
    section = bins.build(cells)
    assert "ac-re, null" in texts(section)
    for name, key in (("success", "validity/success_rate"), ("error", "validity/oracle_target_mae")):
        matrix = block(section, f"bins-{name}-1")
        assert isinstance(matrix, Matrix) and list(matrix.choices) == ["ac-re, eager", "diffae-re, eager"]
        for cell in cells[:2]:
            means, counts = (np.array(part, dtype=float) for part in matrix.choices[cell.label])
            assert np.nansum(means * counts) / counts.sum() == pytest.approx(cell.record.summary[key].value, rel=1e-4)
            assert matrix.high >= np.nanmax(means)


# Several reference values an image.


def test_lines_follow_the_reference_values(granular_folder: Path) -> None:
    cells = read_cells([granular_folder])
    section = sweep.build(cells)
    samples = cells[0].samples
    for judge, column in (("regressor", "prediction"), ("oracle", "oracle")):
        lines = lines_of(section, "sweep-1", f"ac-re, eager, {judge}")
        assert list(lines) == ["toy/0", "toy/1", "toy/2", "mean", "reference value"]
        for name, points in list(lines.items())[:3]:
            rows = samples[samples["source"] == name].sort_values("target")
            assert [x for x, *_ in points] == pytest.approx(TARGETS)
            assert [y for _, y, *_ in points] == pytest.approx(rows[column].tolist(), rel=1e-5)
        assert lines["mean"][1][1] == pytest.approx(
            samples[column][np.isclose(samples["target"], 0.5)].mean(), rel=1e-5
        )
        assert lines["mean"][1][2] <= lines["mean"][1][1] <= lines["mean"][1][3]
        assert lines["reference value"] == [(0.4, 0.4, None, None), (0.6, 0.6, None, None)]


def test_the_table_tells_monotonic_and_smooth(granular_folder: Path, folder: Path) -> None:
    cell = read_cells([granular_folder])[0]
    found = block(sweep.build([cell]), "sweep-table")
    assert isinstance(found, TableBlock)
    row = dict(zip((column.heading for column in found.table.columns), found.table.rows[0], strict=True))
    paths = sweep.paths(cell.samples, "oracle").to_numpy()
    assert row["images"] == 3 and row["reference values"] == 3
    assert row["rising throughout, oracle"].value == pytest.approx((np.diff(paths) > 0).all(1).mean())
    assert row["roughness, L1"].value == cell.record.summary["path/roughness_l1"].value
    assert sweep.build(read_cells([folder])) is None, "one reference value an image"


def test_a_failed_value_is_a_gap(granular_folder: Path) -> None:
    cell = read_cells([granular_folder])[0]
    samples = cell.samples
    samples.loc[samples["id"] == "toy/1@0.5", ["prediction", "oracle"]] = np.nan
    lines = lines_of(sweep.build([cell]), "sweep-1", "ac-re, eager, regressor")
    assert [x for x, *_ in lines["toy/1"]] == pytest.approx([0.4, 0.6])
    assert len(lines["toy/0"]) == len(lines["mean"]) == 3
