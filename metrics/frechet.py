"""Frechet distances, through clean-fid's own functions."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""Of NVIDIA's file that clean-fid uses. TorchScript can run code, so no other file is loaded."""


class FrechetError(ValueError):
    """A distance that cannot be computed; the text names the file."""


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


def clean_fid(real_folder: Path, generated_folder: Path, weights: Path, device: "torch.device") -> float:
    """FID of two folders of images in clean-fid's "clean" mode.

    Args:
        weights: folder that holds Inception's TorchScript file.

    Raises:
        FrechetError: the weights are not the published file, or the statistics are degenerate.
    """
    with (weights / INCEPTION_FILE).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != INCEPTION_SHA256:
            raise FrechetError(f"{weights / INCEPTION_FILE} is damaged or not the published file (sha256 differs)")
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    model = InceptionV3W(str(weights), download=False, resize_inside=False).to(device).eval()
    features = [
        fid.get_folder_features(str(folder), model, num_workers=0, device=device, mode="clean", verbose=False)
        for folder in (real_folder, generated_folder)
    ]
    try:
        return float(fid.fid_from_feats(*features))
    except ValueError as error:
        raise FrechetError(f"clean-fid: {error}") from error
