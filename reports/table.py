"""One table, many renderings: a page, CSV, Markdown, LaTeX (booktabs)."""

import csv
import io
import math
import re
from dataclasses import dataclass, field, replace
from typing import Literal

RESIZED_FROM = 6
"""Tables of more columns are shrunk to the width of a LaTeX page."""
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""A spreadsheet takes a cell that begins with one of these for a formula; the last four are their wide forms."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.IGNORECASE)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "{''}",  # a bare one is a command in some languages of babel
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\0": "{}",
    "[": "{[}",  # a bare one at the start of a row is an argument of the row before
    "*": "{*}",  # likewise
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    "µ": r"$\mu$",
    "²": "$^2$",
    "³": "$^3$",
    "°": r"$^\circ$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "\u00a0": "~",
}


@dataclass(frozen=True)
class Value:
    """A figure with its interval, as it is to be shown.

    Attributes:
        value: None where nothing was measured.
        decimals: shown after the point; None: four significant digits.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    decimals: int | None = None


Entry = Value | str | int | None
"""None is shown as a dash."""


@dataclass(frozen=True)
class Column:
    """Attributes:
    better: which entry is the best one, for tables that mark it.
    paper: a table for a paper has this column; where no column is marked, it has all.
    """

    heading: str
    unit: str = ""
    better: Literal["low", "high", ""] = ""
    paper: bool = False

    @property
    def title(self) -> str:
        """The heading with its unit: "build (s)"."""
        return f"{self.heading} ({self.unit})" if self.unit not in ("", "1") else self.heading


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        rows: one entry a column each.
        tones: row number -> "bad", "warning" or "good", for rows that want attention; a bad row is never the best.
        bold: LaTeX marks the best entry of a column where its interval lies apart from all others.
    """

    caption: str
    columns: list[Column]
    rows: list[list[Entry]]
    notes: list[str] = field(default_factory=list)
    tones: dict[int, str] = field(default_factory=dict)
    bold: bool = False


def format_entry(entry: Entry) -> str:
    """For people: "0.130 [0.121, 0.140]"; a dash where nothing was measured, "NaN" and "inf" as they are."""
    if entry is None or (isinstance(entry, Value) and entry.value is None):
        return "-"
    if not isinstance(entry, Value):
        return str(entry)
    text, interval = _parts(entry)
    return f"{text} {interval}" if interval else text


def format_number(value: float, decimals: int | None) -> str:
    """A number with so many decimals, or with four significant digits (integers from 1000 on are shown in full)."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if decimals is not None:
        return f"{value:z.{decimals}f}"  # z: no minus before a rounded zero
    return f"{value:z.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:z.4g}"


def to_csv(table: Table) -> str:
    """Comma-separated values with a heading: figures in full, their limits in two further columns.

    What a spreadsheet would run as a formula is text there: a leading apostrophe guards it.
    """
    ranged = [any(_has_interval(row[place]) for row in table.rows) for place in range(len(table.columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heading: list[str] = []
    for column, has_limits in zip(table.columns, ranged, strict=True):
        title = _guarded(column.title)
        heading += [title, f"{title} low", f"{title} high"] if has_limits else [title]
    writer.writerow(heading)
    for row in table.rows:
        cells: list[str] = []
        for entry, has_limits in zip(row, ranged, strict=True):
            cells.append(_exact(entry))
            if has_limits:
                low, high = (entry.low, entry.high) if _has_interval(entry) else (None, None)
                cells += [_exact(Value(low)), _exact(Value(high))]
        writer.writerow(cells)
    return out.getvalue()


def to_markdown(table: Table) -> str:
    """A table in GitHub's Markdown, with its caption above and its notes below; markup in texts is escaped."""
    numeric = [_is_numeric(table, place) for place in range(len(table.columns))]
    lines = [f"**{markdown_text(table.caption)}**", ""]
    lines.append(_markdown_row([markdown_text(column.title) for column in table.columns]))
    lines.append(_markdown_row(["---:" if number else "---" for number in numeric]))
    for row in table.rows:
        lines.append(_markdown_row([_markdown_entry(entry) for entry in row]))
    if table.notes:
        lines += ["", *(f"- {markdown_text(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_latex(table: Table, everything: bool = False) -> str:
    """A `table` environment with booktabs' rules: rows as they are, intervals small, the best of a column bold.

    Texts are escaped; what plain LaTeX has no character for is written as its number, [U+1F600]. Needs the packages
    booktabs and, for wide tables, graphicx.

    Args:
        everything: all columns instead of a paper's.
    """
    table = table if everything else _for_paper(table)
    wide = len(table.columns) > RESIZED_FROM
    environment = "table*" if wide else "table"
    best = [_best(table, place) for place in range(len(table.columns))]
    alignment = "".join("r" if _is_numeric(table, place) else "l" for place in range(len(table.columns)))
    label = re.sub(r"[^a-z0-9]+", "-", table.caption.lower()).strip("-")[:40].rstrip("-") or "table"
    lines = [
        f"% needs \\usepackage{{booktabs}}{' and graphicx' if wide else ''}",
        f"\\begin{{{environment}}}",
        "  \\centering",
        f"  \\caption{{{latex_text(table.caption)}}}",
        f"  \\label{{tab:{label}}}",
        *(["  \\resizebox{\\textwidth}{!}{%"] if wide else []),
        f"  \\begin{{tabular}}{{{alignment}}}",
        "    \\toprule",
        f"    {_latex_row([latex_text(column.title) for column in table.columns])}",
        "    \\midrule",
    ]
    for number, row in enumerate(table.rows):
        entries = [_latex_entry(entry, number == best[place]) for place, entry in enumerate(row)]
        lines.append(f"    {_latex_row(entries)}")
    lines += ["    \\bottomrule", "  \\end{tabular}" + ("}" if wide else "")]
    lines += [f"  \\par\\footnotesize {latex_text(note)}" for note in table.notes]
    return "\n".join([*lines, f"\\end{{{environment}}}"]) + "\n"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line, inside or outside a table."""
    escaped = re.sub(r"([\\|`*\[\]~])", r"\\\1", _one_line(text))
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    apart = _one_line(text).replace("--", "-\0-").replace("--", "-\0-")  # two hyphens would be printed as a dash
    return "".join(_latex_character(character) for character in apart)


def printable(text: str) -> str:
    """Text without what a terminal or an editor would act on: control, direction and stray characters as escapes."""
    kept = "\n\t\u00a0"
    return "".join(
        character if character.isprintable() or character in kept else character.encode("unicode_escape").decode()
        for character in text
    )


def _parts(entry: Value) -> tuple[str, str]:
    """The number, and its interval or nothing."""
    assert entry.value is not None
    text = format_number(entry.value, entry.decimals)
    if not _has_interval(entry) or entry.low is None or entry.high is None:
        return text, ""
    return text, f"[{format_number(entry.low, entry.decimals)}, {format_number(entry.high, entry.decimals)}]"


def _has_interval(entry: Entry) -> bool:
    if not isinstance(entry, Value) or entry.value is None or entry.low is None or entry.high is None:
        return False
    return not any(math.isnan(number) for number in (entry.value, entry.low, entry.high))


def _is_numeric(table: Table, place: int) -> bool:
    """Whether a column is to be set flush right: it holds numbers, and no text."""
    entries = [row[place] for row in table.rows]
    return any(isinstance(entry, Value | int) for entry in entries) and not any(isinstance(e, str) for e in entries)


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _exact(entry: Entry) -> str:
    """A cell of CSV: a number in full, nothing where nothing was measured, text that is no formula."""
    if entry is None or (isinstance(entry, Value) and entry.value is None):
        return ""
    if isinstance(entry, Value):
        return repr(float(entry.value))
    return _guarded(str(entry))


def _guarded(text: str) -> str:
    formula = text.lstrip(" ").startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    plain = printable(text.replace("\r\n", "\n").replace("\r", "\n"))
    return f"'{plain}" if formula else plain


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_entry(entry: Entry) -> str:
    return markdown_text(entry) if isinstance(entry, str) else format_entry(entry)


def _for_paper(table: Table) -> Table:
    """The same table with the columns that a paper has room for."""
    kept = [place for place, column in enumerate(table.columns) if column.paper]
    if not kept:
        return table
    rows = [[row[place] for place in kept] for row in table.rows]
    return replace(table, columns=[table.columns[place] for place in kept], rows=rows)


def _best(table: Table, place: int) -> int | None:
    """The row with the best figure of a column; None unless its interval lies apart from the interval of every other.

    A smaller difference is no more than noise, so without intervals there is no best one.
    """
    better = table.columns[place].better
    ranged = {number: _range(row[place]) for number, row in enumerate(table.rows) if table.tones.get(number) != "bad"}
    known = {number: limits for number, limits in ranged.items() if limits is not None}
    measured = [number for number in ranged if _is_measured(table.rows[number][place])]
    if not (table.bold and better and len(known) == len(measured) > 1):
        return None
    if better == "high":
        best = max(known, key=lambda number: known[number][0])
        apart = all(known[best][0] > high for number, (_, high) in known.items() if number != best)
    else:
        best = min(known, key=lambda number: known[number][1])
        apart = all(known[best][1] < low for number, (low, _) in known.items() if number != best)
    return best if apart else None


def _is_measured(entry: Entry) -> bool:
    return isinstance(entry, Value) and entry.value is not None and math.isfinite(entry.value)


def _range(entry: Entry) -> tuple[float, float] | None:
    """The interval of a finite figure; None where there is none."""
    if not (_is_measured(entry) and _has_interval(entry)):
        return None
    assert isinstance(entry, Value) and entry.low is not None and entry.high is not None
    return entry.low, entry.high


def _latex_row(cells: list[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex_entry(entry: Entry, bold: bool) -> str:
    if entry is None or (isinstance(entry, Value) and entry.value is None):
        return "--"
    if not isinstance(entry, Value):
        return latex_text(str(entry))
    number, interval = (text.replace("-", "$-$") for text in _parts(entry))
    number = f"\\textbf{{{number}}}" if bold else number
    return f"{number} {{\\scriptsize {interval}}}" if interval else number


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    return character if character < "\u0180" else f"[U+{ord(character):04X}]"
