"""Which attributes move when the prediction has to move, and in which direction: a search for spurious correlations.

A counterfactual asks the regressor for a larger value (up) or a smaller one (down). An attribute that the regressor
relies on moves one way with the one and the other way with the other. What a generator does to every image (removed
noise, a lost earring) moves both the same way and says nothing about the regressor, so an attribute's association is
half the difference of its mean changes, (up - down) / 2: such a drift cancels, unless it depends on the image.

The resampling unit is the image: all counterfactuals of an image (several targets) are drawn together.
"""

import math
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel
from scipy import stats

from metrics.intervals import LEVEL, RESAMPLES, Estimate, rate_estimate

MIN_IMAGES = 5
"""A bootstrap of fewer images is not trusted: no interval, no q."""
CHANGED = 0.1
"""Share of its range by which a measured attribute has to differ to count as changed."""
CLEAR = 0.05
"""An attribute whose q is below this is told as associated."""
_CHUNK = 200


class DirectionChange(BaseModel):
    """What became of an attribute in the counterfactuals of one direction.

    Attributes:
        change_rate: share in which it changed; `raised_rate` and `lowered_rate` by sign. Wilson intervals where every
            image has one counterfactual in this direction, else bootstrap.
        mean: mean signed change, bootstrap interval.
    """

    change_rate: Estimate
    raised_rate: Estimate
    lowered_rate: Estimate
    mean: Estimate


class Association(BaseModel):
    """One attribute.

    Attributes:
        association: (mean change up - mean change down) / 2; in the one direction alone, with its sign, where the other
            has no counterfactual. Positive: rises with the prediction.
        q: two-sided p of "no association" (t test with the bootstrap's standard error), adjusted for the number of
            attributes (Benjamini and Hochberg 1995); None where no interval is trusted.
        up, down: by direction of the target; None for a direction without counterfactuals.
    """

    attribute: str
    association: Estimate
    q: float | None
    up: DirectionChange | None
    down: DirectionChange | None


@dataclass(frozen=True)
class Changes:
    """Signed changes of attributes, counterfactual minus original.

    Attributes:
        signed: float64 (N, A); a flip is -1, 0 or 1, a measured value a share of the attribute's range.
        changed: bool (N, A), what the change rate counts.
        unit: of `signed`.
    """

    signed: np.ndarray
    changed: np.ndarray
    unit: str


def flips(before: np.ndarray, after: np.ndarray) -> Changes:
    """Changes of binary attributes given as probabilities (N, A): gained, p > 0.5 only afterwards, 1; lost, -1."""
    signed = (_finite(after) > 0.5).astype(np.float64) - (_finite(before) > 0.5)
    return Changes(signed, signed != 0, "net flips")


def shifts(before: np.ndarray, after: np.ndarray, ranges: np.ndarray) -> Changes:
    """Changes of measured attributes (N, A) as shares of their ranges (A,), which makes one ranking of them fair.

    An attribute counts as changed from `CHANGED` of its range.
    """
    ranges = np.asarray(ranges, dtype=np.float64)
    if not (ranges > 0).all():
        raise ValueError("an attribute's range is not positive")
    signed = (_finite(after) - _finite(before)) / ranges
    return Changes(signed, np.abs(signed) >= CHANGED, "share of range")


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("attributes hold NaN or infinite values")
    return values


def associations(
    names: tuple[str, ...],
    changes: Changes,
    upward: np.ndarray,
    images: np.ndarray,
    generator: np.random.Generator,
) -> list[Association]:
    """Every attribute's change by direction of the target, the strongest association first.

    Args:
        names: of the A attributes.
        upward: bool (N,), True where the target lies above the prediction of the original.
        images: (N,), the image that each row is a counterfactual of.

    Raises:
        ValueError: no rows, or shapes that do not fit.
    """
    rows, attributes = changes.signed.shape
    if rows == 0:
        raise ValueError("no counterfactual to compare")
    if len(names) != attributes or len(upward) != rows or len(images) != rows:
        raise ValueError(f"{len(names)} names, {len(upward)} directions and {len(images)} images for {rows} rows")
    codes = np.unique(np.asarray(images), return_inverse=True)[1]
    upward = np.asarray(upward, dtype=bool)
    sides = {True: _Side.of(changes, codes, upward), False: _Side.of(changes, codes, ~upward)}
    weights = _resamples(int(codes.max()) + 1, generator)
    means = {side: (data.mean(), data.resampled(weights)) for side, data in sides.items() if data.rows}
    value, drawn = _difference(means)
    estimates, p = _interval(value, drawn, int(codes.max()) + 1, changes.unit)
    q = _adjusted(p)
    found = [
        Association(
            attribute=name,
            association=estimates[i],
            q=None if q is None else float(q[i]),
            up=sides[True].describe(i, means.get(True), changes.unit),
            down=sides[False].describe(i, means.get(False), changes.unit),
        )
        for i, name in enumerate(names)
    ]
    return sorted(found, key=lambda each: (-abs(each.association.value), each.attribute))


@dataclass(frozen=True)
class _Side:
    """One direction, summed up by image: K = 4 A columns (changed, raised, lowered, signed change)."""

    sums: np.ndarray  # (G, K)
    counts: np.ndarray  # (G,)

    @classmethod
    def of(cls, changes: Changes, codes: np.ndarray, chosen: np.ndarray) -> "_Side":
        signed, changed = changes.signed, changes.changed
        columns = np.concatenate([changed, changed & (signed > 0), changed & (signed < 0), signed], axis=1, dtype=float)
        groups = int(codes.max()) + 1
        sums = np.zeros((groups, columns.shape[1]))
        np.add.at(sums, codes[chosen], columns[chosen])
        return cls(sums, np.bincount(codes[chosen], minlength=groups).astype(np.float64))

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    def mean(self) -> np.ndarray:
        return self.sums.sum(0) / self.counts.sum()

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """The means of every resample (R, K); NaN where a resample has no image of this direction."""
        chunks = [weights[i : i + _CHUNK] for i in range(0, len(weights), _CHUNK)]
        with np.errstate(invalid="ignore"):
            return np.concatenate([(part @ self.sums) / (part @ self.counts)[:, None] for part in chunks])

    def describe(
        self, attribute: int, means: tuple[np.ndarray, np.ndarray] | None, unit: str
    ) -> DirectionChange | None:
        if means is None:
            return None
        kept = self.counts > 0
        every = self.sums.shape[1] // 4
        columns = [attribute + every * part for part in range(4)]
        estimates, _ = _interval(means[0][columns], means[1][:, columns], int(kept.sum()), "fraction")
        if self.counts.max() == 1:
            rates = [rate_estimate(self.sums[kept, column] > 0) for column in columns[:3]]
        else:
            rates = estimates[:3]
        mean = estimates[3].model_copy(update={"unit": unit})
        return DirectionChange(change_rate=rates[0], raised_rate=rates[1], lowered_rate=rates[2], mean=mean)


def _resamples(groups: int, generator: np.random.Generator) -> np.ndarray:
    """How often each image is drawn in every resample: float64 (RESAMPLES, groups)."""
    return generator.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(np.float64)


def _difference(means: dict[bool, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Half the difference of the signed mean changes, (A,), and the same of every resample (R, A)."""
    every = len(next(iter(means.values()))[0]) // 4
    parts = {side: (value[3 * every :], drawn[:, 3 * every :]) for side, (value, drawn) in means.items()}
    if len(parts) == 2:
        return tuple((up - down) / 2 for up, down in zip(parts[True], parts[False], strict=True))
    ((side, only),) = parts.items()
    return only if side else (-only[0], -only[1])


def _interval(
    values: np.ndarray, drawn: np.ndarray, images: int, unit: str
) -> tuple[list[Estimate], np.ndarray | None]:
    """Estimates with percentile intervals, expanded as for a t-interval (Hesterberg 2015), and p of "zero", (A,)."""
    if images < MIN_IMAGES:
        return [Estimate(value=float(value), n=images, unit=unit) for value in values], None
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    tail = stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, images - 1) * math.sqrt(images / (images - 1)))
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    error = drawn.std(axis=0) * math.sqrt(images / (images - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(values) / error, images - 1)
    p = np.where(values == 0, 1.0, p)
    estimates = [
        Estimate(value=float(value), low=float(a), high=float(b), n=images, unit=unit)
        for value, a, b in zip(values, low, high, strict=True)
    ]
    return estimates, p


def _adjusted(p: np.ndarray | None) -> np.ndarray | None:
    return None if p is None else stats.false_discovery_control(p)
