"""Reading a prepared folder: labels.csv, images/ and, written last, manifest.json."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bench.errors import UsageError

FORMAT = 1
MANIFEST = "manifest.json"
LABELS = "labels.csv"


@dataclass(frozen=True)
class Prepared:
    """A prepared data set; its images stay on disk.

    Attributes:
        folder: where it lies.
        manifest: what it was made from and how; "labels" is the sha256 of labels.csv, which holds that of every
            image, so it identifies all of the content.
        labels: a row an image in the data set's order: "id", "file" (relative to the folder; "" where the image was
            not prepared), "sha256" of that file, "split" ("train", "valid", "test"), and the data set's own columns
            ("attribute" in [0, 1] for ages; 40 of -1 or 1 for CelebA-HQ).
    """

    folder: Path
    manifest: dict[str, Any]
    labels: pd.DataFrame

    @property
    def size(self) -> int:
        """Height and width of the images."""
        return int(self.manifest["size"])

    @property
    def digest(self) -> str:
        """sha256 that identifies labels and images."""
        return str(self.manifest["labels"])

    def split(self, name: str) -> pd.DataFrame:
        """The rows of a split's images, numbered from 0.

        Raises:
            UsageError: the split was not prepared.
        """
        rows = self.labels[(self.labels["split"] == name) & (self.labels["file"] != "")].reset_index(drop=True)
        if rows.empty:
            there = ", ".join(sorted(set(self.labels.loc[self.labels["file"] != "", "split"])))
            raise UsageError(f"{self.folder} holds no images of split {name!r}, but of {there}; prepare that one too")
        return rows

    def image(self, row: Any) -> np.ndarray:
        """The image of a row of `labels`, checked against its sha256: uint8 (size, size, 3).

        Args:
            row: with "file" and "sha256".

        Raises:
            UsageError: missing, changed or damaged; names the file.
        """
        path = self.folder / row["file"]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror}); prepare the data again") from error
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise UsageError(f"{path} was changed since it was prepared; prepare the data again")
        return _decode(path, data, self.size)


def _decode(path: Path, data: bytes, size: int) -> np.ndarray:
    """The pixels of a file that preparing wrote, from the bytes that were checked: uint8 (size, size, 3).

    Raises:
        UsageError: not such a file, although its sha256 is in the labels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            found, pixels = (image.mode, image.width, image.height), np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: damaged or not a prepared image; prepare the data again") from error
    if found != ("RGB", size, size):
        raise UsageError(f"{path}: {found[0]}, {found[1]}x{found[2]} pixels; RGB, {size}x{size} is needed")
    return pixels


def open_prepared(folder: Path, name: str) -> Prepared:
    """Open a prepared folder.

    Args:
        name: the data set that it has to hold.

    Raises:
        UsageError: unfinished, of another data set, or changed since.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{path} is missing; make the folder with `python -m bench prepare {name} --root DIR -o DIR`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found, version = manifest["name"], manifest["format"]
        expected = str(manifest["labels"])
        int(manifest["size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not the manifest of a prepared data set") from error
    if found != name:
        raise UsageError(f"{folder} holds {found}; {name} is needed")
    if version != FORMAT:
        raise UsageError(f"{path} is of format {version}, not {FORMAT}; prepare the data again")
    try:
        data = (folder / LABELS).read_bytes()
    except OSError as error:
        raise UsageError(f"{folder / LABELS} cannot be read ({error.strerror}); prepare the data again") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise UsageError(f"{folder / LABELS} was changed since it was prepared; prepare the data again")
    text = {"id": str, "file": str, "sha256": str, "split": str}
    return Prepared(folder, manifest, pd.read_csv(io.BytesIO(data), dtype=text, keep_default_na=False))
