"""Writing a prepared folder: every file whole or not at all, the manifest last; what is there already is kept."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import PIL

from bench.errors import RunError, UsageError
from bench.images import BadImage, write_bytes
from bench.preparing.plan import SPLITS, Job, Plan
from bench.preparing.prepared import FORMAT, LABELS, MANIFEST, open_prepared
from bench.progress import Display

STATE = "preparing.json"
"""What an unfinished folder is being made from; gone when its manifest is there."""

_MAX_THREADS = 16  # Pillow works outside of the interpreter's lock; a face crop takes about 150 MB
_QUEUE = 256


def write_prepared(plan: Plan, output: Path, size: int, split: str) -> list[str]:
    """Render and write what is missing.

    Args:
        output: new, empty, or left by the same preparation.
        size: height and width of the images.
        split: the one that was planned, or "all".

    Returns:
        Lines for people.

    Raises:
        UsageError: an image that cannot be used, or a folder that holds something else.
        RunError: it cannot be written; the same command goes on.
    """
    settings = _settings(plan, size, split)
    if (output / MANIFEST).is_file():
        return _finished(plan, output, settings)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with _locked(output):
            _claim(output, settings)
            hashes = _render_all(plan, output, size)
            return _close(plan, output, settings, hashes)
    except OSError as error:
        raise RunError(
            f"cannot write {error.filename or output} ({error.strerror}); the same command goes on from there"
        ) from error
    except BadImage as error:
        _withdraw(plan, output)
        raise UsageError(str(error)) from error


def _withdraw(plan: Plan, output: Path) -> None:
    """Leave nothing behind where no image could be written, so that a corrected command may take the folder."""
    if any((output / job.file).is_file() for job in plan.jobs):
        return
    for folder in {(output / job.file).parent for job in plan.jobs}:
        if folder != output and folder.is_dir():
            folder.rmdir()
    for name in (STATE, ".lock"):
        (output / name).unlink(missing_ok=True)
    if not any(output.iterdir()):
        output.rmdir()


def _settings(plan: Plan, size: int, split: str) -> dict[str, Any]:
    """What decides every byte of the folder, but for the pixels of the published images."""
    sources = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(plan.tables.items())}
    return {
        "format": FORMAT,
        "name": plan.name,
        "size": size,
        "split": split,
        "recipe": plan.recipe,
        "sources": sources,
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from bench.suite import locked  # brings PyTorch

    with locked(folder):
        yield


def _finished(plan: Plan, output: Path, settings: dict[str, Any]) -> list[str]:
    """Say that a folder is there already; refuse one that was made otherwise or is not whole."""
    prepared = open_prepared(output, plan.name)
    differing = [key for key in settings if prepared.manifest.get(key) != settings[key]]
    if differing:
        raise UsageError(
            f"{output} was prepared with another {differing[0]}; remove it or choose another folder with --output"
        )
    missing = [job.file for job in plan.jobs if not (output / job.file).is_file()]
    if missing:
        raise UsageError(f"{output / missing[0]} is gone; remove {output} and prepare the data again")
    return [f"{output}: prepared already", *_summary(prepared.manifest)]


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Start a folder, or go on with one of the same settings."""
    state = output / STATE
    if state.is_file():
        try:
            before = json.loads(state.read_text(encoding="utf-8"))
        except ValueError:
            before = None
        if before != settings:
            raise UsageError(
                f"{output} was begun with other data or options; remove it or choose another folder with --output"
            )
        return
    if any(path.name != ".lock" for path in output.iterdir()):
        raise UsageError(f"{output} is not empty; choose another folder with --output")
    write_bytes(state, json.dumps(settings, indent=2).encode())


def _render_all(plan: Plan, output: Path, size: int) -> dict[str, str]:
    """Every wanted image on disk; returns the sha256 of each by id."""

    def render(job: Job) -> str:
        path = output / job.file
        data = path.read_bytes() if path.is_file() else b""  # a file is whole where it is there at all
        if not data:
            data = plan.render(job, size)
            write_bytes(path, data)
        return hashlib.sha256(data).hexdigest()

    for folder in {(output / job.file).parent for job in plan.jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    hashes: dict[str, str] = {}
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with Display() as display, ThreadPoolExecutor(threads) as pool:
        display.begin(f"preparing {plan.name}", len(plan.jobs))
        jobs = iter(plan.jobs)
        while batch := list(islice(jobs, _QUEUE)):  # so that an error or Ctrl-C waits for a few images only
            for job, digest in zip(batch, pool.map(render, batch), strict=True):
                hashes[job.id] = digest
                display.phase("images", len(hashes))
    return hashes


def _close(plan: Plan, output: Path, settings: dict[str, Any], hashes: dict[str, str]) -> list[str]:
    """Labels, then the manifest."""
    labels = plan.labels.copy()
    labels.insert(2, "sha256", [hashes.get(name, "") for name in labels["id"]])
    table = labels.to_csv(index=False, lineterminator="\n").encode()
    write_bytes(output / LABELS, table)
    prepared = labels[labels["file"] != ""]
    notes = list(plan.notes)
    repeated = int(prepared["sha256"].duplicated(keep=False).sum())
    if repeated:
        notes.append(f"{repeated} images are equal to another one")
    counts = {name: int((prepared["split"] == name).sum()) for name in SPLITS}
    manifest = settings | {"labels": hashlib.sha256(table).hexdigest(), "counts": counts, "notes": notes}
    manifest["pillow"] = PIL.__version__
    write_bytes(output / MANIFEST, json.dumps(manifest, indent=2).encode())
    (output / STATE).unlink()
    return [f"{output}: prepared", *_summary(manifest)]


def _summary(manifest: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{count} {name}" for name, count in manifest["counts"].items() if count)
    size = manifest["size"]
    return [f"{manifest['name']}: {counts} images of {size}x{size} pixels", *manifest["notes"]]
