"""The page of a trend in a browser: charts, marks, choices and tables work; hostile records are harmless."""

import datetime
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from torch import nn

from reports.trend import read_trend
from reports.trend_page import write_trend
from tests.browser import browser, page  # noqa: F401
from tests.nights import COMMITS, MACHINE, START, figures, small_cell, write_night

SECONDS = "throughput/seconds_per_image"
HOSTILE = "\"><img src=x onerror=alert(1)></script>\u202e=cmd|' /C calc'!A0"


@pytest.fixture(scope="module")
def trend_page(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven nights of two methods and backends; a gap, a step, a hostile commit and a hostile machine."""
    root = tmp_path_factory.mktemp("trend")
    cell, config = small_cell(networks, root / "cell")
    cells = []
    for method, backend in (("ac-re", "eager"), ("ac-re", "onnx"), ("pgd", "eager")):
        facts = cell.facts | {"method": method, "backend": backend}
        names = {"id": f"toy--{method}--{backend}--s0", "method": method, "backend": backend, "facts": facts}
        cells.append(cell.model_copy(update=names))
    for night in range(7):
        factor, commit = (1.0 + 0.001 * night, COMMITS[0]) if night < 3 else (2.0 + 0.001 * night, HOSTILE)
        written = [figures(one, {SECONDS: factor}) for one in cells]
        if night == 2:
            written[1] = written[1].model_copy(update={"status": "failed", "error": HOSTILE})
        write_night(root / "nights" / f"n{night}", written, config, night, commit)
    write_night(
        root / "nights" / HOSTILE.replace("/", "_"), cells[:1], config, 8, environment=MACHINE | {"cpu": HOSTILE}
    )
    damaged = root / "nights" / "\udcff<b>"  # a name that is not UTF-8
    damaged.mkdir()
    (damaged / "suite.json").write_text("{")
    return write_trend(read_trend([root / "nights"]), root / "trend.html")


def open_page(page: Page, path: Path) -> None:  # noqa: F811
    page.goto(path.as_uri())
    expect(page.locator("figure.chart svg").first).to_be_visible()


def test_the_page_shows_lines_gaps_marks_and_steps(page: Page, trend_page: Path) -> None:  # noqa: F811
    open_page(page, trend_page)
    chart = page.locator("figure.chart", has_text="seconds per counterfactual over nights on test processor")
    assert chart.locator(".plot text.mark").count() == 1
    # ac-re: two lines, of which one is in two pieces, the first of two nights.
    assert chart.locator(".plot path.line").count() == 3
    assert chart.locator(".plot path.marker").count() == 13
    date = (START + datetime.timedelta(days=3)).strftime("%Y-%m-%d")
    assert date in page.locator("#steps-table").inner_text()
    assert "worse" in page.locator("#steps-table").inner_text()
    chart.locator("select").select_option("pgd")
    assert chart.locator(".plot path.line").count() == 1
    page.keyboard.press("Tab")  # whatever has the focus, keys do no harm


def test_tables_are_sorted_and_copied(page: Page, trend_page: Path) -> None:  # noqa: F811
    open_page(page, trend_page)
    table = page.locator("#nights-table")
    dates = table.locator("tbody th")
    first = dates.first.inner_text()
    table.locator("thead button").first.click()
    assert dates.first.inner_text() < first
    table.get_by_role("button", name="CSV").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("night (UTC),machine,commit") and "2026-10-01 02:00" in copied
    assert not any(field.strip('"').startswith("=") for line in copied.splitlines() for field in line.split(","))


def test_hostile_names_are_text(page: Page, trend_page: Path) -> None:  # noqa: F811
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    open_page(page, trend_page)
    assert page.locator("img[src=x]").count() == 0
    assert "onerror=alert(1)" in page.locator("#nights-table").inner_text()


def test_it_fits_a_phone(page: Page, trend_page: Path) -> None:  # noqa: F811
    page.set_viewport_size({"width": 390, "height": 800})
    open_page(page, trend_page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
