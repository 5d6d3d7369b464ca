"""Which steps of a diffusion process the gradient goes through: all of them, the last few, or a single one."""

import re

PATTERN = r"^(all|last-[1-9]\d*|one-\d+)$"
"""Of the option `gradient`: "all", "last-K" (the K least noisy steps) or "one-J" (the step with J less noisy ones)."""


def differentiated_steps(gradient: str, count: int) -> frozenset[int]:
    """The respaced steps whose Jacobian is computed; step 0 is the least noisy one.

    Truncation after DRaFT-K (Clark et al. 2024), the single step after SDO ("You only look one step", 2025).
    One fixed step and no random one: drawn for each sample, a batch would differentiate all of them.

    Args:
        gradient: matches `PATTERN`.
        count: steps of the process.

    Raises:
        ValueError: the process has fewer steps.
    """
    if gradient == "all":
        return frozenset(range(count))
    kind, number = re.fullmatch(r"(last|one)-(\d+)", gradient).groups()  # type: ignore[union-attr]
    steps = frozenset(range(int(number))) if kind == "last" else frozenset([int(number)])
    if not max(steps) < count:
        raise ValueError(f"gradient {gradient!r} needs more than the {count} steps there are")
    return steps
