"""A suite: the cells of one command, in one folder, under one lock."""

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.cell import Cell, CellRun, resolve_cell
from bench.config import RunConfig
from bench.environment import command_line, environment
from bench.errors import RunError, UsageError
from bench.progress import Display
from bench.record import CellRecord, SuiteRecord, now, write_json


def resolve_device(name: str) -> torch.device:
    """ "auto" is the first CUDA device, else the CPU.

    Raises:
        UsageError: CUDA was asked for and is not usable.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: no usable CUDA device; run `python -m bench doctor` or use --device cpu")
    return torch.device(name)


def suite_name(config: RunConfig) -> str:
    """Default folder name: the same command gives the same name, so that it continues."""
    content = json.dumps(config.model_dump(mode="json", exclude={"tracking", "batch_size"}), sort_keys=True)
    parts = [*config.dataset, *config.method, *config.backend]
    return "-".join(parts)[:80] + "-" + hashlib.sha256(content.encode()).hexdigest()[:8]


def prepare_folder(folder: Path, fresh: bool) -> None:
    """Create the suite's folder, emptying an earlier suite where asked.

    Raises:
        UsageError: not writable, a file, or a folder that is not a suite's.
    """
    try:
        if fresh and folder.is_dir() and any(folder.iterdir()):
            if not (folder / "suite.json").is_file():
                raise UsageError(f"{folder} is not empty and holds no suite.json; --fresh will not delete it")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to --output {folder}: {error.strerror}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system frees it when the process ends, however it ends.

    Raises:
        UsageError: another run holds it.
    """
    with (folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UsageError(f"{folder} is in use by {holder}; wait for it or use another --output") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run like Ctrl-C: the record is closed as interrupted."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def plan(config: RunConfig) -> list[tuple[str, str, str]]:
    """The matrix: (dataset, method, backend) of every cell."""
    return list(itertools.product(config.dataset, config.method, config.backend))


def resolve_suite(config: RunConfig) -> list[Cell]:
    """Every cell with its data, weights and options, before anything runs.

    Raises:
        UsageError: the first problem.
    """
    device = resolve_device(config.device)
    return [resolve_cell(config, *names, device) for names in plan(config)]


def run_suite(
    config: RunConfig, given: dict[str, Any], folder: Path, fresh: bool, display: Display
) -> tuple[SuiteRecord, list[str]]:
    """Run every cell; one that fails does not end the suite.

    Args:
        config: as resolved.
        given: what the user set, for the record.

    Returns:
        The record, and the errors of failed cells.
    """
    display.begin("resolving", 0)
    display.phase("loading weights and data")
    cells = resolve_suite(config)
    prepare_folder(folder, fresh)
    with locked(folder), _terminable():
        suite = SuiteRecord(
            id=folder.name,
            command=command_line(),
            config_set=given,
            config=config.model_dump(mode="json"),
            environment=environment(str(resolve_device(config.device))),
            started=now(),
        )
        errors: list[str] = []
        write_json(folder / "suite.json", suite)
        try:
            for cell in cells:
                suite.cells.append(_run_cell(cell, folder, display, errors))
                write_json(folder / "suite.json", suite)
        except KeyboardInterrupt:
            suite.status, suite.ended = "interrupted", now()
            write_json(folder / "suite.json", suite)
            raise
        suite.status, suite.ended = "failed" if errors else "ok", now()
        write_json(folder / "suite.json", suite)
    return suite, errors


def _run_cell(cell: Cell, folder: Path, display: Display, errors: list[str]) -> CellRecord:
    run = CellRun(cell, folder / cell.id, folder / f"inputs-{cell.dataset}", display)
    try:
        return run.run()
    except RunError as error:
        errors.append(str(error))
        return run.record
