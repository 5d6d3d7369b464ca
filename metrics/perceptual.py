"""LPIPS (Zhang et al. 2018) with AlexNet, through torchmetrics' network; nothing is downloaded."""

import hashlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metrics.measured import Measured

if TYPE_CHECKING:
    from torch import nn

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
ALEXNET_SHA256 = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
"""Of torchvision's AlexNet weights (IMAGENET1K_V1)."""
LPIPS_MIN_SIZE = 31
"""Pixels below which AlexNet's pooling has nothing left."""


class PerceptualError(ValueError):
    """LPIPS cannot be computed; the text names the file or package and what to do."""


def perceptual_distance(m: Measured) -> np.ndarray | None:
    """LPIPS per sample between x and x', (N,), 0 for equal images; NaN for a failed one."""
    return m.perceptual


def alexnet_file(configured: str = "") -> Path:
    """torchvision's AlexNet weights: the configured file or its folder, else in torch.hub's cache.

    Raises:
        PerceptualError: not there.
    """
    import torch

    place = Path(configured or Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE)
    file = place / ALEXNET_FILE if place.is_dir() else place
    if not file.is_file():
        raise PerceptualError(
            f"{file} not found; put torchvision's {ALEXNET_FILE} there or set metrics.lpips_weights to it"
        )
    return file


def load_lpips(file: Path, sha256: str = ALEXNET_SHA256) -> "nn.Module":
    """LPIPS v0.1 as a frozen module: (a, b, normalize=True) of (B, 3, H, W) in [0, 1] to (B, 1, 1, 1).

    The linear heads are those that torchmetrics ships.

    Args:
        file: torchvision's AlexNet state dict; only `features.*` is used.
        sha256: of that file.

    Raises:
        PerceptualError: another file, or no torchmetrics of a version that has the network.
    """
    import torch

    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != sha256:
            raise PerceptualError(f"{file} is damaged or not torchvision's {ALEXNET_FILE} (sha256 differs)")
    try:
        # The public class of torchmetrics would download the backbone; its network takes one that is at hand.
        from torchmetrics.functional.image.lpips import _LPIPS
    except ImportError as error:
        raise PerceptualError(f"LPIPS needs torchmetrics ({error}); pip install 'torchmetrics>=1.4,<2'") from error
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise PerceptualError(f"{file} is not a torch file of plain tensors") from error
    with torch.random.fork_rng(devices=[]):  # the backbone's initial weights are thrown away
        network = _LPIPS(net="alex", pnet_rand=True).eval().requires_grad_(False)
    # AlexNet's layers keep their numbers, in five slices between the layers that LPIPS compares.
    for name, parameter in network.net.named_parameters():
        parameter.copy_(state["features." + name.partition(".")[2]])
    return network
