"""Judging saved counterfactuals: predictions on the PNG that was written, then every metric."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from bench.datasets.base import Task
from bench.errors import RunError, UsageError
from bench.images import BadImage, read_image, to_float
from bench.noise_check import NoiseCheck
from bench.paths import path_figures, summarise_paths
from bench.registry import resolve
from bench.sections import MetricsConfig
from methods import noise
from metrics import SAMPLE_METRICS
from metrics.frechet import FrechetError, clean_fid, frechet_distance, inception_folder
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


@dataclass
class Judge:
    """The reference networks, eager and in float32 whatever backend searched.

    Attributes:
        noise_check: tests saved images under fresh filter noise; None where that cannot be done, for `noise_reason`.
    """

    regressor: nn.Module
    oracle: nn.Module
    noise_check: NoiseCheck | None = None
    noise_reason: str = ""

    @torch.no_grad()
    def predict(self, pixels: np.ndarray) -> tuple[float, float]:
        """(r, o) of one uint8 (H, W, 3) image; one at a time, so that no batch can matter."""
        image = torch.from_numpy(to_float(pixels))[None]
        return float(self.regressor(image)), float(self.oracle(image))

    @torch.no_grad()
    def oracle_features(self, images: np.ndarray) -> np.ndarray:
        """Oracle features of float images (N, 3, H, W): (N, D)."""
        return torch.cat([self.oracle.features(chunk) for chunk in torch.from_numpy(images).split(64)]).numpy()

    def preflight(self, task: Task) -> None:
        """Refuse a regressor that cannot be explained.

        Raises:
            UsageError: non-finite predictions, or predictions that do not depend on the image.
        """
        images = torch.from_numpy(to_float(task.images[:4])).requires_grad_(True)
        for role, network in (("oracle", self.oracle), ("regressor", self.regressor)):
            prediction = network(images)
            if not torch.isfinite(prediction).all():
                raise UsageError(
                    f"weights.{role}: the {role} returns NaN or infinite values on the first images; check its weights"
                )
        gradient = (
            torch.autograd.grad(prediction.sum(), images, allow_unused=True)[0] if prediction.requires_grad else None
        )
        if gradient is None or not torch.any(gradient):
            raise UsageError(
                "weights.regressor: the regressor does not depend on the image (its gradient is zero); "
                "nothing can be searched"
            )


@dataclass(frozen=True)
class Judged:
    """What a finished cell is worth: its table of samples, its summary, and why a figure is missing."""

    frame: pd.DataFrame
    summary: dict[str, Estimate]
    notes: dict[str, str]


def judge_samples(
    judge: Judge,
    task: Task,
    rows: list[dict[str, Any]],
    cell: Path,
    inputs: Path,
    tolerance: float,
    metrics: MetricsConfig,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Judged:
    """Every metric of a finished cell, from its saved images.

    Args:
        rows: a recorded row for every sample of the task.
        cell: the cell's folder, named after its id.
        inputs: folder of the originals.
        report: called with (done, total) while images are tested under fresh noise.

    Raises:
        RunError: a saved image is gone or damaged.
    """
    images = cell / "images"
    draws = noise_predictions(judge, task, rows, images, report)
    frame = sample_table(task, rows, images, tolerance, draws)
    extra, notes = realism(judge, task, frame, inputs, images, metrics.inception_weights)
    summary = summarise(frame, cell.name, metrics.bootstrap_seed) | extra
    if task.sources is not None:
        size = task.images.shape[1]
        figures = path_figures(task, frame, lambda name: to_float(_pixels(images / name, size)))
        summary |= summarise_paths(figures, cell.name, metrics.bootstrap_seed)
        notes["path"] = (
            f"{len(task.ids)} rows of {len(figures)} images; intervals of path/ rest on images, "
            "all others take an image's rows for independent"
        )
    notes[NOISE_KEY] = judge.noise_reason if judge.noise_check is None else judge.noise_check.describe()
    return Judged(frame, summary, notes)


def noise_predictions(
    judge: Judge, task: Task, rows: list[dict[str, Any]], images: Path, report: Callable[[int, int], None]
) -> np.ndarray | None:
    """r(F(x'; noise)) of every sample in the task's order, (N, K); None where the judge has no check."""
    if judge.noise_check is None:
        return None
    by_id = {row["id"]: row for row in rows}
    saved = (
        None if by_id[name]["failure"] else _pixels(images / by_id[name]["image"], task.images.shape[1])
        for name in task.ids
    )
    # Named after the image: whichever other values were asked for, a counterfactual meets the same draws.
    return judge.noise_check.predict_all(task.sources or task.ids, saved, report)


def sample_table(
    task: Task, rows: list[dict[str, Any]], images: Path, tolerance: float, draws: np.ndarray | None = None
) -> pd.DataFrame:
    """One row a sample in the task's order, with every per-sample metric.

    Args:
        draws: predictions under fresh noise, (N, K), of `noise_predictions`.
    """
    by_id = {row["id"]: row for row in rows}
    ordered = [by_id[name] for name in task.ids]
    size = task.images.shape[1:3]
    saved = [
        np.full((3, *size), np.nan, np.float32) if row["failure"] else to_float(_pixels(images / row["image"], size[0]))
        for row in ordered
    ]
    frame = pd.DataFrame(ordered)
    measured = Measured(
        original=to_float(task.images),
        counterfactual=np.stack(saved),
        target=task.targets.astype(np.float64),
        prediction=frame["prediction"].to_numpy(np.float64),
        oracle=frame["oracle"].to_numpy(np.float64),
        mask=task.masks,
        tolerance=tolerance,
        noise_predictions=draws,
    )
    if task.attribute is not None:
        frame["attribute"] = task.attribute
    for name, values in metric_columns(measured).items():
        frame[name] = values
    return frame


def metric_columns(measured: Measured) -> dict[str, np.ndarray]:
    """Every per-sample metric that can be computed: name -> (N,)."""
    found = {name: resolve(SAMPLE_METRICS, name, "metric")(measured) for name in SAMPLE_METRICS}
    return {name: values for name, values in found.items() if values is not None}


def _pixels(path: Path, size: int) -> np.ndarray:
    """A saved image as it was written, uint8 (H, W, 3)."""
    try:
        return read_image(path, size)
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
    return summary


def realism(
    judge: Judge, task: Task, frame: pd.DataFrame, inputs: Path, images: Path, weights: str
) -> tuple[dict[str, Estimate], dict[str, str]]:
    """FID, where its weights are at hand, and the Frechet distance on the oracle's features; with reasons."""
    summary, notes = {}, {}
    kept = frame["failure"].isna().to_numpy()
    count = int(kept.sum())
    size = task.images.shape[1]
    saved = (
        np.stack([to_float(_pixels(images / name, size)) for name in frame["image"][kept]])
        if count
        else np.empty((0, 3, size, size))
    )
    distance = None
    if count:
        real = judge.oracle_features(to_float(task.images[kept]))
        distance = frechet_distance(real, judge.oracle_features(saved))
    summary["realism/oracle_feature_distance"] = Estimate(value=distance, n=count)
    notes["realism/oracle_feature_distance"] = (
        "Frechet distance on the oracle's features, not FID; biased upwards for few images"
    )
    folder, reason = inception_folder(weights or None)
    if folder is None:
        summary["realism/fid"], notes["realism/fid"] = Estimate(value=None, n=count), reason
    elif count < 2:
        summary["realism/fid"], notes["realism/fid"] = Estimate(value=None, n=count), "fewer than two counterfactuals"
    else:
        try:
            value = clean_fid(inputs, images, folder, torch.device("cpu"))
        except FrechetError as error:
            value, notes["realism/fid"] = None, str(error)
        summary["realism/fid"] = Estimate(value=value, n=count)
    return summary, notes


def write_table(frame: pd.DataFrame, cell: Path) -> None:
    """Write samples.parquet whole or not at all."""
    temporary = cell / "samples.parquet.tmp"
    frame.to_parquet(temporary, index=False)
    temporary.replace(cell / "samples.parquet")


def failures(frame: pd.DataFrame) -> dict[str, int]:
    """Failure reason -> samples; the step number is left out of the reason."""
    return dict(Counter(reason.partition(" ")[0] for reason in frame["failure"].dropna()))


def numeric_facts(timings: Mapping[str, Any]) -> dict[str, float]:
    """The plain numbers among the timings, for trackers."""
    return {key: float(value) for key, value in timings.items() if isinstance(value, int | float) and value is not None}
