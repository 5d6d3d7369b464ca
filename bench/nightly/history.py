"""Green nights, kept by machine: HISTORY/<machine>/<start>-<commit>/."""

import os
import shutil
from pathlib import Path

from pydantic import ValidationError

from bench.errors import UsageError
from bench.nightly.machine import Machine
from bench.nightly.record import NIGHT, NightRecord
from bench.nightly.settings import Settings

KEPT = ("report.html", "summary.md")
PARTIAL = ".partial-"


def green_nights(history: Path, machine: Machine) -> list[tuple[Path, NightRecord]]:
    """Green nights of a machine, oldest first.

    Raises:
        UsageError: a night there cannot be read.
    """
    folder = history / machine.key
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(PARTIAL):
            found.append((path, _read(path)))
    return sorted(found, key=lambda pair: pair[1].started)


def _read(folder: Path) -> NightRecord:
    try:
        return NightRecord.model_validate_json((folder / NIGHT).read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(f"{folder / NIGHT} cannot be read as a night; delete or move that folder") from error


def last_green(history: Path, night: NightRecord, preset: str) -> Path | None:
    """The preset's folder in the last other green night that measured it with the same backends, options and images.

    Args:
        preset: folder name in the night.

    Raises:
        UsageError: a night there cannot be read.
    """
    for folder, earlier in reversed(green_nights(history, night.machine)):
        if earlier.id != night.id and same_matrix(earlier.settings, night.settings) and (folder / preset).is_dir():
            return folder / preset
    return None


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
    """
    folder = history / night.machine.key
    place = folder / night.id
    partial = folder / f"{PARTIAL}{night.id}"
    for leftover in (partial, place):  # a night that went on after it was green replaces itself
        if leftover.is_dir():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    for preset in night.presets():
        shutil.copytree(out / preset, partial / preset, ignore=shutil.ignore_patterns(".lock"))
    for path in [*(out / name for name in KEPT), *sorted(out.glob("gate-*")), out / "verify" / "verify.json"]:
        if path.is_file():
            shutil.copy2(path, partial / path.name)
    shutil.copy2(out / NIGHT, partial / NIGHT)
    os.replace(partial, place)
    for old, _ in green_nights(history, night.machine)[:-number]:
        shutil.rmtree(old)
    return place
