"""A folder of the user's own images, explained with given weights, or at 64x64 with the shipped ones."""

import os
import unicodedata
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import quote

import numpy as np
from pydantic import Field

from bench.datasets.base import Dataset, DatasetConfig, Task, spread
from bench.datasets.elpv import ELPV_WEIGHTS
from bench.datasets.square_task import SquareDataset, digest
from bench.errors import UsageError
from bench.images import SUFFIXES, BadImage, centre_resize, read_image
from bench.preparing.tables import number, once, read_csv

_OTHER_SUFFIXES = (".gif", ".tif", ".tiff", ".jp2", ".jfif", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".exr", ".npy")
_SHIPPED_SIZE = 64
_OTHER_SIZE = "; set folder.size to theirs, or let larger ones be shrunk with folder.resize=antialias"


class FolderConfig(DatasetConfig):
    """Options of a folder.

    Attributes:
        path: the folder, searched recursively; symbolic links to folders are not followed.
        target: the reference value in [0, 1] for every image, where the labels have none.
        size: height and width of the images that the networks get.
        channels: 3 for colour, as the Square networks take it; 1 for grey, as those of ELPV do. Then images whose
            three channels are equal are taken, and coloured ones are refused.
        resize: what is done with images of another size: "refuse" them, or take the largest square around the
            centre and resize it with antialiasing ("antialias"); nothing is enlarged.
        labels: a CSV file with a column "file" (paths relative to the folder) and "label" (true value), "target"
            (reference value) or both, in [0, 1]; every image has a line, every line an image.
    """

    LATER: ClassVar[tuple[str, ...]] = ("channels",)
    """Options that older records do not have."""

    path: str = ""
    target: float = Field(0.5, ge=0, le=1)
    size: int = Field(_SHIPPED_SIZE, ge=1)
    channels: Literal[1, 3] = 3
    resize: Literal["refuse", "antialias"] = "refuse"
    labels: str = ""


class FolderDataset(Dataset):
    """Images in a folder; a sample's id is its path relative to the folder.

    Images are turned upright as their EXIF orientation says. Whatever would be lost unseen is refused by name:
    transparency, more than 8 bits, all but one picture of an animation, colour where grey is asked for, formats that
    are not read, names that differ in case or Unicode form only.
    """

    options = FolderConfig
    config: FolderConfig

    def __init__(self, config: FolderConfig) -> None:
        super().__init__(config)
        if config.size == _SHIPPED_SIZE:
            self.weights = SquareDataset.weights if config.channels == 3 else ELPV_WEIGHTS

    def load(self, limit: int) -> Task:
        config = self.config
        if not config.path:
            raise UsageError("--dataset folder needs folder.path; give it with -s folder.path=DIR")
        root = Path(config.path)
        if not root.is_dir():
            raise UsageError(f"folder.path={config.path}: not a folder")
        files = find_images(root)
        if not files:
            raise UsageError(f"folder.path={config.path} holds no images ({', '.join(sorted(SUFFIXES))})")
        labels, targets = self._labels(files)
        names = list(files)
        chosen = spread(names, limit)
        ids = tuple(names[i] for i in chosen)
        images = np.stack([self._image(files[name]) for name in ids])
        wanted = np.array([targets[name] for name in ids], dtype=np.float32)
        attribute = np.array([labels[name] for name in ids], dtype=np.float32) if labels else None
        return Task(ids, images, wanted, attribute, None, "1", digest(ids, images, wanted))

    def _image(self, path: Path) -> np.ndarray:
        """uint8 (size, size, channels)."""
        size, channels = self.config.size, self.config.channels
        try:
            if self.config.resize == "refuse":
                return read_image(path, size, channels)
            return centre_resize(read_image(path, channels=channels), size)
        except BadImage as error:
            hint = _OTHER_SIZE if f"; {size}x{size} are needed" in str(error) else ""
            raise UsageError(f"{error}{hint}") from error
        except ValueError as error:
            raise UsageError(f"{path}: {error}; nothing is enlarged") from error

    def _labels(self, files: dict[str, Path]) -> tuple[dict[str, float], dict[str, float]]:
        """True values ({} where there are none) and reference values of every image."""
        config = self.config
        if not config.labels:
            return {}, dict.fromkeys(files, config.target)
        path = Path(config.labels)
        found = read_labels(path, files)
        labels, targets = found.get("label", {}), found.get("target")
        if targets is not None and "target" in config.model_fields_set:
            raise UsageError(f"folder.target is given, and {path} has a column 'target' too; leave one of them out")
        return labels, dict.fromkeys(files, config.target) if targets is None else targets


def read_labels(path: Path, files: dict[str, Path]) -> dict[str, dict[str, float]]:
    """A CSV file of labels: column -> sample id -> value.

    Args:
        files: the images by id.

    Raises:
        UsageError: an unknown column, a file that is not there or there twice, an image without a line, or a value
            that is no number in [0, 1]; names the line.
    """
    rows = read_csv(path, ("file",))
    columns = [name for name in (rows[0][1] if rows else {}) if name != "file"]
    unknown = [name for name in columns if name not in ("label", "target")]
    if unknown or not columns:
        fault = f"unknown column {unknown[0]!r}" if unknown else "no values"
        raise UsageError(f"{path}: {fault}; a line for every image with the columns file, label and target is needed")
    values: dict[str, dict[str, float]] = {column: {} for column in columns}
    seen: dict[str, str] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if row["file"] not in files:
            raise UsageError(f"{where}: the folder holds no image {row['file']!r}; paths are relative to folder.path")
        once(row["file"], seen, where)
        for column in columns:
            values[column][row["file"]] = number(row[column], 0, 1, f"{where}, {column}")
    missing = [name for name in files if name not in seen]
    if missing:
        raise UsageError(f"{path} has no line for {len(missing)} of {len(files)} images, the first {missing[0]}")
    return values


def sample_id(relative: str) -> str:
    """An image's path as an id: itself where it can be printed, else its bytes in percent form."""
    return relative if relative.isprintable() else quote(os.fsencode(relative), safe="/")


def find_images(root: Path) -> dict[str, Path]:
    """The images of a folder by id, ordered by the bytes of their paths.

    Raises:
        UsageError: an image of a format that is not read, something that is no file, or two names that are one on
            other systems; names it.
    """
    paths = []
    for directory, _, names in os.walk(root, onerror=_unreadable):
        paths += [Path(directory) / name for name in names]
    found: dict[str, Path] = {}
    spellings: dict[str, str] = {}
    for path in sorted(paths, key=lambda path: os.fsencode(path.relative_to(root).as_posix())):
        suffix = path.suffix.lower()
        name = sample_id(path.relative_to(root).as_posix())
        if suffix in _OTHER_SUFFIXES:
            raise UsageError(f"{root}: {name} is of a format that is not read; convert it to PNG or move it away")
        if suffix not in SUFFIXES:
            continue
        if not path.is_file():
            raise UsageError(f"{root}: {name} is not a readable file; move it away")
        spelling = unicodedata.normalize("NFC", name).casefold()
        if spelling in spellings:
            raise UsageError(
                f"{root}: {name} and {spellings[spelling]} differ in case or Unicode form only; rename one of them"
            )
        spellings[spelling] = name
        found[name] = path
    return found


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename}: cannot be read ({error.strerror})") from error
