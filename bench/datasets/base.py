"""The contract of datasets, and the task they produce."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from bench.errors import UsageError
from methods.noise import sample_key


class DatasetConfig(BaseModel):
    """Options of a dataset; subclasses add fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


@dataclass(frozen=True)
class HeldOut:
    """Real images that no network was trained on, which counterfactuals for a value can be compared with.

    Attributes:
        ids: names, M of them; some may be among the images to explain.
        images: uint8 (M, H, W, C).
        values: true values, float32 (M,).
    """

    ids: tuple[str, ...]
    images: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Task:
    """Images to explain.

    Attributes:
        ids: names of the rows; never positions. Noise depends on them, or on `sources` where there are any.
        images: uint8 (N, H, W, C), C being 3 for colour and 1 for grey.
        targets: reference values, float32 (N,).
        attribute: true values, float32 (N,), or None where unknown.
        masks: bool (N, H, W), True where the attribute lives, or None where unknown.
        unit: what 1.0 of the target means, for people ("red / 255").
        digest: sha256 of ids, images and targets.
        sources: the image of every row where each is explained for several targets (bench/paths.py), else None.
        attributes: binary labels of the data set's training split, int8 in {-1, 1}: a row an image (index: its
            id), a column an attribute. They say which attributes go together in the data, as CD needs it; None
            where the data set has none. The images of the task are not among them.
        held_out: real images with true values, None where the data set has none.
    """

    ids: tuple[str, ...]
    images: np.ndarray
    targets: np.ndarray
    attribute: np.ndarray | None
    masks: np.ndarray | None
    unit: str
    digest: str
    sources: tuple[str, ...] | None = None
    attributes: pd.DataFrame | None = None
    held_out: HeldOut | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, as networks see it."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width


class Dataset(ABC):
    """One dataset.

    Attributes:
        options: the config class.
        weights: shipped weights by role ("regressor", "oracle", "ddpm", "diffae").
        needs_predictions: targets follow from what the regressor predicts on the originals: `load` leaves them
            NaN, and `retarget` sets them.
    """

    options: type[DatasetConfig] = DatasetConfig
    weights: dict[str, str] = {}
    needs_predictions: bool = False

    def __init__(self, config: DatasetConfig) -> None:
        self.config = config

    @abstractmethod
    def load(self, limit: int) -> Task:
        """At most `limit` images, spread evenly over the dataset; 0 is all.

        Raises:
            UsageError: the data cannot be used; names the file or key.
        """

    def retarget(self, task: Task, predictions: np.ndarray) -> Task:
        """The task with the targets that follow from the regressor's predictions; as it is where none do.

        Args:
            predictions: r of the task's images, float (N,), finite.

        Raises:
            UsageError: a prediction that no target can follow from.
        """
        return task


def finite_predictions(task: Task, predictions: np.ndarray) -> np.ndarray:
    """Predictions of the regressor on a task's images as float64 (N,).

    Raises:
        UsageError: one that is not finite; names the first image.
    """
    values = np.asarray(predictions, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise UsageError(f"weights.regressor: its prediction on {task.ids[wrong[0]]} is {values[wrong[0]]}")
    return values


def spread(ids: Sequence[str], limit: int) -> list[int]:
    """Indices of `limit` ids spread over a dataset, in its order; all of them for 0 or limit >= len(ids).

    Picked by a hash of the id: a regular stride would meet the same rows of a grid again and again, and a
    larger limit contains a smaller one.
    """
    if limit == 0 or limit >= len(ids):
        return list(range(len(ids)))
    ranked = sorted(range(len(ids)), key=lambda i: sample_key("spread", ids[i]))
    return sorted(ranked[:limit])
