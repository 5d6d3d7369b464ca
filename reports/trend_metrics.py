"""What a chart over nights says of a metric: name, unit, the good direction, and which ones stand first."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from bench.errors import UsageError
from bench.registry import suggestion
from reports.pages.sections.pareto import QUALITIES, SPEEDS
from reports.pages.sections.pareto import TIMINGS as TIMING_AXES
from reports.tables import COLUMNS

Better = Literal["low", "high", ""]

HEADLINE = (
    "validity/success_rate",
    "validity/oracle_target_mae",
    "quality/square_mae",
    "quality/background_mae",
    "realism/fid",
    "identity/fva",
    "throughput/seconds_per_image",
    "throughput/valid_per_second",
    "timings/step_median_s",
    "timings/build_s",
    "timings/peak_memory_mib",
    "timings/energy_per_counterfactual_j",
)
"""Metrics that stand first, in this order; the others follow, folded."""
TERMINAL = (
    "validity/success_rate",
    "validity/oracle_target_mae",
    "throughput/seconds_per_image",
    "throughput/valid_per_second",
    "timings/build_s",
    "timings/peak_memory_mib",
)
"""Metrics of the terminal's table."""
TIMINGS = "timings/"
"""Before the name of an entry of a cell's timings, as in the notes of a record."""
_TIMING_TITLES = {
    "step_median_s": "seconds per step, median",
    "step_p95_s": "seconds per step, 95th percentile",
    "first_step_s": "seconds of the first step",
    "build_s": "seconds of the build",
    "metrics_s": "seconds of the metrics",
}
_UNITS = {"_gflop_per_s": "GFLOP/s", "_per_second": "1/s", "_gflop": "GFLOP", "_tflop": "TFLOP", "_mib": "MiB"}
_UNITS |= {"_s": "s", "_j": "J"}
"""By the ending of a timing's name."""
_HIGH_TIMINGS = ("_per_second", "_per_s", "slot_occupancy", "step_fraction_of_peak")
_LOW_TIMINGS = ("_s", "_mib", "_j", "_tflop")


@dataclass(frozen=True)
class Metric:
    """Attributes:
    better: where the good values are; empty where neither end is good.
    decimals: shown after the point; None: four significant digits.
    """

    key: str
    title: str
    unit: str
    better: Better
    decimals: int | None

    @property
    def named(self) -> str:
        """Title with the unit, where the title does not say it."""
        return self.title if self.unit in ("", "s") else f"{self.title}, {self.unit}"

    @property
    def timed(self) -> bool:
        """Depends on the clock, so that flagged timings spoil it."""
        return self.key.startswith(("throughput/", TIMINGS))


@cache
def describe(key: str, unit: str = "") -> Metric:
    """A metric of a record, named as on the page of a suite where that shows it.

    Args:
        key: "group/name" of a summary, or "timings/name".
        unit: as recorded, for a metric that is not known here; "1" or empty for a plain number.
    """
    name = key.partition("/")[2]
    slow = key.startswith("throughput/")  # a fast machine's would be rounded away
    decimals = None if slow else next((column[2] for column in COLUMNS if column[1] == key), None)
    known = (QUALITIES | SPEEDS).get(key) or (TIMING_AXES.get(name) if key.startswith(TIMINGS) else None)
    if known is not None:
        return Metric(key, known.label, known.unit, known.better, decimals)
    if key.startswith(TIMINGS):
        unit = next((text for ending, text in _UNITS.items() if name.endswith(ending)), "")
        return Metric(key, _TIMING_TITLES.get(name, name.replace("_", " ")), unit, _timing_better(name), decimals)
    return Metric(key, name.replace("_", " "), "" if unit in ("1", "fraction") else unit, "", decimals)


def _timing_better(name: str) -> Better:
    """By the ending; what is not known, and what the machine could do at most, is taken for neither."""
    if name.startswith("peak_"):
        return ""
    return "high" if name.endswith(_HIGH_TIMINGS) else "low" if name.endswith(_LOW_TIMINGS) else ""


def ordered(keys: Iterable[str]) -> list[str]:
    """Headline metrics first, then the others by name."""
    found = set(keys)
    first = [key for key in HEADLINE if key in found]
    return first + sorted(found.difference(first))


def check_keys(wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a metric that no record has.

    Raises:
        UsageError: names the nearest one.
    """
    names = list(known)
    for key in wanted:
        if key not in names:
            raise UsageError(f"--metric {key!r}: no record has it; {suggestion(key, names)}")
