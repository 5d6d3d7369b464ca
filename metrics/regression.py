"""How good a regressor of a probability is: error, rank correlation, and telling the two ends apart."""

import numpy as np
from scipy import stats


def mean_absolute_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean |predicted - true| over (N,) each, in the attribute's unit."""
    return float(np.abs(np.asarray(predicted, np.float64) - np.asarray(true, np.float64)).mean())


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Spearman's rank correlation over (N,) each, ties sharing their mean rank; NaN where one side is constant."""
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return float("nan")
    return float(stats.spearmanr(predicted, true).statistic)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: chance that a positive has a higher score than a negative, ties counted half.

    Args:
        scores: float (N,).
        positive: bool (N,).

    Raises:
        ValueError: only one of the two classes is there.
    """
    positive = np.asarray(positive, bool)
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        raise ValueError("AUC needs positives and negatives")
    ranks = stats.rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))
