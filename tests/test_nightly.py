"""The nightly: its plan, one step, the machine, the summary."""

import os
import sys
import time
from pathlib import Path

import pytest
import typer

from bench.cli import app
from bench.compare import MACHINE
from bench.config import build_config
from bench.errors import UsageError
from bench.nightly import machine, summary, worktree
from bench.nightly.machine import FACTS, Machine
from bench.nightly.plan import Step, first_steps, gate_step, matrix_steps, report_step, step_environment, track_step
from bench.nightly.settings import parse
from bench.nightly.steps import StepRecord, execute, hide_secrets, sentence, tail
from tests.pretended import HERE, SETTINGS, interruptible, record

ROOT = Path(__file__).parent.parent


# The plan


def test_repeats_take_turns() -> None:
    steps = list(matrix_steps(SETTINGS, Path("out")))
    assert [step.name for step in steps[:3]] == ["nightly-small/repeat-1", "smoke/repeat-1", "nightly-small/repeat-2"]
    orders = [[a for b, a in zip(s.arguments, s.arguments[1:]) if b == "--backend"] for s in steps[::2]]
    assert orders == [["eager", "compile", "onnx"], ["compile", "onnx", "eager"], ["onnx", "eager", "compile"]]
    against = SETTINGS.model_copy(update={"presets": ("smoke",), "against": "main"})
    names = [step.name for step in matrix_steps(against, Path("out"))]
    assert names == [
        "base/smoke/repeat-1", "smoke/repeat-1",
        "smoke/repeat-2", "base/smoke/repeat-2",
        "base/smoke/repeat-3", "smoke/repeat-3",
    ]  # fmt: skip


def test_every_step_is_a_command_that_parses(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"limit": 2, "assignments": ("metrics.noise_draws=1",), "against": "main"})
    for name in ("nightly-small", "smoke"):
        (tmp_path / name / "repeat-1").mkdir(parents=True)
        (tmp_path / name / "repeat-1" / "suite.json").write_text("{}")
    (tmp_path / "verify").mkdir()
    (tmp_path / "verify" / "verify.json").write_text("{}")
    steps = [*first_steps(settings, tmp_path), *matrix_steps(settings, tmp_path)]
    steps += [gate_step(settings, tmp_path, "smoke", tmp_path / "base")]
    for step in (report_step(tmp_path, ["nightly-small", "smoke"]), track_step(tmp_path, "smoke", "one", tmp_path)):
        assert step is not None
        steps.append(step)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for step in steps:
        verb, *arguments = step.arguments
        commands[verb].make_context(verb, list(arguments))
    assert "--verify" in steps[-3].arguments, "the gate is to know what verify found"


def test_nothing_is_reported_where_nothing_was_recorded(tmp_path: Path) -> None:
    assert report_step(tmp_path, ["smoke"]) is None and track_step(tmp_path, "smoke", "one", tmp_path) is None


@pytest.mark.parametrize("name", ["nightly", "nightly-larger", "nightly-small", "nightly-small-larger"])
def test_the_larger_preset_shares_what_is_verified(name: str) -> None:
    config = build_config(name, [], {})
    first = build_config(name.removesuffix("-larger"), [], {})
    assert config.dataset == ("square",) and set(config.method) <= set(first.method)
    rows = config.limit * max(1, len(config.targets))
    assert rows > first.limit or name == name.removesuffix("-larger")


def test_only_track_knows_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a:b@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    measured = step_environment(Step("a", "base", (), code=tmp_path), ROOT)
    assert not [key for key in measured if key.startswith("MLFLOW_")]
    assert measured["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), "/elsewhere"]
    tracked = step_environment(Step("track", "track", ()), ROOT)
    assert tracked["MLFLOW_TRACKING_URI"] == "http://a:b@host"
    assert "MLFLOW_TRACKING_TOKEN" not in tracked, "a secret that a workflow does not have is empty"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--backend", "eagre"], "eager"),
        (["--preset", "nightly-smal"], "nightly-small"),
        (["--preset", "{folder}/verify.toml"], "verify"),
        (["--preset", "smoke", "--preset", "{folder}/smoke.toml"], "smoke"),
    ],
)
def test_refusals(arguments: list[str], named: str, tmp_path: Path) -> None:
    for name in ("verify", "smoke"):
        (tmp_path / f"{name}.toml").write_text("")
    with pytest.raises(UsageError, match=named):
        parse([argument.format(folder=tmp_path) for argument in arguments])


def test_an_unknown_commit_is_refused() -> None:
    for reference in ("no-such-branch", "--output=x", "HEAD^{tree}"):
        with pytest.raises(UsageError, match="no such commit"):
            worktree.commit_of(reference)


# The machine


def test_machines_are_told_apart() -> None:
    assert FACTS == MACHINE, "those that the gate wants equal"
    assert HERE.key.startswith("some-cpu-r-2-ghz-")
    gpu = {"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81079, "cuda": "13.0"}
    changed = (
        {"cores": 4},
        {"threads": 2},
        {"device": "cuda", "gpu": gpu},
        {"device": "cuda", "gpu": gpu | {"name": "x"}},
    )
    keys = {Machine(facts=HERE.facts | change, backends=()).key for change in ({}, *changed)}
    assert len(keys) == 5
    updated = Machine(facts=HERE.facts | {"device": "cuda", "gpu": gpu | {"cuda": "13.1"}}, backends=())
    assert updated.key in keys, "the gate compares across CUDA versions, so their nights have one history"
    assert any(key.startswith("nvidia-h100-80gb-hbm3-") for key in keys)
    assert "/" not in Machine(facts=HERE.facts | {"cpu": "../../etc"}, backends=()).key


def test_a_machine_says_what_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["machine", "cpu"])
    assert machine.main() == 0
    found = Machine.model_validate_json(capsys.readouterr().out)
    assert found.backends[0] == "eager" and found.facts["device"] == "cpu" and found.facts["cores"] == os.cpu_count()
    monkeypatch.setattr(sys, "argv", ["machine", "cuda:99"])
    assert machine.main() == 2 and capsys.readouterr().err.startswith("error: --device cuda:99")


def test_a_machine_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ASK_S", 0.01)
    with pytest.raises(UsageError, match="--device cpu does not answer"):
        machine.ask("cpu", os.environ)
    monkeypatch.setattr(worktree, "GIT_S", -1.0)  # over before it begins, however fast git is
    with pytest.raises(UsageError, match="git diff did not end"):
        worktree.changes()


# One step


def test_a_step_has_a_log_and_an_exit_code(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"
    script = "import sys; print('out'); print('error: the key x', file=sys.stderr); sys.exit(7)"
    ended = execute([sys.executable, "-c", script], os.environ, log, 60)
    assert ended.exit == 7 and 0 < ended.seconds < 60
    assert set(tail(log)) == {"out", "error: the key x"} and sentence(log) == "the key x"


FAMILY = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
os.kill(os.getppid(), signal.SIGALRM)
time.sleep(60)
"""


def _gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked about yet counts as ended."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_the_time_limit_ends_children_too(tmp_path: Path) -> None:
    ended = execute(["sh", "-c", "sleep 60 & echo $!; wait"], os.environ, tmp_path / "log", 3.0)
    assert ended.exit is None and ended.seconds < 30
    assert _gone(int((tmp_path / "log").read_text()))


def test_ctrl_c_ends_children_too(tmp_path: Path) -> None:
    with interruptible(), pytest.raises(KeyboardInterrupt):
        execute([sys.executable, "-c", FAMILY], os.environ, tmp_path / "log", 60)
    assert _gone(int((tmp_path / "log").read_text().split()[0]))


def test_secrets_do_not_stay_in_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://someone:hunter%2F22@host.example:5000/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tokentoken")
    log = tmp_path / "log"
    log.write_text(
        "to https://someone:hunter%2F22@host.example:5000/api\npassword hunter/22, tokentoken\n"
        "from https://host.example:5000/runs\nkept"
    )
    hide_secrets(log)
    text = log.read_text()
    assert not [word for word in ("hunter", "tokentoken", "host.example", "someone") if word in text]
    assert text.endswith("kept")
    hide_secrets(tmp_path / "none")


def test_logs_are_shown_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\x1b[31mred\x1b[0m \xff\n" + b"line\n" * 50)
    assert tail(tmp_path / "log") == ["line"] * 30
    assert tail(tmp_path / "log", 51)[0] == "[31mred[0m �"
    assert tail(tmp_path / "none") == [] and sentence(tmp_path / "none") == "no output"


# The summary


def test_hostile_text_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = record("2026-01-01T00:00:00.000+00:00")
    (tmp_path / "a.log").write_text("```\n</details> @someone\n````")
    note = "a | b\n# <img src=x> @someone `c` [d](javascript:e)"
    found.steps = [StepRecord(name="verify", kind="verify", status="failed", note=note, log="a.log", command="c")]
    found.verdict = "red"
    text = summary.markdown(found, tmp_path)
    (row,) = [line for line in text.splitlines() if line.startswith("| verify")]
    assert row.count("|") - row.count("\\|") == 5
    assert "<img" not in text and "[d](" not in text.replace("\\", "\\\\").replace("\\\\[", "")
    outside = text[: text.index("`````")] + text[text.rindex("`````") :]
    assert "@someone" not in outside
    page = tmp_path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    summary.append_to_job_page("x" * 2_000_000)
    assert page.stat().st_size < 2**20 and "cut" in page.read_text()[-80:]
