"""Lazy look-up of components in the mapping tables ("module:attribute")."""

import difflib
import importlib
from collections.abc import Iterable, Mapping

from bench.errors import UsageError


def suggestion(name: str, known: Iterable[str], section: str = "") -> str:
    """'; did you mean X?' for the nearest known name, else the list of known names.

    Args:
        section: what stands before the name where it is used ("elpv.").
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {section + close[0]!r}?" if close else f"known: {', '.join(names)}"


def resolve(table: Mapping[str, str], name: str, what: str) -> object:
    """Import the component `name` of a mapping table.

    Raises:
        UsageError: unknown name, with a suggestion.
    """
    check_name(table, name, what)
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_name(table: Iterable[str], name: str, what: str) -> None:
    """Raise UsageError unless `name` is in the table; imports nothing."""
    if name not in table:
        raise UsageError(f"unknown {what} {name!r}; {suggestion(name, table)}")
