"""A night from beginning to end; killed at any time, the same command goes on."""

import shlex
import sys
import time
from pathlib import Path

from bench.cli_options import ending
from bench.environment import git_state
from bench.errors import BenchError, UsageError
from bench.images import write_bytes
from bench.nightly import history, summary
from bench.nightly.opening import open_night, preset_files, start_over
from bench.nightly.plan import (
    BASE_CODE,
    EXIT_NOT_COMPARABLE,
    MEASURED,
    Step,
    alone_step,
    command,
    first_steps,
    gate_files,
    gate_step,
    matrix_steps,
    report_step,
    step_environment,
    track_step,
)
from bench.nightly.record import NightRecord, Verdict, write_night
from bench.nightly.settings import Places, parse
from bench.nightly.steps import StepRecord, empty, execute, hide_secrets, sentence, shown, tail
from bench.nightly.worktree import ROOT, changes, checked_out
from bench.processes import terminable
from bench.record import locked, now, read_suite

NEVER_RED = ("track", "base")
"""Kinds of steps that say nothing about this version when they fail."""


@ending
def main(arguments: list[str] | None = None) -> int:
    """Run a night; returns the exit code: 0 green, 1 red."""
    settings, places = parse(arguments)
    try:
        places.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to --output {places.output}: {error.strerror}") from error
    with locked(places.output), terminable():
        if places.fresh:
            start_over(places.output)
        typed = shlex.join(["python", "-m", "bench.nightly", *(sys.argv[1:] if arguments is None else arguments)])
        return Night(open_night(settings, places.output, typed), places).run()


class Night:
    """Runs the steps and keeps night.json up to date after each."""

    def __init__(self, night: NightRecord, places: Places) -> None:
        self.night, self.places, self.out = night, places, places.output

    def run(self) -> int:
        """Every step; returns the exit code.

        Raises:
            BenchError: the night could not go on; its record and summary say so.
        """
        night = self.night
        print(f"night {night.id} on {night.machine.name} ({night.machine.key}), in {self.out}", flush=True)
        write_night(self.out, night)
        try:
            self._steps()
            self._check_unchanged()
            self._keep()
        except KeyboardInterrupt:
            self._end("interrupted")
            raise
        except BenchError as error:
            night.put(StepRecord(name="night", kind="night", status="failed", note=str(error)))
            self._end("red")
            raise
        self._end("red" if night.red() else "green")
        print(f"{night.verdict}; {self.out / 'summary.md'}")
        return 1 if night.red() else 0

    def _end(self, verdict: Verdict) -> None:
        summary.append_to_job_page(self._write(verdict))

    def _write(self, verdict: Verdict) -> str:
        """night.json and the summary; returns the latter."""
        self.night.verdict, self.night.ended = verdict, now()
        write_night(self.out, self.night)
        text = summary.markdown(self.night, self.out)
        write_bytes(self.out / "summary.md", text.encode("utf-8", "replace"))
        return text

    def _steps(self) -> None:
        settings, names = self.night.settings, self.night.presets()
        self._find_bases()
        doctor, verify = first_steps(settings, self.out)
        if self._do(doctor).status == "failed":
            self.night.notes.append("nothing was measured: this machine cannot run it, see doctor")
            return
        self._do(verify)
        self._measure()
        for name in names:
            self._gate(name)
        steps = [report_step(self.out, names)]
        if self.places.track:
            steps += [track_step(self.out, name, self.night.id, self.places.runs) for name in names]
        for step in steps:
            if step is not None:
                self._do(step)

    def _find_bases(self) -> None:
        """What this night will be gated against, and whether it can be kept, before it takes any time."""
        night, history_folder = self.night, self.places.history
        if night.against:
            night.bases = {name: str(self.out / "base" / name) for name in night.presets()}
            return
        if not self.places.no_keep:
            history.probe(history_folder, night.machine)
        night.bases = {}
        for name in night.presets():
            base, notes = history.last_green(history_folder, night, name)
            night.bases[name] = str(base or "")
            night.notes += [note for note in notes if note not in night.notes]

    def _measure(self) -> None:
        steps = matrix_steps(self.night.settings, self.out)
        if not self.night.against:
            for step in steps:
                self._do(step)
            return
        with checked_out(self.night.against, self.out / BASE_CODE):
            for step in steps:
                self._measure_base(step) if step.kind == "base" else self._do(step)

    def _measure_base(self, step: Step) -> None:
        """A repeat of the other version; that it cannot be measured is no fault of this one."""
        night, folder = self.night, step.output
        assert folder is not None
        if step.preset in night.unfit:
            if night.step(step.name) is None:
                note = "its first repeat could not be measured"
                night.put(StepRecord(name=step.name, kind="base", preset=step.preset, status="skipped", note=note))
            return
        record = self._do(step)
        reason = record.note if record.status != "ok" else self._not_readable(folder)
        if reason and folder.name == "repeat-1":
            night.unfit[step.preset] = reason
        elif reason:
            empty(folder)  # the gate would take for a repeat what is left of it
        write_night(self.out, night)

    def _not_readable(self, folder: Path) -> str:
        """Why the record of the other version cannot be used, or "".

        Raises:
            UsageError: it is of the wrong version, which would be worse than none.
        """
        try:
            found = read_suite(folder).environment.get("git", {}).get("commit")
        except UsageError as error:
            return str(error)
        if found != self.night.against:
            raise UsageError(f"{folder} is of commit {found} instead of {self.night.against}; unset PYTHONPATH")
        return ""

    def _gate(self, name: str) -> None:
        """Against the base; alone too, where that says nothing about whether the records are whole."""
        night = self.night
        for file in gate_files(self.out, name):
            file.unlink(missing_ok=True)
        why = ""
        if name in night.unfit:
            why = f"{name} is not compared: {night.against} cannot be measured ({night.unfit[name]})"
        elif not night.bases[name]:
            why = f"{name}: no earlier green night on this machine, so speed is not judged"
        if why:
            night.notes.append(why)
            night.bases[name] = ""
            self._do(alone_step(self.out, name))
        elif self._do(gate_step(night.settings, self.out, name, Path(night.bases[name]))).status == "warning":
            self._do(alone_step(self.out, name))

    def _do(self, step: Step) -> StepRecord:
        """Run a step, or keep it where this night has it already."""
        earlier, line = self.night.step(step.name), shown(command(step))
        if step.kind in MEASURED and earlier and earlier.status == "ok" and earlier.command == line:
            print(f"{step.name}: kept", flush=True)
            return earlier
        print(f"{step.name} ...", end="", flush=True)
        if step.output is not None:
            empty(step.output)
        log = self.out / "logs" / f"{step.name.replace('/', '-').replace(' ', '-')}.log"
        limit = step.limit_s or 60 * self.places.step_minutes
        try:
            ended = execute(command(step), step_environment(step, ROOT), log, limit)
        finally:
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

    def _forgive(self, record: StepRecord) -> None:
        """What went wrong and does not make the night red."""
        if record.status != "failed":
            return
        if record.kind in NEVER_RED:
            record.status = "warning"
        elif record.kind == "gate" and record.exit == EXIT_NOT_COMPARABLE:
            record.status = "warning"
            self.night.notes.append(f"{record.preset} is not compared: {record.note}")
        elif record.kind == "gate" and record.exit == 1 and self.night.settings.accept:
            record.status = "warning"

    def _check_unchanged(self) -> None:
        """What was measured has to be one version."""
        night, commit = self.night, git_state()["commit"]
        found = (commit, changes() if commit else "", preset_files(night.settings))
        if found != (night.commit, night.changes, night.preset_files):
            note = "the code or a preset changed while it was measured; begin again with --fresh"
            night.put(StepRecord(name="code", kind="code", status="failed", note=note))
            print(f"code: {note}")

    def _keep(self) -> None:
        """Make a green night the next one's base."""
        night = self.night
        if night.red() or night.against:
            return
        if self.places.no_keep or (night.changes and not night.settings.accept):
            why = "--no-keep" if self.places.no_keep else "it has uncommitted changes (--accept keeps it)"
            night.notes.append(f"no later night is gated against this one: {why}")
            return
        begun, record = time.monotonic(), StepRecord(name="keep", kind="keep", status="ok")
        night.put(record)
        self._write("green")  # the copy has them, too
        try:
            kept = history.keep(self.out, night, self.places.history, self.places.keep)
            print(f"kept    {kept}")
        except OSError as error:
            record.status, record.note = "failed", f"--history {self.places.history} cannot be written: {error}"
            print(f"keep: {record.note}")
        record.seconds = round(time.monotonic() - begun, 1)
