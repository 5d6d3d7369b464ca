"""Blocks to one HTML file: styles, scripts and data inside, nothing fetched, everything escaped."""

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.errors import UsageError
from bench.images import write_bytes
from reports.pages.blocks import Block, Code, Section, TableBlock, Text
from reports.table import Entry, Table, Value, format_entry, printable, to_csv, to_latex, to_markdown

SCRIPTS = (
    "dom.js",
    "tables.js",
    "axes.js",
    "charts.js",
    "lines.js",
    "scatter.js",
    "bars.js",
    "sample_view.js",
    "gallery.js",
    "page.js",
)
"""One script in the page, in this order; the last one starts."""
STYLES = ("page.css", "blocks.css", "gallery.css")


@dataclass(frozen=True)
class EntryParts:
    """How a table's entry is shown and sorted: its number, if it is one, as JavaScript reads it."""

    text: str
    interval: str
    number: float | int | None
    missing: bool


def entry_parts(entry: Entry) -> EntryParts:
    """An entry of a table taken apart; a figure that is not finite is shown as it is, and sorted as missing."""
    number = entry.value if isinstance(entry, Value) else entry if isinstance(entry, int) else None
    finite = number is not None and math.isfinite(number)
    text = printable(format_entry(entry))
    interval = ""
    if isinstance(entry, Value):
        text, _, rest = text.partition(" ")
        interval = rest
    return EntryParts(text, interval, number if finite else None, missing=not finite and not isinstance(entry, str))


def _is_number(table: Table, column: int) -> bool:
    entries = [row[column] for row in table.rows]
    return any(isinstance(entry, Value | int) for entry in entries)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("reports.pages", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The order of choices, axes and bars is theirs; a number that JSON has no word for is a mistake.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False, "separators": (",", ":")}
    environment.filters["printable"] = lambda text: printable(str(text))
    environment.globals |= {"entry_parts": entry_parts, "is_number": _is_number}
    return environment


def asset(name: str) -> str:
    """A file of `assets` as text."""
    return files("reports.pages").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def script() -> str:
    """All scripts as one, in a scope of its own."""
    return '"use strict";\n{\n' + "\n".join(asset(name) for name in SCRIPTS) + "\n}\n"


def script_hash(text: str) -> str:
    """What a content security policy names a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def plain(value: Any) -> Any:
    """Data as JSON can hold it: numbers that are not finite become null, stray characters escapes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if value.isprintable() else printable(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def _slug(name: str, taken: set[str]) -> str:
    """`name` as an anchor that is not taken yet: letters, digits and hyphens."""
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "part"
    number = 1
    while (slug := base if number == 1 else f"{base}-{number}") in taken:
        number += 1
    taken.add(slug)
    return slug


def _anchored(sections: Sequence[Section]) -> list[Section]:
    """The same sections with ids that can stand in HTML, each once in the page."""
    taken = {"content", "status", "data"}

    def anchored(block: Block) -> Block:
        return block if isinstance(block, Text | Code) else replace(block, id=_slug(block.id, taken))

    named = [replace(section, id=_slug(section.id, taken)) for section in sections]
    return [replace(section, blocks=[anchored(block) for block in section.blocks]) for section in named]


def _data(sections: Sequence[Section]) -> dict[str, Any]:
    """What the scripts need: charts and galleries by id, and every table in the forms it can be copied in."""
    found: dict[str, Any] = {}
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, TableBlock):
            table = block.table
            found[block.id] = {"csv": to_csv(table), "markdown": to_markdown(table), "latex": to_latex(table)}
        elif not isinstance(block, Text | Code):
            found[block.id] = plain(asdict(block))
        if not isinstance(block, Text | Code):
            found[block.id]["kind"] = block.kind
    return found


def render(title: str, banner: str, facts: Mapping[str, str], sections: Sequence[Section]) -> bytes:
    """A page.

    Args:
        banner: what is wrong with what is shown, at the top of the page, a line each; empty for nothing.
        facts: shown under the title: name -> text.
        sections: ids that are no anchors, or stand twice, are changed.

    Returns:
        HTML in UTF-8. What cannot be shown (stray bytes of a file name, control characters) stands as an escape.
    """
    anchored = _anchored(sections)
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            warnings=[line for line in banner.split("\n") if line],
            facts=facts,
            sections=anchored,
            styles="\n".join(asset(name) for name in STYLES),
            scripts=script(),
            script_hash=script_hash(script()),
            data=_data(anchored),
        )
    )
    return page.encode("utf-8", "backslashreplace")


def write_html(path: Path, content: bytes) -> Path:
    """Write a page whole or not at all, with the folders that it needs; returns `path`.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise UsageError(f"--output {path} cannot be written: {error.strerror}") from error
    return path
