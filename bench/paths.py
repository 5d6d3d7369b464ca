"""Several reference values an image: the rows of such a task, and the order in which they are searched."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from bench.datasets.base import Task
from bench.datasets.square_task import digest
from bench.images import to_float
from methods import noise
from methods.search import Outcome, Sample
from metrics.intervals import Estimate, mean_estimate
from metrics.paths import monotonic_rate, roughness_l1, step_l1
from metrics.square import square_red

CONTINUATION = "continuation"
PATH_UNITS = {
    "path/monotonic_rate": "fraction",
    "path/monotonic_rate_square": "fraction",
    "path/step_l1": "1",
    "path/roughness_l1": "1",
}
"""Record keys of the figures of an image's sequence of counterfactuals, and their units."""


def row_id(source: str, target: float) -> str:
    """The id of an image's row for one reference value, "name@0.4" (six digits)."""
    return f"{source}@{target:g}"


def expand(task: Task, targets: tuple[float, ...]) -> Task:
    """Every image once for each reference value, instead of the task's own targets.

    Args:
        task: one row an image.
        targets: values in [0, 1], distinct in six digits; () leaves the task as it is.

    Returns:
        N x K rows, image by image, with `sources` and a digest of their own.
    """
    if not targets:
        return task
    count = len(targets)
    ids = tuple(row_id(source, target) for source in task.ids for target in targets)
    images = np.repeat(task.images, count, axis=0)
    values = np.tile(np.asarray(targets, dtype=np.float32), len(task.ids))
    return replace(
        task,
        ids=ids,
        images=images,
        targets=values,
        attribute=None if task.attribute is None else np.repeat(task.attribute, count, axis=0),
        masks=None if task.masks is None else np.repeat(task.masks, count, axis=0),
        digest=digest(ids, images, values),
        sources=tuple(source for source in task.ids for _ in targets),
    )


def rows_by_source(task: Task) -> dict[str, list[int]]:
    """The rows of every image, by rising target."""
    rows: dict[str, list[int]] = {}
    for index, source in enumerate(task.sources or task.ids):
        rows.setdefault(source, []).append(index)
    return {source: sorted(found, key=lambda i: float(task.targets[i])) for source, found in rows.items()}


def continuations(task: Task, starts: Mapping[str, float]) -> list[tuple[int, ...]]:
    """Rows in the order in which they are solved, each from the solution before it.

    An image has up to two paths, away from the prediction it starts with: the targets below it descending, and
    those at or above it ascending.

    Args:
        starts: r(x) of every image, by source.
    """
    found = []
    for source, rows in rows_by_source(task).items():
        below = [i for i in reversed(rows) if task.targets[i] < starts[source]]
        above = [i for i in rows if task.targets[i] >= starts[source]]
        found += [tuple(path) for path in (below, above) if path]
    return found


class Plan:
    """What is searched for a task's rows, and to which row an outcome belongs.

    Samples are named after their image, so that noise does not depend on which other values are asked for.

    Args:
        path: "independent" or "continuation".
        predict: r of a uint8 (H, W, 3) image.
    """

    def __init__(self, task: Task, path: str, predict: Callable[[np.ndarray], float]) -> None:
        self.task, self.path, self.predict = task, path, predict
        self.sources = task.sources or task.ids
        keys = zip(self.sources, map(float, task.targets), strict=True)
        self._rows = {key: index for index, key in enumerate(keys)}
        self._starts: dict[str, float] = {}

    def start(self, row: int) -> float:
        """r(x) of a row's image, computed once."""
        source = self.sources[row]
        if source not in self._starts:
            self._starts[source] = self.predict(self.task.images[row])
        return self._starts[source]

    def row(self, outcome: Outcome) -> int:
        """The row that an outcome is for."""
        return self._rows[outcome.id, outcome.target]

    def paths(self, missing: Collection[int]) -> list[tuple[int, ...]]:
        """Rows to search: those of one image that share its encoding, or that continue each other in this order.

        A solution is not recorded with its search's state, so a continuation that lacks a row is searched as a whole.

        Args:
            missing: rows without a recorded outcome.
        """
        if self.path != CONTINUATION:
            found: dict[str, list[int]] = {}
            for row in missing:
                found.setdefault(self.sources[row], []).append(row)
            return [tuple(rows) for rows in found.values()]
        starts = {source: self.start(row) for row, source in enumerate(self.sources)}
        return [path for path in continuations(self.task, starts) if not set(missing).isdisjoint(path)]

    def sample(self, path: tuple[int, ...]) -> Sample:
        """Rows of one of the `paths` for the search engine."""
        values = [float(self.task.targets[row]) for row in path]
        image = torch.from_numpy(to_float(self.task.images[path[0]]))
        further = "then" if self.path == CONTINUATION else "also"
        return Sample(self.sources[path[0]], image, values[0])._replace(**{further: tuple(values[1:])})


def path_figures(task: Task, frame: pd.DataFrame, read: Callable[[str], np.ndarray]) -> pd.DataFrame:
    """Figures of every image's saved counterfactuals, in the order of their reference values; one row an image.

    Args:
        frame: the samples' table in the task's order, with "image", "failure" and "oracle".
        read: a saved image by file name, float32 (C, H, W) in [0, 1].
    """
    failed, nothing = frame["failure"].notna(), np.full(task.image_shape, np.nan, np.float32)
    found = {}
    for source, rows in rows_by_source(task).items():
        saved = np.stack([nothing if failed.iloc[row] else read(frame["image"].iloc[row]) for row in rows])
        figures = {
            "path/monotonic_rate": monotonic_rate(frame["oracle"].to_numpy(np.float64)[rows]),
            "path/step_l1": step_l1(saved),
            "path/roughness_l1": roughness_l1(saved),
        }
        if task.masks is not None:
            figures["path/monotonic_rate_square"] = monotonic_rate(square_red(saved, task.masks[rows]))
        found[source] = figures
    return pd.DataFrame.from_dict(found, orient="index")


def summarise_paths(figures: pd.DataFrame, cell_id: str, seed: int) -> dict[str, Estimate]:
    """Means over images with bootstrap intervals, from a generator of their own."""
    generator = noise.numpy_generator("bootstrap", seed, cell_id, "path")
    return {
        key: mean_estimate(figures[key].to_numpy(np.float64), generator, unit)
        for key, unit in PATH_UNITS.items()
        if key in figures
    }
