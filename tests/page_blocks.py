"""A page with every kind of block, for tests of the page itself."""

import math

from reports.pages.blocks import (
    Axis,
    Bars,
    Block,
    Code,
    Gallery,
    Lines,
    Mark,
    Matrix,
    Point,
    Scatter,
    Section,
    Series,
    TableBlock,
    Text,
)
from reports.table import Column, Table, Value

WHY = "a sentence that is wider than a phone together with the figures before it"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def table(name: str = "") -> TableBlock:
    """Four cells: numbers whose order as text is another one, one that is missing, one that is not finite."""
    columns = [
        Column("cell"),
        Column("success", better="high"),
        Column("seconds", "s", better="low"),
        Column("verdict"),
        Column("why"),
    ]
    rows = [
        [f"b{name}", Value(0.5, 0.4, 0.6, 2), Value(9.5), "slower", WHY],
        [f"a{name}", Value(0.25, 0.1, 0.4, 2), Value(10.5), "reference", WHY],
        [f"d{name}", None, Value(100.0), "partial", WHY],
        [f"c{name}", Value(0.75, 0.7, 0.8, 2), Value(math.nan), "faster", WHY],
    ]
    return TableBlock("cells", Table(f"Cells{name}", columns, rows, [f"A note{name}."], {2: "bad"}))


def scatter(name: str = "") -> Scatter:
    """By error and speed the front is "best" and "fast"; by success it is "fast" alone."""
    axes = {
        "error": Axis(f"error{name}", better="low"),
        "success": Axis("success rate", better="high"),
        "speed": Axis("speed", "1/s", log=True, better="high"),
        "energy": Axis("energy", "J", better="low"),
    }

    def point(label: str, group: str, shape: str, error: float, success: float, speed: float) -> Point:
        values = {
            "error": (error, error * 0.8, error * 1.2),
            "success": (success, None, None),
            "speed": (speed, speed * 0.9, speed * 1.1),
        }
        return Point(label + name, group + name, shape + name, values)

    points = [
        point("best", "ac-re", "eager", 0.01, 0.6, 1.0),
        point("beaten", "ac-re", "compile", 0.03, 0.5, 0.5),
        point("fast", "diffae-re", "compile", 0.02, 0.9, 8.0),
    ]
    return Scatter("pareto", f"Quality{name}", axes, "speed", "error", ["speed", "energy"], ["error", "success"],
                   points, f"Each point is a cell{name}.")  # fmt: skip


def lines(name: str = "") -> Lines:
    """Two charts to choose from; the first has a band, thin lines, a dashed one, and a gap where a value is NaN."""
    falling = [(float(step), 0.5 * 0.8**step, 0.4 * 0.8**step, 0.6 * 0.8**step) for step in range(1, 9)]
    broken = [(1.0, 0.4, None, None), (2.0, 0.3, None, None), (3.0, math.nan, None, None), (4.0, 0.2, None, None),
              (5.0, 0.1, None, None)]  # fmt: skip
    first = [
        Series(f"ac-re{name}", falling, f"ac-re{name}"),
        Series(f"broken{name}", broken),
        *(Series(f"image {place}{name}", falling[place:], f"images{name}", thin=True) for place in range(3)),
        Series(f"tolerance{name}", [(1.0, 0.05, None, None), (8.0, 0.05, None, None)], dashed=True),
    ]
    choices = {f"methods{name}": first, f"backends{name}": [Series(f"onnx{name}", falling)]}
    return Lines(
        "budget", f"Error{name}", Axis("iterations"), Axis("error", zero=True), choices, f"Lower is better{name}."
    )


def trend(name: str = "") -> Lines:
    """Nights with whiskers, and a change of commit."""
    night = 86_400.0
    points = [(1.79e9 + night * place, 2.0 + place / 10, 1.9, 3.5) for place in range(10)]
    choices = {"all": [Series(f"eager{name}", points)]}
    marks = [Mark(1.79e9 + night * 4, f"7712ab7{name}")]
    alt = f"A point a night{name}."
    return Lines("trend", f"Nights{name}", Axis("night", date=True), Axis("seconds", "s"), choices, alt, marks, True)


def bars(name: str = "") -> Bars:
    parts = [f"build{name}", "search", "refine"]
    values = {"eager": (1.0, 5.0, 0.5), "compile": (3.0, 2.0, 0.5)}
    drawn = {f"{label}{name}": dict(zip(parts, value, strict=True)) for label, value in values.items()}
    return Bars("stages", f"Seconds by phase{name}", "s", parts, drawn, f"Where the time goes{name}.")


def matrix(name: str = "") -> Matrix:
    values = ([[0.0, 0.5], [None, 1.0]], [[3, 4], [0, 5]])
    choices = {f"eager{name}": values, "onnx": ([[1.0, 1.0], [None, 0.25]], [[3, 4], [0, 5]])}
    return Matrix("bins", f"Success{name}", f"start{name}", "target", [f"low{name}", "high"], ["low", f"high{name}"],
                  choices, 0.0, 1.0, f"Share of valid samples{name}.")  # fmt: skip


def gallery(name: str = "") -> Gallery:
    """One sample without pictures."""
    item = {"id": f"sample{name}", "sample": 0, "cell": 0, "state": "failed", "failure": f"blank{name}"}
    return Gallery("gallery", [f"ac-re{name}"], [item | {"figures": {"start": 0.5, "target": 0.9}}], [], PIXEL, 0.5)


def page_sections(name: str = "") -> list[Section]:
    """A section a block; `name` stands in every text that comes from users."""
    blocks: list[Block] = [
        table(name),
        scatter(name),
        lines(name),
        trend(name),
        bars(name),
        matrix(name),
        gallery(name),
    ]
    shown = [
        Section(f"part-{block.id}", f"Part {block.id}{name}", [block], f"How to read it{name}.") for block in blocks
    ]
    texts: list[Block] = [
        *(Text(f"A text{name}", tone) for tone in ("plain", "note", "warning", "bad")),
        Code(f"Command{name}", f"python -m bench run{name}"),
    ]
    return [*shown, Section("repeat", f"How to repeat it{name}", texts, folded=True)]
