"""Backends against the reference on the same images: who is compared with whom, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from bench.compare import NotComparable, Side, check_comparable
from bench.errors import RunError, UsageError
from bench.outcomes import EndToEnd, compare_cells, judge_outcomes
from bench.sections import VerifyConfig
from reports.pages.views import MEANINGLESS, is_faithful, why_meaningless
from reports.records import Cell

UNFINISHED = {"running": "partial", "killed": "killed", "interrupted": "interrupted", "failed": "failed"}
"""Status of an unfinished cell -> its verdict."""
NOT_COMPARED = "not compared"
REFERENCE = "reference"
TONES = {"different": "bad", "inconclusive": "warning"}
"""Verdict of a comparison -> tone of its row, where it wants attention."""


@dataclass(frozen=True)
class Pair:
    """A finished cell against the reference of its group.

    Attributes:
        verdict: end to end, of `bench.outcomes.judge_outcomes`, or "not compared".
        reasons: for the verdict, one sentence each.
        measured: None where they could not be compared.
    """

    reference: Cell
    candidate: Cell
    verdict: str
    reasons: list[str]
    measured: EndToEnd | None = None


@dataclass(frozen=True)
class CellVerdict:
    """What is to be thought of a cell.

    Attributes:
        text: in a word or two.
        against: label of the reference; empty where there was none to compare with.
        tone: of `reports.table.Table`.
        judged: it comes from a comparison, so the margins matter.
    """

    text: str
    reasons: list[str] = field(default_factory=list)
    tone: str = ""
    against: str = ""
    judged: bool = False


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Finished cells of the same dataset, method, seed, data, options and weights: they differ in their backend.

    A backend that computes nothing is in no group.
    """
    found: list[list[Cell]] = []
    for cell in (cell for cell in cells if cell.finished and is_faithful(cell)):
        group = next((group for group in found if not _difference(group[0], cell)), None)
        if group is None:
            found.append([cell])
        else:
            group.append(cell)
    return found


def reference_of(group: Sequence[Cell]) -> Cell:
    """The cell that the others of a group are compared with: the first of backend eager, else the first."""
    return next((cell for cell in group if cell.record.backend == "eager"), group[0])


def pairs(cells: Sequence[Cell]) -> list[Pair]:
    """Every finished cell against its group's reference.

    One that is alone in its group is compared with nothing; where there are others of its dataset, method and seed,
    it is here with the reason, unless it is a reference by its backend.
    """
    found = []
    parts = groups(cells)
    for group in parts:
        reference = reference_of(group)
        found += [_pair(reference, cell) for cell in group if cell is not reference]
        if len(group) == 1 and reference.record.backend != "eager":
            others = [cell for other in parts for cell in other if cell is not reference and _similar(cell, reference)]
            if others:
                nearest = reference_of(others)
                found.append(Pair(nearest, reference, NOT_COMPARED, [_difference(nearest, reference)]))
    order = {id(cell): number for number, cell in enumerate(cells)}
    return sorted(found, key=lambda pair: order[id(pair.candidate)])


def verdicts(cells: Sequence[Cell]) -> list[CellVerdict]:
    """What is to be thought of each cell."""
    compared = {id(pair.candidate): pair for pair in pairs(cells)}
    alone = {id(group[0]) for group in groups(cells) if len(group) == 1}
    return [_verdict(cell, compared.get(id(cell)), id(cell) in alone) for cell in cells]


def side(cell: Cell, environment: bool = True) -> Side:
    """A cell as `bench.compare` takes it; without its environment the machine does not matter."""
    metrics = cell.suite.config.get("metrics", {})
    return Side(cell.record, cell.folder / cell.record.id, cell.suite.environment if environment else {}, metrics)


def margins_of(cell: Cell) -> VerifyConfig:
    """The section [verify] of a suite's configuration; what an older record lacks is as by default.

    Raises:
        UsageError: it is no such section.
    """
    recorded = cell.suite.config.get("verify", {})
    try:
        return VerifyConfig(**{key: recorded[key] for key in VerifyConfig.model_fields if key in recorded})
    except ValidationError as error:
        text = f"{cell.folder / 'suite.json'}: config.verify is not valid ({error.errors()[0]['msg']})"
        raise UsageError(f"{text}; run the suite again") from error


def named(text: str, *cells: Cell) -> str:
    """A sentence with cells' labels instead of their folders."""
    folders = {str(cell.folder / cell.record.id): cell.label for cell in cells}
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(folder, folders[folder])
    return text


def _similar(first: Cell, second: Cell) -> bool:
    """Whether a reader would expect two cells to be compared."""
    return all(getattr(first.record, key) == getattr(second.record, key) for key in ("dataset", "method", "seed"))


def _difference(reference: Cell, candidate: Cell) -> str:
    """What keeps two cells from being compared, whatever their machines; empty where nothing does."""
    if not _similar(reference, candidate):
        return "they are of another dataset, method or seed"
    first, second = side(reference, environment=False), side(candidate, environment=False)
    try:
        check_comparable(first, second)
    except NotComparable as error:
        text = str(error).removeprefix(f"{second.folder} cannot be compared with {first.folder}: ")
        return named(text, reference, candidate)
    return ""


def _pair(reference: Cell, candidate: Cell) -> Pair:
    margins = margins_of(reference)
    try:
        measured = _measured(_stamp(reference), _stamp(candidate), margins, reference.record.seed)
    except RunError as error:
        return Pair(reference, candidate, NOT_COMPARED, [named(str(error), reference, candidate)])
    verdict, reasons = judge_outcomes(measured, margins)
    return Pair(reference, candidate, verdict, reasons, measured)


def _stamp(cell: Cell) -> tuple[Path, int]:
    """A cell's folder, and when its table was written: a table that is written again is another one.

    Raises:
        RunError: there is no table.
    """
    folder = cell.folder / cell.record.id
    try:
        return folder, (folder / "samples.parquet").stat().st_mtime_ns
    except FileNotFoundError as error:
        raise RunError(f"{folder / 'samples.parquet'} is missing; run the cell again") from error
    except OSError as error:
        raise RunError(f"{folder / 'samples.parquet'}: {error.strerror}; run the cell again") from error


@lru_cache(maxsize=64)
def _measured(reference: tuple[Path, int], candidate: tuple[Path, int], margins: VerifyConfig, seed: int) -> EndToEnd:
    """Reads every saved image of both cells; several sections ask for it."""
    return compare_cells(reference[0], candidate[0], margins, seed)


def _verdict(cell: Cell, pair: Pair | None, alone: bool) -> CellVerdict:
    if not is_faithful(cell):
        return CellVerdict(MEANINGLESS, [why_meaningless(cell)], "bad")
    if cell.problem:
        return CellVerdict(cell.status, [cell.problem], "bad")
    if not cell.finished:
        text = UNFINISHED.get(cell.status, cell.status)
        reason = f"{len(cell.rows)} of {cell.record.samples} samples are recorded"
        error = [cell.record.error] if cell.record.error else []
        return CellVerdict(text, [*error, reason], "bad" if text == "failed" else "warning")
    if pair is not None:
        tone = TONES.get(pair.verdict, "")
        return CellVerdict(pair.verdict, pair.reasons, tone, pair.reference.label, pair.measured is not None)
    if cell.record.backend == "eager" or not alone:
        return CellVerdict(REFERENCE)
    return CellVerdict(NOT_COMPARED, ["there is no other backend to compare it with"])
