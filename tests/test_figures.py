"""The figures of a cell: steady state, rates, work, peak, energy; refill against masking."""

import fnmatch
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from backends import BACKENDS
from backends.base import BackendReport
from backends.compiled import CompileBackend
from backends.eager import EagerBackend
from backends.onnx_runtime import OnnxBackend
from bench import machine_peak
from bench.costs import MethodFlops, NetworkFlops, count_flops, method_flops, recomputes
from bench.energy import EnergyMeter, nvml_counter
from bench.listing import backend_lines, listing
from bench.occupancy import held_steps, occupancy
from bench.occupancy import main as occupancy_command
from bench.record import SuiteRecord, write_json
from bench.timings import Session, build_figures, peak_figures, rate_figures, step_figures, work_figures
from methods.ac_re import AcRe
from methods.base import Evaluations, Method
from methods.search import SearchStatistics, SlotSearch
from tests.conftest import CPU, reachable
from tests.tiny_cell import run_cell, tiny_cell

ROOT = Path(__file__).parent.parent
COST = {"encode": Evaluations(4, 0), "step": Evaluations(2, 2), "refine": Evaluations(0, 0)}
FLOPS = MethodFlops(
    {"denoiser": NetworkFlops(100, 110), "regressor": NetworkFlops(10, 11), "encoder": NetworkFlops(5, 6)}, COST
)


def session(**facts: object) -> Session:
    return Session(slots=4, before=0, meter=EnergyMeter("no GPU"), search_s=10.0, method_s=8.0, **facts)


# Steady state and rates


def test_first_calls_are_kept_apart() -> None:
    statistics = SearchStatistics(
        calls={"encode": [9.0, 2.0, 2.0], "step": [30.0, 1.0, 1.2, 1.4, 3.0], "refine": [0.1]}, busy_slots=15, slots=4
    )
    figures = step_figures(statistics, COST)
    assert figures["first_step_s"] == 30.0
    assert figures["step_median_s"] == pytest.approx(1.3)
    assert 1.4 < figures["step_p95_s"] < 3.0
    assert figures["forward_backward_evaluation_s"] == pytest.approx(0.65)
    assert figures["forward_evaluation_s"] == pytest.approx(0.5)
    assert figures["slot_occupancy"] == 0.75


def test_what_was_not_measured_is_none() -> None:
    figures = step_figures(SearchStatistics(calls={"encode": [1.0], "step": [1.0], "refine": []}, slots=4), COST)
    assert figures["first_step_s"] == 1.0
    assert figures["step_median_s"] is figures["step_p95_s"] is figures["forward_evaluation_s"] is None
    assert step_figures(SearchStatistics(slots=4), COST)["first_step_s"] is None
    assert rate_figures(session(), [], 0)["latency_p50_s"] is None
    assert rate_figures(session(), [1.0], 0)["energy_per_counterfactual_j"] is None


def test_rates_are_over_the_time_in_the_method() -> None:
    figures = rate_figures(session(), [1.0, 2.0, 3.0, 4.0], 2)
    assert figures["counterfactuals_per_second"] == 0.5
    assert figures["valid_counterfactuals_per_second"] == 0.25
    assert figures["latency_p50_s"] == 2.5
    assert figures["harness_s"] == 2.0


def test_a_record_holds_every_figure(
    networks: dict[str, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flagging(EagerBackend):
        def check(self) -> None:
            self.report.flags[:] = ["recompiled twice"]

    monkeypatch.setitem(BACKENDS, "flagging", f"{__name__}:Flagging")
    monkeypatch.setitem(globals(), "Flagging", Flagging)
    record, frame = run_cell(tiny_cell(networks, "ac-re", "flagging"), tmp_path)
    timings = record.timings
    assert timings["timing_flags"] == ["recompiled twice"]
    assert (frame["latency"] >= frame["seconds"] * 0.999).all(), "a sample waits for its neighbours"
    assert timings["latency_p95_s"] >= timings["latency_p50_s"] > 0
    assert timings["counterfactuals_per_second"] == pytest.approx(
        7 / sum(timings[f"{phase}_s"] for phase in ("encode", "step", "refine"))
    )
    assert timings["valid_counterfactuals_per_second"] == pytest.approx(
        timings["counterfactuals_per_second"] * frame["valid"].mean()
    )
    steps = json.loads((tmp_path / record.id / "latency.json").read_text())["step_s"]
    assert timings["first_step_s"] == steps[0]
    assert timings["step_median_s"] == pytest.approx(pd.Series(steps[1:]).median())
    method = AcRe(AcRe.options(depth=3), 0, CPU)
    flops = method_flops(AcRe, method.config, networks)
    iterations = int(frame["backward"].sum()) // 3
    assert timings["model_tflop"] * 1e12 == pytest.approx(iterations * flops.phase("step") + 7 * flops.phase("refine"))
    assert timings["hardware_tflop"] == timings["model_tflop"]
    assert timings["step_model_gflop_per_s"] == pytest.approx(4 * flops.phase("step") / timings["step_median_s"] / 1e9)
    assert timings["step_fraction_of_peak"] is None
    assert "40 s" in record.notes["timings/step_fraction_of_peak"]
    assert timings["energy_per_counterfactual_j"] is None
    assert "NVIDIA" in record.notes["timings/energy_per_counterfactual_j"]
    assert (timings["refill"], timings["slots"]) == (True, 4)
    assert timings["build_s_by_network"] == {"denoiser": None, "regressor": None}


def test_builds_and_cache_hits_come_from_the_report() -> None:
    report = BackendReport("x", "cpu", {"denoiser": {"dtype": "torch.float32", "build_seconds": 2.5, "cache": "hit"}})
    report.networks["recompilations"] = {"after_build": 0}
    figures = build_figures(report)
    assert figures == {"build_s_by_network": {"denoiser": 2.5}, "cache_by_network": {"denoiser": "hit"}}


# Work and peak


def test_operations_of_a_convolution_by_hand() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1).eval().requires_grad_(False)
    forward = 2 * 3 * 8 * 9 * 16 * 16
    assert count_flops(layer, [torch.zeros(2, 3, 16, 16)]) == (2 * forward, 2 * forward), "no gradient of weights"


def test_recomputation_counts_as_hardware_work_only() -> None:
    assert FLOPS.phase("encode") == FLOPS.phase("encode", True) == 4 * 100 + 5
    assert FLOPS.phase("step") == 2 * (100 + 110) + 10 + 11
    assert FLOPS.phase("step", True) == FLOPS.phase("step") + 2 * 100 + 10
    assert FLOPS.total([6, 10], [2, 6]) == 2 * FLOPS.phase("encode") + 4 * FLOPS.phase("step")
    figures = work_figures(session(recomputed=True), FLOPS, [6, 10], [2, 6], 2.0)
    assert figures["hardware_tflop"] > figures["model_tflop"]
    assert figures["step_model_gflop_per_s"] == pytest.approx(4 * FLOPS.phase("step") / 2e9)
    assert figures["step_hardware_gflop_per_s"] == pytest.approx(4 * FLOPS.phase("step", True) / 2e9)
    unknown = work_figures(session(recomputed=None), FLOPS, [6, 10], [2, 6], None)
    assert (
        unknown["hardware_tflop"] is unknown["step_hardware_gflop_per_s"] is unknown["step_model_gflop_per_s"] is None
    )


def test_what_ran_decides_about_recomputation() -> None:
    assert recomputes(EagerBackend(EagerBackend.options(checkpointing="off"), CPU)) is False
    backend = CompileBackend(CompileBackend.options(), CPU)
    for said, expected in ((True, True), (False, False), ("on", True), ("off", False), ("auto", None)):
        backend.report.networks["denoiser"] = {"checkpointing": said}
        assert recomputes(backend) is expected
    for residuals in (True, False):
        assert recomputes(OnnxBackend(OnnxBackend.options(residuals=residuals), CPU)) is not residuals


def test_the_peak_is_measured_after_long_searches_in_the_denoisers_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_peak, "SECONDS", 0.01)
    report = BackendReport("x", "cpu", {"denoiser": {"dtype": "torch.float32"}})
    figures, reason = peak_figures(session(report=report), CPU, 1.0)
    assert figures["step_fraction_of_peak"] is None
    assert "bench.machine_peak" in reason
    long = session(report=report)
    long.search_s = 41.0
    figures, reason = peak_figures(long, CPU, 1.0)
    assert reason is None
    best = max(figures["peak_matmul_gflop_per_s"], figures["peak_convolution_gflop_per_s"])
    assert figures["step_fraction_of_peak"] == pytest.approx(1 / best)
    assert machine_peak.measured_peak(CPU, torch.float32) is machine_peak.measured_peak(CPU, torch.float32)
    long.report = BackendReport("x", "cpu", {"denoiser": {"dtype": "int4"}})
    assert "int4" in peak_figures(long, CPU, 1.0)[1]


# Energy


def test_energy_is_the_difference_of_a_counter() -> None:
    counter, clock = iter([5_000, 25_000, 100_000, 130_000]), iter([0.0, 3.0, 10.0, 11.0])
    meter = EnergyMeter(lambda: next(counter), lambda: next(clock))
    for _ in range(2):
        meter.start()
        meter.stop()
    meter.stop()
    assert meter.reason() is None
    assert meter.joules() == 50.0
    measured = Session(slots=1, before=0, meter=meter, search_s=4.0, method_s=4.0)
    figures = rate_figures(measured, [1.0] * 5, 2)
    assert (figures["energy_per_counterfactual_j"], figures["energy_per_valid_counterfactual_j"]) == (10.0, 25.0)


def test_energy_that_cannot_be_read_has_a_reason() -> None:
    short = EnergyMeter(lambda: 7, iter([0.0, 1.0]).__next__)
    short.start()
    short.stop()
    assert short.joules() is None
    assert "2 s" in short.reason()
    assert "NVIDIA GPUs only" in nvml_counter(CPU)


# Refill against masking


@pytest.mark.parametrize("name", ["ac-re", "diffae-re"])
def test_masking_gives_the_same_results_in_the_counted_steps(name: str, make_method: Callable[..., Method]) -> None:
    samples = reachable(make_method(name, 1), 7)
    outcomes, steps = [], []
    for refill in (True, False):
        engine = SlotSearch(make_method(name, 3), 3, refill=refill)
        outcomes.append({outcome.id: outcome for outcome in engine.run(samples)})
        steps.append(engine.statistics.steps)
    for key, outcome in outcomes[0].items():
        assert outcomes[1][key].steps == outcome.steps
        torch.testing.assert_close(outcomes[1][key].image, outcome.image, rtol=0, atol=1e-5)
    frame = pd.DataFrame([{"steps": outcomes[0][s.id].steps, "reached": outcomes[0][s.id].reached} for s in samples])
    counted = occupancy(held_steps(frame), 3)
    assert steps == [counted.refill, counted.masking]
    assert counted.masking > counted.refill


def test_occupancy_by_hand() -> None:
    counted = occupancy([1, 5, 2, 2, 3], 2)
    # Slots: 1 2 2 3 and 5; batches: (1, 5), (2, 2), (3).
    assert (counted.refill, counted.masking, counted.busy) == (8, 10, 13)
    assert counted.ratio == 1.25


def test_refill_is_a_timing_matter_of_the_record(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    cells = [tiny_cell(networks, "ac-re", refill=refill) for refill in (True, False)]
    assert cells[0].facts() == cells[1].facts()
    record, _ = run_cell(cells[1], tmp_path)
    assert record.timings["refill"] is False


def test_the_occupancy_command_reads_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], networks: dict[str, nn.Module]
) -> None:
    record, frame = run_cell(tiny_cell(networks, "ac-re"), tmp_path)
    suite = SuiteRecord(
        id="one", command="", config_set={}, config={}, environment={}, cells=[record], started=record.started
    )
    write_json(tmp_path / "suite.json", suite)
    assert occupancy_command([str(tmp_path)]) == 0
    counted = occupancy(held_steps(frame), 4)
    line = capsys.readouterr().out
    assert f"refill {counted.refill} steps, occupancy {record.timings['slot_occupancy']:.4f}" in line
    assert f"masking {counted.masking} steps" in line
    assert occupancy_command([str(tmp_path / "nothing")]) == 2
    assert "no record" in capsys.readouterr().err
    assert occupancy_command([]) == 2


# Availability and benchmarks


def test_backends_are_listed_with_their_availability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompileBackend, "unavailable", staticmethod(lambda: "no compiler; install one"))
    assert "compile: not available: no compiler; install one" in backend_lines()
    assert "  eager: available" in listing("backends")
    assert "  eager" in listing(None)


def test_other_listings_import_no_torch() -> None:
    probe = "import sys\nfrom bench.listing import listing\nlisting(None)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True, cwd=ROOT)


def test_a_test_run_collects_no_benchmarks() -> None:
    files = [path.name for path in (ROOT / "tests/benchmarks").glob("*.py")]
    assert any(fnmatch.fnmatch(name, "bench_*.py") for name in files)
    assert not any(fnmatch.fnmatch(name, pattern) for name in files for pattern in ("test_*.py", "*_test.py"))
