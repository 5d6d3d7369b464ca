"""Finding the night at which a figure changed for good. Pure functions on one line's figures.

The rule, which needs no distribution: of up to five nights before and up to five from a night on, at least three on
each side, all figures of one side lie beyond all of the other, the space between the two sides is wider than the
spread of either, and their medians differ by a thousandth of the larger one or more, as rounding of a figure that
never changes otherwise is no step. A slow drift is no step. Of steady lines whose nights do not depend on each other
fewer than one in a hundred shows a step by chance; where neighbouring nights resemble each other, it is up to one in
ten over a month. With five nights on both sides a change of four standard deviations is found in one case of four, of
six in three of four, of ten nearly always. Two steps within five nights hide each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NIGHTS = 5
"""Nights on each side that are looked at, at most."""
LEAST = 3
"""And at least."""
VISIBLE = 1e-3
"""Share of the larger median by which the two have to differ, at least: one unit of four significant digits."""


@dataclass(frozen=True)
class Step:
    """Attributes:
    index: of the first night after it.
    before, after: medians of the two sides.
    """

    index: int
    before: float
    after: float


def find_steps(values: Sequence[float]) -> list[Step]:
    """Steps in the figures of successive nights.

    Args:
        values: finite, (N,), by time; nights without a figure are left out.

    Returns:
        By time; none where there are fewer than six nights.
    """
    figures = np.asarray(values, dtype=np.float64)
    found = []
    for index in range(LEAST, len(figures) - LEAST + 1):
        before, after = figures[max(0, index - NIGHTS) : index], figures[index : index + NIGHTS]
        space = max(after.min() - before.max(), before.min() - after.max())
        first, second = float(np.median(before)), float(np.median(after))
        visible = abs(second - first) >= VISIBLE * max(abs(first), abs(second))
        if visible and space > max(np.ptp(before), np.ptp(after)):
            found.append(Step(index, first, second))
    return found
