"""The figures of a cell: how fast, how full, how much work, how much energy. Units are in the names.

Rates, latencies and energy are those of one process's work on the cell (a session); a resumed cell reports
its last one. What was not measured is None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backends.base import BackendReport
from bench.costs import MethodFlops
from bench.energy import EnergyMeter
from bench.machine_peak import DTYPES, measured_peak
from methods.base import Evaluations
from methods.search import SearchStatistics

PEAK_AFTER_SECONDS = 40.0
"""The machine's peak takes two seconds to measure; a search shorter than this does without."""


@dataclass
class Session:
    """What one process did for a cell.

    Attributes:
        slots: batch size, halved where memory ran out.
        before: samples that were recorded when it began.
        meter: energy of the search, building apart.
        search_s: wall time of encoding, search, refinement, judging and saving; building apart.
        method_s: the part of it inside the method.
        statistics: of the last search; there are several where memory ran out.
        report: what the backend of that search says.
        recomputed: the backward pass computes forward passes again; None where unknown.
    """

    slots: int
    before: int
    meter: EnergyMeter
    search_s: float = 0.0
    method_s: float = 0.0
    statistics: SearchStatistics = field(default_factory=SearchStatistics)
    report: BackendReport | None = None
    recomputed: bool | None = None


def _quantile(values: Sequence[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None


def _ratio(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def step_figures(statistics: SearchStatistics, cost: Mapping[str, Evaluations]) -> dict[str, float | None]:
    """Seconds of a step and of a denoiser call on a whole batch; the first call of each phase is kept apart.

    A phase without pull-backs gives the time of a forward call, a step that of a forward and backward call.
    What else these phases do (noise, schedule arithmetic, one call of the regressor) is in them.
    """
    steps = statistics.calls["step"]
    median = _quantile(steps[1:], 0.5)
    plain = next((phase for phase in ("encode", "refine") if cost[phase].forward > cost[phase].backward == 0), None)
    forward = _quantile(statistics.calls[plain][1:], 0.5) if plain else None
    whole = cost["step"].forward == cost["step"].backward  # every call of a step is pulled back
    return {
        "first_step_s": steps[0] if steps else None,
        "step_median_s": median,
        "step_p95_s": _quantile(steps[1:], 0.95),
        "forward_evaluation_s": _ratio(forward, cost[plain].forward) if plain else None,
        "forward_backward_evaluation_s": _ratio(median, cost["step"].backward) if whole else None,
        "slot_occupancy": statistics.occupancy if steps else None,
    }


def rate_figures(session: Session, latencies: Sequence[float], valid: int) -> dict[str, float | None]:
    """Counterfactuals a second of encoding, search and refinement, latency, overhead and energy.

    Args:
        latencies: of every sample of the session.
        valid: how many of them are valid.
    """
    count, joules = len(latencies), session.meter.joules()
    return {
        "counterfactuals_per_second": _ratio(float(count), session.method_s),
        "valid_counterfactuals_per_second": _ratio(float(valid), session.method_s),
        "latency_p50_s": _quantile(latencies, 0.5),
        "latency_p95_s": _quantile(latencies, 0.95),
        "search_wall_s": session.search_s,
        "harness_s": session.search_s - session.method_s,
        "energy_j": joules,
        "energy_per_counterfactual_j": _ratio(joules, count),
        "energy_per_valid_counterfactual_j": _ratio(joules, valid),
    }


def work_figures(
    session: Session,
    flops: MethodFlops,
    forward_calls: Sequence[int],
    backward_calls: Sequence[int],
    step_s: float | None,
    iterations: Sequence[int] | None = None,
) -> dict[str, float | None]:
    """Operations of the whole cell, and the rate of a steady step over all of its slots.

    Model operations leave recomputation out, hardware operations have it.

    Args:
        forward_calls, backward_calls: of every recorded sample.
        step_s: median of a steady step.
        iterations: steps of every recorded sample; see `MethodFlops.total`.
    """
    denoiser, recomputed = flops.denoiser, session.recomputed

    def hardware(value: int) -> int | None:
        return None if recomputed is None else value

    model_step = flops.phase("step") * session.slots
    hardware_step = hardware(flops.phase("step", bool(recomputed)) * session.slots)
    return {
        "denoiser_forward_gflop": denoiser.forward / 1e9,
        "denoiser_backward_gflop": denoiser.backward / 1e9,
        "model_tflop": flops.total(forward_calls, backward_calls, False, iterations) / 1e12,
        "hardware_tflop": _ratio(
            hardware(flops.total(forward_calls, backward_calls, bool(recomputed), iterations)), 1e12
        ),
        "step_model_gflop_per_s": _ratio(model_step / 1e9, step_s),
        "step_hardware_gflop_per_s": _ratio(_ratio(hardware_step, 1e9), step_s),
    }


def peak_figures(
    session: Session, device: torch.device, gflop_per_s: float | None
) -> tuple[dict[str, float | None], str | None]:
    """The machine's measured peak in the denoiser's precision, the share of it that was reached, or why not.

    Args:
        gflop_per_s: model operations of a steady step.
    """
    figures: dict[str, float | None] = {
        "peak_matmul_gflop_per_s": None,
        "peak_convolution_gflop_per_s": None,
        "step_fraction_of_peak": None,
    }
    if session.report is not None and "denoiser" not in session.report.networks:
        return figures, "the method has no denoiser, in whose precision the machine's peak is measured"
    name = "" if session.report is None else str(session.report.networks.get("denoiser", {}).get("dtype"))
    dtype = DTYPES.get(name if name.startswith("torch.") else f"torch.{name}")
    if dtype is None:
        return figures, f"the backend does not say in which precision its denoiser runs ({name or 'nothing ran'})"
    if session.search_s < PEAK_AFTER_SECONDS:
        return figures, (
            f"the peak is measured after searches of {PEAK_AFTER_SECONDS:g} s or more; see python -m bench.machine_peak"
        )
    peak = measured_peak(device, dtype)
    figures["peak_matmul_gflop_per_s"] = peak.matmul_gflop_per_s
    figures["peak_convolution_gflop_per_s"] = max(
        peak.convolution_contiguous_gflop_per_s, peak.convolution_channels_last_gflop_per_s
    )
    figures["step_fraction_of_peak"] = _ratio(gflop_per_s, peak.gflop_per_s)
    return figures, None


def build_figures(report: BackendReport) -> dict[str, Any]:
    """By network: seconds to build, and whether a cache had it; None where the backend does not say."""
    networks = {name: facts for name, facts in report.networks.items() if "dtype" in facts}
    return {
        "build_s_by_network": {name: facts.get("build_seconds") for name, facts in networks.items()},
        "cache_by_network": {name: facts.get("cache") for name, facts in networks.items()},
    }
