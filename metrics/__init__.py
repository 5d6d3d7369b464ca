"""What a counterfactual is worth: pure functions on arrays. A metric is one function and one line here."""

SAMPLE_METRICS: dict[str, str] = {
    "prediction_error": "metrics.validity:prediction_error",
    "valid": "metrics.validity:valid",
    "oracle_target_mae": "metrics.validity:oracle_target_error",
    "oracle_regressor_mae": "metrics.validity:oracle_regressor_error",
    "square_mae": "metrics.square:square_error",
    "background_mae": "metrics.square:background_error",
    "change_l1": "metrics.sparsity:change_l1",
    "changed_area": "metrics.sparsity:changed_area",
    "noise_success": "metrics.validity:noise_success",
    "noise_prediction": "metrics.validity:noise_prediction",
    "fs": "metrics.faces:face_similarity",
    "fva": "metrics.faces:face_verification",
    "mnac": "metrics.faces:attribute_changes",
    "lpips": "metrics.perceptual:perceptual_distance",
    "type_preserved": "metrics.cell_type:type_preserved",
}
"""Metric name -> "module:function" of Measured -> float64 (N,), NaN where a sample has no counterfactual."""
