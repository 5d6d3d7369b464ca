"""The arrays that metrics are computed from."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measured:
    """N samples after a run; predictions are made on the saved, re-read images.

    Attributes:
        original, counterfactual: float32 (N, C, H, W) in [0, 1]; a failed sample's counterfactual is NaN.
        target: reference values, float64 (N,).
        prediction: r(x'), float64 (N,).
        oracle: o(x'), float64 (N,), or None without an oracle.
        mask: bool (N, H, W), True on the square, or None where the data has none.
        tolerance: of the validity rule.
        noise_predictions: r(F(x'; noise)) under K fresh draws of the filter's noise, float64 (N, K), NaN for a failed
            sample; or None where they were not made.
        identity: cosine of the identity features of x and x', float64 (N,), NaN for a failed sample; or None.
        attributes: probabilities of A attributes on x, float64 (N, A), or None; `counterfactual_attributes` on x',
            NaN for a failed sample.
        perceptual: LPIPS distance of x and x', float64 (N,), NaN for a failed sample; or None.
        types: what a classifier of two types says of x, float64 (N,), the second type above 0.5, or None;
            `counterfactual_types` of x', NaN for a failed sample.
    """

    original: np.ndarray
    counterfactual: np.ndarray
    target: np.ndarray
    prediction: np.ndarray
    oracle: np.ndarray | None
    mask: np.ndarray | None
    tolerance: float
    noise_predictions: np.ndarray | None = None
    identity: np.ndarray | None = None
    attributes: np.ndarray | None = None
    counterfactual_attributes: np.ndarray | None = None
    perceptual: np.ndarray | None = None
    types: np.ndarray | None = None
    counterfactual_types: np.ndarray | None = None
