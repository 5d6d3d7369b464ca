"""The whole page of a record with many images: its size, the time and the memory that it takes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reports.pages.report import write_page
from tests.synthetic_record import write_record

BUILD = """
import json, resource, sys, time
from pathlib import Path
from reports.pages.report import write_page

wall, cpu = time.perf_counter(), time.process_time()
write_page(Path(sys.argv[1]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mib": peak}))
"""


def build(folder: Path) -> dict[str, float]:
    """Make a record's page in a process of its own; what that took."""
    done = subprocess.run([sys.executable, "-c", BUILD, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def gallery(path: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    return next(block for block in json.loads(found[1]).values() if block["kind"] == "gallery")


def test_a_page_of_many_samples_is_whole(tmp_path):
    folder = write_record(tmp_path / "run", 100, backends=("eager", "compile"), fail_every=25)
    shown = gallery(write_page(folder))
    assert len(shown["items"]) == 200
    assert all(len(item["pictures"]) == 4 for item in shown["items"])
    assert (folder / "report.html").stat().st_size < 7_000_000


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 256])
def test_3000_counterfactuals_in_a_minute_two_gigabytes_and_20_megabytes(tmp_path, size, capsys):
    """Inputs and reconstructions of all: 12,000 pictures. Time is that of all threads together, which is no less than
    what an idle machine of one core takes: on a busy one the wall time says nothing."""
    folder = write_record(tmp_path / "run", 3000, size, reconstructions=True, fail_every=50)
    took = build(folder)
    page = folder / "report.html"
    with capsys.disabled():
        figures = ", ".join(f"{name} {value:.1f}" for name, value in took.items())
        load = os.getloadavg()[0]
        print(f"\n3,000 of {size}x{size}: {figures}, {page.stat().st_size / 1e6:.1f} MB; load average {load:.1f}")
    assert page.stat().st_size < 20_000_000
    assert took["cpu_s"] < 60
    assert took["peak_mib"] < 2048
    shown = gallery(page)
    assert len(shown["items"]) == 3000
    assert all("pictures" in item for item in shown["items"])
