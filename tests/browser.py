"""Headless Chromium for tests of pages. A page that logs an error or fails to load something fails its test.

Import the fixtures `browser` and `page` in a test module that needs them.
"""

import os
import shutil
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install .[test])")
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def executable() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium on this machine; `make browser` installs it")
        pytest.skip("no Chromium on this machine; `make browser` installs it")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser a module: each module that imports this has its own fixture, and two drivers cannot run at once."""
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=executable(), args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own context; whatever it logged as an error, or could not load, fails the test at its end."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    found = context.new_page()
    problems: list[str] = []
    found.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.on("requestfailed", lambda request: problems.append(f"failed: {request.url[:200]}"))
    yield found
    context.close()
    assert not problems, problems


def clipboard(page: Page) -> str:
    """What was copied, with plain line ends."""
    return page.evaluate("navigator.clipboard.readText()").replace("\r\n", "\n")
