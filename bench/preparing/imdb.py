"""imdb-wiki-clean (Lin et al. 2021, "FP-Age"): faces with their age, cropped like CelebA-HQ, as 256x256 JPEG images.

Source: the repository imdb-clean with the tables of its folder csvs, and the images that its scripts make in
data/imdb-clean-1024. The landmarks are those that its authors published with a RetinaFace detector; faces that the
detector did not find are left out.
"""

import io
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from bench.errors import UsageError
from bench.images import BadImage, read_image
from bench.preparing.crop import align_face
from bench.preparing.plan import SPLITS, Job, Plan, check_files
from bench.preparing.tables import find, image_name, number, once, read_csv

POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
LANDMARKS = tuple(f"{point}_{axis}" for point in POINTS for axis in "xy")
"""Columns of the detector's table, in the order in which the crop takes them."""

MAX_AGE = 100
TABLES = {split: f"imdb_{split}_new_1024.csv" for split in SPLITS}
PREDICTIONS = "imdb_1024_retinaface_predictions.csv"
IMAGES = "imdb-clean-1024"
CROPPED = "imdb-clean-1024-cropped"
_REPOSITORY = "imdb-clean (github.com/yiminglin-ai/imdb-clean), folder csvs"
_SCRIPTS = "no download: run_all.sh of github.com/yiminglin-ai/imdb-clean makes it"
_NAME = r"[0-9A-Za-z_]+/[0-9A-Za-z_.-]+\.jpe?g"
_FARTHEST = 100_000.0


def plan_imdb(root: Path, split: str) -> Plan:
    """Check everything but the pixels.

    Args:
        root: the repository imdb-clean (csvs/, data/imdb-clean-1024/), or a folder imdb-clean-1024-cropped that the
            published code has made already (images and tables in one folder): its images are only resized.
        split: "train", "valid", "test" or "all": whose images are wanted.

    Raises:
        UsageError: a file that is missing or does not fit the others; names it, and the line.
    """
    places = [root / "csvs", root]
    tables = {name: find(name, places, _REPOSITORY) for name in TABLES.values()}
    frame = _read_tables(tables)
    images = _find_images(root)
    cropped = "cropped" in images.resolve().name
    points: dict[str, tuple[float, ...]] = {}
    notes = _shared_people(frame)
    wanted = frame["split"].isin(SPLITS if split == "all" else [split])
    if not cropped:
        tables[PREDICTIONS] = find(PREDICTIONS, places, _REPOSITORY + " (since October 2023)")
        points = _read_landmarks(tables[PREDICTIONS])
        found = frame["id"].isin(points.keys())
        if (~found & wanted).any():
            notes.append(f"{int((~found & wanted).sum())} images left out: {PREDICTIONS} has no face for them")
        wanted &= found
    names = frame.loc[wanted, "id"].tolist()
    check_files(images, names, None, tables[TABLES["train"]], _SCRIPTS)
    frame["file"] = [f"images/{name}" if use else "" for name, use in zip(frame["id"], wanted, strict=True)]
    jobs = [Job(name, images / name, f"images/{name}", points.get(name, ())) for name in names]
    recipe = {
        "crop": "done already" if cropped else "square of CelebA-HQ from five landmarks, Lanczos",
        "resize": "Pillow BILINEAR (antialiased)",
        "encoding": "JPEG, quality 95, 4:4:4",
    }
    return Plan("imdb-wiki-clean", tables, frame[["id", "file", "split", "attribute"]], jobs, recipe, notes, render)


def render(job: Job, size: int) -> bytes:
    """One face as JPEG. PNG would take four times the disk, for pixels that come out of JPEG files anyway.

    Raises:
        BadImage: damaged, no face where the landmarks are, or already cropped but not square or too small.
    """
    image = Image.fromarray(read_image(job.source))
    if job.landmarks:
        try:
            image = align_face(image, np.array(job.landmarks).reshape(5, 2), size)
        except ValueError as error:
            raise BadImage(f"{job.source}: {error}; correct or remove its line in {PREDICTIONS}") from error
    elif image.width != image.height or image.width < size:
        raise BadImage(f"{job.source}: {image.width}x{image.height} pixels; a square of at least {size} is needed")
    else:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _read_tables(tables: dict[str, Path]) -> pd.DataFrame:
    """id, split and attribute (age / 100) of every image, split by split."""
    rows = []
    seen: dict[str, str] = {}
    for split, name in TABLES.items():
        for line, row in read_csv(tables[name], ("filename", "age")):
            where = f"{tables[name]}, line {line}"
            image = image_name(row["filename"], _NAME, where)
            once(image, seen, where)
            rows.append((image, split, number(row["age"], 0, MAX_AGE, f"{where}, age") / MAX_AGE))
    frame = pd.DataFrame(rows, columns=["id", "split", "attribute"])
    empty = [tables[TABLES[split]] for split in SPLITS if not (frame["split"] == split).any()]
    if empty:
        raise UsageError(f"{empty[0]} holds no images")
    return frame


def _read_landmarks(path: Path) -> dict[str, tuple[float, ...]]:
    """The ten coordinates of every face."""
    found: dict[str, tuple[float, ...]] = {}
    seen: dict[str, str] = {}
    for line, row in read_csv(path, ("filename", *LANDMARKS)):
        where = f"{path}, line {line}"
        once(row["filename"], seen, where)
        values = (number(row[name], -_FARTHEST, _FARTHEST, f"{where}, {name}") for name in LANDMARKS)
        found[row["filename"]] = tuple(values)
    return found


def _find_images(root: Path) -> Path:
    """The folder of the images: as the repository's scripts make it, or cropped already."""
    for folder in (root / "data" / IMAGES, root / IMAGES):
        if folder.is_dir():
            return folder
    if "cropped" in root.resolve().name:
        return root
    raise UsageError(f"{root / 'data' / IMAGES} is missing ({_SCRIPTS}); a folder {CROPPED} may be given as --root too")


def _shared_people(frame: pd.DataFrame) -> list[str]:
    """Say where a person (nm0000000_... in the file name) is in two splits: validation errors are then too low."""
    people = frame["id"].str.extract(r"/(nm\d+)_")[0]
    by_split = {split: set(people[frame["split"] == split].dropna()) for split in SPLITS}
    return [
        f"{len(by_split[one] & by_split[other])} people are in {one} as well as in {other}"
        for one, other in itertools.combinations(SPLITS, 2)
        if by_split[one] & by_split[other]
    ]
