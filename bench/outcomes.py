"""Two finished cells of the same samples, compared image by image: the end-to-end half of the accuracy gate."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel

from bench.errors import RunError
from bench.images import BadImage, read_saved
from bench.sections import VerifyConfig
from methods import noise
from metrics.equivalence import Equivalence, rate_equivalence, ratio_equivalence

Verdict = Literal["bit-identical", "numerically equal", "equivalent", "different", "inconclusive"]


class EndToEnd(BaseModel):
    """Saved counterfactuals of a backend against the reference's, on the same images, targets and noise.

    Attributes:
        images: samples; `compared` of them have a counterfactual on both sides.
        identical: saved images equal in every pixel.
        pixels_different, pixel_largest: share of 8-bit values that differ, and by how much at most, in grey levels.
        prediction_mean, prediction_p99, prediction_largest: |difference of r| on the saved images, where it is finite.
        prediction_unknown: compared samples where it is not: r is no finite number on one side or both.
        gained, lost: samples that are valid only with the backend, only with the reference.
        steps_changed, steps_largest: samples with another number of steps, and the largest difference.
        newly_failed: samples without a counterfactual that the reference has.
        blank: saved images of one single colour where the reference's is not.
        success, target_error: equivalence of the success rate and of the oracle's error to the target.
    """

    images: int
    compared: int
    identical: int
    pixels_different: float | None
    pixel_largest: int | None
    prediction_mean: float | None
    prediction_p99: float | None
    prediction_largest: float | None
    prediction_unknown: int = 0
    gained: int
    lost: int
    steps_changed: int
    steps_largest: int
    newly_failed: int
    blank: int
    success: Equivalence
    target_error: Equivalence


def load_outcomes(cell: Path) -> tuple[pd.DataFrame, Callable[[str], np.ndarray]]:
    """A finished cell's samples, indexed by id, and a reader of its saved images (uint8, by id).

    Raises:
        RunError: the cell has no table, or an image is gone or damaged.
    """
    table = cell / "samples.parquet"
    try:
        frame = pd.read_parquet(table).set_index("id")
    except FileNotFoundError as error:
        raise RunError(f"{table} is missing; run the cell again") from error
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{table} cannot be read ({error}); run the cell again") from error

    def image(name: str) -> np.ndarray:
        try:
            return read_saved(cell / "images" / frame.at[name, "image"])
        except BadImage as error:
            raise RunError(f"{error}; run the cell again") from error

    return frame, image


def compare_cells(reference: Path, candidate: Path, margins: VerifyConfig, seed: int) -> EndToEnd:
    """Compare two finished cells of the same samples.

    Args:
        reference, candidate: cells' folders.
        seed: of the bootstrap.

    Raises:
        RunError: the cells hold other samples, or cannot be read.
    """
    (theirs, their_image), (ours, our_image) = load_outcomes(reference), load_outcomes(candidate)
    if set(theirs.index) != set(ours.index):
        raise RunError(f"{candidate} and {reference} hold different samples; they cannot be paired")
    ours = ours.loc[theirs.index]
    both = (theirs["failure"].isna() & ours["failure"].isna()).to_numpy()
    pixels = _Pixels()
    for name in theirs.index[both]:
        pixels.add(our_image(name), their_image(name))
    valid, expected = ours["valid"].to_numpy() > 0, theirs["valid"].to_numpy() > 0
    steps = (ours["steps"] - theirs["steps"]).abs().to_numpy()
    gap = finite_gaps(ours[both], theirs[both])
    generator = noise.numpy_generator("bootstrap", seed, "verify")
    return EndToEnd(
        images=len(theirs),
        compared=int(both.sum()),
        identical=pixels.identical,
        pixels_different=pixels.different / pixels.total if pixels.total else None,
        pixel_largest=pixels.largest if pixels.total else None,
        prediction_mean=float(gap.mean()) if len(gap) else None,
        prediction_p99=float(np.quantile(gap, 0.99)) if len(gap) else None,
        prediction_largest=float(gap.max()) if len(gap) else None,
        prediction_unknown=int(both.sum()) - len(gap),
        gained=int((valid & ~expected).sum()),
        lost=int((expected & ~valid).sum()),
        steps_changed=int((steps > 0).sum()),
        steps_largest=int(steps.max()),
        newly_failed=int((theirs["failure"].isna() & ours["failure"].notna()).sum()),
        blank=pixels.blank,
        success=rate_equivalence(expected, valid, margins.success_margin),
        target_error=ratio_equivalence(
            theirs["oracle_target_mae"].to_numpy(),
            ours["oracle_target_mae"].to_numpy(),
            margins.target_error_margin,
            generator,
        ),
    )


def finite_gaps(ours: pd.DataFrame, theirs: pd.DataFrame) -> np.ndarray:
    """|difference of r| on the saved images of the same samples, float64 (M,): those where r is finite on both sides.

    Args:
        ours, theirs: tables of (N,) samples in the same order, M <= N.
    """
    first, second = (frame["prediction"].to_numpy(np.float64) for frame in (ours, theirs))
    known = np.isfinite(first) & np.isfinite(second)
    return np.abs(first[known] - second[known])


class _Pixels:
    """Differences of saved images, summed up one image at a time."""

    def __init__(self) -> None:
        self.identical = self.different = self.total = self.largest = self.blank = 0

    def add(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        gap = np.abs(ours.astype(np.int16) - theirs)
        self.identical += int(not gap.any())
        self.different += int((gap > 0).sum())
        self.total += gap.size
        self.largest = max(self.largest, int(gap.max()))
        self.blank += int(blank(ours) and not blank(theirs))


def blank(image: np.ndarray) -> bool:
    """Whether an image (H, W, C) is of one single colour."""
    return bool((image == image[0, 0]).all())


def judge_outcomes(measured: EndToEnd, margins: VerifyConfig) -> tuple[Verdict, list[str]]:
    """The end-to-end verdict, with its reasons."""
    broken = []
    if measured.newly_failed:
        broken.append(f"{measured.newly_failed} samples have no counterfactual where the reference has one")
    if measured.blank:
        broken.append(f"{measured.blank} saved images are of one single colour")
    if broken:
        return "different", broken
    if measured.compared and measured.identical == measured.compared:
        return "bit-identical", [f"all {measured.identical} saved images are equal"]
    changed = measured.gained + measured.lost + measured.prediction_unknown
    largest = measured.prediction_largest
    if largest is not None and largest <= margins.prediction_tolerance and not changed:
        return "numerically equal", [f"predictions within {largest:.1g}, no changed success"]
    tests = {"success rate": measured.success, "oracle target error": measured.target_error}
    reasons = [_describe(name, test) for name, test in tests.items()]
    if measured.prediction_unknown:
        reasons.append(f"{measured.prediction_unknown} predictions are not finite")
    verdicts = {test.verdict for test in tests.values()}
    if "different" in verdicts:
        return "different", reasons
    return ("equivalent" if verdicts == {"equivalent"} else "inconclusive"), reasons


def _describe(name: str, test: Equivalence) -> str:
    if test.low is None or test.high is None:
        text = f"{name}: no interval from {test.n} images"
    else:
        allowed = f"[{test.allowed_low:.3f}, {test.allowed_high:.3f}]"
        text = f"{name}: {test.verdict}, [{test.low:.3f}, {test.high:.3f}] against {allowed}"
    return f"{text}; about {test.needed} images would decide" if test.needed else text
