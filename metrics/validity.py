"""Validity of counterfactuals for a regressor, judged on the saved image."""

import numpy as np

from metrics.measured import Measured


def prediction_error(m: Measured) -> np.ndarray:
    """|r(x') - target|, (N,)."""
    return np.abs(m.prediction - m.target)


def valid(m: Measured) -> np.ndarray:
    """1 where |r(x') - target| <= tolerance, else 0; a failed sample is 0, never missing. (N,)."""
    return (np.nan_to_num(prediction_error(m), nan=np.inf) <= m.tolerance).astype(np.float64)


def oracle_target_error(m: Measured) -> np.ndarray | None:
    """|o(x') - target|, (N,): does an independent regressor agree that the target was met?"""
    return None if m.oracle is None else np.abs(m.oracle - m.target)


def oracle_regressor_error(m: Measured) -> np.ndarray | None:
    """|o(x') - r(x')|, (N,): do the two regressors agree on the counterfactual?"""
    return None if m.oracle is None else np.abs(m.oracle - m.prediction)


def noise_success(m: Measured) -> np.ndarray | None:
    """Success under fresh noise: the share of draws with |r(F(x'; noise)) - target| <= tolerance.

    (N,) in [0, 1]; a failed sample is 0, never missing. None where no draws were made.
    """
    if m.noise_predictions is None:
        return None
    error = np.abs(m.noise_predictions - m.target[:, None])
    return (np.nan_to_num(error, nan=np.inf) <= m.tolerance).mean(axis=1)


def noise_prediction(m: Measured) -> np.ndarray | None:
    """Mean of r(F(x'; noise)) over the draws, (N,); None where no draws were made."""
    return None if m.noise_predictions is None else m.noise_predictions.mean(axis=1)
