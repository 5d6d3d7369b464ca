"""The files of the ELPV data set: where they lie, what they are, and which split each belongs to.

Source: Buerhop-Lutz et al., "A benchmark for visual identification of defective solar cells in
electroluminescence imagery" (EU PVSEC 2018), as the package `elpv-dataset` on PyPI; images CC BY-NC-SA 4.0.
"""

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from bench.datasets import CREDITS, PACKAGES
from bench.errors import UsageError
from bench.images import BadImage, centre_resize, read_image

Split = Literal["train", "valid", "test"]

PACKAGE = PACKAGES["elpv"]
LICENCE = CREDITS["elpv"].licence
COUNT, SIDE = 2624, 300
"""Number of images, and their height and width as published."""
TEST_SHARE, VALID_SHARE = 0.25, 0.1
MANIFEST = Path(__file__).with_name("elpv_manifest.csv")
"""A line a file: name, sha256, defect probability, cell type, split."""
_LINE = re.compile(r"(images/\w+\.png)\s+(0\.0|0\.333\d*|0\.666\d*|1\.0)\s+(mono|poly)\s*")
_COLUMNS = ("file", "sha256", "probability", "type", "split")


def data_folder(path: str, option: str = "-s elpv.path=") -> Path:
    """The folder that holds `images/` and `labels.csv`: `path`, or the installed package's where it is empty.

    Args:
        option: what the path was given with, for errors; the path follows it.

    Raises:
        UsageError: the package is not installed, or the folder is not there.
    """
    if path:
        if not Path(path).is_dir():
            raise UsageError(f"{option}{path}: not a folder; give the one that holds images/ and labels.csv")
        return Path(path)
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"elpv needs the package elpv-dataset (87 MB, {LICENCE}); install it with `pip install '.[elpv]'`, or "
            f"give a copy of its folder data/ with {option}DIR"
        )
    return Path(spec.origin).parent / "data"


def assign_splits(labels: pd.DataFrame) -> list[str]:
    """The split of every row: in each stratum of probability and type, by the order of the file names' sha256.

    The first quarter of a stratum is the test split, the next tenth the validation split, both rounded to the
    nearest whole number of images. So the split depends on nothing but the list of files.

    Args:
        labels: columns file, probability, type.
    """
    splits = pd.Series("train", index=labels.index)
    for _, stratum in labels.groupby(["probability", "type"]):
        ranked = sorted(stratum.index, key=lambda row: hashlib.sha256(labels.at[row, "file"].encode()).hexdigest())
        test = round(TEST_SHARE * len(ranked))
        valid = round(VALID_SHARE * len(ranked))
        splits[ranked[:test]], splits[ranked[test : test + valid]] = "test", "valid"
    return splits.tolist()


@cache
def manifest() -> pd.DataFrame:
    """The shipped manifest, a row a file in the published order, with probabilities as float64 in [0, 1]."""
    return pd.read_csv(MANIFEST, dtype={"file": str, "sha256": str, "type": str, "split": str})


def make_manifest(folder: Path) -> pd.DataFrame:
    """The manifest of a data folder; the shipped one was made by it from elpv-dataset 1.0.0.post1.

    Args:
        folder: holds `labels.csv`, a line an image (path, probability, type).

    Raises:
        UsageError: the list is missing, damaged or not of this data set, or an image of it cannot be read.
    """
    path = folder / "labels.csv"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); it comes with the package elpv-dataset") from error
    if len(lines) != COUNT:
        raise UsageError(f"{path} lists {len(lines)} images; those of elpv-dataset 1.0.0 are {COUNT}")
    rows = []
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise UsageError(f"{path}, line {number}: {line!r} is not `images/NAME.png 0|0.333|0.666|1 mono|poly`")
        file, probability, cell_type = found.groups()
        content = _content(folder / file)
        rows.append((file, hashlib.sha256(content).hexdigest(), round(float(probability) * 3) / 3, cell_type))
    frame = pd.DataFrame(rows, columns=list(_COLUMNS[:4]))
    return frame.assign(split=assign_splits(frame))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); install elpv-dataset again, or give a whole copy of its "
            "folder data/"
        ) from error


def read_pixels(folder: Path, rows: pd.DataFrame, size: int) -> np.ndarray:
    """The images of rows of the manifest, grey and shrunk with antialiasing: uint8 (N, size, size, 1).

    Args:
        folder: from `data_folder`.
        rows: of `manifest()`.
        size: height and width, at most 300.

    Raises:
        UsageError: a file that is missing, damaged, or not the one of the manifest; names it.
    """
    return np.stack([_pixels(folder / name, sha256, size) for name, sha256 in _files(rows)])


def _files(rows: pd.DataFrame) -> Iterable[tuple[str, str]]:
    return zip(rows["file"], rows["sha256"], strict=True)


def _pixels(path: Path, sha256: str, size: int) -> np.ndarray:
    if hashlib.sha256(_content(path)).hexdigest() != sha256:
        raise UsageError(
            f"{path} is not the file of elpv-dataset 1.0.0 (another sha256 than in {MANIFEST.name}); install the "
            "package again, or explain own photographs with --dataset folder and -s folder.channels=1"
        )
    try:
        return centre_resize(read_image(path, SIDE, channels=1), size)
    except BadImage as error:
        raise UsageError(str(error)) from error
