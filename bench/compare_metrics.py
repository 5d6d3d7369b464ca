"""The figures of `bench compare`, each of NEW against BASE on the same images, with interval and verdict."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel

from bench.sections import VerifyConfig
from metrics.equivalence import change, paired_rate_interval, paired_ratio
from metrics.paired import paired_difference

ERRORS = {
    "oracle target error": "oracle_target_mae",
    "square MAE": "square_mae",
    "background MAE": "background_mae",
}
"""Quality figures, lower is better: name -> column of samples.parquet."""
PAIR_ERRORS = {"oracle regressor error": "oracle_regressor_mae", "change L1": "change_l1"}
"""Further ones, where two methods are compared."""
COSTS = {"steps": "steps", "forward evaluations": "forward", "backward evaluations": "backward"}
"""What a search computes, lower is better; of two methods only, as a method's own cost is a constant of it."""

Outcome = Literal["regressed", "ok", "improved", "inconclusive", "missing", "skipped"]
"""Of `bench compare`; "skipped" is a figure of `bench gate` that neither side can have, and never decides."""


class Metric(BaseModel):
    """One figure of NEW against BASE.

    Attributes:
        kind: "speed", "quality", or "cost" (what a search computes).
        base, new: the figure on each side.
        measure: "ratio" (NEW over BASE) or "difference" (NEW minus BASE).
        value, low, high: of the measure, with its 90 % interval: 5 % on the side that decides.
        limit: how far it may be worse.
        note: why it is inconclusive, where that is not the interval's width, why it is skipped, or why it is ok
            whatever the interval.
    """

    name: str
    kind: Literal["speed", "quality", "cost"]
    unit: str = "1"
    base: float | None
    new: float | None
    measure: Literal["ratio", "difference"]
    value: float | None
    low: float | None
    high: float | None
    limit: float
    verdict: Outcome
    note: str = ""


def speed_metrics(
    base: pd.DataFrame, new: pd.DataFrame, tolerance: float, generator: np.random.Generator
) -> list[Metric]:
    """Seconds a valid counterfactual and seconds an image; samples' seconds are shares of the wall time."""
    metrics = []
    for name, column in (("seconds per valid", "valid"), ("seconds per image", None)):
        top, bottom = [], []
        for frame in (new, base):
            top.append(frame["seconds"].to_numpy(np.float64))
            bottom.append(np.ones(len(frame)) if column is None else frame[column].to_numpy(np.float64))
        value, low, high = paired_ratio((top[0], bottom[0]), (top[1], bottom[1]), generator)
        metrics.append(
            Metric(
                name=name,
                kind="speed",
                unit="s",
                base=_over(top[1], bottom[1]),
                new=_over(top[0], bottom[0]),
                measure="ratio",
                value=value,
                low=low,
                high=high,
                limit=tolerance,
                verdict=change(low, high, tolerance, 1 / tolerance),
            )
        )
    return metrics


def _over(top: np.ndarray, bottom: np.ndarray) -> float | None:
    return float(top.sum() / bottom.sum()) if bottom.sum() > 0 else None


def quality_metrics(
    base: pd.DataFrame,
    new: pd.DataFrame,
    margins: VerifyConfig,
    generator: np.random.Generator,
    errors: Mapping[str, str] = ERRORS,
) -> list[Metric]:
    """Success rate and mean errors on the same images in the same order.

    Args:
        errors: name -> column, lower is better; one that a record lacks is left out.
    """
    metrics = [success_metric(base, new, margins.success_margin)]
    for name, column in errors.items():
        if column in base and column in new:
            metrics.append(error_metric(name, base[column], new[column], margins.target_error_margin, generator))
    return metrics


def success_metric(base: pd.DataFrame, new: pd.DataFrame, margin: float) -> Metric:
    """Success on the saved images."""
    theirs, ours = base["valid"].to_numpy() > 0, new["valid"].to_numpy() > 0
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    low, high = paired_rate_interval(gained, lost, len(theirs))
    return _share("success rate", theirs, ours, ((gained - lost) / len(theirs), low, high), margin)


def noise_metric(base: pd.DataFrame, new: pd.DataFrame, margin: float, generator: np.random.Generator) -> Metric:
    """Success under fresh noise: the mean share of draws, a failed sample counting as 0."""
    theirs, ours = base["noise_success"].to_numpy(np.float64), new["noise_success"].to_numpy(np.float64)
    return _share("success under fresh noise", theirs, ours, paired_difference(ours, theirs, generator), margin)


def cost_metric(name: str, base: pd.Series, new: pd.Series, generator: np.random.Generator) -> Metric:
    """A mean count over all images, lower is better; any increase is a regression."""
    return _mean(name, "cost", base.to_numpy(np.float64), new.to_numpy(np.float64), 0.0, generator)


def error_metric(name: str, base: pd.Series, new: pd.Series, margin: float, generator: np.random.Generator) -> Metric:
    """A mean error over the images that have a counterfactual on both sides, lower is better."""
    theirs, ours = base.to_numpy(np.float64), new.to_numpy(np.float64)
    kept = np.isfinite(theirs) & np.isfinite(ours)
    return _mean(name, "quality", theirs[kept], ours[kept], margin, generator)


def _share(
    name: str,
    theirs: np.ndarray,
    ours: np.ndarray,
    found: tuple[float | None, float | None, float | None],
    margin: float,
) -> Metric:
    """A share that is to be high; `found` is its difference with the interval."""
    value, low, high = found
    fall = (None, None) if low is None or high is None else (-high, -low)
    return Metric(
        name=name,
        kind="quality",
        unit="fraction",
        base=float(theirs.mean()),
        new=float(ours.mean()),
        measure="difference",
        value=value,
        low=low,
        high=high,
        limit=margin,
        verdict=change(*fall, margin, -margin),
    )


def _mean(
    name: str,
    kind: Literal["quality", "cost"],
    theirs: np.ndarray,
    ours: np.ndarray,
    margin: float,
    generator: np.random.Generator,
) -> Metric:
    """The ratio of two means, lower is better."""
    ones = np.ones(len(theirs))
    value, low, high = paired_ratio((ours, ones), (theirs, ones), generator)
    return Metric(
        name=name,
        kind=kind,
        base=_over(theirs, ones),
        new=_over(ours, ones),
        measure="ratio",
        value=value,
        low=low,
        high=high,
        limit=1 + margin,
        verdict=change(low, high, 1 + margin, 1 - margin),
    )
