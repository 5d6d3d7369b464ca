"""What is on disk survives torn writes, and damage is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import RunError, UsageError
from bench.images import BadImage, file_name, read_image, to_float, to_uint8, write_png
from bench.record import CellRecord, Journal, SuiteRecord, missing_cells, now, read_cell, read_suite


def journal_of(path: Path, count: int) -> Journal:
    journal = Journal(path / "samples.jsonl")
    for index in range(count):
        journal.append({"id": f"s{index}", "value": index})
    return journal


def test_a_torn_last_line_is_dropped_at_every_byte(tmp_path: Path) -> None:
    whole = journal_of(tmp_path, 3).path.read_bytes()
    start = whole.rfind(b"\n", 0, -1) + 1
    for cut in range(start, len(whole)):
        journal = Journal(tmp_path / "cut.jsonl")
        journal.path.write_bytes(whole[:cut])
        assert [row["id"] for row in journal.rows()] == ["s0", "s1"]
        journal.append({"id": "new"})
        assert [row["id"] for row in journal.rows()] == ["s0", "s1", "new"]


def test_damage_in_the_middle_is_refused_with_its_line(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, 3)
    data = bytearray(journal.path.read_bytes())
    data[data.find(b"\n") + 15] ^= 1
    journal.path.write_bytes(data)
    with pytest.raises(RunError, match="line 2 is damaged"):
        journal.rows()


def test_records_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    assert read_cell(tmp_path) is None
    with pytest.raises(UsageError, match="no record"):
        read_suite(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(UsageError, match="result.json"):
        read_cell(tmp_path)


def test_cells_that_were_never_begun_are_named() -> None:
    cell = CellRecord(
        id="square--ac-re--eager--s0", dataset="square", method="ac-re", backend="eager", seed=0, fingerprint="",
        facts={}, options={}, samples=1, started=now(),
    )  # fmt: skip
    config = {"dataset": ["square"], "method": ["ac-re", "diffae-re"], "backend": ["eager", "onnx"]}
    suite = SuiteRecord(id="s", command="", config_set={}, config=config, environment={}, started=now())
    lacking = ["square--ac-re--onnx", "square--diffae-re--eager", "square--diffae-re--onnx"]
    assert missing_cells(suite, [cell]) == lacking
    assert missing_cells(suite.model_copy(update={"config": {}}), []) == []


def test_images_round_trip_exactly(tmp_path: Path) -> None:
    pixels = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3).astype(np.uint8)
    write_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    np.testing.assert_array_equal(to_uint8(to_float(pixels)), pixels)
    assert to_uint8(np.full((3, 1, 1), 127.5 / 255 + 1e-4)).max() == 128


def test_bad_images_are_named(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    write_png(good, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    cases = {
        "truncated.png": good.read_bytes()[:3000],
        "empty.png": b"",
        "page.png": b"<html>not found</html>",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadImage, match=name):
            read_image(tmp_path / name)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadImage, match="more than 8 bits a channel"):
        read_image(tmp_path / "deep.png")
    Image.new("RGBA", (8, 8), (1, 2, 3, 0)).save(tmp_path / "clear.png")
    with pytest.raises(BadImage, match="transparent"):
        read_image(tmp_path / "clear.png")
    with pytest.raises(BadImage, match="32x32 are needed"):
        read_image(good, 32)


@pytest.mark.parametrize("name", ["../../etc/passwd", "-rf", "a\nb", 'x"><img src=x>', "ü" * 300, "\udcff"])
def test_file_names_never_come_from_ids(name: str) -> None:
    assert file_name(name).removesuffix(".png").isalnum()
    assert len(file_name(name)) == 20
