"""The page as text: what is in it, that nothing is fetched, and that hostile names stay text."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from reports.pages.blocks import Section, TableBlock, Text
from reports.pages.render import SCRIPTS, STYLES, entry_parts, plain, render, script, script_hash
from reports.table import Column, Table, Value
from tests.page_blocks import page_sections

HOSTILE = [
    '"><img src=x onerror=alert(1)>.png',
    "'><svg onload=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "${alert(1)}`",
    "=cmd|' /C calc'!A0",
    "https://example.org/x.png",
    "\udcff\udc80 stray bytes",
    "\x00\x1b[31m\u202egnp.exe",
    "]]>&amp;&lt;",
]
ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "h1", "h2", "h3", "dl", "div", "dt", "dd",
    "p", "ul", "li", "noscript", "nav", "details", "summary", "ol", "main", "section", "figure", "figcaption",
    "pre", "code", "table", "caption", "span", "thead", "tbody", "tr", "th", "td", "script",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "href", "role", "aria-label",
    "aria-labelledby", "aria-hidden", "id", "tabindex", "scope", "data-value", "data-missing", "data-kind", "type",
}  # fmt: skip
VOID = {"meta"}


class Page(HTMLParser):
    """Elements with their attributes, the text of scripts and styles, and all other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.raw: list[tuple[dict[str, str], str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.raw.append((self.elements[-1][1], data))
        else:
            self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:80]}")

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def rendered(name: str = "", banner: str = "", sections: list[Section] | None = None) -> str:
    shown = page_sections(name) if sections is None else sections
    return render(f"a suite{name}", banner, {f"suite{name}": f"started{name}"}, shown).decode()


def page_data(page: Page) -> dict[str, Any]:
    (text,) = [text for attributes, text in page.raw if attributes.get("id") == "data"]

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("name", ["", *HOSTILE], ids=lambda name: ascii(name[:20]))
def test_no_name_becomes_markup(name: str) -> None:
    page = Page(rendered(name, banner=f"Cell {name} failed.\nA second line {name}"))
    assert page.open == []
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    assert {attribute for _, attributes in page.elements for attribute in attributes} <= ATTRIBUTES
    assert [attributes.get("type") for attributes in page.all("script")] == ["application/json", None]
    assert len(page.elements) == len(Page(rendered(banner="one\ntwo")).elements)
    assert all(re.fullmatch(r"#[a-z0-9-]+", link["href"]) for link in page.all("a"))
    assert all(re.fullmatch(r"[a-z0-9-]+", attributes["id"]) for _, attributes in page.elements if "id" in attributes)
    page_data(page)


@pytest.mark.parametrize("name", HOSTILE[-3:])
def test_what_cannot_be_shown_stands_as_an_escape(name: str) -> None:
    text = rendered(name)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\udc80-\udcff]", text)
    if "stray" in name:
        assert r"\udcff\udc80 stray bytes" in text


def test_nothing_is_fetched_and_only_this_script_runs() -> None:
    page = Page(rendered())
    (policy,) = [attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes]
    code = next(text for attributes, text in page.raw if attributes == {} and '"use strict"' in text)
    assert f"script-src '{script_hash(code)}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    for name in (*SCRIPTS, *STYLES, "page.html"):
        text = files("reports.pages").joinpath("assets", name).read_text(encoding="utf-8")
        found = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", text))
        assert found <= {"http://www.w3.org/2000/svg"}, name  # the name of SVG, which nobody looks up
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|fetch\(", text
        )
        assert not re.search(r"@import|url\((?!#\$)", text), name


def test_no_script_declares_a_name_of_another() -> None:
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", script(), re.MULTILINE)
    assert len(names) > 50
    assert sorted(names) == sorted(set(names))


def test_a_page_is_readable_without_scripts() -> None:
    page = Page(rendered(banner="Cell b is failed."))
    for text in (
        "Cell b is failed.",
        "A note.",
        "0.50 [0.40, 0.60]",
        "How to read it.",
        "Each point is a cell.",
        "python -m bench run",
    ):
        assert text in " ".join(page.text.split()), text
    assert [attributes.get("data-kind") for attributes in page.all("figure")] == [
        "scatter", "lines", "lines", "bars", "matrix", "code",
    ]  # fmt: skip


def test_the_title_says_what_the_page_is() -> None:
    assert "<title>a suite · counterfactual report</title>" in rendered()
    assert "<h1>a suite</h1>" in rendered()


def test_banner_is_absent_when_nothing_is_wrong() -> None:
    assert not [attributes for attributes in Page(rendered()).all("div") if attributes.get("class") == "banner"]


def test_data_keeps_the_order_and_has_no_number_that_is_none() -> None:
    data = page_data(Page(rendered()))
    assert list(data["budget"]["choices"]) == ["methods", "backends"]
    assert list(data["stages"]["bars"]) == ["eager", "compile"]
    assert data["budget"]["choices"]["methods"][1]["points"][2] == [3.0, None, None, None]
    assert {name: block["kind"] for name, block in data.items()} == {
        "cells": "table", "pareto": "scatter", "budget": "lines", "trend": "lines", "stages": "bars", "bins": "matrix",
        "gallery": "gallery",
    }  # fmt: skip
    assert set(data["cells"]) == {"kind", "csv", "markdown", "latex"}
    assert data["cells"]["csv"].startswith("cell,")


def test_ids_stand_once_and_are_anchors() -> None:
    block = TableBlock("Ünsafe id/<x>", Table("t", [Column("c")], [["e"]]))
    page = Page(rendered(sections=[Section("data", "One", [block, block]), Section("", "Two", [block])]))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"nsafe-id-x", "nsafe-id-x-2", "nsafe-id-x-3"} <= set(page_data(page)) <= set(ids)


def test_a_section_may_be_empty() -> None:
    assert "Nothing here" in Page(rendered(sections=[Section("x", "Nothing here", [])])).text
    page = Page(rendered(sections=[Section("x", "t", [TableBlock("t", Table("none", [Column("c")], []))])]))
    assert page.open == []


@pytest.mark.parametrize(
    ("entry", "text", "interval", "number", "missing"),
    [
        (Value(0.5, 0.4, 0.6, 2), "0.50", "[0.40, 0.60]", 0.5, False),
        (Value(-1234.5), "-1234", "", -1234.5, False),
        (Value(float("nan")), "NaN", "", None, True),
        (Value(float("inf"), decimals=1), "inf", "", None, True),
        (Value(None), "-", "", None, True),
        (None, "-", "", None, True),
        (7, "7", "", 7, False),
        ("two words [1, 2]", "two words [1, 2]", "", None, False),
        ("", "", "", None, False),
    ],
)
def test_entries(entry: Any, text: str, interval: str, number: float | None, missing: bool) -> None:
    parts = entry_parts(entry)
    assert (parts.text, parts.interval, parts.number, parts.missing) == (text, interval, number, missing)


def test_plain_data() -> None:
    assert plain({"a": (1, 2.5, float("nan")), "b\udcff": [None, True, float("-inf"), "c\x00"]}) == {
        "a": [1, 2.5, None],
        "b\\udcff": [None, True, None, "c\\x00"],
    }


def test_blocks_are_not_changed() -> None:
    sections = page_sections()
    before = [replace(section, blocks=list(section.blocks)) for section in sections]
    rendered(sections=sections)
    assert sections == before
    assert isinstance(sections[-1].blocks[0], Text)
