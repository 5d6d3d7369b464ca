"""Images on disk: strict reading, atomic writing."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MAX_PIXELS = 4096 * 4096


class BadImage(ValueError):
    """An image that cannot be used; the text names the file."""


def read_image(path: Path, size: int | None = None) -> np.ndarray:
    """Read an 8-bit RGB image: uint8 (H, W, 3).

    Args:
        size: required height and width.

    Raises:
        BadImage: truncated, of another format, size or depth, or with transparent pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise BadImage(f"{path}: {image.width}x{image.height} pixels are more than {_MAX_PIXELS}")
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                raise BadImage(f"{path}: more than 8 bits a channel; convert it to 8-bit RGB")
            if image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
                raise BadImage(f"{path}: has transparent pixels; flatten it first")
            pixels = np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise BadImage(f"{path}: not an image in one of {', '.join(FORMATS)}") from error
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(f"{path}: damaged or unreadable ({error})") from error
    if size is not None and pixels.shape[:2] != (size, size):
        raise BadImage(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels; {size}x{size} are needed")
    return pixels


def to_uint8(image: np.ndarray) -> np.ndarray:
    """float (3, H, W) in [0, 1] to uint8 (H, W, 3), rounded to nearest."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 (..., H, W, 3) to float32 (..., 3, H, W) in [0, 1]."""
    return np.moveaxis(pixels.astype(np.float32) / 255, -1, -3)


def file_name(sample_id: str) -> str:
    """The PNG name of a sample; never built from the id's own characters."""
    return hashlib.blake2b(sample_id.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest() + ".png"


def write_png(path: Path, pixels: np.ndarray) -> str:
    """Write a PNG whole or not at all, flushed to disk; returns its sha256."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    data = buffer.getvalue()
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
