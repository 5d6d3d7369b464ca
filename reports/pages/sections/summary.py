"""Every cell with its figures, their intervals and a verdict; published figures beside them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from reports.pages.blocks import Block, Section, TableBlock, Text
from reports.pages.views import MEANINGLESS, by_dataset
from reports.pairs import CellVerdict, margins_of, verdicts
from reports.quoted import HEADINGS, TITLE, columns, quoted_rows
from reports.records import Cell
from reports.table import Column, Entry, Table, Value
from reports.tables import summary_table

INTRO = (
    "One row is a cell: a dataset, a method, a backend and a seed. Brackets are 95 % intervals "
    "(bootstrap over images; Wilson for rates); "
    "every figure is computed on the saved images. The verdict says whether a backend's counterfactuals are as good as "
    "the reference's on the same images: bit-identical, numerically equal, equivalent within the margins, different, "
    "or inconclusive where there are too few images."
)

CAPTION = "means and rates with 95 % intervals (bootstrap over images; Wilson for rates)"
FIRST = (
    "cell", "verdict", "success", "oracle-target", "Square MAE", "Background MAE", "s / image", "valid / s",
)  # fmt: skip
"""Headings of the columns that come first, so that they are in sight without scrolling; the others follow."""


def build(cells: Sequence[Cell]) -> Section | None:
    """A table of the cells of every dataset, then what was published on it; None where no cell was begun."""
    if not cells:
        return None
    given = {id(cell): verdict for cell, verdict in zip(cells, verdicts(cells), strict=True)}
    parts = by_dataset(cells)
    blocks: list[Block] = []
    for number, (dataset, mine) in enumerate(parts.items()):
        table = _table(mine, [given[id(cell)] for cell in mine], dataset if len(parts) > 1 else "")
        blocks.append(TableBlock(f"summary-{number}", table))
    blocks += [Text(text, "warning") for text in _warnings(cells, given)]
    quoted = _quoted(parts)
    if quoted.rows:
        blocks.append(TableBlock("summary-quoted", quoted))
    return Section("summary", "Summary", blocks, INTRO)


def _table(cells: Sequence[Cell], given: Sequence[CellVerdict], dataset: str) -> Table:
    notes = []
    for cell, verdict in zip(cells, given, strict=True):
        if verdict.reasons:
            reasons = "; ".join(reason.rstrip(".") for reason in verdict.reasons)
            whom = f"{cell.label} against {verdict.against}" if verdict.against else cell.label
            notes.append(f"{whom}: {verdict.text}; {reasons}.")
    if any(verdict.judged for verdict in given):
        notes += [
            f"Margins, which whole 90 % intervals have to keep: success rates within {margin.success_margin:g}, "
            f"ratios of oracle errors within {margin.target_error_margin:g} of 1, "
            f"predictions within {margin.prediction_tolerance:g}."
            for margin in dict.fromkeys(margins_of(cell) for cell in cells)
        ]
    tones = {number: verdict.tone for number, verdict in enumerate(given) if verdict.tone}
    table = summary_table(cells, [verdict.text for verdict in given])
    shown = _key_columns_first(table)
    return replace(shown, caption=f"{dataset or 'Cells'}: {CAPTION}", notes=notes, tones=tones)


def _key_columns_first(table: Table) -> Table:
    """The same table with the columns of `FIRST` in front."""
    headings = [column.heading for column in table.columns]
    first = [headings.index(heading) for heading in FIRST if heading in headings]
    order = [*first, *(place for place in range(len(headings)) if place not in first)]
    rows = [[row[place] for place in order] for row in table.rows]
    return replace(table, columns=[table.columns[place] for place in order], rows=rows)


def _warnings(cells: Sequence[Cell], given: dict[int, CellVerdict]) -> list[str]:
    """What a reader should not miss below the table."""
    unread = [cell.label for cell in cells if cell.problem]
    unfinished = [cell.label for cell in cells if not (cell.finished or cell.problem)]
    empty = [cell.label for cell in cells if given[id(cell)].text == MEANINGLESS]
    told = []
    if unread:
        told.append(f"Without figures, because they cannot be read: {'; '.join(unread)}.")
    if unfinished:
        told.append(f"Without figures, because they did not finish: {'; '.join(unfinished)}.")
    if empty:
        told.append(f"These counterfactuals mean nothing, only their speed does: {'; '.join(empty)}.")
    return told


def _quoted(datasets: Iterable[str]) -> Table:
    """Published figures on these datasets; without rows where there are none."""
    rows = quoted_rows(datasets)
    keys = columns(rows)
    headings = ["method", "target", *(HEADINGS[key] for key in keys), "source"]
    entries: list[list[Entry]] = [
        [
            row.method,
            row.target,
            *(Value(row.figures[key]) if key in row.figures else None for key in keys),
            row.label,
        ]
        for row in rows
    ]
    return Table(TITLE[0].upper() + TITLE[1:], [Column(heading) for heading in headings], entries)
