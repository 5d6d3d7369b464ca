"""Picture grids: input, counterfactual and where they differ."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from reports.credits import foot_of

NOT_VALID = "#b3261e"
"""Colour of the titles of counterfactuals that are not valid."""
HEAT_MAXIMUM = 0.5
"""The mean absolute difference over channels that the heat map's top colour stands for."""


def heat_map(original: np.ndarray, counterfactual: np.ndarray) -> np.ndarray:
    """Mean absolute difference over channels as colours: uint8 (H, W, 3) each, in and out."""
    difference = np.abs(original.astype(np.float32) - counterfactual).mean(axis=-1) / 255
    return (colormaps["inferno"](np.clip(difference / HEAT_MAXIMUM, 0, 1))[..., :3] * 255).astype(np.uint8)


def signed_difference(base: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Mean over channels of image - base, both uint8 (H, W, 3): float32 (H, W) in [-1, 1]."""
    return (image.astype(np.float32) - base).mean(axis=-1) / 255


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` of the names, evenly spread over them, first and last among them."""
    places = np.linspace(0, len(names) - 1, min(count, len(names)))
    return [names[place] for place in np.unique(places.astype(int))]


def read_pair(row: pd.Series, inputs: Path, images: Path) -> tuple[np.ndarray, np.ndarray]:
    """(input, counterfactual) of a row of samples.parquet, uint8 (H, W, 3)."""
    return tuple(
        np.asarray(Image.open(folder / row[name]).convert("RGB"))
        for folder, name in ((inputs, "input"), (images, "image"))
    )


def png_data_uri(pixels: np.ndarray, zoom: int = 2) -> str:
    """An image as a data: URI, enlarged without smoothing."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((pixels.shape[1] * zoom, pixels.shape[0] * zoom), Image.Resampling.NEAREST).save(
        buffer, "PNG"
    )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture_grid(
    frames: dict[str, tuple[pd.DataFrame, Path, Path]], count: int, datasets: Iterable[str] = ()
) -> Figure:
    """Input, then counterfactual and heat map of each cell, for `count` samples that all cells have.

    Titles of counterfactuals that are not valid are red. The heat map is `heat_map`'s: black no change, bright much.

    Args:
        frames: cell title -> (samples, inputs folder, images folder).
        datasets: whose images they are; credits stand at the foot.
    """
    usable = [set(frame.loc[frame["failure"].isna(), "id"]) for frame, _, _ in frames.values()]
    chosen = spread(sorted(set.intersection(*usable)), count)
    width = 1.15 * len(chosen) + 1.3
    foot = foot_of(datasets, width)
    height = 1.3 * (1 + 2 * len(frames)) + foot.height
    share = foot.height / height
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(rect=(0, share, 1, 1 - share)))
    axes = figure.subplots(1 + 2 * len(frames), len(chosen), squeeze=False)
    for column, name in enumerate(chosen):
        for block, (title, (frame, inputs, images)) in enumerate(frames.items()):
            row = frame[frame["id"] == name].iloc[0]
            original, counterfactual = read_pair(row, inputs, images)
            if block == 0:
                axes[0, column].imshow(original)
                axes[0, column].set_title(f"r {row['start']:.2f}, target {row['target']:.2f}", fontsize=6.5)
                axes[0, 0].set_ylabel("input", fontsize=8)
            axes[1 + 2 * block, column].imshow(counterfactual)
            valid = bool(row["valid"] > 0)
            axes[1 + 2 * block, column].set_title(
                f"r {row['prediction']:.2f}", fontsize=6.5, color="black" if valid else NOT_VALID
            )
            axes[2 + 2 * block, column].imshow(heat_map(original, counterfactual))
            axes[1 + 2 * block, 0].set_ylabel(title, fontsize=8)
            axes[2 + 2 * block, 0].set_ylabel("difference", fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    foot.write(figure)
    return figure
