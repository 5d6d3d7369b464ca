"""The report of one or more suites: which sections it has, and what stands at its top."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from bench.record import SuiteRecord, missing_cells
from reports.pages.blocks import Section
from reports.pages.render import render, write_html
from reports.pages.sections import provenance
from reports.records import Cell, cells_in, distinct_names, probed, read_suites

SECTIONS = (
    "summary",  # every cell with intervals and verdict; published figures
    "pareto",  # quality against throughput
    "paired",  # backends against the reference, image by image
    "stages",  # where the time goes, how full the slots were
    "budget",  # error over iterations and seconds
    "bins",  # success by start and by target
    "sweep",  # several reference values an image
    "gallery",  # pictures
    "failures",  # what has no counterfactual, and why
)
"""Modules of `reports.pages.sections`, in the order of the page. Each has `build(cells) -> Section | None`. Behind
them stands `provenance`: environment, configuration, command."""


def sections(cells: Sequence[Cell], suites: Mapping[str, SuiteRecord]) -> list[Section]:
    """All sections that these cells have something for, then where they come from.

    Args:
        suites: name -> record, those without a cell too.
    """
    builders: list[Callable[[Sequence[Cell]], Section | None]] = [
        import_module(f"reports.pages.sections.{name}").build for name in SECTIONS
    ]
    found = [section for build in builders if (section := build(cells)) is not None]
    return [*found, provenance.build(cells, suites)]


def _banner(cells: Sequence[Cell], suites: Mapping[str, SuiteRecord]) -> str:
    """What is missing in these records, a line for each."""
    told = []
    for name, suite in suites.items():
        held = [cell.record for cell in cells if cell.suite is suite]
        missing = missing_cells(suite, held)
        if suite.status != "ok" or not held:
            told.append(f"Suite {name} is {suite.status}: {'what follows is partial' if held else 'it has no cell'}.")
        if missing:
            told.append(f"Suite {name}: never begun: {', '.join(missing)}.")
    for cell in cells:
        if cell.problem:
            told.append(f"Cell {cell.label} is {cell.status}: {' '.join(cell.problem.split())}.")
        elif not cell.finished:
            reason = f" ({' '.join(cell.error.split())})" if cell.error else ""
            counted = f"{len(cell.samples)} of {cell.record.samples} samples are recorded"
            told.append(f"Cell {cell.label} is {cell.status}{reason}: {counted}.")
        told += _missing_images(cell)
    return "\n".join(told)


def _missing_images(cell: Cell) -> list[str]:
    """A line on saved counterfactuals that are not there, [] where all are; looks for the files, reads none."""
    if cell.samples.empty:
        return []
    names = cell.samples.loc[cell.samples["failure"].isna(), "image"]
    folder = cell.folder / cell.record.id / "images"
    missing = sum(not (folder / name).is_file() for name in names)
    place = f"{cell.record.id}/images"
    return [f"Cell {cell.label}: {missing} of {len(names)} images are missing in {place}."] if missing else []


def _minute(time: str) -> str:
    """An ISO 8601 time to the minute, in UTC: "2026-11-22 10:00"; what is no such time stays as it is."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return time


def _facts(suites: Mapping[str, SuiteRecord]) -> dict[str, str]:
    """When and where the suites ran, and of which commit."""
    facts: dict[str, str] = {}
    for name, suite in suites.items():
        git = suite.environment.get("git") or {}
        machine = (suite.environment.get("gpu") or {}).get("name") or suite.environment.get("cpu") or "unknown"
        commit = (git.get("commit") or "unknown")[:12] + (" with changes" if git.get("dirty") else "")
        time = (
            f"{_minute(suite.started)} to {_minute(suite.ended)}" if suite.ended else f"from {_minute(suite.started)}"
        )
        facts[name] = f"{time} UTC, commit {commit}, on {machine}"
    return facts


def render_report(folders: Sequence[Path]) -> bytes:
    """The page of some suites' records; what cannot be read of them, or was never begun, is told at its top.

    Raises:
        UsageError: a folder holds no record, or a damaged one.
    """
    found = read_suites(folders)
    cells = [probed(cell) for cell in cells_in(found)]
    records = [suite for suite, _ in found]
    names = distinct_names([suite.id for suite in records], [folder for _, folder in found])
    suites = dict(zip(names, records, strict=True))
    title = records[0].id if len(records) == 1 else f"{len(records)} suites"
    return render(title, _banner(cells, suites), _facts(suites), sections(cells, suites))


def write_report(folders: Sequence[Path], path: Path) -> Path:
    """Write the page of some suites' records whole or not at all; returns `path`.

    Raises:
        UsageError: a folder holds no record, or the file cannot be written.
    """
    return write_html(path, render_report(folders))


def write_page(folder: Path) -> Path:
    """Make `report.html` in a suite's folder; returns its path.

    Raises:
        UsageError: the folder holds no record.
    """
    return write_report([folder], folder / "report.html")
