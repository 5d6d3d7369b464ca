"""Every cell with its figures, their intervals and a verdict; published figures beside them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from reports.pages.blocks import Block, Section, TableBlock, Text
from reports.pages.views import by_dataset
from reports.pairs import MEANINGLESS, CellVerdict, margins_of, verdicts
from reports.quoted import HEADINGS, TITLE, columns, quoted_rows
from reports.records import Cell
from reports.table import Column, Entry, Table, Value
from reports.tables import CAPTION, summary_table

INTRO = (
    "One row is a cell: a dataset, a method, a backend and a seed. Brackets are 95 % bootstrap intervals over images; "
    "every figure is computed on the saved images. The verdict says whether a backend's counterfactuals are as good as "
    "the reference's on the same images: bit-identical, numerically equal, equivalent within the margins, different, "
    "or inconclusive where there are too few images."
)


def build(cells: Sequence[Cell]) -> Section | None:
    """A table of the cells of every dataset, then what was published on it."""
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
    return replace(table, caption=f"{dataset or 'Cells'}: {CAPTION}", notes=notes, tones=tones)


def _warnings(cells: Sequence[Cell], given: dict[int, CellVerdict]) -> list[str]:
    """What a reader should not miss below the table."""
    unfinished = [cell.label for cell in cells if not cell.finished]
    empty = [cell.label for cell in cells if given[id(cell)].text == MEANINGLESS]
    told = []
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
