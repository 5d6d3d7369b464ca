"""Whole nights, with verbs that only pretend and (slow) a real one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.nightly import history, night, opening
from bench.nightly.record import read_night
from tests.gate_sides import write_repeat
from tests.pretended import HERE, ROOT, Pretended, interruptible
from tests.test_gate_absolute import black


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return Pretended(tmp_path, monkeypatch)


ALL = ["doctor", "verify", "run", "run", "alone", "report", "track"]
"""What the first night of a machine does; the next has "gate" instead of "alone"."""


def test_a_green_night_is_the_next_ones_base(pretended: Pretended) -> None:
    assert pretended.run() == 0 and pretended.verbs() == ALL
    first = pretended.night()
    assert first.verdict == "green" and first.settings.backends == HERE.backends and len(first.notes) == 1
    pretended.begin_at("2100-01-01")
    assert pretended.run(output="second") == 0
    assert pretended.verbs() == [verb if verb != "alone" else "gate" for verb in ALL]
    assert pretended.tags() == ["night=2100-01-01T00-00-00Z-" + pretended.commit[:8], "preset=smoke"]
    (gate,) = [arguments for _, verb, arguments in pretended.calls if verb == "gate"]
    assert gate[0] == str(pretended.folder / "history" / HERE.key / first.id / "smoke")
    assert gate[1] == str(pretended.folder / "second" / "smoke")
    assert "gated" in (pretended.folder / "second" / "summary.md").read_text()


@pytest.mark.parametrize("verb", ["verify", "run", "alone", "report"])
def test_a_red_night_is_no_base(pretended: Pretended, verb: str) -> None:
    pretended.codes(**{verb: 1})
    assert pretended.run() == 1
    found = pretended.night()
    assert found.verdict == "red" and f"{verb} ended with 1" in found.red()[0].note
    assert pretended.kept() == []
    assert f"{verb} ended with 1" in (pretended.folder / "out" / "summary.md").read_text()


def test_nothing_is_measured_on_a_sick_machine(pretended: Pretended) -> None:
    pretended.codes(doctor=1)
    assert pretended.run() == 1 and pretended.verbs() == ["doctor"]


def test_what_does_not_make_a_night_red(pretended: Pretended) -> None:
    assert pretended.run(output="first") == 0
    pretended.begin_at("2100-01-01")
    pretended.codes(track=1, gate=3, run=3)
    assert pretended.run() == 0
    statuses = {step.name: step.status for step in pretended.night().steps}
    assert statuses["track smoke"] == statuses["gate smoke"] == "warning" and statuses["smoke/repeat-1"] == "ok"
    assert statuses["gate smoke alone"] == statuses["keep"] == "ok"
    assert any("not compared: gate ended with 3" in note for note in pretended.night().notes)
    pretended.begin_at("2100-01-02")
    pretended.codes(gate=1)
    assert pretended.run(output="second") == 1
    assert pretended.run("--accept", output="third") == 0, "the new base"
    assert "accepted" in (pretended.folder / "third" / "summary.md").read_text()


@pytest.mark.parametrize(("gate", "alone"), [(3, 1), (3, 3), (3, 2), (1, 1)])
def test_what_is_broken_is_red_where_nothing_is_compared(pretended: Pretended, gate: int, alone: int) -> None:
    """Not comparable, or accepted: the records have to be whole and of one command all the same."""
    assert pretended.run(output="first") == 0
    pretended.begin_at("2100-01-01")
    pretended.codes(gate=gate, alone=alone)
    assert pretended.run("--accept") == 1
    assert [step.name for step in pretended.night().red()] == ["gate smoke alone"] and len(pretended.kept()) == 1
    pretended.codes()
    assert pretended.run() == 2, "other settings"
    assert pretended.run("--accept") == 0, "what an earlier attempt found is not left over"


def test_a_first_night_is_judged_by_the_real_gate(pretended: Pretended) -> None:
    pretended.measure_for_real(write_repeat(pretended.folder / "broken", black))
    assert pretended.run() == 1
    (red,) = pretended.night().red()
    assert red.kind == "alone" and "Gate failed: 1 failed" in (pretended.folder / "out" / red.log).read_text()
    assert pretended.kept() == []
    pretended.measure_for_real(write_repeat(pretended.folder / "whole"))
    assert pretended.run("--fresh") == 0 and len(pretended.kept()) == 1
    assert "Gate passed: 1 ok" in (pretended.folder / "out" / "summary.md").read_text()


def test_track_can_be_left_out(pretended: Pretended) -> None:
    assert pretended.run("--no-track") == 0 and pretended.verbs() == ALL[:-1]


def test_a_night_goes_on(pretended: Pretended, capsys: pytest.CaptureFixture[str]) -> None:
    pretended.codes(run="interrupt")
    with interruptible():
        assert pretended.run() == 130
    assert pretended.night().verdict == "interrupted"
    torn = pretended.folder / "out" / "smoke" / "repeat-1"
    torn.mkdir(parents=True, exist_ok=True)
    (torn / "samples.jsonl").write_text("half a repeat")
    pretended.codes(alone=1)
    assert pretended.run() == 1
    assert pretended.verbs() == [verb for verb in ALL if verb != "verify"]
    assert not (torn / "samples.jsonl").exists(), "a repeat is one whole process"
    pretended.codes()
    assert pretended.run() == 0
    assert pretended.verbs() == ["doctor", "alone", "report", "track"]
    assert pretended.run("--limit", "3") == 2, "another night"
    assert "different settings" in capsys.readouterr().err
    (pretended.repository / "bench" / "__init__.py").write_text("# changed\n")
    assert pretended.run() == 2
    assert "uncommitted changes" in capsys.readouterr().err
    assert pretended.run("--fresh") == 0 and pretended.verbs().count("run") == 2


def test_what_failed_is_tried_again(pretended: Pretended) -> None:
    pretended.codes(verify=1)
    assert pretended.run() == 1
    pretended.codes()
    assert pretended.run() == 0 and pretended.verbs() == [verb for verb in ALL if verb != "run"]


def test_code_that_changes_meanwhile_is_red(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night, "changes", lambda: "0123456789ab")
    assert pretended.run() == 1 and "changed while" in pretended.night().red()[0].note


def test_fresh_deletes_nights_only(pretended: Pretended, capsys: pytest.CaptureFixture[str]) -> None:
    (pretended.folder / "out").mkdir()
    (pretended.folder / "out" / "thesis.tex").write_text("years of work")
    assert pretended.run("--fresh") == 2 and "night.json" in capsys.readouterr().err
    assert (pretended.folder / "out" / "thesis.tex").is_file()


def test_fresh_that_was_killed_goes_on(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretended.run() == 0

    delete, folders = shutil.rmtree, sum(path.is_dir() for path in (pretended.folder / "out").iterdir())

    def killed(path: Path) -> None:
        nonlocal folders
        folders -= 1
        if not folders:  # the last of them
            raise KeyboardInterrupt
        delete(path)

    with monkeypatch.context() as patched:
        patched.setattr(opening.shutil, "rmtree", killed)
        assert pretended.run("--fresh") == 130
    assert pretended.run("--fresh") == 0 and pretended.verbs().count("run") == 2


def test_a_history_that_cannot_be_written_is_found_before_measuring(pretended: Pretended) -> None:
    (pretended.folder / "history").write_text("a file")
    assert pretended.run() == 2 and pretended.verbs() == []
    found = pretended.night()
    assert found.verdict == "red" and found.ended and "--history" in found.red()[0].note
    assert "is **red**" in (pretended.folder / "out" / "summary.md").read_text()
    (pretended.folder / "history").unlink()
    assert pretended.run() == 0, "no trace is left of the failed attempt"


def test_a_night_that_cannot_be_kept_is_red(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(history, "_copy", full)
        assert pretended.run() == 1
    assert pretended.night().red()[0].name == "keep" and pretended.kept() == []
    assert "No space left" in (pretended.folder / "out" / "summary.md").read_text()
    assert pretended.run() == 0 and len(pretended.kept()) == 1


def test_which_nights_are_no_base(pretended: Pretended) -> None:
    assert pretended.run("--no-keep") == 0
    assert not (pretended.folder / "history").exists()
    assert "--no-keep" in pretended.night().notes[-1]
    (pretended.repository / "bench" / "__init__.py").write_text("# not committed\n")
    assert pretended.run(output="changed") == 0 and pretended.kept() == []
    assert "uncommitted changes" in (pretended.folder / "changed" / "summary.md").read_text()
    assert pretended.run("--accept", output="accepted") == 0 and len(pretended.kept()) == 1


def test_a_night_in_the_history_that_cannot_be_read_is_a_note(pretended: Pretended) -> None:
    assert pretended.run(output="first") == 0
    (next((pretended.folder / "history").glob("*/*")) / "night.json").write_text("{}")
    pretended.begin_at("2100-01-01")
    assert pretended.run() == 0 and pretended.verbs() == ALL
    assert any("is left out" in note for note in pretended.night().notes)


def test_a_preset_that_changes_is_another_night(pretended: Pretended, capsys: pytest.CaptureFixture[str]) -> None:
    preset = pretended.folder / "own.toml"
    preset.write_text("limit = 1\n")
    pretended.codes(verify=1)
    assert pretended.run("--preset", str(preset)) == 1
    preset.write_text("limit = 2\n")
    assert pretended.run("--preset", str(preset)) == 2
    assert "different preset files" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_night(tmp_path: Path) -> None:
    """Two nights with two backends and the second gated against the first; some minutes."""
    small = tmp_path / "tiny.toml"
    small.write_text((ROOT / "bench" / "presets" / "smoke.toml").read_text())
    command = [sys.executable, "-m", "bench.nightly", "--backend", "eager", "--backend", "compile", "--repeats", "3"]
    command += ["--preset", str(small), "--verify-limit", "1", "--history", str(tmp_path / "history"), "--factor", "50"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""}
    for name in ("first", "second"):
        done = subprocess.run(
            [*command, "-o", str(tmp_path / name), "--runs", str(tmp_path / "runs")],
            capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=1200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    found = read_night(tmp_path / "second")
    assert found is not None and found.verdict == "green" and not found.notes
    assert {step.status for step in found.steps} == {"ok"}, found.steps
    assert "history" in found.bases["tiny"]
    assert (tmp_path / "second" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "second" / "gate-tiny.xml").is_file()
