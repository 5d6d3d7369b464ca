"""Attributes of Square images, measured from their pixels: what may move besides the red that is asked for."""

import numpy as np
from scipy.ndimage import correlate

from bench.datasets.square import FRAME, GREY, INNER, NOISE_SIGMA, OUTER, POSITIONS, inner_mask

RANGES = {
    "red": 1.0,
    "green": 1.0,
    "blue": 1.0,
    "background": 1.0,
    "background tint": 1.0,
    "frame": 1.0,
    "row": float(POSITIONS),
    "column": float(POSITIONS),
    "noise": NOISE_SIGMA / 255,
}
"""Attribute -> its range, in its own unit: colours of 255 grey levels, positions in pixels, noise from none to the
data's standard deviation. Green, blue, tint and frame do not vary in the data; they have red's range."""

TARGET = "red"
"""The attribute that the regressor is to predict."""


def measure(images: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """Every attribute of every image.

    Colours are means over the places where the original has the square, its frame and its background, whatever became
    of them; "background" is the mean of all channels outside the frame, "background tint" its red minus the mean of
    its green and blue. "row" and "column" are where the frame is found. "noise" is the standard deviation of the
    background's pixels.

    Args:
        images: uint8 (N, 64, 64, 3).
        latents: of the originals, int64 (N, 4).

    Returns:
        float64 (N, 9), columns as in `RANGES`; colours in [0, 1], positions in 0..52.
    """
    inner, outer = inner_mask(latents), _outer_mask(latents)
    rows = [_measure(image, *masks) for image, *masks in zip(images, inner, outer, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(images), len(RANGES))


def _outer_mask(latents: np.ndarray) -> np.ndarray:
    """True on the 12x12 square with its frame: bool (N, 64, 64)."""
    mask = inner_mask(latents)
    for axis in (1, 2):
        mask = np.logical_or.reduce([np.roll(mask, shift, axis) for shift in range(-FRAME, FRAME + 1)])
    return mask


def _measure(image: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> tuple[float, ...]:
    values = image / 255
    red, green, blue = values[inner].mean(axis=0)
    background = values[~outer]
    channels = background.mean(axis=0)
    tint = channels[0] - channels[1:].mean()
    frame = values[outer & ~inner].mean()
    row, column = locate(image)
    return red, green, blue, channels.mean(), tint, frame, row, column, noise_level(background)


def locate(image: np.ndarray) -> tuple[int, int]:
    """Upper left corner (row, column) of the place that looks most like a framed square.

    The square is black and its frame grey in green and blue whatever the red and the background are; the place with the
    smallest squared difference to that wins.

    Args:
        image: uint8 (64, 64, 3).
    """
    template = np.full((OUTER, OUTER), GREY)
    template[FRAME : FRAME + INNER, FRAME : FRAME + INNER] = 0
    plane = image[..., 1:].astype(np.float64)
    # Of sum (x - t)^2 the part without x is the same everywhere. An even window's centre is at OUTER // 2.
    squares = correlate((plane**2).sum(axis=2), np.ones_like(template), mode="constant")
    products = correlate(plane.sum(axis=2), template, mode="constant")
    difference = (squares - 2 * products)[OUTER // 2 :, OUTER // 2 :][: POSITIONS + 1, : POSITIONS + 1]
    row, column = np.unravel_index(int(difference.argmin()), difference.shape)
    return int(row), int(column)


def noise_level(pixels: np.ndarray) -> float:
    """Standard deviation of pixels around their median, mean over channels, in [0, 1].

    Only the side of the median that is further from black or white counts: noise is cut off at 0 and 255.

    Args:
        pixels: (M, 3) in [0, 1].
    """
    deviation = pixels - np.median(pixels, axis=0)
    away = np.where(np.median(pixels, axis=0) < 0.5, deviation > 0, deviation < 0)
    counts = np.maximum(1, away.sum(axis=0))
    return float(np.sqrt((deviation**2 * away).sum(axis=0) / counts).mean())
