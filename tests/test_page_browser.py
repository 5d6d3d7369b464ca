"""The page in Chromium: it draws everything, and every control does what it says. See also tests/browser.py."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from reports.pages.render import asset, render
from tests.browser import browser, page  # noqa: F401 (fixtures)
from tests.page_blocks import page_sections
from tests.test_page import HOSTILE

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Locator, Page, expect

Open = Callable[[], Page]
CELLS = "#cells tbody th"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("page") / "report.html"
    found.write_bytes(render("a suite", "Cell b is failed.", {"suite": "now"}, page_sections()))
    return found


@pytest.fixture
def report(page: Page, path: Path) -> Page:  # noqa: F811
    """The page, opened from a file."""
    page.goto(path.as_uri())
    return page


def texts(found: Locator) -> list[str]:
    return [" ".join(text.split()) for text in found.all_text_contents()]


def clipboard(page: Page) -> str:  # noqa: F811
    return page.evaluate("navigator.clipboard.readText()").replace("\r\n", "\n")


def test_everything_is_drawn(report: Page) -> None:
    for block, found in {
        "pareto": ".point", "budget": "path.band", "trend": "path.whisker", "stages": "rect.solid", "bins": "td",
        "gallery": "figure",
    }.items():  # fmt: skip
        assert report.locator(f"#{block} {found}").count() > 0, block
    for svg in report.locator(".plot > svg").all():
        assert svg.get_attribute("role") in ("img", "group")
        assert len(svg.get_attribute("aria-label") or "") > 10
    assert "NaN" not in report.locator("main").inner_html().replace(">NaN<", "")  # a table's NaN is told as it is
    assert report.locator("#budget .plot .line:not(.thin)").count() == 4  # ac-re, tolerance, and "broken" in two runs


def test_sorting(report: Page) -> None:
    written = ["b", "a", "d", "c"]
    success = report.get_by_role("button", name=re.compile("^success"))
    heading = report.locator("#cells th", has=success)
    for order, expected in (
        ("ascending", ["a", "b", "c", "d"]), ("descending", ["c", "b", "a", "d"]), (None, written)
    ):  # fmt: skip
        success.click()
        assert texts(report.locator(CELLS)) == expected  # the missing one last in both directions
        assert heading.get_attribute("aria-sort") == order
    report.get_by_role("button", name=re.compile("^seconds")).press("Enter")
    assert texts(report.locator(CELLS)) == ["b", "a", "d", "c"]  # 9.5, 10.5, 100 as numbers; NaN last
    report.get_by_role("button", name="cell", exact=True).click()
    assert texts(report.locator(CELLS)) == ["a", "b", "c", "d"]
    assert report.locator("#cells [aria-sort]").count() == 1


@pytest.mark.parametrize("form", ["CSV", "Markdown", "LaTeX"])
def test_tables_are_copied(report: Page, form: str) -> None:
    report.get_by_role("button", name=f"Copy the table as {form}").click()
    expect(report.get_by_role("status").last).to_have_text(f"{form} copied")
    data = json.loads(report.locator("#data").text_content() or "")["cells"]
    assert clipboard(report) == data[form.lower()].replace("\r\n", "\n")
    assert "slower" in clipboard(report)


def test_where_the_clipboard_is_refused_the_text_is_selected(report: Page) -> None:
    report.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    button = report.get_by_role("button", name="Copy the table as Markdown")
    for _ in range(2):
        button.click()
    area = report.locator("#cells textarea")
    expect(area).to_be_focused()
    selected = area.evaluate("area => area.value.slice(area.selectionStart, area.selectionEnd)")
    assert "slower" in selected
    assert selected == area.input_value()
    area.press("Escape")
    expect(area).to_have_count(0)
    expect(button).to_be_focused()


def test_choice_of_axes(report: Page) -> None:
    plot = report.locator("#pareto")
    front = plot.locator(".front-point")
    names = lambda: sorted(str(one.get_attribute("aria-label")).split(",")[0] for one in front.all())  # noqa: E731
    assert names() == ["best", "fast"]
    assert "error, lower is better" in str(plot.locator("svg[role=group]").get_attribute("aria-label"))
    report.get_by_label("Vertical").select_option("success")
    assert names() == ["fast"]
    assert "success rate, higher is better" in texts(plot.locator("text.axis"))
    report.get_by_label("Horizontal").select_option("energy")
    assert plot.locator(".point").count() == 0
    assert "best; beaten; fast" in plot.inner_text()


def test_legends_hide_what_they_name(report: Page) -> None:
    pareto = report.locator("#pareto")
    switch = pareto.get_by_role("button", name="diffae-re")
    switch.click()
    assert switch.get_attribute("aria-pressed") == "false"
    assert pareto.locator(".point").count() == 2
    pareto.get_by_role("button", name="compile").click()
    assert pareto.locator(".point").count() == 1
    switch.click()
    pareto.get_by_role("button", name="compile").click()
    assert pareto.locator(".point").count() == 3
    budget = report.locator("#budget")
    assert budget.locator(".line.thin[d]").count() == 3
    budget.get_by_role("button", name="images").click()
    assert budget.locator(".plot .line.thin").count() == 0
    budget.get_by_label("Show").select_option("backends")
    assert budget.locator(".plot .line").count() == 1
    bars = report.locator("#stages")
    expect(bars.locator(".total")).to_have_text(["6.5", "5.5"])
    bars.get_by_role("button", name="build").click()
    expect(bars.locator(".total")).to_have_text(["5.5", "2.5"])


def test_the_matrix_is_a_table(report: Page) -> None:
    matrix = report.locator("#bins")
    assert texts(matrix.locator("td")) == ["0.00 n 3", "0.50 n 4", "–", "1.00 n 5"]
    colours = [cell.evaluate("cell => getComputedStyle(cell).backgroundColor") for cell in matrix.locator("td").all()]
    assert len(set(colours)) == 4
    matrix.get_by_label("Show").select_option("onnx")
    assert texts(matrix.locator("td")) == ["1.00 n 3", "1.00 n 4", "–", "0.25 n 5"]


def test_values_are_told_to_pointer_and_keyboard(report: Page) -> None:
    point = report.locator("#pareto .point").first
    tip = report.locator("#pareto .tip")
    point.focus()
    expect(tip).to_contain_text("speed: 1 1/s [0.9, 1.1]")
    report.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    report.locator("#stages .bar").first.hover()
    expect(report.locator("#stages .tip")).to_contain_text("search: 5 s")
    budget = report.locator("#budget")
    budget.locator("svg[role=img]").focus()
    report.keyboard.press("End")
    expect(budget.locator(".tip")).to_contain_text("iterations: 8")
    report.keyboard.press("ArrowLeft")
    expect(budget.locator(".tip")).to_contain_text(f"ac-re: {0.5 * 0.8**7:.4f} [")
    trend = report.locator("#trend")
    trend.locator("svg[role=img]").focus()
    for _ in range(5):
        report.keyboard.press("ArrowRight")
    expect(trend.locator(".tip")).to_contain_text("7712ab7")


def test_figures_of_a_chart(report: Page) -> None:
    stages = report.locator("#stages")
    stages.locator("summary").click()
    assert texts(stages.locator(".figures tr").first.locator("th")) == ["", "build (s)", "search (s)", "refine (s)"]
    stages.get_by_role("button", name="Copy the data").click()
    assert clipboard(report) == ",build (s),search (s),refine (s)\neager,1,5,0.5\ncompile,3,2,0.5\n"
    report.locator("#trend").get_by_role("button", name="Copy the data").click()
    expect(report.get_by_role("status").last).to_have_text("CSV copied")
    assert "eager,2026-09-21 14:13 UTC,2,1.9,3.5\n" in clipboard(report)


def test_saved_pictures_stand_alone(report: Page, tmp_path: Path) -> None:
    with report.expect_download() as download:
        report.get_by_role("button", name="Save Quality as SVG").click()
    assert download.value.suggested_filename == "pareto.svg"
    download.value.save_as(tmp_path / "saved.svg")
    text = (tmp_path / "saved.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.find("{http://www.w3.org/2000/svg}title").text == "Quality"
    assert "var(" not in text and "currentcolor" not in text.lower() and "class=" not in text
    assert "rgb(0, 114, 178)" in text


def test_theme(report: Page, path: Path) -> None:
    background = lambda: report.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    light = background()
    report.get_by_role("button", name="Dark").click()
    dark = background()
    assert dark != light
    report.reload()
    assert background() == dark
    report.get_by_role("button", name="Light").click()
    assert background() == light
    report.evaluate("localStorage.clear()")
    report.emulate_media(color_scheme="dark")
    report.reload()
    assert background() == dark


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG 2's contrast ratio of two colours, 0 to 255."""

    def luminance(colour: list[float]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_colours_stand_out(report: Page, scheme: str) -> None:
    report.emulate_media(color_scheme=scheme)
    probe = """name => {
        const span = document.body.appendChild(document.createElement("span"));
        span.style.color = `var(--${name})`;
        const colour = getComputedStyle(span).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
        span.remove();
        return colour;
    }"""
    background = report.evaluate(probe, "background")
    for name in ("text", "muted", "accent", "bad", "warning", "good"):
        assert contrast(report.evaluate(probe, name), background) >= 4.5, name
    for number in range(1, 9):
        assert contrast(report.evaluate(probe, f"c{number}"), background) >= 2.9, number  # lines and markers
    assert contrast(report.evaluate(probe, "heat-text"), report.evaluate(probe, "heat-high")) >= 4.5


def test_on_a_phone(report: Page) -> None:
    report.set_viewport_size({"width": 390, "height": 844})
    report.reload()
    expect(report.locator(".contents")).not_to_have_attribute("open", re.compile(""))
    widths = report.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
    assert report.locator("#pareto svg[role=group]").bounding_box()["width"] <= 390
    box = report.locator("#cells .scroller").bounding_box()
    assert box["x"] + box["width"] <= 390
    clipped = """() => [...document.querySelectorAll(".plot > svg text")].filter(text => {
        const [inner, outer] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
        return inner.left < outer.left - 1 || inner.right > outer.right + 1;
    }).map(text => text.textContent)"""
    assert report.evaluate(clipped) == []


def test_contents_and_folded_sections(report: Page) -> None:
    assert report.locator(".contents").get_attribute("open") is not None
    command = report.locator("pre")
    expect(command).to_be_hidden()
    current = report.locator(".contents [aria-current]")
    expect(current).to_have_text("Part cells")
    report.get_by_role("link", name="Part budget").click()
    expect(current).to_have_text("Part budget")
    report.get_by_role("link", name="How to repeat it").click()
    expect(command).to_be_visible()
    expect(current).to_have_text("How to repeat it")
    report.get_by_role("button", name="Copy: Command").click()
    expect(report.get_by_role("status").last).to_have_text("Command copied")
    assert clipboard(report) == "python -m bench run"
    report.locator("details.folded > summary").click()
    expect(command).to_be_hidden()
    report.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(command).to_be_visible()
    report.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(command).to_be_hidden()


def test_every_control_is_reached_with_the_keyboard(report: Page) -> None:
    controls = "button:not([disabled]), select, input:not([disabled]), summary, .contents a, .scroller"
    mark = """wanted => {
        const found = [...document.querySelectorAll(wanted)].filter(one => one.checkVisibility());
        for (const one of found) one.dataset.due = "";
        return found.length;
    }"""
    count = report.evaluate(mark, f"{controls}, .point, .bar, .plot > svg[role=img]")
    assert count > 40
    for _ in range(2 * count):
        report.keyboard.press("Tab")
        report.evaluate("document.activeElement.removeAttribute('data-due')")
    assert report.evaluate("[...document.querySelectorAll('[data-due]')].map(one => one.outerHTML.slice(0, 99))") == []


def test_in_a_sandboxed_frame(page: Page, path: Path) -> None:  # noqa: F811
    """As MLflow shows artifacts: no storage, no clipboard, no downloads."""
    outer = path.with_name("outer.html")
    outer.write_text(f'<iframe sandbox="allow-scripts" src="{path.name}" width="1200" height="900"></iframe>')
    page.goto(outer.as_uri())
    frame = page.frame_locator("iframe")
    expect(frame.locator("#pareto .point")).to_have_count(3)
    frame.get_by_role("button", name="Dark").click()
    frame.get_by_role("button", name="Save Quality as SVG").click()
    expect(frame.locator("#pareto textarea")).to_have_value(re.compile("^<svg"))


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
