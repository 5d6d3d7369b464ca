"""Spurious correlations of a regressor, from the records of its counterfactuals.

    python -m bench.spurious runs/NAME [runs/OTHER ...] [--results FILE.json] [--figure FILE.png]

Every attribute of every saved counterfactual is compared with that of its original, apart for targets above and below
the prediction of the original, and attributes are ranked by how much they move with it: an attribute that moves when
the prediction has to move is one that the regressor relies on. Square images and photographs of solar cells are
measured (bench/square_attributes.py, bench/elpv/attributes.py); all others need an attribute classifier
(`weights.attributes` of the run, or --attributes).
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel
from rich.table import Table

from bench.attribute_meters import Meter, meter_of
from bench.cli_options import console, ending
from bench.errors import RunError, UsageError
from bench.images import BadImage, read_saved
from bench.outcomes import load_outcomes
from bench.progress import Display
from bench.record import CellRecord, read_suite
from bench.study_results import study_parser, write_results
from methods import noise
from metrics.association import CLEAR, Association, associations
from metrics.intervals import Estimate
from reports.spurious import association_figure
from reports.tables import format_estimate

Baseline = Literal["input", "reconstruction"]
CHUNK = 32
"""Images in memory at once."""


class Ranking(BaseModel):
    """The attributes of one cell, the strongest association first.

    Attributes:
        rows, images: counterfactuals that count, and the originals that they are of; `upward`, `downward` by direction.
        left_out: reason -> counterfactuals that do not count.
        source, baseline, unit: what measures, against which image, and the unit of an association.
        own: the attributes that the regressor is meant to use, where some are among them.
    """

    run: str
    cell: str
    dataset: str
    method: str
    backend: str
    weights: dict[str, str]
    rows: int
    images: int
    upward: int
    downward: int
    left_out: dict[str, int]
    source: str
    baseline: Baseline
    unit: str
    own: tuple[str, ...]
    attributes: list[Association]

    @property
    def title(self) -> str:
        """Of its table and its panel."""
        return f"{self.run}: {self.dataset}, {self.method}, {self.images} images"

    def verdict(self) -> str:
        """What comes first, in one sentence."""
        first = self.attributes[0]
        text = f"{first.attribute} moves most: {format_estimate(first.association, 3)} ({self.unit})"
        if first.q is None:
            text += ", with too few images in a direction for a test"
        elif first.q >= CLEAR:
            text += ", which may be chance"
        if first.attribute in self.own:
            return text
        asked = (each for each in self.attributes if each.attribute in self.own)
        others = (f"; {each.attribute}, which is asked for, {format_estimate(each.association, 3)}" for each in asked)
        return text + "".join(others)


def rank_cell(
    folder: Path,
    cell: CellRecord,
    meter: Meter,
    baseline: Baseline = "input",
    only_valid: bool = False,
    report: Callable[[int], None] = lambda done: None,
) -> Ranking:
    """The attributes of a finished cell by their association with the prediction.

    Args:
        folder: of the suite.
        baseline: compare with the original, or with what the generator makes of the unchanged original.
        only_valid: leave out counterfactuals that miss their target.
        report: called with the number of counterfactuals measured so far.

    Raises:
        UsageError: no counterfactual is left, or there are no reconstructions.
        RunError: an image is gone or damaged.
    """
    frame, image = load_outcomes(folder / cell.id)
    frame["source"] = frame.get("source", frame.index)
    kept, left_out = _kept(frame, cell, only_valid)
    if not len(kept):
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UsageError(f"{folder / cell.id}: no counterfactual to compare ({reasons})")
    originals = kept.drop_duplicates("source")
    before = _measured(meter, originals["source"].to_list(), _originals(folder, cell, originals, baseline))
    places = {name: index for index, name in enumerate(originals["source"])}
    saved = (image(name) for name in kept.index)
    after = _measured(meter, kept["source"].to_list(), saved, report)
    before = before[[places[name] for name in kept["source"]]]
    upward = (kept["target"] > kept["start"]).to_numpy()
    changes = meter.compare(before, after)
    found = associations(
        meter.names, changes, upward, kept["source"].to_numpy(), noise.numpy_generator("bootstrap", "spurious", cell.id)
    )
    return Ranking(
        run=folder.name, cell=cell.id, dataset=cell.dataset, method=cell.method, backend=cell.backend,
        weights=cell.weights, rows=len(kept), images=len(originals), upward=int(upward.sum()),
        downward=int((~upward).sum()), left_out=left_out, source=meter.source, baseline=baseline, unit=changes.unit,
        own=meter.own, attributes=found,
    )  # fmt: skip


def _kept(frame: pd.DataFrame, cell: CellRecord, only_valid: bool) -> tuple[pd.DataFrame, dict[str, int]]:
    """Counterfactuals that count, and how many do not, by reason."""
    tolerance = cell.options[cell.method]["tolerance"]
    reasons = pd.Series("", index=frame.index)
    if only_valid:
        reasons[~(frame["valid"] > 0)] = "not valid"
    # The direction of a target at the prediction itself would be a coin's.
    reasons[(frame["target"] - frame["start"]).abs() <= tolerance] = "target at the prediction already"
    reasons[frame["failure"].notna()] = "failed"
    counts = reasons[reasons != ""].value_counts()
    return frame[reasons == ""], {str(reason): int(count) for reason, count in counts.items()}


def _originals(folder: Path, cell: CellRecord, rows: pd.DataFrame, baseline: Baseline) -> Iterator[np.ndarray]:
    """The image that each counterfactual is compared with, uint8 (H, W, C)."""
    if baseline == "reconstruction" and ("reconstruction" not in rows or rows["reconstruction"].isna().any()):
        raise UsageError(f"{folder / cell.id} has no reconstructions; run it with -s reconstructions=true")
    inputs = folder / f"inputs-{cell.dataset}"
    column, place = ("input", inputs) if baseline == "input" else (baseline, folder / cell.id / "reconstructions")
    for name in rows[column]:
        try:
            yield read_saved(place / name)
        except BadImage as error:
            raise RunError(f"{error}; run the cell again") from error


def _measured(
    meter: Meter, names: list[str], images: Iterator[np.ndarray], report: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """Attributes of images, a few in memory at a time: float64 (N, A)."""
    found = []
    for start in range(0, len(names), CHUNK):
        part = names[start : start + CHUNK]
        found.append(meter.measure(part, np.stack([next(images) for _ in part])))
        report(start + len(part))
    return np.concatenate(found)


def rank_run(
    folder: Path, attributes: str | None, baseline: Baseline, only_valid: bool, display: Display
) -> list[Ranking]:
    """Every finished cell of a suite.

    Raises:
        UsageError: no record or no finished cell there; as `meter_of` and `rank_cell`.
    """
    suite = read_suite(folder)
    finished = [cell for cell in suite.cells if cell.status == "ok"]
    if not finished:
        raise UsageError(f"{folder} has no finished cell; finish it with `python -m bench run`")
    found = []
    for cell in finished:
        meter = meter_of(suite, cell, attributes)
        display.begin(cell.id, cell.finished)
        found.append(
            rank_cell(folder, cell, meter, baseline, only_valid, lambda done: display.phase("measuring", done))
        )
    return found


def table(ranking: Ranking, top: int) -> Table:
    """The ranked attributes; change rates by direction, with raised and lowered apart."""
    against = "" if ranking.baseline == "input" else f", against the {ranking.baseline}"
    made = Table(title=f"{ranking.title}{against}", title_justify="left")
    made.add_column("attribute", no_wrap=True)
    for heading in (f"association ({ranking.unit})", "q", "change rate up", "+ / -", "change rate down", "+ / -"):
        made.add_column(heading, justify="right")
    for each in ranking.attributes[: top or None]:
        sides = []
        for side in (each.up, each.down):
            sides += (
                ["-", "-"]
                if side is None
                else [
                    format_estimate(side.change_rate, 2),
                    f"{side.raised_rate.value:.2f} / {side.lowered_rate.value:.2f}",
                ]
            )
        name = f"{each.attribute} (asked for)" if each.attribute in ranking.own else each.attribute
        made.add_row(name, _signed(each.association), _chance(each.q), *sides)
    return made


def _signed(estimate: Estimate) -> str:
    """ "+0.310 [+0.250, +0.360]"."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.3f}"
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _chance(q: float | None) -> str:
    """A q for people; it is never zero."""
    if q is None:
        return "-"
    return "<0.001" if q < 0.001 else f"{q:.3f}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = study_parser("bench.spurious", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished `bench run`")
    parser.add_argument(
        "--attributes", metavar="FILE", help="attribute classifier (default: weights.attributes), or elpv"
    )
    parser.add_argument("--baseline", choices=("input", "reconstruction"), default="input", help="what to compare with")
    parser.add_argument("--only-valid", action="store_true", help="leave out counterfactuals that miss their target")
    parser.add_argument("--top", type=int, default=0, help="attributes to show; 0 is all")
    parser.add_argument("--figure", type=Path, help="PNG of the ranking")
    given = parser.parse_args(arguments)
    if given.top < 0:
        parser.error("--top is not negative")
    return given


@ending
def main(arguments: list[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    given = _parse(arguments)
    rankings: list[Ranking] = []
    with Display() as display:
        for folder in given.runs:
            rankings += rank_run(folder, given.attributes, given.baseline, given.only_valid, display)
    if given.results:
        content = {"rankings": [ranking.model_dump(mode="json") for ranking in rankings]}
        write_results(given.results, "bench.spurious", arguments, content)
    if given.figure:
        given.figure.parent.mkdir(parents=True, exist_ok=True)
        association_figure(rankings, given.top or 15).savefig(given.figure, dpi=130)
    out = console()
    for ranking in rankings:
        out.print(table(ranking, given.top))
        out.print(ranking.verdict(), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
