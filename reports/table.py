"""One table, many renderings: a page, CSV, Markdown, LaTeX (booktabs)."""

from dataclasses import dataclass, field
from typing import Literal


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
    """Attributes: `better` marks the best entry where a table is in paper layout."""

    heading: str
    unit: str = ""
    better: Literal["low", "high", ""] = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        rows: one entry a column each.
        tones: row number -> "bad", "warning" or "good", for rows that want attention.
    """

    caption: str
    columns: list[Column]
    rows: list[list[Entry]]
    notes: list[str] = field(default_factory=list)
    tones: dict[int, str] = field(default_factory=dict)


def to_csv(table: Table) -> str:
    return ""


def to_markdown(table: Table) -> str:
    return ""


def to_latex(table: Table) -> str:
    return ""
