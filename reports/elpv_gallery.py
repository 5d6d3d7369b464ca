"""The gallery of ELPV: photographs, counterfactuals and where they became brighter or darker, failures included."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from bench.datasets import CREDITS
from reports.figures import NOT_VALID, signed_difference

CHANGE_MAXIMUM = 0.3
"""Signed change, in [0, 1] image units, that the ends of the colour scale stand for."""
COLOURS = "RdBu_r"
_LETTERS = 140  # of a line of the attribution
ATTRIBUTION = "\n".join(textwrap.wrap(CREDITS["elpv"].text(), _LETTERS, break_on_hyphens=False))
DPI = 100
PICTURE = 128
"""Pixels of a picture in the PNG: twice 64, once 128, so that none is distorted."""
_GAP, _TEXT, _MIDDLE, _TOP, _BOTTOM = 8, 34, 34, 62, 128  # pixels: between, beneath, blocks, headings, legend
_LEAST = 760  # pixels: what the longest line at the foot needs


@dataclass(frozen=True)
class Shown:
    """A picture, uint8 (H, W, C) or None where the search failed, r and o of it, and whether it is valid."""

    pixels: np.ndarray | None
    prediction: float
    oracle: float
    valid: bool


@dataclass(frozen=True)
class Line:
    """A photograph with its counterfactuals by method; `probability` is the experts'."""

    name: str
    type: str
    probability: float
    original: Shown
    counterfactuals: Mapping[str, Shown]


def gallery_figure(blocks: Mapping[str, Sequence[Line]], methods: Sequence[str], rule: str) -> Figure:
    """A block of lines beside another one for every direction; a line is a photograph.

    Columns of a block: the photograph, then the counterfactual and its signed change for every method. Beneath a
    picture stand what the regressor (r) and the oracle (o) say of it, red where it is not valid.

    Args:
        blocks: heading ("reference value 0") -> its lines.
        rule: how the photographs were picked.
    """
    columns, count = 1 + 2 * len(methods), max(len(lines) for lines in blocks.values())
    block = columns * (PICTURE + _GAP) - _GAP
    width = max(_LEAST, len(blocks) * (block + _MIDDLE))
    height = _TOP + count * (PICTURE + _TEXT + _GAP) + _BOTTOM
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.set_facecolor("white")

    def picture(left: int, number: int) -> Axes:
        top = _TOP + number * (PICTURE + _TEXT + _GAP)
        axis = figure.add_axes((left / width, 1 - (top + PICTURE) / height, PICTURE / width, PICTURE / height))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        return axis

    for place, (heading, lines) in enumerate(blocks.items()):
        left = _MIDDLE // 2 + place * (block + _MIDDLE)
        figure.text(left / width, 1 - 16 / height, heading, fontsize=11, va="center")
        titles = ["photograph", *(title for method in methods for title in (method, "change"))]
        for column, title in enumerate(titles):
            centre = left + column * (PICTURE + _GAP) + PICTURE / 2
            figure.text(centre / width, 1 - 48 / height, title, fontsize=9, ha="center", va="center")
        for number, line in enumerate(lines):
            places = [left + column * (PICTURE + _GAP) for column in range(columns)]
            _show_line(line, methods, [picture(each, number) for each in places])
    _legend(figure, width, height, rule)
    return figure


def _show_line(line: Line, methods: Sequence[str], axes: Sequence[Axes]) -> None:
    """One photograph and its counterfactuals on a row of axes."""
    original = line.original
    assert original.pixels is not None
    _show(axes[0], original.pixels)
    label = f"{line.name} {line.type}, true {_fraction(line.probability)}"
    axes[0].set_xlabel(f"{label}\n{_says(original)}", fontsize=7.5, labelpad=2)
    for index, method in enumerate(methods):
        shown, (left, right) = line.counterfactuals[method], axes[1 + 2 * index : 3 + 2 * index]
        if shown.pixels is None:
            left.text(0.5, 0.5, "search failed", color=NOT_VALID, fontsize=9, ha="center", transform=left.transAxes)
            continue
        _show(left, shown.pixels)
        text, colour = (_says(shown), "0.1") if shown.valid else (f"{_says(shown)}\nnot valid", NOT_VALID)
        left.set_xlabel(text, fontsize=7.5, labelpad=2, color=colour)
        limits = {"vmin": -CHANGE_MAXIMUM, "vmax": CHANGE_MAXIMUM}
        right.imshow(signed_difference(original.pixels, shown.pixels), cmap=COLOURS, interpolation="nearest", **limits)


def _show(axis: Axes, pixels: np.ndarray) -> None:
    grey = pixels.shape[-1] == 1
    axis.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _says(shown: Shown) -> str:
    return f"r {shown.prediction:.2f}   o {shown.oracle:.2f}"


def _fraction(probability: float) -> str:
    """The experts' probability as they gave it: "1/3"."""
    thirds = round(probability * 3)
    return {0: "0", 1: "1/3", 2: "2/3", 3: "1"}[thirds]


def _legend(figure: Figure, width: int, height: int, rule: str) -> None:
    """The colour scale, the rule and the attribution at the foot."""
    scale = ScalarMappable(Normalize(-CHANGE_MAXIMUM, CHANGE_MAXIMUM), COLOURS)
    left = _MIDDLE // 2
    bar = figure.add_axes((left / width, 104 / height, 3 * PICTURE / width, 10 / height))
    figure.colorbar(scale, cax=bar, orientation="horizontal", extend="both")
    bar.tick_params(labelsize=7, length=2, pad=1)
    told = "change of brightness: red brighter, blue darker; r: regressor, o: oracle, on the saved image"
    figure.text(left / width, 64 / height, f"{told}\n{rule}", fontsize=8, va="center", linespacing=1.4)
    figure.text(left / width, 22 / height, ATTRIBUTION, fontsize=7.5, va="center", linespacing=1.4)


def gallery_png(blocks: Mapping[str, Sequence[Line]], methods: Sequence[str], rule: str) -> bytes:
    """`gallery_figure` as a PNG file with a palette of 256 colours: half of the bytes, a few grey levels off at most.

    Raises:
        ValueError: no line.
    """
    if not any(blocks.values()):
        raise ValueError("a gallery needs a photograph")
    buffer = io.BytesIO()
    gallery_figure(blocks, methods, rule).savefig(buffer, dpi=DPI, format="png")
    with Image.open(buffer) as picture:
        small = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()
