"""Granular reference values as one picture: input, reconstruction, the counterfactual for every value, and differences.

Made from finished records alone. The paper's figure 4 shows the mean signed difference to the reconstruction.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bench.errors import UsageError
from bench.images import BadImage, read_image
from bench.record import RECONSTRUCTIONS, CellRecord, read_suite
from reports.credits import foot_of
from reports.figures import NOT_VALID, signed_difference, spread
from reports.records import read_table

Base = Literal["reconstruction", "input"]
"""What a counterfactual is compared with: its reconstruction, so that the generator's own error does not show, or the
input, so that it does."""
BASES: tuple[Base, ...] = get_args(Base)

DIFFERENCE_MAXIMUM = 0.5
"""Mean signed difference over channels, in [0, 1] image units, that the ends of the colour scale stand for."""
COLOURS = "RdBu_r"
IMAGES = 4
_CELL = 1.05  # inches a picture


@dataclass(frozen=True)
class Picture:
    """An image of a strip: uint8 (H, W, 3) or None where there is none, its title, and whether it is a valid one."""

    pixels: np.ndarray | None
    title: str
    valid: bool = True


@dataclass(frozen=True)
class Strip:
    """One image of one cell.

    Attributes:
        label: method and image.
        counterfactuals: by reference value.
        dataset: whose images these are; it decides on the credit.
    """

    label: str
    original: Picture
    reconstruction: Picture
    counterfactuals: dict[float, Picture]
    dataset: str = ""


def _read(path: Path) -> np.ndarray:
    try:
        return read_image(path)
    except BadImage as error:
        raise UsageError(f"{error}; the sweep is made from saved images, so run the cell again") from error


def _table(folder: Path, cell: CellRecord) -> pd.DataFrame:
    frame = read_table(folder / cell.id / "samples.parquet")
    if "source" not in frame:
        raise UsageError(
            f"{folder / cell.id} has one reference value an image; run it with --target 0.2,0.4,... or a preset "
            "of several (`ls presets`: granular-...)"
        )
    return frame


def _strip(folder: Path, cell: CellRecord, rows: pd.DataFrame) -> Strip:
    """The pictures of one image's rows."""
    first = rows.iloc[0]
    known = rows["reconstruction"].dropna() if "reconstruction" in rows else rows["source"].iloc[:0]
    original = Picture(_read(folder / f"inputs-{cell.dataset}" / first["input"]), f"r {first['start']:.2f}")
    if len(known):
        pixels = _read(folder / cell.id / RECONSTRUCTIONS / known.iloc[0])
        title = f"r {rows.loc[known.index[0], 'reconstruction_prediction']:.2f}"
        reconstruction = Picture(pixels, title)
    else:
        reconstruction = Picture(None, "none")
    found = {}
    for _, row in rows.iterrows():
        if row["failure"] is None or pd.isna(row["failure"]):
            pixels = _read(folder / cell.id / "images" / row["image"])
            picture = Picture(pixels, f"r {row['prediction']:.2f}", bool(row["valid"] > 0))
        else:
            picture = Picture(None, "failed", False)
        found[round(float(row["target"]), 6)] = picture
    return Strip(f"{cell.method}\n{first['source'][-20:]}", original, reconstruction, found, cell.dataset)


def strips(folders: list[Path], count: int = IMAGES) -> list[Strip]:
    """`count` images that all finished cells of the suites have, spread over them; image by image, cell by cell.

    Raises:
        UsageError: nothing finished, one reference value an image, no image in common, or a saved image is gone.
    """
    cells = [(folder, cell) for folder in folders for cell in read_suite(folder).cells if cell.status == "ok"]
    if not cells:
        raise UsageError(f"no finished cell in {', '.join(map(str, folders))}")
    frames = [_table(folder, cell) for folder, cell in cells]
    shared = sorted(set.intersection(*(set(frame["source"]) for frame in frames)))
    if not shared:
        raise UsageError(f"the cells in {', '.join(map(str, folders))} have no image in common")
    return [
        _strip(folder, cell, frame[frame["source"] == source])
        for source in spread(shared, count)
        for (folder, cell), frame in zip(cells, frames, strict=True)
    ]


def _show(axis: Axes, picture: Picture) -> None:
    axis.set_title(picture.title, fontsize=6.5, pad=2, color="0.1" if picture.valid else NOT_VALID)
    if picture.pixels is not None:
        axis.imshow(picture.pixels)


def _show_difference(axis: Axes, pixels: np.ndarray | None, base: np.ndarray | None) -> None:
    if pixels is not None and base is not None:
        limits = {"vmin": -DIFFERENCE_MAXIMUM, "vmax": DIFFERENCE_MAXIMUM}
        axis.imshow(signed_difference(base, pixels), cmap=COLOURS, interpolation="nearest", **limits)


def sweep_figure(found: list[Strip], base: Base) -> Figure:
    """Two lines of pictures a strip: images above, mean signed differences beneath; one fixed colour scale.

    Beneath a reconstruction is its difference to the input, beneath a counterfactual that to `base`. Titles of
    counterfactuals that are not valid are red. Credits of the data sets stand at the foot.

    Raises:
        UsageError: differences to reconstructions that were not recorded.
    """
    lacking = [strip.label.replace("\n", ", ") for strip in found if strip.reconstruction.pixels is None]
    if base == "reconstruction" and lacking:
        raise UsageError(
            f"no reconstruction of {lacking[0]} is recorded; run again with -s reconstructions=true, "
            "or use --difference input"
        )
    targets = sorted({target for strip in found for target in strip.counterfactuals})
    headings = ["input", "reconstruction", *(f"target {target:.3g}" for target in targets)]
    width = _CELL * len(headings) + 1.5
    foot = foot_of((strip.dataset for strip in found), width)
    height = 2.2 * _CELL * len(found) + 0.5 + foot.height
    figure = Figure(figsize=(width, height))
    figure.set_facecolor("white")
    layout = {"left": 0.75 / width, "right": 1 - 0.75 / width, "top": 1 - 0.42 / height}
    layout |= {"bottom": (0.05 + foot.height) / height, "wspace": 0.05}
    axes = figure.subplots(2 * len(found), len(headings), squeeze=False, gridspec_kw=layout)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for index, strip in enumerate(found):
        upper, lower = axes[2 * index], axes[2 * index + 1]
        missing = Picture(None, "not run", False)
        pictures = [strip.original, strip.reconstruction, *(strip.counterfactuals.get(t, missing) for t in targets)]
        bases = [
            None,
            strip.original,
            *[strip.reconstruction if base == "reconstruction" else strip.original] * len(targets),
        ]
        for column, (picture, compared) in enumerate(zip(pictures, bases, strict=True)):
            _show(upper[column], picture)
            _show_difference(lower[column], picture.pixels, None if compared is None else compared.pixels)
        upper[0].set_ylabel(strip.label, fontsize=7)
        lower[0].set_ylabel("difference", fontsize=7)
    for column, heading in enumerate(headings):
        centre = axes[0, column].get_position()
        figure.text((centre.x0 + centre.x1) / 2, 1 - 0.14 / height, heading, ha="center", va="top", fontsize=8)
    _colour_bar(figure, width, foot.height / height, base)
    foot.write(figure)
    return figure


def _colour_bar(figure: Figure, width: float, foot: float, base: Base) -> None:
    """One bar for all differences, at the right edge, above the share `foot` of the height."""
    scale = ScalarMappable(Normalize(-DIFFERENCE_MAXIMUM, DIFFERENCE_MAXIMUM), COLOURS)
    place = (1 - 0.62 / width, foot + 0.25 * (1 - foot), 0.1 / width, 0.5 * (1 - foot))
    bar = figure.colorbar(scale, cax=figure.add_axes(place), extend="both")
    bar.ax.tick_params(labelsize=6)
    bar.set_label(f"mean difference to the {base} (beneath the reconstruction: to the input)", fontsize=6.5)


def write_sweep(folders: list[Path], path: Path, base: Base = "reconstruction", count: int = IMAGES) -> Path:
    """The figure of the finished cells of one or more suites as PNG.

    Args:
        count: images.

    Raises:
        UsageError: the records do not hold what it shows.
    """
    figure = sweep_figure(strips(folders, count), base)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
