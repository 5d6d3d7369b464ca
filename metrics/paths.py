"""Sequences of counterfactuals of one image for rising reference values: do they rise, and how smoothly?

A failed counterfactual is NaN. Neighbours are neighbouring reference values: a pair or triple with a failed one
is left out, so that no gap is taken for a large step. NaN is returned where nothing is left.
"""

import numpy as np


def monotonic_rate(values: np.ndarray) -> float:
    """Share of neighbouring pairs that rise strictly.

    Args:
        values: (K,), in the order of the reference values.
    """
    rises = np.diff(np.asarray(values, dtype=np.float64))
    rises = rises[np.isfinite(rises)]
    return float((rises > 0).mean()) if len(rises) else float("nan")


def step_l1(images: np.ndarray) -> float:
    """Mean absolute difference of neighbouring images.

    Args:
        images: (K, ...) in [0, 1], in the order of the reference values.
    """
    return _mean_kept(np.abs(np.diff(images.astype(np.float64), axis=0)))


def roughness_l1(images: np.ndarray) -> float:
    """Mean absolute second difference, |x_{i+1} - 2 x_i + x_{i-1}|; 0 for a straight line in equal steps.

    It tells sequences apart that are made for the same reference values, which should be equally spaced.

    Args:
        images: (K, ...) in [0, 1], in the order of the reference values.
    """
    return _mean_kept(np.abs(np.diff(images.astype(np.float64), n=2, axis=0)))


def _mean_kept(differences: np.ndarray) -> float:
    """Mean over the finite ones of (N, ...), NaN without any."""
    if len(differences) == 0:
        return float("nan")
    means = differences.reshape(len(differences), -1).mean(1)
    kept = means[np.isfinite(means)]
    return float(kept.mean()) if len(kept) else float("nan")
