"""Quality against throughput: every finished cell as a point, with the reader's choice of axes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.compare import machine
from reports.pages.blocks import Axis, Block, Point, Scatter, Section, Text
from reports.pages.views import Reached, by_dataset, figure, is_faithful, meaningless
from reports.records import Cell

INTRO = (
    "Each point is a cell: colours are methods, shapes are backends, bars are 95 % intervals over images. "
    "The line joins the cells that no other one beats in both chosen figures."
)
QUALITIES: dict[str, Axis] = {
    "validity/oracle_target_mae": Axis("|oracle − target|", better="low"),
    "validity/success_rate": Axis("success rate", better="high"),
    "validity/noise_success_rate": Axis("success rate under fresh noise", better="high"),
    "validity/prediction_mae": Axis("|prediction − target|", better="low"),
    "validity/oracle_regressor_mae": Axis("|oracle − prediction|", better="low"),
    "validity/failure_rate": Axis("failure rate", better="low"),
    "quality/square_mae": Axis("Square MAE", better="low"),
    "quality/background_mae": Axis("Background MAE", better="low"),
    "sparsity/change_l1": Axis("change, L1", better="low"),
    "sparsity/changed_area": Axis("changed area", better="low"),
    "type/preserved": Axis("type preserved", better="high"),
    "perceptual/lpips": Axis("LPIPS", better="low"),
    "realism/fid": Axis("FID", better="low"),
    "realism/sfid": Axis("sFID", better="low"),
    "realism/oracle_feature_distance": Axis("oracle feature distance", better="low"),
    "realism/target_class_distance": Axis("target class distance", better="low"),
    "identity/fva": Axis("FVA", better="high"),
    "identity/fs": Axis("FS", better="high"),
    "attributes/mnac": Axis("MNAC", better="low"),
    "attributes/cd": Axis("CD", better="low"),
    "path/monotonic_rate": Axis("rising pairs, oracle", better="high"),
    "path/monotonic_rate_square": Axis("rising pairs, square", better="high"),
    "path/roughness_l1": Axis("roughness, L1", better="low"),
}
"""Summary key -> axis; the first that was measured is shown first."""
SPEEDS: dict[str, Axis] = {
    "throughput/valid_per_second": Axis("valid counterfactuals per second", "1/s", better="high"),
    "throughput/seconds_per_valid": Axis("seconds per valid counterfactual", "s", better="low"),
    "throughput/seconds_per_image": Axis("seconds per counterfactual", "s", better="low"),
    "cost/forward": Axis("denoiser calls, forward", better="low"),
    "cost/backward": Axis("denoiser calls, backward", better="low"),
    "cost/steps": Axis("steps", better="low"),
}
TIMINGS: dict[str, Axis] = {
    "energy_per_counterfactual_j": Axis("energy per counterfactual", "J", better="low"),
    "energy_per_valid_counterfactual_j": Axis("energy per valid counterfactual", "J", better="low"),
    "peak_memory_mib": Axis("peak memory", "MiB", better="low"),
}
"""Entry of the timings -> axis; these have no interval, and are measured for a cell of its own on CUDA only."""
LOG_FROM = 5.0
"""Costs that differ by this factor or more are shown on a logarithmic axis."""


def point_values(cell: Cell) -> dict[str, Reached]:
    """Every figure of a finished cell that has an axis: key -> (value, low, high)."""
    summary, timings = cell.record.summary, cell.record.timings
    found: dict[str, Reached | None] = {
        key: figure(summary[key].value, summary[key].low, summary[key].high)
        for key in (*QUALITIES, *SPEEDS)
        if key in summary
    }
    if str(cell.suite.environment.get("device", "")).startswith("cuda"):
        found |= {key: figure(timings.get(key)) for key in TIMINGS}
    return {key: reached for key, reached in found.items() if reached is not None}


def _spread(axis: Axis, values: Sequence[Reached]) -> Axis:
    """A logarithmic axis for costs of different magnitude, as far as all of them are above 0."""
    ends = [end for value, low, high in values for end in (value, low, high) if end is not None]
    middle = [value for value, _, _ in values]
    if min(ends) > 0 and max(middle) >= LOG_FROM * min(middle):
        return replace(axis, log=True)
    return axis


def _axes(points: Sequence[Point], left_out: Sequence[str]) -> tuple[dict[str, Axis], list[str], list[str]]:
    """The axes that some point has, and which of them are costs and qualities."""
    present = {key for point in points for key in point.values} - set(left_out)
    speeds = [key for key in (*SPEEDS, *TIMINGS) if key in present]
    qualities = [key for key in QUALITIES if key in present]
    axes = {key: QUALITIES[key] for key in qualities}
    for key in speeds:
        values = [point.values[key] for point in points if key in point.values]
        axes[key] = _spread((SPEEDS | TIMINGS)[key], values)
    return axes, speeds, qualities


def ill_defined(cells: Sequence[Cell]) -> list[str]:
    """Metrics that the cells measured by different definitions, so that their figures cannot be compared."""
    kinds: dict[str, set[Any]] = {}
    for cell in cells:
        for key, facts in cell.record.definitions.items():
            kinds.setdefault(key, set()).add(facts.get("fingerprint"))
    return [key for key in QUALITIES if len(kinds.get(key, ())) > 1]


def _notes(cells: Sequence[Cell], left_out: Sequence[str]) -> list[Text]:
    """What is to be known before two points are compared."""
    told = []
    if len({json.dumps(machine(cell.suite.environment), sort_keys=True, default=str) for cell in cells}) > 1:
        told.append(Text("These cells ran on different machines: their speeds cannot be compared.", "warning"))
    if len({cell.record.facts.get("data") for cell in cells}) > 1:
        told.append(Text("These cells explain different images or reference values.", "warning"))
    if left_out:
        names = ", ".join(QUALITIES[key].label for key in left_out)
        told.append(Text(f"Measured by different definitions, hence not shown: {names}.", "warning"))
    return told


def _scatter(number: int, title: str, cells: Sequence[Cell], left_out: Sequence[str]) -> Scatter | None:
    points = [Point(cell.label, cell.record.method, cell.record.backend, point_values(cell)) for cell in cells]
    axes, speeds, qualities = _axes(points, left_out)
    if not speeds or not qualities:
        return None
    return Scatter(
        id=f"pareto-{number}",
        title=title,
        axes=axes,
        x=speeds[0],
        y=qualities[0],
        x_choices=[*speeds, *qualities],
        y_choices=[*qualities, *speeds],
        points=points,
        alt=f"{len(points)} cells as points with error bars; at first {axes[speeds[0]].label} to the right and "
        f"{axes[qualities[0]].label} upwards. A cell that lacks a chosen figure is not drawn.",
    )


def build(cells: Sequence[Cell]) -> Section | None:
    """A scatter plot for every dataset with a finished cell; None without any."""
    finished = [cell for cell in cells if cell.finished]
    shown = [cell for cell in finished if is_faithful(cell)]
    blocks: list[Block] = [*meaningless(finished)]
    parts = by_dataset(shown)
    for number, (dataset, mine) in enumerate(parts.items(), 1):
        left_out = ill_defined(mine)
        title = "Quality against throughput" + (f", {dataset}" if len(parts) > 1 else "")
        scatter = _scatter(number, title, mine, left_out)
        if scatter is not None:
            blocks += [*_notes(mine, left_out), scatter]
    if not any(isinstance(block, Scatter) for block in blocks):
        return None
    return Section("pareto", "Quality against throughput", blocks, INTRO)
