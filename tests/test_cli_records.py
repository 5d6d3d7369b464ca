"""`show` and `report` as a user meets them: what they write and what they refuse, through the command line."""

import csv
import io
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from torch import nn

from bench import cli
from bench.record import Journal, SuiteRecord, locked, read_suite, write_json
from reports.records import walk_suites
from tests.tiny_cell import run_cell, tiny_cell


class Done(NamedTuple):
    code: int
    out: str
    error: str


Bench = Callable[..., Done]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, error = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, error)

    return call


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, networks: dict[str, nn.Module]) -> Path:
    """A suite of one small cell."""
    folder = tmp_path_factory.mktemp("record") / "one"
    record, _ = run_cell(tiny_cell(networks, "ac-re", count=3), folder)
    (folder / "inputs").rename(folder / "inputs-toy")
    suite = SuiteRecord(
        id="one",
        command="python -m bench run",
        status="ok",
        config_set={},
        config={},
        environment={"cpu": "a processor"},
        cells=[record],
        started="2026-01-01T00:00:00.000+00:00",
        ended="2026-01-01T00:01:00.000+00:00",
    )
    write_json(folder / "suite.json", suite)
    return folder


@pytest.fixture
def runs(original: Path, tmp_path: Path) -> Path:
    """A folder of two suites, `one` and `deep/two`."""
    folder = tmp_path / "runs"
    shutil.copytree(original, folder / "one")
    shutil.copytree(original, folder / "deep" / "two")
    write_json(folder / "deep/two/suite.json", read_suite(original).model_copy(update={"id": "two"}))
    return folder


def sentence(done: Done, code: int = 2) -> str:
    """One sentence on standard error, nothing on standard output."""
    assert (done.code, done.out) == (code, ""), done
    assert done.error.startswith("error: ") and done.error.count("\n") == 1
    return done.error


def test_every_suite_in_a_folder_gets_its_page(bench: Bench, runs: Path) -> None:
    done = bench("report", "runs")
    assert done.code == 0, done.error
    assert done.out.split() == ["runs/deep/two/report.html", "runs/one/report.html"]
    assert (runs / "one/report.html").read_text().startswith("<!doctype html>")


def test_one_page_of_all(bench: Bench, runs: Path, tmp_path: Path) -> None:
    done = bench("report", "runs/one", "runs/deep", "-o", "new/all.html")
    assert (done.code, done.out.split()) == (0, ["new/all.html"]), done.error
    page = (tmp_path / "new/all.html").read_text()
    assert "ac-re, eager (one)" in page and "ac-re, eager (two)" in page
    assert not (runs / "one/report.html").exists()


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_an_unfinished_suite_is_reported_and_says_so(bench: Bench, runs: Path, status: str) -> None:
    recorded = read_suite(runs / "one")
    (cell,) = recorded.cells
    journal = Journal(runs / "one" / cell.id / "samples.jsonl")
    journal.replace(journal.peek()[:2])
    (runs / "one" / cell.id / "samples.parquet").unlink()
    cells = [cell.model_copy(update={"status": status, "error": "the <disk> is full", "summary": {}})]
    write_json(runs / "one" / cell.id / "result.json", cells[0])
    # A killed run has not put its cell into suite.json.
    listed = [] if status == "running" else cells
    write_json(runs / "one/suite.json", recorded.model_copy(update={"status": status, "cells": listed}))
    done = bench("report", "runs/one", "-o", "x.html")
    assert done.code == 0, done.error
    page = Path("x.html").read_text()
    shown = "killed" if status == "running" else status
    assert f"is {shown}" in page and "2 of 3 samples" in page and "<disk>" not in page
    for form in ("text", "csv", "markdown", "latex"):
        out = bench("show", "runs/one", "--format", form).out
        assert shown in out and "running" not in out, form
    (row,) = csv.DictReader(io.StringIO(bench("show", "runs/one", "--format", "csv").out))
    assert (row["n"], row["of"], row.get("success", "")) == ("2", "3", "")


def test_show_says_running_while_a_process_writes(bench: Bench, runs: Path) -> None:
    suite = read_suite(runs / "one")
    write_json(runs / "one/suite.json", suite.model_copy(update={"status": "running"}))
    assert "(killed)" in bench("show", "runs/one").out
    with locked(runs / "one"):
        assert "(running)" in bench("show", "runs/one").out


@pytest.mark.parametrize("form", ["text", "csv", "markdown", "latex"])
def test_show_lists_cells_that_were_never_begun(bench: Bench, runs: Path, form: str) -> None:
    suite = read_suite(runs / "one")
    config = {"dataset": ["toy"], "method": ["ac-re"], "backend": ["eager", "compile"]}
    write_json(runs / "one/suite.json", suite.model_copy(update={"status": "running", "config": config}))
    out = bench("show", "runs/one", "--format", form).out
    assert "never begun" in out and re.search("toy.+ac-re.+compile", out)


def test_copies_of_mlflow_are_no_suites(bench: Bench, runs: Path, tmp_path: Path) -> None:
    store = runs / "mlflow-artifacts/x/artifacts"
    store.mkdir(parents=True)
    (store / "suite.json").write_text("{}")
    done = bench("report", "runs", "-o", "all.html")
    assert done.code == 0, done.error
    assert [path for path, _ in walk_suites(runs)] == [runs / "deep/two", runs / "one"]
    assert "is not a record" in sentence(bench("report", store))  # named, it is read


def test_suites_of_verify_are_taken_where_they_are_named(bench: Bench, runs: Path) -> None:
    suite = read_suite(runs / "one").model_copy(update={"command": "python -m bench verify --backend compile"})
    write_json(runs / "deep/two/suite.json", suite)
    assert bench("report", "runs").out.split() == ["runs/one/report.html"]
    for named in ("runs/deep", "runs/deep/two"):
        assert bench("report", named).out.split() == ["runs/deep/two/report.html"]
    shutil.rmtree(runs / "one")
    assert "no suite but those of verify" in sentence(bench("report", "runs"))


def test_show_in_every_format(bench: Bench, runs: Path) -> None:
    assert "Means" not in bench("show", "runs/one").out and "success" in bench("show", "runs/one").out
    (heading, row) = csv.reader(io.StringIO(bench("show", "runs/one", "--format", "csv").out))
    success = read_suite(runs / "one").cells[0].summary["validity/success_rate"].value
    assert float(dict(zip(heading, row, strict=True))["success"]) == success
    assert bench("show", "runs/one", "--format", "markdown").out.startswith(
        "**one: means and rates with 95 % intervals"
    )
    short, whole = (bench("show", "runs/one", "--format", "latex", *more).out for more in ([], ["--all"]))
    assert r"\toprule" in short and "oracle-target" in short and "steps" not in short and "occupancy" not in short
    assert "steps" in whole and "occupancy" in whole
    assert "--all is for --format latex" in sentence(bench("show", "runs/one", "--format", "csv", "--all"))
    assert "did you mean 'latex'?" in sentence(bench("show", "runs/one", "--format", "latx"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a suite's folder, or an experiment with --mlflow EXPERIMENT"),
        (["nowhere"], "nowhere holds no record (suite.json), nor does a folder in it"),
        (["empty"], "empty holds no record (suite.json), nor does a folder in it"),
        (["runs/one", "-o", "folder.html"], "--output folder.html cannot be written: Is a directory"),
        (["runs/one", "-o", "file/x.html"], "--output file/x.html cannot be written"),
        (["runs/one", "-o", "/dev/null/x.html"], "--output /dev/null/x.html cannot be written"),
        (["runs/one", "-o", "runs/one/suite.json"], "suite.json is not the name of an HTML file"),
        (["runs/one", "--uri", "http://127.0.0.1:1"], "--uri names the server of --mlflow EXPERIMENT"),
    ],
)
def test_refusals(bench: Bench, runs: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("")
    before = (runs / "one/suite.json").read_bytes()
    assert words in sentence(bench("report", *arguments))
    assert (runs / "one/suite.json").read_bytes() == before
    assert not list(tmp_path.rglob("report*.html"))


@pytest.mark.parametrize("content", [b"", b'{"id": "on', b"\xff\xfe", b"[]", b'{"schema_version": 99}'])
def test_a_damaged_record_is_refused(bench: Bench, runs: Path, content: bytes) -> None:
    (runs / "one/suite.json").write_bytes(content)
    for verb in ("report", "show"):
        assert "runs/one/suite.json is not a record" in sentence(bench(verb, "runs/one"))


def test_a_damaged_table_is_told_on_the_page(bench: Bench, runs: Path) -> None:
    (table,) = (runs / "one").glob("*/samples.parquet")
    table.write_bytes(table.read_bytes()[:100])
    assert bench("report", "runs/one").code == 0
    page = (runs / "one/report.html").read_text()
    assert "Cell ac-re, eager is unreadable: samples.parquet cannot be read" in page and str(runs) not in page


def test_a_backend_that_computes_nothing_is_marked_in_every_format(bench: Bench, runs: Path) -> None:
    recorded = read_suite(runs / "one")
    (cell,) = recorded.cells
    empty = cell.model_copy(update={"backend": "null"})
    write_json(runs / "one" / cell.id / "result.json", empty)
    write_json(runs / "one/suite.json", recorded.model_copy(update={"cells": [empty]}))
    for form in ("csv", "text"):
        assert "means nothing" in bench("show", "runs/one", "--format", form).out
    for form in ("markdown", "latex"):
        assert "its counterfactuals mean nothing" in bench("show", "runs/one", "--format", form).out


def test_the_same_page_from_mlflow(bench: Bench, runs: Path) -> None:
    assert bench("track", "runs/one", "--runs", "store").code == 0
    done = bench("report", "--mlflow", "counterfactual-bench", "--runs", "store")
    assert (done.code, done.out.split()) == (0, ["report-counterfactual-bench.html"]), done.error
    page = Path("report-counterfactual-bench.html").read_text()
    assert "ac-re, eager" in page and read_suite(runs / "one").cells[0].fingerprint in page
