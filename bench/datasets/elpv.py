"""ELPV: electroluminescence photographs of solar cells, whose defect probability is to become 0 or 1."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from bench.datasets.base import Dataset, DatasetConfig, HeldOut, Task, finite_predictions, spread
from bench.datasets.elpv_files import Split, data_folder, manifest, read_pixels
from bench.datasets.square_task import digest
from bench.errors import UsageError

BOUNDARY = 0.5
"""Predictions below it call a cell sound."""
ELPV_WEIGHTS = {role: f"elpv-{role}" for role in ("regressor", "oracle", "ddpm", "diffae", "type")}
"""Shipped networks for grey images of 64x64 pixels, by role."""


@cache
def held_out_images(folder: Path, size: int, cell_type: str = "all") -> HeldOut:
    """The images of the validation and test splits with their probabilities; read once a process.

    Args:
        folder: from `data_folder`.
        size: height and width.
        cell_type: "all", "mono" or "poly".
    """
    rows = manifest()
    rows = rows[rows["split"].isin(("valid", "test"))]
    if cell_type != "all":
        rows = rows[rows["type"] == cell_type]
    images = read_pixels(folder, rows, size)
    return HeldOut(tuple(rows["file"]), images, rows["probability"].to_numpy(np.float32))


def _images(folder: Path, rows: pd.DataFrame, held_out: HeldOut) -> np.ndarray:
    """The images of rows of the manifest; those that are among the held-out ones are not read again."""
    place = {name: index for index, name in enumerate(held_out.ids)}
    if all(name in place for name in rows["file"]):
        return held_out.images[[place[name] for name in rows["file"]]]
    return read_pixels(folder, rows, held_out.images.shape[1])


class ElpvConfig(DatasetConfig):
    """Options of ELPV.

    Attributes:
        path: a folder with the data set's `images/`; empty: that of the installed package elpv-dataset.
        size: height and width that the photographs of 300x300 pixels are shrunk to, with antialiasing.
        split: networks that are shipped have seen "train" and were chosen on "valid".
        target: "opposite" is 1 where the regressor predicts less than 0.5 and 0 elsewhere; or one reference value
            in [0, 1] for every image.
        type: of the cells: "all", "mono" or "poly".
    """

    path: str = ""
    size: Literal[64, 128] = 64
    split: Split = "test"
    target: Literal["opposite"] | float = Field("opposite")
    type: Literal["all", "mono", "poly"] = "all"


class ElpvDataset(Dataset):
    """Grey photographs with the defect probability that experts gave them: 0, 1/3, 2/3 or 1.

    A sample's id is its file name ("images/cell0001.png").
    """

    options = ElpvConfig
    config: ElpvConfig

    def __init__(self, config: ElpvConfig) -> None:
        super().__init__(config)
        self.needs_predictions = config.target == "opposite"
        if config.size == 64:
            self.weights = ELPV_WEIGHTS

    def load(self, limit: int) -> Task:
        config, rows = self.config, manifest()
        rows = rows[rows["split"] == config.split]
        if config.type != "all":
            rows = rows[rows["type"] == config.type]
        rows = rows.iloc[spread(rows["file"].tolist(), limit)]
        ids = tuple(rows["file"])
        folder = data_folder(config.path)
        held_out = held_out_images(folder, config.size, config.type)
        images = _images(folder, rows, held_out)
        targets = np.full(len(ids), self._target(), dtype=np.float32)
        attribute = rows["probability"].to_numpy(np.float32)
        identity = digest(ids, images, targets)
        return Task(ids, images, targets, attribute, None, "defect probability", identity, held_out=held_out)

    def _target(self) -> float:
        """NaN where it follows from the predictions."""
        if self.config.target == "opposite":
            return float("nan")
        value = float(self.config.target)
        if not 0 <= value <= 1:
            raise UsageError(f"elpv.target={value} is outside [0, 1]; the attribute is a probability")
        return value

    def retarget(self, task: Task, predictions: np.ndarray) -> Task:
        """Each image's opposite, as the regressor sees it."""
        if not self.needs_predictions:
            return task
        values = finite_predictions(task, predictions)
        targets = (values < BOUNDARY).astype(np.float32)
        return dataclasses.replace(task, targets=targets, digest=digest(task.ids, task.images, targets))
