"""A folder of the user's own images: whatever would be lost unseen is refused by name."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps
from typer.testing import CliRunner

from bench.cli import app
from bench.datasets.base import Task
from bench.datasets.folder import FolderConfig, FolderDataset
from bench.errors import UsageError
from bench.images import BadImage, centre_resize, file_name, read_image
from methods import noise
from tests.celebahq_weights import write_network
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


def test_only_64_pixels_get_shipped_networks_and_grey_ones_those_of_elpv() -> None:
    assert FolderDataset(FolderConfig()).weights["regressor"] == "square-regressor"
    grey = FolderDataset(FolderConfig(channels=1)).weights
    assert set(grey) == set(FolderDataset(FolderConfig()).weights) | {"type"}
    assert all(file == f"elpv-{role}" for role, file in grey.items())
    assert FolderDataset(FolderConfig(size=256)).weights == {}
    assert FolderDataset(FolderConfig(size=128, channels=1)).weights == {}


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


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_a_grey_photograph_is_turned_and_mirrored_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture(5, SIZE).convert("L")
    save(tmp_path / "phone.png", image, exif=exif)
    assert np.array_equal(load(tmp_path, channels=1).images[0, ..., 0], np.asarray(image.transpose(TURNS[orientation])))


def grey_picture(mode: str) -> Image.Image:
    """A picture in one of Pillow's modes whose three channels are equal as RGB."""
    grey = picture(3, SIZE).convert("L")
    if mode == "CMYK":  # black ink only
        none = Image.new("L", grey.size)
        return Image.merge("CMYK", (none, none, none, ImageOps.invert(grey)))
    return grey.convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGB", "RGBA", "CMYK"])
def test_what_shows_grey_is_taken_as_grey(tmp_path: Path, mode: str) -> None:
    image = grey_picture(mode)
    save(tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"), image)
    pixels = load(tmp_path, channels=1).images
    assert pixels.shape == (1, SIZE, SIZE, 1) and pixels.dtype == np.uint8
    tolerance = 16 if mode == "CMYK" else 0  # JPEG is not exact
    assert np.abs(pixels[0, ..., 0].astype(int) - np.asarray(image.convert("L"), dtype=int)).max() <= tolerance
    assert np.ptp(pixels) > 50
    assert np.array_equal(load(tmp_path).images, np.repeat(pixels, 3, axis=-1))


def test_a_grey_jpeg_and_a_webp_are_taken_as_grey(tmp_path: Path) -> None:
    image = picture(3, SIZE).convert("L")
    save(tmp_path / "a.jpg", image, quality=95)
    save(tmp_path / "b.webp", image.convert("RGB"), lossless=True)
    first, second = load(tmp_path, channels=1).images
    assert np.array_equal(second[..., 0], np.asarray(image))
    assert np.abs(first.astype(int) - second).max() < 8


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK"])
def test_colour_is_refused_where_grey_is_asked_for(tmp_path: Path, mode: str) -> None:
    save(tmp_path / ("x.jpg" if mode == "CMYK" else "x.png"), picture(3, SIZE).convert(mode))
    assert "coloured, and a grey image is needed" in refused(tmp_path, channels=1)


def test_one_coloured_pixel_is_colour(tmp_path: Path) -> None:
    image = grey_picture("RGB")
    red, green, blue = image.getpixel((5, 5))
    image.putpixel((5, 5), (red, green, blue + 1))
    save(tmp_path / "x.png", image)
    assert "x.png: coloured" in refused(tmp_path, channels=1)


def test_a_grey_photograph_is_shrunk_with_antialiasing_or_refused(tmp_path: Path) -> None:
    image = picture(2, 64).convert("L").crop((0, 0, 64, 48))
    save(tmp_path / "cell.png", image)
    assert "cell.png: 64x48 pixels; 16x16 are needed; set folder.size" in refused(tmp_path, channels=1)
    square = image.crop((8, 0, 56, 48))
    shrunk = load(tmp_path, channels=1, resize="antialias").images[0, ..., 0]
    assert np.array_equal(shrunk, np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    save(tmp_path / "cell.png", image.crop((0, 0, 15, 40)))
    assert "15x40 pixels are less than 16x16; nothing is enlarged" in refused(tmp_path, channels=1, resize="antialias")


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


def deep_png(colour: int, channels: int) -> bytes:
    """A black PNG of 16 bits a channel: grey (0), RGB (2), grey with alpha (4) or RGB with alpha (6)."""
    pixels = zlib.compress(bytes(SIZE * (1 + SIZE * channels * 2)))
    first = b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 16, colour, 0, 0, 0)
    return png([first, (b"IDAT", pixels), (b"IEND", b"")])


def animated(kind: str) -> bytes:
    buffer = io.BytesIO()
    picture(1, SIZE).save(buffer, kind, save_all=True, append_images=[picture(2, SIZE)])
    return buffer.getvalue()


def rgb_png(depth: int, extra: list[tuple[bytes, bytes]]) -> bytes:
    """A black RGB PNG of 8 or 16 bits a channel with chunks before the pixels."""
    pixels = zlib.compress(bytes(SIZE * (1 + SIZE * 3 * depth // 8)))
    return png([header(SIZE, depth), *extra, (b"IDAT", pixels), (b"IEND", b"")])


def transparent(mode: str) -> bytes:
    image = picture(4, SIZE).convert("RGBA")
    image.putpixel((3, 3), (9, 9, 9, 0))
    if mode == "LA":
        image = image.convert("LA")
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
    "16-bit grey with alpha": (deep_png(4, 2), "more than 8 bits"),
    "16-bit colour with alpha": (deep_png(6, 4), "more than 8 bits"),
    "transparent grey": (transparent("LA"), "transparent pixels"),
    "animated WebP": (animated("WEBP"), "animated (2 pictures)"),
    "animated PNG": (animated("PNG"), "animated (2 pictures)"),
    "transparent": (transparent("RGBA"), "transparent pixels"),
    "transparent palette": (transparent("P"), "transparent pixels"),
    "text bomb": (rgb_png(8, [(b"zTXt", b"k\0\0" + zlib.compress(bytes(2_000_000)))]), "damaged or unreadable"),
    "pixel bomb": (png([header(5000), (b"IDAT", b"")]), "5000x5000 pixels are more"),
    "huge pixel bomb": (png([header(60_000), (b"IDAT", b"")]), "damaged or unreadable"),
    "GIF named PNG": (encoded(picture(1, SIZE), "GIF"), "not an image in one of"),
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_images_are_named(tmp_path: Path, kind: str, channels: int) -> None:
    data, text = UNUSABLE[kind]
    (tmp_path / "x.png").write_bytes(data)
    sentence = refused(tmp_path, channels=channels)
    assert text in sentence and "x.png" in sentence


def test_a_webp_of_one_picture_is_read(tmp_path: Path) -> None:
    save(tmp_path / "x.webp", lossless=True)
    assert np.array_equal(load(tmp_path).images[0], np.asarray(picture(1, SIZE)))


def test_a_coloured_photograph_for_grey_networks_ends_a_command_with_one_sentence(tmp_path: Path) -> None:
    config = {"widths": [8], "in_channels": 1}
    assignments = [f"folder.path={tmp_path / 'images'}", f"folder.size={SIZE}", "folder.channels=1"]
    for seed, role in enumerate(("regressor", "oracle")):
        file = write_network(tmp_path / f"{role}.safetensors", "regressor", config, seed)
        assignments.append(f"weights.{role}={file}")
    arguments = ["validate", "--dataset", "folder", "--method", "pgd-re"]
    arguments += [word for text in assignments for word in ("-s", text)]
    save(tmp_path / "images/a.png", picture(1, SIZE).convert("L"))
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "1 image, " in done.output, done.output
    save(tmp_path / "images/b.png")
    refusal = CliRunner().invoke(app, arguments).exception
    assert isinstance(refusal, UsageError) and refusal.exit_code == 2
    assert str(refusal) == f"{tmp_path}/images/b.png: coloured, and a grey image is needed; convert it to grey first"


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
