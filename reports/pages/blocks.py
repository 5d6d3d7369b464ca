"""What a page is made of: sections of blocks. Plain data; the template and the scripts turn it into a page."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from reports.table import Table

Tone = Literal["plain", "note", "warning", "bad"]


@dataclass(frozen=True)
class Text:
    """A paragraph; plain text, escaped."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Code:
    """Preformatted text with a copy button, such as a command or a configuration."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


@dataclass(frozen=True)
class TableBlock:
    """A sortable table that can be copied as CSV, Markdown and LaTeX."""

    kind: ClassVar[str] = "table"
    id: str
    table: Table


@dataclass(frozen=True)
class Axis:
    """Of a chart.

    Attributes:
        unit: "" for a number without one.
        log: logarithmic.
        better: where the good values are; only where a Pareto front is drawn.
        zero: the axis starts at 0.
        date: values are seconds since 1970, shown as UTC dates.
        low, high: fixed ends; None: from the data.
    """

    label: str
    unit: str = ""
    log: bool = False
    better: Literal["low", "high", ""] = ""
    zero: bool = False
    date: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A line: points (x, y, low, high) by rising x; low and high are None where there is no interval.

    Attributes:
        group: series of one group have one colour; empty: the name.
        dashed: drawn dashed, e.g. the line of perfect agreement.
        thin: one of many, in the background.
    """

    name: str
    points: list[tuple[float, float, float | None, float | None]]
    group: str = ""
    dashed: bool = False
    thin: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at x with a short text, e.g. a change of commit."""

    x: float
    text: str


@dataclass(frozen=True)
class Lines:
    """A line chart; bands are intervals.

    Attributes:
        choices: title -> series, where the reader picks which one is shown; else one entry. Titles are no bare
            integers, which scripts would put in an order of their own; nor are labels of bars.
        alt: what the chart shows, in words.
        markers: points are drawn as well.
    """

    kind: ClassVar[str] = "lines"
    id: str
    title: str
    x: Axis
    y: Axis
    choices: dict[str, list[Series]]
    alt: str
    marks: list[Mark] = field(default_factory=list)
    markers: bool = False


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot.

    Attributes:
        group: decides the colour (the method), `shape` the marker (the backend).
        values: axis key -> (value, low, high); an axis that it lacks leaves the point out.
    """

    name: str
    group: str
    shape: str
    values: dict[str, tuple[float, float | None, float | None]]


@dataclass(frozen=True)
class Scatter:
    """A scatter plot with error bars, the reader's choice of axes, and the Pareto front of the chosen two."""

    kind: ClassVar[str] = "scatter"
    id: str
    title: str
    axes: dict[str, Axis]
    x: str
    y: str
    x_choices: list[str]
    y_choices: list[str]
    points: list[Point]
    alt: str


@dataclass(frozen=True)
class Bars:
    """Horizontal stacked bars: label -> part -> value; parts in the order of `parts`."""

    kind: ClassVar[str] = "bars"
    id: str
    title: str
    unit: str
    parts: list[str]
    bars: dict[str, dict[str, float]]
    alt: str


@dataclass(frozen=True)
class Matrix:
    """A table whose cells are coloured between low and high; None where there is nothing.

    Attributes:
        choices: title -> (values, counts), each [row][column]; the reader picks one.
    """

    kind: ClassVar[str] = "matrix"
    id: str
    title: str
    row_label: str
    column_label: str
    rows: list[str]
    columns: list[str]
    choices: dict[str, tuple[list[list[float | None]], list[list[int]]]]
    low: float
    high: float
    alt: str


@dataclass(frozen=True)
class Gallery:
    """Pictures of samples, paged and sortable in the page.

    Attributes:
        cells: labels of the cells that samples belong to.
        items: a sample each; see `reports.pages.sections.gallery`.
        pictures: data URIs of all pictures, each once; items name them by their place.
        scale: data URI of the colour bar, `limit` the difference that its ends stand for.
    """

    kind: ClassVar[str] = "gallery"
    id: str
    cells: list[str]
    items: list[dict]
    pictures: list[str]
    scale: str
    limit: float


Block = Text | Code | TableBlock | Lines | Scatter | Bars | Matrix | Gallery
Chart = Lines | Scatter | Bars | Matrix


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and an entry in the table of contents.

    Attributes:
        intro: how to read it, one to three sentences.
        folded: shown closed.
    """

    id: str
    title: str
    blocks: list[Block]
    intro: str = ""
    folded: bool = False
