"""What a counterfactual of a solar cell's photograph changes: where it became brighter or darker, and by how much.

A crack or a dead area emits less light and is dark. So a counterfactual for 0 (sound) should brighten, and one for 1
(defective) darken; these figures say whether it does, and nothing about whether what it draws looks like a defect.
"""

import numpy as np

from bench.elpv import attributes
from metrics.sparsity import CHANGED

BRIGHTNESS = ("brightened_area", "darkened_area", "brightness_change")
DEFECTS = {f"{name.replace(' ', '_')}_change": name for name in attributes.DEFECTS}
"""Figure -> the attribute (bench/elpv/attributes.py) whose change it is."""
CHANGES = (*BRIGHTNESS, *DEFECTS)


def brightness_changes(original: np.ndarray, counterfactual: np.ndarray) -> dict[str, float]:
    """Figures of one pair of images, uint8 (H, W, C) each; their change is the mean over channels.

    Returns:
        "brightened_area", "darkened_area": share of the pixels that became brighter, or darker, by more than
        `metrics.sparsity.CHANGED`; "brightness_change": mean signed change in [-1, 1], positive where x' is brighter.

    Raises:
        ValueError: images of different shapes.
    """
    if original.shape != counterfactual.shape:
        raise ValueError(f"images of shape {original.shape} and {counterfactual.shape} have no difference")
    change = (counterfactual.astype(np.float64) - original).mean(axis=-1) / 255
    return {
        "brightened_area": float((change > CHANGED).mean()),
        "darkened_area": float((change < -CHANGED).mean()),
        "brightness_change": float(change.mean()),
    }


def defects(image: np.ndarray) -> dict[str, float]:
    """What experts look at, as measured from the pixels of one photograph, uint8 (H, W, 1); by key of `DEFECTS`."""
    values = dict(zip(attributes.RANGES, attributes.measure(image[None])[0], strict=True))
    return {key: float(values[name]) for key, name in DEFECTS.items()}
