"""What the split of ELPV does not keep apart: neighbouring cells.

    python -m bench.elpv.neighbours [--path DIR] [--results FILE.json]

The file numbers follow the modules: cells of one module stand together, row by row. The labels name no module, so
bench/elpv/modules.py infers it; the split by file name puts cells of one module on both sides.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel
from scipy.ndimage import gaussian_filter

from bench.cli_options import ending
from bench.datasets.elpv_files import data_folder, manifest, read_pixels
from bench.elpv.modules import modules as modules_of
from bench.study_results import add_photographs, study_parser, write_results
from metrics.regression import auc, mean_absolute_error, spearman

FOLDS = 4
SIMILAR = 0.9
"""Correlation of two patterns from which they look like one cell photographed twice."""
NEAR = 10
"""File numbers within which two cells are neighbours."""
COUNTS = (1, 2, 4, 8)
"""Numbers of nearest cells that are tried on the validation split."""
_DARK = 40
"""Mean grey level below which a cell shows no pattern to compare."""
_BLUR = 4.0
"""Standard deviation in pixels of 64: larger structures are shading, not pattern."""
_AROUND = 15
"""Cells before and after whose mean is what a module's cells have in common, such as busbars."""
_RIDGE = 30.0


class Quality(BaseModel):
    """How well the defect probability is predicted; `auc` is of any defect against none."""

    mae: float
    spearman: float
    auc: float


class Alike(BaseModel):
    """Cells of the test split whose pattern is like that of a cell of the training split.

    Attributes:
        tested: cells that are not all dark; `alike` of them correlate above SIMILAR with a training cell.
        near: share of those whose partner is within NEAR file numbers; `same_label` that is sound or defective like it.
    """

    tested: int
    alike: int
    near: float
    same_label: float


class Study(BaseModel):
    """Everything that is found.

    Attributes:
        cells, modules: of the data set; modules are inferred.
        nearest: the number of nearest file numbers whose mean label is the guess, best on the validation split.
        by_number, ridge: on the test split: that guess, and ridge regression on pixels.
        ridge_cells, ridge_modules: ridge regression on all cells, in folds of single cells and of whole modules.
    """

    cells: int
    modules: int
    nearest: int
    by_number: Quality
    alike: Alike
    ridge: Quality
    ridge_cells: Quality
    ridge_modules: Quality


def by_number(known: np.ndarray, values: np.ndarray, asked: np.ndarray, count: int) -> np.ndarray:
    """The mean value of the `count` nearest known file numbers, (M,): a guess that sees no pixel.

    Args:
        known: file numbers (N,) with their `values` (N,).
        asked: file numbers (M,).
    """
    nearest = np.argsort(np.abs(asked[:, None] - known), axis=1, kind="stable")[:, :count]
    return values[nearest].mean(axis=1)


def patterns(images: np.ndarray) -> np.ndarray:
    """What is a cell's own, unit vectors (N, H * W): no shading, and no mean of the cells around it in file order.

    Args:
        images: (N, H, W), grey levels in file order.
    """
    fine = np.stack([image - gaussian_filter(image, _BLUR) for image in images.astype(np.float32)])
    own = np.empty_like(fine)
    for index, image in enumerate(fine):
        around = fine[max(0, index - _AROUND) : index + _AROUND + 1]
        own[index] = image - (around.sum(axis=0) - image) / (len(around) - 1)
    flat = own.reshape(len(own), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def ridge(train: np.ndarray, values: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge regression on pixels, clipped to [0, 1]: (M,) from (N, P) with values (N,) and (M, P)."""
    centre, mean = train.mean(axis=0), values.mean()
    known = train - centre
    dual = np.linalg.solve(known @ known.T + _RIDGE * np.eye(len(known)), values - mean)
    return np.clip((test - centre) @ (known.T @ dual) + mean, 0, 1)


def left_out(images: np.ndarray, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """`ridge` on every image (N,), from the images of other folds; a fold is every fourth group."""
    predicted = np.empty(len(values))
    for fold in range(FOLDS):
        tested = groups % FOLDS == fold
        predicted[tested] = ridge(images[~tested], values[~tested], images[tested])
    return predicted


def _quality(predicted: np.ndarray, values: np.ndarray) -> Quality:
    return Quality(
        mae=mean_absolute_error(predicted, values),
        spearman=spearman(predicted, values),
        auc=auc(predicted, values > 0),
    )


def _alike(rows: pd.DataFrame, images: np.ndarray) -> Alike:
    """Test cells that a training cell looks like, as they are: not mirrored or turned."""
    own, bright = patterns(images), images.mean(axis=(1, 2)) >= _DARK
    tested = np.flatnonzero((rows["split"] == "test") & bright)
    known = np.flatnonzero(rows["split"] == "train")
    correlation = own[tested] @ own[known].T
    partner, alike = known[correlation.argmax(axis=1)], correlation.max(axis=1) > SIMILAR
    defective = rows["probability"].to_numpy() > 0
    distance = np.abs(tested - partner)[alike]
    same = (defective[tested] == defective[partner])[alike]
    return Alike(
        tested=len(tested), alike=int(alike.sum()), near=float(np.mean(distance <= NEAR)), same_label=float(same.mean())
    )


def study(folder: Path) -> Study:
    """Every figure.

    Args:
        folder: from `data_folder`.

    Raises:
        UsageError: a file that is missing, damaged or not the manifest's.
    """
    rows = manifest()
    images = read_pixels(folder, rows, 64)[..., 0]
    values, split = rows["probability"].to_numpy(), rows["split"].to_numpy()
    numbers, modules = np.arange(len(rows)), modules_of(rows["file"])
    train, valid, test = (np.flatnonzero(split == name) for name in ("train", "valid", "test"))

    def guess(asked: np.ndarray, count: int) -> np.ndarray:
        return by_number(train, values[train], asked, count)

    nearest = min(COUNTS, key=lambda count: mean_absolute_error(guess(valid, count), values[valid]))
    flat = images.reshape(len(images), -1) / 255.0
    return Study(
        cells=len(rows),
        modules=len(np.unique(modules)),
        nearest=nearest,
        by_number=_quality(guess(test, nearest), values[test]),
        alike=_alike(rows, images),
        ridge=_quality(ridge(flat[train], values[train], flat[test]), values[test]),
        ridge_cells=_quality(left_out(flat, values, numbers), values),
        ridge_modules=_quality(left_out(flat, values, modules), values),
    )


def lines(found: Study) -> Iterator[str]:
    """The figures for people, a line each."""
    alike = found.alike
    yield f"{found.cells} cells, {found.modules} inferred modules"
    yield (f"test split, mean label of the {found.nearest} nearest training file numbers: {_describe(found.by_number)}")
    yield (
        f"test cells whose pattern correlates above {SIMILAR} with a training cell's: {alike.alike} of {alike.tested}"
    )
    yield f"  share of them within {NEAR} file numbers of it: {alike.near:.2f}"
    yield f"  share of them that are defective or sound as it is: {alike.same_label:.2f}"
    yield f"test split, ridge regression: {_describe(found.ridge)}"
    yield f"all cells, four folds of single cells, ridge regression: {_describe(found.ridge_cells)}"
    yield f"all cells, four folds of whole modules, ridge regression: {_describe(found.ridge_modules)}"


def _describe(quality: Quality) -> str:
    return f"MAE {quality.mae:.3f}, Spearman {quality.spearman:.2f}, AUC {quality.auc:.3f}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = study_parser("bench.elpv.neighbours", __doc__)
    add_photographs(parser)
    return parser.parse_args(arguments)


@ending
def main(arguments: list[str] | None = None) -> int:
    """Print the figures; returns the exit code."""
    given = _parse(arguments)
    found = study(data_folder(given.path, "--path "))
    if given.results:
        write_results(given.results, "bench.elpv.neighbours", arguments, found.model_dump(mode="json"))
    print(*lines(found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
