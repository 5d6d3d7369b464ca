"""What a preparation will write, known before anything is written."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.errors import UsageError

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Job:
    """One image.

    Attributes:
        id: its name in the data set.
        source: the published file.
        file: where it goes, relative to the prepared folder, with "/".
        landmarks: x and y of both eyes, the nose and the corners of the mouth in pixels of the source, or () where
            the image is not cropped by them.
    """

    id: str
    source: Path
    file: str
    landmarks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A checked data set.

    Attributes:
        name: of the data set.
        tables: official name -> the file it was read from.
        labels: a row an image, with at least "id", "file" ("" where the image is not wanted) and "split".
        jobs: the images that are wanted.
        recipe: how they are cropped, resized and encoded, for people and for the manifest.
        notes: what is worth telling: what is left out and why.
        render: (job, size) -> the encoded image; raises BadImage.
    """

    name: str
    tables: dict[str, Path]
    labels: pd.DataFrame
    jobs: list[Job]
    recipe: dict[str, str]
    notes: list[str]
    render: Callable[[Job, int], bytes]


def check_files(folder: Path, wanted: list[str], known: set[str] | None, table: Path, origin: str) -> None:
    """Refuse an image folder that lacks images, or that holds others than the table names.

    Args:
        wanted: relative names that have to be there.
        known: relative names that may be there; None allows any.
        origin: where the images are published, for people.

    Raises:
        UsageError: names the folder, the count and the first image.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is missing; the folder {folder.name} comes with {origin}")
    present = set()
    for directory, _, names in os.walk(folder):
        inside = Path(directory).relative_to(folder)
        present.update((inside / name).as_posix() for name in names if name.lower().endswith((".jpg", ".jpeg")))
    missing = [name for name in wanted if name not in present]
    if missing:
        raise UsageError(f"{folder} lacks {len(missing)} of {len(wanted)} images, the first {missing[0]}")
    extra = [] if known is None else sorted(present - known)
    if extra:
        raise UsageError(f"{folder} holds {len(extra)} images that {table.name} does not name, the first {extra[0]}")
