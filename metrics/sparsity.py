"""How much of the image changed."""

import numpy as np

from metrics.measured import Measured

CHANGED = 0.05
"""A pixel that changed by more counts as changed: 13 of 255 grey levels, about where an eye sees it."""


def change_l1(m: Measured) -> np.ndarray:
    """Mean absolute difference over pixels and channels, in [0, 1], (N,)."""
    return np.abs(m.counterfactual.astype(np.float64) - m.original).mean((1, 2, 3))


def changed_area(m: Measured) -> np.ndarray:
    """Share of the pixels that changed by more than `CHANGED`, mean over channels; (N,), NaN for a failed sample."""
    changes = np.abs(m.counterfactual.astype(np.float64) - m.original).mean(axis=1)
    return np.where(np.isnan(changes).any(axis=(1, 2)), np.nan, (changes > CHANGED).mean(axis=(1, 2)))
