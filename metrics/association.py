"""Which attributes move when the prediction has to move, and in which direction: a search for spurious correlations.

A counterfactual asks the regressor for a larger value (up) or a smaller one (down). An attribute that the regressor
relies on moves one way with the one and the other way with the other. What a generator does to every image (removed
noise, a lost earring) moves both the same way and says nothing about the regressor, so an attribute's association is
half the difference of its mean changes, (up - down) / 2: such a drift cancels, unless it depends on the image.

The unit of all resampling is the image: all counterfactuals of an image (several targets) are drawn together.
Intervals are bootstrapped. Whether an association is there is told by a permutation test, which holds for few images
and for changes that are all alike, where a bootstrap knows no error.
"""

import math
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel
from scipy import stats

from metrics.intervals import LEVEL, RESAMPLES, Estimate, rate_estimate

MIN_IMAGES = 5
"""Distinct images needed in every direction that enters a figure; with fewer there is no interval and no q."""
PERMUTATIONS = 9_999
"""Of a test; the smallest p is 1 / (PERMUTATIONS + 1), and larger where fewer images allow fewer arrangements."""
CHANGED = 0.1
"""Share of its range by which a measured attribute has to differ to count as changed."""
CLEAR = 0.05
"""An attribute whose q is below this is told as associated."""
_CHUNK = 200
_ROUNDING = 1e-9
"""Changes are shares of a range or of counterfactuals; below this they are rounding."""


class DirectionChange(BaseModel):
    """What became of an attribute in the counterfactuals of one direction.

    Attributes:
        change_rate: share in which it changed; `raised_rate` and `lowered_rate` by sign. Wilson intervals where every
            image has one counterfactual in this direction, else bootstrap.
        mean: mean signed change, bootstrap interval; none where all images changed alike.
    """

    change_rate: Estimate
    raised_rate: Estimate
    lowered_rate: Estimate
    mean: Estimate


class Association(BaseModel):
    """One attribute.

    Attributes:
        association: (mean change up - mean change down) / 2; in the one direction alone, with its sign, where the other
            has no counterfactual. Positive: rises with the prediction. No interval where the images of every
            direction all changed alike, or where there are too few.
        q: two-sided p of "the direction makes no difference" (permutation test, see `_permuted`), adjusted for the
            number of attributes (Benjamini and Hochberg 1995); None below `MIN_IMAGES` in a direction that enters.
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
    present = {side: data for side, data in sides.items() if data.rows}
    means = {side: (data.mean(), data.resampled(weights)) for side, data in present.items()}
    fewest = min(data.images for data in present.values())
    value, drawn = _difference(means)
    estimates = _intervals(value, drawn, fewest, changes.unit, int(codes.max()) + 1)
    q = None
    if fewest >= MIN_IMAGES:
        q = stats.false_discovery_control(_p_values(value, _permuted(sides[True], sides[False], generator)))
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

    @property
    def images(self) -> int:
        """Distinct images with a counterfactual in this direction."""
        return int((self.counts > 0).sum())

    @property
    def signed(self) -> np.ndarray:
        """Sums of the signed changes with the counts as one more column, (G, A + 1)."""
        return np.column_stack([self.sums[:, 3 * self.sums.shape[1] // 4 :], self.counts])

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
        estimates = _intervals(means[0][columns], means[1][:, columns], self.images, "fraction", self.images)
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


def _intervals(values: np.ndarray, drawn: np.ndarray, fewest: int, unit: str, images: int) -> list[Estimate]:
    """Estimates with percentile intervals, expanded as for a t-interval (Hesterberg 2015).

    Args:
        values: (A,).
        drawn: the same of every resample (R, A); rows with NaN are left out.
        fewest: images in the direction that has the fewest of them, which sets the expansion.
        images: `n` of the estimates.
    """
    plain = [Estimate(value=float(value), n=images, unit=unit) for value in values]
    if fewest < MIN_IMAGES:
        return plain
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    tail = stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, fewest - 1) * math.sqrt(fewest / (fewest - 1)))
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    # Images that all changed alike tell a bootstrap nothing about its error; an interval of length 0 would be a lie.
    varied = np.ptp(drawn, axis=0) > _ROUNDING
    return [
        each.model_copy(update={"low": float(a), "high": float(b)}) if told else each
        for each, a, b, told in zip(plain, low, high, varied, strict=True)
    ]


def _permuted(up: _Side, down: _Side, generator: np.random.Generator) -> np.ndarray:
    """The association, had the directions been dealt out otherwise, (PERMUTATIONS, A).

    An image with both directions has its two groups of counterfactuals exchanged or not (a sign flip of its
    difference); the directions of the images with one are shuffled among them. Where only one direction is there at
    all, the sign of every image's change is flipped or not. A drift that is the same for every image changes nothing.
    """
    chunks = [min(_CHUNK, PERMUTATIONS - i) for i in range(0, PERMUTATIONS, _CHUNK)]
    if up.rows == 0 or down.rows == 0:
        only = (up.signed if up.rows else down.signed)[:, :-1]
        rows = up.rows + down.rows
        return np.concatenate([(2 * _coins(count, len(only), generator) - 1) @ only / rows for count in chunks])
    both = (up.counts > 0) & (down.counts > 0)
    asked_up = (up.counts > 0).astype(np.float64)
    first = np.where(asked_up[:, None] > 0, up.signed, down.signed)
    second = np.where(both[:, None], down.signed, 0.0)
    found = []
    for count in chunks:
        is_up = np.empty((count, len(both)))  # whether an image's first group counts as up; its second is the opposite
        is_up[:, both] = _coins(count, int(both.sum()), generator)
        is_up[:, ~both] = generator.permuted(np.tile(asked_up[~both], (count, 1)), axis=1)
        above = is_up @ (first - second) + second.sum(0)
        below = (first + second).sum(0) - above
        found.append((above[:, :-1] / above[:, -1:] - below[:, :-1] / below[:, -1:]) / 2)
    return np.concatenate(found)


def _coins(rows: int, columns: int, generator: np.random.Generator) -> np.ndarray:
    """0 or 1 with equal chance, float64 (rows, columns)."""
    return generator.integers(0, 2, size=(rows, columns)).astype(np.float64)


def _p_values(values: np.ndarray, permuted: np.ndarray) -> np.ndarray:
    """Two-sided p (A,): (b + 1) / (m + 1) for b of m permutations at least as far from zero; never zero."""
    as_far = (np.abs(permuted) >= np.abs(values) - _ROUNDING).sum(axis=0)
    return (as_far + 1) / (len(permuted) + 1)
