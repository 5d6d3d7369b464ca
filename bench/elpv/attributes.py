"""Attributes of photographs of solar cells, measured from their pixels: what may move besides the defects.

All but the brightness are relative to the cell's own level, so that exposure does not show in them, and lengths are
shares of the image's side, so that 64x64 and 128x128 photographs have nearly the same values.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

RANGES = {
    "dark area": 0.112,
    "oblique lines": 0.0238,
    "upright lines": 0.0184,
    "brightness": 0.353,
    "contrast": 0.0992,
    "grain": 0.0521,
    "gradient across": 0.151,
    "gradient down": 0.19,
    "rim": 0.245,
    "corners": 0.472,
    "busbars": 0.0313,
    "busbar dashes": 0.0723,
}
"""Attribute -> its range: from the 5th to the 95th percentile of the training split at 64x64, in its own unit. Made by
`python -m bench.elpv.confounders`."""

DEFECTS = ("dark area", "oblique lines")
"""What a defect probability is to rest on: parts without current, and cracks."""

_GRID = 64
"""Lengths below are in pixels of an image of this side."""
_RIM, _OUTERMOST = 4, 2
_CUT, _CORNER = 14, 6
_WINDOW, _DILATION = 11, 1
_FLANK = 2.5
_OBLIQUE = (18, (25, 35, 45, 55, 65, 115, 125, 135, 145, 155))
_UPRIGHT = (12, (80, 90, 100))
"""Least length of a line, and its directions in degrees from the busbars. Fingers end at the busbars."""

_DARK = 0.65
"""A pixel below this share of the level is dark."""
_BUSBAR = 0.03
"""A row that is darker than its surroundings by this share has a busbar."""
_MOST_BUSBARS = 0.5
"""Busbars take a smaller share of the rows; in the data 0.42 at most."""
_LINE = 0.04
"""A line is darker than both of its sides by this share of the level."""


@dataclass(frozen=True)
class _Cell:
    """One photograph and its parts.

    Attributes:
        image: float64 (S, S) in [0, 1].
        unit: pixels that one pixel of the grid of 64 is.
        inner: True within the rim and the cut corners and beside the busbars, bool (S, S).
        busbars: True on rows with a busbar, bool (S,).
        dips: how much darker each row is than its surroundings, as a share of them, float64 (S,).
        level: upper quartile of the inner pixels, which is that of the working part even where half of a cell is dark.
    """

    image: np.ndarray
    unit: float
    inner: np.ndarray
    busbars: np.ndarray
    dips: np.ndarray
    level: float


def measure(images: np.ndarray) -> np.ndarray:
    """Every attribute of every image.

    "dark area" is the share of inner pixels far below the level. "oblique lines" and "upright lines" are the shares of
    inner pixels on a thin dark line: in directions where cracks run, and upright as the contact fingers, of which an
    interrupted one is a dark line and costs little power. "brightness" is
    the level, "contrast" the standard deviation of pixels that are not dark, "grain" that of the fine texture (robust,
    so that cracks do not count). "gradient across" and "gradient down" are the differences between the outer thirds.
    "rim" and "corners" say how dark these are: photographs are cut out more or less tightly, and monocrystalline cells
    have cut corners. "busbars" is how dark they make the cell, as a share of what lies around them, "busbar dashes" how
    much their brightness varies along them; both differ with the make of the module.

    Args:
        images: uint8 (N, S, S, 1), S at least 64; busbars run from left to right.

    Returns:
        float64 (N, 12), columns as in `RANGES`.

    Raises:
        ValueError: images of another shape, or smaller.
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 1 or images.shape[1] < _GRID:
        raise ValueError(f"images have shape {images.shape}; (N, S, S, 1) with S of at least {_GRID} is needed")
    rows = [_measure(_cell(image[..., 0] / 255)) for image in images]
    return np.array(rows, dtype=np.float64).reshape(len(images), len(RANGES))


def dark_pixels(image: np.ndarray) -> np.ndarray:
    """Pixels that "dark area" counts, bool (S, S), for people to look at.

    Args:
        image: uint8 (S, S, 1).
    """
    cell = _cell(image[..., 0] / 255)
    return cell.inner & (cell.image < _DARK * cell.level)


def line_pixels(image: np.ndarray, upright: bool = False) -> np.ndarray:
    """Pixels that "oblique lines" or "upright lines" count, bool (S, S).

    Args:
        image: uint8 (S, S, 1).
    """
    return _on_lines(_cell(image[..., 0] / 255), _UPRIGHT if upright else _OBLIQUE)


def _cell(image: np.ndarray) -> _Cell:
    unit = image.shape[0] / _GRID
    dips = _dips(image, unit)
    busbars = dips > _BUSBAR
    rim = round(_RIM * unit)
    busbars[:rim] = busbars[-rim:] = False  # the rim is no busbar
    busbars = ndimage.binary_dilation(busbars, iterations=round(_DILATION * unit))
    if busbars.mean() > _MOST_BUSBARS:
        busbars[:] = False  # a pattern of stripes, of which an image that no cell is may consist
    inner = (_to_edge(image) >= rim) & (_to_corner(image) >= _CUT * unit) & ~busbars[:, None]
    level = max(float(np.quantile(image[inner], 0.75)), 1 / 255)
    return _Cell(image, unit, inner, busbars, dips, level)


def _dips(image: np.ndarray, unit: float) -> np.ndarray:
    """How much darker every row is than the rows around it, as a share of these.

    Of a row the upper quartile counts: a busbar is dark along the whole row, a dark area is not.
    """
    rim = round(_RIM * unit)
    rows = np.quantile(image[:, rim:-rim], 0.75, axis=1)
    around = ndimage.median_filter(rows, size=round(_WINDOW * unit), mode="nearest")
    return (around - rows) / np.maximum(around, 1 / 255)


def _to_edge(image: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest edge, 0 on it."""
    rows, columns = np.indices(image.shape)
    return np.minimum(_from_ends(rows), _from_ends(columns))


def _to_corner(image: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest corner along the edges, 0 on it."""
    rows, columns = np.indices(image.shape)
    return _from_ends(rows) + _from_ends(columns)


def _from_ends(places: np.ndarray) -> np.ndarray:
    return np.minimum(places, len(places) - 1 - places)


def _measure(cell: _Cell) -> tuple[float, ...]:
    pixels = cell.image[cell.inner]
    dark = pixels < _DARK * cell.level  # all of a cell without any light
    bright = pixels if dark.all() else pixels[~dark]
    fine = cell.image - ndimage.gaussian_filter(cell.image, 2 * cell.unit)
    dip, dashes = _busbar_look(cell)
    relative = (
        bright.std(),
        _spread(fine[cell.inner]),
        _gradient(cell, axis=1),
        _gradient(cell, axis=0),
        cell.level - _rim(cell).mean(),
        cell.level - cell.image[_to_corner(cell.image) < _CORNER * cell.unit].mean(),
        dashes,
    )
    contrast, grain, across, down, rim, corners, dashes = (value / cell.level for value in relative)
    lines = [_on_lines(cell, each)[cell.inner].mean() for each in (_OBLIQUE, _UPRIGHT)]
    return dark.mean(), *lines, cell.level, contrast, grain, across, down, rim, corners, dip, dashes


def _spread(values: np.ndarray) -> float:
    """Standard deviation that outliers do not move, from the median absolute value (for a normal distribution)."""
    return 1.4826 * float(np.median(np.abs(values)))


def _gradient(cell: _Cell, axis: int) -> float:
    """Difference between the medians of the first and the last third."""
    place, third = np.indices(cell.image.shape)[axis], len(cell.image) // 3
    outer = (place < third, place >= len(cell.image) - third)
    first, last = (float(np.median(cell.image[cell.inner & part])) for part in outer)
    return abs(first - last)


def _rim(cell: _Cell) -> np.ndarray:
    """Pixels along the edges, without the corners."""
    outermost = _to_edge(cell.image) < _OUTERMOST * cell.unit
    return cell.image[outermost & (_to_corner(cell.image) >= _CUT * cell.unit)]


def _busbar_look(cell: _Cell) -> tuple[float, float]:
    """The busbars' dips, mean over all rows, and the spread of brightness along them; zeros where there are none."""
    if not cell.busbars.any():
        return 0.0, 0.0
    ends = round(2 * _RIM * cell.unit)  # busbars end before the rim
    along = cell.image[cell.busbars, ends:-ends].mean(axis=0)
    return float(cell.dips[cell.busbars].sum() / len(cell.dips)), _spread(
        along - ndimage.gaussian_filter1d(along, 6 * cell.unit)
    )


def _on_lines(cell: _Cell, lines: tuple[int, tuple[int, ...]]) -> np.ndarray:
    """Inner pixels in the middle of a thin dark line: bool (S, S).

    Three quarters of the line's pixels have to be darker than half of the pixels of the parallels on its two sides, so
    a line may be interrupted, and neither the edge of a dark area nor a few dark specks are lines.
    """
    length, angles = lines
    image = cell.image.astype(np.float32)  # sorted several times faster than float64
    depth = np.maximum.reduce([_depth(image, cell.unit, length, angle) for angle in angles])
    return cell.inner & (depth > _LINE * cell.level)


def _depth(image: np.ndarray, unit: float, length: int, angle: int) -> np.ndarray:
    """How much darker the line through each pixel is than the darker one of its sides; (S, S)."""
    points, (down, right) = _line(unit, length, angle)
    values = np.sort(np.stack([_moved(image, *point) for point in points], axis=-1), axis=-1)
    line, parallel = values[..., 3 * len(points) // 4], values[..., len(points) // 2]
    return np.minimum(_moved(parallel, down, right), _moved(parallel, -down, -right)) - line


def _moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The value so far below and to the right of every pixel; beyond an edge that on the edge."""
    height, width = image.shape
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    return image[rows[:, None], np.clip(np.arange(width) + right, 0, width - 1)]


@cache
def _line(unit: float, length: int, angle: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The places of a line's pixels from its middle, and that of the line on its side: rows down, columns right."""
    along = np.array([np.sin(np.radians(angle)), np.cos(np.radians(angle))])
    half = length * unit / 2
    points = np.rint(np.arange(-half, half + 0.5)[:, None] * along).astype(int)
    down, right = np.rint(np.array([along[1], -along[0]]) * _FLANK * unit).astype(int)
    return sorted({(int(row), int(column)) for row, column in points}), (int(down), int(right))
