"""Attributes of images, measured or as a classifier sees them, and what counts as a change of one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bench import square_attributes
from bench.checkpoints import Loaded, load_network, weights_path
from bench.datasets import square
from bench.datasets.elpv import ElpvConfig, ElpvDataset
from bench.elpv import attributes as cell_attributes
from bench.errors import UsageError
from bench.images import as_rgb, to_float
from bench.preparing.celebahq import ATTRIBUTES
from bench.record import CellRecord, SuiteRecord
from metrics.association import Changes, flips, shifts

CHUNK = 32
"""Images that a classifier sees at once."""
ELPV = "elpv"
"""The data set, and what `--attributes` takes for own photographs of the same kind."""
POLY = "polycrystalline"
"""The attribute of ELPV that a network tells."""


@dataclass(frozen=True)
class Meter:
    """How attributes are measured.

    Attributes:
        names: of the A attributes.
        own: the attributes that the regressor is meant to use, where some are among them.
        source: what measures, for people.
        measure: (names of the original images, uint8 (N, H, W, C)) -> float64 (N, A).
        compare: attributes before and after -> changes.
    """

    names: tuple[str, ...]
    own: tuple[str, ...]
    source: str
    measure: Callable[[list[str], np.ndarray], np.ndarray]
    compare: Callable[[np.ndarray, np.ndarray], Changes]


def square_meter() -> Meter:
    """Attributes measured from the pixels of the Square grid."""
    grid = square.load("grid")
    places = {name: index for index, name in enumerate(grid.ids)}
    ranges = np.array(list(square_attributes.RANGES.values()))

    def measure(names: list[str], images: np.ndarray) -> np.ndarray:
        return square_attributes.measure(images, grid.latents[[places[name] for name in names]])

    return Meter(
        tuple(square_attributes.RANGES),
        (square_attributes.TARGET,),
        "measured from the pixels",
        measure,
        lambda before, after: shifts(before, after, ranges),
    )


def elpv_meter(cell_type: Loaded | None) -> Meter:
    """Attributes measured from the pixels of photographs of solar cells.

    Args:
        cell_type: image [0, 1] (B, 1, H, W) to the probability of a polycrystalline cell (B,), which is one more
            attribute; None where it is not at hand.
    """
    named, source = dict(cell_attributes.RANGES), "measured from the pixels"
    if cell_type is not None:
        named[POLY] = 1.0
        source += f", {POLY} by {cell_type.path.name} (sha256 {cell_type.sha256[:12]})"
    ranges = np.array(list(named.values()))

    def measure(names: list[str], images: np.ndarray) -> np.ndarray:
        try:
            values = cell_attributes.measure(images)
        except ValueError as error:
            raise UsageError(f"attributes of solar cells: {error}") from error
        return values if cell_type is None else np.column_stack([values, type_values(cell_type.network, images)])

    return Meter(
        tuple(named), cell_attributes.DEFECTS, source, measure, lambda before, after: shifts(before, after, ranges)
    )


@torch.no_grad()
def type_values(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """What the type classifier gives for uint8 images (N, H, W, 1): float64 (N,), cut off at 0 and 1.

    Raises:
        UsageError: not one value an image, or values that are not finite.
    """
    found = [
        network(torch.from_numpy(to_float(images[start : start + CHUNK]))) for start in range(0, len(images), CHUNK)
    ]
    values = torch.cat(found).double().numpy()
    if values.shape != (len(images),) or not np.isfinite(values).all():
        raise UsageError("weights.type: the classifier does not give one finite value an image; check its weights")
    return values.clip(0, 1)


def classifier_meter(loaded: Loaded) -> Meter:
    """Attributes as an attribute classifier sees them; a flip across p = 0.5 is a change.

    Args:
        loaded: image [0, 1] (B, 3, H, W) to logits (B, 40), CelebA's order.
    """

    def measure(names: list[str], images: np.ndarray) -> np.ndarray:
        return probabilities(loaded.network, images)

    return Meter(ATTRIBUTES, (), f"{loaded.path.name} (sha256 {loaded.sha256[:12]})", measure, flips)


@torch.no_grad()
def probabilities(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Attribute probabilities of uint8 images (N, H, W, C), grey ones seen as colour: float64 (N, 40).

    Raises:
        UsageError: another number of attributes, or values that are not finite.
    """
    found = []
    for start in range(0, len(images), CHUNK):
        logits = network(torch.from_numpy(to_float(as_rgb(images[start : start + CHUNK]))))
        if logits.ndim != 2 or logits.shape[1] != len(ATTRIBUTES):
            raise UsageError(
                f"weights.attributes: the classifier gives {tuple(logits.shape[1:])} values an image; "
                f"{len(ATTRIBUTES)} are needed"
            )
        found.append(torch.sigmoid(logits.double()).numpy())
    values = np.concatenate(found)
    if not np.isfinite(values).all():
        raise UsageError("weights.attributes: the classifier returns NaN or infinite values; check its weights")
    return values


def meter_of(suite: SuiteRecord, cell: CellRecord, attributes: str | None) -> Meter:
    """What measures the attributes of a cell's images.

    Args:
        attributes: classifier instead of the run's own, or "elpv": measured as on ELPV, for grey photographs of whole
            solar cells of another data set.

    Raises:
        UsageError: data without measured attributes, and no classifier.
    """
    if cell.dataset == "square" and attributes is None:
        return square_meter()
    if attributes == ELPV or (cell.dataset == ELPV and attributes is None):
        return elpv_meter(_type_network(suite))
    given = attributes or suite.config.get("weights", {}).get("attributes")
    if given is None:
        raise UsageError(
            f"{cell.id}: attributes of {cell.dataset!r} images need a classifier; give one with --attributes FILE "
            f"(grey photographs of solar cells: --attributes {ELPV})"
        )
    return classifier_meter(load_network(given, "attributes"))


def _type_network(suite: SuiteRecord) -> Loaded | None:
    """The run's own classifier of the cell type, else the shipped one where it is for images of this size."""
    given = suite.config.get("weights", {}).get("type")
    shipped = ElpvDataset(ElpvConfig(**suite.config.get("options", {}).get("elpv", {}))).weights.get("type")
    if given is None and (shipped is None or not weights_path(shipped).is_file()):
        return None
    return load_network(given or shipped, "type")
