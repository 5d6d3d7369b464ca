"""The folder of a night before it begins: emptied, new, or one that goes on."""

import hashlib
import shutil
from pathlib import Path

from bench.config import find_preset
from bench.environment import git_state
from bench.errors import UsageError
from bench.nightly.machine import ask
from bench.nightly.plan import BASE_CODE, MEASURED, Step, default_presets, stem, step_environment
from bench.nightly.record import NIGHT, NightRecord, read_night
from bench.nightly.settings import Settings
from bench.nightly.worktree import ROOT, changes, commit_of, remove
from bench.record import LOCK, now

KEPT = (*MEASURED, "code")
"""Kinds of steps that are known when a night goes on: what was measured, and that the code changed meanwhile."""


def start_over(out: Path) -> None:
    """Delete an earlier night, the lock aside.

    Raises:
        UsageError: the folder holds something else.
    """
    content = [path for path in out.iterdir() if path.name not in (LOCK, NIGHT)]
    if content and not (out / NIGHT).is_file():
        raise UsageError(f"{out} is not empty and holds no {NIGHT}; --fresh will not delete it")
    remove(out / BASE_CODE)
    for path in content:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (out / NIGHT).unlink(missing_ok=True)  # last: killed before, the same command goes on deleting


def open_night(settings: Settings, out: Path, typed: str) -> NightRecord:
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
        preset_files=preset_files(resolved),
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
    steps = [step for step in earlier.steps if step.kind in KEPT]
    update = {"verdict": "running", "ended": None, "notes": [], "command": typed, "steps": steps}
    return earlier.model_copy(update=update)


def preset_files(settings: Settings) -> dict[str, str]:
    """Preset's folder name -> sha256 of its file."""
    return {stem(name): hashlib.sha256(find_preset(name).read_bytes()).hexdigest() for name in settings.presets}
