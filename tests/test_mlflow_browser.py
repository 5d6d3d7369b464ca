"""`bench ui` in a real browser: the suite, its cells, their metrics and the page; and records over HTTP and back."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install .[test])")
from playwright.sync_api import Browser, Page, expect

from bench.record import read_suite
from bench.sections import TrackingConfig
from bench.tracking.download import download_suites
from bench.tracking.server import answers
from bench.tracking.tracker import Tracker
from reports.pages.report import write_page
from tests.browser import browser as browser
from tests.synthetic_record import write_record

ROOT = Path(__file__).parent.parent
SLOW_MS = 60_000
"""MLflow's page is large, and machines that run tests are busy."""


class Ui(NamedTuple):
    address: str
    suite: Path


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """The command as a user starts it, on a store with one suite; it ends with all of its processes."""
    folder = tmp_path_factory.mktemp("ui")
    suite = write_record(folder / "runs/one", 3, size=16, backends=("eager", "compile"), fail_every=3)
    write_page(suite)
    Tracker(folder / "runs", TrackingConfig()).import_suite(suite)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bench", "ui", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(address, 2.0):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "MLflow's page did not come up"
            time.sleep(0.2)
        yield Ui(address, suite)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert process.returncode == 0, (folder / "log").read_text()
    assert not answers(address, 1.0), "a process of MLflow was left behind"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """MLflow's own page logs what is no matter of ours; but nothing may come from elsewhere."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    found = context.new_page()
    elsewhere: list[str] = []
    found.on("request", lambda request: elsewhere.append(request.url) if "//127.0.0.1:" not in request.url else None)
    found.set_default_timeout(SLOW_MS)
    yield found
    context.close()
    assert not [url for url in elsewhere if not url.startswith(("data:", "blob:"))]


def test_the_suite_its_cells_and_their_metrics_are_shown(ui: Ui, page: Page) -> None:
    page.goto(f"{ui.address}/#/experiments/1/runs")
    page.get_by_role("link", name="one", exact=True).click()
    eager, compiled = (page.get_by_role("link", name=f"square--ac-re--{name}--s0") for name in ("eager", "compile"))
    expect(eager).to_be_visible(timeout=SLOW_MS)
    expect(compiled).to_be_visible(timeout=SLOW_MS)
    expect(page.get_by_text("2 of 2 cells finished").first).to_be_attached(timeout=SLOW_MS)
    expect(page.get_by_text("Finished", exact=True).first).to_be_visible(timeout=SLOW_MS)
    eager.click()
    expect(page.get_by_role("heading", name="square--ac-re--eager--s0")).to_be_visible(timeout=SLOW_MS)
    success = read_suite(ui.suite).cells[0].summary["validity/success_rate"].value
    row = page.get_by_role("row").filter(has_text="validity/success_rate").first
    expect(row).to_contain_text(f"{success:.3g}"[:4], timeout=SLOW_MS)
    page.get_by_text("Model metrics", exact=True).click()
    page.get_by_placeholder("Search metric charts").fill("target_error")
    expect(page.get_by_text("target_error", exact=True)).to_be_visible(timeout=SLOW_MS)


def test_the_report_is_shown_among_the_artifacts(ui: Ui, page: Page) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{ui.address}/#/experiments/1/runs")
    page.get_by_role("link", name="one", exact=True).click()
    page.get_by_text("Artifacts", exact=True).click()
    page.get_by_text("report.html").click()
    inside = page.frame_locator("iframe").first
    expect(inside.get_by_role("heading", name="one", exact=True)).to_be_visible(timeout=SLOW_MS)
    expect(inside.get_by_role("heading", name="Summary")).to_be_visible(timeout=SLOW_MS)
    assert not errors


def test_records_over_http_and_back(ui: Ui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERFACTUAL_BENCH_CACHE", str(tmp_path / "cache"))
    config = TrackingConfig(uri=ui.address, experiment="over http")
    assert Tracker(tmp_path, config).import_suite(ui.suite) == 2
    assert Tracker(tmp_path, config).import_suite(ui.suite) == 0
    (back,) = download_suites(config, tmp_path, tmp_path / "back")
    kept = [path.relative_to(ui.suite) for path in sorted(ui.suite.rglob("*")) if path.is_file()]
    kept = [name for name in kept if name.name not in ("report.html", "track.log")]
    assert [path.relative_to(back) for path in sorted(back.rglob("*")) if path.is_file()] == kept
    assert all((back / name).read_bytes() == (ui.suite / name).read_bytes() for name in kept)
    assert not (ROOT / "mlartifacts").exists()


def test_imports_from_several_folders_of_runs_take_turns(
    ui: Ui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERFACTUAL_BENCH_CACHE", str(tmp_path / "cache"))
    config = TrackingConfig(uri=ui.address, experiment="at once")
    with ThreadPoolExecutor(2) as threads:  # an open file is locked against another one of the same process, too
        new = list(threads.map(lambda name: Tracker(tmp_path / name, config).import_suite(ui.suite), ("a", "b")))
    assert sorted(new) == [0, 2]
