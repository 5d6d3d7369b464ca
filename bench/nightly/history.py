"""Green nights, kept by machine: HISTORY/<machine>/<start>-<commit>/."""

import os
import shutil
from pathlib import Path

from pydantic import ValidationError

from bench.errors import UsageError
from bench.images import write_bytes
from bench.nightly.machine import Machine
from bench.nightly.plan import gate_files
from bench.nightly.record import NIGHT, NightRecord
from bench.nightly.settings import Settings
from bench.record import read_suite

KEPT = ("report.html", "summary.md")
PARTIAL = ".partial-"


def probe(history: Path, machine: Machine) -> None:
    """Make a machine's folder and find out, before anything is measured, whether a night can be kept in it.

    Raises:
        UsageError: it cannot be written.
    """
    folder = history / machine.key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{PARTIAL}probe"
        write_bytes(file, b"")
        file.unlink()
    except OSError as error:
        raise UsageError(f"--history {history} cannot be written: {error.strerror}") from error


def green_nights(history: Path, machine: Machine) -> tuple[list[tuple[Path, NightRecord]], list[str]]:
    """Green nights of a machine, oldest first, and a sentence for each that cannot be read.

    Raises:
        UsageError: the folder cannot be listed.
    """
    folder, found, notes = history / machine.key, list[tuple[Path, NightRecord]](), list[str]()
    try:
        places = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UsageError(f"--history {folder} cannot be read: {error.strerror}") from error
    for path in places:
        if path.name.startswith(PARTIAL) or not path.is_dir():
            continue
        try:
            found.append((path, NightRecord.model_validate_json((path / NIGHT).read_bytes())))
        except (OSError, ValidationError):
            notes.append(f"{path} is left out: its {NIGHT} is damaged or of another version; delete or move it")
    return sorted(found, key=lambda pair: pair[1].started), notes


def last_green(history: Path, night: NightRecord, preset: str) -> tuple[Path | None, list[str]]:
    """The preset's folder in the last other green night that measured it with the same backends, options and images.

    Args:
        preset: folder name in the night.

    Returns:
        The folder, None where there is none; and a sentence for each night that cannot be read.

    Raises:
        UsageError: the history cannot be listed.
    """
    nights, notes = green_nights(history, night.machine)
    for folder, earlier in reversed(nights):
        if earlier.id == night.id or not same_matrix(earlier.settings, night.settings):
            continue
        if not (folder / preset).is_dir():
            continue
        try:
            for repeat in range(1, earlier.settings.repeats + 1):
                read_suite(folder / preset / f"repeat-{repeat}")
        except UsageError as error:
            notes.append(f"{folder} is left out: {error}")
        else:
            return folder / preset, notes
    return None, notes


def same_matrix(first: Settings, second: Settings) -> bool:
    """Whether two nights measure the same cells; what they do with them may differ."""

    def facts(settings: Settings) -> tuple[object, ...]:
        return sorted(settings.backends), settings.assignments, settings.limit

    return facts(first) == facts(second)


def keep(out: Path, night: NightRecord, history: Path, number: int) -> Path:
    """Copy a green night, whole or not at all, and drop the oldest beyond `number`.

    Kept are the matrix with its images, night.json, the page, the gates' files and verify.json.

    Returns:
        Its folder in the history.

    Raises:
        OSError: the history cannot be written.
    """
    folder = history / night.machine.key
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    place, partial = folder / night.id, folder / f"{PARTIAL}{night.id}"
    _copy(out, night, partial)
    if place.is_dir():  # a night that went on after it was green replaces itself
        os.replace(place, folder / f"{PARTIAL}earlier")
    os.replace(partial, place)
    for old in (folder / f"{PARTIAL}earlier", *(old for old, _ in green_nights(history, night.machine)[0][:-number])):
        if old.is_dir():
            shutil.rmtree(old)
    return place


def _copy(out: Path, night: NightRecord, partial: Path) -> None:
    partial.mkdir()
    for preset in night.presets():
        shutil.copytree(out / preset, partial / preset, ignore=shutil.ignore_patterns(".lock"))
    gates = [path for preset in night.presets() for path in gate_files(out, preset)]
    for path in [*(out / name for name in KEPT), *gates, out / "verify" / "verify.json"]:
        if path.is_file():
            shutil.copy2(path, partial / path.name)
    shutil.copy2(out / NIGHT, partial / NIGHT)
