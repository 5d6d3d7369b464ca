"""Frechet distances (FID and split FID), through clean-fid's own functions."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""Of NVIDIA's file that clean-fid uses. TorchScript can run code, so no other file is loaded."""

Item = TypeVar("Item")
Resize = Literal["clean", "legacy_pytorch", "legacy_tensorflow"]
"""clean-fid's names of resizing to 299x299: "clean" is Pillow's antialiased bicubic; "legacy_pytorch" is
`interpolate(mode="bilinear")` without antialiasing, as in pytorch-fid; "legacy_tensorflow" is TensorFlow 1's bilinear
resize inside the network, as in torch-fidelity and torchmetrics 1.4."""

_BATCH = 32


class FrechetError(ValueError):
    """A distance that cannot be computed; the text names the file."""


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float | None:
    """Frechet distance of two feature sets, (N, D) and (M, D); None below two samples each.

    With fewer samples than features the covariances are singular and the value is biased upwards:
    compare only values of the same N.

    Raises:
        FrechetError: the covariances are so degenerate that clean-fid finds no real square root.
    """
    if len(real) < 2 or len(generated) < 2:
        return None
    from cleanfid.fid import frechet_distance as distance

    real, generated = real.astype(np.float64), generated.astype(np.float64)
    moments = [(x.mean(axis=0), np.cov(x, rowvar=False)) for x in (real, generated)]
    try:
        with warnings.catch_warnings():  # of singular covariances, which few images always have; see above
            warnings.simplefilter("ignore")
            return float(distance(*moments[0], *moments[1]))
    except ValueError as error:
        raise FrechetError(f"clean-fid: {error}") from error


def split_halves(ids: Sequence[str], generator: np.random.Generator, drop_odd: bool) -> tuple[set[str], set[str]]:
    """Two random halves of the distinct ids.

    Args:
        drop_odd: of an odd number, leave one out, as ACE's compute_sFID.sh does; else the second half is larger.
    """
    distinct = sorted(set(ids))
    shuffled = [distinct[index] for index in generator.permutation(len(distinct))]
    half = len(shuffled) // 2
    return set(shuffled[:half]), set(shuffled[-half:] if drop_odd and half else shuffled[half:])


def split_frechet_distance(
    real: np.ndarray,
    real_ids: Sequence[str],
    generated: np.ndarray,
    generated_ids: Sequence[str],
    halves: tuple[set[str], set[str]],
) -> float | None:
    """Split FID of ACE (Jeanneret et al. 2023, section 4.1): no counterfactual is compared with its own original.

    The mean of the Frechet distances (originals of one half, counterfactuals of the other) and vice versa. It is not
    the spatial FID of guided-diffusion, which shares its abbreviation.

    Args:
        real: features of originals, (N, D), named by `real_ids`.
        generated: features of counterfactuals, (M, D); `generated_ids` name their originals.
        halves: of `split_halves`.

    Returns:
        None where one of the four sets has fewer than two images.

    Raises:
        FrechetError: degenerate covariances.
    """
    distances = []
    for here, there in (halves, halves[::-1]):
        originals = real[[name in here for name in real_ids]]
        distances.append(frechet_distance(originals, generated[[name in there for name in generated_ids]]))
    first, second = distances
    return None if first is None or second is None else (first + second) / 2


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


class Inception:
    """Inception-v3's pool features by clean-fid.

    Args:
        folder: holds Inception's TorchScript file.
        sha256: of that file.

    Raises:
        FrechetError: another file; nothing of it was loaded.
    """

    def __init__(self, folder: Path, device: "torch.device", sha256: str = INCEPTION_SHA256) -> None:
        with (folder / INCEPTION_FILE).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise FrechetError(f"{folder / INCEPTION_FILE} is damaged or not the published file (sha256 differs)")
        from cleanfid.inception_torchscript import InceptionV3W

        self.device = device
        self.network = InceptionV3W(str(folder), download=False).to(device).eval()

    def features(self, images: Iterable[np.ndarray], resize: Resize) -> np.ndarray:
        """Features of uint8 (H, W, 3) images: float32 (N, 2048).

        `images` is read in batches, so that it may be a generator over files.
        """
        import torch
        from cleanfid.fid import get_batch_features
        from cleanfid.resize import build_resizer

        # Under "legacy_tensorflow" clean-fid's resizer does nothing and the network resizes.
        self.network.resize_inside = resize == "legacy_tensorflow"
        resizer = build_resizer(resize)
        found = [np.empty((0, 2048), np.float32)]
        for batch in batches(images, _BATCH):
            resized = np.stack([resizer(image).astype(np.float32).transpose(2, 0, 1) for image in batch])
            found.append(get_batch_features(torch.from_numpy(resized), self.network, self.device))
        return np.concatenate(found)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Up to `size` items at a time."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
