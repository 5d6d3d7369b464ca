"""Images on disk: strict reading, atomic writing."""

import hashlib
import io
import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""File name endings of these formats."""
_MAX_PIXELS = 4096 * 4096


class BadImage(ValueError):
    """An image that cannot be used; the text names the file."""


def read_image(path: Path, size: int | None = None, channels: Literal[1, 3] | None = 3) -> np.ndarray:
    """Read an 8-bit image: uint8 (H, W, C), turned upright as its EXIF orientation says.

    Grey, palette and CMYK images are converted; what would lose something unseen is refused.

    Args:
        size: required height and width.
        channels: C, 3 for RGB or 1 for grey; None takes what the file has.

    Raises:
        BadImage: missing, truncated, animated, of another format, size or depth, with transparent pixels, or
            coloured where a grey image is asked for.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise BadImage(
            f"{path}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, so damage would go unseen; set it to False"
        )
    try:
        with Image.open(path, formats=FORMATS) as image:
            _refuse(image, path)
            pixels = _pixels(ImageOps.exif_transpose(image), channels, path)
    except UnidentifiedImageError as error:
        raise BadImage(f"{path}: not an image in one of {', '.join(FORMATS)}") from error
    except FileNotFoundError as error:
        raise BadImage(f"{path} is missing") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, BadImage):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error  # without the path again
        raise BadImage(f"{path}: damaged or unreadable ({reason})") from error
    if size is not None and pixels.shape[:2] != (size, size):
        raise BadImage(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels; {size}x{size} are needed")
    return pixels


def read_saved(path: Path, size: int | None = None) -> np.ndarray:
    """Read an image that this project wrote, with the channels it was written with: uint8 (H, W, C).

    Raises:
        BadImage: as `read_image`.
    """
    return read_image(path, size, channels=None)


def _refuse(image: Image.Image, path: Path) -> None:
    """Raise BadImage for what cannot become 8-bit grey or RGB without loss; only alpha needs the pixels decoded."""
    if image.width * image.height > _MAX_PIXELS:
        raise BadImage(f"{path}: {image.width}x{image.height} pixels are more than {_MAX_PIXELS}")
    if image.format in ("PNG", "WEBP") and image.n_frames > 1:
        raise BadImage(f"{path}: animated ({image.n_frames} pictures); save the one that is meant as a file of its own")
    # Pillow gives 16-bit RGB the mode "RGB" and drops the low bytes; only the decoder's raw mode tells.
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if deep or any(";16" in str(tile[3]) for tile in image.tile):
        raise BadImage(f"{path}: more than 8 bits a channel; convert it to 8 bits")
    if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
        raise BadImage(f"{path}: has transparent pixels; flatten it first")


def _pixels(image: Image.Image, channels: int | None, path: Path) -> np.ndarray:
    """uint8 (H, W, C) as `read_image` says; grey is only what has three equal channels."""
    if image.mode == "L" and channels != 3:
        return with_channels(np.asarray(image))
    pixels = np.asarray(image.convert("RGB"))
    if channels != 1:
        return pixels
    if (pixels != pixels[..., :1]).any():
        raise BadImage(f"{path}: coloured, and a grey image is needed; convert it to grey first")
    return pixels[..., :1]


def centre_resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """The largest square around the centre, resized to (size, size) by Pillow's bilinear filter with antialiasing.

    Args:
        pixels: uint8 (H, W, C) of 1 or 3 channels, at least `size` high and wide.

    Raises:
        ValueError: a smaller image; nothing is enlarged.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    if side < size:
        raise ValueError(f"{width}x{height} pixels are less than {size}x{size}")
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return with_channels(np.asarray(_picture(square).resize((size, size), Image.Resampling.BILINEAR)))


def _picture(pixels: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1) as a grey picture, (H, W, 3) as a coloured one."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def with_channels(pixels: np.ndarray) -> np.ndarray:
    """(H, W) as (H, W, 1); (H, W, 3) as it is."""
    return pixels[..., None] if pixels.ndim == 2 else pixels


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """(..., 1) or (..., 3) to (..., 3): what networks and viewers of colour images get of a grey one."""
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def to_uint8(image: np.ndarray) -> np.ndarray:
    """float (C, H, W) in [0, 1] to uint8 (H, W, C), rounded to nearest."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 (..., H, W, C) to float32 (..., C, H, W) in [0, 1]."""
    return np.moveaxis(pixels.astype(np.float32) / 255, -1, -3)


def file_name(sample_id: str) -> str:
    """The PNG name of a sample; never built from the id's own characters."""
    return hashlib.blake2b(sample_id.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest() + ".png"


def png_bytes(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, C) as a PNG file, grey for one channel."""
    buffer = io.BytesIO()
    _picture(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: Path, pixels: np.ndarray) -> str:
    """Write a PNG whole or not at all, flushed to disk; returns its sha256."""
    data = png_bytes(pixels)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
