"""The gate for continuous integration: is NEW as correct, as good and as fast as BASE?"""

from bench.gate.decide import FACTOR, gate, gate_alone
from bench.gate.model import CellGate, Check, GateReport, Quality, RepeatMetric, Speed, Verification
from bench.gate.repeats import recorded_margins

__all__ = [
    "FACTOR",
    "CellGate",
    "Check",
    "GateReport",
    "Quality",
    "RepeatMetric",
    "Speed",
    "Verification",
    "gate",
    "gate_alone",
    "recorded_margins",
]
