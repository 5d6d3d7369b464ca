"""`bench ls`: the components, from their mapping tables; imports none of them."""

from bench.config import COMPONENTS, PRESETS
from bench.errors import UsageError
from bench.registry import suggestion
from metrics import SAMPLE_METRICS

RECIPES = ("square/ddpm", "square/diffae", "square/regressor", "square/oracle")


def listing(what: str | None) -> list[str]:
    """Lines to print.

    Raises:
        UsageError: unknown kind.
    """
    kinds: dict[str, list[str]] = {f"{kind}s": list(table) for kind, table in COMPONENTS.items()}
    kinds |= {
        "metrics": list(SAMPLE_METRICS),
        "presets": sorted(path.stem for path in PRESETS.glob("*.toml")),
        "recipes": list(RECIPES),
    }
    if what is not None and what not in kinds:
        raise UsageError(f"cannot list {what!r}; {suggestion(what, kinds)}")
    lines = []
    for kind, names in kinds.items():
        if what in (None, kind):
            lines += [f"{kind}:", *(f"  {name}" for name in names)]
    return lines
