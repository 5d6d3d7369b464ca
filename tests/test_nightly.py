"""The nightly: its plan, one step, the history, a whole night with verbs that only pretend, and (slow) a real one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

from bench.cli import app
from bench.compare import MACHINE
from bench.config import build_config
from bench.errors import UsageError
from bench.nightly import history, machine, night, summary, worktree
from bench.nightly.machine import FACTS, Machine
from bench.nightly.plan import Step, first_steps, gate_step, matrix_steps, report_step, step_environment, track_step
from bench.nightly.record import NightRecord, read_night, write_night
from bench.nightly.settings import Settings, parse
from bench.nightly.steps import StepRecord, execute, hide_secrets, sentence, tail

ROOT = Path(__file__).parent.parent
FACTS_HERE = {"cpu": "Some CPU (R) @ 2 GHz", "cores": 2, "threads": 1, "device": "cpu", "gpu": None}
HERE = Machine(facts=FACTS_HERE, backends=("eager", "compile"))
SETTINGS = Settings(presets=("nightly-small", "smoke"), backends=("eager", "compile", "onnx"))


def record(started: str, where: Machine = HERE, settings: Settings = SETTINGS) -> NightRecord:
    return NightRecord(
        command="c", settings=settings, machine=where, commit="0123456789", verdict="green", started=started
    )


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
    steps += [gate_step(settings, tmp_path, "smoke", None), gate_step(settings, tmp_path, "smoke", tmp_path / "base")]
    for step in (report_step(tmp_path, ["nightly-small", "smoke"]), track_step(tmp_path, ["smoke"], tmp_path)):
        assert step is not None
        steps.append(step)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for step in steps:
        verb, *arguments = step.arguments
        commands[verb].make_context(verb, list(arguments))
    assert "--verify" in steps[-3].arguments, "the gate is to know what verify found"


def test_nothing_is_reported_where_nothing_was_recorded(tmp_path: Path) -> None:
    assert report_step(tmp_path, ["smoke"]) is None and track_step(tmp_path, ["smoke"], tmp_path) is None


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
    others = [HERE.facts | change for change in ({"cores": 4}, {"threads": 2}, {"device": "cuda", "gpu": gpu})]
    keys = {Machine(facts=facts, backends=()).key for facts in (HERE.facts, *others)}
    assert len(keys) == 4
    assert any(key.startswith("nvidia-h100-80gb-hbm3-") for key in keys)
    assert "/" not in Machine(facts=HERE.facts | {"cpu": "../../etc"}, backends=()).key


def test_a_machine_says_what_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["machine", "cpu"])
    assert machine.main() == 0
    found = Machine.model_validate_json(capsys.readouterr().out)
    assert found.backends[0] == "eager" and found.facts["device"] == "cpu" and found.facts["cores"] == os.cpu_count()
    monkeypatch.setattr(sys, "argv", ["machine", "cuda:99"])
    assert machine.main() == 2 and capsys.readouterr().err.startswith("error: --device cuda:99")


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
if sys.argv[1] == "interrupt":
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
    ended = execute([sys.executable, "-c", FAMILY, "wait"], os.environ, tmp_path / "log", 2.0)
    assert ended.exit is None and ended.seconds < 20
    assert _gone(int((tmp_path / "log").read_text()))


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGALRM, which a step sends when it has come far enough, does what Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_ctrl_c_ends_children_too(tmp_path: Path) -> None:
    with interruptible(), pytest.raises(KeyboardInterrupt):
        execute([sys.executable, "-c", FAMILY, "interrupt"], os.environ, tmp_path / "log", 60)
    assert _gone(int((tmp_path / "log").read_text().split()[0]))


def test_secrets_do_not_stay_in_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter22@host.example/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tokentoken")
    log = tmp_path / "log"
    log.write_text("to https://me:hunter22@host.example/api\npassword hunter22, tokentoken\nkept")
    hide_secrets(log)
    text = log.read_text()
    assert not [word for word in ("hunter22", "tokentoken", "host.example/") if word in text]
    assert text.endswith("kept")


def test_logs_are_shown_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\x1b[31mred\x1b[0m \xff\n" + b"line\n" * 50)
    assert tail(tmp_path / "log") == ["line"] * 30
    assert tail(tmp_path / "log", 51)[0] == "[31mred[0m �"
    assert tail(tmp_path / "none") == [] and sentence(tmp_path / "none") == "no output"


# The history


def leave(folder: Path, found: NightRecord) -> Path:
    """What a night of two presets leaves."""
    for name in found.presets():
        (folder / name / "repeat-1").mkdir(parents=True)
        (folder / name / "repeat-1" / "suite.json").write_text(found.id)
    (folder / "logs").mkdir()
    write_night(folder, found)
    return folder


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
    assert history.last_green(kept, tonight, "smoke") == kept / HERE.key / nights[1].id / "smoke"
    assert history.last_green(kept, nights[1], "smoke") == kept / HERE.key / nights[0].id / "smoke", "not itself"
    assert history.last_green(kept, tonight, "nightly") is None
    assert history.last_green(tmp_path / "none", tonight, "smoke") is None
    assert not list(kept.rglob("logs"))


def test_only_the_latest_nights_are_kept(tmp_path: Path) -> None:
    nights = [record(f"2026-01-0{day}T00:00:00.000+00:00") for day in range(1, 5)]
    for index, found in enumerate(nights):
        out = leave(tmp_path / str(index), found)
        (tmp_path / "kept" / HERE.key / f"{history.PARTIAL}torn").mkdir(parents=True, exist_ok=True)
        history.keep(out, found, tmp_path / "kept", 2)
        history.keep(out, found, tmp_path / "kept", 2)  # a night that went on
    assert [found.id for _, found in history.green_nights(tmp_path / "kept", HERE)] == [n.id for n in nights[2:]]


def test_a_damaged_night_is_named(tmp_path: Path) -> None:
    (tmp_path / HERE.key / "2026").mkdir(parents=True)
    with pytest.raises(UsageError, match="2026"):
        history.last_green(tmp_path, record("2026-01-01T00:00:00.000+00:00"), "smoke")


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


# A whole night with verbs that only pretend

PRETEND = """
import json, os, pathlib, signal, subprocess, sys, time
verb, arguments = sys.argv[1], sys.argv[2:]
root = pathlib.Path(__file__).parents[1]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([root.name, verb, arguments]) + "\\n")
code = json.loads(os.environ["CODES"]).get(f"{root.name} {verb}", json.loads(os.environ["CODES"]).get(verb, 0))
if code == "interrupt":
    os.kill(os.getppid(), signal.SIGALRM)
    time.sleep(60)
if verb == "run" and code in (0, 3):
    folder = pathlib.Path(arguments[arguments.index("-o") + 1])
    folder.mkdir(parents=True)
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    suite = {"id": folder.name, "command": "c", "status": "ok", "config_set": {}, "config": {},
             "environment": {"git": {"commit": commit}}, "started": "2026-01-01T00:00:00.000+00:00"}
    (folder / "suite.json").write_text(json.dumps(suite))
if verb == "gate":
    pathlib.Path(arguments[arguments.index("--markdown") + 1]).write_text("gated")
if code:
    print(f"error: {verb} ended with {code}", file=sys.stderr)
sys.exit(code)
"""


class Pretended:
    """A repository whose `python -m bench` only writes down what it was asked, and ends as it is told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.repository = folder / "project"
        (self.repository / "bench").mkdir(parents=True)
        (self.repository / "bench" / "__init__.py").write_text("")
        (self.repository / "bench" / "__main__.py").write_text(PRETEND)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "first")
        for module in (night, worktree):
            monkeypatch.setattr(module, "ROOT", self.repository)
        monkeypatch.setattr(night, "ask", lambda device, environment: HERE)
        monkeypatch.setattr(night, "git_state", lambda: {"commit": self.commit})
        monkeypatch.setenv("CALLS", str(folder / "calls"))
        self.codes()

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(self.repository), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    @property
    def commit(self) -> str:
        return self.git("rev-parse", "HEAD")

    def codes(self, **codes: int | str) -> None:
        self.monkeypatch.setenv("CODES", json.dumps({key.replace("_", " "): code for key, code in codes.items()}))

    def run(self, *arguments: str, output: str = "out") -> int:
        """A night; `self.calls` has what it ran."""
        (self.folder / "calls").write_text("")
        places = ["--output", str(self.folder / output), "--history", str(self.folder / "history")]
        code = night.main(["--preset", "smoke", "--repeats", "2", *places, *arguments])
        self.calls = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        return code

    def verbs(self) -> list[str]:
        return [verb for _, verb, _ in self.calls]

    def night(self, output: str = "out") -> NightRecord:
        found = read_night(self.folder / output)
        assert found is not None
        return found


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return Pretended(tmp_path, monkeypatch)


ALL = ["doctor", "verify", "run", "run", "gate", "report", "track"]


def test_a_green_night_is_the_next_ones_base(pretended: Pretended) -> None:
    assert pretended.run() == 0 and pretended.verbs() == ALL
    first = pretended.night()
    assert first.verdict == "green" and first.settings.backends == HERE.backends and len(first.notes) == 1
    pretended.monkeypatch.setattr(night, "now", lambda: "2100-01-01T00:00:00.000+00:00")
    assert pretended.run(output="second") == 0
    (gate,) = [arguments for _, verb, arguments in pretended.calls if verb == "gate"]
    assert gate[0] == str(pretended.folder / "history" / HERE.key / first.id / "smoke")
    assert gate[1] == str(pretended.folder / "second" / "smoke")
    assert "gated" in (pretended.folder / "second" / "summary.md").read_text()


@pytest.mark.parametrize("verb", ["verify", "run", "gate", "report"])
def test_a_red_night_is_no_base(pretended: Pretended, verb: str) -> None:
    pretended.codes(**{verb: 1})
    assert pretended.run() == 1
    found = pretended.night()
    assert found.verdict == "red" and f"{verb} ended with 1" in found.red()[0].note
    assert not (pretended.folder / "history").exists()
    assert f"{verb} ended with 1" in (pretended.folder / "out" / "summary.md").read_text()


def test_nothing_is_measured_on_a_sick_machine(pretended: Pretended) -> None:
    pretended.codes(doctor=1)
    assert pretended.run() == 1 and pretended.verbs() == ["doctor"]


def test_what_does_not_make_a_night_red(pretended: Pretended) -> None:
    pretended.codes(track=1, gate=3, run=3)
    assert pretended.run() == 0
    statuses = {step.name: step.status for step in pretended.night().steps}
    assert statuses["track"] == statuses["gate smoke"] == "warning" and statuses["smoke/repeat-1"] == "ok"
    assert any("not compared: gate ended with 3" in note for note in pretended.night().notes)
    pretended.codes(gate=1)
    assert pretended.run(output="second") == 1
    assert pretended.run("--accept", output="third") == 0, "the new base"
    assert "accepted" in (pretended.folder / "third" / "summary.md").read_text()


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
    pretended.codes(gate=1)
    assert pretended.run() == 1
    assert pretended.verbs() == [verb for verb in ALL if verb != "verify"]
    assert not (torn / "samples.jsonl").exists(), "a repeat is one whole process"
    pretended.codes()
    assert pretended.run() == 0
    assert pretended.verbs() == ["doctor", "gate", "report", "track"]
    assert pretended.run("--limit", "3") == 2, "another night"
    assert "different settings" in capsys.readouterr().err
    (pretended.repository / "bench" / "__init__.py").write_text("# changed\n")
    assert pretended.run() == 2
    assert "uncommitted changes" in capsys.readouterr().err
    assert pretended.run("--fresh") == 0 and pretended.verbs() == ALL


def test_what_failed_is_tried_again(pretended: Pretended) -> None:
    pretended.codes(verify=1)
    assert pretended.run() == 1
    pretended.codes()
    assert pretended.run() == 0 and pretended.verbs() == [verb for verb in ALL if verb != "run"]


def test_code_that_changes_meanwhile_is_red(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter(["", "0123456789ab"])
    monkeypatch.setattr(night, "changes", lambda: next(found))
    assert pretended.run() == 1 and "changed while" in pretended.night().red()[0].note


def test_fresh_deletes_nights_only(pretended: Pretended, capsys: pytest.CaptureFixture[str]) -> None:
    (pretended.folder / "out").mkdir()
    (pretended.folder / "out" / "thesis.tex").write_text("years of work")
    assert pretended.run("--fresh") == 2 and "night.json" in capsys.readouterr().err
    assert (pretended.folder / "out" / "thesis.tex").is_file()


def test_two_versions_take_turns(pretended: Pretended) -> None:
    base = pretended.commit
    (pretended.repository / "bench" / "__init__.py").write_text("# new\n")
    pretended.git("commit", "--quiet", "--all", "--message", "second")
    assert pretended.run("--against", base) == 0
    roots = [root for root, verb, _ in pretended.calls if verb == "run"]
    assert roots == ["base-code", "project", "project", "base-code"]
    (gate,) = [arguments for _, verb, arguments in pretended.calls if verb == "gate"]
    assert gate[0] == str(pretended.folder / "out" / "base" / "smoke")
    assert not (pretended.folder / "out" / "base-code").exists() and "base-code" not in pretended.git(
        "worktree", "list"
    )
    assert not (pretended.folder / "history").exists(), "a branch is no base"


def test_a_base_that_does_not_know_the_preset(pretended: Pretended) -> None:
    pretended.codes(**{"base-code_run": 2})
    assert pretended.run("--against", "main") == 0
    assert [root for root, verb, _ in pretended.calls if verb == "run"] == ["base-code", "project", "project"]
    assert "gate" not in pretended.verbs() and "cannot run this preset" in pretended.night().notes[0]


def test_the_wrong_version_is_not_measured(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    base = pretended.commit
    pretended.git("commit", "--quiet", "--allow-empty", "--message", "second")
    environment: Callable[..., dict[str, str]] = night.step_environment
    here = str(pretended.repository)
    monkeypatch.setattr(night, "step_environment", lambda step, code: environment(step, code) | {"PYTHONPATH": here})
    assert pretended.run("--against", base) == 2


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
