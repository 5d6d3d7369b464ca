"""The first check: did every repeat of a cell finish, with every sample, on what BASE's ran on?"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.compare import Side, timing_flags
from bench.errors import RunError, UsageError
from bench.gate.repeats import one_line
from bench.outcomes import EndToEnd, blank, compare_cells, load_outcomes
from bench.record import CellRecord
from bench.sections import VerifyConfig

FINITE = ("prediction", "oracle", "seconds")
"""Columns that have to be numbers wherever there is a counterfactual."""
RAN = ("dtype", "provider", "fused_norm_kernel", "graph_breaks")
"""Facts of a network's execution in which a backend that falls back shows itself, where it states them."""


def faults(base: Side | None, new: Side, margins: VerifyConfig) -> tuple[list[str], EndToEnd | None]:
    """What is wrong with a cell of NEW, and how its counterfactuals compare with BASE's.

    Args:
        base: the finished cell to compare with; None for one that BASE lacks.

    Returns:
        Sentences, none where nothing is wrong; the comparison, where both sides could be read.
    """
    try:
        found = _own_faults(new, every_image=base is None)
        if base is None or found:
            return found, None
        found += _execution(base.record, new.record)
        measured = compare_cells(base.folder, new.folder, margins, 0)
    except RunError as error:
        return [str(error)], None
    if measured.newly_failed:
        found.append(f"{measured.newly_failed} samples have no counterfactual where BASE has one")
    if measured.blank:
        found.append(f"{measured.blank} saved images are of one single colour where BASE's are not")
    return found, measured


def _own_faults(side: Side, every_image: bool) -> list[str]:
    """What is wrong with a cell whatever it is compared with.

    Args:
        every_image: read them all; else as many as are needed to see one that is not of one single colour.

    Raises:
        RunError: its table or an image is gone or damaged.
    """
    record = side.record
    if record.status != "ok":
        return [f"is {record.status}" + (f" ({record.error})" if record.error else "")]
    frame, image = load_outcomes(side.folder)
    if record.finished != record.samples or len(frame) != record.samples or not len(frame):
        return [f"holds {min(record.finished, len(frame))} of {record.samples} samples"]
    done = frame.index[frame["failure"].isna()]
    if not len(done):
        return [f"none of {len(frame)} samples has a counterfactual ({frame['failure'].iloc[0]})"]
    found = _not_finite(frame)
    colourless = (blank(image(name)) for name in done)
    if all(list(colourless) if every_image else colourless):
        found.append(f"all {len(done)} saved images are of one single colour")
    return found


def check_readable(base: Sequence[Side]) -> None:
    """Refuse a cell of BASE that cannot be compared with: that would be no fault of NEW.

    Args:
        base: its finished repeats.

    Raises:
        UsageError: the table or an image of one is gone or damaged.
    """
    try:
        for side in base:
            frame, image = load_outcomes(side.folder)
            for name in frame.index[frame["failure"].isna()]:
                image(name)
    except RunError as error:
        raise UsageError(f"BASE cannot be compared with: {one_line(error)}") from error


def _not_finite(frame: pd.DataFrame) -> list[str]:
    done = frame[frame["failure"].isna()]
    counts = {name: int((~np.isfinite(done[name].to_numpy(np.float64))).sum()) for name in FINITE}
    return [f"{name} is not a finite number in {count} samples" for name, count in counts.items() if count]


def _execution(base: CellRecord, new: CellRecord) -> list[str]:
    """What ran otherwise than in BASE with the same options of the backend."""
    theirs, ours = base.execution, new.execution
    if base.options.get(base.backend) != new.options.get(new.backend) or not theirs:
        return []
    different = [(key, theirs.get(key), ours.get(key)) for key in ("backend", "device")]
    for name, facts in theirs.get("networks", {}).items():
        now = ours.get("networks", {}).get(name, {})
        different += [(f"{key} of {name}", facts[key], now.get(key)) for key in RAN if key in facts]
    return [f"ran with another {key}: {ran}, BASE with {known}" for key, known, ran in different if known != ran]


def new_flags(base: Sequence[Side], new: Side) -> list[str]:
    """Flags of a cell (a recompilation, memory that ran out) that no repeat of BASE has; numbers in them aside."""

    def kind(flag: str) -> str:
        return re.sub(r"\d+", "#", flag)

    known = {kind(flag) for side in base for flag in timing_flags(side.record)}
    return [f"flagged: {one_line(flag)}" for flag in timing_flags(new.record) if kind(flag) not in known]
