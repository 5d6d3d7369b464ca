"""The report of one or more suites: which sections it has, and what stands at its top."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from bench.errors import UsageError
from bench.images import write_bytes
from bench.record import SuiteRecord
from reports.pages.blocks import Section
from reports.pages.render import render
from reports.records import Cell, read_cells

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
    "provenance",  # environment, configuration, command
)
"""Modules of `reports.pages.sections`, in the order of the page. Each has `build(cells) -> Section | None`."""


def sections(cells: Sequence[Cell]) -> list[Section]:
    """All sections that these cells have something for."""
    builders: list[Callable[[Sequence[Cell]], Section | None]] = [
        import_module(f"reports.pages.sections.{name}").build for name in SECTIONS
    ]
    return [section for build in builders if (section := build(cells)) is not None]


def _banner(cells: Sequence[Cell]) -> str:
    """What is missing in these records, a line for each."""
    told = []
    for suite in {id(cell.suite): cell.suite for cell in cells}.values():
        if suite.status != "ok":
            told.append(f"Suite {suite.id} is {suite.status}: what follows is partial.")
    for cell in cells:
        if not cell.finished:
            reason = f" ({' '.join(cell.record.error.split())})" if cell.record.error else ""
            counted = f"{len(cell.samples)} of {cell.record.samples} samples are recorded"
            told.append(f"Cell {cell.label} is {cell.record.status}{reason}: {counted}.")
    return "\n".join(told)


def _minute(time: str) -> str:
    """An ISO 8601 time to the minute, in UTC: "2026-11-22 10:00"; what is no such time stays as it is."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return time


def _facts(suites: Sequence[SuiteRecord]) -> dict[str, str]:
    """When and where the suites ran, and of which commit."""
    facts: dict[str, str] = {}
    for suite in suites:
        git = suite.environment.get("git") or {}
        machine = (suite.environment.get("gpu") or {}).get("name") or suite.environment.get("cpu") or "unknown"
        commit = (git.get("commit") or "unknown")[:12] + (" with changes" if git.get("dirty") else "")
        time = (
            f"{_minute(suite.started)} to {_minute(suite.ended)}" if suite.ended else f"from {_minute(suite.started)}"
        )
        name = suite.id if suite.id not in facts else f"{suite.id} ({len(facts) + 1})"
        facts[name] = f"{time} UTC, commit {commit}, on {machine}"
    return facts


def render_report(folders: Sequence[Path]) -> bytes:
    """The page of some suites' records.

    Raises:
        UsageError: a folder holds no record, or there is no cell in them.
    """
    cells = read_cells(folders)
    if not cells:
        raise UsageError(f"no cell was begun in {', '.join(map(str, folders))}; there is nothing to report")
    suites = list({id(cell.suite): cell.suite for cell in cells}.values())
    title = suites[0].id if len(suites) == 1 else f"{len(suites)} suites"
    return render(title, _banner(cells), _facts(suites), sections(cells))


def write_report(folders: Sequence[Path], path: Path) -> Path:
    """Write the page of some suites' records whole or not at all; returns `path`.

    Raises:
        UsageError: a folder holds no record, there is no cell in them, or the file cannot be written.
    """
    content = render_report(folders)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise UsageError(f"--output {path} cannot be written: {error.strerror}") from error
    return path


def write_page(folder: Path) -> Path:
    """Make `report.html` in a suite's folder; returns its path.

    Raises:
        UsageError: the folder holds no record.
    """
    return write_report([folder], folder / "report.html")
