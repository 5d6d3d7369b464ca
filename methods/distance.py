"""How far a search has moved from where it started, one number a sample."""

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["none", "l1", "l2"]
"""Of a difference; "none" leaves the distance out of the loss."""


def distance(norm: Norm, difference: Tensor) -> Tensor:
    """The norm of every sample's difference: (B,), differentiable.

    As in ACE's code it is the norm of the whole image, not the mean over pixels, and the l2 norm is not squared.
    Its gradient where nothing has changed yet is zero for both norms.

    Args:
        norm: "l1" or "l2".
        difference: (B, ...).

    Raises:
        ValueError: any other norm.
    """
    if norm == "l1":
        return difference.abs().flatten(1).sum(dim=1)
    if norm == "l2":
        return torch.linalg.vector_norm(difference.flatten(1), dim=1)
    raise ValueError(f"distance {norm!r} has no value; use 'l1' or 'l2'")
