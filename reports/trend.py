"""Figures over nights: what `trend` shows, in the terminal, as JSON and (`reports.trend_page`) as a page."""

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from bench.errors import UsageError
from reports.table import format_number, printable
from reports.trend_lines import Change, Line, Point, lines_of
from reports.trend_metrics import HEADLINE, TERMINAL, Metric, check_keys, ordered
from reports.trend_records import Night, Unread, find_runs, nights_of

SCHEMA = 1
MESSAGES = 10
"""Lines of one kind below the terminal's tables."""


@dataclass(frozen=True)
class Latest:
    """A metric's latest figure beside the night before and the best of all.

    Attributes:
        best: None where neither direction is good.
    """

    line: Line
    metric: Metric
    latest: Point
    previous: Point | None
    best: Point | None

    @property
    def change(self) -> float | None:
        """Since the previous night, in percent of it."""
        if self.previous is None:
            return None
        if self.latest.value == self.previous.value:
            return 0.0
        return 100 * (self.latest.value / self.previous.value - 1) if self.previous.value else None

    @property
    def stale(self) -> bool:
        """A later night was to give this figure and did not."""
        return any(night.time > self.latest.night.time for night in self.line.gaps)


@dataclass(frozen=True)
class Trend:
    """Attributes:
    nights, lines: by time; by machine and cell.
    wanted: metrics that were asked for; empty: all.
    unread: records that could not be read.
    """

    nights: list[Night]
    lines: list[Line]
    wanted: tuple[str, ...]
    unread: list[Unread]

    @property
    def machines(self) -> list[str]:
        """Those with figures."""
        return list(dict.fromkeys(line.machine for line in self.lines))

    @cached_property
    def keys(self) -> list[str]:
        """Metrics that stand first: those asked for, else the headline ones that some record has."""
        return list(self.wanted) or [key for key in HEADLINE if key in self.known] or self.known

    @cached_property
    def others(self) -> list[str]:
        """All other metrics; none where some were asked for."""
        return [] if self.wanted else [key for key in self.known if key not in self.keys]

    @cached_property
    def known(self) -> list[str]:
        """Every metric of some record."""
        return ordered({key for line in self.lines for key in line.metrics})

    @cached_property
    def latest(self) -> list[Latest]:
        """Of every line and metric that stands first."""
        return [found for key in self.keys for line in self.lines if (found := latest(line, key)) is not None]

    @cached_property
    def changes(self) -> list[Change]:
        """Steps of the metrics that stand first, the latest first."""
        found = [change for key in self.keys for line in self.lines for change in line.changes(key)]
        return sorted(found, key=lambda change: -change.first.time)

    @property
    def unfinished(self) -> list[Night]:
        """Nights in which something has no figures."""
        return [night for night in self.nights if night.unfinished]


def latest(line: Line, key: str) -> Latest | None:
    """A metric's latest figure on a line; None where it has none."""
    points, metric = line.current(key) if key in line.metrics else [], line.metric(key)
    if not points:
        return None
    good = [point for point in points if point.trusted] if metric.better else []
    value = (lambda point: point.value) if metric.better == "low" else (lambda point: -point.value)
    return Latest(line, metric, points[-1], points[-2] if len(points) > 1 else None, min(good, key=value, default=None))


def read_trend(folders: Iterable[Path], metrics: Sequence[str] = (), names: str = "") -> Trend:
    """The trend of every suite under some folders.

    Args:
        metrics: keys to show ("group/name", "timings/name"); none: all.
        names: what errors call the folders.

    Raises:
        UsageError: no record with a finished cell there, or a metric that no record has.
    """
    folders = list(folders)
    names = names or ", ".join(map(str, folders))
    missing = next((folder for folder in folders if not folder.is_dir()), None)
    if missing is not None:
        raise UsageError(f"{missing} is not a folder; name one that holds suites")
    found = find_runs(folders)
    if not found.runs:
        reason = f" ({found.unread[0].path}: {found.unread[0].reason})" if found.unread else ""
        raise UsageError(f"no suite in {names}{reason}; name a folder that holds records, or --mlflow EXPERIMENT")
    nights = nights_of(found.runs)
    lines = lines_of(nights)
    if not lines:
        raise UsageError(f"no finished cell in {names}: {nights[-1].unfinished[0]}")
    trend = Trend(nights, lines, tuple(dict.fromkeys(metrics)), found.unread)
    check_keys(trend.wanted, trend.known)
    return trend


def moment(time: float) -> str:
    """Seconds since 1970 as "2026-11-23 04:42" (UTC)."""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def terminal_tables(trend: Trend) -> list[Table]:
    """A table a machine: a row a line, a column a metric, with the change since the night before."""
    keys = list(trend.wanted) or [key for key in TERMINAL if key in trend.known] or trend.known[:6]
    tables = []
    for machine in trend.machines:
        lines = [line for line in trend.lines if line.machine == machine]
        shown = [key for key in keys if any(key in line.metrics for line in lines)]
        table = Table(title=_text(f"{machine}: latest night, change since the one before"), title_justify="left")
        table.add_column("")
        table.add_column("night (UTC)")
        for key in shown:
            metric = next(line.metric(key) for line in lines if key in line.metrics)
            table.add_column(_text(metric.named), justify="right")
        for line in lines:
            found = [latest(line, key) for key in shown]
            nights = [entry.latest.night for entry in found if entry is not None]
            when = max(nights, key=lambda night: night.time) if nights else line.readings[-1].night
            table.add_row(
                _text(line.label),
                Text(f"{moment(when.time)}\n{printable(when.code.short)}"),
                *(_entry(entry) for entry in found),
            )
        tables.append(table)
    return tables


def _text(text: str) -> Text:
    """As it stands: brackets in it are no markup."""
    return Text(printable(text))


def _entry(found: Latest | None) -> str:
    if found is None:
        return "-"
    change = "" if found.change is None else f" ({found.change:+.1f} %)"
    flagged = "" if found.latest.trusted else " flagged"
    return f"{format_number(found.latest.value, found.metric.decimals)}{change}{flagged}"


def describe_change(change: Change) -> str:
    """A step in one sentence; names the commits between which it happened, and says no more than that."""
    metric = change.metric
    sizes = f"{format_number(change.before, metric.decimals)} to {format_number(change.after, metric.decimals)}"
    codes = (
        f"with {change.first.code.short}, after {change.last.code.short}"
        if change.first.code != change.last.code
        else f"without a change of commit ({change.first.code.short})"
    )
    return (
        f"{change.line.label}: {metric.title} {change.verdict}, {sizes}, from {moment(change.first.time)} on, {codes}"
    )


def messages(trend: Trend) -> list[str]:
    """Below the terminal's tables: steps, what is missing, flagged or could not be read; the latest of each first."""
    nights = list(reversed(trend.nights))
    parts = {
        "step": [describe_change(change) for change in trend.changes],
        "missing": [f"{_night(night)}: {reason}" for night in nights for reason in night.unfinished],
        "flagged": [f"{_night(night)}: {flag}" for night in nights for flag in night.flags],
        "unread": [f"{unread.path}: {unread.reason}" for unread in trend.unread],
    }
    told = []
    for word, texts in parts.items():
        told += [f"{word:<8} {printable(text)}" for text in texts[:MESSAGES]]
        if len(texts) > MESSAGES:
            told.append(f"{word:<8} {len(texts) - MESSAGES} more on the page")
    return told


def _night(night: Night) -> str:
    return f"{moment(night.time)} {night.code.short}"


def to_json(trend: Trend) -> dict[str, Any]:
    """Everything as plain data; times are ISO 8601 in UTC."""
    keys = [*trend.keys, *trend.others]
    return {
        "schema_version": SCHEMA,
        "lines": [
            {
                "machine": line.machine,
                "label": line.label,
                "dataset": line.dataset,
                "method": line.method,
                "backend": line.backend,
                "seed": line.seed,
                "missing": [_iso(night) for night in line.gaps],
                "metrics": {
                    key: {"unit": line.metric(key).unit, "nights": [_point(point) for point in line.points(key)]}
                    for key in keys
                    if key in line.metrics
                },
            }
            for line in trend.lines
        ],
        "steps": [_step(change) for change in trend.changes],
        "nights": [
            {
                "machine": night.machine,
                "time": _iso(night),
                "commit": night.code.commit,
                "dirty": night.code.dirty,
                "suites": len(night.runs),
                "missing": night.unfinished,
                "flags": night.flags,
            }
            for night in trend.nights
        ],
        "unread": {str(unread.path): unread.reason for unread in trend.unread},
    }


def _iso(night: Night) -> str:
    return datetime.datetime.fromtimestamp(night.time, datetime.UTC).isoformat(timespec="milliseconds")


def _point(point: Point) -> dict[str, Any]:
    return {
        "time": _iso(point.night),
        "commit": point.night.code.commit,
        "dirty": point.night.code.dirty,
        "value": point.value,
        "low": point.low,
        "high": point.high,
        "repeats": point.repeats,
        "trusted": point.trusted,
    }


def _step(change: Change) -> dict[str, Any]:
    return {
        "machine": change.line.machine,
        "label": change.line.label,
        "metric": change.metric.key,
        "verdict": change.verdict,
        "before": change.before,
        "after": change.after,
        "last": {"time": _iso(change.last), "commit": change.last.code.commit, "dirty": change.last.code.dirty},
        "first": {"time": _iso(change.first), "commit": change.first.code.commit, "dirty": change.first.code.dirty},
    }
