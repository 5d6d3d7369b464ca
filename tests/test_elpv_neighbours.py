"""What the split of ELPV does not keep apart: the parts of the study, on small arrays and the real list of files."""

import numpy as np

from bench.datasets.elpv_files import manifest
from bench.elpv.modules import modules
from bench.elpv.neighbours import by_number, left_out, patterns, ridge
from methods import noise


def test_the_list_of_files_is_cut_into_as_many_modules_as_were_photographed() -> None:
    rows = manifest()
    found = modules(rows["file"])
    assert len(np.unique(found)) == 44 and (np.diff(found) >= 0).all()
    assert all(rows["type"][found == module].nunique() == 1 for module in range(44))


def test_a_guess_by_number_is_the_mean_of_the_nearest() -> None:
    known, values = np.array([0, 10, 12, 30]), np.array([1.0, 0.0, 1.0, 0.5])
    assert by_number(known, values, np.array([1, 11, 29]), 1).tolist() == [1.0, 0.0, 0.5]
    assert by_number(known, values, np.array([11, 29]), 2).tolist() == [0.5, 0.75]


def test_a_pattern_is_what_a_cell_has_of_its_own() -> None:
    shared = 200 * (np.arange(32) % 8 == 0)[:, None]  # busbars
    cells = 40 * noise.numpy_normal(7, (20, 32, 32)) + shared
    cells[11] = cells[10] + 4 * noise.numpy_normal(8, (32, 32)) + np.linspace(0, 80, 32)  # again, in another light
    found = patterns(cells)
    alike = found @ found.T
    assert np.allclose(np.diag(alike), 1, atol=1e-5)
    assert alike[10, 11] > 0.9
    np.fill_diagonal(alike, 0)
    alike[10, 11] = alike[11, 10] = 0
    assert np.abs(alike).max() < 0.4


def test_ridge_regression_is_that_of_the_normal_equations() -> None:
    images, weights = noise.numpy_normal(1, (40, 6)), noise.numpy_normal(2, (6,)) / 20
    values = 0.5 + images @ weights
    centred = images - images.mean(axis=0)
    solved = np.linalg.solve(centred.T @ centred + 30 * np.eye(6), centred.T @ (values - values.mean()))
    expected = np.clip(centred @ solved + values.mean(), 0, 1)
    np.testing.assert_allclose(ridge(images, values, images), expected, atol=1e-9)


def test_a_fold_is_predicted_without_its_groups() -> None:
    groups = np.repeat(np.arange(8), 5)
    images = 100.0 * np.eye(8)[groups]  # an image says which group it is of, and nothing else
    values = groups % 2 * 1.0
    assert np.abs(left_out(images, values, np.arange(40)) - values).max() < 0.1
    assert np.abs(left_out(images, values, groups) - values).mean() > 0.6
