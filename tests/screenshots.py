"""The pictures of a report in the docs: `python -m tests.screenshots runs/three-backends reports/results`."""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from reports.pages.report import write_report
from tests.browser import FLAGS, executable

WIDTH = 1180


def _element(page: Page, selector: str) -> Image.Image:
    return Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of one height beside each other."""
    height = max(left.height, right.height)
    joined = Image.new("RGB", (left.width + right.width + 30, height), left.getpixel((0, left.height - 1)))
    joined.paste(left, (0, 0))
    joined.paste(right, (left.width + 30, 0))
    return joined


def _save(picture: Image.Image, path: Path, width: int) -> None:
    height = round(picture.height * width / picture.width)
    picture.resize((width, height), Image.Resampling.LANCZOS).save(path, optimize=True)
    print(path)


def main(record: Path, output: Path) -> None:
    """Write report-charts.png and report-page.png."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = write_report([record], Path(folder) / "report.html")
        browser = driver.chromium.launch(executable_path=executable(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(path.as_uri())
        top = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        charts = _beside(_element(page, "#pareto figure"), _element(page, "#budget-error-seconds"))
        _save(charts, output / "report-charts.png", 1500)
        page.get_by_role("button", name="Worst first").click()
        page.evaluate("document.querySelector('#gallery').scrollIntoView()")
        gallery = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        _save(_beside(top, gallery), output / "report-page.png", 1400)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
