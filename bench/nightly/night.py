"""A night from beginning to end; killed at any time, the same command goes on."""

import contextlib
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.cli_options import ending
from bench.environment import git_state
from bench.errors import UsageError
from bench.images import write_bytes
from bench.nightly import history, summary
from bench.nightly.machine import ask
from bench.nightly.plan import (
    BASE_CODE,
    EXIT_NOT_COMPARABLE,
    Step,
    command,
    default_presets,
    first_steps,
    gate_step,
    matrix_steps,
    report_step,
    step_environment,
    track_step,
)
from bench.nightly.record import NIGHT, NightRecord, read_night, write_night
from bench.nightly.settings import Places, Settings, parse
from bench.nightly.steps import StepRecord, empty, execute, hide_secrets, sentence, shown, tail
from bench.nightly.worktree import ROOT, changes, checked_out, commit_of
from bench.record import LOCK, locked, now, read_suite

MEASURED = ("verify", "measure", "base")
"""Kinds of steps that are not done again when a night goes on; the others are quick, and see what is there now."""


@ending
def main(arguments: list[str] | None = None) -> int:
    """Run a night; returns the exit code: 0 green, 1 red."""
    settings, places = parse(arguments)
    try:
        places.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to --output {places.output}: {error.strerror}") from error
    with locked(places.output), _terminable():
        if places.fresh:
            _start_over(places.output)
        typed = shlex.join(["python", "-m", "bench.nightly", *(sys.argv[1:] if arguments is None else arguments)])
        return Night(_open(settings, places.output, typed), places).run()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a night like Ctrl-C: its steps are ended too, and night.json says so."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _start_over(out: Path) -> None:
    """Delete an earlier night, the lock aside.

    Raises:
        UsageError: the folder holds something else.
    """
    content = [path for path in out.iterdir() if path.name not in (LOCK, BASE_CODE)]
    if content and not (out / NIGHT).is_file():
        raise UsageError(f"{out} is not empty and holds no {NIGHT}; --fresh will not delete it")
    for path in content:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _open(settings: Settings, out: Path, typed: str) -> NightRecord:
    """This night's record: a new one, or the one in `out` that it goes on with.

    Raises:
        UsageError: `out` holds another night; says what differs.
    """
    environment = step_environment(Step("machine", "doctor", ()), ROOT)
    machine = ask(settings.device, environment)
    device = str(machine.facts["device"])
    resolved = settings.model_copy(
        update={
            "presets": settings.presets or default_presets(device),
            "backends": settings.backends or machine.backends,
        }
    )
    commit = git_state()["commit"]
    night = NightRecord(
        command=typed,
        settings=resolved,
        machine=machine,
        commit=commit,
        changes=changes() if commit else "",
        against=commit_of(settings.against) if settings.against else "",
        started=now(),
    )
    earlier = read_night(out)
    if earlier is None:
        return night
    here, there = night.identity(), earlier.identity()
    differing = [name for name, value in here.items() if value != there[name]]
    if differing:
        raise UsageError(
            f"{out} holds another night (different {', '.join(differing)}); use another --output or --fresh"
        )
    return earlier.model_copy(update={"verdict": "running", "ended": None, "notes": [], "command": typed})


class Night:
    """Runs the steps and keeps night.json up to date after each."""

    def __init__(self, night: NightRecord, places: Places) -> None:
        self.night, self.places, self.out = night, places, places.output

    def run(self) -> int:
        """Every step; returns the exit code."""
        night = self.night
        print(f"night {night.id} on {night.machine.name} ({night.machine.key}), in {self.out}", flush=True)
        write_night(self.out, night)
        try:
            self._steps()
        except KeyboardInterrupt:
            night.verdict, night.ended = "interrupted", now()
            self._write_summary()
            raise
        self._check_unchanged()
        night.verdict, night.ended = "red" if night.red() else "green", now()
        self._write_summary()
        if night.verdict == "green" and not night.against:
            kept = history.keep(self.out, night, self.places.history, self.places.keep)
            print(f"kept    {kept}")
        print(f"{night.verdict}; {self.out / 'summary.md'}")
        return 1 if night.red() else 0

    def _check_unchanged(self) -> None:
        """What was measured has to be one version."""
        commit = git_state()["commit"]
        if (commit, changes() if commit else "") != (self.night.commit, self.night.changes):
            note = "the code changed while it was measured; begin again with --fresh"
            self.night.put(StepRecord(name="code", kind="code", status="failed", note=note))
            print(f"code: {note}")

    def _write_summary(self) -> None:
        write_night(self.out, self.night)
        text = summary.markdown(self.night, self.out)
        write_bytes(self.out / "summary.md", text.encode("utf-8", "replace"))
        summary.append_to_job_page(text)

    def _steps(self) -> None:
        settings, names = self.night.settings, self.night.presets()
        doctor, verify = first_steps(settings, self.out)
        if self._do(doctor).status == "failed":
            self.night.notes.append("nothing was measured: this machine cannot run it, see doctor")
            return
        self._do(verify)
        self._measure()
        for name in names:
            self._gate(name)
        for step in (report_step(self.out, names), self._tracking(names)):
            if step is not None:
                self._do(step)

    def _tracking(self, names: list[str]) -> Step | None:
        return track_step(self.out, names, self.places.runs) if self.places.track else None

    def _measure(self) -> None:
        with contextlib.ExitStack() as stack:
            if self.night.against:
                stack.enter_context(checked_out(self.night.against, self.out / BASE_CODE))
            for step in matrix_steps(self.night.settings, self.out):
                if step.kind == "base" and self._unfit(step.preset):
                    self._skip(step, "its first repeat could not be run")
                elif self._do(step).status == "ok" and step.kind == "base":
                    self._check_code(step)

    def _unfit(self, preset: str) -> bool:
        """Whether the other version refused this preset."""
        return any(s.kind == "base" and s.preset == preset and s.exit == 2 for s in self.night.steps)

    def _check_code(self, step: Step) -> None:
        """A measurement of the wrong version would be worse than none."""
        assert step.output is not None
        found = read_suite(step.output).environment.get("git", {}).get("commit")
        if found != self.night.against:
            raise UsageError(f"{step.name} ran commit {found} instead of {self.night.against}; unset PYTHONPATH")

    def _gate(self, name: str) -> None:
        base: Path | None
        if self.night.against:
            if self._unfit(name):
                self.night.notes.append(f"{name} is not compared: {self.night.against} cannot run this preset")
                return
            base = self.out / "base" / name
        else:
            base = history.last_green(self.places.history, self.night, name)
        if base is None:
            self.night.notes.append(f"{name}: no earlier green night on this machine, so speed is not judged")
        self.night.bases[name] = str(base or "")
        for suffix in ("md", "xml", "json"):
            (self.out / f"gate-{name}.{suffix}").unlink(missing_ok=True)
        self._do(gate_step(self.night.settings, self.out, name, base))

    def _do(self, step: Step) -> StepRecord:
        """Run a step, or keep it where this night has it already."""
        earlier = next((found for found in self.night.steps if found.name == step.name), None)
        line = shown(command(step))
        if step.kind in MEASURED and earlier and earlier.status == "ok" and earlier.command == line:
            print(f"{step.name}: kept", flush=True)
            return earlier
        print(f"{step.name} ...", end="", flush=True)
        if step.output is not None:
            empty(step.output)
        log = self.out / "logs" / f"{step.name.replace('/', '-').replace(' ', '-')}.log"
        limit = step.limit_s or 60 * self.places.step_minutes
        ended = execute(command(step), step_environment(step, ROOT), log, limit)
        if step.kind == "track":
            hide_secrets(log)
        record = StepRecord(
            name=step.name, kind=step.kind, preset=step.preset, command=line, status="ok", exit=ended.exit,
            seconds=round(ended.seconds, 1), log=str(log.relative_to(self.out)),
        )  # fmt: skip
        if ended.exit is None:
            record.status, record.note = "failed", f"ended after {limit / 60:g} minutes"
        elif ended.exit not in step.passing:
            record.status, record.note = "failed", sentence(log)
        self._forgive(record)
        self.night.put(record)
        write_night(self.out, self.night)
        print(f" {record.status}, {record.seconds:.0f} s{': ' if record.note else ''}{record.note}", flush=True)
        if record.status == "failed":
            print("\n".join(f"  | {text}" for text in tail(log)), flush=True)
        return record

    def _skip(self, step: Step, note: str) -> None:
        self.night.put(StepRecord(name=step.name, kind=step.kind, preset=step.preset, status="skipped", note=note))

    def _forgive(self, record: StepRecord) -> None:
        """What went wrong and does not make the night red, as it says nothing about this version."""
        if record.status != "failed":
            return
        if record.kind in ("track", "base"):
            record.status = "warning"
        elif record.kind == "gate" and record.exit == EXIT_NOT_COMPARABLE:
            record.status = "warning"
            self.night.notes.append(f"{record.preset} is not compared: {record.note}")
        elif record.kind == "gate" and record.exit == 1 and self.night.settings.accept:
            record.status = "warning"
