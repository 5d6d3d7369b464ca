"""The gallery in Chromium: pages, orders, filters, the larger view by keyboard, and names that would be markup."""

import re
from pathlib import Path

import pandas as pd
import pytest

from bench.datasets.folder import sample_id
from reports.pages.blocks import Section
from reports.pages.render import render
from reports.pages.sections import gallery
from reports.records import Cell, read_cells
from tests.synthetic_record import write_record

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install .[test])")
from playwright.sync_api import Page, expect

from tests.browser import browser, page  # noqa: F401

COUNT = 30
HOSTILE = (
    '"><img src=x onerror=alert(1)>.png',
    "</script><script>alert(1)</script>.png",
    "'onmouseover=alert(1) x='.png",
    "=cmd|' /C calc'!A0.png",
    "javascript:alert(1)",
    "${alert(1)}{{7*7}}.png",
    sample_id("caf\udce9.png"),  # a name in Latin-1, as `folder` has it
)


def write(folder: Path, cells: list[Cell]) -> str:
    """A page of the gallery alone; its URL."""
    section = gallery.build(cells)
    assert isinstance(section, Section)
    path = folder / "gallery.html"
    path.write_bytes(render("pictures", "", {}, [section]))
    return path.as_uri()


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[str, list[Cell]]:
    """Two cells of 30 samples, three of which failed in each."""
    folder = tmp_path_factory.mktemp("gallery")
    record = write_record(folder / "run", COUNT, backends=("eager", "compile"), reconstructions=True, fail_every=10)
    cells = read_cells([record])
    return write(folder, cells), cells


@pytest.fixture
def opened(page: Page, shown) -> Page:  # noqa: F811
    page.goto(shown[0])
    return page


def names(page: Page) -> list[str]:  # noqa: F811
    return page.locator(".gallery-grid .gallery-id").all_inner_texts()


def status(page: Page) -> str:  # noqa: F811
    return page.locator(".gallery-status").inner_text()


def frames(cells: list[Cell]) -> pd.DataFrame:
    """The samples of all cells, in the order of the records."""
    return pd.concat([cell.samples.assign(cell=cell.label) for cell in cells], ignore_index=True)


def test_a_page_has_24_samples_and_only_their_pictures(opened, shown):
    expected = list(frames(shown[1])["id"])
    assert names(opened) == expected[:24]
    assert status(opened) == "Page 1 of 3: samples 1 to 24 of 60"
    images = opened.locator(".gallery-grid img")
    assert images.count() == 24 * 4 - 2 * 2  # two failures have neither counterfactual nor difference
    assert all(images.evaluate_all("found => found.map(image => image.complete && image.naturalWidth > 0)"))
    assert set(images.evaluate_all("found => found.map(image => image.alt)")) == {
        "input",
        "reconstruction",
        "counterfactual",
        "difference",
    }
    opened.get_by_role("button", name="Next").first.click()
    assert names(opened) == expected[24:48]
    opened.get_by_role("button", name="Last").first.click()
    assert names(opened) == expected[48:]
    assert status(opened) == "Page 3 of 3: samples 49 to 60 of 60"
    opened.get_by_role("button", name="Next").first.press("Enter")
    assert status(opened).startswith("Page 3 of 3")
    opened.get_by_label("Page, above").fill("2")
    opened.get_by_label("Page, above").press("Enter")
    assert names(opened) == expected[24:48]


def test_worst_first_shows_failures_and_then_falling_errors(opened, shown):
    opened.get_by_role("button", name="Worst first").click()
    samples = frames(shown[1])
    failed = samples[samples["failure"].notna()]
    judged = samples[samples["failure"].isna()].sort_values("prediction_error", ascending=False, kind="stable")
    assert names(opened) == [*failed["id"], *judged["id"]][:24]
    caption = opened.locator(".gallery-card figcaption").first.inner_text()
    assert "failed" in caption and failed["failure"].iloc[0] in caption
    opened.get_by_role("button", name="falling").click()
    assert names(opened) == list(judged["id"])[::-1][:24]


def test_an_error_that_is_not_finite_is_among_the_worst(page, tmp_path):  # noqa: F811
    lost = "synthetic/00002"
    record = write_record(
        tmp_path / "run", 6, edit=lambda row: row | ({"prediction": float("inf")} if row["id"] == lost else {})
    )
    page.goto(write(tmp_path, read_cells([record])))
    page.get_by_role("button", name="Worst first").click()
    assert names(page)[0] == lost


ORDERS = {
    "oracle": ("oracle_target_mae", False),
    "change": ("change_l1", False),
    "start": ("start", True),
    "target": ("target", True),
    "steps": ("steps", False),
    "seconds": ("seconds", False),
    "id": ("id", True),
}
"""Key -> column, and whether the smallest comes first."""


def test_orders(opened, shown):
    samples = frames(shown[1])
    for order, (column, ascending) in ORDERS.items():
        opened.get_by_label("Order").select_option(order)
        expected = samples.sort_values(column, ascending=ascending, kind="stable", na_position="last")
        assert names(opened) == list(expected["id"])[:24], order


def test_filters_and_search(opened, shown):
    samples = frames(shown[1])
    opened.get_by_label("Show").select_option("failed")
    assert names(opened) == list(samples.loc[samples["failure"].notna(), "id"])
    opened.get_by_label("Show").select_option("invalid")
    invalid = samples[samples["failure"].isna() & (samples["valid"] == 0)]
    assert names(opened) == list(invalid["id"])[:24]
    opened.get_by_label("Show").select_option("valid")
    opened.get_by_role("combobox", name="Cell").select_option("1")
    valid = samples[(samples["valid"] > 0) & (samples["cell"] == "ac-re, compile")]
    assert names(opened) == list(valid["id"])
    opened.get_by_label("Show").select_option("all")
    opened.get_by_label("Search in names").fill("/00017")
    assert names(opened) == ["synthetic/00017"]
    opened.get_by_label("Search in names").fill("NONFINITE")
    assert len(names(opened)) == 3
    opened.get_by_label("Search in names").fill("nothing is called so")
    assert names(opened) == [] and status(opened) == "Page 1 of 1: no samples"


def test_the_larger_view_by_keyboard(opened, shown):
    samples = frames(shown[1])
    opened.locator(".gallery-open").nth(22).focus()
    opened.keyboard.press("Enter")
    view = opened.get_by_role("dialog")
    expect(view).to_be_visible()
    expect(view.get_by_role("heading", level=3)).to_have_text("synthetic/00022 · ac-re, eager")
    assert f"r {samples['prediction'][22]:.3f}, target {samples['target'][22]:.3f}" in view.inner_text()
    listed = dict(zip(view.locator("dt").all_inner_texts(), view.locator("dd").all_inner_texts(), strict=True))
    assert float(listed["|r − target|"]) == pytest.approx(samples["prediction_error"][22], rel=1e-4)
    assert int(listed["steps"]) == samples["steps"][22]
    for _ in range(3):
        opened.keyboard.press("ArrowRight")
    expect(view.get_by_role("heading", level=3)).to_contain_text("synthetic/00025")
    opened.keyboard.press("ArrowLeft")
    expect(view.locator(".gallery-view-place")).to_have_text("25 of 60")
    opened.keyboard.press("Escape")
    expect(view).not_to_be_visible()
    expect(opened.get_by_role("button", name="synthetic/00024, ac-re, eager: larger view")).to_be_focused()
    assert status(opened).startswith("Page 2 of 3")


def test_the_larger_view_keeps_the_focus_and_switches_cells(opened):
    opened.locator(".gallery-open").nth(4).click()
    view = opened.get_by_role("dialog")
    others = view.locator(".gallery-other")
    assert others.count() == 2
    others.nth(1).click()
    expect(view.get_by_role("heading", level=3)).to_have_text("synthetic/00004 · ac-re, compile")
    for _ in range(12):
        opened.keyboard.press("Tab")
        # Between the last and the first control the browser's own bar has the focus, which here is the body.
        assert opened.evaluate("!!document.activeElement.closest('dialog') || document.activeElement === document.body")
    view.get_by_role("button", name="Close").click()
    expect(opened.get_by_role("button", name="synthetic/00004, ac-re, compile: larger view")).to_be_focused()


def test_cells_side_by_side(opened):
    opened.get_by_label("cells side by side").check()
    assert status(opened) == "Page 1 of 3: images 1 to 12 of 30"
    rows = opened.locator(".gallery-row")
    assert rows.count() == 12
    first = rows.first
    assert first.get_by_role("heading").inner_text() == "synthetic/00000"
    assert first.locator(".gallery-cell").all_inner_texts() == ["ac-re, eager", "ac-re, compile"]
    opened.get_by_role("button", name="Worst first").click()
    assert rows.first.get_by_role("heading").inner_text() == "synthetic/00009"


def test_the_scale_is_shown_with_its_ends(opened):
    bar = opened.locator(".gallery-top .gallery-scale")
    assert re.search(r"−0\.5\s+0\.0\s+0\.5", bar.inner_text())
    assert "blue to red" in bar.locator("img").get_attribute("alt")


def test_nothing_is_wider_than_a_phone(opened):
    opened.set_viewport_size({"width": 390, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.locator(".gallery-open").first.click()
    box = opened.get_by_role("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert opened.get_by_role("dialog").evaluate("found => found.scrollWidth - found.clientWidth") == 0


def test_hostile_names_and_reasons_are_text(page, tmp_path):  # noqa: F811
    def edit(row: dict) -> dict:
        return row | {"failure": row["failure"] and f"{HOSTILE[0]} {HOSTILE[1]}"}

    record = write_record(tmp_path / "run", len(HOSTILE), fail_every=2, names=HOSTILE, edit=edit)
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(write(tmp_path, read_cells([record])))
    written = page.locator(".gallery-grid .gallery-id").evaluate_all("found => found.map(name => name.textContent)")
    assert written == list(HOSTILE)
    assert HOSTILE[-1] == "caf%E9.png"
    page.locator(".gallery-open").nth(1).click()
    assert HOSTILE[0] in page.get_by_role("dialog").inner_text()
    sources = page.locator("img").evaluate_all("found => found.map(image => image.src.slice(0, 16))")
    assert set(sources) == {"data:image/webp;"}
    markup = page.evaluate("[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())")
    assert not [name for name in markup if name.startswith("on")]
    assert dialogs == []
