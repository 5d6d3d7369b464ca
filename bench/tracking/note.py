"""The note of a suite in MLflow: the verdict in one line, then the table."""

from collections import Counter
from collections.abc import Sequence

from bench.record import SuiteRecord
from bench.tracking.names import TAG_LIMIT, text
from reports.pairs import verdicts
from reports.records import Cell
from reports.table import Table, to_markdown
from reports.tables import summary_table

HEADINGS = ("cell", "verdict", "status", "n", "success", "oracle-target", "s / image", "valid / s")
MORE = "All figures are in the runs of the cells, and in report.html under Artifacts."


def suite_note(suite: SuiteRecord, cells: Sequence[Cell]) -> str:
    """Markdown of at most MLflow's 8,000 characters; a longer table is left to the page.

    Raises:
        UsageError: a finished cell lacks its table.
    """
    given = [verdict.text for verdict in verdicts(cells)]
    lines = [verdict_line(suite, cells, given)]
    lines += [f"- {cell.record.id}: {_code(cell.record.error)}" for cell in cells if cell.record.error]
    if cells:
        table = to_markdown(_narrow(summary_table(cells, given)))
        fits = len("\n".join(lines)) + len(table) < TAG_LIMIT - len(MORE)
        lines += ["", table if fits else "", MORE]
    return text("\n".join(lines))


def _code(words: str) -> str:
    """Words that Markdown does not read: an error may hold anything."""
    return f"`{' '.join(words.replace('`', chr(39)).split())}`"


def _narrow(table: Table) -> Table:
    """The columns that MLflow's page has room for."""
    kept = [place for place, column in enumerate(table.columns) if column.heading in HEADINGS]
    rows = [[row[place] for place in kept] for row in table.rows]
    return Table(table.caption, [table.columns[place] for place in kept], rows)


def verdict_line(suite: SuiteRecord, cells: Sequence[Cell], given: Sequence[str]) -> str:
    """ "**ok**: 6 of 6 cells finished; 2 reference, 3 equivalent, 1 different; 1 sample without a counterfactual"."""
    status = "killed" if suite.status == "running" else suite.status
    parts = [f"{sum(cell.finished for cell in cells)} of {planned(suite, cells)} cells finished"]
    counted = Counter(verdict for cell, verdict in zip(cells, given, strict=True) if cell.finished)
    parts += [", ".join(f"{count} {verdict}" for verdict, count in counted.items())] if counted else []
    failed = sum(sum(cell.record.failures.values()) for cell in cells)
    parts += [f"{failed} sample{'s' * (failed > 1)} without a counterfactual"] if failed else []
    return f"**{status}**: {'; '.join(parts)}"


def planned(suite: SuiteRecord, cells: Sequence[Cell]) -> int:
    """How many cells the last command had, or how many there are where these are more."""
    axes = [suite.config.get(name, ()) for name in ("dataset", "method", "backend")]
    return max(len(cells), len(axes[0]) * len(axes[1]) * len(axes[2]))
