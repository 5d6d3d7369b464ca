"""Renaming of published state-dict keys, shared by the published networks."""

from collections.abc import Mapping

from torch import Tensor


class UnfitKeys(ValueError):
    """Weights that cannot belong to the network for a reason that a list of keys would not tell."""


def renamed(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Replace the first prefix of `prefixes` that fits a key; others are kept, so that loading names them."""
    converted = {}
    for key, tensor in state.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), "")
        converted[prefixes.get(prefix, "") + key.removeprefix(prefix)] = tensor
    return converted
