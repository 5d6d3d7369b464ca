"""A page as a whole: failures only, what cannot be read, what was never begun, and several suites of one name."""

import html
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.record import LOCK, locked, read_suite, write_json
from reports.pages.report import render_report
from reports.records import distinct_names, read_cells
from tests.synthetic_record import write_record


def text_of(*folders: Path) -> str:
    """What the page says outside its scripts."""
    page = render_report(folders).decode()
    return html.unescape(re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))


def banner_of(*folders: Path) -> list[str]:
    """The lines at the top of a page."""
    banner = re.search(r'<div class="banner".*?</div>', render_report(folders).decode(), re.DOTALL)
    return [] if banner is None else [html.unescape(line) for line in re.findall(r"<(?:p|li)>(.*?)<", banner.group())]


def two_targets(row: dict) -> dict:
    """Every image with two reference values."""
    number = int(row["id"].rpartition("/")[2])
    return row | {"source": f"image {number // 2}", "target": 0.25 + 0.5 * (number % 2)}


@pytest.mark.parametrize("edit", [lambda row: row, two_targets])
def test_a_cell_whose_samples_all_failed_has_a_page(tmp_path: Path, edit: Callable[[dict], dict]) -> None:
    folder = write_record(tmp_path / "run", 6, backends=("eager", "compile"), fail_every=1, edit=edit)
    assert "Error against budget" in text_of(folder)
    some = write_record(tmp_path / "some", 6, edit=edit)
    assert "Error against budget" in text_of(folder, some)


def damage_line(cell: Path) -> None:
    journal = cell / "samples.jsonl"
    data = bytearray(journal.read_bytes())
    data[20] ^= 1
    journal.write_bytes(data)


def lose_table(cell: Path) -> None:
    (cell / "samples.parquet").unlink()


def cut_table(cell: Path) -> None:
    (cell / "samples.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("damage", "status", "words"),
    [
        (damage_line, "failed", "samples.jsonl: line 1 is damaged"),
        (lose_table, "ok", "samples.parquet is missing; run the cell again"),
        (cut_table, "ok", "samples.parquet cannot be read"),
    ],
)
def test_a_cell_that_cannot_be_read_leaves_the_others(
    tmp_path: Path, damage: Callable[[Path], None], status: str, words: str
) -> None:
    folder = write_record(tmp_path / "run", 4, backends=("eager", "compile"))
    cell = folder / "square--ac-re--compile--s0"
    record = read_suite(folder).cells[1].model_copy(update={"status": status})
    write_json(cell / "result.json", record)
    damage(cell)
    (line,) = banner_of(folder)
    assert line.startswith(f"Cell ac-re, compile is unreadable: {words}") and str(tmp_path) not in line
    page = text_of(folder)
    assert "Without figures, because they cannot be read: ac-re, compile." in page
    assert "Cells that did not finish" in page and "ac-re, compile (unreadable)" in page


def test_a_trace_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    folder = write_record(tmp_path / "run", 4, backends=("eager", "compile"))
    (folder / "square--ac-re--compile--s0" / "trace.parquet").write_bytes(b"PAR1")
    assert banner_of(folder) == []
    page = text_of(folder)
    assert "ac-re, compile: no course of the searches, as trace.parquet cannot be read" in page
    assert "The record holds no course" not in page and str(tmp_path) not in page


def test_cells_and_suites_that_were_never_begun_are_told(tmp_path: Path) -> None:
    whole = write_record(tmp_path / "whole", 2)
    config = read_suite(whole).config | {"method": ["ac-re", "diffae-re"]}
    write_json(whole / "suite.json", read_suite(whole).model_copy(update={"config": config}))
    none = tmp_path / "none"
    none.mkdir()
    left = {"id": "none", "cells": [], "status": "interrupted", "command": "python -m bench run --other"}
    write_json(none / "suite.json", read_suite(whole).model_copy(update=left))
    begun = "Suite whole: never begun: square--diffae-re--eager."
    empty = [
        "Suite none is interrupted: it has no cell.",
        "Suite none: never begun: square--ac-re--eager, square--diffae-re--eager.",
    ]
    assert banner_of(whole) == [begun]
    assert banner_of(none) == empty
    assert banner_of(whole, none) == [begun, *empty]
    page = text_of(none)
    assert "python -m bench run --other" in page and "on synthetic" in page
    assert "No failures" not in page and "One row is a cell" not in page


def test_suites_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_record(tmp_path / part / "repeat-1", 2) for part in ("p1", "p2")]
    assert [cell.label for cell in read_cells(folders)] == [f"ac-re, eager (p{n}/repeat-1)" for n in (1, 2)]
    page = text_of(*folders)
    assert "repeat-1 (p1/repeat-1)" in page and "command, repeat-1 (p2/repeat-1)" in page
    once = [folders[0], tmp_path / "p2" / ".." / "p1" / "repeat-1"]
    assert [cell.label for cell in read_cells(once)] == ["ac-re, eager"]


def test_with_several_suites_every_cell_names_its_own(tmp_path: Path) -> None:
    first = write_record(tmp_path / "a", 2, backends=("eager", "compile"))
    second = write_record(tmp_path / "b", 2)
    labels = [cell.label for cell in read_cells([first, second])]
    assert labels == ["ac-re, eager (a)", "ac-re, compile (a)", "ac-re, eager (b)"]
    assert [cell.label for cell in read_cells([first, first])] == ["ac-re, eager", "ac-re, compile"]


def test_what_no_process_writes_any_more_was_killed(tmp_path: Path) -> None:
    folder = write_record(tmp_path / "run", 3, status="running")
    killed = [
        "Suite run is killed: what follows is partial.",
        "Cell ac-re, eager is killed: 3 of 3 samples are recorded.",
    ]
    assert banner_of(folder) == killed
    assert not (folder / LOCK).exists()  # looking changes nothing
    with locked(folder):
        assert banner_of(folder) == [line.replace("killed", "running") for line in killed]
    assert banner_of(folder) == killed


@pytest.mark.parametrize(
    ("names", "folders", "expected"),
    [
        ("ab", ("x", "y"), ["a", "b"]),
        ("aa", ("x", "y"), ["a (x)", "a (y)"]),
        ("aba", ("1/x", "1/x", "2/x"), ["a (1/x)", "b", "a (2/x)"]),
        ("aaa", ("1/x", "2/x", "y"), ["a (1/x)", "a (2/x)", "a (%/y)"]),
        ("aa", ("x", "x"), ["a (x)", "a (x) #2"]),
    ],
)
def test_names_stand_once(tmp_path: Path, names: str, folders: tuple[str, ...], expected: list[str]) -> None:
    found = distinct_names(list(names), [tmp_path / folder for folder in folders])
    assert found == [name.replace("%", tmp_path.name) for name in expected]
