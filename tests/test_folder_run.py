"""Whole runs on a folder of images: what a version that did not know `folder.channels` has recorded goes on."""

import io
from pathlib import Path

from PIL import Image

from bench.cell import resolve_cell
from bench.config import RunConfig, build_config
from bench.progress import Display
from bench.record import CellRecord, Journal, read_cell, write_json
from bench.rejudge import rejudge
from bench.suite import run_suite
from tests.celebahq_weights import write_network
from tests.conftest import CPU
from tests.mini_celebahq import picture

SIZE = 16


def configured(folder: Path, channels: int, *assignments: str) -> RunConfig:
    """PGD on three images in `folder`/images, with tiny networks; both are written there."""
    (folder / "images").mkdir(exist_ok=True)
    given = [f"folder.path={folder / 'images'}", f"folder.size={SIZE}", "metrics.noise_draws=0", "pgd-re.max_steps=2"]
    for seed, role in enumerate(("regressor", "oracle")):
        config = {"widths": [8], "in_channels": channels}
        given.append(f"weights.{role}={write_network(folder / f'{role}.safetensors', 'regressor', config, seed)}")
    for number in range(3):
        image: Image.Image = picture(number + 1, SIZE)
        image.convert("L" if channels == 1 else "RGB").save(folder / f"images/{number}.png")
    return build_config(None, [*given, *assignments], {"dataset": ["folder"], "method": ["pgd-re"]})


def run(config: RunConfig, suite: Path) -> CellRecord:
    record, errors = run_suite(config, {}, suite, False, Display(io.StringIO()))
    assert errors == []
    return record.cells[0]


def made_earlier(folder: Path, kept: int) -> None:
    """As if a version without `folder.channels` had made the cell's record, and ended after some samples."""
    record, journal = read_cell(folder), Journal(folder / "samples.jsonl")
    del record.options["folder"]["channels"]
    if kept < record.samples:
        journal.replace(journal.rows()[:kept])
        record.status, record.finished = "interrupted", kept
    write_json(folder / "result.json", record)


def saved(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def test_a_record_from_before_channels_goes_on(tmp_path: Path) -> None:
    config, suite = configured(tmp_path, 3), tmp_path / "run"
    first = run(config, suite)
    older = {"path": str(tmp_path / "images"), "target": 0.5, "size": SIZE, "resize": "refuse", "labels": ""}
    assert first.facts["options"]["folder"] == older, "what was recorded, and hashed, before there were channels"
    folder = suite / first.id
    images = saved(folder)
    made_earlier(folder, kept=1)
    again = run(config, suite)
    assert (again.fingerprint, again.facts) == (first.fingerprint, first.facts)
    assert (again.status, again.sessions, again.finished) == ("ok", 2, 3) and saved(folder) == images
    made_earlier(folder, kept=3)
    (judged,) = rejudge(suite, None, Display(io.StringIO())).cells
    assert judged.summary["validity/oracle_target_mae"] == first.summary["validity/oracle_target_mae"]


def test_a_record_of_grey_images_says_so(tmp_path: Path) -> None:
    cell = resolve_cell(configured(tmp_path, 1, "folder.channels=1"), "folder", "pgd-re", "eager", CPU)
    assert cell.facts()["options"]["folder"]["channels"] == 1
