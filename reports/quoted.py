"""Published figures beside measured ones, marked as quoted."""

import tomllib
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from bench.record import SuiteRecord

QUOTED = Path(__file__).with_name("quoted.toml")
TITLE = "quoted from publications, not measured here: other networks and images, metrics as in mode paper"
HEADINGS = {
    "oracle_mae": "Oracle MAE",
    "fid": "FID",
    "fva": "FVA (%)",
    "fs": "FS",
    "mnac": "MNAC",
    "square_mae": "Square MAE",
    "background_mae": "Background MAE",
}
"""Figures of the published tables, in their order and units."""


class QuotedRow(BaseModel):
    """One method's row of a published table.

    Attributes:
        dataset: name of ours that the table is on.
        target: what the method aimed at.
        figures: keys of HEADINGS.
        checked: compared with the publication when it was written down.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    method: str
    target: str
    source: str
    checked: bool
    figures: dict[str, float]

    @property
    def label(self) -> str:
        """The source, and a warning where nobody looked it up."""
        return self.source if self.checked else f"{self.source}; not checked against the paper"


def quoted_rows(datasets: Iterable[str]) -> list[QuotedRow]:
    """The published rows on these datasets."""
    wanted = set(datasets)
    rows = [QuotedRow(**row) for row in tomllib.loads(QUOTED.read_text())["row"]]
    return [row for row in rows if row.dataset in wanted]


def columns(rows: list[QuotedRow]) -> list[str]:
    """The figures that some row has."""
    return [key for key in HEADINGS if any(key in row.figures for row in rows)]


def quoted_table(suite: SuiteRecord) -> Table | None:
    """The published rows on a suite's datasets, for the terminal; None where there are none."""
    rows = quoted_rows(cell.dataset for cell in suite.cells)
    if not rows:
        return None
    table = Table(title=TITLE, title_justify="left")
    for heading in ("method", "target"):
        table.add_column(heading, no_wrap=True)
    for key in columns(rows):
        table.add_column(HEADINGS[key], justify="right")
    table.add_column("source")
    for row in rows:
        figures = (f"{row.figures[key]:g}" if key in row.figures else "-" for key in columns(rows))
        table.add_row(row.method, row.target, *figures, row.label)
    return table
