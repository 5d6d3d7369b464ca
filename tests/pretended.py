"""A night whose verbs only pretend, and records of nights, for the tests of the nightly."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from bench.nightly import night, opening, worktree
from bench.nightly.machine import Machine
from bench.nightly.plan import step_environment
from bench.nightly.record import NightRecord, read_night, write_night
from bench.nightly.settings import Settings
from bench.record import SuiteRecord, write_json

ROOT = Path(__file__).parent.parent
FACTS_HERE = {"cpu": "Some CPU (R) @ 2 GHz", "cores": 2, "threads": 1, "device": "cpu", "gpu": None}
HERE = Machine(facts=FACTS_HERE, backends=("eager", "compile"))
SETTINGS = Settings(presets=("nightly-small", "smoke"), backends=("eager", "compile", "onnx"))


def record(started: str, where: Machine = HERE, settings: Settings = SETTINGS) -> NightRecord:
    return NightRecord(
        command="c", settings=settings, machine=where, commit="0123456789", verdict="green", started=started
    )


def leave(folder: Path, found: NightRecord) -> Path:
    """What a night of two presets leaves."""
    for name in found.presets():
        for repeat in range(1, found.settings.repeats + 1):
            place = folder / name / f"repeat-{repeat}"
            place.mkdir(parents=True)
            suite = SuiteRecord(
                id=found.id, command="c", status="ok", config_set={}, config={}, environment={}, started=found.started
            )
            write_json(place / "suite.json", suite)
    (folder / "logs").mkdir()
    write_night(folder, found)
    return folder


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


PRETEND = """
import json, os, pathlib, shutil, signal, subprocess, sys, time
verb, arguments = sys.argv[1], sys.argv[2:]
root = pathlib.Path(__file__).parents[1]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([root.name, verb, arguments]) + "\\n")
code = json.loads(os.environ["CODES"]).get(f"{root.name} {verb}", json.loads(os.environ["CODES"]).get(verb, 0))
if code == "hang":
    time.sleep(60)
if code == "interrupt":
    os.kill(os.getppid(), signal.SIGALRM)
    time.sleep(60)
if verb == "run" and code in (0, 3) and os.environ.get("RECORDS"):
    folder = shutil.copytree(os.environ["RECORDS"], arguments[arguments.index("-o") + 1])
    suite = json.loads((pathlib.Path(folder) / "suite.json").read_text()) | {"started": folder}
    (pathlib.Path(folder) / "suite.json").write_text(json.dumps(suite))
elif verb == "run" and code in (0, 3):
    folder = pathlib.Path(arguments[arguments.index("-o") + 1])
    folder.mkdir(parents=True)
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    suite = {"id": folder.name, "command": "c", "status": "ok", "config_set": {}, "config": {},
             "environment": {"git": {"commit": commit}}, "started": "2026-01-01T00:00:00.000+00:00"}
    (folder / "suite.json").write_text(json.dumps(suite))
if verb in ("gate", "alone"):
    pathlib.Path(arguments[arguments.index("--markdown") + 1]).write_text("gated")
if code:
    print(f"error: {verb} ended with {code}", file=sys.stderr)
sys.exit(code)
"""


ALONE = """
import pathlib, runpy, sys
sys.argv.insert(1, "alone")
runpy.run_path(str(pathlib.Path(__file__).parents[1] / "__main__.py"), run_name="__main__")
"""


class Pretended:
    """A repository whose `python -m bench` only writes down what it was asked, and ends as it is told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.repository = folder / "project"
        (self.repository / "bench" / "nightly").mkdir(parents=True)
        for package in ("bench", "bench/nightly"):
            (self.repository / package / "__init__.py").write_text("")
        (self.repository / "bench" / "nightly" / "alone.py").write_text(ALONE)
        (self.repository / "bench" / "__main__.py").write_text(PRETEND)
        self.git("init", "--quiet", "--initial-branch", "main")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "first")
        for module in (night, opening, worktree):
            monkeypatch.setattr(module, "ROOT", self.repository)
        monkeypatch.setattr(opening, "ask", lambda device, environment: HERE)
        for module in (night, opening):
            monkeypatch.setattr(module, "git_state", lambda: {"commit": self.commit})
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

    def begin_at(self, day: str) -> None:
        self.monkeypatch.setattr(opening, "now", lambda: f"{day}T00:00:00.000+00:00")

    def measure_for_real(self, records: Path) -> None:
        """Every repeat is a copy of these records, and what is gated alone is gated by this project's own code."""
        environment: Callable[..., dict[str, str]] = step_environment
        self.monkeypatch.setenv("RECORDS", str(records))
        self.monkeypatch.setattr(
            night, "step_environment", lambda step, code: environment(step, ROOT if step.kind == "alone" else code)
        )

    def kept(self) -> list[str]:
        """Nights in the history."""
        return sorted(path.name for path in (self.folder / "history").glob("*/*"))

    def tags(self) -> list[str]:
        """Of the copy in MLflow."""
        (arguments,) = [arguments for _, verb, arguments in self.calls if verb == "track"]
        return [value for option, value in pairwise(arguments) if option == "--tag"]

    def verbs(self) -> list[str]:
        return [verb for _, verb, _ in self.calls]

    def night(self, output: str = "out") -> NightRecord:
        found = read_night(self.folder / output)
        assert found is not None
        return found
