"""What a cell's record says of time, work and energy; the figures themselves are in `bench.timings`."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from bench.cell import Cell
from bench.costs import method_flops
from bench.images import write_bytes
from bench.memory import peak_memory_mib
from bench.record import CellRecord
from bench.registry import resolve
from bench.timings import Session, build_figures, peak_figures, rate_figures, step_figures, work_figures
from methods import METHODS
from methods.base import Method

ENERGY = "timings/energy_per_counterfactual_j"


def flag_timings(record: CellRecord, reasons: list[str]) -> None:
    """Say in the record why timings are not to be trusted."""
    timings = record.timings
    timings["timing_flags"] = list(dict.fromkeys([*timings.get("timing_flags", []), *reasons]))


def note_search(record: CellRecord, session: Session, method: Method, cell: Cell, folder: Path) -> None:
    """Wall time by phase, added to an earlier session's where the cell was resumed, and steady steps.

    Making reconstructions is no part of the search: its time is in `reconstruct_s` only.

    Args:
        folder: of the cell; the seconds of every call go into its latency.json.
    """
    timings, statistics = record.timings, session.statistics
    for phase, seconds in statistics.seconds.items():
        timings[f"{phase}_s"] = timings.get(f"{phase}_s", 0.0) + seconds
        if phase == "reconstruct":
            session.search_s -= seconds
        else:
            session.method_s += seconds
    calls = {f"{phase}_s": seconds for phase, seconds in statistics.calls.items()}
    write_bytes(folder / "latency.json", json.dumps(calls).encode())
    timings |= step_figures(statistics, method.cost)
    timings |= {"slots": session.slots, "refill": cell.config.refill}
    timings["peak_memory_mib"] = peak_memory_mib(cell.device)
    if session.report is not None:
        timings |= build_figures(session.report)
        flag_timings(record, session.report.flags)


def note_figures(
    record: CellRecord, session: Session, cell: Cell, rows: list[dict[str, Any]], frame: pd.DataFrame, faithful: bool
) -> None:
    """Rates, work and energy, once it is known which samples are valid.

    Args:
        rows: recorded samples, those of earlier sessions first.
        frame: the judged samples.
        faithful: the backend computes the networks; otherwise there is no work to count.
    """
    timings, notes = record.timings, record.notes
    mine = [row["id"] for row in rows[session.before :]]
    frame = frame.set_index("id")
    timings |= rate_figures(session, frame["latency"][mine].to_list(), int(frame["valid"][mine].sum()))
    if session.meter.reason():
        notes[ENERGY] = session.meter.reason()
    elif cell.config.reconstructions:
        notes[ENERGY] = "the energy of making the reconstructions is in it"
    if not faithful:
        return
    networks = {role: loaded.network for role, loaded in cell.weights.items()}
    flops = method_flops(
        resolve(METHODS, cell.method, "method"), cell.options[cell.method], networks, cell.task.image_shape
    )
    if cell.task.sources:
        notes["timings/model_tflop"] = "counts the encoder's call for every row, though rows of an image share it"
    timings |= work_figures(
        session,
        flops,
        frame["forward"].to_list(),
        frame["backward"].to_list(),
        timings["step_median_s"],
        frame["iterations"].to_list(),
    )
    peaks, reason = peak_figures(session, cell.device, timings["step_model_gflop_per_s"])
    timings |= peaks
    if reason:
        notes["timings/step_fraction_of_peak"] = reason
