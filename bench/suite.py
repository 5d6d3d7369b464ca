"""A suite: the cells of one command, in one folder, under one lock."""

import hashlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from bench.cell import Cell, Shared, resolve_cell
from bench.cell_run import CellRun
from bench.config import RunConfig
from bench.environment import command_line, environment
from bench.errors import RunError, UsageError
from bench.processes import terminable
from bench.progress import Display
from bench.record import LOCK, CellRecord, SuiteRecord, locked, now, read_suite, write_json


def resolve_device(name: str) -> torch.device:
    """ "auto" is the first CUDA device, else the CPU.

    Raises:
        UsageError: CUDA was asked for and is not usable.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = int(name.partition(":")[2] or 0)
    if name.startswith("cuda") and torch.cuda.is_available() and index >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: no usable CUDA device; run `python -m bench doctor` or use --device cpu")
    return torch.device(name)


def suite_name(config: RunConfig) -> str:
    """Default folder name: the same command gives the same name, so that it continues."""
    content = json.dumps(config.model_dump(mode="json", exclude={"tracking", "verify"}), sort_keys=True)
    parts = [*config.dataset, *config.method, *config.backend]
    return "-".join(parts)[:80] + "-" + hashlib.sha256(content.encode()).hexdigest()[:8]


def prepare_folder(folder: Path) -> None:
    """Create the suite's folder and try whether it can be written.

    Raises:
        UsageError: not writable, or a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to --output {folder}: {error.strerror}") from error


def empty_folder(folder: Path) -> None:
    """Delete an earlier suite, the lock aside; call it while the lock is held.

    Raises:
        UsageError: the folder holds something that is not a suite.
    """
    content = [path for path in folder.iterdir() if path.name != LOCK]
    if content and not (folder / "suite.json").is_file():
        raise UsageError(f"{folder} is not empty and holds no suite.json; --fresh will not delete it")
    for path in content:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def plan(config: RunConfig) -> list[tuple[str, str, str]]:
    """The matrix: (dataset, method, backend) of every cell."""
    return list(itertools.product(config.dataset, config.method, config.backend))


def resolve_suite(config: RunConfig, shared: Shared | None = None) -> list[Cell]:
    """Every cell with its data, weights and options, before anything runs; what they have in common is loaded once.

    Args:
        shared: what other suites of the same command have loaded already.

    Raises:
        UsageError: the first problem.
    """
    device, shared = resolve_device(config.device), shared or Shared()
    return [resolve_cell(config, *names, device, shared) for names in plan(config)]


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
    prepare_folder(folder)
    with locked(folder), terminable():
        if fresh:
            empty_folder(folder)
        runs = [CellRun(cell, folder / cell.id, folder / f"inputs-{cell.dataset}", display) for cell in cells]
        for run in runs:
            run.check_resumable()
        suite = _open_record(config, given, folder)
        write_json(folder / "suite.json", suite)
        errors: list[str] = []
        try:
            for run in runs:
                try:
                    record = run.run()
                except RunError as error:
                    errors.append(str(error))
                    record = run.record
                _put(suite, record, folder)
        except KeyboardInterrupt:
            suite.status, suite.ended = "interrupted", now()
            _put(suite, run.record, folder)
            raise
        suite.status, suite.ended = "failed" if errors else "ok", now()
        write_json(folder / "suite.json", suite)
    return suite, errors


def _open_record(config: RunConfig, given: dict[str, Any], folder: Path) -> SuiteRecord:
    """The suite's record; an earlier one keeps its start and the cells it already has."""
    earlier = read_suite(folder) if (folder / "suite.json").is_file() else None
    return SuiteRecord(
        id=folder.name,
        command=command_line(),
        config_set=given,
        config=config.model_dump(mode="json"),
        environment=environment(str(resolve_device(config.device))),
        cells=earlier.cells if earlier else [],
        started=earlier.started if earlier else now(),
    )


def _put(suite: SuiteRecord, cell: CellRecord, folder: Path) -> None:
    """Add or replace a cell in suite.json."""
    known = [other.id for other in suite.cells]
    if cell.id in known:
        suite.cells[known.index(cell.id)] = cell
    else:
        suite.cells.append(cell)
    write_json(folder / "suite.json", suite)
