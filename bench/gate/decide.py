"""`bench gate`: correctness first, then quality, then speed, cell by cell."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.compare import NotComparable, Side, machine, timing_flags
from bench.compare_metrics import Metric, Outcome, quality_metrics
from bench.gate.correctness import check_readable, faults, new_flags
from bench.gate.model import CellGate, Check, GateReport, Quality, RepeatMetric, Speed, Verdict, Verification, worst
from bench.gate.repeats import (
    Repeats,
    check_copies,
    check_separate,
    check_terms,
    one_line,
    read_repeats,
    read_verification,
    recorded_margins,
)
from bench.outcomes import EndToEnd, judge_outcomes, load_outcomes
from bench.sections import VerifyConfig
from methods import noise
from metrics.repeats import compare_repeats, fewest_repeats

FACTOR = 1.10
SAME = ("bit-identical", "numerically equal")
"""Verdicts on the counterfactuals of a cell that need no statistics."""


def gate(
    base: Path, new: Path, factor: float = FACTOR, margins: VerifyConfig | None = None, verify: Path | None = None
) -> GateReport:
    """Judge NEW against BASE.

    Args:
        base, new: a suite's folder, or a folder of process repeats (suites of the same command).
        factor: how many times slower is a regression, where it is significant too; at least 1.
        margins: of quality; None: those of BASE's configuration.
        verify: verify.json of NEW's backends or its folder; None: the one in NEW's folder, if any.

    Raises:
        UsageError: a folder without a record, a damaged one, one that is on both sides, or a copy of another.
        NotComparable: another machine, data, weights or options. Where NEW is wrong whatever it is compared with,
            the report says that instead.
    """
    theirs, ours = read_repeats(base), read_repeats(new)
    check_separate(theirs, ours)
    check_copies(theirs, ours)
    margins = margins or recorded_margins(base)
    try:
        check_terms(theirs, ours)
    except NotComparable as error:
        cells = [_own_cell(name, [], ours, margins, []) for name in ours.ids]
        if all(cell.verdict == "ok" for cell in cells):
            raise
        return _report(theirs, ours, factor, margins, cells, [], [one_line(error)])
    verified = read_verification(ours, verify)
    cells = [_gate_cell(name, theirs, ours, factor, margins, verified or []) for name in theirs.ids]
    added = [name for name in ours.ids if name not in theirs.ids]
    cells += [_own_cell(name, [], ours, margins, verified or [], added=True) for name in added]
    return _report(theirs, ours, factor, margins, cells, verified or [], _notes(ours, verified))


def gate_alone(new: Path, verify: Path | None = None) -> GateReport:
    """Judge NEW where there is nothing to compare it with: its correctness, every repeat against its first.

    Args:
        new, verify: as for `gate`.

    Raises:
        UsageError: a folder without a record, a damaged one, or a copy of another.
        NotComparable: its repeats differ in machine, data, weights, options or commit.
    """
    ours = read_repeats(new)
    check_copies(ours)
    check_terms(ours, ours)
    margins, verified = recorded_margins(new), read_verification(ours, verify)
    cells = []
    for name in ours.ids:
        first = ours.first.sides.get(name)
        known = [first] if first is not None and first.record.status == "ok" else []
        cells.append(_own_cell(name, known, ours, margins, verified or []))
    notes = ["there is no BASE: every repeat was checked against the first, which says nothing about speed"]
    first_repeat = Repeats(ours.first.folder, ours.repeats[:1])
    return _report(first_repeat, ours, FACTOR, margins, cells, verified or [], notes + _notes(ours, verified))


def _report(
    base: Repeats, new: Repeats, factor: float, margins: VerifyConfig, cells: list[CellGate],
    verified: list[Verification], notes: list[str],
) -> GateReport:  # fmt: skip
    refuted: list[Verdict] = ["failed" for result in verified if result.verdict == "different"]
    return GateReport(
        base=one_line(base.folder),
        new=one_line(new.folder),
        base_repeats=[repeat.name for repeat in base.repeats],
        new_repeats=[repeat.name for repeat in new.repeats],
        base_commit=base.commit,
        new_commit=new.commit,
        machine=machine(new.first.suite.environment),
        factor=factor,
        margins=margins,
        verdict=worst([*(cell.verdict for cell in cells), *refuted]),
        cells=cells,
        verification=verified,
        notes=notes,
    )


def _notes(new: Repeats, verified: Sequence[Verification] | None) -> list[str]:
    notes = [] if verified is not None else ["no verify.json: whether NEW's backends are accurate was not looked at"]
    for repeat in new.repeats:
        if repeat.suite.status != "ok":
            notes.append(f"the suite {repeat.name} is {repeat.suite.status}")
    return notes


def _gate_cell(
    name: str, base: Repeats, new: Repeats, factor: float, margins: VerifyConfig, verified: Sequence[Verification]
) -> CellGate:
    """The three checks; one that failed leaves no sense in those after it."""
    known = [side for side in base.sides(name) if side is not None and side.record.status == "ok"]
    reference = base.first.sides.get(name)
    if reference is None or reference.record.status != "ok":
        status = "absent" if reference is None else reference.record.status
        reason = f"it is {status} in BASE ({base.first.name}), so there is nothing to compare with"
        return _stopped(name, Check(kind="correctness", verdict="missing", reasons=[reason]))
    check_readable(known)
    check, measured = _correctness(name, known, new, margins, verified)
    if check.verdict != "ok" or measured is None:
        return _stopped(name, check)
    ours = [side for side in new.sides(name) if side is not None]
    quality = _quality(reference, ours[0], measured, margins)
    speed = _speed(known, ours, factor)
    return CellGate(
        cell=one_line(name),
        verdict=worst([check.verdict, quality.verdict, speed.verdict]),
        correctness=check,
        quality=quality,
        speed=speed,
    )


def _own_cell(
    name: str,
    known: Sequence[Side],
    new: Repeats,
    margins: VerifyConfig,
    verified: Sequence[Verification],
    added: bool = False,
) -> CellGate:
    """A cell of which only the correctness can be judged."""
    check, _ = _correctness(name, known, new, margins, verified)
    if check.verdict == "ok":
        check.reasons = [f"{'BASE lacks it: ' if added else ''}only its correctness was judged"]
    return _stopped(name, check, added)


def _stopped(name: str, check: Check, added: bool = False) -> CellGate:
    reasons = ["BASE lacks it"] if added else ["not judged, as correctness comes first"]
    return CellGate(
        cell=one_line(name),
        added=added,
        verdict=check.verdict,
        correctness=check,
        quality=Quality(verdict="skipped", reasons=reasons),
        speed=Speed(verdict="skipped", reasons=reasons),
    )


def _correctness(
    name: str, base: Sequence[Side], new: Repeats, margins: VerifyConfig, verified: Sequence[Verification]
) -> tuple[Check, EndToEnd | None]:
    """Every repeat of NEW against BASE's first, and the comparison of NEW's first repeat.

    Args:
        base: the finished repeats of the cell; empty for one that BASE lacks.
    """
    first, missing, found = None, list[str](), dict[str, list[str]]()
    for repeat in new.repeats:
        side = repeat.sides.get(name)
        if side is None:
            missing.append(repeat.name)
            continue
        wrong, measured = faults(base[0] if base else None, side, margins)
        for fault in wrong or (new_flags(base, side) if base else []):
            found.setdefault(fault, []).append(repeat.name)
        if repeat is new.first:
            first, refuted = measured, _refuted(side, verified)
            found |= {reason: ["verify"] for reason in refuted}
    reasons = [f"absent in {', '.join(missing)}"] if missing else []
    reasons += [one_line(f"{', '.join(repeats)}: {fault}") for fault, repeats in found.items()]
    verdict: Verdict = "failed" if found else "missing" if missing else "ok"
    return Check(kind="correctness", verdict=verdict, reasons=reasons), first


def _refuted(side: Side, verified: Sequence[Verification]) -> list[str]:
    """What `bench verify` has against a cell."""
    record = side.record
    of_cell = (record.dataset, record.method, record.backend)
    return [
        f"different: {'; '.join(result.reasons)}"
        for result in verified
        if result.verdict == "different" and (result.dataset, result.method, result.backend) == of_cell
    ]


def _quality(base: Side, new: Side, measured: EndToEnd, margins: VerifyConfig) -> Quality:
    """Equivalence on the first repeats; saved images that are the same need no statistics.

    The figures are made in any case: a metric may have changed where the images did not.
    """
    theirs, ours = load_outcomes(base.folder)[0], load_outcomes(new.folder)[0]
    generator = noise.numpy_generator("bootstrap", 0, "gate", base.record.id)
    figures = quality_metrics(theirs, ours.loc[theirs.index], margins, generator)
    outcome, reasons = judge_outcomes(measured, margins)
    decided = worst(figure.verdict for figure in figures)
    if outcome in SAME and decided != "regressed":
        for figure in figures:
            if figure.verdict == "inconclusive":
                figure.verdict, figure.note = "ok", outcome
        return Quality(verdict="ok", reasons=[f"{outcome}: {reason}" for reason in reasons], figures=figures)
    return Quality(verdict=decided, reasons=_named(figures), figures=figures)


def _named(figures: Sequence[Metric]) -> list[str]:
    """The figures that are neither fine nor better, in words, the worst first."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    return [
        f"{figure.name} {text(figure.base)} -> {text(figure.new)}: {figure.verdict}"
        + (f" ({figure.note})" if figure.note else "")
        for verdict in ("regressed", "inconclusive")
        for figure in figures
        if figure.verdict == verdict
    ]


def _speed(base: Sequence[Side], new: Sequence[Side], factor: float) -> Speed:
    theirs, ours = ([load_outcomes(side.folder)[0] for side in sides] for sides in (base, new))
    flags = list(dict.fromkeys(one_line(flag) for side in (*base, *new) for flag in timing_flags(side.record)))
    figures = []
    for name, column in (("seconds per image", None), ("seconds per valid", "valid")):
        if any(_count(frame, column) for frame in (*theirs, *ours)):
            figure = _repeat_metric(name, _seconds(theirs, column), _seconds(ours, column), factor)
        else:  # more repeats would not decide it, and quality says what there is to say
            figure = _no_metric(name, factor, "skipped", "neither side has a valid counterfactual")
        if flags and figure.verdict not in ("inconclusive", "skipped"):
            figure.verdict, figure.note = "inconclusive", f"timing flagged: {'; '.join(flags)}"
        figures.append(figure)
    return Speed(verdict=worst(figure.verdict for figure in figures), reasons=_named(figures), figures=figures)


def _seconds(frames: Sequence[pd.DataFrame], column: str | None) -> list[float] | None:
    """Seconds a sample, or a sample of which `column` is true, of every repeat; None where one has no such figure."""
    counts = [_count(frame, column) for frame in frames]
    seconds = [float(frame["seconds"].sum()) for frame in frames]
    if min(*counts, *seconds) <= 0:
        return None
    return [time / count for time, count in zip(seconds, counts, strict=True)]


def _count(frame: pd.DataFrame, column: str | None) -> float:
    return float(len(frame) if column is None else frame[column].sum())


def _repeat_metric(name: str, base: list[float] | None, new: list[float] | None, factor: float) -> RepeatMetric:
    if base is None or new is None:
        return _no_metric(name, factor, "inconclusive", "a repeat has no valid counterfactual, or no time")
    found = compare_repeats(base, new, factor)
    note = ""
    if found.low is None:
        note = f"{len(base)} and {len(new)} process repeats cannot be significant; {fewest_repeats()} a side can be"
    elif found.needed is not None:
        note = f"about {found.needed} process repeats a side would decide"
    return RepeatMetric(
        name=name, kind="speed", unit="s", base=found.base, new=found.new, measure="ratio", value=found.ratio,
        low=found.low, high=found.high, limit=factor, verdict=found.verdict, note=note, p=found.p_slower,
        base_repeats=base, new_repeats=new,
    )  # fmt: skip


def _no_metric(name: str, factor: float, verdict: Outcome, note: str) -> RepeatMetric:
    """A figure that could not be made."""
    return RepeatMetric(
        name=name, kind="speed", unit="s", base=None, new=None, measure="ratio", value=None, low=None, high=None,
        limit=factor, verdict=verdict, note=note,
    )  # fmt: skip
