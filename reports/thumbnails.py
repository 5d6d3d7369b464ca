"""Small pictures for pages: saved images and their differences as WebP, as good as a budget of bytes allows."""

import base64
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from bench.images import BadImage, read_image
from reports.figures import signed_difference
from reports.sweep import COLOURS, DIFFERENCE_MAXIMUM

_THREADS = 8
_EFFORT = 2
"""Of WebP's encoder, 0 to 6: half the time of its own 4 for a few per cent more bytes."""
_PROBES = 16
"""Groups of samples that are encoded to see how large pictures become."""
_MARGIN = 0.95
"""Share of the budget that the probes' mean may fill: the others are not quite like them."""


@dataclass(frozen=True)
class Encoding:
    """How pictures are written.

    Attributes:
        edge: largest height and width in pixels; nothing is enlarged.
        quality: of WebP, 0 to 100.
        exact: pictures that are not larger are written without loss: lossy WebP halves the resolution of colours.
        share: of the budget that all pictures may take so.
    """

    edge: int
    quality: int
    exact: int = 0
    share: float = 1.0


ENCODINGS = (
    Encoding(256, 90, exact=64, share=1 / 3),
    Encoding(256, 90),
    Encoding(192, 85),
    Encoding(160, 80),
    Encoding(128, 75),
    Encoding(112, 70),
    Encoding(96, 60),
    Encoding(80, 50),
    Encoding(64, 45),
    Encoding(64, 30),
)
"""From the best to the smallest."""


@dataclass(frozen=True)
class Files:
    """Where the images of a sample are saved.

    Attributes:
        counterfactual: None where the search failed.
        reconstruction: None where none was recorded.
    """

    original: Path
    counterfactual: Path | None
    reconstruction: Path | None


@dataclass(frozen=True)
class Thumbnails:
    """A sample's pictures as WebP files; None for what there is not.

    Attributes:
        difference: mean over channels of counterfactual - original in the colours of `colour_bar`.
        problems: which images could not be used, and why.
    """

    original: bytes | None
    reconstruction: bytes | None
    counterfactual: bytes | None
    difference: bytes | None
    problems: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[bytes | None, ...]:
        """Original, reconstruction, counterfactual, difference."""
        return self.original, self.reconstruction, self.counterfactual, self.difference


def colours(difference: np.ndarray) -> np.ndarray:
    """Signed differences in [-1, 1] as colours, blue to red: float (H, W) to uint8 (H, W, 3).

    The scale is fixed: its ends stand for -DIFFERENCE_MAXIMUM and DIFFERENCE_MAXIMUM in every picture.
    """
    scaled = np.clip(difference / DIFFERENCE_MAXIMUM, -1, 1)
    return _colour_table()[np.rint((scaled + 1) * 127.5).astype(np.uint8)]


@cache
def _colour_table() -> np.ndarray:
    """uint8 (256, 3), blue to red."""
    return (colormaps[COLOURS](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)


def webp(pixels: np.ndarray, encoding: Encoding) -> bytes:
    """uint8 (H, W, 3) as a WebP file."""
    exact = max(pixels.shape[:2]) <= encoding.exact
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=exact, quality=encoding.quality, method=_EFFORT)
    return buffer.getvalue()


def data_uri(picture: bytes) -> str:
    """A WebP file as a data: URI."""
    return "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")


def colour_bar(width: int = 256, height: int = 12) -> bytes:
    """The scale of `colours` from its lower to its upper end, left to right, as a WebP file without loss."""
    ramp = np.linspace(-DIFFERENCE_MAXIMUM, DIFFERENCE_MAXIMUM, width, dtype=np.float32)
    return webp(colours(np.tile(ramp, (height, 1))), Encoding(width, 100, exact=width))


def _shrunk(pixels: np.ndarray, edge: int) -> np.ndarray:
    """uint8 (H, W, 3) or float32 (H, W), at most `edge` high and wide, in its own proportions; areas are averaged."""
    image = Image.fromarray(pixels)
    scale = edge / max(image.size)
    if scale >= 1:
        return pixels
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return np.asarray(image.resize(size, Image.Resampling.BOX))


class _Group:
    """Encodes the samples of one original; holds that at full size, and of the others one at a time."""

    def __init__(self, original: Path, encoding: Encoding) -> None:
        self.encoding = encoding
        self.pixels, self.problem = _read(original, "input")
        self.picture = self._picture(self.pixels)
        self._reconstructions: dict[Path, tuple[bytes | None, str]] = {}

    def sample(self, files: Files) -> Thumbnails:
        """All pictures of a sample."""
        reconstruction, unreadable = self._reconstruction(files.reconstruction)
        pixels, damaged = _read(files.counterfactual, "counterfactual")
        difference, unlike = self._difference(pixels)
        problems = tuple(problem for problem in (self.problem, unreadable, damaged, unlike) if problem)
        return Thumbnails(self.picture, reconstruction, self._picture(pixels), difference, problems)

    def _picture(self, pixels: np.ndarray | None) -> bytes | None:
        return None if pixels is None else webp(_shrunk(pixels, self.encoding.edge), self.encoding)

    def _reconstruction(self, path: Path | None) -> tuple[bytes | None, str]:
        """Read once: the reference values of an image share it."""
        if path is None:
            return None, ""
        if path not in self._reconstructions:
            pixels, problem = _read(path, "reconstruction")
            self._reconstructions[path] = self._picture(pixels), problem
        return self._reconstructions[path]

    def _difference(self, counterfactual: np.ndarray | None) -> tuple[bytes | None, str]:
        """Made at full size, then shrunk, then coloured: a colour is the mean difference of its area."""
        if self.pixels is None or counterfactual is None:
            return None, ""
        if self.pixels.shape != counterfactual.shape:
            return None, "input and counterfactual are not of one size, so there is no difference"
        small = _shrunk(signed_difference(self.pixels, counterfactual).astype(np.float32), self.encoding.edge)
        return webp(colours(small), self.encoding), ""


def _read(path: Path | None, name: str) -> tuple[np.ndarray | None, str]:
    """An image as uint8 (H, W, 3), or None and why there is none; no path is no problem."""
    if path is None:
        return None, ""
    try:
        return read_image(path), ""
    except BadImage as error:
        reason = str(error).removeprefix(f"{path}: ").replace(str(path), path.name)
        return None, f"{name} {path.name}: {reason if path.exists() else 'missing'}"


def _groups(samples: Sequence[Files]) -> list[list[int]]:
    """Places of the samples that share an original."""
    found: dict[Path, list[int]] = {}
    for place, files in enumerate(samples):
        found.setdefault(files.original, []).append(place)
    return list(found.values())


def encode(samples: Sequence[Files], encoding: Encoding) -> list[Thumbnails]:
    """Pictures of all samples, in their order; images that are missing or damaged are told in `problems`.

    A thread holds two of them at full size, not more.
    """
    groups = _groups(samples)
    found: dict[int, Thumbnails] = {}
    for places, thumbnails in zip(groups, _encoded(samples, groups, encoding), strict=True):
        found |= zip(places, thumbnails, strict=True)
    return [found[place] for place in range(len(samples))]


def _encoded(samples: Sequence[Files], groups: Iterable[list[int]], encoding: Encoding) -> Iterator[list[Thumbnails]]:
    def work(places: list[int]) -> list[Thumbnails]:
        group = _Group(samples[places[0]].original, encoding)
        return [group.sample(samples[place]) for place in places]

    # Pillow decodes, shrinks and encodes without holding the interpreter's lock.
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        yield from pool.map(work, groups)


def uri_bytes(pictures: Iterable[bytes]) -> int:
    """Bytes that pictures take as data URIs in a page's JSON, quotes and comma included."""
    return sum(4 * -(-len(picture) // 3) + len("data:image/webp;base64,") + 3 for picture in pictures)


def distinct(thumbnails: Iterable[Thumbnails]) -> set[bytes]:
    """The pictures of some samples; one that several samples have stands once."""
    return {picture for one in thumbnails for picture in one.parts if picture is not None}


def choose(samples: Sequence[Files], limit: int) -> tuple[Encoding, int]:
    """The best encoding with which the pictures of all samples fit, by what a few of them take.

    Args:
        limit: bytes, as data URIs.

    Returns:
        The encoding, and for how many samples it is expected to suffice: all, or with the last one fewer.
    """
    groups = _groups(samples)
    probed = [groups[int(place)] for place in np.unique(np.linspace(0, len(groups) - 1, _PROBES).astype(int))]
    few = [samples[place] for places in probed for place in places]
    for encoding in ENCODINGS:
        each = max(1.0, uri_bytes(distinct(encode(few, encoding))) / len(few))
        if each * len(samples) <= _MARGIN * encoding.share * limit:
            return encoding, len(samples)
    return ENCODINGS[-1], min(len(samples), int(limit / each))
