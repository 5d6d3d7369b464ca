"""CelebA-HQ: make people look older or younger (Ha and Bender 2025, section 4.2). Reads what `prepare` wrote."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from bench.datasets.base import Dataset, DatasetConfig, Task, finite_predictions, spread
from bench.datasets.square_task import digest
from bench.errors import UsageError
from bench.preparing.celebahq import ATTRIBUTES
from bench.preparing.prepared import open_prepared


class CelebaHqConfig(DatasetConfig):
    """Options of CelebA-HQ.

    Attributes:
        path: the folder that `python -m bench prepare celebahq` wrote.
        split: CelebA's; the paper explains the 2,824 images of "test".
        direction: who is young: by CelebA's label Young ("labelled", as published), or by the regressor
            ("predicted": below `boundary`). Young people are to look old, and old people young.
        old, young: reference values for the young and for the old, age / 100: the paper's 80 and 10 years.
        boundary: predictions below it are young, age / 100; the default lies in the middle of both targets.
    """

    path: str = ""
    split: Literal["train", "valid", "test"] = "test"
    direction: Literal["labelled", "predicted"] = "labelled"
    old: float = Field(0.8, ge=0, le=1)
    young: float = Field(0.1, ge=0, le=1)
    boundary: float = Field(0.45, ge=0, le=1)


class CelebaHqDataset(Dataset):
    """Faces without a true age: only the regressor's and the oracle's predictions can be compared with the target.

    No weights are shipped: give them with -s weights.ROLE=FILE (docs/weights.md). A sample's id is the image's
    official file name.
    """

    options = CelebaHqConfig
    config: CelebaHqConfig

    def __init__(self, config: CelebaHqConfig) -> None:
        super().__init__(config)
        self.needs_predictions = config.direction == "predicted"

    def load(self, limit: int) -> Task:
        config = self.config
        if not config.path:
            raise UsageError("--dataset celebahq needs celebahq.path; give it with -s celebahq.path=DIR")
        prepared = open_prepared(Path(config.path), "celebahq")
        rows = prepared.split(config.split)
        rows = rows.iloc[spread(rows["id"].tolist(), limit)]
        ids = tuple(rows["id"])
        images = np.stack([prepared.image(row) for _, row in rows.iterrows()])
        if self.needs_predictions:
            targets = np.full(len(ids), np.nan, dtype=np.float32)
        else:
            targets = self._targets(rows["Young"].to_numpy() == 1)
        labels = prepared.labels[prepared.labels["split"] == "train"].set_index("id")
        attributes = labels[list(ATTRIBUTES)].astype(np.int8)
        return Task(ids, images, targets, None, None, "age / 100", digest(ids, images, targets), attributes=attributes)

    def retarget(self, task: Task, predictions: np.ndarray) -> Task:
        """Targets by predicted age where `direction` says so; as labelled otherwise."""
        if not self.needs_predictions:
            return task
        values = finite_predictions(task, predictions)
        targets = self._targets(values < self.config.boundary)
        return dataclasses.replace(task, targets=targets, digest=digest(task.ids, task.images, targets))

    def _targets(self, young: np.ndarray) -> np.ndarray:
        return np.where(young, self.config.old, self.config.young).astype(np.float32)
