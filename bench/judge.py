"""Judging saved counterfactuals: predictions on the PNG that was written, then every metric."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from bench.datasets.base import Task
from bench.errors import RunError
from bench.evaluators import TYPE_KEY, Evaluators, Found, image_format
from bench.faces import FACE_KEYS, correlations, explain_missing, may_show_faces
from bench.images import BadImage, read_saved, to_float
from bench.noise_check import NoiseCheck
from bench.own_models import check_regressor, try_regressor
from bench.paths import path_figures, summarise_paths
from bench.realism import Subject, inception_realism, load_extractor, oracle_features, oracle_realism
from bench.registry import resolve
from bench.sections import MetricsConfig
from bench.target_class import target_class_realism
from bench.traces import without_trace
from methods import noise
from metrics import SAMPLE_METRICS
from metrics.intervals import Estimate, mean_estimate, rate_estimate, ratio_estimate
from metrics.measured import Measured

# Record keys of the sample metrics, and their units.
SUMMARY_KEYS = {
    "prediction_error": "validity/prediction_mae",
    "oracle_target_mae": "validity/oracle_target_mae",
    "oracle_regressor_mae": "validity/oracle_regressor_mae",
    "square_mae": "quality/square_mae",
    "background_mae": "quality/background_mae",
    "change_l1": "sparsity/change_l1",
}
NOISE_KEY = "validity/noise_success_rate"
AREA_KEY = "sparsity/changed_area"
CHUNK = 64
"""Samples whose images are held as floats at a time."""


@dataclass
class Judge:
    """The reference networks, eager and in float32 whatever backend searched.

    Attributes:
        noise_check: tests saved images under fresh filter noise; None where that cannot be done, for `noise_reason`.
        evaluators: networks of the identity, attribute, type and perceptual metrics.
        oracle_sha256: of the oracle's weights, None where it was not read from a file.
    """

    regressor: nn.Module
    oracle: nn.Module
    noise_check: NoiseCheck | None = None
    noise_reason: str = ""
    evaluators: Evaluators = field(default_factory=Evaluators)
    oracle_sha256: str | None = None

    @torch.no_grad()
    def predict(self, pixels: np.ndarray) -> tuple[float, float]:
        """(r, o) of one uint8 (H, W, C) image; one at a time, so that no batch can matter."""
        image = torch.from_numpy(to_float(pixels))[None]
        return float(self.regressor(image)), float(self.oracle(image))

    @torch.no_grad()
    def oracle_features(self, images: np.ndarray) -> np.ndarray:
        """Oracle features of float images (N, C, H, W): (N, D)."""
        return torch.cat([self.oracle.features(chunk) for chunk in torch.from_numpy(images).split(64)]).numpy()

    def preflight(self, task: Task) -> None:
        """Refuse an oracle that cannot judge these images, and a regressor that cannot be explained.

        Raises:
            UsageError: images of another size than they take, non-finite predictions, or predictions that do not
                depend on the image.
        """
        images = torch.from_numpy(to_float(task.images[:4]))
        try_regressor(self.oracle, images, "weights.oracle")
        check_regressor(self.regressor, images, "weights.regressor")


@dataclass(frozen=True)
class Judged:
    """What a finished cell is worth: its table of samples, its summary, and why a figure is missing.

    Attributes:
        definitions: metric -> what defines its value, with a fingerprint, where more than one definition is in use.
    """

    frame: pd.DataFrame
    summary: dict[str, Estimate]
    notes: dict[str, str]
    definitions: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SavedPairs:
    """Original and saved counterfactual of every sample in the task's order, read from disk at every iteration.

    Attributes:
        names: file of every counterfactual in `folder`, None for a failed sample.
    """

    task: Task
    names: tuple[str | None, ...]
    folder: Path

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        for original, name in zip(self.task.images, self.names, strict=True):
            yield original, None if name is None else _pixels(self.folder / name, original.shape[0])


def saved_pairs(task: Task, rows: list[dict[str, Any]], images: Path) -> SavedPairs:
    """The pairs of a cell's recorded rows."""
    by_id = {row["id"]: row for row in rows}
    return SavedPairs(task, tuple(None if by_id[i]["failure"] else by_id[i]["image"] for i in task.ids), images)


def judge_samples(
    judge: Judge,
    task: Task,
    rows: list[dict[str, Any]],
    cell: Path,
    tolerance: float,
    metrics: MetricsConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Judged:
    """Every metric of a finished cell, from its saved images.

    Args:
        rows: a recorded row for every sample of the task.
        cell: the cell's folder, named after its id.
        report: called with (done, total) while images are tested under fresh noise.

    Raises:
        RunError: a saved image is gone or damaged.
    """
    images = cell / "images"
    pairs = saved_pairs(task, rows, images)
    draws = noise_predictions(judge, task, pairs, report)
    faces = may_show_faces(task)
    image = image_format(metrics.mode, faces)
    found = judge.evaluators.measure(pairs, jpeg=image != "PNG")
    frame = sample_table(task, rows, images, tolerance, draws, found)
    summary = summarise(frame, cell.name, metrics.bootstrap_seed)
    kept, valid = frame["failure"].isna().to_numpy(), frame["valid"].to_numpy() > 0
    subject = Subject(pairs, task.sources or task.ids, kept, valid, faces)
    notes: dict[str, str] = {}
    definitions = judge.evaluators.definitions(image)
    has_features = callable(getattr(judge.oracle, "features", None))
    features = oracle_features(judge.oracle_features, pairs) if has_features else None
    realism = [
        oracle_realism(subject, features),
        target_class_realism(subject, task, features, judge.oracle_sha256),
        inception_realism(subject, metrics, *load_extractor(metrics.inception_weights)),
    ]
    for part in (*realism, correlations(judge.evaluators, task, found, subject.valid, image)):
        summary |= part.summary
        notes |= part.notes
        definitions |= part.definitions
    notes |= explain_missing(judge.evaluators, task, summary)
    definitions = {
        key: facts for key, facts in definitions.items() if key in summary and summary[key].value is not None
    }
    if task.sources is not None:
        size = task.images.shape[1]
        figures = path_figures(task, frame, lambda name: to_float(_pixels(images / name, size)))
        summary |= summarise_paths(figures, cell.name, metrics.bootstrap_seed)
        notes["path"] = (
            f"{len(task.ids)} rows of {len(figures)} images; intervals of path/ rest on images, "
            "all others take an image's rows for independent"
        )
    notes[NOISE_KEY] = judge.noise_reason if judge.noise_check is None else judge.noise_check.describe()
    return Judged(frame, summary, notes, definitions)


def noise_predictions(
    judge: Judge, task: Task, pairs: SavedPairs, report: Callable[[int, int], None]
) -> np.ndarray | None:
    """r(F(x'; noise)) of every sample in the task's order, (N, K); None where the judge has no check."""
    if judge.noise_check is None:
        return None
    saved = (counterfactual for _, counterfactual in pairs)
    # Named after the image: whichever other values were asked for, a counterfactual meets the same draws.
    return judge.noise_check.predict_all(task.sources or task.ids, saved, report)


def sample_table(
    task: Task,
    rows: list[dict[str, Any]],
    images: Path,
    tolerance: float,
    draws: np.ndarray | None = None,
    found: Found | None = None,
) -> pd.DataFrame:
    """One row a sample in the task's order, with every per-sample metric.

    Args:
        draws: predictions under fresh noise, (N, K), of `noise_predictions`.
        found: what the evaluators say of the same samples.
    """
    by_id = {row["id"]: row for row in rows}
    frame = pd.DataFrame([without_trace(by_id[name]) for name in task.ids])
    found = found or Found()
    pairs, tables = iter(saved_pairs(task, rows, images)), []
    for start in range(0, len(task.ids), CHUNK):
        part = slice(start, start + CHUNK)
        original, saved = zip(*islice(pairs, CHUNK), strict=True)
        missing = np.full(task.image_shape, np.nan, np.float32)
        measured = Measured(
            original=to_float(np.stack(original)),
            counterfactual=np.stack([missing if pixels is None else to_float(pixels) for pixels in saved]),
            target=task.targets[part].astype(np.float64),
            prediction=frame["prediction"].to_numpy(np.float64)[part],
            oracle=frame["oracle"].to_numpy(np.float64)[part],
            mask=_part(task.masks, part),
            tolerance=tolerance,
            noise_predictions=_part(draws, part),
            identity=_part(found.identity, part),
            attributes=_part(found.before, part),
            counterfactual_attributes=_part(found.after, part),
            perceptual=_part(found.perceptual, part),
            types=None if found.types is None else found.types[0][part],
            counterfactual_types=None if found.types is None else found.types[1][part],
        )
        tables.append(pd.DataFrame(metric_columns(measured)))
    if task.attribute is not None:
        frame["attribute"] = task.attribute
    metrics = pd.concat(tables, ignore_index=True)
    for name in metrics:
        frame[name] = metrics[name]
    return frame


def _part(values: np.ndarray | None, part: slice) -> np.ndarray | None:
    return None if values is None else values[part]


def metric_columns(measured: Measured) -> dict[str, np.ndarray]:
    """Every per-sample metric that can be computed: name -> (N,)."""
    found = {name: resolve(SAMPLE_METRICS, name, "metric")(measured) for name in SAMPLE_METRICS}
    return {name: values for name, values in found.items() if values is not None}


def _pixels(path: Path, size: int) -> np.ndarray:
    """A saved image as it was written, uint8 (H, W, C)."""
    try:
        return read_saved(path, size)
    except BadImage as error:
        raise RunError(f"{error}; remove the line from samples.jsonl or use --fresh") from error


def summarise(frame: pd.DataFrame, cell_id: str, seed: int) -> dict[str, Estimate]:
    """Means and rates with bootstrap intervals; throughput as ratios over the same samples."""
    generator = noise.numpy_generator("bootstrap", seed, cell_id)
    summary = {
        key: mean_estimate(frame[name].to_numpy(), generator) for name, key in SUMMARY_KEYS.items() if name in frame
    }
    summary["validity/success_rate"] = rate_estimate(frame["valid"].to_numpy())
    summary["validity/failure_rate"] = rate_estimate(frame["failure"].notna().to_numpy())
    summary["validity/search_reached_rate"] = rate_estimate(frame["reached"].to_numpy())
    for name in ("steps", "forward", "backward"):
        unit = "steps" if name == "steps" else "network evaluations"
        summary[f"cost/{name}"] = mean_estimate(frame[name].to_numpy(np.float64), generator, unit)
    seconds, valid = frame["seconds"].to_numpy(np.float64), frame["valid"].to_numpy(np.float64)
    summary["throughput/seconds_per_image"] = mean_estimate(seconds, generator, "s")
    summary["throughput/valid_per_second"] = ratio_estimate(valid, seconds, generator, "1/s")
    if valid.any():
        summary["throughput/seconds_per_valid"] = ratio_estimate(seconds, valid, generator, "s")
    if "noise_success" in frame:  # last, so that the other intervals are those of a record without it
        summary[NOISE_KEY] = mean_estimate(frame["noise_success"].to_numpy(), generator, "fraction")
    for name, key in FACE_KEYS.items():
        if name == "fva" and name in frame:
            summary[key] = rate_estimate(frame[name].dropna().to_numpy() > 0)
        elif name in frame:
            summary[key] = mean_estimate(frame[name].to_numpy(), generator, "attributes" if name == "mnac" else "1")
    # Of resamples of its own, so that all other intervals are those of a record without it.
    own = noise.numpy_generator("bootstrap", seed, cell_id, AREA_KEY)
    summary[AREA_KEY] = mean_estimate(frame["changed_area"].to_numpy(), own, "fraction")
    if "type_preserved" in frame:
        summary[TYPE_KEY] = rate_estimate(frame["type_preserved"].dropna().to_numpy() > 0)
    return summary


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a parquet file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    frame.to_parquet(temporary, index=False)
    temporary.replace(path)


def failures(frame: pd.DataFrame) -> dict[str, int]:
    """Failure reason -> samples; the step number is left out of the reason."""
    return dict(Counter(reason.partition(" ")[0] for reason in frame["failure"].dropna()))
