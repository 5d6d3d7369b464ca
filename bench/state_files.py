"""Tensors in files: safetensors, or torch files read with weights_only=True; nothing in them is executed."""

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from bench.errors import UsageError

TORCH_DAMAGE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(AssertionError, MemoryError, struct.error),
)
"""What torch.load raises for bytes that are no checkpoint, depending on where they lead it; besides these,
pickle.UnpicklingError for what it refuses to make."""


@dataclass(frozen=True)
class Loaded:
    """A frozen network in evaluation mode with where it came from.

    Attributes:
        sha256: of what the weights are; two networks with the same one give the same predictions.
    """

    network: nn.Module
    path: Path
    sha256: str


def read_blob(path: Path, option: str) -> bytes:
    """A file's bytes.

    Args:
        option: what named the file, for errors.

    Raises:
        UsageError: missing or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option}: cannot read {path}: {error.strerror}") from error


def read_state(path: Path, blob: bytes, option: str) -> dict[str, Tensor]:
    """The state dict in a .safetensors or a torch file; floating-point tensors in float32.

    Raises:
        UsageError: damaged, or with more in it than tensors.
    """
    state = _parse(path, blob, option)
    return {key: value.to(torch.float32) if value.is_floating_point() else value for key, value in state.items()}


def _parse(path: Path, blob: bytes, option: str) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return parse_safetensors(blob)
        except SafetensorError as error:
            raise UsageError(f"{option}: {path} is damaged or not safetensors ({error}); fetch it again") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except TORCH_DAMAGE as error:
        raise UsageError(f"{option}: {path} is damaged or not a torch file of plain tensors") from error
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{option}: {path} holds more than tensors and is refused; export it as safetensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{option}: {path} is not a state dict of tensors")
    return state


def check_finite(state: Mapping[str, Tensor], path: Path, option: str) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        UsageError: names the first such tensor.
    """
    bad = [key for key, value in state.items() if value.layout != torch.strided or not torch.isfinite(value).all()]
    if bad:
        raise UsageError(f"{option}: {path}: {bad[0]} holds NaN or infinite values")
