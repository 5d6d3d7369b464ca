"""A folder of the user's own images: whatever would be lost unseen is refused by name."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from bench.datasets.base import Task
from bench.datasets.folder import FolderConfig, FolderDataset
from bench.errors import UsageError
from bench.images import BadImage, centre_resize, file_name, read_image
from methods import noise
from tests.mini_celebahq import picture

SIZE = 16


def save(path: Path, image: Image.Image | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture(1, SIZE)).save(path, **options)
    return path


def load(folder: Path, limit: int = 0, **options: object) -> Task:
    return FolderDataset(FolderConfig(path=str(folder), size=SIZE, **options)).load(limit)


def refused(folder: Path, **options: object) -> str:
    with pytest.raises(UsageError) as error:
        load(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_images_are_ordered_by_the_bytes_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/x.png", "a/x.png", "a/y.jpg", "Z.webp", "é.bmp"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    task = load(tmp_path, target=0.25)
    assert task.ids == ("Z.webp", "a/x.png", "a/y.jpg", "b/x.png", "é.bmp")
    assert task.targets.tolist() == [0.25] * 5 and task.attribute is None
    assert len({file_name(name) for name in task.ids}) == 5


def test_only_64_pixels_get_the_square_networks() -> None:
    assert FolderDataset(FolderConfig()).weights["regressor"] == "square-regressor"
    assert FolderDataset(FolderConfig(size=256)).weights == {}


def test_another_size_is_refused_or_resized_as_declared(tmp_path: Path) -> None:
    source = save(tmp_path / "wide.png", picture(2, 64).crop((0, 0, 64, 40)))
    assert (
        "wide.png: 64x40 pixels; 16x16 are needed; set folder.size to theirs, or let larger ones be shrunk"
        in refused(tmp_path)
    )
    task = load(tmp_path, resize="antialias")
    square = Image.open(source).crop((12, 0, 52, 40)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert np.array_equal(task.images[0], np.asarray(square))
    save(tmp_path / "small.png", picture(2, 12))
    assert "small.png: 12x12 pixels are less than 16x16; nothing is enlarged" in refused(tmp_path, resize="antialias")


def test_resizing_averages_fine_patterns() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(centre_resize(stripes, 16)[:, 1:-1].astype(int) - 127).max() < 10


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    pixels[:4] = 255  # white on top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    save(tmp_path / "phone.png", Image.fromarray(pixels), exif=exif)
    assert np.array_equal(load(tmp_path).images[0], np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA"])
def test_what_can_be_converted_is(tmp_path: Path, mode: str) -> None:
    save(tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"), picture(3, SIZE).convert(mode))
    task = load(tmp_path)
    assert task.images.shape == (1, SIZE, SIZE, 3)
    tolerance = 255 if mode == "1" else 30  # JPEG and the palette are not exact
    expected = np.asarray(picture(3, SIZE).convert(mode).convert("RGB"), dtype=int)
    assert np.abs(task.images[0].astype(int) - expected).max() <= tolerance


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG from its chunks."""
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def header(size: int, depth: int = 8) -> tuple[bytes, bytes]:
    """The chunk that says how large an RGB image is."""
    return b"IHDR", struct.pack(">IIBBBBB", size, size, depth, 2, 0, 0, 0)


def rgb_png(depth: int, extra: list[tuple[bytes, bytes]]) -> bytes:
    """A black RGB PNG of 8 or 16 bits a channel with chunks before the pixels."""
    pixels = zlib.compress(bytes(SIZE * (1 + SIZE * 3 * depth // 8)))
    return png([header(SIZE, depth), *extra, (b"IDAT", pixels), (b"IEND", b"")])


def transparent(mode: str) -> bytes:
    image = picture(4, SIZE).convert("RGBA")
    image.putpixel((3, 3), (9, 9, 9, 0))
    buffer = io.BytesIO()
    if mode == "P":
        palette = picture(4, SIZE).convert("P")
        palette.save(buffer, "PNG", transparency=palette.getpixel((3, 3)))
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


WHOLE = encoded(picture(1, SIZE), "PNG")
GREY16 = Image.fromarray(np.full((SIZE, SIZE), 40_000, dtype=np.uint16))
UNUSABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an image in one of"),
    "web page": (b"<!doctype html><title>Quota exceeded</title>", "not an image in one of"),
    "truncated": (WHOLE[: len(WHOLE) // 2], "damaged or unreadable"),
    "flipped bits": (WHOLE[:60] + bytes(20) + WHOLE[80:], "damaged or unreadable"),
    "16-bit grey": (encoded(GREY16, "PNG"), "more than 8 bits"),
    "16-bit colour": (rgb_png(16, []), "more than 8 bits"),
    "transparent": (transparent("RGBA"), "transparent pixels"),
    "transparent palette": (transparent("P"), "transparent pixels"),
    "text bomb": (rgb_png(8, [(b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000)))]), "damaged or unreadable"),
    "pixel bomb": (png([header(5000), (b"IDAT", b"")]), "5000x5000 pixels are more"),
    "huge pixel bomb": (png([header(60_000), (b"IDAT", b"")]), "damaged or unreadable"),
    "GIF named PNG": (encoded(picture(1, SIZE), "GIF"), "not an image in one of"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_images_are_named(tmp_path: Path, kind: str) -> None:
    data, text = UNUSABLE[kind]
    (tmp_path / "x.png").write_bytes(data)
    sentence = refused(tmp_path)
    assert text in sentence and "x.png" in sentence


def test_a_plain_image_of_the_same_making_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(rgb_png(8, [(b"tEXt", b"k\0v")]))
    assert load(tmp_path).images.max() == 0


def test_truncated_images_are_refused_whatever_other_code_has_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "x.png")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(BadImage, match="LOAD_TRUNCATED_IMAGES is set"):
        read_image(path)


@pytest.mark.parametrize("name", ["x.tiff", "x.GIF", "deep/x.heic"])
def test_formats_that_are_not_read_are_not_skipped(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"II*\0")
    assert f"{name} is of a format that is not read" in refused(tmp_path)


@pytest.mark.parametrize("twins", [("x.png", "X.png"), ("a/x.PNG", "a/x.png"), ("caf\u00e9.png", "cafe\u0301.png")])
def test_names_that_are_one_elsewhere_are_refused(tmp_path: Path, twins: tuple[str, str]) -> None:
    for name in twins:
        save(tmp_path / name, format="PNG")
    if len(list(tmp_path.rglob("*.[pP][nN][gG]"))) < 2:
        pytest.skip("this file system has one file for both")
    assert "differ in case or Unicode form only" in refused(tmp_path)


def test_strange_names_stay_inside_the_folder(tmp_path: Path) -> None:
    for name in (b"\xff\xfe.png", b"new\nline.png", b"-rf.png", b"'quote\".png", b"%20.png"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(WHOLE)
    task = load(tmp_path)
    assert sorted(task.ids) == ["%20.png", "%FF%FE.png", "'quote\".png", "-rf.png", "new%0Aline.png"]
    for name in task.ids:
        assert name.encode().decode() == name  # can be written as UTF-8
        assert (tmp_path / file_name(name)).resolve().parent == tmp_path.resolve()
    assert noise.sample_key(0, *task.ids)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    save(tmp_path / "sub/a.png")
    (tmp_path / "sub/loop").symlink_to(tmp_path)
    (tmp_path / "folder.png").mkdir()
    assert load(tmp_path).ids == ("sub/a.png",)
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe.png is not a readable file" in refused(tmp_path)
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert "gone.png is not a readable file" in refused(tmp_path)


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    assert "holds no images" in refused(tmp_path)
    assert "nowhere: not a folder" in refused(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"needs folder.path"):
        FolderDataset(FolderConfig()).load(0)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "c d.png"):
        save(tmp_path / "images" / name)
    return tmp_path


def test_labels_and_targets_from_a_table(labelled: Path) -> None:
    table = labelled / "labels.csv"
    table.write_text("\ufefftarget,file,label\n0.9,c d.png,0.1\n0.8,a.png,0.2\n0.7,b.png,0.3\n")
    task = load(labelled / "images", labels=str(table))
    assert task.ids == ("a.png", "b.png", "c d.png")
    assert np.allclose(task.targets, [0.8, 0.7, 0.9]) and np.allclose(task.attribute, [0.2, 0.3, 0.1])
    few = load(labelled / "images", limit=1, labels=str(table))
    assert few.targets[0] == task.targets[task.ids.index(few.ids[0])]
    table.write_text("file,label\na.png,0.2\nb.png,0.3\nc d.png,1\n")
    task = load(labelled / "images", labels=str(table), target=0.25)
    assert task.targets.tolist() == [0.25] * 3 and np.allclose(task.attribute, [0.2, 0.3, 1])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: no column 'file'; the columns are none"),
        ("name,label\na.png,1\n", "line 1: no column 'file'; the columns are name, label"),
        ("file,age\na.png,1\n", "unknown column 'age'"),
        ("file\na.png\n", "no values"),
        ("file,label\na.png,0.1\na.png,0.2\n", "line 3: a.png is there already, in "),
        ("file,label\na.png,0.1\nz.png,0.2\n", "line 3: the folder holds no image 'z.png'"),
        ("file,label\na.png,0.1\nb.png,0.2\n", "no line for 1 of 3 images, the first c d.png"),
        ("file,label\na.png,0.1\nb.png,\n", "line 3, label: '' is not a number"),
        ("file,label\na.png,0.1\nb.png,NaN\n", "line 3, label: NaN is outside [0, 1]"),
        ("file,target\na.png,0.1\nb.png,inf\n", "line 3, target: inf is outside [0, 1]"),
        ("file,label\na.png,0.1\nb.png,35\n", "line 3, label: 35 is outside [0, 1]"),
        ("file,label\na.png,0.1\nb.png,0.2,3\n", "line 3: 3 values, but line 1 names 2 columns"),
        ("file,target\na.png,0\nb.png,0\nc d.png,0\n", "folder.target is given, and"),
    ],
)
def test_wrong_labels_are_refused_with_their_line(labelled: Path, text: str, sentence: str) -> None:
    table = labelled / "labels.csv"
    table.write_text(text)
    assert sentence in refused(labelled / "images", labels=str(table), target=0.5)
