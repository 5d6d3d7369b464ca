"""Suites of many nights from a folder: what was run when, on which machine, with which code."""

import datetime
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.record import CellRecord, SuiteRecord, read_suite

NIGHT_S = 12 * 3600.0
"""Runs of one commit on one machine that start within this time of the first one are one night's."""
RECORD = "suite.json"
VERIFY = ["verify"]
"""The verb whose suites are no measurements of a night."""


@dataclass(frozen=True)
class Code:
    """Attributes:
    dirty: tracked files differed from the commit.
    """

    commit: str
    dirty: bool

    @property
    def short(self) -> str:
        """ "abc1234", "abc1234+dirty"; "no commit" where the record names none."""
        return (self.commit[:7] + ("+dirty" if self.dirty else "")) if self.commit else "no commit"


@dataclass(frozen=True)
class Run:
    """A suite as it was read.

    Attributes:
        time: of its start, seconds since 1970.
        machine: everything that decides how fast it is, in words.
        software: package -> version, and what else was installed.
    """

    suite: SuiteRecord
    time: float
    machine: str
    code: Code
    software: Mapping[str, str]

    @property
    def unfinished(self) -> list[str]:
        """Cells without figures, with the reason."""
        suite = self.suite
        told = []
        for cell in suite.cells:
            if cell.status != "ok":
                reason = f": {cell.error}" if cell.error else f", {cell.finished} of {cell.samples} samples recorded"
                told.append(f"{cell.id} is {cell.status}{reason}")
        told += [f"{'--'.join(names)} was not begun" for names in self.missing]
        if suite.status != "ok" and not told:
            told.append(f"suite {suite.id} is {suite.status}")
        return told

    @property
    def missing(self) -> list[tuple[str, str, str]]:
        """(dataset, method, backend) of cells that the suite was to have and does not hold."""
        config, held = self.suite.config, {(cell.dataset, cell.method, cell.backend) for cell in self.suite.cells}
        planned = [
            (dataset, method, backend)
            for dataset in config.get("dataset", [])
            for method in config.get("method", [])
            for backend in config.get("backend", [])
        ]
        return [names for names in planned if names not in held]


@dataclass(frozen=True)
class Unread:
    """A record that cannot be read."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """Attributes: `runs` by time, each once."""

    runs: list[Run]
    unread: list[Unread]


@dataclass
class Night:
    """Runs of one commit on one machine within `NIGHT_S`."""

    machine: str
    code: Code
    time: float
    runs: list[Run] = field(default_factory=list)

    @property
    def unfinished(self) -> list[str]:
        """What has no figures in this night, each once."""
        return list(dict.fromkeys(reason for run in self.runs for reason in run.unfinished))

    @cached_property
    def flags(self) -> list[str]:
        """Why timings of this night are not to be trusted."""
        cells = [cell for run in self.runs for cell in run.suite.cells]
        return list(dict.fromkeys(f"{cell.id}: {flag}" for cell in cells for flag in timing_flags(cell)))


def timing_flags(cell: CellRecord) -> list[str]:
    """Why a cell's timings are not to be trusted."""
    flags = [*cell.timings.get("timing_flags", []), *cell.execution.get("flags", [])]
    return flags + (["resumed: rates are those of the last session"] if cell.sessions > 1 else [])


def machine_of(environment: Mapping[str, Any]) -> str:
    """The machine in words; two machines of one text are taken for equally fast.

    Versions of software are no part of it: CUDA may change on a machine.
    """
    gpu, cores, threads = environment.get("gpu"), environment.get("cores"), environment.get("threads")
    parts = [f"{gpu.get('name')} ({gpu.get('memory_mib')} MiB)"] if isinstance(gpu, Mapping) else []
    parts.append(str(environment.get("cpu") or "unknown processor"))
    parts.append(_count(cores, "core"))
    parts.append(_count(threads, "thread"))
    if not isinstance(gpu, Mapping):
        parts.append(str(environment.get("device") or "device not recorded").partition(":")[0])
    return ", ".join(parts)


def _count(number: Any, thing: str) -> str:
    return f"{thing}s not recorded" if number is None else f"{number} {thing}{'' if number == 1 else 's'}"


def _software(environment: Mapping[str, Any]) -> dict[str, str]:
    versions = {"python": environment.get("python"), "platform": environment.get("platform")}
    versions |= dict(environment.get("packages") or {})
    if isinstance(environment.get("gpu"), Mapping):
        versions["CUDA"] = environment["gpu"].get("cuda")
    return {name: str(version) for name, version in versions.items() if version}


def read_run(folder: Path) -> Run:
    """A suite's record.

    Raises:
        UsageError: no record, or a damaged one.
        ValueError: it does not say when it started.
    """
    suite = read_suite(folder)
    time = datetime.datetime.fromisoformat(suite.started)
    if time.tzinfo is None:
        raise ValueError(f"its start {suite.started!r} names no time zone")
    git = suite.environment.get("git") or {}
    code = Code(str(git.get("commit") or ""), bool(git.get("dirty")))
    environment = suite.environment
    return Run(suite, time.timestamp(), machine_of(environment), code, _software(environment))


def find_runs(folders: Iterable[Path]) -> Found:
    """Every suite under some folders that a night measured, each once: copies of a record count as one."""
    runs: dict[tuple[str, str], Run] = {}
    unread: dict[Path, Unread] = {}
    for folder in folders:
        for path, reason in _walk(folder):
            if reason:
                unread[path] = Unread(path, reason)
                continue
            try:
                run = read_run(path)
            except (BenchError, ValueError) as error:
                unread[path] = Unread(path, str(error))
                continue
            if run.suite.command.split()[3:4] != VERIFY:  # python -m bench verify
                runs.setdefault((run.suite.id, run.suite.started), run)
    return Found(sorted(runs.values(), key=lambda run: run.time), list(unread.values()))


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Suites' folders under a folder, or folders that cannot be read with the reason; by name."""
    problems: list[OSError] = []
    for path, folders, files in os.walk(folder, onerror=problems.append):
        folders.sort()
        if RECORD in files:
            yield Path(path), ""
            folders.clear()  # there are no suites in a suite
    for problem in problems:
        yield Path(problem.filename), problem.strerror or str(problem)


def nights_of(runs: Sequence[Run]) -> list[Night]:
    """Group runs by machine and code; by time."""
    nights: list[Night] = []
    open_nights: dict[tuple[str, Code], Night] = {}
    for run in sorted(runs, key=lambda run: run.time):
        night = open_nights.get((run.machine, run.code))
        if night is None or run.time - night.time > NIGHT_S:
            night = open_nights[run.machine, run.code] = Night(run.machine, run.code, run.time)
            nights.append(night)
        night.runs.append(run)
    return nights


def software_changes(before: Night, after: Night) -> list[str]:
    """What else than the code changed between two nights: "torch 2.15.0 to 2.16.0"."""
    theirs, ours = before.runs[0].software, after.runs[0].software
    return [
        f"{name} {theirs.get(name, 'absent')} to {ours.get(name, 'absent')}"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]


def finite(value: Any) -> float | None:
    """A recorded number, None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def search_facts(cell: CellRecord, run: Run) -> dict[str, Any]:
    """What a cell computes, whatever networks, versions and commit: data, method, backend, options, slots."""
    left_out = ("schema", "version", "torch", "weights")
    facts = {key: value for key, value in cell.facts.items() if key not in left_out}
    return facts | {"refill": run.suite.config.get("refill", True)}


def judging_facts(cell: CellRecord) -> dict[str, Any]:
    """What its figures rest on besides: networks, and options of the metrics. Seeds of intervals do not matter."""
    metrics = cell.judged.get("metrics")
    judged = None if metrics is None else {key: value for key, value in metrics.items() if key != "bootstrap_seed"}
    weights = dict(cell.facts.get("weights") or {}) | dict(cell.judged.get("weights") or {})
    return {"weights": weights, "metrics": judged}
