"""Metrics of face counterfactuals: identity and attributes.

Definitions of the public code of ACE (Jeanneret et al. 2023) and of the paper (Ha and Bender 2025), which takes them
from there; docs/metrics.md names what its code does differently.
"""

import numpy as np

from metrics.measured import Measured

FVA_THRESHOLD = 0.5


def face_similarity(m: Measured) -> np.ndarray | None:
    """FS per sample: the cosine of the identity features of x and x', (N,) in [-1, 1]."""
    return m.identity


def face_verification(m: Measured) -> np.ndarray | None:
    """FVA per sample: 1 where that cosine is above 0.5, else 0; NaN for a failed sample. (N,)."""
    if m.identity is None:
        return None
    return np.where(np.isnan(m.identity), np.nan, (m.identity > FVA_THRESHOLD).astype(np.float64))


def attribute_changes(m: Measured) -> np.ndarray | None:
    """MNAC per sample: how many attributes cross a probability of 0.5 between x and x', (N,); NaN for a failed one."""
    if m.attributes is None or m.counterfactual_attributes is None:
        return None
    changed = ((m.attributes > 0.5) != (m.counterfactual_attributes > 0.5)).sum(axis=1)
    return np.where(np.isnan(m.counterfactual_attributes).any(axis=1), np.nan, changed.astype(np.float64))


def attribute_correlations(values: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Pearson's correlation of every column of (N, A) with `query`, (N,): (A,), 0 where one of them is constant."""
    values, query = np.asarray(values, dtype=np.float64), np.asarray(query, dtype=np.float64)
    if len(values) < 2:
        return np.zeros(values.shape[1])
    values, query = values - values.mean(axis=0), query - query.mean()
    norms = np.sqrt((values**2).sum(axis=0) * (query**2).sum())
    return np.divide(query @ values, norms, out=np.zeros(values.shape[1]), where=norms > 1e-12)


def correlation_difference(
    before: np.ndarray, after: np.ndarray, query: int, data: np.ndarray, published: bool = False
) -> float | None:
    """CD: do the counterfactuals move attributes together more or less than the data pair them?

    The sum over attributes of |corr(change of the attribute, change of the query attribute) - corr(attribute, query)
    in the data|; a change is -1, 0 or 1 (a probability crossing 0.5). Of A attributes it lies in [0, 2 A], lower is
    better.

    Args:
        before, after: attribute probabilities on x and x', (N, A), of the counterfactuals that count.
        query: index of the attribute that the counterfactuals are to change.
        data: `attribute_correlations` of the data's labels, (A,).
        published: where the query attribute changed on no image (or the same way on all), its correlations do not
            exist. True takes them for 0, as ACE's compute_CD.py does, which says nothing of the counterfactuals.

    Returns:
        None where the correlations do not exist, unless `published`.
    """
    change = (np.asarray(after) > 0.5).astype(np.float64) - (np.asarray(before) > 0.5)
    if not published and (len(change) < 2 or np.ptp(change[:, query]) == 0):
        return None
    return float(np.abs(attribute_correlations(change, change[:, query]) - data).sum())
