"""`bench verify`: the accuracy gate of backends, run before any speed is reported.

The reference and every backend run the same code as `bench run`: resolved cells, the slot search, saved
images judged by the same networks. Before that, each network is compared call by call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from backends import BACKENDS
from backends.base import BackendError
from bench.accuracy import NetworkAccuracy, measure_networks
from bench.calls import first_batch, prepare_method, record_calls
from bench.cell import Cell
from bench.config import RunConfig
from bench.environment import command_line, environment
from bench.errors import RunError, UsageError
from bench.memory import allocation_errors, is_out_of_memory
from bench.outcomes import EndToEnd, Verdict, compare_cells, judge_outcomes
from bench.progress import Display
from bench.record import CellRecord, SuiteRecord, now, write_json
from bench.registry import resolve
from bench.suite import prepare_folder, resolve_device, resolve_suite, run_suite

REFERENCE = "eager"
SCHEMA = 1


class Verified(BaseModel):
    """One backend under one method and dataset.

    Attributes:
        reasons: what the verdict rests on.
        networks: empty where the backend could not build them.
        end_to_end: None where the backend could not finish the cell.
    """

    dataset: str
    method: str
    backend: str
    verdict: Verdict
    reasons: list[str]
    networks: list[NetworkAccuracy]
    end_to_end: EndToEnd | None


class VerifyRecord(BaseModel):
    """verify.json.

    Attributes:
        config: as resolved; the margins are in its `verify` section.
        repeats: calls of each network in the repeatability check.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    command: str
    reference: str = REFERENCE
    repeats: int
    config: dict[str, Any]
    environment: dict[str, Any]
    results: list[Verified] = []
    started: str
    ended: str | None = None

    def count(self, verdict: Verdict) -> int:
        """Results with this verdict."""
        return sum(result.verdict == verdict for result in self.results)


def candidates() -> tuple[str, ...]:
    """Every backend that is available here, the reference and those that are not meant to be accurate aside.

    Raises:
        UsageError: there is none.
    """
    names = []
    for name in BACKENDS:
        backend = resolve(BACKENDS, name, "backend")
        if name != REFERENCE and backend.faithful and backend.unavailable() is None:
            names.append(name)
    if not names:
        raise UsageError(f"no backend besides {REFERENCE} is available; `python -m bench doctor` says what is missing")
    return tuple(names)


def verify(
    config: RunConfig,
    given: dict[str, Any],
    backends: Sequence[str],
    folder: Path,
    repeats: int,
    fresh: bool,
    display: Display,
) -> VerifyRecord:
    """Verify backends against the reference under every dataset and method of the configuration.

    Args:
        config: its `backend` is replaced.
        given: what the user set, for the records.
        backends: to verify; the reference itself is allowed and gives the gate's own error (an A/A run).
        folder: gets verify.json and the two suites `reference` and `candidate`, which `bench show`, `report`
            and `compare` read.
        repeats: calls of each network in the repeatability check.
        fresh: delete what an earlier verification left; otherwise finished samples are kept.

    Raises:
        UsageError: anything the user gave that cannot be used.
        RunError: the reference could not be run.
    """
    for name in backends:
        if not resolve(BACKENDS, name, "backend").faithful:
            raise UsageError(f"backend {name!r} does not claim to compute the networks; there is nothing to verify")
    ours = config.model_copy(update={"backend": tuple(dict.fromkeys(backends))})
    theirs = config.model_copy(update={"backend": (REFERENCE,)})
    display.begin("resolving", 0)
    display.phase("loading weights and data")
    cells, reference_cells = resolve_suite(ours), resolve_suite(theirs)
    prepare_folder(folder)
    record = VerifyRecord(
        command=command_line(),
        repeats=repeats,
        config=ours.model_dump(mode="json"),
        environment=environment(str(resolve_device(config.device))),
        started=now(),
    )
    networks = _measure_cells(reference_cells, cells, repeats, display)
    reference, errors = run_suite(theirs, given, folder / "reference", fresh, display)
    if errors:
        raise RunError(f"the reference could not be run: {errors[0]}")
    candidate, _ = run_suite(ours, given, folder / "candidate", fresh, display)
    for cell in cells:
        record.results.append(_judge_cell(cell, networks[cell.id], reference, candidate, folder, config))
    record.ended = now()
    write_json(folder / "verify.json", record)
    return record


@dataclass
class _Measured:
    """Accuracy of a cell's networks, and what went wrong while they were built or called."""

    networks: list[NetworkAccuracy] = field(default_factory=list)
    error: str | None = None

    def faults(self) -> list[str]:
        """In words, by network."""
        found = [f"{measured.network}: {fault}" for measured in self.networks for fault in measured.faults]
        return [*([self.error] if self.error else []), *found]


def _measure_cells(references: list[Cell], cells: list[Cell], repeats: int, display: Display) -> dict[str, _Measured]:
    """Per-network accuracy of every cell, by cell id; the reference of each task is built once."""
    measured: dict[str, _Measured] = {}
    for reference in references:
        matching = [cell for cell in cells if (cell.dataset, cell.method) == (reference.dataset, reference.method)]
        display.begin(f"accuracy {reference.dataset} {reference.method}", len(matching))
        display.phase("recording calls")
        expected, _ = prepare_method(reference)
        calls = record_calls(expected, first_batch(reference))
        for done, cell in enumerate(matching):

            def announce(name: str, backend: str = cell.backend, done: int = done) -> None:
                display.phase(f"{name} ({backend})", done)

            found = measured[cell.id] = _Measured()
            try:
                method, backend = prepare_method(cell, announce)
                limits = cell.config.verify
                found.networks = measure_networks(expected, method, backend, calls, limits, repeats, announce)
                backend.check()
            except (BackendError, *allocation_errors()) as error:
                if not isinstance(error, BackendError) and not is_out_of_memory(error):
                    raise
                found.error = str(error)
    return measured


def _judge_cell(
    cell: Cell, networks: _Measured, reference: SuiteRecord, candidate: SuiteRecord, folder: Path, config: RunConfig
) -> Verified:
    theirs = _find(reference, cell.dataset, cell.method, REFERENCE)
    ours = _find(candidate, cell.dataset, cell.method, cell.backend)
    faults = networks.faults()
    measured = None
    if ours.status != "ok":
        faults.append(ours.error or f"the cell is {ours.status}")
        verdict, reasons = "different", []
    else:
        places = folder / "reference" / theirs.id, folder / "candidate" / ours.id
        measured = compare_cells(*places, config.verify, config.metrics.bootstrap_seed)
        verdict, reasons = judge_outcomes(measured, config.verify)
    return Verified(
        dataset=cell.dataset,
        method=cell.method,
        backend=cell.backend,
        verdict="different" if faults else verdict,
        reasons=faults + reasons,
        networks=networks.networks,
        end_to_end=measured,
    )


def _find(suite: SuiteRecord, dataset: str, method: str, backend: str) -> CellRecord:
    return next(cell for cell in suite.cells if (cell.dataset, cell.method, cell.backend) == (dataset, method, backend))
