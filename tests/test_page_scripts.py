"""The page's scripts by themselves, and what they must not do: hostile names, sandboxed frames, foreign content."""

import json
import math
import re
from pathlib import Path

import pytest

from reports.pages.render import asset, render
from tests.browser import browser, clipboard, page  # noqa: F401 (fixtures)
from tests.page_blocks import page_sections
from tests.test_page import HOSTILE

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Page, expect


def test_in_a_sandboxed_frame(page: Page, tmp_path: Path) -> None:  # noqa: F811
    """As MLflow shows artifacts: no storage, no clipboard, no downloads; nothing of that is tried in vain."""
    path = tmp_path / "report.html"
    path.write_bytes(render("a suite", "", {}, page_sections()))
    outer = path.with_name("outer.html")
    outer.write_text(f'<iframe sandbox="allow-scripts" src="{path.name}" width="1200" height="900"></iframe>')
    page.goto(outer.as_uri())
    frame = page.frame_locator("iframe")
    expect(frame.locator("#pareto .point")).to_have_count(3)
    frame.get_by_role("button", name="Dark").click()
    frame.get_by_role("button", name="Save Quality as SVG").click()
    expect(frame.locator("#pareto textarea")).to_have_value(re.compile("^<svg"))
    frame.get_by_role("button", name="Copy the table as CSV").click()
    expect(frame.locator("#cells textarea, #cells ~ .offer textarea")).to_have_value(re.compile("^cell,"))


def test_hostile_names_do_nothing(page: Page, tmp_path: Path) -> None:  # noqa: F811
    """All of them in every text of the page, also where scripts write it."""
    name = " ".join(HOSTILE)
    path = tmp_path / 'a "quoted" <page>.html'
    path.write_bytes(render(name, name, {name: name}, page_sections(name)))
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    for summary in page.locator(".figures > summary").all():
        summary.click()
    for select in page.locator(".chart select").all():
        for value in select.locator("option").all():
            select.select_option(value.get_attribute("value"))
    page.locator(".point, .bar").first.focus()
    for svg in page.locator(".plot > svg[role=img]").all():
        svg.focus()
        page.keyboard.press("End")
    page.get_by_role("button", name="Copy the data").first.click()
    expect(page.get_by_role("status").last).to_have_text("CSV copied")
    assert "\n'=" not in clipboard(page)  # no field begins with it here; see `test_formulas_are_guarded`
    assert dialogs == []
    assert page.locator("script").count() == 2
    assert page.locator("img:not([src^='data:']), iframe, object, embed, a:not([href^='#']), base, form").count() == 0
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(one => one.getAttributeNames()).filter(name => /^on/.test(name))"
    )
    assert page.evaluate(handlers) == []


def run(page: Page, expression: str) -> object:  # noqa: F811
    """What an expression gives in the scope of the page's scripts, without a page."""
    names = ("dom.js", "axes.js", "scatter.js")
    return page.evaluate("() => {" + "\n".join(asset(name) for name in names) + f"\nreturn {expression};\n}}")


def test_formulas_are_guarded(page: Page) -> None:  # noqa: F811
    fields = ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", " =1", "plain", 'a "b", c', -1.5, None]
    expected = ["'=1+1", "'+1", "'-x", "'@SUM(A1)", "'\t=1", "' =1", "plain", '"a ""b"", c"', "-1.5", ""]
    assert run(page, f"{json.dumps(fields)}.map(csvField)") == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.12345, "0.1235"), (-0.5, "−0.5"), (1234.5, "1235"), (123456, "123456"), (1.5e7, "1.50e7"),
        (0.00001, "1.00e−5"), (None, "–"),
    ],
)  # fmt: skip
def test_numbers(page: Page, value: float | None, text: str) -> None:  # noqa: F811
    assert run(page, f"formatNumber({json.dumps(value)})") == text


def ticks(page: Page, low: float, high: float, count: int, **axis: object) -> list[str]:  # noqa: F811
    full = {"log": False, "date": False, "zero": False, "low": low, "high": high} | axis
    return run(page, f"makeScale({json.dumps(full)}, [], 0, 100, {count}).ticks.map(tick => tick.text)")


def test_ticks(page: Page) -> None:  # noqa: F811
    assert ticks(page, 0, 1, 5) == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert ticks(page, -0.31, 0.32, 6) == ["−0.3", "−0.2", "−0.1", "0", "0.1", "0.2", "0.3"]
    assert ticks(page, 990, 1010, 4) == ["990", "995", "1000", "1005", "1010"]
    assert ticks(page, 0.9, 110, 6, log=True) == ["1", "2", "5", "10", "20", "50", "100"]
    assert ticks(page, 1e-5, 1e5, 5, log=True) == ["0.0001", "0.01", "1", "100", "10000"]
    day = 86_400
    assert ticks(page, 20_000 * day, 20_003 * day, 3, date=True) == [
        "2024-10-04",
        "2024-10-05",
        "2024-10-06",
        "2024-10-07",
    ]
    assert ticks(page, 20_000 * day, 20_001 * day, 4, date=True)[:2] == ["10-04 00:00", "10-04 06:00"]


def test_scales(page: Page) -> None:  # noqa: F811
    give = "(scale => [scale.low, scale.high, scale.at({at})])"
    scale = give + "(makeScale({axis}, {values}, 100, 0, 5))"
    axis = {"log": False, "zero": False, "low": None, "high": None}

    def made(values: list[float | None], at: float, **more: object) -> list[float]:
        return run(page, scale.format(axis=json.dumps(axis | more), values=json.dumps(values), at=at))

    assert made([0, None, 10], 5) == pytest.approx([-0.5, 10.5, 50])
    assert made([2, 10], 0, zero=True) == pytest.approx([0, 10.4, 100])
    assert made([3], 3) == pytest.approx([2.85, 3.15, 50])
    night, half = 1.79e9, 12 * 3600.0
    assert made([night], night, date=True) == pytest.approx([night - half, night + half, 50])
    assert made([], 0.5) == pytest.approx([-0.05, 1.05, 50])
    assert made([-1, 0, 1, 100], 10, log=True)[2] == pytest.approx(50)  # what has no logarithm is left out
    assert made([0.5], 1, low=0, high=1) == pytest.approx([0, 1, 0])
    assert all(math.isfinite(value) for value in made([7, 7, 7], 7, log=True))


def test_pareto_front(page: Page) -> None:  # noqa: F811
    points = [[1, 1], [2, 2], [2, 1], [3, 0.5], [0.5, 3], [2, 2]]

    def front(x: str, y: str) -> object:
        found = json.dumps([{"x": [one[0]], "y": [one[1]]} for one in points])
        return run(page, f'paretoFront({found}, {{better: "{x}"}}, {{better: "{y}"}}).map(one => [one.x[0], one.y[0]])')

    assert front("high", "high") == [[0.5, 3], [2, 2], [2, 2], [3, 0.5]]
    assert front("high", "low") == [[3, 0.5]]
    assert front("low", "low") == [[0.5, 3], [1, 1], [3, 0.5]]
    assert front("low", "high") == [[0.5, 3]]
    assert front("", "high") == []


def test_browser_fixture_sees_errors(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    """A page that asks for something outside is stopped by its own policy."""
    text = render("t", "", {}, []).decode().replace("</main>", '<img src="https://example.invalid/x.png"></main>')
    path = tmp_path / "bad.html"
    path.write_text(text)
    bad = browser.new_page()
    messages: list[str] = []
    bad.on("console", lambda message: messages.append(message.text))
    bad.goto(path.as_uri())
    bad.close()
    assert any("Content Security Policy" in message for message in messages)
