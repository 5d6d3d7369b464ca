"""Pictures for pages: what is made of saved images, what is left out where not everything fits, what damage does."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.images import file_name, write_png
from reports.pages.blocks import Gallery, Section, Text
from reports.pages.sections import gallery
from reports.records import read_cells
from reports.sweep import DIFFERENCE_MAXIMUM
from reports.thumbnails import ENCODINGS, Encoding, Files, choose, colour_bar, colours, distinct, encode, uri_bytes
from tests.synthetic_record import write_record

EXACT = Encoding(64, 100, exact=64)


def decoded(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def from_uri(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/webp;base64"
    return decoded(base64.b64decode(data, validate=True))


def of(section: Section) -> Gallery:
    return next(block for block in section.blocks if isinstance(block, Gallery))


def notes(section: Section) -> str:
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


def saved(folder: Path, **images: np.ndarray) -> Files:
    for name, pixels in images.items():
        write_png(folder / f"{name}.png", pixels)
    return Files(*(folder / f"{name}.png" if name in images else None for name in ("x", "c", "r")))


def test_colours_are_blue_where_it_got_darker_and_their_scale_is_fixed():
    ends = colours(np.array([[-1.0, -DIFFERENCE_MAXIMUM, 0.0, DIFFERENCE_MAXIMUM, 1.0]]))[0].astype(int)
    blue, red, white = ends[1], ends[3], ends[2]
    assert blue[2] > blue[0] + 60
    assert red[0] > red[2] + 60
    assert white.min() > 240
    assert np.array_equal(ends[0], blue) and np.array_equal(ends[4], red)
    alone = colours(np.array([[0.1]]))[0, 0]
    assert np.array_equal(alone, colours(np.array([[0.1, 0.5]]))[0, 0])


def test_colour_bar_runs_from_the_lower_to_the_upper_end():
    bar = decoded(colour_bar())
    ends = colours(np.array([[-DIFFERENCE_MAXIMUM, DIFFERENCE_MAXIMUM]]))[0]
    assert np.array_equal(bar[0, [0, -1]], ends)


def test_the_difference_is_counterfactual_minus_input_averaged_over_channels(tmp_path):
    original = np.full((32, 32, 3), 100, np.uint8)
    changed = original.copy()
    changed[:16] += np.array([60, 30, 0], np.uint8)
    (found,) = encode([saved(tmp_path, x=original, c=changed)], EXACT)
    assert np.array_equal(decoded(found.original), original)
    assert np.array_equal(decoded(found.counterfactual), changed)
    assert found.reconstruction is None
    expected = colours(np.array([[30 / 255, 0.0]]))[0]
    assert np.array_equal(decoded(found.difference)[[0, -1], 0], expected)


def test_differences_are_made_at_full_size_and_then_averaged(tmp_path):
    """One of the two pictures alone, shrunk, would be the same grey; and differences beyond the scale count in full."""
    rows, columns = np.mgrid[0:128, 0:128]
    original = np.repeat((255 * ((rows + columns) % 2))[..., None], 3, axis=-1).astype(np.uint8)
    (found,) = encode([saved(tmp_path, x=original, c=255 - original)], EXACT)
    assert decoded(found.difference).shape == (64, 64, 3)
    assert np.array_equal(decoded(found.difference), colours(np.zeros((64, 64))))


def test_nothing_is_enlarged_and_proportions_stay(tmp_path):
    wide = np.zeros((40, 200, 3), np.uint8)
    small = np.zeros((8, 8, 3), np.uint8)
    (found,) = encode([saved(tmp_path, x=wide, c=wide, r=small)], Encoding(100, 80))
    assert decoded(found.counterfactual).shape == (20, 100, 3)
    assert decoded(found.reconstruction).shape == (8, 8, 3)


@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_an_image_that_cannot_be_read_is_told_and_the_others_are_shown(tmp_path, damage):
    folder = write_record(tmp_path / "run", 4)
    broken = folder / "square--ac-re--eager--s0" / "images" / file_name("synthetic/00002")
    if damage == "missing":
        broken.unlink()
    else:
        broken.write_bytes(broken.read_bytes()[:300] if damage == "cut" else b"no image")
    section = gallery.build(read_cells([folder]))
    items = of(section).items
    (told,) = items[2]["problems"]
    assert told.startswith(f"counterfactual {broken.name}: ")
    assert told in notes(section)
    assert str(tmp_path) not in json.dumps(items) + notes(section)
    assert items[2]["pictures"][0] is not None and items[2]["pictures"][2:] == [None, None]
    assert all(None not in [item["pictures"][part] for part in (0, 2, 3)] for item in items if item is not items[2])


def test_a_lost_input_and_another_size_leave_no_difference(tmp_path):
    folder = write_record(tmp_path / "run", 3)
    (folder / "inputs-square" / file_name("synthetic/00000")).unlink()
    write_png(folder / "inputs-square" / file_name("synthetic/00001"), np.zeros((16, 16, 3), np.uint8))
    items = of(gallery.build(read_cells([folder]))).items
    assert [item["pictures"][3] is None for item in items] == [True, True, False]
    assert "missing" in items[0]["problems"][0]
    assert "not of one size" in items[1]["problems"][0]


def test_items_say_what_the_record_says(tmp_path):
    folder = write_record(tmp_path / "run", 10, reconstructions=True, fail_every=5)
    (cell,) = read_cells([folder])
    shown = of(gallery.build([cell]))
    json.dumps(shown.items, allow_nan=False)
    assert [item["state"] == "failed" for item in shown.items] == [False] * 4 + [True] + [False] * 4 + [True]
    assert [item["state"] == "valid" for item in shown.items] == list(cell.samples["valid"] > 0)
    for item, (_, row) in zip(shown.items, cell.samples.iterrows(), strict=True):
        assert item["id"] == row["id"]
        assert item.get("failure") == (row["failure"] if item["state"] == "failed" else None)
        assert ("prediction" in item["figures"]) == (item["state"] != "failed")
        assert item["figures"]["target"] == pytest.approx(row["target"], rel=1e-4)
        assert "reached" not in item["figures"] and "valid" not in item["figures"]
        original, reconstruction, counterfactual, difference = item["pictures"]
        assert np.array_equal(from_uri(shown.pictures[original]), np.asarray(Image.open(cell.input_path(row))))
        assert reconstruction is not None
        assert (counterfactual is None) == (difference is None) == (item["state"] == "failed")


def test_a_partial_record_shows_what_there_is(tmp_path):
    folder = write_record(tmp_path / "run", 6, fail_every=3, status="running")
    section = gallery.build(read_cells([folder]))
    assert [item["state"] == "failed" for item in of(section).items] == [False, False, True] * 2
    assert all(len(item["pictures"]) == 4 for item in of(section).items)


def test_nothing_recorded_is_no_section(tmp_path):
    folder = write_record(tmp_path / "run", 2, status="failed")
    (folder / "square--ac-re--eager--s0" / "samples.jsonl").unlink()
    assert gallery.build(read_cells([folder])) is None


def test_cells_share_inputs_and_samples_and_a_picture_stands_once(tmp_path):
    folder = write_record(tmp_path / "run", 5, backends=("eager", "compile"))
    shown = of(gallery.build(read_cells([folder])))
    assert shown.cells == ["ac-re, eager", "ac-re, compile"]
    assert [item["sample"] for item in shown.items] == [0, 1, 2, 3, 4] * 2
    assert [item["pictures"][0] for item in shown.items[:5]] == [item["pictures"][0] for item in shown.items[5:]]
    assert len(set(shown.pictures)) == len(shown.pictures) == 5 + 2 * (5 + 5)


def test_other_data_of_the_same_names_are_other_samples(tmp_path):
    folders = [write_record(tmp_path / name, 3) for name in ("a", "b")]
    write_png(folders[1] / "inputs-square" / file_name("synthetic/00001"), np.zeros((64, 64, 3), np.uint8))
    first, second = read_cells(folders)
    assert [item["sample"] for item in of(gallery.build([first, second])).items] == [0, 1, 2, 0, 1, 2]
    facts = second.record.facts | {"data": "1" * 64}
    other = replace(second, record=second.record.model_copy(update={"facts": facts}))
    other.samples.loc[2, "target"] += 0.1
    assert [item["sample"] for item in of(gallery.build([first, other])).items] == [0, 1, 2, 0, 3, 4]


def test_less_room_means_smaller_pictures_then_fewer(tmp_path):
    folder = write_record(tmp_path / "run", 24, size=128)
    (cell,) = read_cells([folder])
    files = [Files(cell.input_path(row), cell.image_path(row), None) for _, row in cell.samples.iterrows()]
    whole = uri_bytes(distinct(encode(files, Encoding(256, 90))))
    assert choose(files, 4 * whole) == (ENCODINGS[0], 24)
    assert choose(files, 2 * whole) == (ENCODINGS[1], 24)
    middle, count = choose(files, whole // 6)
    assert count == 24 and middle.edge < 128
    smallest, fewer = choose(files, whole // 200)
    assert smallest == ENCODINGS[-1] and 0 < fewer < 24


def test_pictures_stay_below_the_limit_and_the_page_says_what_is_left_out(tmp_path, monkeypatch):
    folder = write_record(tmp_path / "run", 40, fail_every=10)
    monkeypatch.setattr(gallery, "PICTURES_LIMIT", 30_000)
    monkeypatch.setattr(gallery, "FIRST", 6)
    section = gallery.build(read_cells([folder]))
    shown = of(section)
    with_pictures = [item for item in shown.items if "pictures" in item]
    assert 5 < len(with_pictures) < 40 and len(shown.items) == 40
    assert sum(len(json.dumps(uri)) + 1 for uri in shown.pictures) <= 30_000
    assert f"Pictures for {len(with_pictures)} of 40 samples" in notes(section)
    kept = {item["id"] for item in with_pictures}
    assert {item["id"] for item in shown.items if item["state"] == "failed"} <= kept
    worst = sorted(shown.items, key=lambda item: -item["figures"].get("prediction_error", 0))
    assert {item["id"] for item in worst[:3]} <= kept


def test_of_many_samples_the_declared_ones_are_listed(tmp_path, monkeypatch):
    folder = write_record(tmp_path / "run", 32, backends=("eager", "compile"), fail_every=16)
    monkeypatch.setattr(gallery, "ITEMS_LIMIT", 20)
    monkeypatch.setattr(gallery, "FIRST", 4)
    cells = read_cells([folder])
    section = gallery.build(cells)
    assert "20 of 64 samples are listed" in notes(section)
    for number, cell in enumerate(cells):
        own = [item for item in of(section).items if item["cell"] == number]
        assert len(own) == 10
        assert [item["state"] for item in own].count("failed") == 2
        worst = cell.samples.nlargest(4, "prediction_error")["id"]
        assert set(worst) <= {item["id"] for item in own}
        assert [item["id"] for item in own] == sorted(item["id"] for item in own)
