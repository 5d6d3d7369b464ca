"""Do counterfactuals look like real images of their target? A Frechet distance on the oracle's features, per target.

`realism/oracle_feature_distance` compares with the originals, which are images of another class: a counterfactual that
changes nothing has the best one. Here the real images are those whose true value is the reference value, and the same
figure of the unchanged originals stands beside it: counterfactuals that moved towards their target have a smaller one.
"""

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench.datasets.base import HeldOut, Task
from bench.evaluators import Figures, definition
from bench.images import to_float
from bench.realism import NO_FEATURES, OracleFeatures, Subject
from metrics.frechet import FrechetError, frechet_distance
from metrics.intervals import Estimate

DISTANCE, ORIGINALS = "realism/target_class_distance", "realism/target_class_distance_originals"
SAME_VALUE = 1e-3
"""True values within this of a reference value are that value."""


@dataclass(frozen=True)
class Group:
    """Counterfactuals for one reference value, and the real images of that true value.

    Attributes:
        rows: places among the samples that have a counterfactual.
        real: places among the held-out images; none that is explained is among them.
    """

    target: float
    rows: np.ndarray
    real: np.ndarray

    @property
    def measurable(self) -> bool:
        """A covariance needs two images on both sides."""
        return len(self.rows) >= 2 and len(self.real) >= 2

    def describe(self) -> str:
        """For people: "0.333: 12 explained, 40 real images"."""
        return f"{self.target:.3g}: {len(self.rows)} explained, {len(self.real)} real images"


def held_out_digest(held_out: HeldOut) -> str:
    """sha256 of names, images and true values."""
    digest = hashlib.sha256("\n".join(held_out.ids).encode())
    digest.update(np.ascontiguousarray(held_out.images).tobytes())
    digest.update(held_out.values.astype("<f4").tobytes())
    return digest.hexdigest()


def group_by_target(targets: np.ndarray, kept: np.ndarray, sources: Sequence[str], held_out: HeldOut) -> list[Group]:
    """The groups of every reference value, in rising order, those that cannot be measured too.

    Args:
        targets: reference values of all samples, (N,).
        kept: samples with a counterfactual, bool (N,).
        sources: name of every sample's original, N of them.
    """
    groups, kept_targets = [], targets[kept]
    # Whatever its value, and whether the search found one or not: which images are explained for a value follows from
    # the regressor, and leaving out those alone would keep the real images that it has an easy time with.
    explained = set(sources)
    free = np.array([name not in explained for name in held_out.ids], dtype=bool)
    for target in np.unique(targets):
        near = np.abs(held_out.values.astype(np.float64) - float(target)) < SAME_VALUE
        groups.append(Group(float(target), np.flatnonzero(kept_targets == target), np.flatnonzero(near & free)))
    return groups


def target_class_realism(
    subject: Subject, task: Task, features: OracleFeatures | None, oracle_sha256: str | None
) -> Figures:
    """The mean distance over reference values, weighted by counterfactuals; nothing without held-out images.

    There is no interval: a resample has fewer distinct images, which biases a Frechet distance upwards, and each would
    need a matrix root.

    Args:
        features: of the subject's pairs; None where the oracle has none to give.
        oracle_sha256: of the weights that make them.
    """
    if task.held_out is None:
        return Figures()
    if features is None:
        return _empty(NO_FEATURES)
    groups = group_by_target(task.targets, subject.kept, subject.sources, task.held_out)
    usable = [group for group in groups if group.measurable]
    counts = "; ".join(group.describe() for group in groups)
    if not usable:
        return _empty(f"no reference value has two counterfactuals and two real images of it ({counts})")
    held_out = task.held_out
    real = {group.target: features.of(to_float(held_out.images[group.real])) for group in usable}
    count = sum(len(group.rows) for group in usable)
    found = Figures()
    sides = ((DISTANCE, features.after, "counterfactuals"), (ORIGINALS, features.before, "unchanged originals"))
    for key, seen, what in sides:
        try:
            value = _weighted(usable, real, seen)
        except FrechetError as error:
            found.summary[key], found.notes[key] = Estimate(value=None, n=count), str(error)
            continue
        found.summary[key] = Estimate(value=value, n=count)
        found.notes[key] = (
            f"{what} against held-out real images of the target's true value ({counts}); biased upwards for few images"
        )
        found.definitions[key] = _definition(usable, held_out, oracle_sha256, what)
    return found


def _weighted(groups: Sequence[Group], real: dict[float, np.ndarray], images: np.ndarray) -> float:
    """Mean distance of the groups' images, (M, D), to their real ones, weighted by the former's number."""
    distances = [frechet_distance(real[group.target], images[group.rows]) for group in groups]
    return float(np.average(np.array(distances, dtype=np.float64), weights=[len(group.rows) for group in groups]))


def _empty(reason: str) -> Figures:
    keys = (DISTANCE, ORIGINALS)
    return Figures({key: Estimate(value=None) for key in keys}, dict.fromkeys(keys, reason))


def _definition(groups: Sequence[Group], held_out: HeldOut, oracle_sha256: str | None, what: str) -> dict[str, object]:
    names = {f"{group.target:.6g}": [held_out.ids[place] for place in group.real] for group in groups}
    return definition(
        network="oracle",
        weights=oracle_sha256,
        torch=torch.__version__,
        images=f"{what}, PNG",
        held_out=held_out_digest(held_out),
        real=hashlib.sha256(repr(sorted(names.items())).encode()).hexdigest(),
        **{"clean-fid": importlib.metadata.version("clean-fid")},
    )
