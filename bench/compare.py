"""`bench compare` on records: is NEW slower or worse than BASE, cell by cell, on the same images?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

from bench.compare_metrics import (
    COSTS,
    ERRORS,
    PAIR_ERRORS,
    Metric,
    Outcome,
    cost_metric,
    noise_metric,
    quality_metrics,
    speed_metrics,
)
from bench.errors import BenchError, UsageError
from bench.outcomes import load_outcomes
from bench.record import CellRecord, cells_of, read_cell, read_suite
from bench.sections import VerifyConfig
from methods import noise

EXIT_NOT_COMPARABLE = 3
MACHINE = ("cpu", "cores", "threads", "device", "gpu")
"""Entries of the environment that decide how fast a machine is; of the GPU without the CUDA version, as software
versions may differ."""
FACTS = ("dataset", "data", "seed", "batch_size", "noise")
"""Facts of a cell that decide what is computed, besides method, options and weights; backend, software versions and
slot refill may differ."""
FILTER = ("filter_respacing", "filter_depth")
"""Metric options that success under fresh noise depends on."""


class NotComparable(BenchError):
    """Records of another machine, data, weights or options."""

    exit_code = EXIT_NOT_COMPARABLE


class CellComparison(BaseModel):
    """A cell of BASE and its counterpart; `new` is None, and the verdict missing, where there is none."""

    base: str
    new: str | None
    images: int = 0
    verdict: Outcome
    note: str = ""
    metrics: list[Metric] = []


class Comparison(BaseModel):
    """BASE against one NEW."""

    base: str
    new: str
    tolerance: float
    verdict: Outcome
    cells: list[CellComparison]


@dataclass(frozen=True)
class Side:
    """A recorded cell with its folder, and the environment and metric options of its suite.

    Attributes:
        environment: of the suite, as `bench.environment.environment` made it.
        metrics: the section [metrics] of the suite's configuration.
    """

    record: CellRecord
    folder: Path
    environment: dict[str, Any]
    metrics: dict[str, Any]


def is_record(name: str) -> bool:
    """Whether a path holds a suite's or a cell's record."""
    return any((Path(name) / file).is_file() for file in ("suite.json", "result.json"))


def read_sides(folder: Path) -> list[Side]:
    """The cells of a suite's folder, a killed or running one too, or the one of a cell's folder inside its suite.

    Raises:
        UsageError: no record there, or a damaged one.
    """
    cell = read_cell(folder)
    if cell is not None:
        suite = read_suite(folder.resolve().parent)
        return [Side(cell, folder, suite.environment, suite.config.get("metrics", {}))]
    suite = read_suite(folder)
    metrics = suite.config.get("metrics", {})
    return [Side(record, folder / record.id, suite.environment, metrics) for record in cells_of(folder, suite)]


def parse_pairs(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """ "BASE=NEW" texts to pairs of methods.

    Raises:
        UsageError: not of that form.
    """
    pairs = []
    for text in texts:
        base, equals, new = text.partition("=")
        if not equals or not base or not new:
            raise UsageError(f"--pair {text!r} is not of the form BASE=NEW, two methods")
        pairs.append((base, new))
    return tuple(dict.fromkeys(pairs))


def compare_records(
    base: Path, new: Path, tolerance: float, margins: VerifyConfig, pairs: Sequence[tuple[str, str]] = ()
) -> Comparison:
    """Compare every cell of BASE with its counterpart in NEW.

    Args:
        tolerance: a slowdown counts when its whole interval lies beyond this factor.
        margins: of quality.
        pairs: (method of BASE, method of NEW) to compare with each other, on the same images; other cells are left
            out. Without pairs, every cell is compared with the one of its own method.

    Raises:
        UsageError: no record, or no telling which cells belong together.
        NotComparable: another machine, data, weights or options; names what differs.
    """
    theirs, ours = read_sides(base), read_sides(new)
    for method, _ in pairs:
        if method not in {side.record.method for side in theirs}:
            raise UsageError(f"--pair {method}=...: {base} holds no cell of method {method!r}")
    one_backend = len({side.record.backend for side in theirs}) == 1
    cells = []
    for side, method in _partners(theirs, pairs):
        found = _counterpart(side, method, ours, one_backend)
        if found is None:
            cells.append(CellComparison(base=side.record.id, new=None, verdict="missing", note=f"{new} lacks {method}"))
        elif side.record.status != "ok" or found.record.status != "ok":
            which = side if side.record.status != "ok" else found
            note = f"{which.folder} is {which.record.status}"
            cells.append(CellComparison(base=side.record.id, new=found.record.id, verdict="missing", note=note))
        else:
            cells.append(compare_sides(side, found, tolerance, margins, bool(pairs)))
    return Comparison(base=str(base), new=str(new), tolerance=tolerance, verdict=worst(cells), cells=cells)


def worst(found: Sequence[CellComparison | Metric]) -> Outcome:
    """The verdict of several: a regression, then a missing cell, decides."""
    verdicts = {item.verdict for item in found}
    order: tuple[Outcome, ...] = ("regressed", "missing", "inconclusive", "improved", "ok")
    return next((verdict for verdict in order if verdict in verdicts), "missing")


def _partners(sides: list[Side], pairs: Sequence[tuple[str, str]]) -> list[tuple[Side, str]]:
    """Every cell to compare, and the method of its counterpart."""
    if not pairs:
        return [(side, side.record.method) for side in sides]
    return [(side, new) for side in sides for base, new in pairs if side.record.method == base]


def _counterpart(side: Side, method: str, others: list[Side], one_backend: bool) -> Side | None:
    """The same dataset and seed, and `method`; the same backend too where the two sides hold several."""
    wanted = (side.record.dataset, method, side.record.seed)
    matching = [other for other in others if (other.record.dataset, other.record.method, other.record.seed) == wanted]
    same = [other for other in matching if other.record.backend == side.record.backend]
    if same and (len(matching) > 1 or not one_backend):
        return same[0]
    if len(matching) > 1 or (matching and not one_backend):
        names = ", ".join(other.record.backend for other in matching)
        raise UsageError(f"{side.record.id} could be compared with several backends ({names}); name the cells' folders")
    return matching[0] if matching else None


def machine(environment: dict[str, Any]) -> dict[str, Any]:
    """What decides how fast a machine is, of a suite's environment."""
    found = {key: environment.get(key) for key in MACHINE}
    if isinstance(found["gpu"], dict):
        found["gpu"] = {key: value for key, value in found["gpu"].items() if key != "cuda"}
    return found


def check_comparable(base: Side, new: Side) -> None:
    """Refuse two cells that were not measured on the same terms.

    Raises:
        NotComparable: another machine, data, weights or options; names what differs.
    """
    first, second = machine(base.environment), machine(new.environment)
    different = [f"{key} ({first[key]!r} and {second[key]!r})" for key in MACHINE if first[key] != second[key]]
    theirs, ours = base.record.facts, new.record.facts
    different += [key for key in FACTS if theirs.get(key) != ours.get(key)]
    known, given = base.record.weights, new.record.weights
    different += [f"weights ({role})" for role in sorted(known.keys() & given.keys()) if known[role] != given[role]]
    different += _different_options(base, new)
    if different:
        raise NotComparable(
            f"{new.folder} cannot be compared with {base.folder}: they differ in {', '.join(different)}; "
            "run both on one machine with the same configuration"
        )


def _different_options(base: Side, new: Side) -> list[str]:
    """Options of dataset and method that differ; of two methods only the rule of success has to be the same."""
    theirs, ours = base.record, new.record
    different = []
    if theirs.options.get(theirs.dataset) != ours.options.get(ours.dataset):
        different.append(f"options of {theirs.dataset}")
    first, second = theirs.options.get(theirs.method, {}), ours.options.get(ours.method, {})
    if theirs.method == ours.method:
        return different + ([f"options of {theirs.method}"] if first != second else [])
    if first.get("tolerance") != second.get("tolerance"):
        different.append(f"tolerance ({first.get('tolerance')} and {second.get('tolerance')})")
    both = [key for key in FILTER if key in base.metrics and key in new.metrics]
    return different + [f"metrics.{key}" for key in both if base.metrics[key] != new.metrics[key]]


def compare_sides(
    base: Side, new: Side, tolerance: float, margins: VerifyConfig, methods_differ: bool = False
) -> CellComparison:
    """Compare two finished cells of the same samples: speed, quality and, of two methods, cost.

    Args:
        tolerance: a slowdown counts when its whole interval lies beyond this factor.
        margins: of quality.
        methods_differ: two methods are compared, which have more figures.

    Raises:
        NotComparable: another machine, data, weights, options or samples.
        RunError: a table of samples cannot be read.
    """
    check_comparable(base, new)
    theirs, ours = load_outcomes(base.folder)[0], load_outcomes(new.folder)[0]
    if set(theirs.index) != set(ours.index):
        raise NotComparable(f"{new.folder} and {base.folder} hold different samples; run both with the same --limit")
    ours = ours.loc[theirs.index]
    generator = noise.numpy_generator("bootstrap", 0, "compare", base.record.id)
    metrics = speed_metrics(theirs, ours, tolerance, generator)
    flags = [flag for side in (base, new) for flag in timing_flags(side.record)]
    for metric in metrics:
        if flags:
            metric.verdict, metric.note = "inconclusive", f"timing flagged: {'; '.join(dict.fromkeys(flags))}"
    metrics += quality_metrics(theirs, ours, margins, generator, ERRORS | (PAIR_ERRORS if methods_differ else {}))
    if methods_differ:
        metrics += _pair_metrics(theirs, ours, margins.success_margin, generator)
    return CellComparison(
        base=base.record.id, new=new.record.id, images=len(theirs), verdict=worst(metrics), metrics=metrics
    )


def _pair_metrics(base: pd.DataFrame, new: pd.DataFrame, margin: float, generator: np.random.Generator) -> list[Metric]:
    """Figures that tell two methods apart; one that an older record lacks is left out."""
    metrics = []
    if "noise_success" in base and "noise_success" in new:
        metrics.append(noise_metric(base, new, margin, generator))
    for name, column in COSTS.items():
        if column in base and column in new and (base[column].any() or new[column].any()):
            metrics.append(cost_metric(name, base[column], new[column], generator))
    return metrics


def timing_flags(record: CellRecord) -> list[str]:
    """Why a cell's timings are not to be trusted."""
    return [*record.timings.get("timing_flags", []), *record.execution.get("flags", [])]
