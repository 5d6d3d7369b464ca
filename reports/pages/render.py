"""Blocks to one HTML file: styles, scripts and data inside, nothing fetched, everything escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports.pages.blocks import Chart, Gallery, Section, TableBlock
from reports.table import to_csv, to_latex, to_markdown

SCRIPTS = ("tables.js", "axes.js", "charts.js", "gallery.js", "page.js")
STYLES = ("page.css", "gallery.css")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("reports.pages", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """A file of `assets` as text."""
    return files("reports.pages").joinpath("assets", name).read_text(encoding="utf-8")


def _data(sections: Sequence[Section]) -> dict[str, Any]:
    """What the scripts need: charts and galleries by id, and every table in the forms it can be copied in."""
    found: dict[str, Any] = {}
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Chart | Gallery):
            found[block.id] = asdict(block) | {"kind": block.kind}
        elif isinstance(block, TableBlock):
            table = block.table
            found[block.id] = {
                "kind": block.kind,
                "csv": to_csv(table),
                "markdown": to_markdown(table),
                "latex": to_latex(table),
            }
    return found


def render(title: str, banner: str, facts: Mapping[str, str], sections: Sequence[Section]) -> bytes:
    """A page.

    Args:
        banner: what is wrong with what is shown, at the top of the page; empty for nothing.
        facts: shown under the title: name -> text.

    Returns:
        HTML in UTF-8. What cannot be written in it (a file name's stray bytes) is shown as an escape.
    """
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            banner=banner,
            facts=facts,
            sections=sections,
            styles="\n".join(asset(name) for name in STYLES),
            scripts="\n".join(asset(name) for name in SCRIPTS),
            data=_data(sections),
        )
    )
    return page.encode("utf-8", "backslashreplace")
