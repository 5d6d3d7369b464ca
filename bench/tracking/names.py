"""Names and texts as MLflow takes them: metrics `group/name_unit`, flat parameters, nothing that it refuses."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.dotted import dotted
from bench.errors import UsageError
from bench.tracking import layout
from metrics.intervals import Estimate

UNITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "1": ("", ("",)),
    "fraction": ("fraction", ("rate", "fraction", "occupancy", "share")),
    "s": ("s", ("seconds", "s")),
    "1/s": ("per_s", ("per_second", "per_s")),
    "steps": ("steps", ("steps",)),
    "network evaluations": ("evaluations", ("evaluations",)),
}
"""Unit of a figure -> what is put behind its name, unless one of these words is in the name and says it already."""
KEY_LIMIT, PARAM_LIMIT, TAG_LIMIT = 250, 6000, 8000
"""Characters that MLflow keeps."""
_TAG = re.compile(r"[a-z][a-z0-9_-]{0,49}")
_KEY = re.compile(r"[^A-Za-z0-9_\-. :/]")


def metric_name(key: str, unit: str) -> str:
    """A figure's name in MLflow: its key in the record, with the unit behind it where the key does not say it.

    >>> metric_name("cost/forward", "network evaluations"), metric_name("validity/success_rate", "fraction")
    ('cost/forward_evaluations', 'validity/success_rate')
    """
    suffix, says = UNITS.get(unit, (re.sub(r"[^A-Za-z0-9]+", "_", unit).strip("_"), ()))
    words = f"_{key.rpartition('/')[2]}_"
    return key if any(f"_{word}_" in words or not word for word in says) else f"{key}_{suffix}"


def safe_key(name: str) -> str:
    """A name in the characters that MLflow takes, which is also a relative path without dots for folders."""
    parts = [part.strip() for part in _KEY.sub("_", name).split("/")]
    kept = "/".join("_" * len(part) if set(part) <= {"."} else part for part in parts if part)
    return kept[:KEY_LIMIT].rstrip("/") or "_"


def text(value: str, limit: int = TAG_LIMIT) -> str:
    """A text that any store keeps: bytes that are no UTF-8 as escapes, and no longer than MLflow's limit."""
    kept = value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def own_tags(assignments: Sequence[str]) -> dict[str, str]:
    """The user's KEY=VALUE as tags of MLflow: {"bench.night": "2026-01-31"}.

    Raises:
        UsageError: not KEY=VALUE, a key of other characters or one that imports use themselves, or one twice.
    """
    found: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        name = f"{layout.OWN_PREFIX}{key}"
        if not equals or _TAG.fullmatch(key) is None:
            raise UsageError(f"--tag {assignment!r}: give KEY=VALUE, the key in lower case letters, digits, _ and -")
        if name in layout.TAKEN or name in found:
            raise UsageError(f"--tag {assignment!r}: {key!r} is {'there twice' if name in found else 'in use'}")
        if not value.strip() or not value.isprintable() or len(value) > 250:
            raise UsageError(f"--tag {key}: give a value of 1 to 250 printable characters")
        found[name] = value
    return found


def flat(tree: Mapping[str, Any]) -> dict[str, str]:
    """Nested options as dotted names and texts that MLflow takes; other values than texts are written as JSON."""
    return {safe_key(key): text(value, PARAM_LIMIT) for key, value in dotted(tree).items()}


def summary_metrics(summary: Mapping[str, Estimate]) -> dict[str, float]:
    """A summary's figures by their names in MLflow; interval ends are name_low and name_high."""
    values = {}
    for key, estimate in summary.items():
        name = metric_name(key, estimate.unit)
        parts = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        values |= {safe_key(part): float(value) for part, value in parts.items() if value is not None}
    return values


def timing_metrics(timings: Mapping[str, Any]) -> dict[str, float]:
    """The plain numbers among a cell's timings, as `timing/name`; their names have their units."""
    return {
        safe_key(f"timing/{key}"): float(value)
        for key, value in timings.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def finite(values: Mapping[str, float]) -> tuple[dict[str, float], int]:
    """The finite ones, and how many others there were: MLflow keeps infinity as 1.797e308."""
    kept = {key: value for key, value in values.items() if math.isfinite(value)}
    return kept, len(values) - len(kept)
