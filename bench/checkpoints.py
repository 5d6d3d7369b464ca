"""Weights with their cards: safetensors, or torch files read with weights_only=True; hashes checked."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from bench.config import describe
from bench.errors import UsageError
from bench.kinds import KINDS, ROLES, build_network
from bench.own_models import is_callable_reference, load_callable, load_diffusers
from bench.registry import suggestion
from bench.state_files import Loaded, check_finite, read_blob, read_state
from bench.weights import SHIPPED
from methods.diffusion.published import CheckpointMismatch, load_exactly

__all__ = ["SHIPPED", "Card", "Loaded", "load_kind", "load_network", "read_card", "weights_path"]


class Card(BaseModel):
    """What the loader needs of the JSON file beside the weights; training facts are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    config: dict[str, object]
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
        raise UsageError(
            f"{path} has no card {card.name} beside it; `python -m bench train` writes both, and `python -m bench "
            "import` makes them from a published file"
        ) from error
    except ValidationError as error:
        raise UsageError(f"{card} is not a weights card: {describe(error)}") from error
    except (json.JSONDecodeError, TypeError, OSError) as error:
        raise UsageError(f"{card} is not a weights card: {str(error).splitlines()[0]}") from error


def load_network(reference: str, role: str) -> Loaded:
    """A network from shipped or given weights.

    Args:
        reference: a shipped name; a file with a card beside it; "package.module:callable" or
            "package.module:callable@FILE" (roles "regressor" and "oracle"); or the folder of a diffusers
            UNet2DModel (role "ddpm"). See bench.own_models for the last two.
        role: key of bench.kinds.ROLES.

    Raises:
        UsageError: missing, truncated, altered, of another architecture, or with non-finite values.
    """
    option, path = f"weights.{role}", weights_path(reference)
    if not path.exists() and is_callable_reference(reference):
        return load_callable(reference, role, option)
    if path.is_dir():
        return load_diffusers(path, role, option)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        shipped = (each.stem for each in SHIPPED.glob("*.safetensors"))
        raise UsageError(
            f"{option}: {reference!r} is neither a file nor a shipped network; {suggestion(reference, shipped)}"
        )
    return _load(path, ROLES[role], option)


def load_kind(path: Path, kind: str, option: str) -> Loaded:
    """A network of one kind from a file with a card beside it.

    Args:
        kind: key of bench.kinds.KINDS.
        option: what gave the file ("--from"), for errors.

    Raises:
        UsageError: as `load_network`.
    """
    return _load(path, (kind,), option)


def _load(path: Path, kinds: Collection[str], option: str) -> Loaded:
    blob = read_blob(path, option)
    card = read_card(path)
    if card.kind not in KINDS:
        raise UsageError(
            f"{path.with_suffix('.json')}: unknown kind of network {card.kind!r}; known: {', '.join(KINDS)}"
        )
    if card.kind not in kinds:
        needed = " or ".join(map(repr, kinds))
        raise UsageError(f"{option}: {path} is a network of kind {card.kind!r}; {needed} is needed")
    state = read_state(path, blob, option)
    sha256 = hashlib.sha256(blob).hexdigest()
    if sha256 != card.sha256:
        raise UsageError(
            f"{option}: {path} is not the file its card describes (sha256 differs); fetch or train it again"
        )
    check_finite(state, path, option)
    return Loaded(_build(card, state, path, option), path, sha256)


def _build(card: Card, state: Mapping[str, Tensor], path: Path, option: str) -> nn.Module:
    """The card's network with these weights, frozen."""
    try:
        return load_exactly(build_network(card.kind, card.config), state, f"{option}: {path}")
    except CheckpointMismatch as error:
        raise UsageError(str(error)) from error
    except ValidationError as error:
        raise UsageError(f"{path.with_suffix('.json')}: {describe(error, 'config')}") from error
    except ValueError as error:
        raise UsageError(f"{path.with_suffix('.json')}: {error}") from error
