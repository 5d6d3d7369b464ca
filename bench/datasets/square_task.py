"""The Square benchmark as a task: the validation grid with mirror targets."""

import hashlib
from typing import Literal

import numpy as np

from bench.datasets import square
from bench.datasets.base import Dataset, DatasetConfig, Task, spread
from bench.errors import UsageError


class SquareConfig(DatasetConfig):
    """Options of the Square benchmark.

    Attributes:
        target: "mirror" (the paper's experiment) or one reference value in [0, 1] for every image.
        order: "grid", or "reversed" (to show that results do not depend on it).
    """

    target: Literal["mirror"] | float = "mirror"
    order: Literal["grid", "reversed"] = "grid"


class SquareDataset(Dataset):
    """630 images: 9 positions x 5 reds x 7 backgrounds, in both halves of the red range."""

    options = SquareConfig
    config: SquareConfig
    weights = {role: f"square-{role}" for role in ("regressor", "oracle", "ddpm", "diffae")}

    def load(self, limit: int) -> Task:
        data = square.load("grid")
        index = spread(data.ids, limit)
        if self.config.order == "reversed":
            index.reverse()
        attribute = data.attribute[index]
        targets = self._targets(attribute)
        ids = tuple(data.ids[i] for i in index)
        images, latents = data.images[index], data.latents[index]
        return Task(
            ids, images, targets, attribute, square.inner_mask(latents), "red / 255", digest(ids, images, targets)
        )

    def _targets(self, attribute: np.ndarray) -> np.ndarray:
        if self.config.target == "mirror":
            return square.mirror_target(attribute)
        value = float(self.config.target)
        if not 0 <= value <= 1:
            raise UsageError(f"square.target={value} is outside [0, 1]; the attribute is red / 255")
        return np.full(len(attribute), value, dtype=np.float32)


def digest(ids: tuple[str, ...], images: np.ndarray, targets: np.ndarray) -> str:
    """sha256 of a task's content, whatever the order of its samples."""
    rows = sorted(
        (name, hashlib.sha256(image.tobytes()).hexdigest(), float(target))
        for name, image, target in zip(ids, images, targets, strict=True)
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()
