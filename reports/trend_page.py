"""The page of a trend: latest figures, steps, a chart a metric and machine, and the nights."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from reports.pages.blocks import Axis, Block, Lines, Mark, Section, Series, TableBlock, Text
from reports.pages.render import render, write_html
from reports.table import Column, Entry, Table, Value
from reports.trend import Latest, Trend, moment
from reports.trend_lines import Change, Line, Point
from reports.trend_records import Night, software_changes
from reports.trend_steps import LEAST, NIGHTS, VISIBLE

TOLD = 3
"""Nights with a step that a chart's description names."""
MARKED = 20
"""Nights up to which every one has a marker; more of them are a line with a band."""
HOW_TO_READ = (
    "A point is a night. Its band is the 95 % interval over images where the night measured a cell once; where it "
    "repeated the cell, the point is the median and the band runs from the smallest to the largest repeat. A vertical "
    "line is the first night with another commit; a line is interrupted where a night has no figure."
)
RULE = (
    f"A step is where up to {NIGHTS} nights before and up to {NIGHTS} from a night on, at least {LEAST} on each side, "
    "do not overlap, the space between them is wider than the spread of either side, and their medians differ by "
    f"{100 * VISIBLE:g} % or more; of a hundred steady figures one may show a step by chance. It says when a figure "
    "changed, not why: the commits named are the last one measured before and the first one measured after."
)


def _latest_section(trend: Trend) -> Section:
    blocks: list[Block] = []
    for number, machine in enumerate(trend.machines):
        blocks.append(TableBlock(f"latest-{number}", _latest_table(trend, machine)))
    intro = "The change is in percent of the night before and is no verdict: python -m bench gate judges two nights."
    return Section("latest", "Latest nights", blocks, intro)


def _latest_table(trend: Trend, machine: str) -> Table:
    columns = [Column("cell"), Column("metric"), Column("latest"), Column("previous"), Column("change", "%")]
    columns += [Column(name) for name in ("best", "best on (UTC)", "night (UTC)", "commit")]
    table = Table(f"{machine}: latest figures against the night before and the best night", columns, [])
    for row, found in enumerate(found for found in trend.latest if found.line.machine == machine):
        table.rows.append(_latest_row(found))
        if found.stale or not found.latest.trusted:
            table.tones[row] = "warning"
    if table.tones:
        table.notes.append("Marked rows: a later night has no such figure, or its timings are flagged.")
    table.notes.append("Best leaves out nights with flagged timings; there is none where neither direction is good.")
    return table


def _latest_row(found: Latest) -> list[Entry]:
    decimals, night, best = found.metric.decimals, found.latest.night, found.best
    return [
        found.line.label,
        found.metric.named,
        _value(found.latest, decimals),
        None if found.previous is None else _value(found.previous, decimals),
        None if found.change is None else Value(found.change, decimals=1),
        None if best is None else Value(best.value, decimals=decimals),
        None if best is None else moment(best.night.time),
        moment(night.time),
        night.code.short,
    ]


def _value(point: Point, decimals: int | None) -> Value:
    return Value(point.value, point.low, point.high, decimals)


def _steps_section(trend: Trend) -> Section:
    blocks: list[Block] = []
    if trend.changes:
        columns = [Column("cell"), Column("metric"), Column("verdict"), Column("before"), Column("after")]
        columns += [Column("change", "%"), Column("first night (UTC)"), Column("commit"), Column("last commit before")]
        columns += [Column("changed besides"), Column("machine")]
        table = Table("Steps", columns, [_step_row(change) for change in trend.changes])
        tones = {"worse": "bad", "better": "good"}
        table.tones.update({row: tones.get(change.verdict, "warning") for row, change in enumerate(trend.changes)})
        blocks.append(TableBlock("steps-table", table))
    elif max(len(line.readings) for line in trend.lines) < 2 * LEAST:
        blocks.append(Text(f"No cell has {2 * LEAST} nights yet, and fewer show no step.", "note"))
    else:
        blocks.append(Text("No figure took a step."))
    return Section("steps", "Steps", blocks, RULE)


def _step_row(change: Change) -> list[Entry]:
    decimals, same = change.metric.decimals, change.first.code == change.last.code
    percent = 100 * (change.after / change.before - 1) if change.before else None
    return [
        change.line.label,
        change.metric.named,
        change.verdict,
        Value(change.before, decimals=decimals),
        Value(change.after, decimals=decimals),
        None if percent is None else Value(percent, decimals=1),
        moment(change.first.time),
        "no change of commit" if same else change.first.code.short,
        change.last.code.short,
        ", ".join(software_changes(change.last, change.first)) or "nothing recorded",
        change.line.machine,
    ]


def _marks(nights: Sequence[Night]) -> list[Mark]:
    """The first night of every other code."""
    return [Mark(night.time, night.code.short) for before, night in pairwise(nights) if night.code != before.code]


def _series(line: Line, key: str) -> list[Series]:
    """A line with its gaps as points without a value; one more for every other definition of the metric."""
    points = line.points(key)
    current = points[-1].definition
    found = []
    for definition in dict.fromkeys(point.definition for point in points):
        mine = {
            point.night.time: (point.value, point.low, point.high) for point in points if point.definition == definition
        }
        first, last = min(mine), max(mine)
        mine |= {night.time: (math.nan, None, None) for night in line.gaps if first < night.time < last}
        name = line.short if definition == current else f"{line.short} (defined otherwise)"
        found.append(Series(name, [(time, *mine[time]) for time in sorted(mine)], group=line.short))
    return found


def _chart(trend: Trend, machine: int, number: int, key: str) -> Lines | None:
    """A metric on one machine; the reader picks dataset and method, the lines are backends."""
    name = trend.machines[machine]
    lines = [line for line in trend.lines if line.machine == name and key in line.metrics]
    if not lines:
        return None
    metric = lines[0].metric(key)
    several = len({line.dataset for line in lines}) > 1
    choices: dict[str, list[Series]] = {}
    for line in lines:
        title = f"{line.dataset}, {line.method}" if several else line.method
        choices.setdefault(title, []).extend(_series(line, key))
    nights = [night for night in trend.nights if night.machine == name]
    steps = [change for line in lines for change in line.changes(key)]
    better = {"low": " Lower is better.", "high": " Higher is better.", "": ""}[metric.better]
    alt = f"{metric.title} over nights on {name}, one line a backend.{better}"
    alt += _told_steps(steps)
    return Lines(
        id=f"chart-{machine}-{number}",
        title=metric.title,
        x=Axis("night", date=True),
        y=Axis(metric.title, metric.unit),
        choices=choices,
        alt=alt,
        marks=_marks(nights),
        markers=len(nights) <= MARKED,
    )


def _told_steps(steps: Sequence[Change]) -> str:
    """The steps of a chart, those of one night together, the latest first."""
    nights: dict[tuple[float, str], list[str]] = {}
    for change in sorted(steps, key=lambda change: -change.first.time):
        nights.setdefault((change.first.time, change.first.code.short), []).append(change.line.label)
    told = [f"{moment(time)[:10]} with {code} ({'; '.join(labels)})" for (time, code), labels in nights.items()]
    more = f" and {len(told) - TOLD} earlier ones" if len(told) > TOLD else ""
    return f" Steps: {', '.join(told[:TOLD])}{more}." if told else ""


def _chart_sections(trend: Trend) -> list[Section]:
    """The metrics that stand first, and folded all others, of every machine."""
    sections = []
    for machine, name in enumerate(trend.machines):
        for folded, keys in ((False, trend.keys), (True, trend.others)):
            start = len(trend.keys) if folded else 0
            charts = [_chart(trend, machine, start + number, key) for number, key in enumerate(keys)]
            blocks: list[Block] = [chart for chart in charts if chart is not None]
            if blocks:
                title = "Other figures" if folded else "Figures"
                title += f", {name}" if len(trend.machines) > 1 else ""
                section = f"{'others' if folded else 'figures'}-{machine}"
                sections.append(Section(section, title, blocks, "" if folded else HOW_TO_READ, folded))
    return sections


def _nights_section(trend: Trend) -> Section:
    columns = [Column(name) for name in ("night (UTC)", "machine", "commit", "suites", "finished cells")]
    table = Table("Nights", [*columns, Column("missing"), Column("timings flagged")], [])
    for row, night in enumerate(reversed(trend.nights)):
        cells = [cell for run in night.runs for cell in run.cells]
        finished = sum(cell.status == "ok" for cell in cells)
        planned = len(cells) + sum(len(run.missing) for run in night.runs)
        table.rows.append(
            [
                moment(night.time),
                night.machine,
                night.code.short,
                len(night.runs),
                f"{finished} of {planned}",
                "; ".join(night.unfinished) or None,
                "; ".join(night.flags) or None,
            ]
        )
        if night.unfinished:
            table.tones[row] = "bad"
        elif night.flags:
            table.tones[row] = "warning"
    blocks: list[Block] = [TableBlock("nights-table", table)]
    blocks += [Text(f"{unread.path} cannot be read: {unread.reason}", "bad") for unread in trend.unread]
    intro = "Runs of one commit that start on one machine within twelve hours are one night. Suites of verify are none."
    return Section("nights", "Nights", blocks, intro)


def _banner(trend: Trend) -> str:
    """What is wrong with the latest night of a machine, and records that cannot be read; a line each."""
    told = []
    latest = {night.machine: night for night in trend.nights}
    for machine, night in latest.items():
        if night.unfinished:
            first, *others = night.unfinished
            more = f", and {len(others)} more" if others else ""
            told.append(f"The latest night on {machine} ({moment(night.time)}) is incomplete: {first}{more}.")
    if trend.unread:
        told.append(f"{len(trend.unread)} records cannot be read; they are listed under Nights.")
    return "\n".join(told)


def sections(trend: Trend) -> list[Section]:
    """The parts of the page."""
    return [_latest_section(trend), _steps_section(trend), *_chart_sections(trend), _nights_section(trend)]


def render_trend(trend: Trend) -> bytes:
    """The page."""
    first, last = trend.nights[0], trend.nights[-1]
    facts = {
        "nights": f"{len(trend.nights)} on all machines, {moment(first.time)} to {moment(last.time)} UTC",
        "machines": "; ".join(trend.machines),
        "latest commit": last.code.short,
    }
    return render("Figures over nights", _banner(trend), facts, sections(trend))


def write_trend(trend: Trend, path: Path) -> Path:
    """Write the page whole or not at all; returns `path`.

    Raises:
        UsageError: the file cannot be written.
    """
    return write_html(path, render_trend(trend))
