"""Lines of a trend: one cell on one machine over its nights, a point a night, a gap where a night has no figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bench.dotted import dotted
from bench.record import CellRecord
from reports.trend_metrics import TIMINGS, Metric, describe, ordered
from reports.trend_records import Night, Run, finite, judging_facts, search_facts, time_doubts
from reports.trend_steps import find_steps

SHOWN = 3
"""Differing options that a label names, at most."""


@dataclass(frozen=True)
class Point:
    """A figure of one night.

    Attributes:
        value: of the only run, or the median of several runs of the same cell.
        low, high: that run's 95 % interval; of several runs the smallest and the largest value; or None.
        repeats: runs.
        trusted: False where it depends on the clock and its timings are flagged.
        definition: fingerprint of what defines the metric's value, where the record has one.
    """

    night: Night
    value: float
    low: float | None
    high: float | None
    repeats: int
    trusted: bool
    definition: str


@dataclass(frozen=True)
class Change:
    """A step of a metric. Attributes: `last` is the last night before it, `first` the first one after it."""

    line: "Line"
    metric: Metric
    last: Night
    first: Night
    before: float
    after: float

    @property
    def verdict(self) -> str:
        """ "better", "worse", or "changed" where neither direction is good."""
        if not self.metric.better:
            return "changed"
        return "better" if (self.after > self.before) == (self.metric.better == "high") else "worse"


Figures = dict[str, tuple[float, float | None, float | None]]
"""Metric -> value and interval."""


@dataclass
class Reading:
    """A night's finished cells of one line: more than one where the night repeated them."""

    night: Night
    cells: list[CellRecord] = field(default_factory=list)

    @cached_property
    def figures(self) -> list[Figures]:
        """Of every cell; ask once all cells are there."""
        return [_figures(cell) for cell in self.cells]

    def point(self, metric: Metric) -> Point | None:
        """A metric's figure of this night."""
        pairs = zip(self.cells, self.figures, strict=True)
        having = [(cell, figures[metric.key]) for cell, figures in pairs if metric.key in figures]
        if not having:
            return None
        cell, (value, low, high) = having[-1]
        if len(having) > 1:
            values = [figure[0] for _, figure in having]
            value, low, high = float(np.median(values)), min(values), max(values)
        trusted = not (metric.timed and any(time_doubts(cell) for cell, _ in having))
        definition = cell.definitions.get(metric.key, {}).get("fingerprint", "")
        return Point(self.night, value, low, high, len(having), trusted, definition)


@dataclass
class Line:
    """One cell on one machine.

    Attributes:
        label: names it among the lines of its machine, `short` among those of its dataset and method, too.
        search, judging: what has to be equal on a line.
        readings: by time.
        gaps: nights in which it did not finish.
    """

    machine: str
    dataset: str
    method: str
    backend: str
    seed: int
    search: dict[str, Any]
    judging: dict[str, Any]
    label: str = ""
    short: str = ""
    readings: list[Reading] = field(default_factory=list)
    gaps: list[Night] = field(default_factory=list)

    @cached_property
    def metrics(self) -> list[str]:
        """Keys of which some night has a figure."""
        return ordered({key for reading in self.readings for figures in reading.figures for key in figures})

    def metric(self, key: str) -> Metric:
        """With the unit as recorded by the latest cell that has it."""
        cells = [cell for reading in self.readings for cell in reading.cells if key in cell.summary]
        return describe(key, cells[-1].summary[key].unit if cells else "")

    def points(self, key: str) -> list[Point]:
        """A metric's figures, by time."""
        metric = describe(key)
        found = [reading.point(metric) for reading in self.readings]
        return [point for point in found if point is not None]

    def current(self, key: str) -> list[Point]:
        """The figures that mean the same as the latest one: measured with its definition."""
        points = self.points(key)
        return [point for point in points if point.definition == points[-1].definition]

    def changes(self, key: str) -> list[Change]:
        """Steps of a metric among the nights whose figures can be trusted."""
        points = [point for point in self.current(key) if point.trusted]
        metric = self.metric(key)
        return [
            Change(self, metric, points[step.index - 1].night, points[step.index].night, step.before, step.after)
            for step in find_steps([point.value for point in points])
        ]


def _figures(cell: CellRecord) -> Figures:
    """The summary, and the plain numbers among the timings; of a null backend only figures of time mean something."""
    found: dict[str, tuple[Any, Any, Any]] = {
        TIMINGS + name: (value, None, None) for name, value in cell.timings.items()
    }
    found |= {key: (estimate.value, estimate.low, estimate.high) for key, estimate in cell.summary.items()}
    if "backend" in cell.notes:  # it does not compute the networks
        found = {key: figures for key, figures in found.items() if describe(key).timed}
    return {
        key: (value, finite(low), finite(high))
        for key, (recorded, low, high) in found.items()
        if (value := finite(recorded)) is not None
    }


def lines_of(nights: Sequence[Night]) -> list[Line]:
    """Every line with its nights and gaps, in the order of machine, dataset, method, backend and seed.

    Args:
        nights: by time.
    """
    lines: dict[tuple[str, str], Line] = {}
    for night in nights:
        for run in night.runs:
            for cell in run.cells:
                if cell.status == "ok":
                    _add(lines, night, run, cell)
    for line in lines.values():
        read = [reading.night for reading in line.readings]
        line.gaps = [
            night
            for night in nights
            if night.machine == line.machine
            and not any(night is other for other in read)
            and any(_lacks(line, run) for run in night.runs)
        ]
    found = sorted(lines.values(), key=lambda line: (line.machine, line.dataset, line.method, line.backend, line.seed))
    _label(found)
    return found


def _add(lines: dict[tuple[str, str], Line], night: Night, run: Run, cell: CellRecord) -> None:
    new = Line(
        run.machine, cell.dataset, cell.method, cell.backend, cell.seed, search_facts(cell, run), judging_facts(cell)
    )
    key = json.dumps([new.search, new.judging], sort_keys=True, default=str)
    line = lines.setdefault((run.machine, key), new)
    if not line.readings or line.readings[-1].night is not night:
        line.readings.append(Reading(night))
    line.readings[-1].cells.append(cell)


def _lacks(line: Line, run: Run) -> bool:
    """Whether a run was to give this line a figure and did not."""
    names = (line.dataset, line.method, line.backend)
    if "--".join(names) in run.missing:  # not begun: nothing of it is known but the suite's configuration
        config = run.suite.config
        return (line.seed, line.search.get("batch_size")) == (config.get("seed"), config.get("batch_size"))
    return any(
        cell.status != "ok"
        and (cell.dataset, cell.method, cell.backend) == names
        and search_facts(cell, run) == line.search
        for cell in run.cells
    )


def _label(lines: Sequence[Line]) -> None:
    """Names by what differs: dataset, method, backend, seed, and of lines that share these the options."""
    datasets, seeds = len({line.dataset for line in lines}), len({line.seed for line in lines})
    for line in lines:
        alike = [
            other
            for other in lines
            if (other.machine, other.dataset, other.method, other.backend, other.seed)
            == (line.machine, line.dataset, line.method, line.backend, line.seed)
        ]
        line.short = ", ".join(
            [line.backend, *([f"seed {line.seed}"] if seeds > 1 else []), *_differences(line, alike)]
        )
        if any(other.short == line.short for other in alike if other is not line):
            line.short += f" ({alike.index(line) + 1})"
        line.label = ", ".join([*([line.dataset] if datasets > 1 else []), line.method, line.short])


def _differences(line: Line, alike: Sequence[Line]) -> list[str]:
    """ "max_steps=50" for every fact in which some of these lines differ."""
    tables = [_flat(other.search | other.judging) for other in alike]
    mine = _flat(line.search | line.judging)
    keys = sorted({key for table in tables for key in table})
    keys = [key for key in keys if len({table.get(key) for table in tables}) > 1]
    keys.sort(key=lambda key: not key.startswith("options."))  # they say more than a digest of the data
    named = [f"{_last(key)}={mine[key]}" if key in mine else f"no {_last(key)}" for key in keys]
    return named if len(named) <= SHOWN else [*named[:SHOWN], f"{len(named) - SHOWN} more options"]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Nested facts as dotted keys; digests are cut."""
    return {key: text[:8] if len(text) >= 64 else text for key, text in dotted(facts).items()}
