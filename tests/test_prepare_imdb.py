"""Preparing imdb-wiki-clean, and the crop of CelebA-HQ."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import UsageError
from bench.images import read_image
from bench.preparing.command import prepare
from bench.preparing.crop import align_face, face_square
from bench.preparing.prepared import open_prepared
from tests.mini_celebahq import picture, write_imdb_clean

SIZE = 16


@pytest.fixture
def imdb(tmp_path: Path) -> Path:
    return write_imdb_clean(tmp_path / "imdb-clean", count=12, size=32)


def edit(path: Path, old: str, new: str) -> None:
    """Replace one text once; it has to be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_imdb_faces_are_cropped_and_keep_their_age(imdb: Path, tmp_path: Path) -> None:
    edit(imdb / "csvs/imdb_1024_retinaface_predictions.csv", "00/nm0000003", "00/nm0009999")
    lines = prepare("imdb-wiki-clean", imdb, tmp_path / "out", SIZE, "all")
    assert "7 train, 2 valid, 2 test images" in lines[1] and lines[2].startswith("1 images left out")
    prepared = open_prepared(tmp_path / "out", "imdb-wiki-clean")
    rows = prepared.split("valid")
    assert rows["attribute"].tolist() == [0.24, 0.68]
    assert rows["file"].tolist()[0].startswith("images/02/nm0000002_rm2_")
    for _, row in rows.iterrows():  # the miniature's faces are as bright as they are old; the crop keeps the middle
        assert abs(prepared.image(row).mean() / 255 - row["attribute"]) < 0.1
    assert prepared.manifest["recipe"]["encoding"].startswith("JPEG, quality 95")


def test_a_folder_that_the_published_code_cropped_is_only_resized(imdb: Path, tmp_path: Path) -> None:
    cropped = tmp_path / "imdb-clean-1024-cropped"
    shutil.copytree(imdb / "data/imdb-clean-1024", cropped)
    for table in (imdb / "csvs").glob("imdb_*_new_1024.csv"):
        shutil.copy(table, cropped)
    prepare("imdb-wiki-clean", cropped, None, SIZE, "valid")
    prepared = open_prepared(tmp_path / "imdb-clean-1024-cropped-prepared-16", "imdb-wiki-clean")
    assert prepared.manifest["recipe"]["crop"] == "done already"
    row = prepared.split("valid").iloc[0]
    source = Image.fromarray(read_image(cropped / row["id"])).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.abs(prepared.image(row).astype(int) - np.asarray(source, dtype=int)).mean() < 2  # JPEG 95


def test_people_in_two_splits_are_told(imdb: Path, tmp_path: Path) -> None:
    one = (imdb / "csvs/imdb_test_new_1024.csv").read_text().splitlines()[1].split(",")[0]
    other = one.replace("nm0000005", "nm0000000")
    shutil.move(imdb / "data/imdb-clean-1024" / one, imdb / "data/imdb-clean-1024" / other)
    edit(imdb / "csvs/imdb_test_new_1024.csv", one, other)
    edit(imdb / "csvs/imdb_1024_retinaface_predictions.csv", one, other)
    assert "1 people are in train as well as in test" in prepare("imdb-wiki-clean", imdb, None, SIZE, "all")


TRAIN = "csvs/imdb_train_new_1024.csv"
POINTS = "csvs/imdb_1024_retinaface_predictions.csv"
FIRST, THIRD = "00/nm0000000_rm0_1950-1-1_1960.jpg", "02/nm0000002_rm2_1950-1-1_1974.jpg"


def refused(root: Path, output: Path) -> str:
    """The sentence with which the data is refused before anything is written."""
    with pytest.raises(UsageError) as error:
        prepare("imdb-wiki-clean", root, output, SIZE, "all")
    assert "\n" not in str(error.value)
    assert not output.exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("csvs/imdb_valid_new_1024.csv", "imdb_valid_new_1024.csv is missing; .*github.com/yiminglin-ai/imdb-clean"),
        (POINTS, "imdb_1024_retinaface_predictions.csv is missing; .*since October 2023"),
        ("data", "data/imdb-clean-1024 is missing .*run_all.sh"),
        (f"data/imdb-clean-1024/{FIRST}", f"lacks 1 of 12 images, the first {FIRST}"),
    ],
)
def test_missing_files_are_told_by_their_official_names(imdb: Path, tmp_path: Path, missing: str, text: str) -> None:
    shutil.rmtree(imdb / missing) if (imdb / missing).is_dir() else (imdb / missing).unlink()
    assert re.search(text, refused(imdb, tmp_path / "out"))


@pytest.mark.parametrize(
    ("file", "old", "new", "text"),
    [
        (TRAIN, "age", "years", "train_new_1024.csv, line 1: no column 'age'"),
        (TRAIN, "gender", "age", "line 1: a column is there twice"),
        (TRAIN, ",10,F", ",110,F", r"line 2, age: 110 is outside \[0, 100\]"),
        (TRAIN, ",10,F", ",,F", "line 2, age: '' is not a number"),
        (TRAIN, ",10,F", ",nan,F", "line 2, age: nan is outside"),
        (TRAIN, ",10,F", ",10", "line 2: 9 values, but line 1 names 10"),
        (TRAIN, FIRST, THIRD, "valid.*line 2: .* is there already, in .*train.*line 2"),
        (TRAIN, "00/nm0000000", "../nm0000000", r"line 2: '\.\./nm.* is not a file name"),
        (POINTS, "12.8000", "inf", "predictions.csv, line 2, lefteye_x: inf is outside"),
        (POINTS, "nose_y", "nose", "line 1: no column 'nose_y'"),
        (POINTS, FIRST, THIRD, "is there already, in .*line 2"),
    ],
)
def test_tables_that_do_not_fit_are_refused_with_their_line(
    imdb: Path, tmp_path: Path, file: str, old: str, new: str, text: str
) -> None:
    edit(imdb / file, old, new)
    assert re.search(text, refused(imdb, tmp_path / "out"))


def test_a_table_that_is_not_text_is_refused(imdb: Path, tmp_path: Path) -> None:
    (imdb / TRAIN).write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as CSV" in refused(imdb, tmp_path / "out")


def coordinates(size: int) -> Image.Image:
    """An image whose red is its column and whose green is its row."""
    rows, columns = np.mgrid[:size, :size].astype(np.uint8)
    return Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], axis=2))


UPRIGHT = np.array([[100, 110], [140, 110], [120, 140], [105, 160], [135, 160]], dtype=np.float64)


def test_the_square_around_a_face() -> None:
    # eyes 40 apart, the mouth 50 below them: half a side is 1.8 * 50, the centre 5 below the eyes
    corners = face_square(UPRIGHT)
    assert np.allclose(corners, [[30.5, 25.5], [30.5, 205.5], [210.5, 205.5], [210.5, 25.5]])
    with pytest.raises(ValueError, match="span no face"):
        face_square(np.full((5, 2), 3.0))


def test_the_crop_is_the_square_turned_upright() -> None:
    upright = np.asarray(align_face(coordinates(256), UPRIGHT, 64)).astype(float)
    assert np.allclose(upright[32, :, 0], 30.5 + (np.arange(64) + 0.5) * 180 / 64, atol=1.5)
    assert np.allclose(upright[:, 32, 1], 25.5 + (np.arange(64) + 0.5) * 180 / 64, atol=1.5)
    # the same face lying on its side: a quarter turn of image and landmarks gives the same crop
    turned = coordinates(256).transpose(Image.Transpose.ROTATE_90)
    sideways = np.stack([UPRIGHT[:, 1], 255 - UPRIGHT[:, 0]], axis=1)
    again = np.asarray(align_face(turned, sideways, 64)).astype(float)
    assert np.abs(again - upright)[4:-4, 4:-4].max() <= 3


def test_a_face_at_the_edge_is_mirrored_and_one_outside_refused() -> None:
    edge = np.asarray(align_face(picture(1, 128, 0.6), UPRIGHT - np.array([90, 60]), 32))
    assert edge.shape == (32, 32, 3) and edge.min() > 40  # no black corner
    with pytest.raises(ValueError, match="outside of the image"):
        align_face(picture(1, 128), UPRIGHT + 2000, 32)
