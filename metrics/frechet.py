"""Frechet distances, through clean-fid's own functions."""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

INCEPTION_FILE = "inception-2015-12-05.pt"


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float | None:
    """Frechet distance of two feature sets, (N, D) and (M, D); None below two samples each.

    With fewer samples than features the covariances are singular and the value is biased upwards:
    compare only values of the same N.
    """
    if len(real) < 2 or len(generated) < 2:
        return None
    from cleanfid.fid import frechet_distance as distance

    real, generated = real.astype(np.float64), generated.astype(np.float64)
    moments = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (real, generated)]
    return float(distance(*moments[0], *moments[1]))


def inception_folder(configured: str | None) -> tuple[Path | None, str]:
    """Where clean-fid's Inception weights are, or None and the reason.

    Looked for at `configured` (the file or its folder), then where clean-fid itself caches them.
    """
    places = (
        [Path(configured)] if configured else [Path(tempfile.gettempdir()), Path(os.environ.get("CLEANFID_CACHE", "."))]
    )
    for place in places:
        folder = place.parent if place.name == INCEPTION_FILE else place
        if (folder / INCEPTION_FILE).is_file():
            return folder, ""
    return None, f"{INCEPTION_FILE} not found; put it somewhere and set metrics.inception_weights"


def clean_fid(real_folder: Path, generated_folder: Path, weights: Path, device: torch.device) -> float:
    """FID of two folders of images in clean-fid's "clean" mode.

    Args:
        weights: folder that holds Inception's TorchScript file.
    """
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    model = InceptionV3W(str(weights), download=False, resize_inside=False).to(device).eval()
    features = [
        fid.get_folder_features(str(folder), model, num_workers=0, device=device, mode="clean", verbose=False)
        for folder in (real_folder, generated_folder)
    ]
    return float(fid.fid_from_feats(*features))
