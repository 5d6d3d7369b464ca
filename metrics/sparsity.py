"""How much of the image changed."""

import numpy as np

from metrics.measured import Measured


def change_l1(m: Measured) -> np.ndarray:
    """Mean absolute difference over pixels and channels, in [0, 1], (N,)."""
    return np.abs(m.counterfactual.astype(np.float64) - m.original).mean((1, 2, 3))
