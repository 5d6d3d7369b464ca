"""Running one cell, from weights to result.json, resumable at any point."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from backends import BACKENDS
from backends.base import Backend, BackendError
from bench.cell import Cell, build_method, fingerprint, judge_of, judged_with, search_facts
from bench.cell_timings import flag_timings, note_figures, note_search
from bench.costs import recomputes
from bench.energy import EnergyMeter, nvml_counter
from bench.errors import RunError, UsageError
from bench.images import file_name, read_saved, to_uint8, write_png
from bench.judge import failures, judge_samples, write_table
from bench.memory import allocation_errors, is_out_of_memory, release
from bench.paths import Plan
from bench.progress import Display
from bench.reconstructions import COLUMNS, Reconstructions, is_intact
from bench.record import CellRecord, Journal, now, read_cell, write_json
from bench.registry import resolve
from bench.rejudge import differences, judge_again, predict_again
from bench.timings import Session
from bench.traces import TRACE, TRACE_FILE, trace_entry, trace_table
from methods.base import Method
from methods.outcomes import Event, Outcome
from methods.search import SlotSearch


class CellRun:
    """Runs one cell in its folder, continuing what an earlier run left there.

    Args:
        folder: `runs/<suite>/<cell>`.
        inputs: folder with the originals as PNG, shared by the suite's cells.
    """

    def __init__(self, cell: Cell, folder: Path, inputs: Path, display: Display) -> None:
        self.cell, self.folder, self.inputs, self.display = cell, folder, inputs, display
        self.images = folder / "images"
        self.journal = Journal(folder / "samples.jsonl")
        self.judge = judge_of(cell)
        self.rows: list[dict[str, Any]] = []
        self.reconstructions: Reconstructions | None = None
        self.session: Session | None = None
        self.plan = Plan(cell.task, cell.config.path, lambda pixels: self.judge.predict(pixels)[0])
        facts = cell.facts()
        self.record = CellRecord(
            id=cell.id, dataset=cell.dataset, method=cell.method, backend=cell.backend, seed=cell.config.seed,
            fingerprint=fingerprint(facts), facts=facts, judged=self._judged_with(facts),
            samples=len(cell.task.ids), started=now(),
            options={name: options.model_dump(mode="json") for name, options in cell.options.items()},
        )  # fmt: skip
        self.faithful: bool = resolve(BACKENDS, cell.backend, "backend").faithful
        if not self.faithful:
            self.record.notes["backend"] = (
                f"{cell.backend} does not compute the networks: its counterfactuals mean nothing, only its timings do"
            )

    def _judged_with(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What the judge is made of now; files of weights may come while the search runs."""
        cell = self.cell
        return judged_with(cell.weights, facts["weights"], self.judge, cell.config.metrics, cell.task)

    def run(self) -> CellRecord:
        """Finish the cell.

        An already finished one is returned as it is, without a network call, where it was judged with what would judge
        it now; else it is judged again from its saved images, without a search, and its timings stay.
        """
        earlier = self.check_resumable()
        if earlier is not None:
            if earlier.status == "ok" and earlier.samples == self.record.samples:
                if earlier.judged == self.record.judged:
                    self.display.message(f"{self.cell.id}: already complete in {self.folder}")
                    return earlier
                if self._all_saved():
                    return self._judge_again(earlier)
            self.record.started, self.record.sessions = earlier.started, earlier.sessions + 1
            self.record.timings = earlier.timings
        same_oracle = earlier is not None and earlier.weights.get("oracle") == self.record.weights["oracle"]
        if not same_oracle:
            self.record.judged = {}  # not known until the recorded predictions are those of this oracle
        self.images.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "result.json", self.record)
        try:
            self.rows = [row for row in self.journal.rows() if self._intact(row)]
            if not same_oracle:
                self._renew_predictions()
            if self.cell.config.reconstructions:
                self.reconstructions = Reconstructions(self.folder, self.judge, self.rows)
            self._write_inputs()
            self._search()
            self._finish()
        except KeyboardInterrupt:
            self._close("interrupted", "stopped by the user; run the same command to go on")
            raise
        except (BackendError, RunError, torch.OutOfMemoryError, OSError) as error:
            self._close("failed", str(error))
            raise RunError(f"{self.cell.id}: {error}; {len(self.rows)} samples are recorded") from error
        return self.record

    def _all_saved(self) -> bool:
        """Whether every sample is recorded with an intact image; what is not has to be searched again."""
        return set(self.cell.task.ids) <= {row["id"] for row in self.journal.rows() if self._intact(row)}

    def _judge_again(self, earlier: CellRecord) -> CellRecord:
        """A finished cell whose search is the one that is asked for, judged with what would judge it now."""
        other = ", ".join(differences(earlier.judged, self.record.judged)) if earlier.judged else ""
        reason = f"another {other}" if other else "what its record does not say"
        self.display.message(f"{self.cell.id}: complete, but judged with {reason}; judging its saved images again")
        earlier.facts, earlier.fingerprint = self.record.facts, self.record.fingerprint
        self.record, cell = earlier, self.cell
        self.display.begin(cell.id, len(cell.task.ids))
        try:
            judge_again(earlier, cell.task, self.judge, cell.weights, cell.config.metrics, self.folder, self.display)
        except (UsageError, OSError) as error:
            raise RunError(f"{cell.id}: {error}") from error
        return earlier

    def _renew_predictions(self) -> None:
        """Make the recorded predictions again, and say what judges from now on."""
        if self.rows:
            predict_again(self.rows, self.judge, self.folder, self.display)
            self.journal.replace(self.rows)
        self.record.judged = self._judged_with(self.record.facts)
        write_json(self.folder / "result.json", self.record)

    def check_resumable(self) -> CellRecord | None:
        """What an earlier run of the same cell left, if anything.

        Raises:
            UsageError: the folder holds another cell's results, named by what differs, or was recorded without the
                reconstructions that are asked for now.
        """
        earlier = read_cell(self.folder)
        facts = {} if earlier is None else search_facts(earlier.facts, self.record.facts["weights"])
        if earlier is None or fingerprint(facts) == self.record.fingerprint:
            if self.cell.config.reconstructions and any(COLUMNS[0] not in row for row in self.journal.rows()):
                raise UsageError(
                    f"{self.folder} was made without reconstructions; use --fresh to start over, "
                    "reconstructions=false to keep it, or -o for another folder"
                )
            return earlier
        differing = [key for key in self.record.facts if facts.get(key) != self.record.facts[key]]
        raise UsageError(
            f"{self.folder} was made with another {_named(differing)}; "
            "use --fresh to start over or -o for another folder"
        )

    def _intact(self, row: dict[str, Any]) -> bool:
        """Whether a journalled sample's image is still the one that was written."""
        if row["id"] not in self.cell.task.ids or row["failure"]:
            return row["id"] in self.cell.task.ids
        path = self.images / row["image"]
        whole = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        return whole and is_intact(row, self.folder)

    def _write_inputs(self) -> None:
        self.inputs.mkdir(parents=True, exist_ok=True)
        originals = dict(zip(self.plan.sources, self.cell.task.images, strict=True))
        for name, pixels in originals.items():
            write_png(self.inputs / file_name(name), pixels)

    def _search(self) -> None:
        """Search what is not recorded yet; where memory runs out, again with half the slots."""
        self.display.begin(self.cell.id, len(self.cell.task.ids))
        device = self.cell.device
        if not self._open_samples():
            return
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.session = Session(self.cell.config.batch_size, len(self.rows), EnergyMeter(nvml_counter(device)))
        while not self._attempt(self.session):
            release(device)
            self._halve(self.session)

    def _open_samples(self) -> list[int]:
        done = {row["id"] for row in self.rows}
        return [index for index, name in enumerate(self.cell.task.ids) if name not in done]

    def _attempt(self, session: Session) -> bool:
        """Search the open samples; False when memory ran out."""
        try:
            self._search_slots(session)
        except allocation_errors() as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _halve(self, session: Session) -> None:
        """Noise belongs to the sample, so fewer slots give the same counterfactuals up to rounding."""
        if session.slots == 1:
            raise RunError(
                f"out of memory with one slot on {self.cell.device}; use a device with more memory, "
                "a backend that stores less (compile.checkpointing=on) or smaller networks"
            )
        flag = f"out of memory at {session.slots} slots, continued with {session.slots // 2}"
        session.slots //= 2
        flag_timings(self.record, [flag])
        self.display.message(f"{self.cell.id}: {flag}")

    def _search_slots(self, session: Session) -> None:
        timings = self.record.timings
        begun = time.perf_counter()
        try:
            method, backend = self._prepare(session.slots)
        finally:
            timings["build_s"] = timings.get("build_s", 0.0) + time.perf_counter() - begun
        config = self.cell.config
        search = SlotSearch(method, session.slots, self._show(len(self.rows)), config.refill, config.reconstructions)
        samples = (self.plan.sample(path) for path in self.plan.paths(self._open_samples()))
        session.statistics, session.report, session.recomputed = search.statistics, backend.report, recomputes(backend)
        session.meter.start()
        begun = time.perf_counter()
        try:
            for outcome in search.run(samples):
                backend.check()
                self._record(outcome)
        finally:
            session.meter.stop()
            session.search_s += time.perf_counter() - begun
            note_search(self.record, session, method, self.cell, self.folder)
            self.record.execution = backend.report.to_dict()

    def _prepare(self, slots: int) -> tuple[Method, Backend]:
        """Build the method's networks on the backend."""
        cell = self.cell

        def announce(name: str) -> None:
            self.display.phase(f"building {name} ({cell.backend})")

        backend = resolve(BACKENDS, cell.backend, "backend")(cell.options[cell.backend], cell.device, announce)
        method = build_method(cell)
        method.prepare({role: loaded.network for role, loaded in cell.weights.items()}, backend, slots)
        return method, backend

    def _show(self, before: int) -> Callable[[Event], None]:
        def show(event: Event) -> None:
            detail = f"{event.phase} {event.done}/{event.total}"
            if event.phase == "searching":
                detail = f"searching: {event.active} in slots, step {event.done} of at most {event.total}"
            self.display.phase(detail, before + event.finished)

        return show

    def _record(self, outcome: Outcome) -> None:
        """Image first, then predictions on the image as saved, then the line that proves it."""
        begun = time.perf_counter()
        task, index = self.cell.task, self.plan.row(outcome)
        if any(row["id"] == task.ids[index] for row in self.rows):
            return  # the start of a continuation that was interrupted further on
        name = file_name(task.ids[index])
        row: dict[str, Any] = {
            "id": task.ids[index],
            **({"source": outcome.id} if task.sources else {}),
            "image": name,
            "input": file_name(outcome.id),
            "sha256": None,
            "target": float(task.targets[index]),
            "start": self.plan.start(index),
            "prediction": float("nan"),
            "oracle": float("nan"),
            "search_prediction": outcome.prediction,
            "reached": outcome.reached,
            "steps": outcome.steps,
            "iterations": outcome.iterations,
            "forward": outcome.evaluations.forward,
            "backward": outcome.evaluations.backward,
            "seconds": outcome.seconds,
            "latency": outcome.latency,
            "failure": outcome.failure,
            TRACE: trace_entry(outcome.trace),
        }
        if outcome.failure is None:
            try:
                row["sha256"] = write_png(self.images / name, to_uint8(outcome.image.numpy()))
            except OSError as error:
                raise RunError(
                    f"cannot write {self.images / name}: {error.strerror}; {len(self.rows)} samples are recorded"
                ) from error
            row["latency"] += time.perf_counter() - begun
            row["prediction"], row["oracle"] = self.judge.predict(read_saved(self.images / name))
        if self.reconstructions is not None:
            row |= self.reconstructions.columns(outcome)
        self.journal.append(row)
        self.rows.append(row)
        self.display.phase(f"saved {len(self.rows)}", len(self.rows))

    def _finish(self) -> None:
        if all(row["failure"] for row in self.rows):
            reason, roles = self.rows[0]["failure"], ", ".join(self.cell.weights)
            raise RunError(f"every sample failed ({reason}); check the weights of {roles}")
        self.display.phase("computing metrics", len(self.rows))
        tolerance = self.cell.options[self.cell.method].tolerance
        metrics = self.cell.config.metrics

        def show(done: int, total: int) -> None:
            self.display.phase(f"judging under fresh noise {done}/{total}", len(self.rows))

        self.record.judged = self._judged_with(self.record.facts)
        begun = time.perf_counter()
        judged = judge_samples(self.judge, self.cell.task, self.rows, self.folder, tolerance, metrics, show)
        self.record.timings["metrics_s"] = time.perf_counter() - begun
        self.record.summary = judged.summary
        self.record.notes |= judged.notes
        self.record.definitions = judged.definitions
        self.record.failures = failures(judged.frame)
        if self.session is not None:
            note_figures(self.record, self.session, self.cell, self.rows, judged.frame, self.faithful)
        write_table(judged.frame, self.folder / "samples.parquet")
        write_table(trace_table(self.rows), self.folder / TRACE_FILE)
        self._close("ok", None)

    def _close(self, status: str, error: str | None) -> None:
        self.record.status, self.record.error = status, error
        self.record.finished, self.record.ended = len(self.rows), now()
        write_json(self.folder / "result.json", self.record)


def _named(differing: list[str]) -> str:
    """Facts that differ, in words."""
    return ", ".join("data (images, targets or --limit)" if fact == "data" else fact for fact in differing) or "set-up"
