"""`bench ls`: the components, from their mapping tables; imports none of them but for `ls backends`."""

from importlib.util import find_spec

from backends import BACKENDS
from bench.config import COMPONENTS, PRESETS
from bench.datasets import DATASETS, PACKAGES, SOURCES
from bench.errors import UsageError
from bench.kinds import KINDS
from bench.registry import resolve, suggestion
from metrics import SAMPLE_METRICS

RECIPES = (
    "square/ddpm",
    "square/diffae",
    "square/regressor",
    "square/oracle",
    "square/regressor-correlated",
    "elpv/ddpm",
    "elpv/diffae",
    "elpv/regressor",
    "elpv/oracle",
    "elpv/type",
    "celebahq/regressor",
    "celebahq/oracle",
)


SUITE_METRICS = ("fid", "sfid", "cd", "oracle_feature_distance", "target_class_distance")
"""Metrics of a whole cell, which have no value an image."""


def backend_lines() -> list[str]:
    """Every backend, and whether it can run here or what is missing; imports them all."""
    lines = []
    for name in BACKENDS:
        reason = resolve(BACKENDS, name, "backend").unavailable()
        lines.append(f"{name}: {f'not available: {reason}' if reason else 'available'}")
    return lines


def dataset_lines() -> list[str]:
    """Every dataset, whence its images come and under which licence, and whether a package they need is installed."""
    lines = []
    for name in DATASETS:
        line = f"{name}: {SOURCES[name]}"
        if name in PACKAGES:
            found = find_spec(PACKAGES[name]) is not None
            line += "; installed" if found else f"; not installed (pip install '.[{name}]')"
        lines.append(line)
    return lines


def listing(what: str | None) -> list[str]:
    """Lines to print. Where only they are asked for, backends come with their availability, datasets with sources.

    Raises:
        UsageError: unknown kind.
    """
    kinds: dict[str, list[str]] = {f"{kind}s": list(table) for kind, table in COMPONENTS.items()}
    kinds |= {
        "metrics": [*SAMPLE_METRICS, *SUITE_METRICS],
        "presets": sorted(path.stem for path in PRESETS.glob("*.toml")),
        "recipes": list(RECIPES),
        "kinds": list(KINDS),
    }
    if what is not None and what not in kinds:
        raise UsageError(f"cannot list {what!r}; {suggestion(what, kinds)}")
    if what == "backends":
        return ["backends:", *(f"  {line}" for line in backend_lines())]
    if what == "datasets":
        return ["datasets:", *(f"  {line}" for line in dataset_lines())]
    lines = []
    for kind, names in kinds.items():
        if what in (None, kind):
            lines += [f"{kind}:", *(f"  {name}" for name in names)]
    return lines
