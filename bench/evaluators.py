"""Networks that measure saved images: identity, attributes, type and LPIPS, in the published way or a corrected one.

Which network made an array and how the images reached it is a metric's definition; `definition` turns it into a
fingerprint, by which two figures are known to mean the same.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import PIL
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from bench.checkpoints import Loaded
from bench.errors import UsageError
from bench.fit import Shape, shape_misfit
from bench.images import as_rgb, to_float
from bench.sections import MetricsConfig
from metrics.intervals import Estimate
from metrics.perceptual import ALEXNET_SHA256, LPIPS_MIN_SIZE, PerceptualError, alexnet_file, load_lpips

Mode = Literal["paper", "corrected"]
Pairs = Iterable[tuple[np.ndarray, np.ndarray | None]]
"""Original and saved counterfactual of every sample, uint8 (H, W, C) each; None for a failed sample."""

NO_IDENTITY = (
    "no face recognition network; give VGGFace2's ResNet-50 with -s weights.identity=FILE (docs/weights.md), "
    "then `python -m bench judge`"
)
NO_ATTRIBUTES = (
    "no attribute network; give the attribute oracle with -s weights.attributes=FILE (docs/weights.md), "
    "then `python -m bench judge`"
)

NO_TYPE = (
    "no classifier of the cell type; give one with -s weights.type=FILE (docs/metrics.md), then `python -m bench judge`"
)

MEASURING = ("identity", "attributes", "type")
"""Roles whose networks only measure."""
TYPE_KEY = "type/preserved"
REASONS = {
    "identity": NO_IDENTITY,
    "attributes": NO_ATTRIBUTES,
    "type": NO_TYPE,
    "perceptual": "LPIPS was not asked for",
}


def definition(**facts: Any) -> dict[str, Any]:
    """What defines a metric's value, with a hash of it: equal fingerprints, comparable figures."""
    text = json.dumps(facts, sort_keys=True)
    return facts | {"fingerprint": hashlib.sha256(text.encode()).hexdigest()[:16]}


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def label_digest(labels: pd.DataFrame) -> str:
    """sha256 of a data set's attribute labels (`Task.attributes`), which CD compares with."""
    return hashlib.sha256(labels.to_csv().encode()).hexdigest()


def as_jpeg(pixels: np.ndarray) -> np.ndarray:
    """A uint8 (H, W, C) image as it is, in RGB, after Pillow saved it as JPEG with its defaults (quality 75, 4:2:0)."""
    buffer = io.BytesIO()
    Image.fromarray(as_rgb(pixels)).save(buffer, format="JPEG")
    with Image.open(buffer, formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))


def image_format(mode: Mode, faces: bool) -> str:
    """The format in which a counterfactual is measured: what the published code saved, or the PNG that was written.

    The published code saves under the source's name, which ends in .jpg for CelebA-HQ; nothing but its faces was
    ever published as JPEG.

    Args:
        faces: the images may show faces (`bench.faces.may_show_faces`).
    """
    return f"JPEG (Pillow {PIL.__version__} defaults)" if mode == "paper" and faces else "PNG"


@dataclass(frozen=True)
class Figures:
    """Figures by record key, why one is empty or what it rests on, and what defines those that have a value."""

    summary: dict[str, Estimate] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What the networks say of N samples; None where there is no network, NaN for a failed sample.

    Attributes:
        identity: cosine of the identity features of x and x', float64 (N,).
        before, after: attribute probabilities of x and x', float64 (N, A), for counting changes (MNAC).
        correlated: the same for correlations (CD), which the published code normalises once.
        perceptual: LPIPS, float64 (N,).
        types: the type classifier's values of x and of x', float64 (N,) each.
    """

    identity: np.ndarray | None = None
    before: np.ndarray | None = None
    after: np.ndarray | None = None
    correlated: tuple[np.ndarray, np.ndarray] | None = None
    perceptual: np.ndarray | None = None
    types: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Evaluators:
    """The networks that are at hand, frozen, in float32 on the CPU.

    Attributes:
        identity: images (B, 3, H, W) in [0, 1] to features (B, D).
        attributes: images, `normalisations` to logits (B, A), in CelebA's order.
        perceptual: LPIPS.
        sha256: of every network's weights, by "identity", "attributes", "type", "perceptual".
        reasons: why there is none, by the same names.
        type: images as they are, (B, C, H, W) in [0, 1], to (B,); the second of two types above 0.5.
    """

    mode: Mode = "corrected"
    identity: nn.Module | None = None
    attributes: nn.Module | None = None
    perceptual: nn.Module | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=lambda: dict(REASONS))
    type: nn.Module | None = None

    @property
    def normalisations(self) -> int:
        """How often MNAC's input is normalised; the published code does it twice, so that its network sees [-3, 1]."""
        return 2 if self.mode == "paper" else 1

    def measure(self, pairs: Pairs, jpeg: bool) -> Found:
        """Run every network on every pair; two images a call, so that no other sample can matter.

        Args:
            jpeg: compress the counterfactual as the published code did before it measured; the type is no published
                metric, and is always that of the image as saved.
        """
        if all(network is None for network in (self.identity, self.attributes, self.perceptual, self.type)):
            return Found()
        rows = [None if saved is None else self._pair(original, as_jpeg(saved) if jpeg else saved)
                | self._types(original, saved) for original, saved in pairs]  # fmt: skip
        before, after = _column(rows, "before"), _column(rows, "after")
        once = (_column(rows, "before_once"), _column(rows, "after_once"))
        types = (_column(rows, "type_before"), _column(rows, "type_after"))
        return Found(
            identity=_column(rows, "identity"),
            before=before,
            after=after,
            correlated=once if once[0] is not None and once[1] is not None else None,
            perceptual=_column(rows, "perceptual"),
            types=types if types[0] is not None and types[1] is not None else None,
        )

    @torch.no_grad()
    def _pair(self, original: np.ndarray, saved: np.ndarray) -> dict[str, np.ndarray]:
        images = torch.from_numpy(to_float(np.stack([as_rgb(original), as_rgb(saved)])))
        found: dict[str, np.ndarray] = {}
        if self.identity is not None:
            first, second = self.identity(images).flatten(1)
            found["identity"] = F.cosine_similarity(first, second, dim=0).double().numpy()
        if self.attributes is not None:
            found["before_once"], found["after_once"] = self._probabilities(images, 1)
            found["before"], found["after"] = (
                (found["before_once"], found["after_once"])
                if self.normalisations == 1
                else self._probabilities(images, self.normalisations)
            )
        if self.perceptual is not None:
            found["perceptual"] = self.perceptual(images[:1], images[1:], normalize=True).double().numpy().reshape(())
        return found

    @torch.no_grad()
    def _types(self, original: np.ndarray, saved: np.ndarray) -> dict[str, np.ndarray]:
        if self.type is None:
            return {}
        values = self.type(torch.from_numpy(to_float(np.stack([original, saved])))).double().numpy()
        return {"type_before": values[0], "type_after": values[1]}

    def _probabilities(self, images: Tensor, normalisations: int) -> np.ndarray:
        return self.attributes(images, normalisations=normalisations).sigmoid().double().numpy()

    def definitions(self, image: str) -> dict[str, dict[str, Any]]:
        """Metric -> what defines its value, of the metrics that can be computed.

        Args:
            image: of `image_format`.
        """
        facts = {"mode": self.mode, "image": image, "torch": torch.__version__}
        found = {}
        if self.identity is not None:
            network = facts | {"network": "identity", "weights": self.sha256["identity"]}
            found["identity/fs"] = definition(**network, value="cosine of features")
            found["identity/fva"] = definition(**network, value="cosine of features > 0.5")
        if self.attributes is not None:
            network = facts | {"network": "attributes", "weights": self.sha256["attributes"]}
            found["attributes/mnac"] = definition(
                **network, normalisations=self.normalisations, value="attributes that cross p = 0.5"
            )
        if self.perceptual is not None:
            network = {"network": "LPIPS v0.1, AlexNet", "weights": self.sha256["perceptual"]}
            found["perceptual/lpips"] = definition(**facts, **network)
        if self.type is not None:
            network = {"network": "type", "weights": self.sha256["type"], "image": "PNG", "torch": torch.__version__}
            found[TYPE_KEY] = definition(**network, value="same side of 0.5 as the original")
        return found


def _column(rows: list[dict[str, np.ndarray] | None], name: str) -> np.ndarray | None:
    """One value of every row, (N, ...), NaN where the row is missing; None where no row has it."""
    shape = next((row[name].shape for row in rows if row is not None and name in row), None)
    if shape is None:
        return None
    return np.stack([np.full(shape, np.nan) if row is None else row[name] for row in rows])


def build_evaluators(weights: Mapping[str, Loaded], metrics: MetricsConfig, size: int, channels: int = 3) -> Evaluators:
    """The networks of a run's weights, and LPIPS where its backbone is at hand.

    Args:
        weights: "identity", "attributes" and "type", where given; other roles are left alone.
        size: width of the images.
        channels: of the images, 3 or 1.

    Raises:
        UsageError: `metrics.lpips_weights` is given and cannot be used, or a network does not take these images or
            does not return what it should.
    """
    given = {role: weights[role] for role in MEASURING if role in weights}
    reasons = {role: reason for role, reason in REASONS.items() if role not in given}
    hashes = {role: loaded.sha256 for role, loaded in given.items()}
    networks = {role: loaded.network for role, loaded in given.items()}
    perceptual = None
    try:
        perceptual = _lpips(metrics.lpips_weights, size)
        hashes["perceptual"] = ALEXNET_SHA256
        del reasons["perceptual"]
    except PerceptualError as error:
        if metrics.lpips_weights:
            raise UsageError(f"metrics.lpips_weights: {error}") from error
        reasons["perceptual"] = str(error)
    judges = (networks.get("identity"), networks.get("attributes"), perceptual)
    found = Evaluators(metrics.mode, *judges, hashes, reasons, networks.get("type"))
    _probe(found, (channels, size, size))
    return found


@cache
def _lpips(configured: str, size: int) -> nn.Module:
    """The frozen network, loaded once a process: a suite judges many cells."""
    if size < LPIPS_MIN_SIZE:
        raise PerceptualError(f"LPIPS needs images of at least {LPIPS_MIN_SIZE} pixels; these have {size}")
    return load_lpips(alexnet_file(configured))


def _probe(evaluators: Evaluators, shape: Shape) -> None:
    """Refuse a network whose output is not what its metric takes, before anything is searched."""
    misfit = None if evaluators.type is None else shape_misfit(evaluators.type, shape)
    if misfit:
        raise UsageError(f"weights.type: images are {misfit[0]}; the network needs {misfit[1]}")
    channels, height, width = shape
    grey = np.full((height, width, channels), 128, np.uint8)
    found = evaluators.measure([(grey, grey)], jpeg=False)
    types = None if found.types is None else np.stack(found.types)
    for role, values in (("identity", found.identity), ("attributes", found.after), ("type", types)):
        if values is not None and not np.isfinite(values).all():
            raise UsageError(f"weights.{role}: the network returns NaN or infinite values; check its weights")
