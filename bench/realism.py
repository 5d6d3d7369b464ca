"""How real a cell's counterfactuals look: FID, split FID, and the Frechet distance on the oracle's features."""

import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from bench.evaluators import Figures, Mode, Pairs, as_jpeg, definition, image_format
from bench.images import as_rgb, to_float
from bench.sections import MetricsConfig
from methods import noise
from metrics.frechet import (
    INCEPTION_SHA256,
    FrechetError,
    Inception,
    Resize,
    batches,
    frechet_distance,
    inception_folder,
    split_frechet_distance,
    split_halves,
)
from metrics.intervals import Estimate

FID, SFID, ORACLE = "realism/fid", "realism/sfid", "realism/oracle_feature_distance"
NO_FEATURES = "the oracle is a network without a `features` method; give it one, (N, C, H, W) -> (N, D)"
RESIZES: dict[Mode, dict[str, Resize]] = {
    "paper": {FID: "legacy_tensorflow", SFID: "legacy_pytorch"},
    "corrected": {FID: "clean", SFID: "clean"},
}
"""The paper's FID is torchmetrics 1.4.2's, ACE's split FID is pytorch-fid's; their resizing differs."""


Features = Callable[[np.ndarray], np.ndarray]
"""Images float32 (N, C, H, W) in [0, 1] to (N, D)."""


class Extractor(Protocol):
    """Features of images for FID; metrics.frechet.Inception is the one."""

    def features(self, images: Iterable[np.ndarray], resize: Resize) -> np.ndarray:
        """uint8 (H, W, 3) images to (N, D)."""


@dataclass(frozen=True)
class Subject:
    """What realism is measured of.

    Attributes:
        pairs: original and counterfactual of every sample, read anew at every iteration.
        sources: name of every sample's original; several samples may share one.
        kept: samples with a counterfactual, bool (N,).
        valid: samples whose counterfactual is valid, bool (N,).
        faces: the images may show faces, which were published as JPEG files.
    """

    pairs: Pairs
    sources: tuple[str, ...]
    kept: np.ndarray
    valid: np.ndarray
    faces: bool


@dataclass(frozen=True)
class OracleFeatures:
    """What the oracle sees in a cell's images.

    Attributes:
        of: any images to their features.
        before, after: of the originals and the counterfactuals of the M samples that have one, (M, D) each.
    """

    of: Features
    before: np.ndarray
    after: np.ndarray


def load_extractor(configured: str) -> tuple[Inception | None, str]:
    """clean-fid's Inception where its file is at hand, or None and why not."""
    folder, reason = inception_folder(configured or None)
    if folder is None:
        return None, reason
    try:
        return Inception(folder, torch.device("cpu")), ""
    except FrechetError as error:
        return None, str(error)


def inception_realism(
    subject: Subject, metrics: MetricsConfig, extractor: Extractor | None, reason: str = ""
) -> Figures:
    """FID and split FID.

    Both compare with every original once in mode "corrected". FID takes every saved counterfactual; in mode "paper"
    its originals are those that have one, as the published pairing does. Split FID takes the valid counterfactuals
    only, as ACE takes those that flipped the class.

    Args:
        reason: why there is no extractor.
    """
    count = int(subject.kept.sum())
    empty = Estimate(value=None, n=count)
    if extractor is None:
        return Figures({FID: empty, SFID: empty}, {FID: reason, SFID: reason})
    if count < 2:
        few = "fewer than two counterfactuals"
        return Figures({FID: empty, SFID: empty}, {FID: few, SFID: few})
    features = {resize: _features(subject, metrics.mode, extractor, resize)
                for resize in dict.fromkeys(RESIZES[metrics.mode].values())}  # fmt: skip
    found = Figures()
    for key, figure in ((FID, _fid), (SFID, _split_fid)):
        try:
            value, n, note = figure(subject, metrics, *features[RESIZES[metrics.mode][key]])
        except FrechetError as error:
            value, n, note = None, count, str(error)
        found.summary[key] = Estimate(value=value, n=n)
        if note:
            found.notes[key] = note
        if value is not None:
            found.definitions[key] = _definition(key, subject, metrics)
    return found


def oracle_realism(subject: Subject, features: OracleFeatures | None) -> Figures:
    """The Frechet distance on the oracle's features; None where the oracle has none to give."""
    count = int(subject.kept.sum())
    note = "Frechet distance on the oracle's features, not FID; biased upwards for few images"
    value = None
    if features is None:
        note = NO_FEATURES
    elif count:
        try:
            value = frechet_distance(features.before, features.after)
        except FrechetError as error:
            note = str(error)
    return Figures({ORACLE: Estimate(value=value, n=count)}, {ORACLE: note})


def oracle_features(of: Features, pairs: Pairs) -> OracleFeatures:
    """The features of every pair that has a counterfactual, (0, 0) where none has one.

    64 pairs at a time, so that memory does not grow with the images.
    """
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for chunk in batches((pair for pair in pairs if pair[1] is not None), 64):
        for images, collected in zip(zip(*chunk, strict=True), found, strict=True):
            collected.append(of(np.stack([to_float(image) for image in images])))
    before, after = (np.concatenate(side) if side else np.empty((0, 0)) for side in found)
    return OracleFeatures(of, before, after)


def _features(
    subject: Subject, mode: Mode, extractor: Extractor, resize: Resize
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features of the distinct originals by name, and of the counterfactuals in order, (M, D)."""
    jpeg = image_format(mode, subject.faces) != "PNG"
    first = {name: index for index, name in reversed(list(enumerate(subject.sources)))}
    names = sorted(first)
    wanted = set(first.values())
    originals = {subject.sources[i]: pair[0] for i, pair in enumerate(subject.pairs) if i in wanted}
    real = extractor.features((as_rgb(originals[name]) for name in names), resize)
    saved = (as_jpeg(pair[1]) if jpeg else as_rgb(pair[1]) for pair in subject.pairs if pair[1] is not None)
    return dict(zip(names, real, strict=True)), extractor.features(saved, resize)


def _fid(
    subject: Subject, metrics: MetricsConfig, real: dict[str, np.ndarray], generated: np.ndarray
) -> tuple[float | None, int, str]:
    names = sorted(real)
    if metrics.mode == "paper":
        names = sorted({name for name, kept in zip(subject.sources, subject.kept, strict=True) if kept})
    value = frechet_distance(np.stack([real[name] for name in names]), generated)
    note = "" if value is not None else "fewer than two originals"
    return value, len(generated), note


def _split_fid(
    subject: Subject, metrics: MetricsConfig, real: dict[str, np.ndarray], generated: np.ndarray
) -> tuple[float | None, int, str]:
    names = sorted(real)
    shuffled = noise.numpy_generator("sfid", metrics.split_seed)
    halves = split_halves(names, shuffled, drop_odd=metrics.mode == "paper")
    valid = subject.valid[subject.kept]
    sources = [name for name, kept in zip(subject.sources, subject.kept, strict=True) if kept]
    value = split_frechet_distance(
        np.stack([real[name] for name in names]),
        names,
        generated[valid],
        [name for name, counts in zip(sources, valid, strict=True) if counts],
        halves,
    )
    note = "" if value is not None else "fewer than two originals or valid counterfactuals in one of the halves"
    return value, int(valid.sum()), note


def _definition(key: str, subject: Subject, metrics: MetricsConfig) -> dict[str, Any]:
    paired = key == FID and metrics.mode == "paper"
    facts = {
        "mode": metrics.mode,
        "image": image_format(metrics.mode, subject.faces),
        "network": "Inception-v3 (clean-fid)",
        "weights": INCEPTION_SHA256,
        "resize": RESIZES[metrics.mode][key],
        "originals": "those with a counterfactual" if paired else "all",
        "counterfactuals": "all saved" if key == FID else "valid",
        "clean-fid": importlib.metadata.version("clean-fid"),
    }
    if key == SFID:
        facts["split_seed"] = metrics.split_seed
    return definition(**facts)
