"""Weights with their cards: safetensors, or torch files read with weights_only=True; hashes checked."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from bench.config import describe
from bench.errors import UsageError
from bench.kinds import KINDS, ROLES, build_network
from bench.weights import SHIPPED
from methods.diffusion.published import CheckpointMismatch, load_exactly


class Card(BaseModel):
    """What the loader needs of the JSON file beside the weights; training facts are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    config: dict[str, object]
    sha256: str


@dataclass(frozen=True)
class Loaded:
    """A frozen network in evaluation mode with where it came from."""

    network: nn.Module
    path: Path
    sha256: str


def weights_path(name_or_path: str) -> Path:
    """A shipped name ("square-ddpm") or the user's file."""
    shipped = SHIPPED / f"{name_or_path}.safetensors"
    return shipped if shipped.is_file() else Path(name_or_path)


def read_card(path: Path) -> Card:
    """The card beside a weights file (same name, .json).

    Raises:
        UsageError: no card, or one that does not name kind, config and sha256.
    """
    card = path.with_suffix(".json")
    try:
        return Card(**json.loads(card.read_text()))
    except FileNotFoundError as error:
        raise UsageError(f"{path} has no card {card.name} beside it; `python -m bench train` writes both") from error
    except ValidationError as error:
        raise UsageError(f"{card} is not a weights card: {describe(error)}") from error
    except (json.JSONDecodeError, TypeError, OSError) as error:
        raise UsageError(f"{card} is not a weights card: {str(error).splitlines()[0]}") from error


def _parse(path: Path, blob: bytes) -> Mapping[str, Tensor]:
    """Tensors of a .safetensors or a torch file; nothing in it is executed."""
    if path.suffix == ".safetensors":
        try:
            return parse_safetensors(blob)
        except SafetensorError as error:
            raise UsageError(f"{path} is damaged or not safetensors ({error}); fetch it again") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is damaged or not a torch file of plain tensors") from error
    except pickle.UnpicklingError as error:
        raise UsageError(f"{path} holds more than tensors and is refused; export it as safetensors") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{path} is not a state dict of tensors")
    return state


def load_network(name_or_path: str, role: str) -> Loaded:
    """A network from shipped or given weights.

    Args:
        name_or_path: shipped name, or a file with a card beside it.
        role: key of bench.kinds.ROLES.

    Raises:
        UsageError: missing, truncated, altered, of another architecture, or with non-finite values.
    """
    path = weights_path(name_or_path)
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UsageError(f"weights.{role}: cannot read {path}: {error.strerror}") from error
    card = read_card(path)
    if card.kind not in KINDS:
        raise UsageError(
            f"{path.with_suffix('.json')}: unknown kind of network {card.kind!r}; known: {', '.join(KINDS)}"
        )
    sha256 = hashlib.sha256(blob).hexdigest()
    state = {
        key: value.to(torch.float32) if value.is_floating_point() else value
        for key, value in _parse(path, blob).items()
    }
    if sha256 != card.sha256:
        raise UsageError(
            f"weights.{role}: {path} is not the file its card describes (sha256 differs); fetch or train it again"
        )
    bad = [key for key, value in state.items() if value.layout != torch.strided or not torch.isfinite(value).all()]
    if bad:
        raise UsageError(f"weights.{role}: {path}: {bad[0]} holds NaN or infinite values")
    try:
        network = load_exactly(build_network(card.kind, card.config), state, f"weights.{role}: {path}")
    except CheckpointMismatch as error:
        raise UsageError(str(error)) from error
    except ValidationError as error:
        raise UsageError(f"{path.with_suffix('.json')}: {describe(error, 'config')}") from error
    except ValueError as error:
        raise UsageError(f"{path.with_suffix('.json')}: {error}") from error
    if card.kind not in ROLES[role]:
        needed = " or ".join(map(repr, ROLES[role]))
        raise UsageError(f"weights.{role}: {path} is a network of kind {card.kind!r}; {needed} is needed")
    return Loaded(network, path, sha256)
