"""Ground-truth metrics of the Square dataset (Ha and Bender 2025, section 4.1 and Table 1)."""

import numpy as np

from metrics.measured import Measured


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of (N, H, W) over each sample's mask, float64 (N,)."""
    return (values.astype(np.float64) * mask).sum((1, 2)) / mask.sum((1, 2))


def square_red(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean red inside the 8x8 square: (N, 3, H, W) and (N, H, W) to (N,)."""
    return _masked_mean(images[:, 0], mask)


def background_level(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean of all channels outside the square, the grey frame included as published: (N,)."""
    return _masked_mean(images.astype(np.float64).mean(axis=1), ~mask)


def square_error(m: Measured) -> np.ndarray | None:
    """Square MAE per sample: |mean red of the square - target|, (N,)."""
    return None if m.mask is None else np.abs(square_red(m.counterfactual, m.mask) - m.target)


def background_error(m: Measured) -> np.ndarray | None:
    """Background MAE per sample: |background level of x' - that of x|, (N,)."""
    if m.mask is None:
        return None
    return np.abs(background_level(m.counterfactual, m.mask) - background_level(m.original, m.mask))
