"""What has no counterfactual, and why: cells that failed, and samples."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from reports.pages.blocks import Block, Section, TableBlock, Text
from reports.records import Cell
from reports.table import Column, Entry, Table

MOST = 1000
"""Samples that are listed one by one."""
INTRO = (
    "A failed sample has no counterfactual at all and counts as not valid. One that has a counterfactual which "
    "misses its reference value is no failure: sort the gallery by error for those."
)


def build(cells: Sequence[Cell]) -> Section | None:
    """Failed cells with their errors, failures by reason, and every failed sample; None where no cell was begun."""
    if not cells:
        return None
    failed = [(cell, row) for cell in cells for row in _failed_rows(cell)]
    blocks: list[Block] = []
    broken = _broken_cells(cells)
    if broken.rows:
        blocks.append(TableBlock("failures-cells", broken))
    if failed:
        blocks += [TableBlock("failures-reasons", _reasons(failed)), TableBlock("failures-samples", _samples(failed))]
    if not blocks:
        return Section("failures", "Failures", [Text("No failures: every recorded sample has a counterfactual.")])
    return Section("failures", "Failures", blocks, INTRO)


def _failed_rows(cell: Cell) -> list[dict[str, Entry]]:
    """id, reason and iterations of a cell's failed samples, in their order."""
    frame = cell.samples
    if frame.empty:
        return []
    rows = frame[frame["failure"].notna()]
    column = "iterations" if "iterations" in rows else "steps"
    iterations: list[Entry] = [None if pd.isna(value) else int(value) for value in rows[column]]
    parts = zip(rows["id"], rows["failure"], iterations, strict=True)
    return [{"id": str(name), "reason": str(reason), "iterations": count} for name, reason, count in parts]


def _broken_cells(cells: Sequence[Cell]) -> Table:
    rows: list[list[Entry]] = [
        [cell.label, cell.status, _recorded(cell), cell.record.samples, cell.error or "no error recorded"]
        for cell in cells
        if not cell.finished
    ]
    headings = ("cell", "status", "recorded", "of", "error")
    return Table("Cells that did not finish", [Column(heading) for heading in headings], rows)


def _recorded(cell: Cell) -> int | None:
    """Samples of an unfinished cell; None where they cannot be read."""
    return None if cell.problem else len(cell.rows)


def _reasons(failed: Sequence[tuple[Cell, dict[str, Entry]]]) -> Table:
    """Counts by cell and reason, without the number of the step in it."""
    counted = Counter((cell.label, str(row["reason"]).partition(" ")[0]) for cell, row in failed)
    totals = {cell.label: len(cell.samples) for cell, _ in failed}
    rows: list[list[Entry]] = [
        [label, reason, count, totals[label]]
        for (label, reason), count in sorted(counted.items(), key=lambda item: -item[1])
    ]
    return Table(
        "Samples without a counterfactual, by reason",
        [Column("cell"), Column("reason"), Column("samples"), Column("of")],
        rows,
    )


def _samples(failed: Sequence[tuple[Cell, dict[str, Entry]]]) -> Table:
    rows: list[list[Entry]] = [[cell.label, row["id"], row["reason"], row["iterations"]] for cell, row in failed[:MOST]]
    left = len(failed) - len(rows)
    notes = [f"{left} more are in the cells' samples.parquet."] if left else []
    columns = [Column("cell"), Column("sample"), Column("reason"), Column("iterations")]
    return Table("Samples without a counterfactual", columns, rows, notes)
