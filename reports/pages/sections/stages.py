"""Where the time goes: seconds by phase, seconds a counterfactual, and how full the slots were."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.compare import timing_flags
from bench.occupancy import held_steps, occupancy
from reports.pages.blocks import Bars, Block, Section, TableBlock, Text
from reports.pages.views import number_value, rounded, series_name
from reports.records import Cell
from reports.table import Column, Entry, Table, Value

INTRO = (
    "Synchronised wall time by phase. Building happens once a cell and is apart from all speeds; saving and predicting "
    "is what the harness does between the method's calls, and metrics are computed after the last search."
)
BUILD, METRICS = "build", "metrics"
PHASES: dict[str, str] = {
    BUILD: "build_s",
    "encode": "encode_s",
    "search": "step_s",
    "refine": "refine_s",
    "saving and predicting": "harness_s",
    "reconstructions": "reconstruct_s",
    METRICS: "metrics_s",
}
"""Part of a bar -> entry of the timings."""
OF_A_SAMPLE = ("encode", "search", "refine", "saving and predicting")
COLUMNS = [
    Column("cell"),
    Column("slots"),
    Column("slot occupancy", "", "high"),
    Column("without refill"),
    Column("first step", "s", "low"),
    Column("median step", "s", "low"),
    Column("p95 step", "s", "low"),
    Column("median latency", "s", "low"),
    Column("p95 latency", "s", "low"),
    Column("peak memory", "MiB", "low"),
    Column("build"),
    Column("flags"),
]


def phase_seconds(timings: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of every phase that was timed; what was not is left out, below 0 (the clock's error) is 0."""
    found = {part: timings.get(key) for part, key in PHASES.items()}
    return {part: max(0.0, rounded(float(value))) for part, value in found.items() if value is not None}


def _bars(cells: Sequence[Cell]) -> Bars:
    bars = {series_name(cell): phase_seconds(cell.record.timings) for cell in cells}
    parts = [part for part in PHASES if any(part in bar for bar in bars.values())]
    return Bars(
        "stages-total", "Seconds by phase", "seconds", parts, bars,
        "Wall time of each cell as a stacked bar of its phases, in seconds. The sum is what the cell took, apart from "
        "loading data and weights.",
    )  # fmt: skip


def _bars_per_sample(cells: Sequence[Cell]) -> Bars | None:
    """Seconds by phase over the samples of a cell, without what is done once."""
    bars = {}
    for cell in cells:
        seconds, count = phase_seconds(cell.record.timings), len(cell.samples)
        if cell.record.sessions > 1:
            seconds.pop("saving and predicting", None)  # of the last session only
        parts = {part: rounded(seconds[part] / count) for part in OF_A_SAMPLE if part in seconds} if count else {}
        if parts:
            bars[series_name(cell)] = parts
    if not bars:
        return None
    return Bars(
        "stages-per-sample", "Seconds per counterfactual", "seconds", list(OF_A_SAMPLE), bars,
        "The same per counterfactual, without building, reconstructions and metrics: shorter is faster. Samples that "
        "failed are counted.",
    )  # fmt: skip


def _slots(cell: Cell) -> int | None:
    """B; records from before it was kept have the configured one."""
    slots = cell.record.timings.get("slots") or cell.record.facts.get("batch_size")
    return int(slots) if slots else None


def _without_refill(cell: Cell) -> Value | None:
    """Slot occupancy of the same searches if every batch had waited for its last sample."""
    slots = _slots(cell)
    if not cell.finished or not slots:
        return None
    held = [count for count in held_steps(cell.samples) if count > 0]
    if not held:
        return None
    found = occupancy(held, slots)
    return Value(found.busy / (found.masking * found.slots), decimals=3)


def build_text(timings: Mapping[str, Any]) -> str | None:
    """ "4.42 s (denoiser 4.07 s, hit; regressor 0.36 s, hit)"; None where nothing was built."""
    total = timings.get("build_s")
    if total is None:
        return None
    networks, caches = timings.get("build_s_by_network", {}), timings.get("cache_by_network", {})
    parts = []
    for name, seconds in networks.items():
        facts = [f"{seconds:.2f} s"] if seconds is not None else []
        facts += [str(caches[name])] if caches.get(name) else []
        if facts:
            parts.append(f"{name} {', '.join(facts)}")
    return f"{total:.2f} s" + (f" ({'; '.join(parts)})" if parts else "")


def _row(cell: Cell) -> list[Entry]:
    timings = cell.record.timings
    return [
        series_name(cell),
        _slots(cell),
        number_value(timings.get("slot_occupancy"), 3),
        _without_refill(cell),
        *(number_value(timings.get(key)) for key in ("first_step_s", "step_median_s", "step_p95_s")),
        *(number_value(timings.get(key)) for key in ("latency_p50_s", "latency_p95_s")),
        number_value(timings.get("peak_memory_mib"), 0),
        build_text(timings),
        "; ".join(dict.fromkeys(timing_flags(cell.record))) or None,
    ]


def _table(cells: Sequence[Cell]) -> Table:
    notes = [
        "Slot occupancy: share of slot-steps that worked on an unfinished sample; without refill: what it would have "
        "been for the same searches, had every batch waited for its last sample.",
        "Steps are those of the whole batch, the first one apart; latency is that of a counterfactual, from the start "
        "of its encoding.",
    ]
    if any(not str(cell.suite.environment.get("device", "")).startswith("cuda") for cell in cells):
        notes.append("On the CPU, peak memory is that of the whole process so far: later cells include earlier ones.")
    rows = [_row(cell) for cell in cells]
    tones = {index: "warning" for index, row in enumerate(rows) if row[-1] is not None}
    return Table("Slots, steps and memory", COLUMNS, rows, notes, tones)


def _notes(cells: Sequence[Cell]) -> list[Text]:
    told = []
    resumed = [cell.label for cell in cells if cell.record.sessions > 1]
    if resumed:
        told.append(
            Text(
                f"Resumed: {'; '.join(resumed)}. Building, encoding, search and refinement are summed over all "
                "sessions; saving and predicting, steps, latency, occupancy and memory are those of the last one.",
                "note",
            )
        )
    untimed = [cell.label for cell in cells if not phase_seconds(cell.record.timings)]
    if untimed:
        told.append(Text(f"No times are recorded for {'; '.join(untimed)}.", "note"))
    return told


def build(cells: Sequence[Cell]) -> Section | None:
    """Stacked bars of seconds and a table of slots, steps and memory; None where nothing was timed."""
    timed = [cell for cell in cells if phase_seconds(cell.record.timings)]
    if not timed:
        return None
    per_sample = _bars_per_sample(timed)
    blocks: list[Block] = [*_notes(cells), _bars(timed)]
    blocks += [per_sample] if per_sample is not None else []
    blocks.append(TableBlock("stages-table", _table(timed)))
    return Section("stages", "Time by stage", blocks, INTRO)
