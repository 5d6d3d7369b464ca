"""What the true counterfactuals of the Square grid score: the reference row of every table on that benchmark.

    python -m bench.ground_truth

The grid holds every latent twice under the same noise, once with its red and once with red + 128, so the true
counterfactual of an image for its mirror target is the image of the same number in the other half. It is judged with
the shipped regressor and oracle as a saved counterfactual is, so a method that scores better than this on success
has changed the regressor's mind by something else than the square.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd

from bench.cell import build_judge, load_weights
from bench.config import RunConfig
from bench.datasets import square
from bench.datasets.base import Task
from bench.datasets.square_task import SquareConfig, SquareDataset
from bench.errors import BenchError, UsageError
from bench.images import to_float
from bench.judge import metric_columns
from bench.progress import Display
from bench.sections import MetricsConfig
from metrics.intervals import Estimate, rate_estimate
from metrics.measured import Measured
from reports.tables import format_estimate

HALVES = {"lower": "upper", "upper": "lower"}
MEANS = {
    "success, fresh noise": "noise_success",
    "|r-target|": "prediction_error",
    "oracle-target": "oracle_target_mae",
    "oracle-r": "oracle_regressor_mae",
    "Square MAE": "square_mae",
    "Background MAE": "background_mae",
    "change L1": "change_l1",
}
"""Heading -> per-sample metric."""


def counterpart(sample_id: str) -> str:
    """The id of the same latents and noise in the other half of the grid.

    Raises:
        UsageError: not an id of the grid.
    """
    half, slash, number = sample_id.partition("/")
    if half not in HALVES or not slash:
        raise UsageError(f"{sample_id!r} is not an image of the Square grid")
    return f"{HALVES[half]}/{number}"


def true_counterfactuals(ids: tuple[str, ...]) -> np.ndarray:
    """Images of the other half, uint8 (N, 64, 64, 3), in the order of `ids`."""
    grid = square.load("grid")
    places = {name: index for index, name in enumerate(grid.ids)}
    return grid.images[[places[counterpart(name)] for name in ids]]


def score(
    limit: int = 0,
    metrics: MetricsConfig | None = None,
    tolerance: float = 0.05,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Every per-sample metric of the true counterfactuals under the shipped networks, one row an image.

    Args:
        limit: images, spread evenly; 0 is all 630.
        tolerance: of the validity rule.
        seed: of the fresh noise.
        report: called with (done, total) after every image.
    """
    metrics = metrics or MetricsConfig()
    source = SquareDataset(SquareConfig())
    task: Task = source.load(limit)
    images = true_counterfactuals(task.ids)
    judge = build_judge(load_weights(RunConfig(), source, ("regressor", "oracle", "ddpm")), metrics, seed, task)
    predictions = np.array([judge.predict(image) for image in images])
    draws = judge.noise_check.predict_all(task.ids, images, report) if judge.noise_check is not None else None
    measured = Measured(
        original=to_float(task.images),
        counterfactual=to_float(images),
        target=task.targets.astype(np.float64),
        prediction=predictions[:, 0],
        oracle=predictions[:, 1],
        mask=task.masks,
        tolerance=tolerance,
        noise_predictions=draws,
    )
    return pd.DataFrame({"id": task.ids, "target": task.targets, **metric_columns(measured)})


def table_lines(frame: pd.DataFrame) -> list[str]:
    """Success with its Wilson interval and the means, overall and by target, aligned."""
    shown = {heading: name for heading, name in MEANS.items() if name in frame}
    groups = [("all", frame), *((f"{target:.3f}", part) for target, part in frame.groupby("target"))]
    rows = [["target", "n", "success", *shown]]
    for label, part in groups:
        success: Estimate = rate_estimate(part["valid"].to_numpy())
        means = [f"{part[name].mean():.4f}" for name in shown.values()]
        rows.append([label, str(len(part)), format_estimate(success, 3), *means])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.ground_truth", description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=0, help="images, spread evenly; 0 is all")
    parser.add_argument("--draws", type=int, default=4, help="fresh filter noises an image; 0 leaves that out")
    parser.add_argument("--tolerance", type=float, default=0.05, help="of the validity rule")
    parser.add_argument("--seed", type=int, default=0, help="of the fresh noise")
    given = parser.parse_args(arguments)
    if given.limit < 0 or given.draws < 0:
        parser.error("--limit and --draws are not negative")
    try:
        with Display() as display:
            display.begin("true counterfactuals", given.limit or 630)
            frame = score(
                given.limit,
                MetricsConfig(noise_draws=given.draws),
                given.tolerance,
                given.seed,
                lambda done, total: display.phase("judging under fresh noise", done),
            )
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for line in table_lines(frame):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
