"""What the gate leaves: Markdown, JUnit XML, JSON and exit codes; hostile text stays text."""

import json
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.compare import NotComparable
from bench.errors import UsageError
from bench.gate import GateReport, gate
from bench.gate.repeats import one_line
from bench.record import CellRecord, read_suite, write_json
from reports.gate_report import code, headline, junit, markdown, reason_lines
from tests.gate_sides import finished, only, side, write_repeat, write_verification


def check_junit(data: bytes) -> dict[str, list[str]]:
    """What readers of JUnit XML rely on; the test cases by outcome."""
    root = ElementTree.fromstring(data)
    assert root.tag == "testsuites"
    found: dict[str, list[str]] = {"failure": [], "error": [], "skipped": [], "": []}
    for suite in root:
        assert suite.tag == "testsuite"
        for case in suite:
            assert (case.tag, set(case.attrib)) == ("testcase", {"classname", "name"})
            outcomes = [child for child in case if child.tag != "system-out"]
            assert len(outcomes) <= 1
            assert all(child.get("message") for child in outcomes)
            found[outcomes[0].tag if outcomes else ""].append(f"{case.get('classname')} {case.get('name')}")
        counts = [len(suite), len(found["failure"]), len(found["error"]), len(found["skipped"])]
        for element in (root, suite):
            assert [int(element.get(key)) for key in ("tests", "failures", "errors", "skipped")] == counts
    return found


def test_junit_has_a_case_for_every_cell_and_check(tmp_path: Path) -> None:
    base = write_repeat(tmp_path / "base", None, finished(), finished("diffae-re"))
    new = write_repeat(tmp_path / "new", None, finished(), finished("ac-re-gn"))
    report = gate(base, new)
    found = check_junit(junit(report))
    first = "square--ac-re--compile--s0"
    assert found["failure"] == ["square--diffae-re--compile--s0 correctness"]
    assert found["skipped"] == [
        f"{first} speed",
        *(f"square--diffae-re--compile--s0 {k}" for k in ("quality", "speed")),
    ]
    assert found[""] == [f"{first} correctness", f"{first} quality", "square--ac-re-gn--compile--s0 correctness"]
    assert f"{first} speed" in check_junit(junit(report, strict=True))["failure"]


def test_refuted_backends_have_a_case_of_their_own(tmp_path: Path) -> None:
    base, new = side(tmp_path / "base"), side(tmp_path / "new")
    report = gate(base, new, verify=write_verification(tmp_path / "verify", "different", "diffae-re"))
    assert check_junit(junit(report))["failure"] == ["square--diffae-re--compile verify"]
    assert "1 of 1 different" in headline(report)
    assert "gradient \\| off" in markdown(report)


HOSTILE = (
    "a|b\\|c `x` ``y`` <img src=x onerror=alert(1)> </testcase> @all #1 http://evil.example \x00\x1b[31m \ud800\n| - |"
)


def hostile(record: CellRecord, frame: pd.DataFrame) -> None:
    record.status, record.error = "failed", HOSTILE.replace("\ud800", "")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    base = side(tmp_path / "base", count=1)
    folder = tmp_path / "new|`<b>é"
    report = gate(base, side(folder, change=hostile, count=1))
    page = markdown(report)
    outside = page
    for span in (code(reason) for reason in only(report).correctness.reasons):
        assert span in page
        outside = outside.replace(span, "")
    for word in ("img", "@all", "http", "\x00", "\x1b"):
        assert word not in outside
    assert "\x1b" not in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(row.replace("\\|", "").split("|")) for row in rows} == {7}
    (failure,) = ElementTree.fromstring(junit(report)).iter("failure")
    assert "<img src=x onerror=alert(1)>" in failure.get("message")
    page.encode()
    report.model_dump_json().encode()


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("plain", "`plain`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("", "` `"),
        ("a|b", "`a\\|b`"),
        ("a\\|b", "`a\\ \\|b`"),
        ("two\nlines\ud800", "`two lines\ufffd`"),
    ],
)
def test_code_spans(text: str, span: str) -> None:
    assert code(text) == span


def test_files_and_exit_codes(tmp_path: Path) -> None:
    side(tmp_path / "base")
    side(tmp_path / "slow", 1.3)
    side(tmp_path / "few", 1.3, count=1)
    write_repeat(tmp_path / "far", None, cpu="other")
    runner = CliRunner()
    files = [str(tmp_path / name) for name in ("out/gate.md", "out/gate.xml", "out/gate.json")]
    options = ["--markdown", files[0], "--junit", files[1], "-o", files[2], "--json"]
    slow = runner.invoke(app, ["gate", str(tmp_path / "base"), str(tmp_path / "slow"), *options])
    assert slow.exit_code == 1, slow.output
    assert "seconds per image 1.2" in slow.output
    report = GateReport.model_validate_json(slow.stdout.splitlines()[-1])
    assert report == GateReport.model_validate_json(Path(files[2]).read_text())
    assert Path(files[0]).read_text().startswith("**Gate failed: 1 regressed**")
    assert check_junit(Path(files[1]).read_bytes())["failure"] == ["square--ac-re--compile--s0 speed"]
    assert runner.invoke(app, ["gate", str(tmp_path / "base"), str(tmp_path / "slow"), "--factor", "2"]).exit_code == 0
    few = ["gate", str(tmp_path / "base"), str(tmp_path / "few")]
    assert runner.invoke(app, few).exit_code == 0
    assert runner.invoke(app, [*few, "--strict"]).exit_code == 1
    far = ["gate", str(tmp_path / "base"), str(tmp_path / "far"), "--markdown", files[0], "--junit", files[1]]
    refused = runner.invoke(app, far).exception
    assert isinstance(refused, NotComparable)
    assert refused.exit_code == 3
    assert "could not judge" in Path(files[0]).read_text()
    assert "they differ in cpu" in Path(files[0]).read_text()
    assert len(check_junit(Path(files[1]).read_bytes())["error"]) == 1


def test_no_earlier_verdict_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the files without the exit code must not take those of another gate for this one's."""
    monkeypatch.chdir(tmp_path)
    side(Path("base"))
    side(Path("new"))
    write_repeat(Path("far"), None, cpu="other")
    files = [Path(name) for name in ("gate.md", "gate.xml", "gate.json")]
    options = ["--markdown", "gate.md", "--junit", "gate.xml", "-o", "gate.json"]

    def exit_code(*arguments: str) -> int:
        return getattr(CliRunner().invoke(app, ["gate", *arguments, *options]).exception, "exit_code", 0)

    assert exit_code("base", "new") == 0
    assert json.loads(files[2].read_text())["verdict"] == "ok"
    assert exit_code("base", "far") == 3
    written = json.loads(files[2].read_text())
    assert (written.keys(), written["verdict"]) == ({"verdict", "reason"}, "not comparable")
    assert "they differ in cpu" in written["reason"]
    assert exit_code("base", "new") == 0
    assert all(path.is_file() for path in files)
    assert exit_code("base", "nowhere") == 2
    assert not any(path.exists() for path in files)


def test_too_few_repeats_are_told_once(tmp_path: Path) -> None:
    cells = [finished(), finished("diffae-re"), finished("ac-re-gn")]
    report = gate(write_repeat(tmp_path / "base", None, *cells), write_repeat(tmp_path / "new", None, *cells))
    assert report.verdict == "inconclusive"
    page, _, _ = markdown(report, strict=True).partition("<details>")
    for text in (page, "\n".join(reason_lines(report))):
        assert text.count("cannot be significant") == 1
        (line,) = (line for line in text.splitlines() if "cannot be significant" in line)
        assert "1 and 1 process repeats cannot be significant; 3 a side can be" in line
        assert all(cell.cell in line for cell in report.cells)
    assert len(check_junit(junit(report, strict=True))["failure"]) == 3  # every cell has its own reasons there


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["base", "nowhere"], "nowhere is no folder"),
        (["base", "no\udcff\x1bwhere"], "no\\udcff\\x1bwhere is no folder"),
        (["base", "empty"], "holds neither suite.json"),
        (["base", "torn"], "repeat-2 holds no record"),
        (["base", "base/../base"], "proves nothing"),
        (["base", "base/repeat-1/square--ac-re--compile--s0"], "is a cell's folder"),
        (["base", "damaged"], "is not a record of schema"),
        (["none", "base"], "holds no cell"),
        (["base", "other", "-s", "verify.sucess_margin=0.1"], "did you mean 'success_margin'"),
        (["base", "other", "-s", "verify.success_margin=2"], "verify.success_margin"),
        (["base", "other", "-s", "seed=2"], "margins only"),
        (["base", "other", "--junit", "empty"], "--junit"),
        (["base", "other", "--markdown", "/proc/nowhere/x.md"], "cannot be written"),
        (["base", "other", "-o", "base/repeat-1/suite.json"], "would replace a record"),
        (["base", "other", "-o", "pipe"], "is no regular file"),
        # Refused before anything is read: that BASE is nowhere is not noticed yet.
        (["nowhere", "base", "--junit", "base/repeat-1/suite.json/x.xml"], "repeat-1/suite.json is no folder"),
        (["nowhere", "base", "-o", "base/repeat-1/suite.json/deep/x.json"], "repeat-1/suite.json is no folder"),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str) -> None:
    side(tmp_path / "base", count=1)
    side(tmp_path / "other", count=1)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    side(tmp_path / "torn", count=1)
    (tmp_path / "torn/repeat-2").mkdir()
    write_repeat(tmp_path / "damaged/repeat-1")
    (tmp_path / "damaged/repeat-1/suite.json").write_text("{")
    none = read_suite(write_repeat(tmp_path / "none"))
    shutil.rmtree(tmp_path / "none" / none.cells.pop().id)
    write_json(tmp_path / "none/suite.json", none)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["gate", *arguments])
    assert isinstance(found.exception, UsageError), found.output
    assert words in str(found.exception)


def test_a_folder_that_may_not_be_written_to_is_noticed_first(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write anywhere, as root may")
    arguments = ["nowhere", "base", "--markdown", str(tmp_path / "closed/deep/gate.md")]
    found = CliRunner().invoke(app, ["gate", *arguments])
    assert isinstance(found.exception, UsageError), found.output
    assert str(found.exception).endswith("closed is not writable")


def test_foreign_text_is_one_line_with_escapes() -> None:
    assert one_line("two\nlines\ta\x1b[31m\udcffb\u202e") == "two lines a\\x1b[31m\\udcffb\\u202e"
