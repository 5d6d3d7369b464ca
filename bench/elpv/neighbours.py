"""What the split of ELPV does not keep apart: neighbouring cells. `python -m bench.elpv.neighbours` prints the figures.

The file numbers follow the modules: cells of one module stand together, row by row. The labels name no module, so
bench/elpv/modules.py infers it; the split by file name puts cells of one module on both sides.
"""

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from bench.datasets.elpv_files import data_folder, manifest, read_pixels
from bench.elpv.modules import modules as modules_of
from bench.errors import UsageError
from metrics.regression import auc, mean_absolute_error, spearman

FOLDS = 4
SIMILAR = 0.9
"""Correlation of two patterns from which they look like one cell photographed twice."""
_DARK = 40
"""Mean grey level below which a cell shows no pattern to compare."""
_BLUR = 4.0
"""Standard deviation in pixels of 64: larger structures are shading, not pattern."""
_AROUND = 15
"""Cells before and after whose mean is what a module's cells have in common, such as busbars."""
_RIDGE = 30.0


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


def _figures(predicted: np.ndarray, values: np.ndarray) -> str:
    error, rank = mean_absolute_error(predicted, values), spearman(predicted, values)
    return f"MAE {error:.3f}, Spearman {rank:.2f}, AUC {auc(predicted, values > 0):.3f}"


def _similar(rows: pd.DataFrame, images: np.ndarray) -> Iterator[str]:
    """Test cells that a training cell looks like, as they are: not mirrored or turned."""
    own, bright = patterns(images), images.mean(axis=(1, 2)) >= _DARK
    tested = np.flatnonzero((rows["split"] == "test") & bright)
    known = np.flatnonzero(rows["split"] == "train")
    correlation = own[tested] @ own[known].T
    partner, alike = known[correlation.argmax(axis=1)], correlation.max(axis=1) > SIMILAR
    values = rows["probability"].to_numpy()
    distance = np.abs(tested - partner)[alike]
    same = (values[tested] > 0)[alike] == (values[partner] > 0)[alike]
    yield f"test cells whose pattern correlates above {SIMILAR} with a training cell's: {alike.sum()} of {len(tested)}"
    yield f"  share of them within 10 file numbers of it: {np.mean(distance <= 10):.2f}"
    yield f"  share of them that are defective or sound as it is: {same.mean():.2f}"


def report() -> Iterator[str]:
    """The figures, a line each.

    Raises:
        UsageError: the package elpv-dataset is not installed.
    """
    rows = manifest()
    images = read_pixels(data_folder(""), rows, 64)[..., 0]
    values, split = rows["probability"].to_numpy(), rows["split"].to_numpy()
    numbers, modules = np.arange(len(rows)), modules_of(rows["file"])
    train, valid, test = (np.flatnonzero(split == name) for name in ("train", "valid", "test"))
    yield f"{len(rows)} cells, {len(np.unique(modules))} inferred modules"
    count = min(
        (1, 2, 4, 8), key=lambda k: mean_absolute_error(by_number(train, values[train], valid, k), values[valid])
    )
    guess = by_number(train, values[train], test, count)
    yield f"test split, mean label of the {count} nearest training file numbers: {_figures(guess, values[test])}"
    yield from _similar(rows, images)
    flat = images.reshape(len(images), -1) / 255.0
    yield f"test split, ridge regression: {_figures(ridge(flat[train], values[train], flat[test]), values[test])}"
    for name, groups in (("single images", numbers), ("whole modules", modules)):
        yield f"all cells, {name} left out, ridge regression: {_figures(left_out(flat, values, groups), values)}"


def main() -> int:
    """Print the report; returns the exit code."""
    try:
        for line in report():
            print(line, flush=True)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
