"""The figures of counterfactuals on ELPV, from tables of samples: by direction, by cell type, and against the floor."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from bench.datasets.base import spread
from bench.datasets.elpv_files import manifest
from bench.elpv.changes import DEFECTS
from bench.elpv.records import ORACLE
from bench.target_class import SAME_VALUE
from methods import noise
from metrics.intervals import LEVEL, Estimate, mean_estimate, rate_estimate, ratio_estimate
from metrics.paired import paired_difference

Figures = dict[str, Estimate]

MEANS: dict[str, tuple[str, str]] = {
    "noise_success_rate": ("noise_success", "fraction"),
    "prediction_mae": ("prediction_error", "1"),
    "oracle_target_mae": ("oracle_target_mae", "1"),
    "oracle_regressor_mae": ("oracle_regressor_mae", "1"),
    "change_l1": ("change_l1", "1"),
    "changed_area": ("changed_area", "fraction"),
    "lpips": ("lpips", "1"),
    "brightened_area": ("brightened_area", "fraction"),
    "darkened_area": ("darkened_area", "fraction"),
    "brightness_change": ("brightness_change", "1"),
    **{key: (key, "fraction") for key in DEFECTS},
    "steps": ("steps", "steps"),
    "forward": ("forward", "network evaluations"),
    "backward": ("backward", "network evaluations"),
    "seconds_per_image": ("seconds", "s"),
}
"""Figure -> column of the table of samples whose mean it is, and unit; left out where the table lacks the column."""


TRIALS = 24
"""Test images that a run of `--limit 24` explains: first trials of training and settings were made on these."""


@cache
def tried() -> frozenset[str]:
    """Names of the `TRIALS` images."""
    rows = manifest()
    names = rows["file"][rows["split"] == "test"].tolist()
    return frozenset(names[index] for index in spread(names, TRIALS))


def groups(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A table of samples as a whole, by reference value ("to 0", "to 1"), by cell type ("mono", "poly") and by both.

    Where some of its images were used in trials, "untried" are the others.

    Args:
        frame: by id, of one reference value an image.
    """
    by_target = {f"to {target:.3g}": part for target, part in frame.groupby("target")}
    by_type = {str(kind): part for kind, part in frame.groupby("type")}
    by_both = {f"{kind} to {target:.3g}": part for (kind, target), part in frame.groupby(["type", "target"])}
    untried = frame[~frame.index.isin(tried())]
    by_trial = {"untried": untried} if 0 < len(untried) < len(frame) else {}
    return {"all": frame} | by_target | by_type | by_both | by_trial


def figures(frame: pd.DataFrame, method: str, group: str) -> Figures:
    """Figures of some samples with 95 % intervals over them. A failed one counts as no success, with what it
    cost, and in no mean of an image's figures.

    `oracle_share`: how much of the oracle's distance to the reference value is gone, 1 - sum |o(x') - target| /
    sum |o(x) - target|. A ratio of sums, as that of a single image means nothing where o(x) is at the target already;
    0 is an oracle that saw nothing, below 0 one that moved away.

    Args:
        frame: of `bench.elpv.records.table_of`.
        method, group: of the samples, for the resamples.
    """

    def generator(key: str) -> np.random.Generator:
        return noise.numpy_generator("bootstrap", "elpv", method, group, key)

    made = frame[frame["failure"].isna()]
    before = (made[ORACLE] - made["target"]).abs().to_numpy(np.float64)
    after = made["oracle_target_mae"].to_numpy(np.float64)
    found = {
        "success_rate": rate_estimate(frame["valid"].to_numpy() > 0),
        "failure_rate": rate_estimate(frame["failure"].notna().to_numpy()),
    }
    for key, (column, unit) in MEANS.items():
        if column in frame:
            found[key] = mean_estimate(frame[column].to_numpy(np.float64), generator(key), unit)
    if "type_preserved" in frame:
        found["type_preserved"] = rate_estimate(frame["type_preserved"].dropna().to_numpy() > 0)
    # Of the group's own resamples: methods without failures have the same originals, and show the same interval.
    same = noise.numpy_generator("bootstrap", "elpv", "before", group)
    found["oracle_target_mae_before"] = mean_estimate(before, same)
    if len(made):
        found["oracle_share"] = ratio_estimate(before - after, before, generator("oracle_share"), "fraction")
    valid, seconds = (frame[column].to_numpy(np.float64) for column in ("valid", "seconds"))
    if valid.any():
        found["seconds_per_valid"] = ratio_estimate(seconds, valid, generator("seconds_per_valid"), "s")
    return found


def on_originals(frame: pd.DataFrame, group: str) -> Figures:
    """Errors on the photographs themselves: how good both networks are there, and how far both are from the target.

    Args:
        frame: as for `figures`.
    """
    generator = noise.numpy_generator("bootstrap", "elpv", "originals", group)
    columns = {
        "regressor_mae": frame["start"] - frame["probability"],
        "oracle_mae": frame[ORACLE] - frame["probability"],
        "regressor_target_mae": frame["start"] - frame["target"],
        "oracle_target_mae": frame[ORACLE] - frame["target"],
    }
    return {key: mean_estimate(values.abs().to_numpy(np.float64), generator) for key, values in columns.items()}


def real_images(frame: pd.DataFrame, tolerance: float) -> dict[str, Figures]:
    """What both networks say of real photographs whose true value is a reference value: what there is to be reached.

    Args:
        frame: as for `figures`; only its photographs count, not what became of them.
        tolerance: of success.
    """
    found = {}
    for target in np.unique(frame["target"]):
        own = frame[(frame["probability"] - target).abs() < SAME_VALUE]
        label = f"to {target:.3g}"
        generator = noise.numpy_generator("bootstrap", "elpv", "real", label)
        predicted = (own["start"] - target).abs().to_numpy(np.float64)
        found[label] = {
            "success_rate": rate_estimate(predicted <= tolerance),
            "prediction_mae": mean_estimate(predicted, generator),
            "oracle_target_mae": mean_estimate((own[ORACLE] - target).abs().to_numpy(np.float64), generator),
        }
    return found


def against_floor(frame: pd.DataFrame, floor: pd.DataFrame, method: str, group: str) -> dict[str, Estimate]:
    """|o(x') - target| of a method minus that of the floor on the same photographs: below 0 the method is better.

    "difference": over all photographs for which both have a counterfactual; "difference_both_valid": over those for
    which both are valid, so that neither gains by going only half the way.

    Args:
        frame, floor: of `bench.elpv.records.table_of`, of the same photographs in the same order.
    """
    ours, theirs = frame["oracle_target_mae"], floor["oracle_target_mae"]
    both = ours.notna() & theirs.notna()
    valid = both & (frame["valid"] > 0) & (floor["valid"] > 0)
    found = {}
    for key, kept in (("difference", both), ("difference_both_valid", valid)):
        generator = noise.numpy_generator("bootstrap", "elpv", "floor", method, group, key)
        value, low, high = paired_difference(
            ours[kept].to_numpy(np.float64), theirs[kept].to_numpy(np.float64), generator, LEVEL
        )
        found[key] = Estimate(value=value, low=low, high=high, n=int(kept.sum()))
    return found


def granular(frame: pd.DataFrame, method: str) -> dict[str, Figures]:
    """Figures by reference value of images that were explained for several: each counts once in every value's.

    `prediction`, `oracle`: means of r(x') and o(x').
    """
    found = {}
    for target, part in frame.groupby("target"):
        label = f"to {target:.3g}"
        generator = noise.numpy_generator("bootstrap", "elpv", method, label)
        means = {
            "prediction": "prediction",
            "oracle": "oracle",
            "prediction_mae": "prediction_error",
            "oracle_target_mae": "oracle_target_mae",
            "change_l1": "change_l1",
        }
        made = part[part["failure"].isna()]
        found[label] = {"success_rate": rate_estimate(part["valid"].to_numpy() > 0)} | {
            key: mean_estimate(made[column].to_numpy(np.float64), generator) for key, column in means.items()
        }
    return found


def rounded(found: Figures) -> dict[str, dict[str, Any]]:
    """Estimates as plain JSON, five decimals."""
    return {
        key: {name: round(part, 5) if isinstance(part, float) else part for name, part in estimate}
        for key, estimate in found.items()
    }
