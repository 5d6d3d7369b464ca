"""The page in Chromium: it draws everything, and every control does what it says. See also test_page_scripts.py."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from reports.pages.render import render
from tests.browser import browser, clipboard, page  # noqa: F401 (fixtures)
from tests.page_blocks import page_sections

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
    assert texts(stages.locator(".figures tr").first.locator("th")) == ["cell", "build (s)", "search (s)", "refine (s)"]
    stages.get_by_role("button", name="Copy the data").click()
    assert clipboard(report) == "cell,build (s),search (s),refine (s)\neager,1,5,0.5\ncompile,3,2,0.5\n"
    report.locator("#trend").get_by_role("button", name="Copy the data").click()
    expect(report.get_by_role("status").last).to_have_text("CSV copied")
    assert "eager,2026-09-21 14:13 UTC,2,1.9,3.5\n" in clipboard(report)


def test_copied_figures_have_headings_that_stand_once(report: Page) -> None:
    """Each with the name of its figure, no word on directions, and none empty."""
    headings = {
        "pareto": "point,group,shape,error,error low,error high,success rate,success rate low,success rate high,"
        "speed (1/s),speed (1/s) low,speed (1/s) high,energy (J),energy (J) low,energy (J) high",
        "budget": "chart,series,iterations,error,error low,error high",
        "trend": "series,night,seconds (s),seconds (s) low,seconds (s) high",
        "bins": "cell,start,target,value,count",
    }
    for block, expected in headings.items():
        report.evaluate("navigator.clipboard.writeText('')")
        report.locator(f"#{block}").get_by_role("button", name="Copy the data").click()
        report.wait_for_function("async () => (await navigator.clipboard.readText()) !== ''")
        assert clipboard(report).partition("\n")[0] == expected


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_wide_table_fades_out_where_it_is_cut_off(report: Page, scheme: str) -> None:
    """The first column stays; the last one comes out from under the fade at the table's end."""
    report.emulate_media(color_scheme=scheme)
    report.set_viewport_size({"width": 390, "height": 844})
    scroller = report.locator("#cells .scroller")
    places = scroller.evaluate("""scroller => {
        const edge = scroller.getBoundingClientRect();
        const fade = getComputedStyle(scroller, "::after");
        scroller.scrollLeft = scroller.scrollWidth;
        const end = scroller.querySelector("thead th:last-child").getBoundingClientRect().right;
        const first = scroller.querySelector("tbody th").getBoundingClientRect().left;
        return {
            hidden: scroller.scrollWidth - scroller.clientWidth, first: first - edge.left,
            clear: edge.left + scroller.clientLeft + scroller.clientWidth - parseFloat(fade.width) - end,
            colour: fade.backgroundImage, position: fade.position,
        };
    }""")
    assert places["hidden"] > 0
    assert places["first"] == pytest.approx(0, abs=1)
    assert places["clear"] >= -1
    background = report.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background in places["colour"] and places["position"] == "sticky"
    # What is seen: the row's line, at full strength in the middle, is gone at the edge.
    shot = Image.open(io.BytesIO(scroller.screenshot())).convert("RGB")
    scroller.evaluate("scroller => (scroller.scrollLeft = 0)")
    cut = Image.open(io.BytesIO(scroller.screenshot())).convert("RGB")
    paper = shot.getpixel((shot.width - 1, shot.height // 2))
    strip = cut.crop((cut.width - 2, cut.height // 3, cut.width, cut.height - 20))
    assert all(abs(one - other) <= 12 for low_high, other in zip(strip.getextrema(), paper) for one in low_high)


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


def test_controls_are_large_enough_for_a_finger(browser: Browser, path: Path) -> None:  # noqa: F811
    context = browser.new_context(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    touched = context.new_page()
    touched.goto(path.as_uri())
    small = """() => [...document.querySelectorAll("button, select, summary, input")].filter(one =>
        one.checkVisibility() && one.getBoundingClientRect().height < 24).map(one => one.outerHTML.slice(0, 99))"""
    assert touched.evaluate(small) == []
    context.close()


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
