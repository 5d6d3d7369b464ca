"""Suites of many nights from a folder: what was run when, on which machine, with which code."""

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.compare import timing_flags
from bench.errors import BenchError
from bench.record import CellRecord, Journal, SuiteRecord, cells_of, missing_cells, read_suite
from reports.records import is_by_verify, walk_suites

NIGHT_S = 12 * 3600.0
"""Runs of one commit on one machine that start within this time of the first one are one night's."""
JOURNAL = "samples.jsonl"


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
        cells: its cells, those too that were killed before they came into suite.json; `finished` of one that did not
            finish counts the samples of its journal.
        journals: samples of cells that left a journal and no record, by "dataset--method--backend".
        time: of its start, seconds since 1970.
        machine: everything that decides how fast it is, in words.
        software: package -> version, and what else was installed.
    """

    suite: SuiteRecord
    cells: list[CellRecord]
    time: float
    machine: str
    code: Code
    software: Mapping[str, str]
    journals: Mapping[str, int] = field(default_factory=dict)

    @property
    def unfinished(self) -> list[str]:
        """Cells without figures, with the reason."""
        suite = self.suite
        told = []
        for cell in self.cells:
            if cell.status != "ok":
                why = f" ({cell.status}: {cell.error})" if cell.error else ""
                told.append(f"{cell.id} did not finish: {cell.finished} of {cell.samples} samples{why}")
        told += [self._missing(name) for name in self.missing]
        if suite.status != "ok" and not told:
            told.append(f"suite {suite.id} is {suite.status}")
        return told

    def _missing(self, name: str) -> str:
        count = self.journals.get(name)
        return f"{name} was not begun" if count is None else f"{name} did not finish: {count} samples, and no record"

    @property
    def missing(self) -> list[str]:
        """Cells that the suite was to have and does not hold: "dataset--method--backend"."""
        return missing_cells(self.suite, self.cells)


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
        cells = [cell for run in self.runs for cell in run.cells]
        return list(dict.fromkeys(f"{cell.id}: {flag}" for cell in cells for flag in time_doubts(cell)))


def time_doubts(cell: CellRecord) -> list[str]:
    """Why a cell's times do not compare with those of other nights: its flags, and that it was resumed."""
    return timing_flags(cell) + (["resumed: rates are those of the last session"] if cell.sessions > 1 else [])


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
    """A suite's record, with the cells that suite.json holds.

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
    return Run(suite, suite.cells, time.timestamp(), machine_of(environment), code, _software(environment))


def find_runs(folders: Iterable[Path]) -> Found:
    """Every suite under some folders that a night measured, each once: copies of a record count as one.

    Where the record of a cell is damaged, that is listed and the suite is shown as suite.json has it.
    """
    runs: dict[tuple[str, str], Run] = {}
    unread: dict[Path, Unread] = {}
    for folder in folders:
        for path, reason in walk_suites(folder):
            if reason:
                unread[path] = Unread(path, reason)
                continue
            try:
                run = read_run(path)
            except (BenchError, ValueError) as error:
                unread[path] = Unread(path, str(error))
                continue
            if is_by_verify(run.suite):
                continue
            try:
                cells = cells_of(path, run.suite)
                run = replace(run, cells=cells)
                run = replace(run, cells=[_counted(path, cell) for cell in cells], journals=_journals(path, run))
            except BenchError as error:
                unread[path] = Unread(path, str(error))
            runs.setdefault((run.suite.id, run.suite.started), run)
    return Found(sorted(runs.values(), key=lambda run: run.time), list(unread.values()))


def _counted(folder: Path, cell: CellRecord) -> CellRecord:
    """A cell that was killed, with the samples that it had finished by then: its record still has the count of before.

    Raises:
        RunError: its journal is damaged.
    """
    if cell.status == "ok":
        return cell
    rows = len(Journal(folder / cell.id / JOURNAL).peek())
    return cell.model_copy(update={"finished": max(cell.finished, rows)})


def _journals(folder: Path, run: Run) -> dict[str, int]:
    """Samples of the missing cells that left a journal.

    Raises:
        RunError: one is damaged.
    """
    seed = run.suite.config.get("seed")
    paths = {name: folder / f"{name}--s{seed}" / JOURNAL for name in run.missing}
    return {name: len(Journal(path).peek()) for name, path in paths.items() if path.is_file()}


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
