"""Green nights that are kept: which one is the base, what is thrown away, what cannot be read."""

from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.nightly import history
from bench.nightly.machine import Machine
from tests.pretended import FACTS_HERE, HERE, SETTINGS, leave, record


def test_the_last_green_night_of_the_same_machine_and_matrix(tmp_path: Path) -> None:
    kept = tmp_path / "history"
    other = Machine(facts=FACTS_HERE | {"cores": 64}, backends=("eager",))
    fewer = SETTINGS.model_copy(update={"backends": ("eager",)})
    turned = SETTINGS.model_copy(update={"backends": ("onnx", "eager", "compile"), "factor": 2.0})
    nights = [record("2026-01-01T00:00:00.000+00:00"), record("2026-01-02T00:00:00.000+00:00", settings=turned)]
    nights += [record("2026-01-03T00:00:00.000+00:00", other), record("2026-01-04T00:00:00.000+00:00", settings=fewer)]
    for index, found in enumerate(nights):
        history.keep(leave(tmp_path / str(index), found), found, kept, 9)
    tonight = record("2026-01-05T00:00:00.000+00:00")
    assert history.last_green(kept, tonight, "smoke")[0] == kept / HERE.key / nights[1].id / "smoke"
    assert history.last_green(kept, nights[1], "smoke")[0] == kept / HERE.key / nights[0].id / "smoke", "not itself"
    assert history.last_green(kept, tonight, "nightly") == (None, [])
    assert history.last_green(tmp_path / "none", tonight, "smoke") == (None, [])
    assert not list(kept.rglob("logs"))


def test_only_the_latest_nights_are_kept(tmp_path: Path) -> None:
    nights = [record(f"2026-01-0{day}T00:00:00.000+00:00") for day in range(1, 5)]
    for index, found in enumerate(nights):
        out = leave(tmp_path / str(index), found)
        (tmp_path / "kept" / HERE.key / f"{history.PARTIAL}torn").mkdir(parents=True, exist_ok=True)
        history.keep(out, found, tmp_path / "kept", 2)
        history.keep(out, found, tmp_path / "kept", 2)  # a night that went on
    assert [found.id for _, found in history.green_nights(tmp_path / "kept", HERE)[0]] == [n.id for n in nights[2:]]


def test_a_night_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """Damaged, of another schema, or with a repeat that has no record: the one before is the base."""
    nights = [record(f"2026-01-0{day}T00:00:00.000+00:00") for day in range(1, 5)]
    for index, found in enumerate(nights):
        history.keep(leave(tmp_path / str(index), found), found, tmp_path / "kept", 9)
    folder = tmp_path / "kept" / HERE.key
    (folder / nights[1].id / "night.json").write_text('{"schema_version": 0}')
    (folder / nights[2].id / "smoke" / "repeat-2" / "suite.json").write_text("{}")
    (folder / nights[3].id / "night.json").write_text("\x00")
    base, notes = history.last_green(tmp_path / "kept", record("2026-01-09T00:00:00.000+00:00"), "smoke")
    assert base == folder / nights[0].id / "smoke" and len(notes) == 3
    for found in nights[1:]:
        assert any(found.id in note for note in notes)


def test_a_history_is_tried_before_it_is_needed(tmp_path: Path) -> None:
    history.probe(tmp_path / "new" / "history", HERE)
    assert not list((tmp_path / "new" / "history" / HERE.key).iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--history .*file cannot be written"):
        history.probe(tmp_path / "file", HERE)


def test_a_copy_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    found = record("2026-01-01T00:00:00.000+00:00")
    out = leave(tmp_path / "out", found)
    place = history.keep(out, found, tmp_path / "kept", 9)
    (out / "smoke").rename(out / "elsewhere")
    with pytest.raises(OSError, match="smoke"):
        history.keep(out, found, tmp_path / "kept", 9)
    assert (place / "smoke" / "repeat-1" / "suite.json").is_file()
    (out / "elsewhere").rename(out / "smoke")
    history.keep(out, found, tmp_path / "kept", 9)
    assert [path.name for path in place.parent.iterdir()] == [found.id], "nothing half copied stays"
