"""Whether a counterfactual is still of the original's type: what an explanation of a defect must not change."""

import numpy as np

from metrics.measured import Measured

BOUNDARY = 0.5
"""Of a classifier of two types; a value above it is the second one."""


def type_preserved(m: Measured) -> np.ndarray | None:
    """1 where the classifier gives x' the type that it gives x, else 0; NaN for a failed sample. (N,).

    The type is the classifier's of the original, not the label's: a cell that it mistakes is no change.
    """
    if m.types is None or m.counterfactual_types is None:
        return None
    same = (m.types > BOUNDARY) == (m.counterfactual_types > BOUNDARY)
    return np.where(np.isnan(m.counterfactual_types), np.nan, same.astype(np.float64))
