"""Where the figures come from: command, machine, configuration, weights, and why a metric is empty."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.compare import timing_flags
from bench.dotted import dotted
from bench.record import SuiteRecord
from reports.pages.blocks import Block, Code, Section, TableBlock
from reports.records import Cell
from reports.table import Column, Entry, Table

INTRO = (
    "The command repeats the run; with the same weights, data and versions it gives the same counterfactuals. A "
    "fingerprint is a hash of everything that moves a search."
)


def build(cells: Sequence[Cell], suites: Mapping[str, SuiteRecord]) -> Section:
    """Closed on the page; nothing in it is computed.

    Args:
        suites: name -> record of all suites, those without a cell too.
    """
    blocks: list[Block] = [Code(_labelled("command", name, suites), suite.command) for name, suite in suites.items()]
    blocks.append(TableBlock("provenance-environment", _environment(suites)))
    for identifier, table in (
        ("provenance-cells", _cells(cells)),
        ("provenance-networks", _networks(cells)),
        ("provenance-weights", _weights(cells)),
        ("provenance-notes", _notes(cells)),
    ):
        if table.rows:
            blocks.append(TableBlock(identifier, table))
    for name, suite in suites.items():
        blocks.append(Code(_labelled("configuration as set", name, suites), _json(suite.config_set)))
        blocks.append(Code(_labelled("configuration as resolved", name, suites), _json(suite.config)))
    options = {cell.label: cell.record.options for cell in cells}
    if options:
        blocks.append(Code("options of every component, by cell", _json(options)))
    return Section("provenance", "Environment, configuration, command", blocks, INTRO, folded=True)


def _labelled(text: str, name: str, suites: Mapping[str, SuiteRecord]) -> str:
    return text if len(suites) == 1 else f"{text}, {name}"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _environment(suites: Mapping[str, SuiteRecord]) -> Table:
    """A row an entry, a column a suite."""
    found = [dotted(suite.environment) for suite in suites.values()]
    headings = list(suites) if len(suites) > 1 else ["value"]
    keys = dict.fromkeys(key for environment in found for key in environment)
    rows: list[list[Entry]] = [[key, *(environment.get(key) for environment in found)] for key in keys]
    return Table("Environment", [Column("entry"), *(Column(heading) for heading in headings)], rows)


def _cells(cells: Sequence[Cell]) -> Table:
    rows: list[list[Entry]] = []
    for cell in cells:
        record = cell.record
        flags = dict.fromkeys(timing_flags(record))
        entries: list[Entry] = [cell.label, record.fingerprint, record.facts.get("data"), record.sessions]
        rows.append([*entries, record.started, record.ended or "(not ended)", "; ".join(flags) or "none"])
    headings = ("cell", "fingerprint", "data (sha256)", "sessions", "started", "ended", "flags")
    return Table("Cells", [Column(heading) for heading in headings], rows)


def _networks(cells: Sequence[Cell]) -> Table:
    """What the backend says of every network that it ran."""
    rows: list[list[Entry]] = []
    for cell in cells:
        for name, facts in cell.record.execution.get("networks", {}).items():
            if isinstance(facts, Mapping):
                told = "; ".join(f"{key} {value}" for key, value in dotted(facts).items() if key != "dtype")
                rows.append([cell.label, name, str(facts.get("dtype", "")).removeprefix("torch.") or None, told])
    headings = ("cell", "network", "dtype", "as executed")
    return Table("Networks as the backends ran them", [Column(heading) for heading in headings], rows)


def _weights(cells: Sequence[Cell]) -> Table:
    def weights(cell: Cell) -> Mapping[str, str]:
        return cell.record.facts.get("weights", {}) | cell.record.judged.get("weights", {})

    return Table("Weights", [Column("role"), Column("sha256"), Column("cells")], _shared(cells, weights))


def _notes(cells: Sequence[Cell]) -> Table:
    columns = [Column("figure"), Column("note"), Column("cells")]
    return Table("Notes: how a figure was made, or why it is empty", columns, _shared(cells, lambda c: c.record.notes))


def _shared(cells: Sequence[Cell], entries: Callable[[Cell], Mapping[str, str]]) -> list[list[Entry]]:
    """(key, text, cells that have it), each text once."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for key, text in entries(cell).items():
            found.setdefault((key, text), []).append(cell.label)
    return [
        [key, text, "all" if len(labels) == len(cells) else "; ".join(labels)] for (key, text), labels in found.items()
    ]
